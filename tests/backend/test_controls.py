"""Controls in runs: at which steps they count, for whom, and what is refused before a run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_control_network import drawn, tensors_of
from test_pipeline import TINY, differ, make

from keras_sd import Control, ControlNet
from keras_sd.backend import NAME, to_numpy
from keras_sd.config import ControlConfig
from keras_sd.controlled import Controls
from keras_sd.networks import ControlNetwork
from keras_sd.request import Request
from keras_sd.weights.load import arrays_of
from keras_sd.weights.names import diffusers, original
from keras_sd.weights.readers import WeightsError

RUN = {"num_steps": 4, "seed": 3, "sampler": "ddim", "unconditional_guidance_scale": 3.0}
HINT = np.random.default_rng(5).integers(0, 256, (32, 24, 3), dtype=np.uint8)
OTHER = np.random.default_rng(6).integers(0, 256, (32, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipeline():
    return make()


@pytest.fixture(scope="module")
def net(pipeline):
    """A ControlNet with random weights."""
    made = ControlNet.from_unet(pipeline)
    drawn(made.network, size=0.2)
    return made


@pytest.fixture(scope="module")
def draw(pipeline):
    def drawing(*controls, prompt="a cat", **changes):
        return pipeline.text_to_image(prompt, control=list(controls), **(RUN | changes))

    return drawing


@pytest.fixture
def latents(pipeline):
    def of(*controls, prompt="a cat", **changes):
        steps = pipeline.stream(prompt, control=list(controls), **(RUN | changes))
        return [to_numpy(step.latent) for step in steps]

    return of


def far(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max()


def test_a_new_one_of_the_unet_changes_not_a_bit(pipeline, draw):
    new = ControlNet.from_unet(pipeline)
    np.testing.assert_array_equal(draw(Control(new, HINT)), draw())
    base = arrays_of({"": pipeline.unet})
    for path, array in arrays_of({"": new.network}).items():
        if path in base:
            np.testing.assert_array_equal(array, base[path], err_msg=path)


def test_its_hint_and_its_strength_count(draw, net):
    plain, whole = draw(), draw(Control(net, HINT))
    assert differ(plain, whole) > 5
    assert differ(whole, draw(Control(net, OTHER))) > 0
    assert differ(whole, draw(Control(net, HINT, 0.5))) > 0
    np.testing.assert_array_equal(draw(Control(net, HINT, 0)), plain)


def test_a_control_counts_at_its_steps_alone(latents, net):
    plain, late = latents(), latents(Control(net, HINT, start=0.5))
    np.testing.assert_array_equal(plain[:2], late[:2])
    assert far(plain[2], late[2]) > 1e-3
    whole, early = latents(Control(net, HINT)), latents(Control(net, HINT, end=0.5))
    np.testing.assert_array_equal(whole[:2], early[:2])
    assert far(whole[2], early[2]) > 1e-3


@pytest.mark.parametrize(
    ("start", "end", "steps"),
    [
        (0, 1, [0, 1, 2, 3]),
        (0.25, 0.75, [1, 2]),
        (0.3, 0.8, [2]),
        (0.9, 1, []),
        (0, 0.2, []),
    ],
)
def test_a_step_counts_that_is_within_start_and_end_as_a_whole(start, end, steps):
    control = Control(None, None, start=start, end=end)
    assert [step for step in range(4) if control.counts(step, 4)] == steps


def test_a_control_that_never_counts_is_none(draw, net):
    np.testing.assert_array_equal(draw(Control(net, HINT, start=0.9)), draw())


def told_strengths(pipeline, control):
    """What each tensor is multiplied by, for the prompt and for the negative one."""
    request = pipeline.request("a cat", control=control).resolved(pipeline.model.defaults)
    controls = Controls(pipeline.model, request, (32, 24), 4)
    return [to_numpy(controls.told((0,), negative=n)["strength 0"]) for n in (False, True)]


def test_guess_mode_leaves_the_negative_half_alone(pipeline, net):
    plain, negative = told_strengths(pipeline, Control(net, HINT, 0.8))
    np.testing.assert_array_equal(plain, np.full((1, 5), 0.8, "float32"))
    np.testing.assert_array_equal(negative, plain)
    guessed, left = told_strengths(pipeline, Control(net, HINT, 0.8, guess_mode=True))
    np.testing.assert_allclose(guessed[0], 0.8 * np.logspace(-1, 0, 5), rtol=1e-6)
    assert not left.any()


@pytest.mark.thorough
def test_several_add_up(draw, net):
    half = Control(net, HINT, 0.5)
    assert differ(draw(half, half), draw(Control(net, HINT))) <= 1
    both = draw(half, Control(net, OTHER, 0.5))
    assert differ(both, draw(half)) > 0


def test_a_picture_of_a_batch_is_that_picture_alone(draw, net):
    hints = [HINT, OTHER]
    batch = draw(Control(net, np.stack(hints)), prompt=["a cat", "a rocket"])
    for i, (prompt, hint) in enumerate(zip(["a cat", "a rocket"], hints, strict=True)):
        alone = draw(Control(net, hint), prompt=prompt, first_image=i)
        assert differ(batch[i : i + 1], alone) <= 1
        again = batch[i].request
        assert len(again.controls[0].image) == 1
    one_for_all = draw(Control(net, HINT), batch_size=2)
    assert differ(one_for_all[:1], draw(Control(net, HINT))) <= 1


def test_prompts_that_change_and_controls_that_end_are_both_followed(latents, net):
    whole, half = Control(net, HINT), Control(net, HINT, end=0.5)

    def run(prompt, *controls):
        return latents(*controls, prompt=prompt, prompt_style="a1111")

    both = run("[a cat:a rocket:0.5]", half)  # the prompt changes after the control has ended
    np.testing.assert_array_equal(both[1], run("a cat", whole)[1])
    assert far(both[2], run("a cat", whole)[2]) > 1e-3
    np.testing.assert_array_equal(both[2], run("a cat", half)[2])
    assert far(both[3], run("a cat", half)[3]) > 1e-3
    parts = "a cat AND a rocket :0.5"
    assert far(run(parts, whole)[3], run(parts)[3]) > 1e-3


def test_it_works_with_a_picture_to_begin_with_and_with_a_mask(pipeline, net):
    picture = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    mask = np.zeros((32, 24), np.uint8)
    mask[:16] = 255
    for door, given in ((pipeline.image_to_image, ()), (pipeline.inpaint, (mask,))):
        plain = door("a cat", picture, *given, **RUN)
        told = door("a cat", picture, *given, control=Control(net, HINT), **RUN)
        assert differ(plain, told) > 2
    np.testing.assert_array_equal(told[0, 16:], picture[16:])


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m_sde", "euler_ancestral"])
def test_any_sampler_asks_the_same_denoiser(draw, net, sampler):
    late = draw(Control(net, HINT, start=0.5), sampler=sampler)
    assert differ(late, draw(sampler=sampler)) > 1
    assert differ(late, draw(Control(net, HINT), sampler=sampler)) > 1


def test_a_hint_is_brought_to_the_size_of_the_run(draw, net):
    large = HINT.repeat(2, axis=0).repeat(2, axis=1)
    assert differ(draw(Control(net, large)), draw(Control(net, HINT))) < 40
    floats = draw(Control(net, HINT.astype("float32") / 255))
    np.testing.assert_array_equal(floats, draw(Control(net, HINT)))
    assert draw(Control(net, large.astype("float32") / 255)).shape == floats.shape
    wide = np.pad(HINT, ((0, 0), (4, 4), (0, 0)))
    with pytest.raises(ValueError, match="The hint is 32x32, the picture 24x32"):
        draw(Control(net, wide))
    cropped = draw(Control(net, wide, resize="crop"))
    assert differ(cropped, draw(Control(net, HINT))) <= 1


def test_the_next_picture_is_drawn_with_its_weights_as_they_are(pipeline, draw):
    net = ControlNet.from_unet(pipeline)
    before = draw(Control(net, HINT))
    drawn(net.network, size=0.2)
    assert differ(before, draw(Control(net, HINT))) > 2


def test_nothing_is_compiled_anew_for_another_strength(pipeline, draw, net, monkeypatch):
    calls = []
    call = ControlNetwork.residuals
    monkeypatch.setattr(
        ControlNetwork, "residuals", lambda self, *given: calls.append(1) or call(self, *given)
    )
    steps = pipeline.model.controlled((net.network,))
    for strength, guess in ((1.0, False), (0.3, False), (0.3, True)):
        draw(Control(net, HINT, strength, guess_mode=guess))
    assert pipeline.model.controlled((net.network,)) is steps
    assert len(calls) <= (12 if NAME == "torch" else 1)


# --- requests -------------------------------------------------------------------------


def test_a_request_holds_it_and_json_by_its_hash(pipeline, draw, net):
    picture = draw(Control(net, HINT, 0.7, end=0.75))[0]
    text = picture.request.to_json()
    (said,) = json.loads(text)["controls"]
    assert (said["strength"], said["end"], said["net"]) == (0.7, 0.75, net.attachment().to_dict())
    read = Request.from_json(text)
    assert read == picture.request
    assert len(read.attachments()) == 2
    with pytest.raises(ValueError, match="is known by its hash alone"):
        pipeline.draw(read)
    with pytest.raises(ValueError, match="which is not among those"):
        read.attached([HINT])
    again = pipeline.draw(read.attached([HINT, net]))
    np.testing.assert_array_equal(again[0], picture)


def test_a_request_without_controls_says_nothing_of_them(pipeline):
    assert "controls" not in pipeline.request("a cat").to_dict()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"strength": -1}, "strength is from 0 to 10, not -1"),
        ({"start": 1.5}, "start is from 0 to 1"),
        ({"start": 0.5, "end": 0.5}, "0.5 is not before 0.5"),
        ({"guess_mode": "no"}, "guess_mode is True or False"),
        ({"resize": "twice"}, "resize is one of"),
    ],
)
def test_settings_that_do_not_fit_are_named(given, named):
    with pytest.raises((ValueError, TypeError), match=named):
        Control(None, HINT, **given)


def test_what_is_no_control_is_refused_before_the_run(pipeline, draw, net):
    with pytest.raises(TypeError, match=r"control is a keras_sd.Control, or several"):
        pipeline.text_to_image("a cat", control=net)
    with pytest.raises(TypeError, match=r"net of a Control is a keras_sd.ControlNet, not 'x"):
        draw(Control("x.safetensors", HINT))
    with pytest.raises(ValueError, match="2 hints for 3 picture"):
        draw(Control(net, [HINT, OTHER]), batch_size=3)
    with pytest.raises(ValueError, match="from 0 to 1; this one is from 0 to 2"):
        draw(Control(net, np.linspace(0, 2, HINT.size, dtype="float32").reshape(HINT.shape)))
    with pytest.raises(ValueError, match="There is no hint in an empty list"):
        draw(Control(net, []))
    bare = Request(("a cat",), controls=(Control(net, HINT),))
    with pytest.raises(TypeError, match="is an Attachment"):
        pipeline.draw(bare)


def test_a_net_of_another_model_is_refused_before_the_run(pipeline, draw):
    other = replace(TINY, unet=replace(TINY.unet, widths=(8, 12)))
    net = ControlNet.from_unet(make(other))
    with pytest.raises(ValueError, match=r"of another model than tiny: widths is \(8, 12\)"):
        draw(Control(net, HINT))
    with pytest.raises(TypeError, match="model is a pipeline or a Model"):
        ControlNet.from_unet(pipeline.unet)


def test_a_unet_of_another_kind_takes_no_controls(net):
    pipeline = make()

    class Other:
        pass

    pipeline.model.parts["unet"] = Other()
    with pytest.raises(ValueError, match=r"is added to a keras_sd.networks.UNet"):
        pipeline.stream("a cat", control=Control(net, HINT), **RUN)


# --- files ----------------------------------------------------------------------------


def write(path, tensors):
    save_file(tensors, path)
    return path


@pytest.fixture
def file(tmp_path, net):
    """The net as a file in a layout."""

    def made(layout="original", prefix=None, change=dict):
        config = net.network.config
        table = diffusers.control(config)
        if layout == "original":
            table = original.control(config, original.CONTROL if prefix is None else prefix)
        return write(tmp_path / "net.safetensors", change(tensors_of(net.network, table)))

    return made


@pytest.mark.parametrize("layout", [("original",), ("original", ""), ("diffusers",)])
@pytest.mark.thorough
def test_a_file_of_each_layout_is_read(pipeline, net, file, draw, layout):
    read = ControlNet.from_file(file(*layout), model=pipeline)
    wanted = arrays_of({"": net.network})
    for path, array in arrays_of({"": read.network}).items():
        np.testing.assert_array_equal(array, wanted[path], err_msg=path)
    assert (read.name, len(read.sha256), read.notes) == ("net.safetensors", 64, ())
    picture = draw(Control(read, HINT))
    assert picture[0].request.controls[0].net.sha256 == read.sha256
    np.testing.assert_array_equal(picture, draw(Control(net, HINT)))


def test_a_file_beside_a_model_is_read_and_what_is_beside_it_named(pipeline, net, file, caplog):
    rest = {"model.diffusion_model.out.2.bias": np.zeros(4, "float32")}
    read = ControlNet.from_file(file(change=lambda tensors: tensors | rest), model=pipeline)
    assert "Left out are 1 tensors beside it: model.diffusion_model.out.2.bias" in caplog.text
    first = read.network.get_weights()[0]
    np.testing.assert_array_equal(first, net.network.get_weights()[0])


def test_a_file_of_differences_is_added_to_the_weights_of_the_unet(pipeline, net, file):
    config = net.network.config
    base = arrays_of({"": pipeline.unet})
    paths = {entry.name: f"/{entry.path}" for entry in original.control(config)}
    entries = {entry.name: entry for entry in original.control(config)}

    def differences(tensors):
        return {"difference": np.zeros((), "float32")} | {
            name: np.ascontiguousarray(tensor - entries[name].theirs(base[paths[name]]))
            if paths[name] in base
            else tensor
            for name, tensor in tensors.items()
        }

    read = ControlNet.from_file(file(change=differences), model=pipeline)
    wanted = arrays_of({"": net.network})
    for path, array in arrays_of({"": read.network}).items():
        np.testing.assert_allclose(array, wanted[path], atol=1e-6, err_msg=path)


def without(name):
    return lambda tensors: {each: t for each, t in tensors.items() if each != name}


def attending_to(width):
    def change(tensors):
        return {
            name: np.zeros((16, width), each.dtype) if "attn2.to_k" in name else each
            for name, each in tensors.items()
        }

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("control_model.zero_convs.1.0.bias"), r"zero_convs\.1\.0\.bias"),
        (
            lambda t: t | {"control_model.input_blocks.9.0.op.weight": np.ones(1, "float32")},
            r"input_blocks\.9\.0\.op\.weight",
        ),
        (
            lambda t: t | {"control_model.time_embed.0.bias": np.ones(3, "float32")},
            r"time_embed\.0\.bias is \(3,\)",
        ),
        (
            lambda t: t | {"control_model.time_embed.0.bias": np.full(32, np.nan, "float32")},
            "not finite",
        ),
        (
            attending_to(1024),
            r"for Stable Diffusion 2\.x, in the layout of original \(1024 features a token\)",
        ),
        (
            attending_to(2048),
            "for Stable Diffusion XL, in the layout of original",
        ),
        (lambda t: t | {"lora_controlnet": np.zeros((), "float32")}, "a Control-LoRA"),
        (without("control_model.input_hint_block.0.weight"), "is no ControlNet: none of its"),
        (
            without("control_model.input_hint_block.2.weight"),
            r"input_hint_block\.2\.weight",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(pipeline, file, change, named):
    with pytest.raises(WeightsError, match=named):
        ControlNet.from_file(file(change=change), model=pipeline)


def test_one_for_another_factor_is_refused(pipeline, tmp_path):
    config = ControlConfig.of(TINY.unet)
    table = original.control(config)
    path = write(tmp_path / "x.safetensors", tensors_of(drawn(ControlNetwork(config)), table))
    with pytest.raises(WeightsError, match="8 times as wide as a latent, not 4"):
        ControlNet.from_file(path, model=pipeline)


def test_a_folder_says_what_no_shape_tells(pipeline, net, tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    table = diffusers.control(net.network.config)
    write(folder / "diffusion_pytorch_model.safetensors", tensors_of(net.network, table))
    settings = {
        "_class_name": "ControlNetModel",
        "block_out_channels": [8, 16],
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "global_pool_conditions": True,
    }

    def read(**changes):
        (folder / "config.json").write_text(json.dumps(settings | changes))
        return ControlNet.from_file(folder, model=pipeline)

    assert read().network.config.pooled
    assert read().name == "net"
    for changes, named in (
        ({"attention_head_dim": 4}, r"heads is \(4, 4\), not \(2, 2\)"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "channel_order is 'bgr', not 'rgb'"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name"),
    ):
        with pytest.raises(WeightsError, match=named):
            read(**changes)
    assert read(new_setting=3).notes == (
        "net/config.json: not known, and left out, are 'new_setting'",
    )


def test_what_is_not_there_is_said(pipeline, tmp_path):
    with pytest.raises(FileNotFoundError):
        ControlNet.from_file(tmp_path / "none.safetensors", model=pipeline)
    with pytest.raises(FileNotFoundError, match="is a folder without diffusion_pytorch_model"):
        ControlNet.from_file(tmp_path, model=pipeline)
    for name in ("a.safetensors", "b.safetensors"):
        write(tmp_path / name, {"x": np.zeros(1, "float32")})
    with pytest.raises(WeightsError, match=r"several files: a\.safetensors, b\.safetensors"):
        ControlNet.from_file(tmp_path, model=pipeline)


def test_an_inpainting_unet_gives_what_is_of_the_latent(net):
    paints = make(replace(TINY, unet=replace(TINY.unet, in_channels=9)))
    made = ControlNet.from_unet(paints)
    kernel = to_numpy(paints.unet.conv_in.kernel.value)
    np.testing.assert_array_equal(to_numpy(made.network.conv_in.kernel.value), kernel[:, :, :4])
    mask = np.zeros((32, 24), np.uint8)
    mask[:16] = 255
    picture = np.full((32, 24, 3), 90, np.uint8)
    plain = paints.inpaint("a cat", picture, mask, **RUN)
    drawn(made.network, size=0.2)
    told = paints.inpaint("a cat", picture, mask, control=Control(made, HINT), **RUN)
    assert differ(plain, told) > 2


def test_a_pooled_one_is_for_the_prompt_alone(pipeline):
    config = ControlConfig.of(TINY.unet, hint_widths=(16, 32, 96), pooled=True)
    net = ControlNet(ControlNetwork(config))
    for guess_mode in (False, True):
        control = Control(net, HINT, 0.5, guess_mode=guess_mode)
        strengths, negative = told_strengths(pipeline, control)
        np.testing.assert_array_equal(strengths, np.full((1, 5), 0.5))
        assert not negative.any()
