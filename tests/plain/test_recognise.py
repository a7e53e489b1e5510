"""What a file is, told from the names and shapes of its tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keras_sd.config import (
    SD_1,
    SD_2,
    SD_2_BASE,
    AutoencoderConfig,
    ModelConfig,
    NoiseConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.keras_cv import names as keras_cv
from keras_sd.weights.names import diffusers, original
from keras_sd.weights.places import old_attention
from keras_sd.weights.prediction import stated_prediction
from keras_sd.weights.readers import WeightsError
from keras_sd.weights.recognise import recognise, recognise_part

TINY_1 = ModelConfig(
    "sd-1",
    TextEncoderConfig(99, 7, 64, 2, 1, 96),
    UNetConfig(4, 4, (32, 64, 96), (8, 8, 8), (1, 2, 0), 1, 64),
    AutoencoderConfig(4, (32, 64), 1),
)
TINY_2 = ModelConfig(
    "sd-2",
    TextEncoderConfig(99, 7, 128, 2, 2, 96, "gelu"),
    UNetConfig(4, 4, (64, 128), (1, 2), (0, 1), 3, 128, linear_projection=True),
    AutoencoderConfig(4, (32, 32, 64, 96), 3),
    NoiseConfig(prediction="v"),
    SD_2.defaults,
    "zero",
)
PARTS = ("text_encoder", "unet", "autoencoder")


def shapes_of(*tables):
    return {entry.name: entry.file_shape for table in tables for entry in table}


def text_encoder(config):
    """As in files of 2.x: with the layer that is not run, and the end of CLIP."""
    if config.activation == "quick_gelu":
        return shapes_of(original.clip(config))
    whole = replace(config, depth=config.depth + 1)
    return {
        **shapes_of(original.openclip(whole)),
        f"{original.OPENCLIP}text_projection": (config.width, config.width),
        f"{original.OPENCLIP}logit_scale": (),
    }


def file_of(config, *, pointwise=True):
    """The shapes of a single file with the model."""
    return {
        **shapes_of(
            original.unet(config.unet),
            original.autoencoder(config.autoencoder, pointwise=pointwise),
        ),
        **text_encoder(config.text_encoder),
    }


def with_input(config, channels):
    return replace(config, unet=replace(config.unet, in_channels=channels))


# Whole models


@pytest.mark.parametrize("config", [SD_1, SD_2, SD_2_BASE, TINY_1, TINY_2], ids=lambda c: c.name)
def test_a_file_has_the_config_it_was_made_with(config):
    shapes = file_of(config)
    found = recognise(shapes, prediction=config.noise.prediction)
    assert found.config == config
    assert found.layout == "original"
    assert found.unsupported is None
    assert found.notes == ()
    assert found.leftover == ()
    # The tables are what the file was made of.
    used = {entry.name: entry for table in found.tables.values() for entry in table}
    assert all(shapes[name] == entry.file_shape for name, entry in used.items())
    assert used.keys() | set(found.ignored) == shapes.keys()
    assert list(found.tables) == list(PARTS)
    for part, canonical in (
        ("text_encoder", diffusers.text_encoder),
        ("unet", diffusers.unet),
        ("autoencoder", diffusers.autoencoder),
    ):
        paths = [entry.path for entry in canonical(getattr(config, part))]
        assert [entry.path for entry in found.tables[part]] == paths


@pytest.mark.parametrize(
    ("config", "prediction", "family"),
    [
        (TINY_1, None, "Stable Diffusion 1.x"),
        (TINY_1, "v", "Stable Diffusion 1.x, v-prediction"),
        (TINY_2, "v", "Stable Diffusion 2.x, 768x768, v-prediction"),
        (TINY_2, "epsilon", "Stable Diffusion 2.x base, 512x512"),
        (TINY_1, "x0", "Stable Diffusion 1.x, x0-prediction"),
        (with_input(TINY_1, 9), None, "Stable Diffusion 1.x inpainting"),
        (with_input(TINY_2, 9), None, "Stable Diffusion 2.x inpainting"),
        (with_input(TINY_1, 8), None, "Stable Diffusion 1.x InstructPix2Pix"),
        (with_input(TINY_2, 5), None, "Stable Diffusion 2.x depth-to-image"),
        (with_input(TINY_2, 7), None, "Stable Diffusion 2.x x4 upscaler"),
        (with_input(TINY_1, 6), None, "Stable Diffusion 1.x with 6 input channels"),
    ],
)
def test_families_have_names(config, prediction, family):
    found = recognise(file_of(config), prediction=prediction)
    assert found.family == family
    assert found.config.unet == config.unet
    if config.unet.in_channels in (4, 9):
        assert found.unsupported is None
    else:
        assert f"the file is {family}: it asks for more" in found.unsupported


@pytest.mark.parametrize(
    ("channels", "labels", "family", "names"),
    [
        (5, False, "depth-to-image", ["depth_model.model.scratch.layer1_rn.weight"]),
        (7, False, "x4 upscaler", ["low_scale_model.model.encoder.conv_in.weight"]),
        (4, True, "unCLIP", ["embedder.model.visual.proj", "noise_augmentor.data_mean"]),
    ],
)
def test_networks_beside_the_three_are_ignored_where_the_family_has_them(
    channels, labels, family, names
):
    label = f"{original.UNET}label_emb.0.0.weight"
    shapes = {**file_of(with_input(TINY_2, channels)), **dict.fromkeys(names, (3,))}
    if labels:
        shapes[label] = (4, 4)
    found = recognise(shapes, prediction="v")
    assert family in found.family
    assert set(names) <= set(found.ignored)
    # There is no variable for the embedding of labels: such a file does not fit.
    assert found.leftover == ((label,) if labels else ())
    # In a file of another family nobody knows them.
    other = {**file_of(TINY_2), **dict.fromkeys(names, (3,))}
    assert set(recognise(other, prediction="v").leftover) == set(names)


def test_unclip_is_told_by_its_embedding_of_labels():
    shapes = {**file_of(TINY_2), "model.diffusion_model.label_emb.0.0.weight": (256, 128)}
    found = recognise(shapes)
    assert found.family == "Stable Diffusion 2.x unCLIP"
    assert "unCLIP" in found.unsupported
    assert found.leftover == ("model.diffusion_model.label_emb.0.0.weight",)


def test_a_model_of_other_latents_is_not_an_inpainting_one():
    config = replace(
        TINY_1,
        unet=replace(TINY_1.unet, in_channels=9, out_channels=9),
        autoencoder=replace(TINY_1.autoencoder, latent_channels=9),
    )
    found = recognise(file_of(config))
    assert found.config == config
    assert found.unsupported is None


def test_attention_of_the_autoencoder_may_be_linear():
    for pointwise in (True, False):
        table = recognise(file_of(TINY_1, pointwise=pointwise)).tables["autoencoder"]
        (query,) = (w for w in table if w.name == "first_stage_model.encoder.mid.attn_1.q.weight")
        assert query.layout == ("pointwise" if pointwise else "linear")


def test_clip_may_lack_text_model():
    shapes = {
        name.replace("transformer.text_model.", "transformer."): shape
        for name, shape in file_of(TINY_1).items()
    }
    assert shapes.keys() != file_of(TINY_1).keys()
    found = recognise(shapes)
    assert found.config == TINY_1
    assert found.leftover == ()


def test_openclip_may_end_where_it_is_read():
    config = TINY_2.text_encoder
    shapes = {
        **shapes_of(original.unet(TINY_2.unet), original.autoencoder(TINY_2.autoencoder)),
        **shapes_of(original.openclip(config)),
    }
    found = recognise(shapes)
    assert found.config.text_encoder == config
    assert found.ignored == ()
    # ViT-H has 24 layers: the last is known also where nothing else of CLIP was kept, and 23 are
    # all that is run, whatever else was.
    shapes = file_of(SD_2)
    cut = {name: shape for name, shape in shapes.items() if ".resblocks.23." not in name}
    assert len(shapes) - len(cut) == 12
    assert recognise(cut).config == SD_2
    whole = {
        **shapes_of(original.unet(SD_2.unet), original.autoencoder(SD_2.autoencoder)),
        **shapes_of(original.openclip(replace(SD_2.text_encoder, depth=24))),
    }
    found = recognise(whole)
    assert found.config == SD_2
    assert len(found.ignored) == 12
    assert all(".resblocks.23." in name for name in found.ignored)


def test_what_training_left_is_ignored_and_what_is_not_known_is_left_over():
    known = {
        "betas": (1000,),
        "model_ema.decay": (),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
    }
    found = recognise({**file_of(TINY_1), **known, "something.else": (3,)})
    assert set(found.ignored) == set(known)
    assert found.leftover == ("something.else",)


# Two sets of weights of the UNet


def test_the_average_is_taken_where_it_is_asked_for():
    shapes = file_of(TINY_1)
    unet = [entry.name for entry in original.unet(TINY_1.unet)]
    averages = {original.ema_name(name): shapes[name] for name in unet}
    shapes = {**shapes, **averages, "model_ema.decay": ()}

    plain = recognise(shapes)
    assert plain.ema
    assert [entry.name for entry in plain.tables["unet"]] == unet
    assert set(plain.ignored) == {*averages, "model_ema.decay"}
    assert plain.leftover == ()
    assert any("ema=True" in note for note in plain.notes)

    averaged = recognise(shapes, ema=True)
    assert [entry.name for entry in averaged.tables["unet"]] == list(averages)
    assert set(averaged.ignored) == {*unet, "model_ema.decay"}
    assert averaged.leftover == ()
    assert averaged.notes == ()
    assert averaged.config == plain.config


def test_no_average_where_there_is_none():
    assert not recognise(file_of(TINY_1)).ema
    with pytest.raises(WeightsError, match="no moving average"):
        recognise(file_of(TINY_1), ema=True)


# What the UNet predicts


V = {"modelspec.prediction_type": "v"}
EPSILON = {"modelspec.prediction_type": "epsilon"}
MARK = {"v_pred": (0,)}
SIDECAR_V = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n" + (
    '    parameterization: "v"\n    linear_start: 0.00085\n'
)
SIDECAR_EPSILON = SIDECAR_V.replace('parameterization: "v"', "# parameterization: v")


@pytest.mark.parametrize(
    ("option", "metadata", "mark", "sidecar", "expected", "who"),
    [
        ("epsilon", V, MARK, SIDECAR_V, "epsilon", "the option"),
        ("v", EPSILON, {}, SIDECAR_EPSILON, "v", "the option"),
        ("x0", EPSILON, {}, SIDECAR_EPSILON, "x0", "the option"),
        (
            None,
            {"modelspec.prediction_type": "sample"},
            {},
            None,
            "x0",
            "modelspec.prediction_type",
        ),
        (None, EPSILON, MARK, SIDECAR_V, "epsilon", "modelspec.prediction_type"),
        (None, V, {}, SIDECAR_EPSILON, "v", "modelspec.prediction_type"),
        (None, {"modelspec.predict_key": "epsilon"}, MARK, None, "epsilon", "predict_key"),
        (
            None,
            {"modelspec.architecture": "stable-diffusion-v2-512"},
            MARK,
            None,
            "epsilon",
            "modelspec.architecture",
        ),
        (None, {"modelspec.architecture": "other"}, MARK, SIDECAR_EPSILON, "v", "v_pred"),
        (None, {}, {}, SIDECAR_V, "v", "model.yaml"),
        (None, {}, {}, SIDECAR_V.replace('"v"', "eps # as always"), "epsilon", "model.yaml"),
        (None, {}, {}, SIDECAR_EPSILON, "epsilon", "model.yaml"),
    ],
)
@pytest.mark.parametrize("config", [TINY_1, TINY_2], ids=lambda c: c.name)
def test_who_says_what_the_unet_predicts(
    tmp_path, config, option, metadata, mark, sidecar, expected, who
):
    path = tmp_path / "model.safetensors"
    if sidecar is not None:
        (tmp_path / "model.yaml").write_text(sidecar)
    found = recognise({**file_of(config), **mark}, metadata, path=path, prediction=option)
    assert found.config.noise.prediction == expected
    assert who in found.prediction_from
    assert found.notes == ()
    if config is TINY_2:
        assert found.config.defaults.height == (768 if expected == "v" else 512)


def test_what_a_file_says_can_be_asked_for_alone(tmp_path):
    path = tmp_path / "x.safetensors"
    assert stated_prediction({}) is None
    assert stated_prediction({}, {}, path) is None
    assert stated_prediction({"v_pred": ()}) == ("v", "the file's tensor v_pred")
    path.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: v\n")
    assert stated_prediction({}, {}, path) == ("v", str(path.with_suffix(".yaml")))
    said = {"modelspec.prediction_type": "epsilon"}
    where = "the file's metadata, modelspec.prediction_type"
    assert stated_prediction({"v_pred": ()}, said, path) == ("epsilon", where)
    with pytest.raises(WeightsError, match=r"x\.safetensors: .*predicts 'flow'"):
        stated_prediction({}, {"modelspec.prediction_type": "flow"}, path)


def test_nobody_says_what_the_unet_predicts(tmp_path):
    found = recognise(file_of(TINY_1), path=tmp_path / "model.ckpt")
    assert found.config.noise.prediction == "epsilon"
    assert found.prediction_from == "the family"
    assert found.notes == ()

    (tmp_path / "model.yaml").write_text("about: my pictures\n")
    found = recognise(file_of(TINY_2), {"format": "pt"}, path=tmp_path / "model.ckpt")
    assert found.config.noise.prediction == "v"
    assert found.prediction_from == "an assumption"
    (note,) = found.notes
    assert "v is assumed" in note
    assert 'prediction="epsilon"' in note


@pytest.mark.parametrize(
    ("channels", "expected"), [(9, "epsilon"), (8, "epsilon"), (5, "epsilon"), (7, "v")]
)
def test_variants_of_2_predict_one_thing(channels, expected):
    found = recognise(file_of(with_input(TINY_2, channels)))
    assert found.config.noise.prediction == expected
    assert found.prediction_from == "the family"
    assert found.notes == ()


def test_a_prediction_that_we_do_not_know_is_refused(tmp_path):
    metadata = {"modelspec.prediction_type": "flow"}
    with pytest.raises(WeightsError, match=r"modelspec.prediction_type.*'flow'.*option"):
        recognise(file_of(TINY_1), metadata)
    assert recognise(file_of(TINY_1), metadata, prediction="v").config.noise.prediction == "v"
    (tmp_path / "model.yaml").write_text("model:\n  params:\n    parameterization: mu\n")
    with pytest.raises(WeightsError, match=r"model\.yaml, says .*'mu'"):
        recognise(file_of(TINY_1), path=tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="prediction is 'sample', not 'epsilon', 'v' or"):
        recognise(file_of(TINY_1), prediction="sample")


def test_no_more_of_a_sidecar_is_read_than_one_can_have(tmp_path):
    (tmp_path / "model.yaml").write_text("#" * 1_000_000 + "\n" + SIDECAR_V)
    found = recognise(file_of(TINY_2), path=tmp_path / "model.ckpt")
    assert found.prediction_from == "an assumption"


@pytest.mark.parametrize("config", [TINY_1, TINY_2], ids=lambda c: c.name)
def test_a_file_says_that_it_was_trained_to_zero_terminal_snr(config):
    marked = {**file_of(config), "ztsnr": (0,)}
    for shapes in (marked, {**marked, **MARK}):
        found = recognise(shapes)
        assert (found.leftover, found.notes) == ((), ())
        assert found.config.noise == NoiseConfig(prediction="v", zero_terminal_snr=True)
        assert found.config.defaults.schedule == "trailing"
        assert found.config.defaults.num_steps == config.defaults.num_steps
    assert recognise(marked).prediction_from == "the file's tensor ztsnr"
    assert recognise({**marked, **MARK}).prediction_from == "the file's tensor v_pred"
    with pytest.raises(WeightsError, match="zero_terminal_snr needs the prediction v"):
        recognise(marked, prediction="epsilon")
    # A UNet from elsewhere was trained elsewhere.
    assert not recognise(marked, without=("unet",)).config.noise.zero_terminal_snr


# Not whole, and not ours


def without(shapes, prefix):
    left = {name: shape for name, shape in shapes.items() if not name.startswith(prefix)}
    assert left.keys() != shapes.keys()
    return left


def test_an_autoencoder_can_be_missing():
    found = recognise(without(file_of(SD_1), "first_stage_model."))
    assert found.config == SD_1
    assert list(found.tables) == ["text_encoder", "unet"]
    assert found.notes == ("It has no autoencoder; give one: autoencoder=FILE.",)
    assert found.leftover == ()


def test_a_unet_cannot():
    with pytest.raises(WeightsError, match="the text encoder and the autoencoder, but no UNet"):
        recognise(without(file_of(SD_1), "model."))


@pytest.mark.parametrize(
    ("table", "part", "layout"),
    [
        (original.autoencoder(TINY_1.autoencoder, ""), "autoencoder", "original"),
        (original.autoencoder(TINY_1.autoencoder), "autoencoder", "original"),
        (original.unet(TINY_1.unet), "unet", "original"),
        (diffusers.unet(TINY_1.unet), "unet", "diffusers"),
        (diffusers.autoencoder(TINY_1.autoencoder), "autoencoder", "diffusers"),
        (diffusers.text_encoder(TINY_1.text_encoder), "text_encoder", "transformers"),
    ],
)
def test_one_part_alone_is_named_with_its_use(table, part, layout, tmp_path):
    path = tmp_path / "part.safetensors"
    with pytest.raises(WeightsError, match=rf"alone, in the layout of {layout}") as caught:
        recognise(shapes_of(table), path=path)
    assert str(path) in str(caught.value)
    assert f"{part}=FILE" in str(caught.value)


STRANGERS = [
    ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "LoRA"),
    ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", "LoRA"),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", "LoRA"),
    ("unet.up_blocks.1.attentions.0.processor.to_q_lora.up.weight", "LoRA"),
    ("unet.down_blocks.0.attn1.to_q.lora_linear_layer.down.weight", "LoRA"),
    ("lycoris_blocks_0_attn1.hada_w1_a", "LoRA"),
    ("lycoris_down_blocks_0_resnets_0_conv1.diff", "LoRA"),
    ("down_blocks.0.attentions.0.proj_in.oft_R.weight", "LoRA"),
    ("control_model.input_hint_block.0.weight", "ControlNet"),
    ("controlnet_cond_embedding.conv_in.weight", "ControlNet"),
    ("string_to_param.*", "textual inversion"),
    ("emb_params", "textual inversion"),
    ("<cat-toy>", "textual inversion"),
    ("image_proj.proj.weight", "IP-Adapter"),
    ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight", "AnimateDiff"),
    ("model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight", "Video"),
    ("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.bias", "Diffusion 3"),
    ("joint_blocks.0.x_block.mlp.fc1.bias", "Diffusion 3"),
    ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
    ("double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
    ("single_transformer_blocks.0.attn.to_q.weight", "Flux"),
    ("transformer_blocks.0.attn.add_k_proj.weight", "diffusion transformer"),
    ("effnet_mapper.0.weight", "Cascade"),
    ("first_stage_model.quantize.embedding.weight", "older than 1.x"),
    ("vision_model.embeddings.class_embedding", "image encoder"),
    ("concept_embeds", "safety checker"),
]


@pytest.mark.parametrize(("name", "what"), STRANGERS, ids=[name for name, _ in STRANGERS])
def test_strangers_are_refused_by_name(name, what, tmp_path):
    path = tmp_path / "stranger.safetensors"
    for read in (recognise, recognise_part):
        with pytest.raises(WeightsError, match=what) as caught:
            read({"a": (3,), name: (4, 4)}, path=path)
        assert str(path) in str(caught.value)
        assert name in str(caught.value)


def test_a_stranger_is_named_beside_parts_of_ours():
    # As in Stable Video Diffusion, whose autoencoder and UNet have the names of 1.x.
    shapes = without(file_of(TINY_2), "cond_stage_model.")
    shapes["model.diffusion_model.input_blocks.1.1.time_stack.0.norm1.bias"] = (128,)
    with pytest.raises(WeightsError, match="Stable Video Diffusion"):
        recognise(shapes)


def test_a_controlnet_is_named_that_has_its_model_with_it():
    shapes = {**file_of(TINY_1), "control_model.input_hint_block.0.weight": (16, 3, 3, 3)}
    with pytest.raises(WeightsError, match=r"a ControlNet with the model .*control_model\.input"):
        recognise(shapes)


def many(prefix, levels, blocks, depth):
    """Names that say how much there is of everything, and little else."""
    shapes = {
        f"{prefix}input_blocks.0.0.weight": (32, 4, 3, 3),
        f"{prefix}out.2.weight": (4, 32, 3, 3),
        f"{prefix}middle_block.1.proj_in.weight": (32, 32, 1, 1),
        f"{prefix}middle_block.1.transformer_blocks.0.attn2.to_k.weight": (32, 64),
    }
    for level in range(levels):
        first = 1 + level * (blocks + 1)
        for block in range(blocks):
            shapes[f"{prefix}input_blocks.{first + block}.0.out_layers.3.weight"] = (32, 32, 3, 3)
        for i in range(depth):
            name = f"input_blocks.{first}.1.transformer_blocks.{i}.attn2.to_k.weight"
            shapes[prefix + name] = (32, 64)
    return shapes


@pytest.mark.parametrize(
    ("levels", "blocks", "depth", "words"),
    [
        (1, 200, 200, "is not whole: a UNet with 200 blocks"),
        (8, 8, 32, "is not whole: .* 256 transformers .* has 87040 tensors or more, and the file"),
        (1, 200, 0, "unet: blocks is 200, not a whole number from 1 to 8"),
        (200, 1, 0, "unet: widths is .*not 1 to 8"),
    ],
)
def test_names_do_not_make_a_network_that_nobody_has(levels, blocks, depth, words, monkeypatch):
    # Before a table is made: this one would have up to millions of entries.
    monkeypatch.setattr(original, "unet", None)
    shapes = many("", levels, blocks, depth)
    with pytest.raises(WeightsError, match=words):
        recognise_part(shapes)
    both = {**many(original.UNET, levels, blocks, depth), **text_encoder(TINY_1.text_encoder)}
    with pytest.raises(WeightsError, match=words):
        recognise(both)


def test_a_text_encoder_has_no_more_layers_than_any():
    layer = "text_model.encoder.layers.{}.mlp.fc1.weight"
    shapes = shapes_of(original.clip(TINY_1.text_encoder, "text_model."))
    shapes |= {layer.format(i): (96, 64) for i in range(129)}
    with pytest.raises(WeightsError, match="depth is 129, not a whole number from 1 to 128"):
        recognise_part(shapes)


def test_a_file_of_keras_cv_has_no_more_tokens_than_any():
    table = keras_cv.text_encoder(SD_1.text_encoder)
    shapes = {entry.name: entry.file_shape for entry in table}
    tokens = next(e.name for e in table if e.path == "embedding/tokens/embeddings")
    for count, expected in ((49500, 49500), (0, 49408), (2**40, 49408)):
        found = keras_cv.recognise({**shapes, tokens: (count, 768)}, None)
        # What does not fit is listed with all else that does not.
        assert found.config.text_encoder.vocab_size == expected


def test_a_whole_model_is_one_whatever_is_beside_it():
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"
    assert recognise({**file_of(TINY_1), name: ()}).leftover == (name,)


@pytest.mark.parametrize("read", [recognise, recognise_part])
def test_anything_else_is_refused(read):
    with pytest.raises(WeightsError, match=r"it has 0 tensors$"):
        read({})
    with pytest.raises(WeightsError, match=r"it has 4 tensors: 'a', 'b', 'c' \.\.\.$"):
        read({"a": (), "b": (), "c": (), "d": ()})
    with pytest.raises(WeightsError) as caught:
        read({"x" * 10_000: ()})
    assert len(str(caught.value)) < 300


def test_our_own_layout_is_told_by_its_names():
    found = recognise({"unet/conv_in/kernel": (3, 3, 4, 32), "autoencoder/x": (3,)})
    assert found.layout == "keras_sd"
    assert found.config is None
    (note,) = found.notes
    assert "the UNet and the autoencoder" in note
    assert "config.json" in note


BROKEN = [
    ("model.diffusion_model.input_blocks.0.0.weight", (32, 4)),
    ("model.diffusion_model.input_blocks.0.0.weight", (32, 0, 3, 3)),
    ("model.diffusion_model.input_blocks.1.0.out_layers.3.weight", None),
    ("model.diffusion_model.input_blocks.1.0.out_layers.3.weight", (33, 33, 3, 3)),
    ("model.diffusion_model.middle_block.1.proj_in.weight", None),
    ("model.diffusion_model.middle_block.1.proj_in.weight", (96,)),
    ("model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight", (96, 65)),
    ("model.diffusion_model.out.2.weight", None),
    ("model.diffusion_model.out.2.weight", (5, 32, 3, 3)),
    ("first_stage_model.encoder.down.0.block.0.conv2.weight", None),
    ("first_stage_model.encoder.down.0.block.0.conv2.weight", (1, 1, 3, 3)),
    ("first_stage_model.decoder.conv_in.weight", None),
    (original.CLIP + "embeddings.token_embedding.weight", (99, 65)),
    (original.CLIP + "embeddings.position_embedding.weight", (7,)),
    (original.CLIP + "encoder.layers.0.mlp.fc1.weight", None),
]


@pytest.mark.parametrize(
    ("name", "shape"), BROKEN, ids=[f"{name.split('.', 2)[-1]}-{shape}" for name, shape in BROKEN]
)
def test_a_file_that_cannot_be_is_refused(name, shape):
    shapes = file_of(TINY_1)
    assert name in shapes
    shapes.pop(name)
    if shape is not None:
        shapes[name] = shape
    with pytest.raises(WeightsError, match="the file"):
        recognise(shapes)


@pytest.mark.parametrize(
    "config",
    [
        replace(
            TINY_1,
            text_encoder=replace(TINY_1.text_encoder, width=96),
            unet=replace(TINY_1.unet, context_width=96),
        ),
        replace(TINY_2, unet=replace(TINY_2.unet, widths=(64, 160), heads=(1, 1))),
    ],
    ids=["text_encoder", "unet"],
)
def test_heads_that_no_family_has_are_not_guessed(config):
    with pytest.raises(WeightsError, match="no multiple of 64, a head"):
        recognise(file_of(config))


def test_no_missing_or_misshapen_tensor_goes_by():
    # What decides nothing is left to the check of the tables against the file.
    whole = file_of(TINY_2)
    ignored = recognise(whole).ignored
    refused = 0
    for name in [name for name in whole if name not in ignored][::9]:
        missing = {other: shape for other, shape in whole.items() if other != name}
        for shapes in (missing, {**whole, name: ()}):
            try:
                found = recognise(shapes)
            except WeightsError:
                refused += 1
            else:
                wanted = shapes_of(*found.tables.values())
                assert found.leftover or wanted.items() - shapes.items(), name
    assert refused


# One part


SINGLE = [
    ("unet", diffusers.unet),
    ("unet", original.unet),
    ("unet", lambda config: original.unet(config, "")),
    ("autoencoder", diffusers.autoencoder),
    ("autoencoder", original.autoencoder),
    ("autoencoder", lambda config: original.autoencoder(config, "")),
    ("autoencoder", lambda config: original.autoencoder(config, "", pointwise=False)),
    ("text_encoder", diffusers.text_encoder),
    ("text_encoder", lambda config: original.clip(config, "text_model.")),
    ("text_encoder", original.text_encoder),
]


@pytest.mark.parametrize("config", [SD_1, SD_2, TINY_1, TINY_2], ids=lambda c: c.name)
@pytest.mark.parametrize(("part", "make"), SINGLE)
def test_a_part_alone(config, part, make):
    table = make(getattr(config, part))
    shapes = {**shapes_of(table), "embeddings.position_ids": (1, 77), "loss.logvar": ()}
    ignored = ("embeddings.position_ids", "loss.logvar")
    assert recognise_part(shapes, config) == (part, table, ignored)
    assert recognise_part(shapes) == (part, table, ignored)


def test_what_a_part_has_beside_the_network_is_ignored():
    whole = replace(SD_2.text_encoder, depth=24)
    table = original.openclip(SD_2.text_encoder)
    used = {entry.name for entry in table}
    shapes = {
        **shapes_of(original.openclip(whole)),
        f"{original.OPENCLIP}text_projection": (1024, 1024),
        f"{original.OPENCLIP}logit_scale": (),
        "mine": (3,),
    }
    part, found, ignored = recognise_part(shapes, SD_2)
    assert (part, found) == ("text_encoder", table)
    # The layer that is not run, of which every other name is like those of the layers that are.
    assert f"{original.OPENCLIP}transformer.resblocks.23.ln_1.bias" in ignored
    assert set(ignored) == shapes.keys() - used - {"mine"}

    table = original.unet(TINY_1.unet)
    averages = {original.ema_name(entry.name): entry.file_shape for entry in table}
    shapes = {**shapes_of(table), **averages, "model_ema.decay": (), "mine": ()}
    part, found, ignored = recognise_part(shapes, TINY_1)
    assert (part, found) == ("unet", table)
    assert set(ignored) == {*averages, "model_ema.decay"}


def test_what_the_shapes_do_not_tell_is_the_models():
    config = replace(TINY_1, autoencoder=replace(TINY_1.autoencoder, groups=4, scale=1.0))
    table = diffusers.autoencoder(config.autoencoder)
    assert recognise_part(shapes_of(table), config) == ("autoencoder", table, ())


def test_a_part_of_another_model_is_refused():
    with pytest.raises(WeightsError) as caught:
        recognise_part(shapes_of(diffusers.unet(SD_2.unet)), SD_1)
    message = str(caught.value)
    assert "the file is the UNet of another model than sd-1" in message
    assert "context_width is 1024, not 768" in message
    assert "linear_projection is True, not False" in message
    assert "widths" not in message


def test_more_than_a_part_is_refused():
    message = "the text encoder and the UNet and the autoencoder; one of them alone"
    with pytest.raises(WeightsError, match=message):
        recognise_part(file_of(TINY_1))


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("pointwise", [True, False])
def test_old_files_of_diffusers_call_the_attention_otherwise(pointwise):
    def old(entry):
        name = entry.name
        if "attentions.0." in name:
            for new, before in OLD.items():
                name = name.replace(f".{new}.", f".{before}.")
            if pointwise and entry.layout == "linear":
                return replace(entry, name=name, layout="pointwise")
        return replace(entry, name=name)

    new = diffusers.autoencoder(TINY_1.autoencoder)
    table = [old(entry) for entry in new]
    names = {entry.name for entry in table}
    assert "encoder.mid_block.attentions.0.query.weight" in names
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in names
    assert len(names - {entry.name for entry in new}) == 16
    assert recognise_part(shapes_of(table), TINY_1) == ("autoencoder", table, ())
    assert old_attention(new, shapes_of(table)) == table
    assert old_attention(new, shapes_of(new)) == new


@pytest.mark.references
def test_diffusers_knows_the_old_names():
    pytest.importorskip("diffusers")
    import torch
    from diffusers import AutoencoderKL

    config = TINY_1.autoencoder
    model = AutoencoderKL(
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    table = diffusers.autoencoder(config)
    shapes = shapes_of(table)
    for entry in table:
        if "attentions" in entry.name:
            shape = shapes.pop(entry.name)
            for new, before in OLD.items():
                entry = replace(entry, name=entry.name.replace(f".{new}.", f".{before}."))
            shapes[entry.name] = shape
    state = {w.name: torch.randn(w.file_shape) for w in old_attention(table, shapes)}
    model.load_state_dict(model._fix_state_dict_keys_on_load(dict(state)))
    loaded = model.state_dict()
    for ours, now in zip(old_attention(table, shapes), table, strict=True):
        assert torch.equal(state[ours.name], loaded[now.name])
