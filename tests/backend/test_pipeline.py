"""The pipeline on a tiny model with random weights: what every model can be held to."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import keras
import numpy as np
import pytest
from eager import eagerly
from keras import ops

from keras_sd import random
from keras_sd.config import (
    AutoencoderConfig,
    Defaults,
    ModelConfig,
    NoiseConfig,
    TextEncoderConfig,
    UNetConfig,
    check_size,
)
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.networks.layers import Attention
from keras_sd.noise import Level
from keras_sd.pipeline import StableDiffusion
from keras_sd.registry import SamplerNotFoundError
from keras_sd.tokenizer import PromptTooLongError, Tokenizer
from keras_sd.training.bpe import learn_merges

MERGES = learn_merges(["a cat on a blue background", "a rocket"], 12)
VOCABULARY = 512 + len(MERGES) + 2

TINY = ModelConfig(
    name="tiny",
    text_encoder=TextEncoderConfig(
        vocab_size=VOCABULARY, max_length=12, width=16, depth=1, heads=2, mlp_width=32
    ),
    unet=UNetConfig(
        widths=(8, 16), heads=(2, 2), depths=(0, 0), blocks=1, context_width=16, groups=4
    ),
    autoencoder=AutoencoderConfig(widths=(8, 8, 8), blocks=1, groups=4, scale=0.5),
    noise=NoiseConfig(prediction="v"),
    defaults=Defaults(height=32, width=24, schedule="trailing", num_steps=3),
)


def make(config=TINY, **kwargs):
    keras.utils.set_random_seed(0)
    unet = UNet(config.unet)
    rng = np.random.default_rng(0)
    for variable in unet.conv_out.variables:  # zeros at first, which would hide everything
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return StableDiffusion(
        config,
        TextEncoder(config.text_encoder),
        unet,
        Autoencoder(config.autoencoder),
        Tokenizer(MERGES, max_length=config.text_encoder.max_length, vocab_size=VOCABULARY),
        words=["a", "cat", "on", "blue", "background", "rocket"],
        **kwargs,
    )


@pytest.fixture(scope="module")
def pipeline():
    return make()


def differ(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max()


def test_images_are_uint8_of_the_asked_size(pipeline):
    images = pipeline.text_to_image("a cat", batch_size=2, seed=0)
    assert images.shape == (2, 32, 24, 3)
    assert images.dtype == np.uint8
    assert differ(images[0], images[1]) > 10


def test_the_same_seed_gives_the_same_image_and_another_seed_another(pipeline):
    first = pipeline.text_to_image("a cat", seed=7)
    np.testing.assert_array_equal(first, pipeline.text_to_image("a cat", seed=7))
    assert differ(first, pipeline.text_to_image("a cat", seed=8)) > 10
    assert differ(pipeline.text_to_image("a cat"), pipeline.text_to_image("a cat")) > 10


def test_the_prompt_and_the_negative_prompt_count(pipeline):
    cat = pipeline.text_to_image("a cat", seed=1)
    assert differ(cat, pipeline.text_to_image("a rocket", seed=1)) > 2
    assert differ(cat, pipeline.text_to_image("a cat", "a rocket", seed=1)) > 2


def test_image_i_of_a_batch_equals_the_same_image_alone(pipeline):
    batch = pipeline.text_to_image("a cat", batch_size=3, seed=5, sampler="ddim")
    alone = pipeline.text_to_image("a cat", seed=5, first_image=2)
    assert differ(batch[2:], alone) <= 1  # convolutions of other batches round otherwise


def test_a_list_of_prompts_makes_one_image_each(pipeline):
    both = pipeline.text_to_image(["a cat", "a rocket"], seed=5)
    assert differ(both[:1], pipeline.text_to_image("a cat", seed=5)) <= 1
    assert differ(both[1:], pipeline.text_to_image("a rocket", seed=5, first_image=1)) <= 1
    assert pipeline.text_to_image(["a cat", "a rocket"], batch_size=2, seed=5).shape[0] == 4


def test_given_noise_is_the_noise_of_the_seed(pipeline):
    shape = (8, 6, 4)
    noise = random.normal(9, 0, 0, shape)
    seeded = pipeline.text_to_image("a cat", seed=9)
    np.testing.assert_array_equal(seeded, pipeline.text_to_image("a cat", diffusion_noise=noise))
    wide = noise[None].astype("float64")
    np.testing.assert_array_equal(seeded, pipeline.text_to_image("a cat", diffusion_noise=wide))


def test_a_stochastic_sampler_repeats_with_its_seed(pipeline):
    from keras_sd import get_sampler

    sampler = get_sampler("ddim", eta=1.0)
    first = pipeline.text_to_image("a cat", seed=3, sampler=sampler)
    np.testing.assert_array_equal(first, pipeline.text_to_image("a cat", seed=3, sampler=sampler))
    assert differ(first, pipeline.text_to_image("a cat", seed=3)) > 2


def test_stream_yields_every_step_with_previews(pipeline):
    steps = list(pipeline.stream("a cat", num_steps=4, seed=2))
    assert [step.index for step in steps] == [1, 2, 3, 4]
    assert {step.total for step in steps} == {4}
    preview = steps[1].preview()
    assert preview.shape == (1, 32, 24, 3)
    assert preview.dtype == np.uint8
    last = pipeline.decode(steps[-1].latent)
    np.testing.assert_array_equal(last, pipeline.text_to_image("a cat", num_steps=4, seed=2))


def test_a_callback_sees_the_steps_and_can_stop_the_run(pipeline):
    seen = []
    pipeline.text_to_image("a cat", seed=2, callback=seen.append)
    assert [step.index for step in seen] == [1, 2, 3]

    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.text_to_image("a cat", seed=2, callback=stop)


def test_guidance_one_is_the_conditional_prediction_alone(pipeline):
    plain = pipeline.text_to_image("a cat", seed=2, unconditional_guidance_scale=1)
    nearly = pipeline.text_to_image("a cat", seed=2, unconditional_guidance_scale=1 + 1e-6)
    assert differ(plain, nearly) <= 1


def test_guidance_outside_of_its_interval_costs_nothing(pipeline):
    run = {"num_steps": 4, "seed": 2, "schedule": "karras"}
    ratios = [level.ratio for level in pipeline.levels(4, "karras")]
    everywhere = (0.0, 1000.0)
    all_of_it = pipeline.text_to_image("a cat", **run)
    same = pipeline.text_to_image("a cat", **run, guidance_interval=everywhere)
    np.testing.assert_array_equal(all_of_it, same)
    nowhere = pipeline.text_to_image("a cat", **run, guidance_interval=(2000.0, 3000.0))
    plain = pipeline.text_to_image("a cat", **run, unconditional_guidance_scale=1)
    np.testing.assert_array_equal(nowhere, plain)
    middle = (ratios[2], ratios[1])  # both ends count
    some = list(pipeline.stream("a cat", **run, guidance_interval=middle))
    guided = list(pipeline.stream("a cat", **run))
    alone = list(pipeline.stream("a cat", **run, unconditional_guidance_scale=1))
    first, second = (np.asarray(ops.convert_to_numpy(s.latent)) for s in some[:2])
    np.testing.assert_array_equal(first, ops.convert_to_numpy(alone[0].latent))
    assert abs(second - ops.convert_to_numpy(alone[1].latent)).max() > 1e-3
    assert abs(second - ops.convert_to_numpy(guided[1].latent)).max() > 1e-4


def test_guidance_runs_both_halves_as_one_batch(pipeline, monkeypatch):
    batches = []
    original = UNet.call

    def spy(self, latent, timesteps, context, **told):
        batches.append(int(latent.shape[0]))
        return original(self, latent, timesteps, context, **told)

    monkeypatch.setattr(UNet, "call", spy)
    make(jit_compile=False).text_to_image("a cat", batch_size=3, num_steps=2, seed=0)
    assert set(batches) == {6}


def test_what_the_unet_makes_of_texts_is_computed_once_a_run(monkeypatch):
    texts, steps = [], []
    original = Attention.pair

    def spy(self, context):
        (texts if self.name == "cross_attention" else steps).append(context)
        return original(self, context)

    monkeypatch.setattr(Attention, "pair", spy)
    with eagerly():
        made = make(jit_compile=False)
        made.text_to_image("a cat", negative_prompt="a dog", num_steps=3, seed=0)
    attentions = len(made.model.config.unet.cross_attentions)
    assert len(texts) == 2 * attentions  # of the prompt and of the negative prompt
    assert len(steps) >= 3 * attentions


def test_new_weights_are_seen_by_the_next_image():
    pipeline = make()
    before = pipeline.text_to_image("a cat", seed=0)
    kernel = pipeline.unet.conv_out.kernel
    old = ops.convert_to_numpy(kernel.value)
    kernel.assign(old * -2)
    assert differ(before, pipeline.text_to_image("a cat", seed=0)) > 2
    kernel.assign(old)
    np.testing.assert_array_equal(before, pipeline.text_to_image("a cat", seed=0))


def test_jit_compile_does_not_change_the_images(caplog):
    with caplog.at_level(logging.WARNING, logger="keras_sd"):
        compiled = make(jit_compile=True)
    images = compiled.text_to_image("a cat", seed=0)
    assert differ(images, make(jit_compile=False).text_to_image("a cat", seed=0)) <= 1
    told = [r for r in caplog.records if "jit_compile=True is switched off" in r.getMessage()]
    assert len(told) == (1 if keras.backend.backend() == "torch" else 0)


def test_one_compiled_step_serves_every_level(pipeline, monkeypatch):
    if keras.backend.backend() == "torch":
        pytest.skip("torch runs eagerly")
    calls = []
    original = UNet.call

    def spy(self, *args, **told):
        calls.append(1)
        return original(self, *args, **told)

    monkeypatch.setattr(UNet, "call", spy)
    fresh = make(jit_compile=True)
    fresh.text_to_image("a cat", num_steps=5, seed=0)
    fresh.text_to_image("a rocket", num_steps=7, seed=1, unconditional_guidance_scale=3)
    assert sum(calls) <= 2  # traced, not run; TensorFlow may trace a second time


def test_the_names_of_web_uis(pipeline):
    run = {"num_steps": 4, "seed": 2}
    named = pipeline.text_to_image("a cat", sampler="DPM++ 2M Karras", **run)
    ours = pipeline.text_to_image("a cat", sampler="dpmpp_2m", schedule="karras", **run)
    np.testing.assert_array_equal(named, ours)
    # A schedule that is given goes before the one in the name.
    given = pipeline.text_to_image("a cat", sampler="DPM++ 2M Karras", schedule="leading", **run)
    leading = pipeline.text_to_image("a cat", sampler="dpmpp_2m", schedule="leading", **run)
    np.testing.assert_array_equal(given, leading)


def test_where_a_run_ends(pipeline):
    first = pipeline.table.level(0)
    assert pipeline.config.noise.final_sigma == "first"
    # The model's own schedule, and timesteps, end where the model's own runs do.
    own = pipeline.config.defaults.schedule
    for schedule in (None, own, own.upper(), [900, 500, 20]):
        assert pipeline.levels(None if isinstance(schedule, list) else 3, schedule)[-1] == first
    # Another ends clean, as in the programs it comes from: k-diffusion's sigmas, with their 0.
    n, (low, high) = 20, (pipeline.table.ratios[0], pipeline.table.ratios[-1])
    ramp = np.linspace(0, 1, n)
    sigmas = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    for name in ("karras", "Karras"):
        ratios = [level.ratio for level in pipeline.levels(n, name)]
        np.testing.assert_allclose(ratios, [*sigmas, 0.0], rtol=1e-12)
    for name in ("linspace", "normal", "simple", "sgm_uniform", "beta"):
        assert pipeline.levels(5, name)[-1] == Level(0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [("ddim", "trailing"), ("dpmpp_2m", "linspace"), ("euler_ancestral", "sgm_uniform")],
)
@pytest.mark.thorough
def test_a_model_of_zero_terminal_snr_begins_in_pure_noise(sampler, schedule):
    pipeline = make(replace(TINY, noise=replace(TINY.noise, zero_terminal_snr=True)))
    assert pipeline.levels(4, schedule)[0].alpha == 0
    run = {"num_steps": 4, "seed": 3, "sampler": sampler, "schedule": schedule}
    steps = list(pipeline.stream("a cat", guidance_interval=(0.1, 1e6), **run))
    for step in steps:
        assert np.isfinite(ops.convert_to_numpy(step.latent)).all()
    images = pipeline.text_to_image("a cat", **run)
    assert images.shape == (1, 32, 24, 3)
    with pytest.raises(ValueError, match="alpha 0"):
        pipeline.text_to_image("a cat", **{**run, "schedule": "karras"})


def test_a_sampler_of_a_brownian_path_gets_one(pipeline):
    @dataclass(frozen=True)
    class Asks:
        brownian: bool
        stochastic = True

        def __call__(self, denoise, x, levels, noise):
            for now, nxt in pairwise(levels):
                denoise(x, now)
                yield noise(now, nxt)

    def drawn(brownian, num_steps, **run):
        steps = pipeline.stream(
            "a cat", sampler=Asks(brownian), schedule="trailing", num_steps=num_steps, **run
        )
        latents = [ops.convert_to_numpy(step.latent) for step in steps]
        levels = pipeline.levels(num_steps, "trailing")
        clock = [math.atan2(level.sigma, level.alpha) for level in levels]
        widths = [math.sqrt(a - b) for a, b in pairwise(clock)]
        return sum(w * n for w, n in zip(widths, latents, strict=True)), clock[0] - clock[-1]

    few, width = drawn(True, 2, seed=5, batch_size=2)
    many, other_width = drawn(True, 8, seed=5, batch_size=2)
    assert width == pytest.approx(other_width)
    np.testing.assert_allclose(few, many, atol=1e-2)
    alone, _ = drawn(True, 2, seed=5, first_image=1)
    np.testing.assert_array_equal(alone, few[1:])
    independent = [drawn(False, n, seed=5)[0] for n in (2, 8)]
    assert abs(independent[0] - independent[1]).max() > 0.5


@pytest.mark.thorough
def test_other_sizes_without_other_weights(pipeline):
    for height, width in ((8, 8), (40, 56), (24, 72)):
        pipeline.height, pipeline.width = height, width
        assert pipeline.text_to_image("a cat", seed=0).shape == (1, height, width, 3)
    pipeline.height, pipeline.width = 32, 24


def test_encode_text(pipeline):
    encoded = pipeline.encode_text(["a cat", ""])
    assert tuple(encoded.shape) == (2, 12, 16)
    one = ops.convert_to_numpy(pipeline.encode_text("a cat"))
    np.testing.assert_allclose(one, ops.convert_to_numpy(encoded)[:1], atol=1e-5)


def test_unknown_words_are_named_and_drawn_all_the_same(pipeline, caplog):
    assert pipeline.unknown_words("a zebra on a blue sofa") == ["zebra", "sofa"]
    with caplog.at_level(logging.WARNING, logger="keras_sd"):
        images = pipeline.text_to_image("a zebra", seed=0)
    assert images.shape == (1, 32, 24, 3)
    assert "does not know: zebra" in caplog.text


def test_the_empty_prompt_is_a_good_one(pipeline):
    assert pipeline.text_to_image("", seed=0).shape == (1, 32, 24, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"prompt": "cat " * 40}, PromptTooLongError, "cat"),
        ({"prompt": []}, ValueError, "empty list"),
        ({"prompt": 3}, TypeError, "prompt"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"num_steps": -3}, ValueError, "num_steps"),
        ({"num_steps": 2000}, ValueError, "1000"),
        ({"unconditional_guidance_scale": float("nan")}, ValueError, "finite"),
        ({"guidance_rescale": 1.5}, ValueError, "guidance_rescale is from 0 to 1, not 1.5"),
        ({"guidance_interval": (5.0, 0.2)}, ValueError, "lowest and the highest sigma / alpha"),
        ({"sampler": "DPM++ 9Z Karras"}, SamplerNotFoundError, "DPM"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"sampler": "dimm"}, SamplerNotFoundError, "Did you mean 'ddim'"),
        ({"schedule": "trailling"}, ValueError, "Did you mean 'trailing'"),
        ({"negative_prompt": ["a", "b"]}, ValueError, "2 negative prompts for 1"),
        ({"seed": 1, "diffusion_noise": np.zeros((8, 6, 4))}, ValueError, "not both"),
        ({"diffusion_noise": np.zeros((6, 8, 4))}, ValueError, r"\(8, 6, 4\)"),
        ({"diffusion_noise": np.full((8, 6, 4), np.nan)}, ValueError, "finite"),
        ({"first_image": -1}, ValueError, "image"),
    ],
)
def test_bad_input_is_an_error_before_any_step(pipeline, arguments, error, words):
    with pytest.raises(error, match=words):
        pipeline.stream(**{"prompt": "a cat", **arguments})  # not even iterated


@pytest.mark.parametrize(("size", "nearest"), [(513, "512 and 520"), (3, "8 and 16")])
def test_a_size_that_does_not_work_names_the_two_that_do(size, nearest):
    with pytest.raises(ValueError, match=nearest):
        check_size("height", size)
    with pytest.raises(ValueError, match=nearest):
        make(width=size)


def test_damaged_weights_are_an_error_not_a_black_picture():
    pipeline = make()
    kernel = pipeline.unet.conv_out.kernel
    kernel.assign(ops.full(kernel.shape, float("nan")))
    with pytest.raises(FloatingPointError, match="not finite"):
        pipeline.text_to_image("a cat", seed=0)


def test_decode_refuses_another_shape(pipeline):
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 3\)"):
        pipeline.decode(np.zeros((1, 4, 4, 3), "float32"))
