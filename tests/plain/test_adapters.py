"""LoRA files and their relatives: read, matched and computed without Keras."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from adapter_files import LAYOUTS, PLACES, change_of, lora, tensors, write
from fuzz import archive, state, tensor
from safetensors.numpy import save_file
from tiny import TINY, TINY_2

from keras_sd.adapters import Adapter, match, open_adapter
from keras_sd.adapters.kinds import KINDS, REFUSED, ROLES, applied, fits, kind_of
from keras_sd.adapters.matching import uses_of
from keras_sd.adapters.names import names_of
from keras_sd.addons import inspect
from keras_sd.config import SD_1, SD_2, SDXL, SDXL_REFINER
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.names import diffusers
from keras_sd.weights.presets import PRESETS, list_presets
from keras_sd.weights.readers import WeightsError

RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.normal(0, 1, shape).astype(np.float32)


# --- names ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, TINY_2, SD_1, SD_2], ids=lambda config: config.name)
def test_every_layer_has_a_name_in_every_layout(config):
    found: dict[str, set[str]] = {}
    for named in names_of(config).values():
        found.setdefault(named.layout, set()).add(named.place.weight.path)
    unet = {e.path for e in diffusers.unet(config.unet) if e.name.endswith(".weight")}
    text = {e.path for e in diffusers.text_encoder(config.text_encoder) if "weight" in e.name}
    for layout in ("kohya", "LyCORIS", "diffusers", "PEFT"):
        assert found[layout] >= unet | text
    for layout in ("kohya, original blocks", "original"):
        assert found[layout] == unet


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
            "down_1_0/transformer/block_0/cross_attention/key/kernel",
        ),
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_0_proj",
            "down_1_0/transformer/block_0/feed_forward/hidden/kernel",
        ),
        ("lora_unet_input_blocks_3_0_op", "downsample_0/conv/kernel"),
        ("lora_unet_output_blocks_2_1_conv", "upsample_3/conv/kernel"),
        ("lora_unet_output_blocks_5_2_conv", "upsample_2/conv/kernel"),
        ("lora_unet_mid_block_resnets_1_conv2", "middle_residual/conv2/kernel"),
        ("diffusion_model.middle_block.1.proj_in", "middle/transformer/proj_in/kernel"),
        (
            "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out",
            "up_2_0/transformer/block_0/self_attention/out/kernel",
        ),
        ("lora_te_text_model_encoder_layers_11_mlp_fc1", "layer_11/hidden/kernel"),
        ("lora_te_encoder_layers_0_self_attn_out_proj", "layer_0/attention/out/kernel"),
        (
            "text_encoder.text_model.encoder.layers.3.self_attn.to_q",
            "layer_3/attention/query/kernel",
        ),
    ],
)
def test_names_of_1x_by_hand(name, path):
    assert names_of(SD_1)[name].place.weight.path == path


# --- kinds ----------------------------------------------------------------------------


def convolved(kernel, picture):
    """A picture (in, height, width) through a convolution (out, in, h, w) without padding."""
    height, width = kernel.shape[2:]
    rows = [
        [
            np.tensordot(kernel, picture[:, y : y + height, x : x + width], axes=3)
            for x in range(picture.shape[2] - width + 1)
        ]
        for y in range(picture.shape[1] - height + 1)
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def weight_of(factors, shape, strength=1.0, scale=1.0, weight=None):
    kind = kind_of(factors)
    shapes = {role: array.shape for role, array in factors.items()}
    assert fits(kind, shapes, shape)
    weight = np.zeros(shape, np.float32) if weight is None else weight
    return applied(kind, factors, weight, scale, strength)


def test_a_lora_of_a_convolution_is_one_after_the_other():
    up, down, picture = numbers(5, 2, 1, 1), numbers(2, 3, 3, 3), numbers(3, 6, 7)
    merged = weight_of({"up": up, "down": down}, (5, 3, 3, 3), strength=0.5, scale=3.0)
    wanted = 1.5 * convolved(up, convolved(down, picture))
    np.testing.assert_allclose(convolved(merged, picture), wanted, rtol=1e-4, atol=1e-4)


def test_with_a_core_it_is_three():
    up, mid, down = numbers(5, 2, 1, 1), numbers(2, 2, 3, 3), numbers(2, 3, 1, 1)
    picture = numbers(3, 6, 7)
    merged = weight_of({"up": up, "mid": mid, "down": down}, (5, 3, 3, 3))
    wanted = convolved(up, convolved(mid, convolved(down, picture)))
    np.testing.assert_allclose(convolved(merged, picture), wanted, rtol=1e-4, atol=1e-4)


def test_a_linear_map_may_be_written_as_a_convolution_and_the_other_way_round():
    up, down = numbers(5, 2), numbers(2, 3)
    plain = weight_of({"up": up, "down": down}, (5, 3))
    np.testing.assert_allclose(plain, up @ down, rtol=1e-6)
    four = {"up": up[:, :, None, None], "down": down[:, :, None, None]}
    np.testing.assert_array_equal(weight_of(four, (5, 3)), plain)
    one = weight_of({"up": up, "down": down}, (5, 3, 1, 1))
    np.testing.assert_array_equal(one[:, :, 0, 0], plain)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3)])
def test_a_loha_is_a_product_of_two(shape):
    columns = int(np.prod(shape[1:]))
    a, b, c, d = numbers(6, 2), numbers(2, columns), numbers(6, 2), numbers(2, columns)
    merged = weight_of({"w1_a": a, "w1_b": b, "w2_a": c, "w2_b": d}, shape, scale=0.5)
    wanted = [[0.5 * (a[o] @ b[:, i]) * (c[o] @ d[:, i]) for i in range(columns)] for o in range(6)]
    np.testing.assert_allclose(merged.reshape(6, columns), wanted, rtol=1e-4, atol=1e-5)


def test_a_loha_with_cores():
    factors = {
        **{"w1_a": numbers(2, 6), "w1_b": numbers(2, 4), "t1": numbers(2, 2, 3, 3)},
        **{"w2_a": numbers(2, 6), "w2_b": numbers(2, 4), "t2": numbers(2, 2, 3, 3)},
    }
    merged = weight_of(factors, (6, 4, 3, 3))
    wanted = np.ones((6, 4, 3, 3))
    for n in "12":
        wanted *= np.einsum(
            "abhw,ao,bi->oihw", factors[f"t{n}"], factors[f"w{n}_a"], factors[f"w{n}_b"]
        )
    np.testing.assert_allclose(merged, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("second", "kernel"),
    [
        *(("w2", kernel) for kernel in ((), (3, 3))),
        *(("w2_a w2_b", kernel) for kernel in ((), (3, 3))),
        ("w2_a w2_b t2", (3, 3)),
    ],
)
@pytest.mark.parametrize("first", ["w1", "w1_a w1_b"])
def test_a_lokr_is_a_kronecker_product(first, second, kernel):
    size = int(np.prod(kernel))
    made = {
        "w1": numbers(2, 3),
        "w1_a": numbers(2, 2),
        "w1_b": numbers(2, 3),
        "w2": numbers(4, 5, *kernel),
        "w2_a": numbers(2, 4) if "t2" in second else numbers(4, 2),
        "w2_b": numbers(2, 5) if "t2" in second else numbers(2, 5 * size),
        "t2": numbers(2, 2, 3, 3),
    }
    factors = {f"lokr_{role}": made[role] for role in f"{first} {second}".split()}
    merged = weight_of(factors, (8, 15, *kernel))
    one = made["w1"] if first == "w1" else made["w1_a"] @ made["w1_b"]
    if second == "w2":
        two = made["w2"]
    elif "t2" in second:
        two = np.einsum("abhw,ao,bi->oihw", made["t2"], made["w2_a"], made["w2_b"])
    else:
        two = made["w2_a"] @ made["w2_b"]
    two = two.reshape(4, 5, size)
    wanted = [[one[o // 4, i // 5] * two[o % 4, i % 5] for i in range(15)] for o in range(8)]
    np.testing.assert_allclose(merged.reshape(8, 15, size), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "axes"), [((6, 1, 1, 1), (1, 2, 3)), ((1, 4, 1, 1), (0, 2, 3))])
def test_dora_sets_the_lengths_and_half_of_it_is_half_way(shape, axes):
    weight = numbers(6, 4, 3, 3)
    lengths = np.abs(numbers(*shape)) + 0.1
    factors = {"up": numbers(6, 2, 1, 1), "down": numbers(2, 4, 3, 3)}
    whole = weight_of({**factors, "dora": lengths}, weight.shape, weight=weight, scale=0.5)
    found = np.sqrt((whole.astype(float) ** 2).sum(axes, keepdims=True))
    np.testing.assert_allclose(found, lengths, rtol=1e-5)
    plain = weight_of(factors, weight.shape, weight=weight, scale=0.5)
    ratio = whole / plain
    np.testing.assert_allclose(
        ratio, np.broadcast_to(ratio.mean(axes, keepdims=True), ratio.shape), rtol=1e-4
    )
    half = weight_of({**factors, "dora": lengths}, weight.shape, 0.5, 0.5, weight)
    np.testing.assert_allclose(half, (whole + weight) / 2, rtol=1e-4, atol=1e-5)


def test_differences_are_added():
    weight = numbers(4, 3)
    np.testing.assert_allclose(
        weight_of({"diff": weight}, (4, 3), 0.5, weight=weight), 1.5 * weight, rtol=1e-6
    )
    np.testing.assert_array_equal(weight_of({"b_norm": weight[0]}, (3,)), weight[0])


@pytest.mark.parametrize(
    ("factors", "shape"),
    [
        ({"up": (5, 2), "down": (3, 4)}, (5, 4)),
        ({"up": (5, 2), "down": (2, 4)}, (4, 5)),
        ({"up": (5, 2, 3, 3), "down": (2, 4, 1, 1)}, (5, 4, 3, 3)),
        ({"up": (), "down": (2, 4)}, (5, 4)),
        ({"up": (5, 2), "down": (2, 4), "dora": (4, 1)}, (5, 4)),
        ({"up": (5, 2), "down": (2, 4), "dora": ()}, (5, 4)),
        ({"up": (5, 2, 1, 1), "down": (2, 4, 1, 1), "mid": (3, 2, 3, 3)}, (5, 4, 3, 3)),
        ({"w1_a": (5, 2), "w1_b": (2, 4), "w2_a": (5, 2), "w2_b": (2, 3)}, (5, 4)),
        ({"lokr_w1": (), "lokr_w2": (2, 2)}, (4, 4)),
        ({"lokr_w1": (2, 9), "lokr_w2": (2, 4)}, (4, 4, 3, 3)),
        ({"diff": (3, 4)}, (4, 3)),
    ],
)
def test_factors_that_do_not_fit_are_seen_by_their_shapes(factors, shape):
    assert not fits(kind_of(factors), factors, shape)


def test_every_role_is_of_a_kind():
    used = {role for kind in KINDS for needs in kind.needs for role in needs | kind.may}
    # Of an IA3 two tensors say one role.
    assert used == {*ROLES.values(), "ia3_in", "ia3_out"} - {"on_input"}
    assert not ROLES.keys() & REFUSED.keys()


# --- files ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, TINY_2], ids=["1", "2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(tmp_path, layout, config):
    path = write(tmp_path / "x.safetensors", layout, config)
    adapter = open_adapter(path)
    found = match(adapter, config)
    found.check()
    assert set(found.layouts) == {LAYOUTS[layout].label}
    matched = {place.name: change for change, place, _ in found.matched}
    assert matched.keys() == {name for names in LAYOUTS[layout].places.values() for name in names}
    for name, change in matched.items():
        up, down = change_of(name, config)
        np.testing.assert_array_equal(change.factors()["up"], up)
        np.testing.assert_array_equal(change.factors()["down"], down)
        assert change.scale == (0.5 if LAYOUTS[layout].alpha else 1.0)
        assert change.rank == 4
    assert bool(adapter.notes) is not LAYOUTS[layout].alpha


def test_a_file_of_torch_is_read(tmp_path):
    name = "lora_unet_conv_in"
    values = {
        f"{name}.lora_up.weight": tensor((3, 2), (2, 1)),
        f"{name}.lora_down.weight": tensor((2, 4), (4, 1)),
        f"{name}.alpha": tensor((), (), 1),
    }
    path = tmp_path / "x.pt"
    path.write_bytes(archive(state(**values)))
    (change,) = open_adapter(path).changes
    assert (change.name, change.rank, change.scale) == (name, 2, 0.5)
    np.testing.assert_array_equal(change.factors()["up"], np.arange(6).reshape(3, 2))
    np.testing.assert_array_equal(change.factors()["down"], np.arange(8).reshape(2, 4))


def test_alpha_of_peft_is_in_its_settings(tmp_path):
    name = "unet.conv_in"
    file = lora(name, ".lora_A.weight", ".lora_B.weight", (64, 4, 3, 3), rank=4)

    def scale(**settings):
        metadata = {"lora_adapter_metadata": json.dumps(settings)}
        save_file(file, tmp_path / "x.safetensors", metadata)
        (change,) = open_adapter(tmp_path / "x.safetensors").changes
        return change.scale

    assert scale(**{"unet.lora_alpha": 8}) == 2
    assert scale(**{"unet.lora_alpha": 8, "unet.use_rslora": True}) == 4
    assert scale(**{"unet.lora_alpha": 8, "unet.alpha_pattern": {"conv_in": 2}}) == 0.5
    assert scale(**{"unet.lora_alpha": 8, "unet.alpha_pattern": {"in": 2}}) == 2
    assert scale() == 1
    with pytest.raises(WeightsError, match="more than a name"):
        scale(**{"unet.lora_alpha": 8, "unet.alpha_pattern": {"(a+)+": 2}})
    for wrong in ("8", True, float("inf"), {}):
        with pytest.raises(WeightsError, match="lora_alpha"):
            scale(**{"unet.lora_alpha": wrong})


def test_alpha_of_a_folder_of_peft(tmp_path):
    name = "base_model.model.conv_in"
    file = lora(name, ".lora_A.weight", ".lora_B.weight", (64, 4, 3, 3), rank=4)
    save_file(file, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 12}))
    (change,) = open_adapter(tmp_path).changes
    assert change.scale == 3
    assert open_adapter(tmp_path).attachment().name == tmp_path.name
    assert open_adapter(tmp_path / "adapter_model.safetensors").name == "adapter_model"
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="a folder without"):
        open_adapter(tmp_path)


@pytest.mark.parametrize(
    ("said", "width", "part", "base", "alone"),
    [
        ("CLIPTextModel", 768, "text_encoder", None, SD_1),
        (
            *("CLIPTextModelWithProjection", 1280, "text_encoder_2"),
            *("Stable Diffusion XL", SDXL_REFINER),
        ),
    ],
    ids=["first", "second"],
)
def test_the_settings_of_peft_say_which_text_encoder_it_is(
    tmp_path, said, width, part, base, alone
):
    layer = "encoder.layers.0.self_attn.q_proj"
    for prefix in ("", "text_model."):  # as releases of transformers have it
        name = f"base_model.model.{prefix}{layer}"
        file = lora(name, ".lora_A.weight", ".lora_B.weight", (width, width), rank=4)
        save_file(file, tmp_path / "adapter_model.safetensors")
        settings = {"lora_alpha": 12, "auto_mapping": {"base_model_class": said}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        (change,) = open_adapter(tmp_path).changes
        assert (change.name, change.scale) == (f"{part}.{name}", 3)
        for config in (SDXL, alone):
            found = match(open_adapter(tmp_path), config)
            parts = {part: 1} if config is SDXL else {"text_encoder": 1}
            assert (found.parts, found.layout) == (parts, "PEFT")
            found.check()
        report = inspect(tmp_path)
        assert (report.layout, report.base, report.problems) == ("PEFT", base, {})
        assert report.path == str(tmp_path / "adapter_model.safetensors")
        # Without them it may be of either, where there are two.
        settings.pop("auto_mapping")
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        assert match(open_adapter(tmp_path), SDXL).unknown == (name,)
    (tmp_path / "model_index.json").touch()  # the folder of a model, with an adapter in it
    assert inspect(tmp_path) is None


def test_what_peft_says_of_other_networks_changes_no_name(tmp_path):
    name = "base_model.model.conv_in"
    file = lora(name, ".lora_A.weight", ".lora_B.weight", (64, 4, 3, 3), rank=4)
    save_file(file, tmp_path / "adapter_model.safetensors")
    for said in ({"base_model_class": "UNet2DConditionModel"}, {"base_model_class": ["x"]}, [], 3):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"auto_mapping": said}))
        (change,) = open_adapter(tmp_path).changes
        assert change.name == name


def test_ranks_and_alphas_are_those_of_each_place(tmp_path):
    file = lora("lora_unet_conv_in", ".lora_down.weight", ".lora_up.weight", (64, 4, 3, 3), 2)
    file |= lora("lora_unet_conv_out", ".lora_down.weight", ".lora_up.weight", (4, 64, 3, 3), 8)
    file["lora_unet_conv_in.alpha"] = np.float16(1)
    file["lora_unet_conv_out.alpha"] = np.full((1,), 2, np.int64)
    save_file({k: np.asarray(v) for k, v in file.items()}, tmp_path / "x.safetensors")
    changes = {change.name: change for change in open_adapter(tmp_path / "x.safetensors").changes}
    assert changes["lora_unet_conv_in"].scale == 0.5
    assert changes["lora_unet_conv_out"].scale == 0.25


def test_weights_and_biases_of_one_place(tmp_path):
    name = "lora_unet_conv_in"
    file = lora(name, ".lora_down.weight", ".lora_up.weight", (64, 4, 3, 3), 2)
    save_file(file | {f"{name}.diff_b": numbers(64)}, tmp_path / "x.safetensors")
    found = match(open_adapter(tmp_path / "x.safetensors"), wide(TINY))
    assert {entry.path for _, _, entry in found.matched} == {"conv_in/kernel", "conv_in/bias"}


def wide(config):
    return replace(config, unet=replace(config.unet, widths=(64, 128)))


def saved(tmp_path, arrays, metadata=None):
    path = tmp_path / "x.safetensors"
    save_file({k: np.asarray(v, np.float32) for k, v in arrays.items()}, path, metadata)
    return path


GOOD = {
    "lora_unet_conv_in.lora_down.weight": np.ones((2, 4, 3, 3)),
    "lora_unet_conv_in.lora_up.weight": np.ones((32, 2, 1, 1)),
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_unet_conv_out.lora_up.weight": np.ones((4, 2))}, "not whole.*conv_out.lora_up"),
        ({"lora_unet_conv_out.alpha": 1}, "not whole.*conv_out.alpha alone"),
        ({"lora_unet_conv_in.lora_B.weight": np.ones((32, 2))}, "are the same"),
        ({"lora_unet_conv_in.alpha": [1, 2]}, "not one number"),
        ({"lora_unet_conv_in.alpha": np.nan}, "is nan"),
        ({"lora_unet_conv_in.lora_up.weight": np.ones((32, 3, 1, 1))}, "do not fit together"),
        ({"lora_unet_conv_in.lora_up.weight": np.ones(())}, "do not fit together"),
        ({"unet.conv_in.oft_R.weight": np.ones((2, 2))}, "the kind PEFT's OFT"),
        ({"unet.conv_in.ia3_l": np.ones((32, 1))}, "the kind PEFT's IA3"),
        ({"lora_unet_conv_in.on_input": np.ones(1)}, r"not whole.*conv_in.on_input alone"),
        (
            {"lora_unet_conv_in.on_input": np.ones(2), "lora_unet_conv_in.weight": np.ones(4)},
            r"on_input' is \(2,\), not one number",
        ),
        ({"lora_unet_conv_out.a1.weight": np.ones((2, 2))}, r"not whole.*a1.weight alone"),
        (
            {
                f"lora_unet_conv_out.{name}.weight": np.ones((4, 2))
                for name in ("a1", "a2", "b1", "b2")
            },
            "do not fit together",
        ),
        ({"lora_unet_conv_out.oft_blocks": np.ones((2, 2, 3))}, "do not fit together"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, change, said):
    with pytest.raises(WeightsError, match=said):
        open_adapter(saved(tmp_path, GOOD | change))


def test_rotations_keep_lengths_and_angles(tmp_path):
    """OFT and BOFT: the products of the columns of a weight are what they were."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(16, 6, 3, 3)).astype(np.float32)
    flat = weight.reshape(16, -1)
    for name, shape in (("OFT", (4, 4, 4)), ("BOFT", (3, 4, 4, 4)), ("BOFT", (4, 8, 2, 2))):
        blocks = rng.normal(0, 0.5, shape).astype(np.float32)
        (change,) = open_adapter(saved(tmp_path, {"x.oft_blocks": blocks})).changes
        assert (change.description, change.scale, change.rank) == (name, 0.0, None)
        assert fits(change.kind, change.shapes, weight.shape)
        found = applied(change.kind, change.factors(), weight, change.scale, 1.0).reshape(16, -1)
        assert np.abs(found - flat).max() > 0.5
        np.testing.assert_allclose(found.T @ found, flat.T @ flat, atol=2e-5)
        lengths = np.full((16, 1, 1, 1), 2)
        path = saved(tmp_path, {"x.oft_blocks": blocks, "x.rescale": lengths})
        (longer,) = open_adapter(path).changes
        twice = applied(longer.kind, longer.factors(), weight, longer.scale, 1.0)
        np.testing.assert_allclose(twice.reshape(16, -1), 2 * found, rtol=1e-6)
        path = saved(tmp_path, {"x.oft_blocks": blocks, "x.alpha": 1e-4})
        (bound,) = open_adapter(path).changes
        nearly = applied(bound.kind, bound.factors(), weight, bound.scale, 1.0).reshape(16, -1)
        assert 1e-5 < np.abs(nearly - flat).max() < 0.01
        assert not fits(change.kind, change.shapes, (32, 6, 3, 3))
    for shape in ((2, 4, 3, 3), (4, 4, 4, 4)):  # of odd size; more stages than there are blocks for
        (change,) = open_adapter(saved(tmp_path, {"x.oft_blocks": np.ones(shape)})).changes
        assert not fits(change.kind, change.shapes, (shape[1] * shape[2], 6))


def test_rows_and_columns_of_ia3(tmp_path):
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    for on_input, lengths in ((0, [1, 0, -1]), (1, [1, 0, -1, 2])):
        path = saved(tmp_path, {"x.weight": lengths, "x.on_input": on_input})
        (change,) = open_adapter(path).changes
        lengths = np.array(lengths, np.float32)
        wanted = weight * (1 + 0.5 * (lengths if on_input else lengths[:, None]))
        found = applied(change.kind, change.factors(), weight, change.scale, 0.5)
        np.testing.assert_array_equal(found, wanted)
        assert fits(change.kind, change.shapes, (3, 4))
        assert not fits(change.kind, change.shapes, (4, 3))


def test_integers_and_empty_factors_are_no_changes(tmp_path):
    path = tmp_path / "x.safetensors"
    for array in (np.ones((2, 4, 3, 3), np.int8), np.ones((0, 4, 3, 3), np.float32)):
        save_file(
            {
                f"lora_unet_conv_in.{k}": v
                for k, v in (
                    ("lora_down.weight", array),
                    ("lora_up.weight", np.ones((32, len(array), 1, 1), np.float32)),
                )
            },
            path,
        )
        with pytest.raises(WeightsError, match=r"no weights|do not fit"):
            open_adapter(path)


def test_what_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no adapter: none of its 1 tensors"):
        open_adapter(saved(tmp_path, {"model.diffusion_model.out.2.bias": [0]}))
    with pytest.raises(TypeError, match="path of a file"):
        open_adapter(7)
    with pytest.raises(FileNotFoundError):
        open_adapter(tmp_path / "none.safetensors")


# --- matching -------------------------------------------------------------------------


def refused(path, config=TINY, *, said, allow_partial=False):
    with pytest.raises(WeightsError, match=said) as caught:
        match(open_adapter(path), config).check(allow_partial)
    return str(caught.value)


def test_another_family_is_named(tmp_path):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    for features, family in ((768, "1.x"), (1024, "2.x"), (2048, "XL"), (40, "a model whose")):
        path = saved(tmp_path, lora(name, ".lora_down.weight", ".lora_up.weight", (640, features)))
        assert family in open_adapter(path).base
        message = refused(path, said=rf"made for .*{family}", allow_partial=True)
        assert "64 features a token" in message


def test_the_second_text_encoder_is_of_xl(tmp_path):
    name = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    path = saved(tmp_path, lora(name, ".lora_down.weight", ".lora_up.weight", (128, 64)))
    refused(path, said="made for Stable Diffusion XL")


def test_nothing_that_matches_is_an_error(tmp_path):
    path = saved(tmp_path, lora("blocks.0.attn.q", ".lora_A.weight", ".lora_B.weight", (8, 8)))
    message = refused(path, said="Nothing of", allow_partial=True)
    assert "none that is known" in message
    assert "blocks.0.attn.q" in message
    path = saved(tmp_path, lora("unet.conv_in", ".lora_A.weight", ".lora_B.weight", (8, 8)))
    assert "Its layout is diffusers" in refused(path, said="Nothing of")


def test_a_part_that_matches_is_an_error_unless_it_is_allowed(tmp_path):
    other = lora("lora_unet_conv_between", ".lora_down.weight", ".lora_up.weight", (8, 8))
    path = saved(tmp_path, GOOD | other | {"bundle_emb.x.string_to_param.*": np.ones((2, 64))})
    message = refused(path, said="in part, 1 changes of it; nothing was merged; allow_partial")
    assert "2 unknown: bundle_emb.x.string_to_param.*, lora_unet_conv_between" in message
    found = match(open_adapter(path), TINY)
    found.check(allow_partial=True)
    assert str(found) == "x.safetensors: 1 in the unet; 2 unknown"


def test_another_shape_and_a_second_name_are_never_allowed(tmp_path):
    wrong = lora("lora_unet_conv_out", ".lora_down.weight", ".lora_up.weight", (4, 9, 3, 3))
    refused(saved(tmp_path, GOOD | wrong), said="1 of another shape", allow_partial=True)
    again = lora("unet.conv_in", ".lora_A.weight", ".lora_B.weight", (32, 4, 3, 3))
    refused(saved(tmp_path, GOOD | again), said="that another one changes", allow_partial=True)
    bias = {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.diff_b": [0] * 32}
    refused(saved(tmp_path, GOOD | bias), said="has no bias", allow_partial=True)


def test_the_last_layer_of_openclip_is_known_and_not_used(tmp_path):
    name = "lora_te_text_model_encoder_layers_2_mlp_fc1"
    last = lora(name, ".lora_down.weight", ".lora_up.weight", (128, 64))
    good = lora("lora_unet_conv_in", ".lora_down.weight", ".lora_up.weight", (64, 4, 3, 3))
    found = match(open_adapter(saved(tmp_path, good | last)), TINY_2)
    found.check()
    assert found.unused == (name,)
    assert match(open_adapter(saved(tmp_path, last)), TINY).unknown == (name,)


def test_strengths(tmp_path):
    path = write(tmp_path / "x.safetensors", "kohya", TINY)

    def strengths(given):
        (use,) = uses_of((given,), TINY, False)
        return dict(use.strengths)

    assert strengths(path) == {"unet": 1, "text_encoder": 1}
    assert strengths((str(path), 0.5)) == {"unet": 0.5, "text_encoder": 0.5}
    both = {"unet": 0.8, "text_encoder": -0.5}
    assert strengths((open_adapter(path), both)) == both
    for wrong, error, said in (
        ((path, "much"), TypeError, "strength"),
        ((path, float("nan")), ValueError, "strength"),
        ((path, {"unet": 1}), ValueError, "the text_encoder too"),
        ((path, {"unit": 1}), ValueError, "unit"),
        ((path, 1, 2), TypeError, "a pair"),
        (7, TypeError, "a pair"),
    ):
        with pytest.raises(error, match=said):
            strengths(wrong)


# --- inspecting -----------------------------------------------------------------------


def test_inspect_of_1x(tmp_path):
    metadata = {
        "ss_tag_frequency": json.dumps(
            {"a": {"sketch": 3, "ink ": 9}, "b": {"sketch": 7, "x": "?"}}
        ),
        "ss_base_model_version": "sd_v1",
        "ss_v2": "None",
        "modelspec.title": "t" * 999,
    }
    path = write(tmp_path / "x.safetensors", "kohya", SD_1, metadata)
    report = inspect(path)
    assert report.good
    assert (report.base, report.layout) == ("Stable Diffusion 1.x", "kohya")
    assert report.parts == {
        "unet": len(PLACES["unet"]),
        "text_encoder": len(PLACES["text_encoder"]),
    }
    assert report.kinds == {"LoRA": 8, "LoCon": 3}
    assert (report.ranks, report.alphas) == ((4, 4), (2, 2))
    assert report.words == {"sketch": 10, "ink": 9}
    assert report.said == {
        "modelspec.title": "t" * 200 + "...",
        "ss_base_model_version": "sd_v1",
    }
    assert report.unsupported is None
    json.dumps(report.to_dict())


def test_inspect_of_what_has_no_model_here(tmp_path):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    path = saved(tmp_path, lora(name, ".lora_down.weight", ".lora_up.weight", (640, 40)))
    report = inspect(path)
    assert report.good
    assert "a model whose context has 40 features" in report.unsupported


@pytest.mark.parametrize("model", list_presets())
def test_inspect_of_one_for_a_model_in_the_package(tmp_path, model):
    config = open_checkpoint(PRESETS / model).config
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    shape = config.unet.widths[1], config.unet.context_width
    path = saved(tmp_path, lora(name, ".lora_down.weight", ".lora_up.weight", shape))
    report = inspect(path)
    assert (report.good, report.unsupported, report.parts) == (True, None, {"unet": 1})
    assert f"{config.unet.context_width} features" in report.base
    wide = lora(name, ".lora_down.weight", ".lora_up.weight", (shape[0] + 8, shape[1]))
    assert list(inspect(saved(tmp_path, wide)).problems) == ["misshapen"]
    vectors = np.zeros((2, config.text_encoder.width), np.float32)
    report = inspect(saved(tmp_path, {"emb_params": vectors}))
    assert (report.good, report.unsupported) == (True, None)


def test_inspect_of_one_for_xl(tmp_path):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    path = saved(tmp_path, lora(name, ".lora_down.weight", ".lora_up.weight", (640, 2048)))
    report = inspect(path)
    assert (report.good, report.unsupported) == (True, None)
    assert report.base == "Stable Diffusion XL"
    name = "lora_te2_text_model_encoder_layers_31_mlp_fc1"
    path = saved(tmp_path, lora(name, ".lora_down.weight", ".lora_up.weight", (5120, 1280)))
    report = inspect(path)
    assert (report.good, report.unsupported, report.base) == (True, None, "Stable Diffusion XL")


def test_inspect_finds_what_is_wrong(tmp_path):
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    file = lora(name, ".lora_down.weight", ".lora_up.weight", (320, 768))
    file[f"{name}.lora_up.weight"][0, 0] = np.inf
    file |= lora("lora_unet_nowhere", ".lora_down.weight", ".lora_up.weight", (8, 8))
    path = saved(tmp_path, file, {"ss_tag_frequency": "[" * 100_000})
    report = inspect(path)
    assert not report.good
    assert report.words == {}
    assert report.problems["unknown"] == ["lora_unet_nowhere"]
    assert "lora_up" in report.problems["not finite"][0]
    assert "not finite" not in inspect(path, numbers=False).problems
    assert inspect(saved(tmp_path, {"x.weight": [1]})) is None
    assert "do not fit together" in inspect(saved(tmp_path, {"x.oft_blocks": [1]})).error


def test_thousands_of_names_are_a_short_message(tmp_path):
    file = {f"lora_unet_{n}.diff": np.zeros(1, np.float32) for n in range(20_000)}
    save_file(file, tmp_path / "x.safetensors")
    assert len(refused(tmp_path / "x.safetensors", said="Nothing of")) < 1000


def test_an_adapter_is_a_value(tmp_path):
    path = write(tmp_path / "x.safetensors", "kohya", TINY)
    adapter = open_adapter(path)
    assert isinstance(adapter, Adapter)
    with pytest.raises(AttributeError):
        adapter.changes = ()


@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.fuzz)])
def test_files_of_any_names_and_shapes_are_refused_or_merged(tmp_path, count):
    names = [*PLACES["unet"][:5], "nowhere"]
    ends = [*ROLES, *(end for end in ROLES if ROLES[end] in ("up", "down", "alpha")), ".bias"]
    path = tmp_path / "x.safetensors"
    merged = 0
    for number in range(count):
        rng = np.random.default_rng(number)
        good = tensors("kohya", TINY)
        for _ in range(rng.integers(1, 4)):
            key = rng.choice(list(good))
            match rng.integers(4):
                case 0:
                    del good[key]
                case 1:
                    shape = rng.choice([0, 1, 2, 3, 4, 32, 64], rng.integers(0, 5))
                    good[key] = np.zeros(tuple(map(int, shape)), np.float32)
                case 2:
                    good[key] = good[key].astype(rng.choice(["f2", "f8", "i4", "?", "u1"]))
                case 3:
                    name = f"lora_unet_{rng.choice(names).replace('.', '_')}"
                    shape = rng.choice([1, 2, 4, 32, 64], rng.integers(0, 5))
                    good[name + rng.choice(ends)] = np.ones(tuple(map(int, shape)), np.float32)
        save_file(good, path)
        try:
            (use,) = uses_of((path,), TINY, bool(number % 2))
        except WeightsError:
            continue
        merged += 1
        for change, _, entry in use.match.matched:
            weight = np.ones(entry.file_shape, np.float32)
            found = applied(change.kind, change.factors(), weight, change.scale, 1.0)
            assert found.shape == weight.shape
    assert count / 50 < merged < count
