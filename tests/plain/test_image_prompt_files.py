"""Files of IP-Adapters, T2I-Adapters and image encoders, looked at without Keras."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import TINY

from keras_sd import addons
from keras_sd.adapter_configs import FeatureConfig, ImageEncoderConfig, ImagePromptConfig
from keras_sd.adapters.feature_files import holds_features, is_features, open_features
from keras_sd.adapters.fitting import feature_misfits, prompt_misfits
from keras_sd.adapters.image_encoder_files import encoder_file_of, is_encoder, open_image_encoder
from keras_sd.adapters.image_prompt_files import check_pair, is_image_prompt, open_image_prompt
from keras_sd.cli import main
from keras_sd.config import SD_1, SD_2, SDXL
from keras_sd.weights.names import steering, under
from keras_sd.weights.readers import TensorFile, WeightsError

ENCODER = ImageEncoderConfig(28, 14, 32, 2, 2, 48, "quick_gelu", 1e-5, 24)


def zeros(table):
    return {entry.name: np.zeros(entry.file_shape, "float16") for entry in table}


def write(path, tensors):
    save_file(tensors, path)
    return path


def config(kind="base", model=TINY, **changes):
    unet = model.unet
    widths = tuple(width for _, width in unet.cross_attentions)
    numbers = {"feature_width": 1024}
    if kind == "plus":
        numbers = {"feature_width": 1280, "width": 24, "depth": 2, "heads": 1, "mlp_width": 48}
    return ImagePromptConfig(kind, widths, unet.context_width, 4, **numbers | changes)


def prompt(path, kind="base", by_diffusers=False, model=TINY, **changes):
    table = steering.image_prompt(config(kind, model, **changes), model.unet, by_diffusers)
    return write(path, zeros(table))


# --- IP-Adapters ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["base", "plus"])
@pytest.mark.parametrize("by_diffusers", [False, True])
def test_a_file_says_its_kind_its_base_and_its_encoder(tmp_path, kind, by_diffusers):
    file = open_image_prompt(prompt(tmp_path / "x.safetensors", kind, by_diffusers))
    assert is_image_prompt(file.tensors)
    assert (file.kind, file.context, file.tokens) == (kind, 64, 4)
    assert (file.base, file.encoder) == ("a model with 64 features a token", "ViT-H/14")
    assert file.config(TINY) == config(kind)
    assert not file.part(config(kind), TINY).problems()
    assert not prompt_misfits(config(kind), TINY)
    other = open_image_prompt(prompt(tmp_path / "y.safetensors", kind, feature_width=1664))
    assert other.encoder == ("ViT-bigG/14" if kind == "plus" else "one of 1664 features a picture")


@pytest.mark.parametrize(
    ("model", "attentions", "ids", "middle"),
    [(SD_1, 16, 32, "31"), (SDXL, 70, 140, "139")],
)
def test_attentions_are_counted_as_the_published_files_count_them(model, attentions, ids, middle):
    unet = model.unet
    assert len(unet.cross_attentions) == attentions
    table = steering.image_prompt(config(model=model), unet)
    found = {e.path: e.name.split(".")[1] for e in table if e.name.endswith("to_k_ip.weight")}
    assert sorted(map(int, found.values())) == list(range(1, ids, 2))
    places = [name for name, _ in unet.cross_attentions]
    last = len(places) - 1 - places[::-1].index("middle")
    assert found[f"key_{last}/kernel"] == middle
    assert found["key_0/kernel"] == "1"


def test_published_files_have_these_numbers():
    def count(table):
        return sum(int(np.prod(entry.shape)) for entry in table)

    assert count(steering.image_encoder(ImageEncoderConfig())) == 632_076_800
    big = ImageEncoderConfig(width=1664, depth=48, mlp_width=8192, projection_width=1280)
    assert count(steering.image_encoder(big)) == 1_844_907_264
    for kind, blocks, factor, wanted in (
        ("full", 2, 8, 77_369_280),
        ("full_xl", 2, 16, 79_028_160),
        ("light", 4, 8, 18_689_200),
    ):
        numbers = FeatureConfig(kind, factor=factor, blocks=blocks)
        for by_diffusers in (False, True):
            table = steering.features(numbers, by_diffusers)
            assert count(table) == wanted
            assert len({entry.name for entry in table}) == len(table)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (
            {"ip_adapter.0.to_q_lora.down.weight": (4, 8), "image_proj.proj.0.weight": (4, 8)},
            r"kind FaceID, which takes the vector of a face, as its 'ip_adapter\.0\.to_q_lora",
        ),
        ({"image_proj.perceiver_resampler.proj_in.weight": (4, 8)}, "kind FaceID-plus"),
        ({"image_proj.proj.0.weight": (4, 8), "image_proj.proj.3.weight": (4,)}, "full-face"),
        ({"image_proj.ff.net.0.proj.weight": (4, 8)}, "kind full-face"),
        ({"image_proj.proj.0.weight": (4, 8)}, "FaceID or portrait"),
    ],
)
def test_relatives_are_named(tmp_path, more, named):
    tensors = {name: np.zeros(shape, "float16") for name, shape in more.items()}
    tensors["ip_adapter.1.to_k_ip.weight"] = np.zeros((8, 64), "float16")
    with pytest.raises(WeightsError, match=f"{named}.*reads those of the kinds base and plus"):
        open_image_prompt(write(tmp_path / "x.safetensors", tensors))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ip_adapter.1.to_k_ip.weight": None}, r"ip_adapter\.1\.to_k_ip\.weight is None"),
        ({"image_proj.proj.weight": (3,)}, r"image_proj\.proj\.weight is \(3,\), not of 2"),
        ({"image_proj.latents": (0, 2, 3)}, r"image_proj\.latents is \(0, 2, 3\)"),
    ],
)
def test_a_file_that_is_not_whole_says_what_it_lacks(tmp_path, change, named):
    tensors = zeros(steering.image_prompt(config(), TINY.unet))
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.zeros(shape, "float16")
    with pytest.raises(WeightsError, match=named):
        open_image_prompt(write(tmp_path / "x.safetensors", tensors))


def test_a_file_for_another_family_or_another_encoder_is_refused_by_name(tmp_path):
    file = open_image_prompt(prompt(tmp_path / "x.safetensors", model=SD_1))
    with pytest.raises(WeightsError, match=r"for Stable Diffusion 1\.x .*sd-2.* has 1024"):
        file.config(SD_2)
    assert prompt_misfits(file.config(SD_1), SD_2) == [
        "context_width is 768, not 1024",
    ]
    with pytest.raises(WeightsError, match=r"encoder ViT-H/14; .* is one of 32 features a patch"):
        check_pair(file, open_image_encoder(encoder(tmp_path / "encoder")))
    with pytest.raises(WeightsError, match="is no IP-Adapter: none of its 1 tensors"):
        open_image_prompt(write(tmp_path / "y.safetensors", {"x": np.zeros(1, "float16")}))


# --- image encoders -------------------------------------------------------------------


def encoder(folder, **changes):
    folder.mkdir(exist_ok=True)
    told = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "num_attention_heads": 2,
        "hidden_act": "quick_gelu",
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(told))
    write(folder / "model.safetensors", zeros(steering.image_encoder(ENCODER)))
    return folder


def test_an_encoder_is_read_from_its_folder_and_the_one_above(tmp_path):
    folder = encoder(tmp_path / "image_encoder")
    for path in (folder, tmp_path, folder / "model.safetensors"):
        file = open_image_encoder(path)
        assert file.config == ENCODER
        assert not file.part().problems()
        assert is_encoder(file.tensors)
    whole = {
        "model_type": "clip",
        "vision_config": json.loads((folder / "config.json").read_text()),
    }
    (folder / "config.json").write_text(json.dumps(whole))
    assert open_image_encoder(folder).config == ENCODER


@pytest.mark.parametrize(
    ("sizes", "name", "heads", "activation"),
    [
        ((1024, 24, 4096, 768), "ViT-L/14", 16, "quick_gelu"),
        ((1280, 32, 5120, 1024), "ViT-H/14", 16, "gelu"),
        ((1664, 48, 8192, 1280), "ViT-bigG/14", 16, "gelu"),
    ],
)
def test_those_that_are_used_are_known_by_their_shapes(sizes, name, heads, activation):
    width, depth, mlp_width, projection_width = sizes
    numbers = {"width": width, "depth": depth, "mlp_width": mlp_width}
    wanted = ImageEncoderConfig(
        **numbers, projection_width=projection_width, heads=heads, activation=activation
    )
    tensors = {
        e.name: np.broadcast_to(np.float16(0), e.file_shape) for e in steering.image_encoder(wanted)
    }
    tensors["vision_model.embeddings.position_ids"] = np.arange(257)[None]
    file = TensorFile(Path("x"), "safetensors", tensors, {})
    found = encoder_file_of(file, Path("nowhere/x.safetensors"))
    assert (found.config, found.name, found.left_out) == (wanted, name, ())
    assert not found.part().problems()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 64}, "hidden_size is 64, not 32, as the weights beside it have"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', not 'quick_gelu' or 'gelu'"),
        ({"num_attention_heads": 5}, "width 32 is not a multiple of its 5 heads"),
        ({"model_type": "siglip"}, "whose heads and activation no shape tells"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, changes, named):
    with pytest.raises(WeightsError, match=named):
        open_image_encoder(encoder(tmp_path, **changes))


def test_what_is_no_encoder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a folder without model\.safetensors"):
        open_image_encoder(tmp_path)
    path = write(tmp_path / "x.safetensors", {"x": np.zeros(1, "float16")})
    with pytest.raises(WeightsError, match="is no image encoder: it has no vision_model"):
        open_image_encoder(path)
    tensors = zeros(steering.image_encoder(ENCODER))
    del tensors["visual_projection.weight"]
    with pytest.raises(WeightsError, match=r"not whole: visual_projection\.weight is None"):
        open_image_encoder(write(path, tensors))
    tensors = zeros(steering.image_encoder(ENCODER))
    tensors["vision_model.embeddings.position_embedding.weight"] = np.zeros((4, 32), "float16")
    with pytest.raises(WeightsError, match="of 3 channels and 4 places"):
        open_image_encoder(write(path, tensors))


# --- T2I-Adapters ---------------------------------------------------------------------

T2I = {
    "full": FeatureConfig(),
    "grey": FeatureConfig(hint_channels=1),
    "full_xl": FeatureConfig("full_xl", factor=16),
    "light": FeatureConfig("light", blocks=4),
}


def small(numbers):
    widths = tuple(width // 40 for width in numbers.widths)
    return FeatureConfig(
        numbers.kind, widths, numbers.hint_channels, numbers.factor, numbers.blocks
    )


@pytest.mark.parametrize("name", T2I)
@pytest.mark.parametrize(
    ("by_diffusers", "prefix"), [(True, "adapter."), (True, ""), (False, ""), (False, "adapter.")]
)
def test_a_t2i_adapter_says_its_kind(tmp_path, name, by_diffusers, prefix):
    numbers = small(T2I[name])
    table = under(prefix, "", steering.features(numbers, by_diffusers))
    path = write(tmp_path / "x.safetensors", zeros(table))
    file = open_features(path)
    assert is_features(file.tensors)
    assert holds_features(path)
    assert (file.layout, file.prefix) == ("diffusers" if by_diffusers else "original", prefix)
    assert file.config == numbers
    assert not file.part().problems()


def test_a_t2i_adapter_fits_models_of_its_family():
    for name, model in (("full", SD_1), ("full", SD_2), ("light", SD_1), ("full_xl", SDXL)):
        assert not feature_misfits(T2I[name], model), name
    assert feature_misfits(T2I["full_xl"], SD_1) == [
        "pixels of a cell is (16, 16, 32, 32), not (8, 16, 32, 64)"
    ]
    assert feature_misfits(T2I["full"], SDXL) == [
        "pixels of a cell is (8, 16, 32, 64), not (16, 16, 32, 32)"
    ]
    assert feature_misfits(FeatureConfig(widths=(320, 640)), SD_1) == [
        "widths is (320, 640), not (320, 640, 1280, 1280)",
        "pixels of a cell is (8, 16), not (8, 16, 32, 64)",
    ]


def test_a_t2i_adapter_follows_the_config_beside_it(tmp_path):
    numbers = FeatureConfig("full", (8, 12), 3, 4)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    write(path, zeros(under("adapter.", "", steering.features(numbers, True))))
    with pytest.raises(WeightsError, match="48 numbers a cell, which is none of 64, 192, 256"):
        open_features(path)
    told = {"_class_name": "T2IAdapter", "downscale_factor": 4}
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert open_features(tmp_path).config == numbers
    assert holds_features(tmp_path)
    for change in ({"downscale_factor": 3}, {"adapter_type": "light_adapter"}):
        (tmp_path / "config.json").write_text(json.dumps(told | change))
        with pytest.raises(WeightsError, match="is of another T2I-Adapter than the weights"):
            open_features(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    assert not holds_features(tmp_path)


def test_what_is_no_t2i_adapter_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder without diffusion_pytorch_model"):
        open_features(tmp_path)
    path = write(tmp_path / "x.safetensors", {"x": np.zeros(1, "float16")})
    assert not holds_features(path)
    with pytest.raises(WeightsError, match="is no T2I-Adapter: none of its 1 tensors"):
        open_features(path)
    tensors = zeros(steering.features(small(T2I["full"]), True))
    tensors["conv_in.weight"] = np.zeros(3, "float16")
    with pytest.raises(WeightsError, match=r"conv_in\.weight is \(3,\), not the kernel"):
        open_features(write(path, tensors))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ImageEncoderConfig(image_size=30), "30 pixels are not a multiple of 14"),
        (lambda: ImageEncoderConfig(heads=7), "not a multiple of its 7 heads"),
        (lambda: ImageEncoderConfig(activation="relu"), "activation 'relu'"),
        (lambda: ImagePromptConfig("face"), "kind 'face'"),
        (lambda: ImagePromptConfig("plus"), "width is 0"),
        (lambda: ImagePromptConfig(widths=(0,)), r"widths is \(0,\)"),
        (lambda: FeatureConfig("half"), "kind 'half'"),
        (lambda: FeatureConfig(hint_channels=2), "hint_channels is 2"),
        (lambda: FeatureConfig("light", (6,)), "not multiples of 4"),
    ],
)
def test_numbers_that_cannot_be_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


# --- inspect --------------------------------------------------------------------------


def looked_at(path, capsys, status=0):
    """What the command says of a file, in one line and for programs."""
    assert main(["inspect", str(path)]) == status
    shown = " ".join(capsys.readouterr().out.split())
    assert main(["inspect", "--json", str(path)]) == status
    return shown, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_inspect_says_what_an_ip_adapter_needs(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(addons, "_families", lambda: [TINY])
    path = prompt(tmp_path / "x.safetensors", kind)
    shown, told = looked_at(path, capsys)
    assert "x.safetensors: an IP-Adapter, made for a model with 64 features" in shown
    assert f"kind IP-Adapter, {kind} (1)" in shown
    assert "It needs the image encoder ViT-H/14." in shown
    assert "every tensor has its layer, every number is finite" in shown
    assert (told["good"], told["parts"].keys()) == (True, {"image_prompt"})
    monkeypatch.setattr(addons, "_families", lambda: [])
    assert "it was made for a model with 64 features a token" in looked_at(path, capsys)[0]


def test_inspect_says_what_is_wrong_with_an_ip_adapter(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(addons, "_families", lambda: [TINY])
    tensors = zeros(steering.image_prompt(config(), TINY.unet))
    tensors["ip_adapter.3.to_k_ip.weight"][:] = np.nan
    del tensors["ip_adapter.1.to_v_ip.weight"]
    shown, told = looked_at(write(tmp_path / "x.safetensors", tensors), capsys, 1)
    assert "missing! 1: ip_adapter.1.to_v_ip.weight" in shown
    assert "not finite! 1: ip_adapter.3.to_k_ip.weight" in shown
    assert not told["good"]
    tensors["image_proj.proj.0.weight"] = np.zeros((4, 8), "float16")
    shown, told = looked_at(write(tmp_path / "x.safetensors", tensors), capsys, 1)
    assert "FaceID or portrait" in told["error"]


def test_inspect_knows_t2i_adapters_and_image_encoders(tmp_path, capsys):
    path = write(tmp_path / "x.safetensors", zeros(steering.features(small(T2I["light"]), True)))
    shown, told = looked_at(path, capsys)
    assert "a T2I-Adapter, made for Stable Diffusion 1.x or 2.x" in shown
    assert "can be used no: widths is (8, 16, 32, 32), not (320, 640, 1280, 1280)" in shown
    assert told["kinds"] == {"T2I-Adapter, light": 1}
    shown, told = looked_at(encoder(tmp_path / "e") / "model.safetensors", capsys)
    assert "an image encoder, one of 32 features a patch and 24 a picture" in shown
    assert (told["good"], told["parts"].keys()) == (True, {"image_encoder"})
