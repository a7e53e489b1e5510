"""SDXL in files: names, shapes, what is recognised, and writing and reading in every layout."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from tiny import MERGES, TINY, TINY_LCM, TINY_REFINER, TINY_SSD, TINY_XL

from keras_sd.adapters.names import names_of
from keras_sd.checks import SettingError
from keras_sd.conditioning import Conditioning
from keras_sd.config import (
    SD_1,
    SD_2,
    SDXL,
    SDXL_LCM,
    SDXL_LIGHTNING,
    SDXL_REFINER,
    SDXL_TURBO,
    SEGMIND_VEGA,
    SSD_1B,
    ModelConfig,
    NoiseConfig,
    UNetConfig,
)
from keras_sd.request import Request
from keras_sd.weights.checkpoint import open_checkpoint, open_part
from keras_sd.weights.diffusers_folder import write_folder
from keras_sd.weights.names import diffusers, original, own
from keras_sd.weights.readers import WeightsError
from keras_sd.weights.recognise import recognise
from keras_sd.weights.save import save_checkpoint, save_preset
from keras_sd.weights.vocabulary import tokenizers_of

FULL = [SDXL, SDXL_REFINER, SDXL_LCM, SSD_1B, SEGMIND_VEGA]
SMALL = [TINY_XL, TINY_REFINER, TINY_SSD, TINY_LCM]


def named(config):
    return config.name


def file_of(config):
    """The shapes of a single file."""
    tables = [
        *original.text_encoders(config).values(),
        original.unet(config.unet),
        original.autoencoder(config.autoencoder),
    ]
    return {entry.name: entry.file_shape for table in tables for entry in table}


def arrays(config, seed=0):
    dice = np.random.default_rng(seed)
    return {
        entry.name: dice.standard_normal(entry.shape, np.float32)
        for table in own.tables(config).values()
        for entry in table
    }


# Names


@pytest.mark.parametrize(
    ("config", "tensors", "numbers"),
    [
        (SDXL, 1680, 2_567_463_684),
        (SDXL_REFINER, 1220, 2_259_526_660),
        (SDXL_LCM, 1681, 2_567_463_684 + 256 * 320),
        (SSD_1B, 944, 1_331_334_404),
        (SEGMIND_VEGA, 564, 745_225_604),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_the_tables_have_as_many_tensors_as_the_published_files(config, tensors, numbers):
    table = diffusers.unet(config.unet)
    assert len(table) == tensors
    assert sum(prod(entry.shape) for entry in table) == numbers
    assert len({entry.name for entry in original.unet(config.unet)}) == tensors


def test_the_text_encoders_and_the_autoencoder_are_the_published_ones():
    tables = own.tables(SDXL)
    counts = {part: sum(prod(e.shape) for e in table) for part, table in tables.items()}
    del counts["unet"]
    assert counts == {
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "autoencoder": 83_653_863,
    }


@pytest.mark.parametrize(
    ("config", "name", "shape"),
    [
        (SDXL, "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", (768,)),
        (SDXL, "conditioner.embedders.1.model.positional_embedding", (77, 1280)),
        (SDXL, "conditioner.embedders.1.model.text_projection", (1280, 1280)),
        (
            SDXL,
            "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight",
            (3840, 1280),
        ),
        (SDXL, "model.diffusion_model.label_emb.0.0.weight", (1280, 2816)),
        (SDXL, "model.diffusion_model.label_emb.0.2.bias", (1280,)),
        (
            SDXL,
            "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight",
            (1280, 2048),
        ),
        (SDXL, "model.diffusion_model.input_blocks.4.1.proj_in.weight", (640, 640)),
        (SDXL, "model.diffusion_model.output_blocks.2.2.conv.weight", (1280, 1280, 3, 3)),
        (SDXL_REFINER, "conditioner.embedders.0.model.ln_final.weight", (1280,)),
        (SDXL_REFINER, "model.diffusion_model.label_emb.0.0.weight", (1536, 2560)),
        (SDXL_REFINER, "model.diffusion_model.output_blocks.2.1.conv.weight", (1536, 1536, 3, 3)),
        (SDXL_LCM, "model.diffusion_model.time_embed.cond_proj.weight", (320, 256)),
        (
            SSD_1B,
            "model.diffusion_model.output_blocks.2.1.transformer_blocks.9.attn2.to_k.weight",
            (1280, 2048),
        ),
    ],
)
def test_names_are_those_of_the_published_files(config, name, shape):
    assert file_of(config)[name] == shape


def test_the_projection_is_kept_as_it_is_multiplied_with():
    # At full size it is square, and no shape would tell.
    assert file_of(TINY_XL)["conditioner.embedders.1.model.text_projection"] == (128, 48)
    (entry,) = (e for e in diffusers.text_encoder(TINY_XL.text_encoder_2) if "proj" in e.path)
    assert (entry.name, entry.file_shape) == ("text_projection.weight", (48, 128))


# What is recognised


@pytest.mark.parametrize("config", FULL, ids=named)
def test_models_are_recognised_from_their_shapes(config):
    found = recognise(file_of(config))
    assert found.config == config
    assert (found.notes, found.leftover, found.unsupported) == ((), (), None)
    assert found.prediction_from == "the family"
    assert found.family.startswith(("Stable Diffusion XL", "SSD-1B", "Segmind-Vega"))


def test_what_training_left_is_ignored_and_the_ends_of_clip_too():
    known = dict.fromkeys(
        (
            "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
            "conditioner.embedders.1.model.logit_scale",
            "denoiser.sigmas",
        ),
        (1,),
    )
    found = recognise({**file_of(SDXL), **known})
    assert set(found.ignored) | set(found.leftover) == set(known)
    assert found.leftover == ("denoiser.sigmas",)  # which is left out, with a note


def test_v_prediction_is_recognised_by_its_tensors():
    found = recognise({**file_of(SDXL), "v_pred": (0,), "ztsnr": (0,)}).config
    assert found.noise == replace(SDXL.noise, prediction="v", zero_terminal_snr=True)
    assert found.defaults.schedule == "trailing"
    assert recognise(file_of(SDXL), prediction="v").config.noise.prediction == "v"


def test_inpainting_has_nine_channels():
    config = replace(SDXL, unet=replace(SDXL.unet, in_channels=9))
    found = recognise(file_of(config))
    assert found.config.unet == config.unet
    assert found.family == "Stable Diffusion XL, inpainting"
    assert found.unsupported is None


def test_other_noise_is_not_run():
    found = recognise({**file_of(SDXL), "edm_mean": (1, 4, 1, 1), "edm_std": (1, 4, 1, 1)})
    assert "other noise" in found.unsupported


@pytest.mark.parametrize("config", [SDXL, SDXL_REFINER], ids=named)
def test_a_file_without_text_encoders_says_which_it_lacks(config):
    shapes = {n: s for n, s in file_of(config).items() if not n.startswith("conditioner.")}
    found = recognise(shapes)
    assert found.config == config
    assert [note.split(" give")[0] for note in found.notes] == [
        f"It has no {what};"
        for what in ("text encoder", "second text encoder")[: len(config.text_encoders)]
    ]


def test_a_unet_that_is_told_something_else_is_refused():
    shapes = file_of(SDXL)
    shapes["model.diffusion_model.label_emb.0.0.weight"] = (1280, 2817)
    with pytest.raises(WeightsError, match="told 2817 features beside its context"):
        recognise(shapes)


# Writing and reading


def as_file(config, folder):
    save_checkpoint(folder / "model.safetensors", config, arrays(config))
    return folder / "model.safetensors"


def as_folder(config, folder):
    write_folder(folder / "model", config, arrays(config), MERGES)
    return folder / "model"


def as_preset(config, folder):
    save_preset(folder / "model", config, arrays(config), MERGES, dtype=None)
    return folder / "model"


@pytest.mark.parametrize("write", [as_file, as_folder, as_preset])
@pytest.mark.parametrize("config", SMALL, ids=named)
def test_what_is_written_is_read(tmp_path, config, write):
    found = open_checkpoint(write(config, tmp_path))
    assert found.problems() == {}
    assert (found.unsupported, found.notes) == (None, ())
    assert list(found.parts) == list(config.parts)
    held = found.arrays()
    assert held.keys() == arrays(config).keys()
    assert all(np.array_equal(array, held[name]) for name, array in arrays(config).items())
    if write is as_file:  # which says neither how a run goes nor what the model is called
        config = replace(config, name=found.config.name, defaults=found.config.defaults)
    assert found.config == config


def test_each_encoder_has_a_padding_of_its_own(tmp_path):
    for config, pads in ((TINY_XL, ["end", "zero"]), (TINY_REFINER, ["zero"])):
        found = tokenizers_of(open_checkpoint(as_folder(config, tmp_path / config.name)))
        assert list(found) == list(config.text_encoders)
        assert [each.pad for each in found.values()] == pads
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        path = tmp_path / TINY_XL.name / "model" / name / "tokenizer_config.json"
        assert json.loads(path.read_text())["pad_token"] == pad


def test_a_tensor_of_the_second_encoder_that_lacks_is_named(tmp_path):
    lacking = {n: a for n, a in arrays(TINY_XL).items() if "layer_2/hidden/bias" not in n}
    with pytest.raises(WeightsError, match="text_encoder_2/layer_2/hidden/bias"):
        save_checkpoint(tmp_path / "x.safetensors", TINY_XL, lacking)


def test_an_autoencoder_of_another_file_takes_its_place(tmp_path):
    other = replace(SD_1, autoencoder=replace(TINY_XL.autoencoder, scale=0.5))
    small = replace(TINY, autoencoder=other.autoencoder)
    save_preset(tmp_path / "other", small, arrays(small, 1), MERGES, dtype=None)
    found = open_checkpoint(as_folder(TINY_XL, tmp_path), autoencoder=tmp_path / "other")
    assert found.config == TINY_XL
    name = "autoencoder/decoder/conv_in/kernel"
    np.testing.assert_array_equal(found.arrays()[name], arrays(small, 1)[name])
    open_part("autoencoder", tmp_path / "other", TINY_XL)


def test_the_second_text_encoder_may_come_from_elsewhere(tmp_path):
    other = arrays(TINY_XL, 1)
    folder = tmp_path / "other"
    write_folder(folder, TINY_XL, other, MERGES)
    mine = as_file(TINY_XL, tmp_path)
    for given in (folder / "text_encoder_2", folder / "text_encoder_2" / "model.safetensors"):
        found = open_checkpoint(mine, text_encoder_2=given).arrays()
        for name in ("text_encoder_2/projection/kernel", "text_encoder_2/layer_0/out/bias"):
            np.testing.assert_array_equal(found[name], other[name])
        name = "text_encoder/layer_0/out/bias"
        np.testing.assert_array_equal(found[name], arrays(TINY_XL)[name])
    with pytest.raises(WeightsError, match="width is 64, not 128"):
        open_checkpoint(mine, text_encoder_2=folder / "text_encoder")
    with pytest.raises(ValueError, match="tiny-refiner has no text_encoder_2"):
        open_part("text_encoder_2", folder / "text_encoder_2", TINY_REFINER)


def test_a_unet_that_is_told_the_scale_takes_the_place_of_one_that_is_not(tmp_path):
    folder = tmp_path / "lcm"
    write_folder(folder, TINY_LCM, arrays(TINY_LCM, 1), MERGES)
    found = open_checkpoint(as_folder(TINY_XL, tmp_path), unet=folder / "unet")
    assert found.config.unet == TINY_LCM.unet
    assert found.config.defaults.sampler == "lcm"
    assert (found.config.defaults.height, found.problems()) == (16, {})
    back = open_checkpoint(folder, unet=tmp_path / "model" / "unet")
    assert back.config.unet == TINY_XL.unet


def test_two_vocabularies_are_refused(tmp_path):
    folder = as_folder(TINY_XL, tmp_path)
    merges = folder / "tokenizer_2" / "merges.txt"
    merges.write_text(merges.read_text().replace("d o", "o d").replace("do g", "od g"))
    (folder / "tokenizer_2" / "vocab.json").unlink()
    with pytest.raises(WeightsError, match="the two tokenizers have other tokens"):
        open_checkpoint(folder)


def test_a_folder_whose_index_and_unet_disagree_is_refused(tmp_path):
    folder = as_folder(TINY_XL, tmp_path)
    path = folder / "model_index.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "requires_aesthetics_score": True}))
    with pytest.raises(WeightsError, match="what suits a UNet of 6 numbers"):
        open_checkpoint(folder)


# Adapters


def test_a_lora_names_both_text_encoders():
    names = names_of(SDXL)
    for name, part, path in (
        (
            "lora_te1_text_model_encoder_layers_11_mlp_fc1",
            "text_encoder",
            "layer_11/hidden/kernel",
        ),
        (
            "lora_te2_text_model_encoder_layers_31_self_attn_q_proj",
            "text_encoder_2",
            "layer_31/attention/query/kernel",
        ),
        (
            "text_encoder_2.text_model.encoder.layers.0.mlp.fc2",
            "text_encoder_2",
            "layer_0/out/kernel",
        ),
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k",
            "unet",
            "down_1_0/transformer/block_1/cross_attention/key/kernel",
        ),
        (
            "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2",
            "unet",
            "middle/transformer/block_9/feed_forward/out/kernel",
        ),
    ):
        place = names[name].place
        assert (place.part, place.weight.path, place.used) == (part, path, True)
    assert "lora_te_text_model_encoder_layers_0_mlp_fc1" not in names
    assert "text_model.encoder.layers.0.mlp.fc1" not in names  # of which of the two?


# Configs


@pytest.mark.parametrize("config", [*FULL, *SMALL, SDXL_TURBO, SDXL_LIGHTNING], ids=named)
def test_a_config_is_json_and_back(config):
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_other_models_are_written_as_before():
    for config in (SD_1, SD_2):
        data = config.to_dict()
        new = {"middle_depth", "up_depths", "pooled_width", "numbers", "number_width"}
        assert not new & data["unet"].keys()
        assert not {"penultimate", "projection_width"} & data["text_encoder"].keys()
        assert not {"text_encoder_2", "pad_token_2"} & data.keys()
        assert "empty_negative" not in data["defaults"]


def test_a_unet_has_one_config():
    usual = (10, 10, 10, 2, 2, 2, 0, 0, 0)
    assert replace(SDXL.unet, middle_depth=10, up_depths=usual) == SDXL.unet
    assert SSD_1B.unet.depth_up(2, 2) == 10
    assert SSD_1B.unet.depth_up(1, 0) == 2
    assert SDXL_REFINER.unet.depth_of_middle == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"numbers": 4}, "numbers are 5 or 6"),
        ({"pooled_width": 0}, "without one 0"),
        ({"up_depths": (1, 2)}, "not 9 whole numbers"),
        ({"middle_depth": -2}, "middle_depth"),
        ({"guidance_width": -1}, "guidance_width"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SDXL.unet, **change)


def test_the_encoder_has_to_give_the_vector_that_the_unet_takes():
    with pytest.raises(ValueError, match="pooled vector of 48 features, the unet expects 64"):
        replace(TINY_XL, unet=replace(TINY_XL.unet, pooled_width=64))
    assert UNetConfig().added_width == 0


# What it is told


def test_numbers_are_in_the_order_of_their_training():
    told = Conditioning(original_size=(1, 2), crop=(3, 4), target_size=(5, 6))
    assert told.numbers(6, (7, 8)) == (1, 2, 3, 4, 5, 6)
    assert told.numbers(6, (7, 8), negative=True) == (1, 2, 3, 4, 5, 6)
    assert Conditioning().numbers(6, (7, 8)) == (7, 8, 0, 0, 7, 8)
    assert Conditioning().numbers(5, (7, 8)) == (7, 8, 0, 0, 6.0)
    assert Conditioning().numbers(5, (7, 8), negative=True) == (7, 8, 0, 0, 2.5)
    assert Conditioning().numbers(0, (7, 8)) == ()
    less = Conditioning(negative_crop=(9, 9), aesthetic_score=1.5, negative_target_size=(1, 1))
    assert less.numbers(6, (7, 8), negative=True) == (7, 8, 9, 9, 1, 1)
    assert less.numbers(5, (7, 8)) == (7, 8, 0, 0, 1.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"original_size": (0, 8)}, "original_size is a whole number of at least 1|from 1"),
        ({"crop": 3}, "crop is two numbers"),
        ({"target_size": "1024x1024"}, "target_size is two numbers"),
        ({"aesthetic_score": 1e9}, "aesthetic_score"),
        ({"empty_negative": "none"}, "empty_negative is one of"),
        ({"refine_at": 1.5}, "refine_at"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Request.of("a cat", **settings)


def test_a_setting_that_a_model_is_not_told_is_refused():
    for counts, settings in (
        ((0,), {"crop": (0, 0)}),
        ((6,), {"aesthetic_score": 6.0}),
        ((5,), {"negative_target_size": (8, 8)}),
    ):
        with pytest.raises(SettingError, match=f"{next(iter(settings))} is not told to this model"):
            Conditioning(**settings).check_told(*counts)
    Conditioning(target_size=(8, 8), aesthetic_score=6.0).check_told(6, 5)


def test_a_request_without_them_is_written_as_before():
    data = Request.of("a cat").to_dict()
    assert not {"crop", "empty_negative", "refine_at", "original_size"} & data.keys()
    resolved = Request.of("a cat").resolved(SD_1.defaults)
    assert resolved.empty_negative is None
    assert Request.of("a cat").resolved(SDXL.defaults).empty_negative == "zeros"
    kept = Request.of("a cat", empty_negative="encoded").resolved(SDXL.defaults)
    assert Request.from_json(kept.to_json()).empty_negative == "encoded"
    assert NoiseConfig() == SD_1.noise
