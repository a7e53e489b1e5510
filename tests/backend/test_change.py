"""A model that is changed: the next picture is of the new state, whatever changed it; and a model
that threads share.
"""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import keras
import numpy as np
import pytest
from eager import eagerly
from keras import ops
from test_pipeline import TINY, differ, make

from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.noise import transfer
from keras_sd.request import Request
from keras_sd.rules import Rules

RNG = np.random.default_rng(5)
REQUEST = Request(("a cat",), images=((3, 0),), num_steps=2, sampler="ddim")


def attention_layers(pipeline):
    return [
        layer
        for layer in pipeline.unet._flatten_layers()
        if layer.name in ("query", "value") and hasattr(layer, "enable_lora")
    ]


def assign(pipeline):
    kernel = pipeline.unet.conv_out.kernel
    kernel.assign(-2 * ops.convert_to_numpy(kernel.value))


def enable_lora(pipeline):
    layers = attention_layers(pipeline)
    assert layers
    for layer in layers:
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(RNG.normal(0, 3, layer.lora_kernel_b.shape))


def quantize(pipeline):
    # Four values a weight: a picture that a few of them change by much.
    for layer in attention_layers(pipeline):
        layer.kernel.assign(ops.convert_to_numpy(layer.kernel.value) * 20)
    pipeline.draw(REQUEST)  # compiled before, and so of the state before
    for layer in attention_layers(pipeline):
        layer.quantize("int4")


def load_weights(pipeline, tmp_path):
    other = make(jit_compile=False)
    assign(other)
    other.unet.save_weights(tmp_path / "unet.weights.h5")
    pipeline.unet.load_weights(tmp_path / "unet.weights.h5")


def another_unet(pipeline):
    keras.utils.set_random_seed(9)
    unet = UNet(TINY.unet)
    for variable in unet.conv_out.variables:
        variable.assign(RNG.normal(0, 0.3, variable.shape))
    pipeline.unet = unet


def another_text_encoder(pipeline):
    keras.utils.set_random_seed(9)
    pipeline.text_encoder = TextEncoder(TINY.text_encoder)


def another_autoencoder(pipeline):
    keras.utils.set_random_seed(9)
    pipeline.autoencoder = Autoencoder(TINY.autoencoder)


def another_layer(pipeline):
    old = pipeline.unet.conv_out
    new = type(old)(old.filters, old.kernel_size, name="conv_out")
    new.build((None, None, None, TINY.unet.widths[0]))
    for variable in new.variables:
        variable.assign(RNG.normal(0, 0.3, variable.shape))
    pipeline.unet.conv_out = new


def another_tokenizer(pipeline):
    pipeline.tokenizer = copy.copy(pipeline.tokenizer)
    original = type(pipeline.tokenizer).__call__
    shifted = type(
        "Shifted",
        (type(pipeline.tokenizer),),
        {
            "__call__": lambda self, texts: (
                (original(self, texts) + 7) % TINY.text_encoder.vocab_size
            )
        },
    )
    pipeline.tokenizer.__class__ = shifted


def other_rules(pipeline):
    class Darker(Rules):
        def to_uint8(self, images):
            return super().to_uint8(images) // 2

    pipeline.model.rules = Darker()


CHANGES: dict[str, Callable] = {
    change.__name__: change
    for change in (
        assign,
        enable_lora,
        another_unet,
        another_text_encoder,
        another_autoencoder,
        another_tokenizer,
        other_rules,
    )
}


def anew(pipeline):
    """What a pipeline that never was another draws with the parts of this one."""
    parts = (pipeline.text_encoder, pipeline.unet, pipeline.autoencoder, pipeline.tokenizer)
    fresh = type(pipeline)(TINY, *parts, compat=pipeline.compat, jit_compile=False)
    with eagerly():
        return fresh.draw(REQUEST)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.thorough
def test_the_next_picture_is_of_the_new_state(change):
    pipeline = make()
    before = pipeline.draw(REQUEST)
    np.testing.assert_array_equal(before, pipeline.draw(REQUEST))
    CHANGES[change](pipeline)
    after = pipeline.draw(REQUEST)
    assert differ(before, after) > 5
    # And it is what a pipeline that never was another makes.
    assert differ(after, anew(pipeline)) <= 1


def graphs():
    """What TensorFlow has traced and somebody still holds, with the weights that are in it."""
    gc.collect()
    return sum(type(each).__name__ == "FuncGraph" for each in gc.get_objects())


def test_what_was_compiled_goes_with_its_model():
    before = graphs()
    pipeline = make()
    pipeline.draw(REQUEST)
    part = weakref.ref(pipeline.unet)
    del pipeline
    assert graphs() <= before
    assert part() is None


def test_weights_of_a_file_are_seen(tmp_path):
    pipeline = make()
    before = pipeline.draw(REQUEST)
    load_weights(pipeline, tmp_path)
    assert differ(before, pipeline.draw(REQUEST)) > 5


def test_quantized_layers_are_seen():
    pipeline = make()
    quantize(pipeline)
    whole = make(jit_compile=False)
    for layer in attention_layers(whole):
        layer.kernel.assign(ops.convert_to_numpy(layer.kernel.value) * 20)
    after = pipeline.draw(REQUEST)
    rounding, change = differ(after, anew(pipeline)), differ(after, anew(whole))
    assert 4 * rounding < change


def test_an_image_after_a_change_is_encoded_anew():
    pipeline = make()
    picture = RNG.integers(0, 256, (32, 24, 3), np.uint8)
    before = ops.convert_to_numpy(pipeline.encode(picture))
    another_autoencoder(pipeline)
    assert np.abs(before - ops.convert_to_numpy(pipeline.encode(picture))).max() > 0.01


def test_another_size_is_another_picture_and_the_first_is_as_it_was():
    pipeline = make()
    before = pipeline.draw(REQUEST)
    wide = pipeline.draw(replace(REQUEST, height=16, width=48))
    assert wide.shape == (1, 16, 48, 3)
    np.testing.assert_array_equal(before, pipeline.draw(REQUEST))


def test_one_step_is_compiled_for_one_state():
    pipeline = make()
    pipeline.draw(REQUEST)
    steps = pipeline.model.steps()
    assert pipeline.model.steps() is steps
    assign(pipeline)
    assert pipeline.model.steps() is steps  # values are arguments
    enable_lora(pipeline)
    assert pipeline.model.steps() is not steps


@pytest.mark.thorough
def test_threads_share_a_pipeline():
    pipeline = make()
    requests = [
        replace(REQUEST, height=size, width=size, prompts=(text,))
        for size in (16, 32)
        for text in ("a cat", "a rocket")
    ]
    plain = make(jit_compile=False)
    with eagerly():
        expected = [plain.draw(request) for request in requests]
    wrong: list[str] = []
    ready = threading.Barrier(12)

    def draw(number):
        ready.wait()
        try:
            found = pipeline.draw(requests[number % 4])
            if found.shape != expected[number % 4].shape or differ(found, expected[number % 4]) > 1:
                wrong.append(f"{number}: another picture, {found.shape}")
        except Exception as error:
            wrong.append(f"{number}: {error!r}")

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.thorough
def test_a_copy_is_a_pipeline_of_its_own(twin):
    pipeline = make()
    before = pipeline.draw(REQUEST)
    other = twin(pipeline)
    assert differ(before, other.draw(REQUEST)) <= 1
    assign(other)
    assert differ(before, other.draw(REQUEST)) > 5
    np.testing.assert_array_equal(before, pipeline.draw(REQUEST))


def test_two_encoders_are_one_context():
    """Two text encoders side by side, as in later models: the context has the features of both."""
    second = replace(TINY.text_encoder, width=8, mlp_width=16)
    config = replace(
        TINY, text_encoder_2=second, unet=replace(TINY.unet, context_width=16 + second.width)
    )
    pipeline = make(config)
    keras.utils.set_random_seed(2)
    pipeline.model.parts["text_encoder_2"] = TextEncoder(second, name="text_encoder_2")
    pipeline.model.tokenizers["text_encoder_2"] = pipeline.tokenizer
    context = ops.convert_to_numpy(pipeline.encode_text("a cat"))
    assert context.shape == (1, 12, 24)
    tokens = ops.convert_to_tensor(pipeline.tokenizer(["a cat"]))
    for part, columns in (("text_encoder", slice(16)), ("text_encoder_2", slice(16, None))):
        alone = ops.convert_to_numpy(pipeline.model.parts[part](tokens))
        np.testing.assert_allclose(context[..., columns], alone, atol=1e-5)
    images = pipeline.draw(REQUEST)
    pipeline.model.parts["text_encoder_2"] = TextEncoder(second, name="text_encoder_2")
    assert differ(images, pipeline.draw(REQUEST)) > 0
    assert list(config.parts) == ["text_encoder", "text_encoder_2", "unet", "autoencoder"]
    assert type(config).from_dict(config.to_dict()) == config


def test_gradients_on_torch_for_who_asks():
    """A sampler may differentiate through the model: latents that require a gradient get one."""
    if keras.backend.backend() != "torch":
        pytest.skip("of torch")
    import torch

    pipeline = make()
    gradients = []

    def guided(denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            given = x.detach().requires_grad_(True)
            loss = denoise(given, now).square().sum()
            (gradient,) = torch.autograd.grad(loss, given)
            gradients.append(float(gradient.abs().sum()))
            x = transfer(x, denoise(x, now), now, nxt)
            assert not x.requires_grad
            yield x

    with torch.enable_grad():
        pipeline.text_to_image("a cat", sampler=guided, num_steps=2, seed=0)
    assert len(gradients) == 2
    assert min(gradients) > 0
    with torch.no_grad(), pytest.raises(RuntimeError, match="grad"):
        pipeline.text_to_image("a cat", sampler=guided, num_steps=2, seed=0)
