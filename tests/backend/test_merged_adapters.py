"""Adapters in the weights of a model: exact, all or none, and out again to the bit."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import keras
import numpy as np
import pytest
import tiny
from adapter_files import LAYOUTS, PLACES, change_of, lora, tensors, write
from safetensors.numpy import load_file, save_file
from test_pipeline import TINY, differ, make

from keras_sd.adapters import open_adapter
from keras_sd.networks import UNet
from keras_sd.precision import policy_scope
from keras_sd.request import Request
from keras_sd.weights.load import arrays_of
from keras_sd.weights.names import diffusers
from keras_sd.weights.readers import WeightsError

# With a transformer on the finer level and two layers of text.
CONFIG = replace(
    TINY,
    unet=replace(TINY.unet, depths=(1, 0)),
    text_encoder=replace(TINY.text_encoder, depth=2),
)
REQUEST = Request(("a cat",), images=((3, 0),), num_steps=2, sampler="ddim")
TABLES = {
    "unet": diffusers.unet(CONFIG.unet),
    "text_encoder": diffusers.text_encoder(CONFIG.text_encoder),
}


def weights(pipeline):
    return arrays_of(pipeline.model.parts)


def bits(arrays):
    return {name: array.tobytes() for name, array in arrays.items()}


def ours(name, part):
    """The path of a place's weight, and the axes by which a file's becomes ours."""
    entry = next(each for each in TABLES[part] if each.name == f"{name}.weight")
    return f"{part}/{entry.path}", (1, 0) if len(entry.shape) == 2 else (2, 3, 1, 0)


def expected(before, strengths, scale, places=PLACES):
    """The weights with the changes of `adapter_files` added by hand."""
    found = dict(before)
    for part, strength in strengths.items():
        for place in places[part]:
            up, down = (each.astype(np.float64) for each in change_of(place, CONFIG))
            change = np.tensordot(up.reshape(up.shape[:2]), down, axes=1)
            path, axes = ours(place, part)
            found[path] = before[path] + strength * scale * change.transpose(axes)
    return found


def check(found, wanted, before):
    for path, array in wanted.items():
        if array is before[path]:
            assert found[path].tobytes() == array.tobytes(), path
        else:
            change = np.abs(array - before[path]).max()
            assert np.abs(found[path] - array).max() <= 1e-5 * change, path


@pytest.fixture(scope="module")
def traced():
    """What calls the UNet in Python: on jax and TensorFlow, whenever a step is compiled."""
    calls = []
    original = UNet.call

    def call(self, *args, **options):
        calls.append(self)
        return original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet, "call", call)
        yield calls


@pytest.fixture(scope="module")
def shared(traced):
    """A pipeline that each test leaves without adapters."""
    return make(CONFIG)


@pytest.fixture
def pipeline(shared):
    yield shared
    shared.unmerge_adapters()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merged_weights_are_those_by_hand_and_out_again_to_the_bit(pipeline, tmp_path, layout):
    before = weights(pipeline)
    path = write(tmp_path / "x.safetensors", layout, CONFIG)
    strengths = dict.fromkeys(LAYOUTS[layout].parts, 0.8)
    (use,) = pipeline.merge_adapters((path, 0.8))
    assert use.strengths == strengths
    assert pipeline.adapters == (use,)
    scale = 0.5 if LAYOUTS[layout].alpha else 1
    wanted = expected(before, strengths, scale, LAYOUTS[layout].places)
    check(weights(pipeline), wanted, before)
    pipeline.unmerge_adapters()
    assert bits(weights(pipeline)) == bits(before)
    assert pipeline.adapters == ()


def test_the_next_picture_is_of_the_new_weights(pipeline, tmp_path):
    path = write(tmp_path / "x.safetensors", "kohya", CONFIG)
    before = pipeline.draw(REQUEST)
    with pipeline.with_adapters((path, 2)):
        assert differ(before, pipeline.draw(REQUEST)) > 5
    np.testing.assert_array_equal(before, pipeline.draw(REQUEST))


def test_several_add_up_and_what_was_merged_before_does_not(pipeline, tmp_path):
    before = weights(pipeline)
    path = write(tmp_path / "x.safetensors", "kohya", CONFIG)
    pipeline.merge_adapters((path, 5))
    parts = {"unet": 1.5, "text_encoder": -0.5}
    pipeline.merge_adapters(path, (open_adapter(path), {"unet": 0.5, "text_encoder": -1.5}))
    check(weights(pipeline), expected(before, parts, 0.5), before)
    once = bits(weights(pipeline))
    pipeline.merge_adapters(path, (path, {"unet": 0.5, "text_encoder": -1.5}))
    assert bits(weights(pipeline)) == once


def test_a_part_of_strength_0_is_left_to_the_bit(pipeline, tmp_path):
    before = bits(weights(pipeline))
    path = write(tmp_path / "x.safetensors", "kohya", CONFIG)
    pipeline.merge_adapters((path, {"unet": 1, "text_encoder": 0}))
    after = bits(weights(pipeline))
    changed = {name for name in before if before[name] != after[name]}
    assert {name.split("/")[0] for name in changed} == {"unet"}
    pipeline.merge_adapters((path, 0))
    assert bits(weights(pipeline)) == before


def test_a_block_may_have_a_strength_of_its_own(pipeline, tmp_path):
    before = bits(weights(pipeline))
    path = write(tmp_path / "x.safetensors", "kohya", CONFIG)
    pipeline.merge_adapters(path)
    whole = bits(weights(pipeline))
    blocks = {"unet/down": 0, "unet/down_0_0/transformer": 1, "text_encoder/layer_1": 0}
    pipeline.merge_adapters((path, {"unet": 1, "text_encoder": 1, **blocks}))
    after = bits(weights(pipeline))

    def left(name):
        part, path = name.split("/", 1)
        if part == "unet":
            return path.startswith("down_0_0/residual/")
        return path.startswith("layer_1/")

    assert after == {name: before[name] if left(name) else whole[name] for name in before}
    changed = {name for name in before if before[name] != whole[name]}
    for there in ("unet/down_0_0/residual/", "unet/down_0_0/transformer/", "unet/downsample_0/"):
        assert any(name.startswith(there) for name in changed), there
    request = pipeline.request("a cat", adapters=[(path, {"unet": 1, "unet/middle": 0.5})])
    (adaptation,) = request.adapters
    assert adaptation.blocks == (("unet/middle", 0.5),)
    assert pipeline.model.uses(request.adapters)[0].strength("unet", "middle/x") == 0.5
    for name in ("unet/down_7", "unet/dow", "unet/"):
        with pytest.raises(ValueError, match=rf"A strength is for '{name}', which the model has n"):
            pipeline.merge_adapters((path, {"unet": 1, "text_encoder": 1, name: 1}))
    with pytest.raises(ValueError, match="changes the unet too"):
        pipeline.merge_adapters((path, {"text_encoder": 1, "unet/middle": 1}))


def test_after_the_block_the_adapters_are_those_before_it(pipeline, tmp_path):
    path = write(tmp_path / "x.safetensors", "diffusers", CONFIG)
    pipeline.merge_adapters((path, 0.5))
    half, uses = bits(weights(pipeline)), pipeline.adapters
    with pipeline.with_adapters((path, 2)) as inner:
        assert inner == pipeline.adapters
        assert bits(weights(pipeline)) != half
    assert (bits(weights(pipeline)), pipeline.adapters) == (half, uses)
    with pytest.raises(ZeroDivisionError), pipeline.with_adapters():
        _ = 1 / len(pipeline.adapters)
    assert (bits(weights(pipeline)), pipeline.adapters) == (half, uses)


def test_ten_adapters_are_one_step(pipeline, traced, tmp_path):
    if keras.backend.backend() == "torch":
        pytest.skip("nothing is compiled there")
    path = write(tmp_path / "x.safetensors", "kohya", CONFIG)
    pipeline.draw(REQUEST)
    first = len(traced)
    assert first
    pictures = []
    for number in range(10):
        with pipeline.with_adapters((path, number / 2)):
            pictures.append(pipeline.draw(REQUEST).tobytes())
    assert len(traced) == first
    assert len(set(pictures)) == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"lora_unet_conv_in.lora_up.weight": np.nan},
            r"bad\.safetensors: 'lora_unet_conv_in\.lora_up\.weight' is not finite",
        ),
        ({"lora_unet_nowhere.lora_up.weight": None}, "not whole"),
        ({"lora_unet_nowhere.diff": 1}, "in part"),
    ],
)
def test_a_bad_file_changes_nothing(pipeline, tmp_path, change, said):
    good = write(tmp_path / "good.safetensors", "kohya", CONFIG)
    bad = tensors("kohya", CONFIG)
    for name, value in change.items():
        array = bad.get(name, np.zeros((2, 2), np.float32))
        bad[name] = array if value is None else np.full_like(array, value)
    save_file(bad, tmp_path / "bad.safetensors")
    pipeline.merge_adapters((good, 0.5))
    before, uses = bits(weights(pipeline)), pipeline.adapters
    with pytest.raises(WeightsError, match=said):
        pipeline.merge_adapters(good, tmp_path / "bad.safetensors")
    assert (bits(weights(pipeline)), pipeline.adapters) == (before, uses)


def test_what_is_not_known_is_left_out_by_name(pipeline, tmp_path, caplog):
    file = tensors("kohya", CONFIG) | {"lora_unet_nowhere.diff": np.zeros(2, np.float32)}
    save_file(file, tmp_path / "x.safetensors")
    pipeline.merge_adapters(tmp_path / "x.safetensors", allow_partial=True)
    assert "left out, as unknown: lora_unet_nowhere" in caplog.text


def test_a_weight_that_somebody_changed_is_not_put_back(tmp_path):
    pipeline = make(CONFIG)
    path = write(tmp_path / "x.safetensors", "kohya", CONFIG)
    pipeline.merge_adapters(path)
    kernel = pipeline.unet.conv_in.kernel
    merged = keras.ops.convert_to_numpy(kernel.value).copy()
    kernel.assign(2 * merged)
    for call in (pipeline.unmerge_adapters, lambda: pipeline.merge_adapters(path)):
        with pytest.raises(RuntimeError, match="unet/conv_in/kernel was changed after"):
            call()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel.value), 2 * merged)
    kernel.assign(merged)
    pipeline.unmerge_adapters()


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(tmp_path, policy):
    with policy_scope(policy):
        pipeline = make(CONFIG)
    before = weights(pipeline)
    assert before["unet/conv_in/kernel"].dtype == policy
    path = write(tmp_path / "x.safetensors", "kohya", CONFIG)
    for _ in range(2):
        pipeline.merge_adapters((path, 0.3))
        after = weights(pipeline)
        wanted = expected(
            {name: array.astype(np.float64) for name, array in before.items()},
            {"unet": 0.3, "text_encoder": 0.3},
            0.5,
        )
        for name, array in wanted.items():
            step = np.abs(array) * (2.0**-10 if policy == "float16" else 2.0**-7) + 1e-6
            assert (np.abs(after[name].astype(np.float64) - array) <= 0.51 * step).all(), name
        pipeline.unmerge_adapters()
        assert bits(weights(pipeline)) == bits(before)
    if policy == "float16":
        with pytest.raises(WeightsError, match="does not fit float16"):
            pipeline.merge_adapters((path, 1e6))
        assert bits(weights(pipeline)) == bits(before)


def test_adapters_are_merged_before_weights_are_quantized(tmp_path):
    pipeline = make(CONFIG)
    path = write(tmp_path / "x.safetensors", "kohya", CONFIG)
    for layer in pipeline.unet._flatten_layers():
        if layer.name == "query":
            layer.quantize("int8")
    with pytest.raises(WeightsError, match=r"before weights are quantized|no weight"):
        pipeline.merge_adapters(path)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_has_its_own_adapters(pipeline, tmp_path, twin):
    before = bits(weights(pipeline))
    pipeline.merge_adapters(write(tmp_path / "x.safetensors", "kohya", CONFIG))
    other = twin(pipeline)
    merged = bits(weights(pipeline))
    assert len(other.adapters) == 1
    other.unmerge_adapters()
    assert bits(weights(other)) == before
    assert bits(weights(pipeline)) == merged


def test_a_saved_checkpoint_is_the_merged_one(tmp_path):
    pipeline = make(tiny.TINY)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    file = lora("unet.conv_in", ".lora_A.weight", ".lora_B.weight", (32, 4, 3, 3))
    save_file(file, tmp_path / "lora.safetensors")
    pipeline.save_checkpoint(tmp_path / "before.safetensors")
    with pipeline.with_adapters((tmp_path / "lora.safetensors", 0.5)):
        pipeline.save_checkpoint(tmp_path / "merged.safetensors")
    pipeline.save_checkpoint(tmp_path / "after.safetensors")
    before, merged = (load_file(tmp_path / f"{each}.safetensors") for each in ("before", "merged"))
    up = file["unet.conv_in.lora_B.weight"][:, :, 0, 0]
    change = 0.5 * np.tensordot(up, file["unet.conv_in.lora_A.weight"], axes=1)
    np.testing.assert_allclose(merged[name], before[name] + change, atol=1e-6)
    assert {key for key in before if (before[key] != merged[key]).any()} == {name}
    saved = [(tmp_path / f"{each}.safetensors").read_bytes() for each in ("before", "after")]
    assert saved[0] == saved[1]
