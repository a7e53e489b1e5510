"""The folders of diffusers: settings, files, tokenizers, in both directions."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import inspect
import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from keras_sd.config import (
    EMOJI,
    SD_1,
    SD_2,
    SD_2_BASE,
    AutoencoderConfig,
    Defaults,
    ModelConfig,
    NoiseConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.levels import make_levels
from keras_sd.registry import get_sampler
from keras_sd.tokenizer import Tokenizer
from keras_sd.weights.diffusers_folder import (
    FOLDERS,
    choice,
    configs,
    read_folder,
    read_part,
    schedulers,
    settings,
    write,
    write_folder,
)
from keras_sd.weights.names import diffusers, own
from keras_sd.weights.readers import WeightsError

FIXTURES = Path(__file__).parents[1] / "fixtures"
MERGES = ("c a", "ca t</w>", "d o", "do g</w>")
VOCABULARY = Tokenizer(MERGES).vocabulary
CONFIGS = {
    "sd1": ModelConfig(
        name="sd1",
        text_encoder=TextEncoderConfig(vocab_size=518, width=8, depth=2, heads=2, mlp_width=16),
        unet=UNetConfig(
            widths=(4, 8, 8), heads=(2, 2, 2), depths=(1, 1, 0), blocks=1, context_width=8, groups=2
        ),
        autoencoder=AutoencoderConfig(widths=(4, 8), blocks=1, groups=2),
        noise=NoiseConfig(),
        defaults=Defaults(height=16, width=16, sampler="pndm"),
    ),
    "sd2": ModelConfig(
        name="sd2",
        text_encoder=TextEncoderConfig(
            vocab_size=518, width=12, depth=3, heads=3, mlp_width=24, activation="gelu"
        ),
        unet=UNetConfig(
            widths=(4, 8),
            heads=(1, 2),
            depths=(0, 2),
            blocks=2,
            context_width=12,
            groups=2,
            linear_projection=True,
        ),
        autoencoder=AutoencoderConfig(widths=(4, 8), blocks=1, groups=2, scale=0.5),
        noise=NoiseConfig(prediction="v"),
        defaults=Defaults(height=24, width=24),
        pad_token="zero",
    ),
}
UNET, VAE, TEXT = (f"{name}/config.json" for name in ("unet", "vae", "text_encoder"))
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
TOKENIZER = "tokenizer/tokenizer_config.json"


def arrays_for(config, dtype="float32"):
    generator = np.random.default_rng(0)
    return {
        entry.name: generator.standard_normal(entry.shape).astype(dtype)
        for table in own.tables(config).values()
        for entry in table
    }


def state_dicts(config, arrays):
    """What diffusers keeps in each of its folders, with the names of transformers 5."""
    tables = {
        "text_encoder": diffusers.text_encoder(config.text_encoder),
        "unet": diffusers.unet(config.unet),
        "autoencoder": diffusers.autoencoder(config.autoencoder),
    }
    return {
        part: {
            entry.name: np.ascontiguousarray(entry.theirs(arrays[f"{part}/{entry.path}"]))
            for entry in table
        }
        for part, table in tables.items()
    }


def same(found, expected):
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype
        and found[name].shape == expected[name].shape
        and found[name].tobytes() == expected[name].tobytes()
        for name in expected
    )


def read_arrays(folder, variant=None):
    """Every variable of a folder, in our layout."""
    found = read_folder(folder, variant)
    arrays = {}
    for part in FOLDERS:
        tensors, table, _ = read_part(found, part)
        assert {entry.name for entry in table} == set(tensors)
        for entry in table:
            tensor = tensors[entry.name]
            assert tensor.shape == entry.file_shape
            arrays[f"{part}/{entry.path}"] = np.ascontiguousarray(entry.ours(np.asarray(tensor)))
    return arrays


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def change(folder, name, **values):
    path = folder / name
    data = {**json.loads(path.read_text()), **values}
    write_json(path, {key: value for key, value in data.items() if value is not ...})


def stem(part):
    return "model" if part == "text_encoder" else "diffusion_pytorch_model"


def make_folder(folder, model):
    """A folder as diffusers and transformers 5 write it, but with the tokenizer's older files."""
    for name, values in json.loads((FIXTURES / f"{model}_diffusers.json").read_text()).items():
        write_json(folder / name, values)
    write_json(folder / "tokenizer" / "vocab.json", {t: n for n, t in enumerate(VOCABULARY)})
    lines = ["#version: 0.2", *MERGES, ""]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(lines))
    config = CONFIGS[model]
    for part, tensors in state_dicts(config, arrays_for(config)).items():
        path = folder / FOLDERS[part] / f"{stem(part)}.safetensors"
        safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of each model, which nobody changes."""
    return {model: make_folder(tmp_path_factory.mktemp(model), model) for model in CONFIGS}


@pytest.fixture
def sd1(tmp_path, made):
    return shutil.copytree(made["sd1"], tmp_path / "sd1")


@pytest.fixture
def sd2(tmp_path, made):
    return shutil.copytree(made["sd2"], tmp_path / "sd2")


# Settings


@pytest.mark.parametrize("model", CONFIGS)
def test_a_folder_of_diffusers_is_read(tmp_path, made, model):
    folder = shutil.copytree(made[model], tmp_path / model)
    found = read_folder(folder)
    assert found.config == CONFIGS[model]
    assert found.unsupported is None
    assert (
        found.family
        == {
            "sd1": "Stable Diffusion 1.x",
            "sd2": "Stable Diffusion 2.x, 768x768, v-prediction",
        }[model]
    )
    assert (found.merges, found.vocab_size) == (folder / "tokenizer" / "merges.txt", 518)
    assert found.notes == ()
    assert same(read_arrays(folder), arrays_for(CONFIGS[model]))


REFUSED = [
    (INDEX, "_class_name", 7, "_class_name is 7, not the name of a pipeline"),
    (INDEX, "_class_name", ["my", None, "Pipe"], "_class_name is .*or a module and a class"),
    (INDEX, "text_encoder_3", ["transformers", "T5EncoderModel"], "a text_encoder_3,"),
    (INDEX, "transformer", ["diffusers", "SD3Transformer2DModel"], "it has a transformer, 'SD3"),
    (INDEX, "unet", ["diffusers", "UNet3DConditionModel"], "not UNet2DConditionModel"),
    (INDEX, "vae", ["diffusers", "AsymmetricAutoencoderKL"], "not AutoencoderKL"),
    (INDEX, "text_encoder", ["x", "RobertaSeriesModelWithTransformation"], "not CLIPTextModel"),
    (INDEX, "tokenizer", ["transformers", "XLMRobertaTokenizer"], "not CLIPTokenizer or CLIPTok"),
    (INDEX, "vae", "AutoencoderKL", "not a library and a class"),
    (INDEX, "_keras_sd", [], "_keras_sd is"),
    (INDEX, "_keras_sd", {"sampler": "ddim"}, "it has 'sampler' too"),
    (INDEX, "_keras_sd", {"defaults": {"num_steps": "many"}}, "defaults.num_steps: expected int"),
    (UNET, "_class_name", "UNet2DModel", "not 'UNet2DConditionModel'"),
    (UNET, "act_fn", "gelu", "act_fn is 'gelu', not 'silu' or 'swish'"),
    (UNET, "addition_embed_type", "text_time", "not None"),
    (UNET, "attention_head_dim", [2, 2], "attention_head_dim.*each of 3 levels"),
    (UNET, "attention_head_dim", [2, True, 2], "attention_head_dim"),
    (UNET, "attention_head_dim", 3, "not a multiple of 3 heads"),
    (UNET, "attention_type", "gated", "attention_type is 'gated'"),
    (UNET, "block_out_channels", [], "list of 1 to 8 widths"),
    (UNET, "block_out_channels", [4] * 9, "list of 1 to 8 widths"),
    (UNET, "block_out_channels", [4, 8, 10**7], "3 whole numbers from 1 to 16384"),
    (UNET, "center_input_sample", True, "center_input_sample"),
    (UNET, "class_embed_type", "timestep", "class_embed_type"),
    (UNET, "conv_in_kernel", 5, "conv_in_kernel"),
    (UNET, "cross_attention_dim", [8, 8, 16], "cross_attention_dim.*same at every level"),
    (UNET, "cross_attention_dim", 16, "gives 8 features a token, the unet expects 16"),
    (UNET, "down_block_types", ["DownBlock2D"] * 2, "3 times CrossAttnDownBlock2D or DownBlock2D"),
    (UNET, "down_block_types", ["AttnDownBlock2D"] * 3, "down_block_types"),
    (UNET, "down_block_types", ["DownBlock2D"] * 3, "up_block_types.*in reverse"),
    (UNET, "downsample_padding", 0, "downsample_padding"),
    (UNET, "dual_cross_attention", True, "dual_cross_attention"),
    (UNET, "encoder_hid_dim_type", "ip_image_proj", "encoder_hid_dim_type"),
    (UNET, "flip_sin_to_cos", False, "flip_sin_to_cos"),
    (UNET, "freq_shift", 1, "freq_shift"),
    (UNET, "in_channels", 2.5, "in_channels is 2.5, not a whole number"),
    (UNET, "layers_per_block", 9, "layers_per_block is 9, not a whole number from 1 to 8"),
    (UNET, "transformer_layers_per_block", 33, "a whole number from 1 to 32"),
    (UNET, "layers_per_block", [1, 2, 1], "layers_per_block.*same at every level"),
    (UNET, "mid_block_type", "UNetMidBlock2DSimpleCrossAttn", "mid_block_type"),
    (UNET, "mid_block_type", None, "mid_block_type is None"),
    (UNET, "norm_eps", 1e-6, "norm_eps"),
    (UNET, "norm_num_groups", 3, "not a multiple of 2 heads and 3 groups"),
    (UNET, "norm_num_groups", None, "norm_num_groups is None"),
    (UNET, "num_attention_heads", 2, "num_attention_heads"),
    (UNET, "num_class_embeds", 1000, "num_class_embeds"),
    (UNET, "only_cross_attention", [True, True, False], "only_cross_attention"),
    (UNET, "out_channels", 8, "the unet predicts 8"),
    (UNET, "resnet_time_scale_shift", "scale_shift", "resnet_time_scale_shift"),
    (UNET, "sample_size", [8, 8, 8], "sample_size"),
    (UNET, "time_cond_proj_dim", 0, "time_cond_proj_dim is 0, not a whole number"),
    (UNET, "time_embedding_dim", 32, "time_embedding_dim is 32, not None or 16"),
    (UNET, "transformer_layers_per_block", [[1, 1], 1, 1], "transformer_layers_per_block"),
    (UNET, "reverse_transformer_layers_per_block", [[1, 1, 1], 1, 1], "one for each of 2 blocks"),
    (UNET, "addition_time_embed_dim", 256, "addition_time_embed_dim is 256, not None"),
    (UNET, "transformer_layers_per_block", 10**9, "transformer_layers_per_block"),
    (UNET, "use_linear_projection", 1, "use_linear_projection is 1, not true or false"),
    (VAE, "_class_name", "VQModel", "not 'AutoencoderKL'"),
    (VAE, "act_fn", "mish", "act_fn"),
    (VAE, "down_block_types", ["AttnDownEncoderBlock2D"] * 2, "down_block_types"),
    (VAE, "up_block_types", ["AttnUpDecoderBlock2D"] * 2, "up_block_types"),
    (VAE, "in_channels", 4, "in_channels is 4, not 3"),
    (VAE, "latent_channels", 16, "autoencoder has 16 latent channels"),
    (VAE, "latents_mean", [0.0], "latents_mean"),
    (VAE, "layers_per_block", 0, "layers_per_block is 0"),
    (VAE, "mid_block_add_attention", False, "mid_block_add_attention"),
    (VAE, "norm_num_groups", 3, "not a multiple of 3 groups"),
    (VAE, "scaling_factor", 0, "scaling_factor is 0, not a number above 0"),
    (VAE, "scaling_factor", 10**400, "scaling_factor"),
    (VAE, "scaling_factor", "1", "scaling_factor"),
    (VAE, "shift_factor", 0.1, "shift_factor"),
    (VAE, "use_quant_conv", False, "use_quant_conv"),
    (TEXT, "hidden_act", "gelu_new", "hidden_act is 'gelu_new', not 'quick_gelu' or 'gelu'"),
    (TEXT, "hidden_act", None, "hidden_act is None"),
    (TEXT, "model_type", "xlm-roberta", "model_type"),
    (TEXT, "model_type", "clip", "text_config is None, not an object"),
    (TEXT, "num_attention_heads", 3, "width 8 is not a multiple of its 3 heads"),
    (TEXT, "num_hidden_layers", 10**9, "num_hidden_layers"),
    (TEXT, "layer_norm_eps", float("nan"), "layer_norm_eps is nan"),
    (TEXT, "vocab_size", 517, "tokenizer has 518 tokens, but the text encoder knows 517"),
    (TEXT, "max_position_embeddings", 64, "model_max_length is 77.*reads 64 tokens"),
    (SCHEDULER, "beta_schedule", "squaredcos_cap_v2", "not 'scaled_linear' or 'linear'"),
    (SCHEDULER, "beta_start", 0.02, "beta_end is 0.012, not at least beta_start, 0.02"),
    (SCHEDULER, "beta_end", 1.0, "beta_end is 1.0"),
    (SCHEDULER, "num_train_timesteps", 10**9, "num_train_timesteps"),
    (SCHEDULER, "prediction_type", "flow", "not 'epsilon' or 'v_prediction' or 'sample'"),
    (SCHEDULER, "rescale_betas_zero_snr", True, "zero_terminal_snr needs the prediction v"),
    (SCHEDULER, "rescale_betas_zero_snr", 1, "rescale_betas_zero_snr is 1, not true or false"),
    (SCHEDULER, "set_alpha_to_one", 1, "set_alpha_to_one is 1, not true or false"),
    (SCHEDULER, "timestep_spacing", "uniform", "timestep_spacing"),
    (SCHEDULER, "timestep_type", "continuous", "timestep_type"),
    (SCHEDULER, "trained_betas", [0.1] * 1000, "trained_betas is .*, not None"),
    (SCHEDULER, "use_flow_sigmas", True, "use_flow_sigmas"),
    (TOKENIZER, "pad_token", "<pad>", "pad_token is '<pad>', not '<|endoftext|>' or '!'"),
    (TOKENIZER, "pad_token", ["!"], "pad_token"),
    (TOKENIZER, "model_max_length", 64, "model_max_length is 64.*reads 77 tokens"),
    (TOKENIZER, "model_max_length", float("nan"), "not a number of tokens"),
    (TOKENIZER, "do_lower_case", False, "do_lower_case is False, not True"),
]


@pytest.mark.parametrize(("file", "key", "value", "words"), REFUSED)
def test_a_setting_that_we_do_not_follow_is_refused_by_name(sd1, file, key, value, words):
    change(sd1, file, **{key: value})
    with pytest.raises(WeightsError, match=words.replace("|", r"\|")) as caught:
        read_folder(sd1)
    assert str(sd1) in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("file", "values"),
    [
        (UNET, {"act_fn": "swish", "upcast_attention": True, "dropout": 0.1}),
        (UNET, {"attention_head_dim": [2, 2, 2], "layers_per_block": [1, 1, 1]}),
        (UNET, {"cross_attention_dim": [8, 8, 8], "only_cross_attention": [False] * 3}),
        (UNET, {"time_embedding_dim": 16, "sample_size": [8, 8]}),
        (VAE, {"force_upcast": False, "sample_size": 512, "scaling_factor": ...}),
        (TEXT, {"projection_dim": 3, "bos_token_id": 0, "layer_norm_eps": ..., "model_type": ...}),
        (TOKENIZER, {"model_max_length": 10**30, "pad_token": ...}),
        (SCHEDULER, {"num_train_timesteps": ..., "prediction_type": ..., "timestep_spacing": ...}),
    ],
)
def test_settings_that_mean_the_same(sd1, file, values):
    change(sd1, file, **values)
    found = read_folder(sd1)
    assert (found.config, found.notes) == (CONFIGS["sd1"], ())


def test_what_is_not_in_a_file_has_the_default_of_diffusers(sd1):
    write_json(sd1 / UNET, {"cross_attention_dim": 512})
    write_json(sd1 / VAE, {"block_out_channels": [64]})
    write_json(sd1 / TEXT, {})
    write_json(sd1 / SCHEDULER, {})
    write_json(sd1 / "tokenizer" / "vocab.json", {t: n for n, t in enumerate(VOCABULARY)})
    found = read_folder(sd1).config
    assert found.unet == UNetConfig(context_width=512)
    assert found.autoencoder == AutoencoderConfig(widths=(64,), blocks=1)
    assert found.text_encoder == TextEncoderConfig(width=512, heads=8, mlp_width=2048)
    assert found.noise == NoiseConfig(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)
    assert found.defaults == Defaults(height=64, width=64, sampler="pndm")


def test_settings_inside_those_of_a_whole_clip(sd1):
    inner = json.loads((sd1 / TEXT).read_text())
    write_json(sd1 / TEXT, {"model_type": "clip", "text_config": inner, "vision_config": {}})
    assert read_folder(sd1).config == CONFIGS["sd1"]


@pytest.mark.parametrize(
    ("version", "sample_size", "pixels"),
    [
        ("0.6.0.dev0", 32, (128, 128)),
        ("0.10.0", 32, (64, 64)),
        ("0.6.0", 96, (192, 192)),
        ("0.30.0", [8, 12], (16, 24)),
        ("0.30.0", None, (128, 128)),
    ],
)
def test_the_usual_size_of_a_picture(sd1, version, sample_size, pixels):
    change(sd1, UNET, _diffusers_version=version, sample_size=sample_size)
    defaults = read_folder(sd1).config.defaults
    assert (defaults.height, defaults.width) == pixels


def test_settings_that_nobody_knows_are_noted(sd1):
    change(sd1, UNET, decay=0.9999, power=0.75)
    change(sd1, INDEX, hypernet=["diffusers", "HyperNet"], image_encoder=["a", "B"])
    found = read_folder(sd1)
    assert found.config == CONFIGS["sd1"]
    assert found.notes == (
        "model_index.json: hypernet is left out, nothing here uses it",
        "unet/config.json: not known, and left out, are 'decay', 'power'",
    )


@pytest.mark.parametrize(
    ("channels", "pipeline", "family"),
    [
        (8, "StableDiffusionInstructPix2PixPipeline", "Stable Diffusion 1.x InstructPix2Pix"),
        (5, "StableDiffusionDepth2ImgPipeline", "Stable Diffusion 1.x depth-to-image"),
        (6, "StableDiffusionPipeline", "Stable Diffusion 1.x with 6 input channels"),
    ],
)
def test_models_that_cannot_be_run_yet_are_named(sd1, channels, pipeline, family):
    change(sd1, UNET, in_channels=channels)
    change(sd1, INDEX, _class_name=pipeline)
    found = read_folder(sd1)
    assert found.family == family
    assert f"{sd1} is {family}" in found.unsupported
    assert found.config.unet.in_channels == channels


@pytest.mark.parametrize(
    ("channels", "family"), [(4, "Stable Diffusion 1.x"), (9, "Stable Diffusion 1.x inpainting")]
)
def test_an_inpainting_pipeline_can_be_run_with_either_unet(sd1, channels, family):
    change(sd1, UNET, in_channels=channels)
    change(sd1, INDEX, _class_name="StableDiffusionInpaintPipeline")
    found = read_folder(sd1)
    assert found.family == family
    assert found.unsupported is None


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        *((name, False) for name in configs._PIPELINES),
        ("StableDiffusionPAGPipeline", True),
        ("StableDiffusionControlNetPipeline", True),
        ("CustomPipeline", True),
        (["pipeline_x", "CustomPipeline"], True),
        (..., True),
    ],
)
def test_the_components_say_what_a_folder_is_and_its_pipeline_makes_a_note(sd1, name, noted):
    change(sd1, INDEX, _class_name=name)
    found = read_folder(sd1)
    assert found.config == CONFIGS["sd1"]
    assert found.unsupported is None
    assert len(found.notes) == noted
    if noted:
        named = "no pipeline" if name is ... else repr(name if isinstance(name, str) else name[1])
        assert f"the folder is of {named}; its text encoder, UNet" in found.notes[0]


MULTI = "DPMSolverMultistepScheduler"
LINSPACE = "linspace:inside=True,whole=nearest"
SHORT, SMALLER = "lower_order_final is True: runs of less than 15", "first latent has the noise"
LOWER = "lower_order_final is True: the last steps are of lower order"
DRAWS = "low=0.570475,high=5.12273"  # the ratios at timesteps 199.5 and 800.5
SIGMA_MIN = {"final_sigmas_type": "sigma_min", "timestep_spacing": "linspace"}


@pytest.mark.parametrize(
    ("name", "values", "expected", "noted"),
    [
        ("PNDM", {}, ("pndm", "leading", "first"), []),
        ("PNDM", {"set_alpha_to_one": True}, ("pndm", "leading", "zero"), []),
        ("PNDM", {"skip_prk_steps": ...}, ("pndm", "leading", "first"), ["skip_prk_steps"]),
        (
            "PNDM",
            {"prediction_type": "v_prediction"},
            ("pndm:combine=v", "leading", "first"),
            [],
        ),
        (
            "PNDM",
            {"timestep_spacing": "linspace"},
            ("pndm", "linspace:whole=nearest", "first"),
            ["'linspace', at which"],
        ),
        ("DDIM", {}, ("ddim", "leading", "first"), []),
        ("DDIM", {"set_alpha_to_one": ...}, ("ddim", "leading", "zero"), []),
        ("DDIM", {"timestep_spacing": "trailing"}, ("ddim", "trailing", "first"), []),
        (
            "DDIM",
            {"timestep_spacing": "linspace"},
            ("ddim", "linspace:whole=nearest", "first"),
            ["'linspace', at which"],
        ),
        # Their pipelines of Stable Diffusion set the two as they are here.
        ("DDIM", {"clip_sample": True, "steps_offset": 0}, ("ddim", "leading", "first"), []),
        ("DDIM", {"thresholding": True}, ("ddim", "leading", "first"), ["thresholding is True"]),
        ("DDIMParallel", {"set_alpha_to_one": ...}, ("ddim", "leading", "zero"), []),
        ("DDPM", {}, ("ddpm", "leading", "zero"), []),
        (
            "DDPM",
            {"variance_type": "fixed_large"},
            ("ddpm:variance=large", "leading", "zero"),
            ["the last step of diffusers adds noise"],
        ),
        (
            "DDPM",
            {"variance_type": "learned"},
            ("ddpm", "leading", "zero"),
            ["variance_type is 'l"],
        ),
        (
            "DDPM",
            {"timestep_spacing": "linspace"},
            ("ddpm", "linspace:whole=nearest", "zero"),
            [],
        ),
        ("EulerDiscrete", {}, ("euler", "leading", "zero"), []),
        (
            "EulerDiscrete",
            {**SIGMA_MIN, "timestep_spacing": ...},
            ("euler", "linspace", "first"),
            [SMALLER, "the last step stands still"],
        ),
        (
            "EulerDiscrete",
            {"use_karras_sigmas": True},
            ("euler", "karras:spacing=leading", "zero"),
            [],
        ),
        (
            "EulerDiscrete",
            {"use_karras_sigmas": True, "timestep_spacing": "linspace"},
            ("euler", "karras", "zero"),
            [SMALLER],
        ),
        (
            "EulerDiscrete",
            {"use_exponential_sigmas": True, "timestep_spacing": "trailing"},
            ("euler", "exponential:spacing=trailing", "zero"),
            [SMALLER],
        ),
        (
            "EulerDiscrete",
            {"use_beta_sigmas": True},
            ("euler", "beta:spacing=leading", "zero"),
            [],
        ),
        (
            "EulerDiscrete",
            {"interpolation_type": "log_linear", "sigma_min": 0.1},
            ("euler", "leading", "zero"),
            ["interpolation_type is 'log_linear'", "sigma_min is 0.1"],
        ),
        ("EulerAncestralDiscrete", {}, ("euler_ancestral", "leading", "zero"), []),
        ("HeunDiscrete", {}, ("heun", "leading", "zero"), []),
        ("LMSDiscrete", {"timestep_spacing": ...}, ("lms", "linspace", "zero"), [SMALLER]),
        (
            "KDPM2Discrete",
            {"use_karras_sigmas": True},
            ("dpm2", "karras:spacing=leading,whole=nearest", "zero"),
            [],
        ),
        ("KDPM2AncestralDiscrete", {}, ("dpm2_ancestral", "leading", "zero"), []),
        (
            "DPMSolverSDE",
            {"noise_sampler_seed": 3},
            ("dpmpp_sde", "leading", "zero"),
            ["noise_sampler_seed is 3"],
        ),
        (MULTI, {}, ("dpmpp_2m", "leading:inside=True", "zero"), []),
        (MULTI, {"timestep_spacing": ...}, ("dpmpp_2m", LINSPACE, "zero"), []),
        (MULTI, {"timestep_spacing": "trailing"}, ("dpmpp_2m", "trailing", "zero"), []),
        (
            MULTI,
            {"use_karras_sigmas": True, "solver_type": "heun"},
            ("dpmpp_2m:solver=heun", "karras:whole=nearest", "zero"),
            [],
        ),
        (
            MULTI,
            {"use_exponential_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
            ("dpmpp_2m_sde", "exponential:whole=below", "zero"),
            [],
        ),
        (MULTI, {"use_beta_sigmas": True}, ("dpmpp_2m", "beta:whole=below", "zero"), []),
        (
            MULTI,
            {"use_lu_lambdas": True},
            ("dpmpp_2m", "exponential:whole=nearest", "zero"),
            [],
        ),
        (MULTI, {"solver_order": 1}, ("ddim", "leading:inside=True", "zero"), []),
        (
            MULTI,
            {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"},
            ("ddim:eta=1", "leading:inside=True", "zero"),
            [],
        ),
        (
            MULTI,
            {"solver_order": 3, "solver_type": "heun"},
            ("dpmpp_3m", "leading:inside=True", "zero"),
            [SHORT],
        ),
        (
            MULTI,
            {"solver_order": 3, "lower_order_final": False, "algorithm_type": "sde-dpmsolver++"},
            ("dpmpp_3m_sde", "leading:inside=True", "zero"),
            ["solver_type is None, which the second step"],
        ),
        (
            MULTI,
            {**SIGMA_MIN, "euler_at_final": True},
            ("dpmpp_2m", LINSPACE, "first"),
            ["euler_at_final is True", SHORT],
        ),
        (
            MULTI,
            {"algorithm_type": "dpmsolver", "lower_order_final": False, **SIGMA_MIN},
            ("dpmpp_2m", LINSPACE, "first"),
            ["algorithm_type is 'dpmsolver', of noise estimates"],
        ),
        (
            MULTI,
            {"solver_order": 4, "variance_type": "learned", "solver_type": "x"},
            ("dpmpp_2m", "leading:inside=True", "zero"),
            ["solver_order is 4", "solver_type is 'x'", "variance_type is 'learned'"],
        ),
        (
            "DPMSolverSinglestep",
            {},
            ("dpmpp_2s_ancestral:eta=0", LINSPACE, "zero"),
            ["half as many steps are as much work"],
        ),
        ("DPMSolverSinglestep", {"solver_order": 1}, ("ddim", LINSPACE, "zero"), []),
        ("UniPCMultistep", {}, ("unipc", "leading:inside=True", "zero"), []),
        (
            "UniPCMultistep",
            {"solver_order": 3, "solver_type": "bh1", "predict_x0": False},
            ("unipc:solver_order=3,variant=bh1", "leading:inside=True", "zero"),
            ["predict_x0 is False"],
        ),
        (
            "UniPCMultistep",
            {"lower_order_final": False, "disable_corrector": [0], **SIGMA_MIN},
            ("unipc", LINSPACE, "first"),
            ["lower_order_final is False", "disable_corrector is"],
        ),
        ("DEISMultistep", {}, ("deis:solver_order=2", "leading:inside=True", "first"), [SHORT]),
        (
            "DEISMultistep",
            {"solver_order": 3, "lower_order_final": False, "use_karras_sigmas": True},
            ("deis", "karras:whole=nearest", "first"),
            ["the last step stands still"],
        ),
        ("LCM", {}, ("lcm", "lcm", "zero"), []),
        (
            "LCM",
            {"original_inference_steps": 100, "timestep_scaling": 5.0},
            ("lcm:timestep_scaling=5.0", "lcm:skip=10", "zero"),
            [],
        ),
        ("TCD", {}, ("tcd", "lcm", "first"), []),
        (
            "SASolver",
            {},
            (f"sa_solver:few_steps=True,{DRAWS}", "leading:inside=True", "first"),
            [LOWER],
        ),
        (
            "SASolver",
            {"lower_order_final": False, "predictor_order": 3, "corrector_order": 4},
            (
                f"sa_solver:few_steps=True,predictor_order=3,corrector_order=4,{DRAWS}",
                "leading:inside=True",
                "first",
            ),
            [],
        ),
        (
            "SASolver",
            {
                **{"predictor_order": 1, "corrector_order": 1, "num_train_timesteps": 200},
                **{"algorithm_type": "noise_prediction", "tau_func": "f", "variance_type": "x"},
            },
            (
                "sa_solver:few_steps=True,predictor_order=1,corrector_order=1,tau=0.0",
                "leading:inside=True",
                "first",
            ),
            ["corrector takes one", "algorithm_type is 'noise", "tau_func is 'f'", "variance_type"],
        ),
        (
            "SASolver",
            {"predictor_order": 5, "lower_order_final": False, "use_karras_sigmas": True},
            (f"sa_solver:few_steps=True,{DRAWS}", "karras:whole=nearest", "first"),
            ["predictor_order is 5", "the last step stands still"],
        ),
        ("DDIMInverse", {}, ("ddim", "leading", "first"), ["asks for DDIMInverseScheduler"]),
    ],
)
def test_the_scheduler_gives_what_a_run_does_by_default(sd1, name, values, expected, noted):
    name = name.removesuffix("Scheduler") + "Scheduler"
    change(sd1, SCHEDULER, _class_name="ignored", **values)
    change(sd1, INDEX, scheduler=["diffusers", name])
    found = read_folder(sd1)
    defaults = found.config.defaults
    said = (defaults.sampler, defaults.schedule, found.config.noise.final_sigma)
    assert said == expected
    assert len(found.notes) == len(noted), found.notes
    for words in noted:
        assert any(words in note for note in found.notes), (words, found.notes)
    get_sampler(defaults.sampler)
    make_levels(defaults.schedule, found.config.noise.table(), 5, final_sigma=said[2])


# Five steps of diffusers 0.42.1 on Stable Diffusion's noise: sigmas and timesteps.
KARRAS, EXPONENTIAL, BETA = ({key: True} for key in schedulers.SIGMAS)
GRIDS = [
    (
        ("EulerDiscrete", {"timestep_spacing": "leading", **KARRAS}),
        [5.13443, 2.02481, 0.692151, 0.194693, 0.0413145],
        [801.0, 565.83, 248.593, 38.4223, 1.0],
    ),
    (
        ("EulerDiscrete", {"timestep_spacing": "trailing", **EXPONENTIAL}),
        [14.6146, 6.49268, 2.88442, 1.28143, 0.569285],
        [999.0, 850.569, 662.955, 429.24, 199.0],
    ),
    (
        ("HeunDiscrete", {"timestep_spacing": "leading", **BETA}),
        [5.13443, 4.23967, 2.58787, 0.936076, 0.0413145],
        [801.0, 757.861, 634.17, 334.179, 1.0],
    ),
    (
        (MULTI, {"timestep_spacing": "linspace"}),
        [14.6146, 5.08777, 2.27646, 1.16439, 0.571666],
        [999, 799, 599, 400, 200],
    ),
    (
        (MULTI, {"timestep_spacing": "leading"}),
        [5.90645, 2.90712, 1.61289, 0.932358, 0.494697],
        [831, 665, 499, 333, 167],
    ),
    ((MULTI, KARRAS), [14.6146, 4.79654, 1.27411, 0.247952, 0.0291675], [999, 786, 427, 59, 0]),
    (
        ("SASolver", {"timestep_spacing": "trailing"}),
        [14.6146, 5.08777, 2.27646, 1.16058, 0.569285],
        [999, 799, 599, 399, 199],
    ),
    # Theirs begins at 998, for the float below 999 is cut.
    (
        ("UniPCMultistep", EXPONENTIAL),
        [14.6146, 3.08899, 0.652896, 0.137998, 0.0291675],
        [999, 680, 233, 20, 0],
    ),
]


@pytest.mark.parametrize(("asked", "sigmas", "timesteps"), GRIDS)
def test_the_levels_of_a_run_by_default_are_those_of_the_scheduler(sd1, asked, sigmas, timesteps):
    name, values = asked
    change(sd1, SCHEDULER, **{"timestep_spacing": ..., **values})
    change(sd1, INDEX, scheduler=["diffusers", name.removesuffix("Scheduler") + "Scheduler"])
    config = read_folder(sd1).config
    levels = make_levels(config.defaults.schedule, config.noise.table(), 5)[:-1]
    np.testing.assert_allclose([level.ratio for level in levels], sigmas, rtol=1e-4)
    np.testing.assert_allclose([level.t for level in levels], timesteps, atol=1e-3)


def test_other_sigmas_are_not_for_zero_terminal_snr(sd2):
    change(
        sd2, SCHEDULER, rescale_betas_zero_snr=True, use_karras_sigmas=True, timestep_spacing=...
    )
    change(sd2, INDEX, scheduler=["diffusers", "DPMSolverMultistepScheduler"])
    found = read_folder(sd2)
    assert found.config.defaults.schedule == LINSPACE
    assert any("'karras', which a model of zero terminal SNR" in note for note in found.notes)


def test_a_scheduler_of_other_noise_is_refused(sd1):
    change(sd1, INDEX, scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    with pytest.raises(WeightsError, match=r"'FlowMatch.*known are DDIMScheduler, DDIMPar"):
        read_folder(sd1)
    change(sd1, INDEX, scheduler=[None, None])
    change(sd1, SCHEDULER, _class_name=["?"])
    with pytest.raises(WeightsError, match=r"a \['\?'\] is not known"):
        read_folder(sd1)


def test_the_noise_of_a_model_trained_to_zero_terminal_snr(sd2):
    change(sd2, SCHEDULER, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    found = read_folder(sd2)
    assert found.config.noise.zero_terminal_snr
    assert found.config.defaults.schedule == "trailing"
    assert found.config.noise.table().alphas_cumprod[-1] == 0
    change(sd2, SCHEDULER, rescale_betas_zero_snr=False)
    assert not read_folder(sd2).config.noise.zero_terminal_snr


def test_no_scheduler_is_that_of_stable_diffusion(sd2):
    shutil.rmtree(sd2 / "scheduler")
    found = read_folder(sd2)
    assert found.config.noise == NoiseConfig()
    assert any("no scheduler" in note for note in found.notes)


# Damaged files


@pytest.mark.parametrize("file", [INDEX, UNET, VAE, TEXT, SCHEDULER, TOKENIZER])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no JSON"),
        (b'{"a": ', "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"a":' * 100_000, "no JSON"),
        (b"[]", "not a JSON object"),
        (b" " * 16_000_001, "larger than 16000000 bytes"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_damaged_json_is_named(sd1, file, content, words):
    (sd1 / file).write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        read_folder(sd1)
    assert str(sd1 / file) in str(caught.value)


def test_a_value_however_deep_or_long_can_be_shown():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, "?" * 10**6, list(range(10**6)), 7):
        assert 1 <= len(settings.shown(value)) < 100


@pytest.mark.parametrize("file", [INDEX, UNET, VAE, TEXT])
def test_a_missing_json_is_named(sd1, file):
    (sd1 / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing; a folder of diffusers' has"):
        read_folder(sd1)


DEEP = json.loads("[" * 400 + "]" * 400)


@pytest.mark.parametrize("file", [INDEX, UNET, VAE, TEXT, SCHEDULER, TOKENIZER])
@pytest.mark.parametrize("value", [None, True, -1, 1e400, "", "?" * 10_000, [], {}, [None], DEEP])
def test_any_value_of_any_setting_is_a_config_or_an_error_of_ours(sd1, file, value):
    path = sd1 / file
    data = json.loads(path.read_text())
    for key in data:
        write_json(path, {**data, key: value})
        with contextlib.suppress(WeightsError):
            read_folder(sd1)


# Tokenizers


def test_the_vocabulary_has_to_be_that_of_the_merges(sd1):
    path = sd1 / "tokenizer" / "vocab.json"
    swapped = {**json.loads(path.read_text()), "dog</w>": 513, "cat</w>": 515}
    write_json(path, swapped)
    with pytest.raises(WeightsError, match="id 513 is 'dog</w>', but the merges give 'cat</w>'"):
        read_folder(sd1)
    write_json(path, {t: n for n, t in enumerate(VOCABULARY[:-1])})
    with pytest.raises(WeightsError, match="517 tokens, but the merges give 518"):
        read_folder(sd1)
    for number in (512, 600, "1", -1):
        write_json(path, {**{t: n for n, t in enumerate(VOCABULARY)}, "dog</w>": number})
        with pytest.raises(WeightsError, match=r"vocab.json: the id of .*0 to 517, each once"):
            read_folder(sd1)
    path.unlink()
    assert read_folder(sd1).config == CONFIGS["sd1"]


def test_tokens_that_were_added_are_noted(sd1):
    vocabulary = [*VOCABULARY, "<toy>"]
    write_json(sd1 / "tokenizer" / "vocab.json", {t: n for n, t in enumerate(vocabulary)})
    write_json(sd1 / "tokenizer" / "added_tokens.json", {"<style>": 519})
    change(sd1, TEXT, vocab_size=520)
    found = read_folder(sd1)
    assert (found.vocab_size, found.config.text_encoder.vocab_size) == (518, 520)
    assert found.notes == (
        "2 tokens were added to the vocabulary, which no prompt here reaches: '<style>', '<toy>'",
    )


@pytest.mark.parametrize(
    ("special", "settings", "pad"),
    [
        ({"pad_token": "!"}, {"pad_token": "<|endoftext|>"}, "zero"),
        ({"pad_token": "<|endoftext|>"}, {"pad_token": "!"}, "end"),
        ({"pad_token": {"content": "!", "lstrip": False}}, {}, "zero"),
        ({}, {"pad_token": "!"}, "zero"),
        ({"pad_token": "!"}, {"pad_token": "<|endoftext|>", "added_tokens_decoder": {}}, "end"),
        ({}, {"pad_token": ...}, "end"),
    ],
)
def test_the_padding_token(sd1, special, settings, pad):
    write_json(sd1 / "tokenizer" / "special_tokens_map.json", special)
    change(sd1, TOKENIZER, **settings)
    assert read_folder(sd1).config.pad_token == pad


def tokenizer_json(merges=MERGES, vocabulary=VOCABULARY, **values):
    return {
        "added_tokens": [{"id": 516, "content": "<|startoftext|>", "special": True}],
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(vocabulary)},
            "merges": list(merges),
        },
        **values,
    }


@pytest.mark.parametrize("merges", [MERGES, [merge.split() for merge in MERGES]])
def test_merges_inside_a_tokenizer_json(sd1, merges):
    (sd1 / "tokenizer" / "merges.txt").unlink()
    (sd1 / "tokenizer" / "vocab.json").unlink()
    write_json(sd1 / "tokenizer" / "tokenizer.json", tokenizer_json(merges))
    found = read_folder(sd1)
    assert (found.merges, found.vocab_size, found.notes) == (MERGES, 518, ())
    assert found.config == CONFIGS["sd1"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (tokenizer_json(model={"type": "Unigram"}), "byte-pair encoding"),
        (tokenizer_json(model={"type": "BPE"}), "vocab and merges"),
        (tokenizer_json(merges=["c a", "cat"]), "merge 2 is 'cat', not a pair"),
        (tokenizer_json(merges=[["c", 1]]), "merge 1 is .*not a pair"),
        (tokenizer_json(vocabulary=VOCABULARY[1:]), "id 0 is '\"', but the merges give '!'"),
        (tokenizer_json(added_tokens=[3]), "added_tokens"),
        (tokenizer_json(merges=["Ġ a"]), "GPT-2"),
    ],
)
def test_a_tokenizer_json_of_another_kind_is_refused(sd1, values, words):
    (sd1 / "tokenizer" / "merges.txt").unlink()
    write_json(sd1 / "tokenizer" / "tokenizer.json", values)
    with pytest.raises(WeightsError, match=words):
        read_folder(sd1)


def test_merges_that_would_unpack_to_anything_are_refused(sd1):
    (sd1 / "tokenizer" / "merges.txt").write_bytes(gzip.compress(b"a b\n" * 5_000_000))
    with pytest.raises(WeightsError, match=r"merges.txt .*more than 16000000 bytes"):
        read_folder(sd1)


def test_no_tokenizer_is_noted(sd1):
    shutil.rmtree(sd1 / "tokenizer")
    found = read_folder(sd1)
    assert (found.merges, found.vocab_size) == (None, None)
    assert found.config == CONFIGS["sd1"]
    wanted = "the folder has no tokenizer: CLIP's is taken, where no other is given"
    assert found.notes == (wanted,)


@pytest.mark.parametrize("said", [None, "!", "<|endoftext|>"])
def test_without_a_tokenizer_short_prompts_are_filled_as_in_the_family(sd2, said):
    assert CONFIGS["sd2"].pad_token == "zero"
    shutil.rmtree(sd2 / "tokenizer")
    if said is not None:
        write_json(sd2 / "tokenizer" / "tokenizer_config.json", {"pad_token": said})
    wanted = {None: "zero", "!": "zero", "<|endoftext|>": "end"}[said]
    assert read_folder(sd2).config.pad_token == wanted


# Files of weights


def files_of(folder, variant=None):
    return {
        part: [path.name for path in files.files]
        for part, files in read_folder(folder, variant).weights.items()
    }


def rename(folder, part, name):
    path = folder / FOLDERS[part] / f"{stem(part)}.safetensors"
    return path.rename(path.parent / name)


def copies(folder, variant, parts=FOLDERS):
    for part in parts:
        path = folder / FOLDERS[part] / f"{stem(part)}.safetensors"
        shutil.copy(path, path.parent / f"{stem(part)}.{variant}.safetensors")


def test_a_variant_is_taken_where_it_is_asked_for(sd1):
    copies(sd1, "fp16")
    assert files_of(sd1)["unet"] == ["diffusion_pytorch_model.safetensors"]
    assert files_of(sd1, "fp16") == {
        "text_encoder": ["model.fp16.safetensors"],
        "unet": ["diffusion_pytorch_model.fp16.safetensors"],
        "autoencoder": ["diffusion_pytorch_model.fp16.safetensors"],
    }
    with pytest.raises(WeightsError, match="no variant 'bf16'; there is text_encoder: of variant"):
        read_folder(sd1, "bf16")


def test_a_variant_that_only_one_part_has(sd1):
    copies(sd1, "non_ema", ["unet"])
    found = files_of(sd1, "non_ema")
    assert found["unet"] == ["diffusion_pytorch_model.non_ema.safetensors"]
    assert found["text_encoder"] == ["model.safetensors"]
    assert read_folder(sd1, "non_ema").notes == (
        "text_encoder has no variant 'non_ema': it is taken without a variant",
        "vae has no variant 'non_ema': it is taken without a variant",
    )


def test_the_only_variant_is_taken(sd1):
    rename(sd1, "unet", "diffusion_pytorch_model.fp16.safetensors")
    assert files_of(sd1)["unet"] == ["diffusion_pytorch_model.fp16.safetensors"]
    assert read_folder(sd1).notes == ("unet has the variant 'fp16' only, which is taken",)
    path = sd1 / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(path, path.parent / "diffusion_pytorch_model.ema.safetensors")
    words = "unet has no weights without a variant; .*unet: of variant 'ema', of variant 'fp16'"
    with pytest.raises(WeightsError, match=words):
        read_folder(sd1)


def test_safetensors_go_before_bin(sd1):
    (sd1 / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    (sd1 / "text_encoder" / "pytorch_model.bin").write_bytes(b"")
    assert files_of(sd1)["unet"] == ["diffusion_pytorch_model.safetensors"]
    assert files_of(sd1)["text_encoder"] == ["model.safetensors"]
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")):
        (sd1 / part / f"{stem(part)}.safetensors").unlink()
        assert files_of(sd1)[part] == [f"{name}.bin"]


def test_no_weights_is_an_error_that_says_what_there_is(sd1):
    rename(sd1, "autoencoder", "diffusion_flax_model.msgpack")
    words = r"vae has no weights .* there is config.json, diffusion_flax_model.msgpack"
    with pytest.raises(FileNotFoundError, match=words):
        read_folder(sd1)


def shard(folder, part, index="diffusion_pytorch_model.safetensors.index.json", variant=""):
    """Cuts a file of weights in two, with their index."""
    path = folder / FOLDERS[part] / f"{stem(part)}.safetensors"
    tensors = safetensors.numpy.load_file(path)
    path.unlink()
    names, shards = sorted(tensors), {}
    for number, half in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem(part)}{variant}-0000{number}-of-00002.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in half}, path.parent / file)
        shards |= dict.fromkeys(half, file)
    write_json(path.parent / index, {"metadata": {"total_size": 1}, "weight_map": shards})
    return path.parent / index


@pytest.mark.parametrize(
    ("index", "variant"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", None),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "fp16"),
        ("diffusion_pytorch_model.safetensors.fp16.index.json", "fp16"),
    ],
)
def test_shards(sd1, index, variant):
    shard(sd1, "unet", index, f".{variant}" if variant else "")
    assert len(files_of(sd1, variant)["unet"]) == len(files_of(sd1)["unet"]) == 2
    assert same(read_arrays(sd1, variant), arrays_for(CONFIGS["sd1"]))


def test_what_is_whole_goes_before_what_lacks_a_shard(sd1):
    """On the disk as in a repository, of which only what is chosen here is fetched."""
    index = shard(sd1, "unet")
    (sd1 / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    names = [path.relative_to(sd1).as_posix() for path in sd1.rglob("*")]
    assert choice.candidates(names, "unet")[None].file == f"unet/{index.name}"
    assert len(files_of(sd1)["unet"]) == 2
    gone = next((sd1 / "unet").glob("*-00001-of-00002.safetensors"))
    gone.unlink()
    names.remove(f"unet/{gone.name}")
    assert choice.candidates(names, "unet")[None].file == "unet/diffusion_pytorch_model.bin"
    assert files_of(sd1)["unet"] == ["diffusion_pytorch_model.bin"]
    (sd1 / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=f"{gone.name} is missing, a shard of"):
        read_folder(sd1)


@pytest.mark.parametrize(
    "name",
    ["../unet/a.safetensors", "/a.safetensors", "a\\b.safetensors", "..", "", "a.pkl", 3, "c:.bin"],
)
def test_a_shard_outside_of_the_folder_is_refused(sd1, name):
    index = shard(sd1, "unet")
    shards = json.loads(index.read_text())["weight_map"]
    write_json(index, {"weight_map": {**shards, "conv_in.bias": name}})
    with pytest.raises(WeightsError, match="is not the name of a shard in the same folder"):
        read_folder(sd1)


def test_shards_have_to_be_those_of_the_index(sd1):
    index = shard(sd1, "unet")
    shards = json.loads(index.read_text())["weight_map"]
    first, second = sorted(set(shards.values()))
    moved = next(name for name, file in shards.items() if file == first)
    for changed, odd in (
        ({**shards, moved: second}, moved),
        ({name: file for name, file in shards.items() if name != moved}, moved),
        ({**shards, "more": first}, "more"),
    ):
        write_json(index, {"weight_map": changed})
        found = read_folder(sd1)
        with pytest.raises(WeightsError, match=f"not the shard .* lacks {re.escape(odd)}$"):
            read_part(found, "unet")
    for empty in ({}, None, []):
        write_json(index, {"weight_map": empty})
        with pytest.raises(WeightsError, match="weight_map"):
            read_folder(sd1)
    write_json(index, {"weight_map": shards})
    (index.parent / second).unlink()
    with pytest.raises(FileNotFoundError, match=f"{second} is missing, a shard of"):
        read_folder(sd1)


def test_the_names_of_transformers_4(sd1):
    path = sd1 / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{n}": t for n, t in safetensors.numpy.load_file(path).items()}
    positions = "text_model.embeddings.position_ids"
    tensors[positions] = np.arange(77)[None]
    safetensors.numpy.save_file(tensors, path)
    assert read_part(read_folder(sd1), "text_encoder")[2] == (positions,)
    assert same(read_arrays(sd1), arrays_for(CONFIGS["sd1"]))


@pytest.mark.parametrize("convolutions", [False, True])
def test_the_attention_of_old_autoencoders(sd1, convolutions):
    path = sd1 / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = {}
    for name, tensor in safetensors.numpy.load_file(path).items():
        for new, old in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            if f"attentions.0.{new}." in name:
                name = name.replace(new, old)
                tensor = tensor[..., None, None] if convolutions and tensor.ndim == 2 else tensor
        tensors[name] = tensor
    safetensors.numpy.save_file(tensors, path)
    assert same(read_arrays(sd1), arrays_for(CONFIGS["sd1"]))


# Writing

ZERO_SNR = NoiseConfig(prediction="v", zero_terminal_snr=True)
ODD = replace(
    CONFIGS["sd1"],
    name="odd ✓",
    noise=NoiseConfig("linear", 0.001, 0.02, 500, "v", "zero"),
    defaults=Defaults(17, 30, "heun", "mine", 20, 3.0),
    unet=replace(CONFIGS["sd1"].unet, depths=(0, 2, 1), heads=(1, 2, 4)),
    pad_token="zero",
)


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("config", [*CONFIGS.values(), ODD], ids=lambda config: config.name)
def test_what_is_written_reads_back_the_same(tmp_path, config, dtype):
    arrays = arrays_for(config, dtype)
    write_folder(tmp_path / "new", config, arrays, MERGES)
    found = read_folder(tmp_path / "new")
    assert (found.config, found.notes, found.vocab_size) == (config, (), 518)
    assert same(read_arrays(tmp_path / "new"), arrays)
    assert Tokenizer(found.merges).vocabulary == VOCABULARY


@pytest.mark.parametrize(
    "config",
    [
        *(SD_1, SD_2, SD_2_BASE, EMOJI),
        *(
            replace(SD_1, defaults=Defaults(sampler=sampler, schedule=schedule))
            for sampler in ("ddim", "pndm", "euler", "other")
            for schedule in ("leading", "linspace", "trailing", "karras", "exponential", "beta")
        ),
        *(
            replace(SD_1, noise=NoiseConfig(final_sigma="zero"), defaults=Defaults(sampler=name))
            for name in ("ddim", "pndm", "euler")
        ),
        *(
            replace(SD_2, noise=ZERO_SNR, defaults=Defaults(sampler=name))
            for name in ("ddim", "pndm", "euler", "other")
        ),
        replace(SD_1, unet=UNetConfig(in_channels=9)),
        replace(SD_1, unet=UNetConfig(in_channels=8)),
    ],
    ids=lambda c: f"{c.name}-{c.defaults.sampler}-{c.defaults.schedule}-{c.noise.final_sigma}",
)
def test_every_config_reads_back_from_its_json(config):
    """`to_jsons` reads what it has made; here it is also seen to need little beside diffusers'."""
    jsons = write.to_jsons(Path("x"), config, VOCABULARY)
    assert jsons[INDEX]["_keras_sd"]["name"] == config.name
    if config in (SD_1, SD_2, SD_2_BASE):
        assert jsons[INDEX]["_keras_sd"]["defaults"] == {}
    assert json.loads(json.dumps(jsons)) == jsons


def test_a_schedule_that_diffusers_has_is_a_setting_of_its_own():
    config = replace(SD_1, defaults=Defaults(sampler="euler", schedule="karras", num_steps=9))
    jsons = write.to_jsons(Path("x"), config, VOCABULARY)
    assert jsons[SCHEDULER]["use_karras_sigmas"] is True
    assert jsons[INDEX]["_keras_sd"]["defaults"] == {"num_steps": 9}


@pytest.mark.parametrize(
    ("sampler", "theirs"),
    # Their PNDM knows no such noise.
    [("ddim", "DDIM"), ("pndm", "DDIM"), ("euler", "EulerDiscrete"), ("heun", "DDIM")],
)
def test_zero_terminal_snr_is_a_setting_of_its_own(sampler, theirs):
    config = replace(SD_2, noise=ZERO_SNR, defaults=Defaults(sampler=sampler))
    jsons = write.to_jsons(Path("x"), config, VOCABULARY)
    assert jsons[SCHEDULER]["_class_name"] == f"{theirs}Scheduler"
    assert jsons[SCHEDULER]["rescale_betas_zero_snr"] is True
    assert jsons[SCHEDULER]["prediction_type"] == "v_prediction"
    plain = write.to_jsons(Path("x"), replace(SD_2, defaults=config.defaults), VOCABULARY)
    assert not plain[SCHEDULER].get("rescale_betas_zero_snr")


@pytest.mark.parametrize(
    ("ours", "theirs"), [("epsilon", "epsilon"), ("v", "v_prediction"), ("x0", "sample")]
)
def test_what_the_unet_gives_has_a_name_there(ours, theirs):
    config = replace(SD_1, noise=NoiseConfig(prediction=ours))
    jsons = write.to_jsons(Path("x"), config, VOCABULARY)
    assert jsons[SCHEDULER]["prediction_type"] == theirs


def test_a_model_that_diffusers_has_not_is_refused(tmp_path):
    config = replace(CONFIGS["sd1"], unet=replace(CONFIGS["sd1"].unet, in_channels=7))
    with pytest.raises(WeightsError, match="no pipeline for a UNet that takes 7 channels"):
        write_folder(tmp_path / "new", config, {}, MERGES)
    tanh = replace(CONFIGS["sd1"].text_encoder, activation="gelu_tanh")
    with pytest.raises(WeightsError, match="hidden_act is 'gelu_tanh'"):
        write_folder(tmp_path / "new", replace(CONFIGS["sd1"], text_encoder=tanh), {}, MERGES)
    assert not (tmp_path / "new").exists()


def test_other_arrays_than_the_config_has_are_refused(tmp_path):
    config = CONFIGS["sd1"]
    arrays = arrays_for(config)
    for change in ({"unet/more": np.ones(1)}, {"vae/x": np.ones(1)}):
        with pytest.raises(WeightsError, match="not those of the config"):
            write_folder(tmp_path / "new", config, {**arrays, **change}, MERGES)
    arrays.pop("unet/conv_in/bias")
    with pytest.raises(WeightsError, match="unet/conv_in/bias"):
        write_folder(tmp_path / "new", config, arrays, MERGES)
    arrays["unet/conv_in/bias"] = np.full(4, 1e6, np.float32)
    with pytest.raises(WeightsError, match="not finite as float16: unet/conv_in/bias"):
        write_folder(tmp_path / "new", config, arrays, MERGES, dtype="float16")
    assert not (tmp_path / "new").exists()


def test_a_dtype_is_converted_to(tmp_path):
    config = CONFIGS["sd1"]
    arrays = arrays_for(config)
    write_folder(tmp_path / "new", config, arrays, MERGES, dtype="float16")
    half = {name: array.astype("float16") for name, array in arrays.items()}
    assert same(read_arrays(tmp_path / "new"), half)


def test_more_merges_than_the_vocabulary_has_are_left_out(tmp_path):
    config = CONFIGS["sd1"]
    path = tmp_path / "merges.txt"
    path.write_text("\n".join(["#version: 0.2", *MERGES, "b c", ""]))
    write_folder(tmp_path / "new", config, arrays_for(config), path)
    assert Tokenizer(read_folder(tmp_path / "new").merges).vocabulary == VOCABULARY


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_folder_is_written_whole_or_not_at_all(sd1, monkeypatch, stop):
    before = {path: path.read_bytes() for path in sd1.rglob("*") if path.is_file()}
    config = CONFIGS["sd1"]
    arrays = {name: array + 1 for name, array in arrays_for(config).items()}
    written = []
    original = write.save_file

    def killed(tensors, path, **options):
        written.append(path)
        if len(written) == stop:
            raise KeyboardInterrupt
        original(tensors, path, **options)

    monkeypatch.setattr(write, "save_file", killed)
    for folder in (sd1, sd1.parent / "new"):
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            write_folder(folder, config, arrays, MERGES)
    assert {path: path.read_bytes() for path in sd1.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in sd1.parent.iterdir()) == [sd1.name]


@pytest.mark.parametrize(
    "name", ["tokenizer/tokenizer.json", "unet/diffusion_pytorch_model.safetensors.index.json"]
)
def test_files_that_would_be_read_in_place_of_ours_are_not_joined(sd1, name):
    write_json(sd1 / name, {})
    with pytest.raises(FileExistsError, match=f"has other files too.* {name}"):
        write_folder(sd1, CONFIGS["sd1"], arrays_for(CONFIGS["sd1"]), MERGES)
    assert (sd1 / INDEX).is_file()
    assert (sd1 / name).is_file()


def test_a_folder_is_written_over_the_one_it_is_read_from(sd1):
    write_folder(sd1, CONFIGS["sd1"], read_arrays(sd1), MERGES)
    assert same(read_arrays(sd1), arrays_for(CONFIGS["sd1"]))


# With the libraries themselves


@pytest.fixture(scope="module")
def maker():
    """The script that makes the fixtures."""
    pytest.importorskip("diffusers")
    spec = importlib.util.spec_from_file_location("maker", FIXTURES / "make_checkpoints.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torch_arrays(pipeline, config):
    """The weights of a pipeline by our paths, from its state dicts."""
    parts = {"text_encoder": pipeline.text_encoder, "unet": pipeline.unet}
    arrays = {}
    for part, model in {**parts, "autoencoder": pipeline.vae}.items():
        state = {name: value.numpy() for name, value in model.state_dict().items()}
        table = getattr(diffusers, part)(getattr(config, part))
        for entry in table:
            name = entry.name if entry.name in state else f"text_model.{entry.name}"
            value = entry.ours(state.pop(name))
            arrays[f"{part}/{entry.path}"] = np.ascontiguousarray(value)
        assert state == {}
    return arrays


@pytest.mark.references
def test_the_fixtures_are_what_diffusers_writes(maker, tmp_path):
    maker.write_jsons(tmp_path)
    for model in CONFIGS:
        file = f"{model}_diffusers.json"
        found, committed = (json.loads((f / file).read_text()) for f in (tmp_path, FIXTURES))
        for values in (*found.values(), *committed.values()):
            # The last says whether HF_HUB_OFFLINE was set where they were made.
            for key in ("_diffusers_version", "transformers_version", "local_files_only"):
                values.pop(key, None)
        assert found == committed


@pytest.mark.references
@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ({}, None),
        ({"max_shard_size": "8KB"}, None),
        ({"variant": "fp16"}, "fp16"),
        ({"variant": "fp16", "max_shard_size": "8KB"}, "fp16"),
        ({"safe_serialization": False}, None),
    ],
    ids=["plain", "shards", "variant", "shards of a variant", "bin"],
)
def test_every_tensor_that_diffusers_saves_is_read(maker, tmp_path, model, options, variant):
    pipeline = maker.tiny(model)
    if variant:
        pipeline.to(dtype=maker.torch_dtype("float16"))
    pipeline.save_pretrained(tmp_path / model, **options)
    found = read_folder(tmp_path / model, variant)
    assert (found.config, found.notes) == (CONFIGS[model], ())
    assert ("max_shard_size" in options) == (len(found.weights["unet"].files) > 1)
    assert same(read_arrays(tmp_path / model, variant), torch_arrays(pipeline, CONFIGS[model]))


@pytest.mark.references
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("config", [*CONFIGS.values(), ODD], ids=lambda config: config.name)
def test_diffusers_loads_what_we_write(maker, tmp_path, config, dtype):
    import diffusers as theirs
    import torch

    arrays = arrays_for(config, dtype)
    write_folder(tmp_path / "new", config, arrays, MERGES)
    pipeline = theirs.StableDiffusionPipeline.from_pretrained(
        tmp_path / "new", dtype=getattr(torch, dtype), local_files_only=True
    )
    assert same(torch_arrays(pipeline, config), arrays)
    ours = Tokenizer(MERGES, max_length=77, pad=config.pad_token)
    # To transformers a padding token is special in a prompt too: it has 0 for the "!" of Stable
    # Diffusion 2.x, which OpenCLIP's own tokenizer, whose ids the model learned, does not do.
    prompts = ["a cat and a dog", "", "Ca?!  TS" if config.pad_token == "end" else "Ca?  TS"]
    ids = pipeline.tokenizer(prompts, padding="max_length", max_length=77).input_ids
    assert ids == ours(prompts).tolist()
    assert pipeline.tokenizer.model_max_length == 77
    pipeline.to(dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    out = pipeline("a cat", num_inference_steps=2, output_type="np", height=16, width=16).images
    assert out.shape == (1, 16, 16, 3)
    assert np.isfinite(out).all()


def goldens():
    """The script that runs diffusers' schedulers in float64 with noise of ours."""
    spec = importlib.util.spec_from_file_location("goldens", FIXTURES / "make_sampler_goldens.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs_of_both(name, values, steps):
    """Diffusers' sigmas, timesteps and last latent on a toy model, and ours by a folder's defaults.

    Both begin at the same latent, and are told what the other is told: the toy depends on it.
    """
    import diffusers as theirs
    import torch

    script = goldens()
    given = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "steps_offset": 1,
        **values,
    }
    kind = getattr(theirs, name)
    if "steps_offset" not in inspect.signature(kind.__init__).parameters:
        del given["steps_offset"]
    notes = []
    noise, defaults = schedulers.read_scheduler(
        settings.FolderSettings(Path("x"), {"_class_name": name, **given}), None, notes
    )
    levels = make_levels(defaults.schedule, noise.table(), steps, final_sigma=noise.final_sigma)
    start, draws = script.inputs()
    v = noise.prediction == "v"

    def told(x, t):  # what the model predicts, of a latent with its alpha in it
        return script.toy_epsilon(x, t)

    with script.in_float64(kind, draws), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers' own, of NumPy and torch
        scheduler = kind(**given)
        scheduler.set_timesteps(steps)
        sigma = float(scheduler.init_noise_sigma)
        x = torch.from_numpy(start * sigma)
        timesteps = [float(t) for t in scheduler.timesteps]
        first = None
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t)
            first = scaled.numpy() if first is None else first
            x = scheduler.step(torch.from_numpy(told(scaled.numpy(), float(t))), t, x).prev_sample

    def denoise(x, level):
        out = told(x, level.t)
        if v:
            return level.alpha * x - level.sigma * out
        return (x - level.sigma * out) / level.alpha

    noises = iter(draws)
    ours = first
    run = get_sampler(defaults.sampler)(denoise, ours, levels, lambda now, nxt: next(noises))
    for ours in run:  # noqa: B007
        pass
    return scheduler, timesteps, x.numpy(), levels, ours, notes


EACH = ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete")
SPACED = [
    (name, {"timestep_spacing": spacing, **sigmas})
    for name in (*EACH, "KDPM2AncestralDiscrete")
    for spacing in ("linspace", "leading", "trailing")
    for sigmas in (
        {},
        *(({key: True} for key in schedulers.SIGMAS) if "EulerAnc" not in name else ()),
    )
]
MULTISTEP = [
    (name, {"timestep_spacing": spacing, **sigmas, **options})
    for name, options in (
        (MULTI, {}),
        (MULTI, {"solver_type": "heun"}),
        (MULTI, {"algorithm_type": "sde-dpmsolver++"}),
        (MULTI, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
        (MULTI, {"solver_order": 1}),
        (MULTI, {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"}),
        (MULTI, {"solver_order": 3, "solver_type": "heun"}),
        ("UniPCMultistep", {}),
        ("UniPCMultistep", {"solver_order": 3}),
    )
    for spacing, sigmas in (
        ("linspace", {}),
        ("leading", {}),
        ("trailing", {}),
        *(("linspace", {key: True}) for key in schedulers.SIGMAS),
    )
]
STEPS = [
    *((name, {"timestep_spacing": "leading"}) for name in ("DDIM", "PNDM", "DDPM")),
    *((name, {"timestep_spacing": "trailing"}) for name in ("DDIM", "PNDM", "DDPM")),
    ("DDIM", {"set_alpha_to_one": True}),
    ("DDPM", {"timestep_spacing": "linspace"}),
    ("PNDM", {"prediction_type": "v_prediction"}),
    ("DEISMultistep", {"lower_order_final": False}),
    ("DEISMultistep", {"lower_order_final": False, "solver_order": 3}),
    (MULTI, {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
    (MULTI, {"use_lu_lambdas": True}),
    ("DPMSolverSinglestep", {"solver_order": 1, "use_karras_sigmas": True}),
    ("LCM", {}),
    ("TCD", {}),
]


@pytest.mark.references
@pytest.mark.parametrize(("name", "values"), [*SPACED, *MULTISTEP, *STEPS])
def test_a_run_by_a_folders_defaults_is_that_of_its_scheduler(name, values):
    pytest.importorskip("diffusers")
    pytest.importorskip("scipy")
    values = dict(values)
    if name in ("DDIM", "DDPM"):
        values["clip_sample"] = False
    if name == "DDIM":
        values.setdefault("set_alpha_to_one", False)
    if name == "PNDM":
        values["skip_prk_steps"] = True
    steps = 20
    found = runs_of_both(name.removesuffix("Scheduler") + "Scheduler", values, steps)
    scheduler, timesteps, theirs, levels, ours, _ = found
    if hasattr(scheduler, "sigmas") and len(scheduler.sigmas) == steps + 1:
        ratios = [level.ratio for level in levels]
        np.testing.assert_allclose(np.asarray(scheduler.sigmas), ratios, rtol=1e-6, atol=1e-9)
        told = [level.t for level in levels[:-1]]
        np.testing.assert_allclose(timesteps, told, atol=1e-4)
    last = levels[-1]
    if schedulers.KINDS[type(scheduler).__name__].grid == "each":
        theirs = theirs * last.alpha
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.references
def test_the_defaults_are_those_of_diffusers_and_no_setting_is_forgotten(maker):
    import diffusers as theirs

    for name, table, also in (
        ("UNet2DConditionModel", configs._UNET, {*configs._UNET_IDLE, *UNET_TAKEN}),
        ("AutoencoderKL", configs._AUTOENCODER, {*configs._AUTOENCODER_IDLE, *VAE_TAKEN}),
    ):
        settings = inspect.signature(getattr(theirs, name).__init__).parameters
        assert set(settings) - {"self"} == {*table, *also}
        for key, allowed in table.items():
            assert settings[key].default == allowed[0], key
    for name, kind in schedulers.KINDS.items():
        if hasattr(getattr(theirs, name), "_backends"):  # a stand-in, where torchsde is missing
            continue
        parameters = inspect.signature(getattr(theirs, name).__init__).parameters
        defaults = {key: each.default for key, each in parameters.items()}
        for key, allowed in (schedulers.FIXED | schedulers.NOTED).items():
            if key in defaults:
                assert defaults[key] in allowed, key
        betas = tuple(defaults[key] for key in ("beta_schedule", "beta_start", "beta_end"))
        assert betas == kind.betas, name
        wanted = defaults.get("timestep_spacing", "linspace")
        assert wanted == kind.default_spacing(), name
        if kind.end == "set_alpha_to_one":
            assert defaults[kind.end] == (name in schedulers._TO_ONE)
        elif kind.end == "final_sigmas_type":
            assert defaults[kind.end] == "zero"
        taken = {*schedulers.FIXED, *schedulers.NOTED, *SCHEDULER_TAKEN}
        assert defaults.keys() - taken <= {"self"}, name
    for name in schedulers.UNKNOWN:
        assert inspect.isclass(getattr(theirs, name))


SCHEDULER_TAKEN = {
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"),
    *("timestep_spacing", "rescale_betas_zero_snr", "final_sigmas_type", "set_alpha_to_one"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    *("skip_prk_steps", "variance_type", "timestep_scaling", "original_inference_steps"),
    *("solver_order", "solver_type", "algorithm_type", "lower_order_final", "euler_at_final"),
    *("predictor_order", "corrector_order", "tau_func"),
    # Their pipelines set them so, whatever the file says.
    *("steps_offset", "clip_sample", "clip_sample_range"),
    # Of thresholding and of flow matching.
    *("dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "use_dynamic_shifting"),
    *("time_shift_type", "shift_terminal"),
}


UNET_TAKEN = {
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types"),
    *("only_cross_attention", "block_out_channels", "layers_per_block", "norm_num_groups"),
    *("cross_attention_dim", "transformer_layers_per_block", "attention_head_dim"),
    *("use_linear_projection", "time_embedding_dim", "mid_block_type", "time_cond_proj_dim"),
    *("reverse_transformer_layers_per_block", "addition_embed_type", "addition_time_embed_dim"),
    "projection_class_embeddings_input_dim",
}
VAE_TAKEN = {
    *("down_block_types", "up_block_types", "block_out_channels", "layers_per_block"),
    *("latent_channels", "norm_num_groups", "scaling_factor"),
}
