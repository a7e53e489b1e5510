"""Image prompts in runs: what counts when, what is refused before a run, files of IP-Adapters."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import save_file
from test_control_network import drawn
from test_engine import alone, distance
from test_pipeline import TINY, differ, make
from test_turns import MASK, PICTURE

from keras_sd import Control, ControlNet, ImagePrompt, IPAdapter, T2IAdapter
from keras_sd.adapter_configs import FeatureConfig, ImageEncoderConfig, ImagePromptConfig
from keras_sd.backend import NAME, to_numpy
from keras_sd.controlled import Controls
from keras_sd.networks import (
    FeatureNetwork,
    ImageEncoder,
    ImagePromptNetwork,
    UNet,
)
from keras_sd.request import Request
from keras_sd.serve.engine import Engine
from keras_sd.weights.load import arrays_of
from keras_sd.weights.names import steering as names
from keras_sd.weights.readers import WeightsError

once = pytest.mark.once
"""About nothing that a backend changes."""

RUN = {"num_steps": 4, "seed": 3, "sampler": "ddim", "unconditional_guidance_scale": 3.0}
SHOWN = np.random.default_rng(5).integers(0, 256, (40, 30, 3), dtype=np.uint8)
OTHER = np.random.default_rng(6).integers(0, 256, (33, 50, 3), dtype=np.uint8)
ENCODER = ImageEncoderConfig(28, 14, 16, 2, 2, 24, "quick_gelu", 1e-5, 12)


ATTENDING = replace(TINY, unet=replace(TINY.unet, depths=(1, 0)))


@pytest.fixture(scope="module")
def pipeline():
    return make(ATTENDING)


@pytest.fixture(scope="module")
def encoder():
    return drawn(ImageEncoder(ENCODER), size=0.3)


def config(model, kind="base"):
    unet = model.config.unet
    widths = tuple(width for _, width in unet.cross_attentions)
    numbers = {"feature_width": 12}
    if kind == "plus":
        numbers = {"feature_width": 16, "width": 8, "depth": 1, "heads": 1, "mlp_width": 16}
    return ImagePromptConfig(kind, widths, unet.context_width, 3, **numbers)


@pytest.fixture(scope="module")
def adapters(pipeline, encoder):
    return {
        kind: IPAdapter(
            drawn(ImagePromptNetwork(config(pipeline.model, kind)), size=0.5), encoder, kind
        )
        for kind in ("base", "plus")
    }


@pytest.fixture(scope="module")
def base(adapters):
    return adapters["base"]


@pytest.fixture(scope="module")
def t2i(pipeline):
    unet, factor = pipeline.model.config.unet, pipeline.model.config.autoencoder.factor
    numbers = FeatureConfig("full", unet.widths, 3, factor, 1)
    return T2IAdapter(drawn(FeatureNetwork(numbers), size=0.2))


@pytest.fixture(scope="module")
def draw(pipeline):
    def drawing(*prompts, prompt="a cat", **changes):
        return pipeline.text_to_image(prompt, image_prompt=list(prompts), **(RUN | changes))

    return drawing


@pytest.fixture
def latents(pipeline):
    def of(*prompts, prompt="a cat", **changes):
        steps = pipeline.stream(prompt, image_prompt=list(prompts), **(RUN | changes))
        return [to_numpy(step.latent) for step in steps]

    return of


def far(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max()


@once
@pytest.mark.parametrize("kind", ["base", "plus"])
def test_its_picture_and_its_strength_count(draw, adapters, kind):
    adapter = adapters[kind]
    plain, whole = draw(), draw(ImagePrompt(adapter, SHOWN))
    assert differ(plain, whole) > 2
    assert differ(whole, draw(ImagePrompt(adapter, OTHER))) > 0
    assert differ(whole, draw(ImagePrompt(adapter, SHOWN, 0.3))) > 0
    np.testing.assert_array_equal(draw(ImagePrompt(adapter, SHOWN, 0)), plain)


@once
def test_it_counts_at_its_steps_alone(latents, base):
    plain, late = latents(), latents(ImagePrompt(base, SHOWN, start=0.5))
    np.testing.assert_array_equal(plain[:2], late[:2])
    assert far(plain[2], late[2]) > 1e-3
    whole, early = latents(ImagePrompt(base, SHOWN)), latents(ImagePrompt(base, SHOWN, end=0.5))
    np.testing.assert_array_equal(whole[:2], early[:2])
    assert far(whole[2], early[2]) > 1e-3


@once
def test_several_pictures_and_several_adapters_count(draw, adapters):
    base, plus = adapters.values()
    one = ImagePrompt(base, SHOWN)
    both = draw(ImagePrompt(base, [SHOWN, OTHER]))
    assert differ(both, draw(one)) > 0
    assert differ(both, draw(ImagePrompt(base, [OTHER, SHOWN]))) <= 1
    assert differ(draw(ImagePrompt(base, [SHOWN, SHOWN])), draw(one)) <= 1
    halves = draw(ImagePrompt(base, SHOWN, 0.5), ImagePrompt(base, SHOWN, 0.5))
    assert differ(halves, draw(one)) <= 1
    assert differ(draw(one, ImagePrompt(plus, SHOWN)), draw(one)) > 0


def told(pipeline, *prompts):
    """What the UNet is told for the prompt, and for the negative one."""
    request = pipeline.request("a cat", image_prompt=list(prompts))
    controls = Controls(pipeline.model, request.resolved(pipeline.model.defaults), (32, 24), 4)
    return [controls.told((0,), negative=negative) for negative in (False, True)]


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_the_negative_prompt_is_told_of_no_picture(pipeline, adapters, kind):
    adapter = adapters[kind]
    (shown, blank), (_, same) = (
        told(pipeline, ImagePrompt(adapter, [each, each])) for each in (SHOWN, OTHER)
    )
    assert shown.keys() == blank.keys() == {"image tokens 0", "strength 0"}
    assert tuple(blank["image tokens 0"].shape) == (1, 6, 16)
    np.testing.assert_array_equal(
        to_numpy(blank["image tokens 0"]), to_numpy(same["image tokens 0"])
    )
    assert far(to_numpy(shown["image tokens 0"]), to_numpy(blank["image tokens 0"])) > 0.01
    pixels = ops.zeros((1, 28, 28, 3))
    features = adapter.encoder(pixels)[1] if kind == "plus" else ops.zeros((1, 12))
    wanted = to_numpy(adapter.network(features))[0]
    found = to_numpy(blank["image tokens 0"])[0]
    np.testing.assert_allclose(found, np.concatenate([wanted, wanted]), atol=1e-5)


@once
def test_a_picture_of_a_batch_is_that_picture_alone(draw, base):
    prompt = ImagePrompt(base, [SHOWN, OTHER])
    batch = draw(prompt, prompt=["a cat", "a rocket"])
    for i, text in enumerate(["a cat", "a rocket"]):
        assert differ(batch[i : i + 1], draw(prompt, prompt=text, first_image=i)) <= 1
        assert len(batch[i].request.image_prompts[0].image) == 2


@once
def test_it_works_with_a_picture_to_begin_with_and_with_a_mask(pipeline, base):
    for door, given in ((pipeline.image_to_image, ()), (pipeline.inpaint, (MASK,))):
        plain = door("a cat", PICTURE, *given, **RUN)
        seen = door("a cat", PICTURE, *given, image_prompt=ImagePrompt(base, SHOWN), **RUN)
        assert differ(plain, seen) > 0


@once
def test_it_works_with_a_controlnet_which_does_not_see_it(pipeline, base, monkeypatch):
    net = ControlNet.from_unet(pipeline)
    drawn(net.network, size=0.2)
    control, prompt = Control(net, PICTURE), ImagePrompt(base, SHOWN)
    both = pipeline.text_to_image("a cat", control=control, image_prompt=prompt, **RUN)
    for given in ({"control": control}, {"image_prompt": prompt}):
        assert differ(both, pipeline.text_to_image("a cat", **given, **RUN)) > 0
    calls = []
    call = type(net.network).residuals

    def residuals(self, latent, times, context, hint, **told):
        calls.append((tuple(context.shape), set(told)))
        return call(self, latent, times, context, hint, **told)

    monkeypatch.setattr(type(net.network), "residuals", residuals)
    other = ControlNet(net.network, "another")
    again = Control(other, PICTURE), ImagePrompt(base, OTHER)
    pipeline.model._compiled.clear()
    pipeline.text_to_image("a cat", control=again[0], image_prompt=again[1], **RUN)
    text = pipeline.model.config.text_encoder.max_length
    assert {shape[1] for shape, _ in calls} == {text}
    assert not any(names for _, names in calls)


@once
def test_parts_of_a_prompt_and_turns_are_followed(latents, base):
    half = ImagePrompt(base, SHOWN, end=0.5)

    def run(prompt, *prompts):
        return latents(*prompts, prompt=prompt, prompt_style="a1111")

    both = run("[a cat:a rocket:0.5]", half)
    np.testing.assert_array_equal(both[1], run("a cat", half)[1])
    assert far(both[3], run("a cat", half)[3]) > 1e-3
    parts = "a cat AND a rocket :0.5"
    assert far(run(parts, half)[3], run(parts)[3]) > 1e-4


def test_nothing_is_compiled_anew_for_another_picture_or_strength(
    draw, pipeline, base, monkeypatch
):
    draw(ImagePrompt(base, SHOWN))
    steps = pipeline.model.controlled((base.network,))
    calls = []
    for kind in (UNet, ImageEncoder, ImagePromptNetwork):
        call = kind.call
        monkeypatch.setattr(
            kind, "call", lambda *given, call=call, **more: calls.append(1) or call(*given, **more)
        )
    for strength, picture in ((1.0, OTHER), (0.3, SHOWN), (0.7, OTHER)):
        draw(ImagePrompt(base, picture, strength))
    assert pipeline.model.controlled((base.network,)) is steps
    assert not calls or NAME == "torch"


@once
def test_the_next_picture_is_drawn_with_its_weights_as_they_are(draw, pipeline, encoder):
    adapter = IPAdapter(ImagePromptNetwork(config(pipeline.model)), encoder)
    before = draw(ImagePrompt(adapter, SHOWN))
    drawn(adapter.network, size=0.5)
    assert differ(before, draw(ImagePrompt(adapter, SHOWN))) > 0


@once
def test_requests_with_and_without_are_drawn_beside_each_other(pipeline, base, t2i):
    model, controls = pipeline.model, {"control": Control(t2i, PICTURE, 0.5)}
    given = [
        {},
        {"image_prompt": ImagePrompt(base, SHOWN)},
        {"image_prompt": ImagePrompt(base, OTHER, 0.5)},
        {"image_prompt": ImagePrompt(base, [SHOWN, OTHER])},
        controls,
    ]
    requests = [pipeline.request("a cat", **RUN, **each) for each in given]
    with Engine(model) as engine:
        jobs = [engine.submit(request) for request in requests]
        found = [job.result(120) for job in jobs]
    for request, pictures in zip(requests, found, strict=True):
        assert distance(pictures, alone(model, request)) <= 1
    assert distance(found[0], found[1]) > 1


# --- T2I-Adapters ---------------------------------------------------------------------


@once
def test_a_t2i_adapter_is_a_control_as_others_are(pipeline, t2i):
    def run(*controls, **more):
        steps = pipeline.stream("a cat", control=list(controls), **RUN, **more)
        return [to_numpy(step.latent) for step in steps]

    plain, whole = run(), run(Control(t2i, PICTURE))
    assert far(plain[3], whole[3]) > 1e-2
    late = run(Control(t2i, PICTURE, start=0.5))
    np.testing.assert_array_equal(plain[1], late[1])
    assert far(plain[2], late[2]) > 1e-3
    half = Control(t2i, PICTURE, 0.5)
    np.testing.assert_allclose(run(half, half)[3], whole[3], atol=1e-3)
    assert far(run(half)[3], whole[3]) > 1e-3


@once
def test_a_t2i_adapter_works_with_a_controlnet_and_in_a_batch(pipeline, t2i):
    half, net = Control(t2i, PICTURE, 0.5), ControlNet.from_unet(pipeline)
    drawn(net.network, size=0.2)
    one = pipeline.text_to_image("a cat", control=half, **RUN)
    both = pipeline.text_to_image("a cat", control=[half, Control(net, PICTURE)], **RUN)
    assert differ(both, one) > 0
    batch = pipeline.text_to_image("a cat", control=half, batch_size=2, **RUN)
    assert differ(batch[:1], one) <= 1


@once
def test_a_t2i_adapter_is_not_in_the_compiled_step(pipeline, t2i):
    request = pipeline.request("a cat", control=Control(t2i, PICTURE))
    controls = Controls(pipeline.model, request.resolved(pipeline.model.defaults), (32, 24), 4)
    assert controls.steps((0,)) is pipeline.model.steps()


@once
def test_a_t2i_adapter_in_guess_mode_or_of_another_model_is_refused(pipeline, t2i):
    with pytest.raises(ValueError, match="guess_mode is for a ControlNet"):
        pipeline.text_to_image("a cat", control=Control(t2i, PICTURE, guess_mode=True), **RUN)
    other = T2IAdapter(FeatureNetwork(FeatureConfig("full", (8, 12), 3, 8, 1)), "sketch")
    with pytest.raises(
        ValueError, match=r"sketch, a T2I-Adapter, is of another model than .*widths"
    ):
        pipeline.text_to_image("a cat", control=Control(other, PICTURE), **RUN)


# --- requests -------------------------------------------------------------------------


@once
def test_a_request_holds_it_and_json_by_its_hash(pipeline, draw, base):
    picture = draw(ImagePrompt(base, [SHOWN, OTHER], 0.7, end=0.75))[0]
    text = picture.request.to_json()
    (said,) = json.loads(text)["image_prompts"]
    assert (said["strength"], said["end"]) == (0.7, 0.75)
    assert said["adapter"] == base.attachment().to_dict()
    read = Request.from_json(text)
    assert read == picture.request
    assert len(read.attachments()) == 3
    with pytest.raises(ValueError, match="is known by its hash alone"):
        pipeline.draw(read)
    with pytest.raises(ValueError, match="which is not among those"):
        read.attached([SHOWN, OTHER])
    again = pipeline.draw(read.attached([SHOWN, OTHER, base]))
    np.testing.assert_array_equal(again[0], picture)
    assert "image_prompts" not in pipeline.request("a cat").to_dict()


@once
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"strength": -1}, "strength is from 0 to 10, not -1"),
        ({"start": 0.5, "end": 0.5}, "0.5 is not before 0.5"),
    ],
)
def test_settings_that_do_not_fit_are_named(given, named):
    with pytest.raises(ValueError, match=named):
        ImagePrompt(None, SHOWN, **given)


@once
def test_what_is_no_image_prompt_is_refused_before_the_run(pipeline, draw, base):
    with pytest.raises(TypeError, match=r"image_prompt is a keras_sd.ImagePrompt, or several"):
        draw(base)
    with pytest.raises(TypeError, match=r"is a keras_sd.IPAdapter, not 'x"):
        draw(ImagePrompt("x.bin", SHOWN))
    with pytest.raises(ValueError, match="There is no image in an empty list"):
        draw(ImagePrompt(base, []))
    bare = Request(("a cat",), image_prompts=(ImagePrompt(base, SHOWN),))
    with pytest.raises(TypeError, match="is an Attachment"):
        pipeline.draw(bare)


@once
def test_an_adapter_of_another_model_is_refused_before_the_run(draw, encoder):
    numbers = ImagePromptConfig("base", (8,), 12, 3, 12)
    other = IPAdapter(ImagePromptNetwork(numbers), encoder, "other.bin")
    with pytest.raises(ValueError, match=r"other.bin, an IP-Adapter, is of another model"):
        draw(ImagePrompt(other, SHOWN))


@once
def test_an_encoder_of_another_size_is_refused(pipeline, encoder):
    numbers = ImagePromptConfig("plus", (8,), 16, 3, 12, 8, 1, 1, 8)
    with pytest.raises(ValueError, match="takes 12 features a patch; the image encoder is one of"):
        IPAdapter(ImagePromptNetwork(numbers), encoder)


# --- files ----------------------------------------------------------------------------


def write(path, tensors):
    save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, path)
    return path


def tensors_of(network, table):
    """The network as a file has it; several variables may be one tensor."""
    arrays, found = arrays_of({"": network}), {}
    for entry in table:
        found.setdefault(entry.name, []).append(entry.theirs(arrays[f"/{entry.path}"]))
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.fixture
def folder(tmp_path, encoder):
    """The encoder as transformers writes it."""
    told = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "num_attention_heads": 2,
        "hidden_act": "quick_gelu",
    }
    place = tmp_path / "models" / "image_encoder"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(told))
    write(place / "model.safetensors", tensors_of(encoder, names.image_encoder(ENCODER)))
    return place.parent


@once
@pytest.mark.parametrize("kind", ["base", "plus"])
@pytest.mark.parametrize("by_diffusers", [False, True])
def test_a_file_of_each_layout_is_read(
    pipeline, adapters, draw, tmp_path, folder, kind, by_diffusers
):
    wanted = adapters[kind]
    table = names.image_prompt(
        wanted.network.config, pipeline.model.config.unet, by_diffusers=by_diffusers
    )
    path = write(tmp_path / "ip.safetensors", tensors_of(wanted.network, table))
    read = IPAdapter.from_file(path, image_encoder=folder, model=pipeline)
    assert (read.name, len(read.sha256)) == ("ip.safetensors", 64)
    assert read.network.config == wanted.network.config
    assert read.encoder.config == ENCODER
    for ours, theirs in ((read.network, wanted.network), (read.encoder, wanted.encoder)):
        arrays = arrays_of({"": theirs})
        for name, array in arrays_of({"": ours}).items():
            np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    picture = draw(ImagePrompt(read, SHOWN))
    np.testing.assert_array_equal(picture, draw(ImagePrompt(wanted, SHOWN)))
    assert picture[0].request.image_prompts[0].adapter.sha256 == read.sha256
    shared = IPAdapter.from_file(path, image_encoder=read.encoder, model=pipeline)
    assert shared.encoder is read.encoder


@once
def test_what_lies_beside_an_encoder_is_left_out_and_said(pipeline, base, tmp_path, folder, caplog):
    table = names.image_prompt(base.network.config, pipeline.model.config.unet)
    path = write(tmp_path / "ip.safetensors", tensors_of(base.network, table))
    more = {
        "logit_scale": np.zeros((), "float32"),
        "vision_model.embeddings.position_ids": np.arange(5)[None],
    }
    place = folder / "image_encoder" / "model.safetensors"
    write(place, tensors_of(base.encoder, names.image_encoder(ENCODER)) | more)
    with caplog.at_level(logging.WARNING):
        IPAdapter.from_file(path, image_encoder=folder, model=pipeline)
    assert "left out are 1 tensors: logit_scale" in caplog.text


@once
def test_the_wrong_family_and_the_wrong_encoder_are_named(pipeline, base, tmp_path, folder):
    table = names.image_prompt(base.network.config, pipeline.model.config.unet)
    tensors = tensors_of(base.network, table)
    wide = {
        name: np.zeros((*each.shape[:-1], 768), "float32") if "_ip" in name else each
        for name, each in tensors.items()
    }
    path = write(tmp_path / "ip.safetensors", wide)
    with pytest.raises(WeightsError, match=r"\(base\) for Stable Diffusion 1\.x \(768 features"):
        IPAdapter.from_file(path, image_encoder=folder, model=pipeline)
    other = {"image_proj.proj.weight": np.zeros((48, 1024), "float32")}
    path = write(tmp_path / "ip.safetensors", tensors | other)
    named = r"trained with the image encoder ViT-H/14; .* is one of 16 features a patch and 12"
    with pytest.raises(WeightsError, match=named):
        IPAdapter.from_file(path, image_encoder=folder, model=pipeline)
    with pytest.raises(WeightsError, match=named):
        IPAdapter.from_file(path, image_encoder=base.encoder, model=pipeline)
    path = write(
        tmp_path / "ip.safetensors", {k: v for k, v in tensors.items() if "3.to_v" not in k}
    )
    with pytest.raises(WeightsError, match=r"ip_adapter\.3\.to_v_ip\.weight"):
        IPAdapter.from_file(path, image_encoder=folder, model=pipeline)


@once
@pytest.mark.parametrize("by_diffusers", [False, True])
def test_a_t2i_adapter_of_each_layout_is_read(pipeline, tmp_path, by_diffusers):
    unet, factor = pipeline.model.config.unet, pipeline.model.config.autoencoder.factor
    numbers = FeatureConfig("full", unet.widths, 3, factor, 2)
    network = drawn(FeatureNetwork(numbers))
    tensors = tensors_of(network, names.features(numbers, by_diffusers))
    told = {"_class_name": "T2IAdapter", "downscale_factor": factor}
    (tmp_path / "config.json").write_text(json.dumps(told))
    place = write(tmp_path / "diffusion_pytorch_model.safetensors", tensors)
    if not by_diffusers:  # which has no config, and cells of 8 pixels or 16
        with pytest.raises(WeightsError, match=r"48 numbers a cell, which is none of 64, 192"):
            T2IAdapter.from_file(place, model=pipeline)
        return
    read = T2IAdapter.from_file(tmp_path, model=pipeline)
    assert read.network.config == numbers
    for ours, theirs in zip(read.network.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@once
def test_networks_can_be_copied_and_saved(tmp_path, adapters, t2i):
    import keras

    for number, network in enumerate(
        (adapters["plus"].network, adapters["plus"].encoder, t2i.network)
    ):
        network.save(tmp_path / f"{number}.keras")
        other = keras.models.load_model(tmp_path / f"{number}.keras")
        assert other.config == network.config
        for ours, theirs in zip(network.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
