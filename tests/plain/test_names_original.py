"""The names of single files: counted, spot-checked, and read back by diffusers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from keras_sd.config import SD_1, SD_2, AutoencoderConfig, TextEncoderConfig, UNetConfig
from keras_sd.weights.names import diffusers, original

TABLES = {
    "unet": (original.unet, diffusers.unet),
    "autoencoder": (original.autoencoder, diffusers.autoencoder),
    "text_encoder": (original.text_encoder, diffusers.text_encoder),
}
FULL = [(config, part) for config in (SD_1, SD_2) for part in TABLES]
# Small, and of other numbers of resolutions and blocks than the full ones.
SMALL = {
    "sd1": {
        "unet": UNetConfig(4, 4, (32, 32, 64), (8, 8, 8), (1, 2, 0), 2, 32),
        "autoencoder": AutoencoderConfig(4, (32, 64, 64), 2),
        "text_encoder": TextEncoderConfig(99, 7, 32, 2, 2, 64),
    },
    "sd2": {
        "unet": UNetConfig(4, 4, (32, 64), (1, 2), (0, 1), 1, 32, linear_projection=True),
        "autoencoder": AutoencoderConfig(4, (32, 32, 64, 64), 1),
        "text_encoder": TextEncoderConfig(99, 7, 32, 3, 2, 64, "gelu"),
    },
}
small = pytest.mark.parametrize(
    ("family", "part"), [(family, part) for family in SMALL for part in TABLES]
)


@pytest.mark.parametrize(
    ("config", "part", "count"),
    [
        (SD_1, "unet", 686),
        (SD_1, "autoencoder", 248),
        (SD_1, "text_encoder", 196),
        (SD_2, "unet", 686),
        (SD_2, "autoencoder", 248),
        # 12 tensors a layer: query, key and value are in one.
        (SD_2, "text_encoder", 4 + 23 * 12),
    ],
)
def test_the_tables_have_the_sizes_known_of_the_files(config, part, count):
    make, _ = TABLES[part]
    assert len({entry.name for entry in make(getattr(config, part))}) == count


def check_entries(make, canonical, config):
    table, expected = make(config), canonical(config)
    assert [entry.path for entry in table] == [entry.path for entry in expected]
    assert [entry.shape for entry in table] == [entry.shape for entry in expected]
    # No name twice, but for the parts of one tensor.
    assert len({(entry.name, entry.part) for entry in table}) == len(table)
    names = [entry.name for entry in table if entry.part is None]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("config", "part"), FULL)
def test_every_variable_has_one_place(config, part):
    check_entries(*TABLES[part], getattr(config, part))


@small
def test_every_variable_of_other_architectures_has_one_place(family, part):
    check_entries(*TABLES[part], SMALL[family][part])


SPOTS = [
    # The blocks are counted through all resolutions; 0 is the first convolution.
    (SD_1, "unet", "time1/kernel", "time_embed.0.weight", (1280, 320)),
    (SD_1, "unet", "time2/bias", "time_embed.2.bias", (1280,)),
    (SD_1, "unet", "conv_in/kernel", "input_blocks.0.0.weight", (320, 4, 3, 3)),
    (
        SD_1,
        "unet",
        "down_0_0/transformer/block_0/self_attention/query/kernel",
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
        (320, 320),
    ),
    (SD_1, "unet", "downsample_0/conv/kernel", "input_blocks.3.0.op.weight", (320, 320, 3, 3)),
    (
        SD_1,
        "unet",
        "down_1_0/residual/shortcut/kernel",
        "input_blocks.4.0.skip_connection.weight",
        (640, 320, 1, 1),
    ),
    (
        SD_1,
        "unet",
        "down_2_1/transformer/proj_in/kernel",
        "input_blocks.8.1.proj_in.weight",
        (1280, 1280, 1, 1),
    ),
    (SD_1, "unet", "downsample_2/conv/bias", "input_blocks.9.0.op.bias", (1280,)),
    (
        SD_1,
        "unet",
        "down_3_1/residual/conv1/kernel",
        "input_blocks.11.0.in_layers.2.weight",
        (1280, 1280, 3, 3),
    ),
    (SD_1, "unet", "middle/residual/norm1/gamma", "middle_block.0.in_layers.0.weight", (1280,)),
    (
        SD_1,
        "unet",
        "middle/transformer/block_0/cross_attention/value/kernel",
        "middle_block.1.transformer_blocks.0.attn2.to_v.weight",
        (1280, 768),
    ),
    (
        SD_1,
        "unet",
        "middle_residual/time/kernel",
        "middle_block.2.emb_layers.1.weight",
        (1280, 1280),
    ),
    (
        SD_1,
        "unet",
        "up_3_0/residual/conv1/kernel",
        "output_blocks.0.0.in_layers.2.weight",
        (1280, 2560, 3, 3),
    ),
    # Behind a residual block alone, and behind one with a transformer.
    (SD_1, "unet", "upsample_3/conv/kernel", "output_blocks.2.1.conv.weight", (1280, 1280, 3, 3)),
    (SD_1, "unet", "upsample_2/conv/kernel", "output_blocks.5.2.conv.weight", (1280, 1280, 3, 3)),
    (SD_1, "unet", "upsample_1/conv/kernel", "output_blocks.8.2.conv.weight", (640, 640, 3, 3)),
    (
        SD_1,
        "unet",
        "up_0_2/residual/norm2/beta",
        "output_blocks.11.0.out_layers.0.bias",
        (320,),
    ),
    (
        SD_1,
        "unet",
        "up_0_2/transformer/block_0/feed_forward/hidden/kernel",
        "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight",
        (2560, 320),
    ),
    (SD_1, "unet", "norm_out/gamma", "out.0.weight", (320,)),
    (SD_1, "unet", "conv_out/kernel", "out.2.weight", (4, 320, 3, 3)),
    (
        SD_2,
        "unet",
        "middle/transformer/proj_out/kernel",
        "middle_block.1.proj_out.weight",
        (1280,) * 2,
    ),
    (
        SD_2,
        "unet",
        "down_0_1/transformer/block_0/cross_attention/key/kernel",
        "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
        (320, 1024),
    ),
    (SD_1, "autoencoder", "encoder/moments/kernel", "quant_conv.weight", (8, 8, 1, 1)),
    (SD_1, "autoencoder", "decoder/latent/bias", "post_quant_conv.bias", (4,)),
    (
        SD_1,
        "autoencoder",
        "encoder/level_1_0/shortcut/kernel",
        "encoder.down.1.block.0.nin_shortcut.weight",
        (256, 128, 1, 1),
    ),
    (
        SD_1,
        "autoencoder",
        "encoder/downsample_2/conv/kernel",
        "encoder.down.2.downsample.conv.weight",
        (512, 512, 3, 3),
    ),
    (
        SD_1,
        "autoencoder",
        "encoder/middle/residual1/norm1/gamma",
        "encoder.mid.block_1.norm1.weight",
        (512,),
    ),
    (
        SD_1,
        "autoencoder",
        "encoder/middle/attention/norm/beta",
        "encoder.mid.attn_1.norm.bias",
        (512,),
    ),
    (
        SD_1,
        "autoencoder",
        "decoder/middle/attention/attention/value/kernel",
        "decoder.mid.attn_1.v.weight",
        (512, 512, 1, 1),
    ),
    (
        SD_1,
        "autoencoder",
        "decoder/middle/attention/attention/out/bias",
        "decoder.mid.attn_1.proj_out.bias",
        (512,),
    ),
    (
        SD_1,
        "autoencoder",
        "decoder/middle/residual2/conv2/bias",
        "decoder.mid.block_2.conv2.bias",
        (512,),
    ),
    (
        SD_1,
        "autoencoder",
        "decoder/level_0_0/shortcut/kernel",
        "decoder.up.0.block.0.nin_shortcut.weight",
        (128, 256, 1, 1),
    ),
    (
        SD_1,
        "autoencoder",
        "decoder/upsample_1/conv/kernel",
        "decoder.up.1.upsample.conv.weight",
        (256, 256, 3, 3),
    ),
    (SD_1, "autoencoder", "decoder/norm_out/gamma", "decoder.norm_out.weight", (128,)),
    (
        SD_1,
        "text_encoder",
        "embedding/positions/embeddings",
        "embeddings.position_embedding.weight",
        (77, 768),
    ),
    (
        SD_1,
        "text_encoder",
        "layer_11/attention/out/kernel",
        "encoder.layers.11.self_attn.out_proj.weight",
        (768, 768),
    ),
    (SD_2, "text_encoder", "embedding/tokens/embeddings", "token_embedding.weight", (49408, 1024)),
    (SD_2, "text_encoder", "embedding/positions/embeddings", "positional_embedding", (77, 1024)),
    (
        SD_2,
        "text_encoder",
        "layer_22/attention/value/kernel",
        "transformer.resblocks.22.attn.in_proj_weight",
        (3072, 1024),
    ),
    (
        SD_2,
        "text_encoder",
        "layer_0/attention/key/bias",
        "transformer.resblocks.0.attn.in_proj_bias",
        (3072,),
    ),
    (
        SD_2,
        "text_encoder",
        "layer_0/attention/out/bias",
        "transformer.resblocks.0.attn.out_proj.bias",
        (1024,),
    ),
    (
        SD_2,
        "text_encoder",
        "layer_7/hidden/kernel",
        "transformer.resblocks.7.mlp.c_fc.weight",
        (4096, 1024),
    ),
    (SD_2, "text_encoder", "layer_7/norm2/beta", "transformer.resblocks.7.ln_2.bias", (1024,)),
    (SD_2, "text_encoder", "norm/gamma", "ln_final.weight", (1024,)),
]
PREFIXES = {
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    ("sd-1", "text_encoder"): "cond_stage_model.transformer.text_model.",
    ("sd-2", "text_encoder"): "cond_stage_model.model.",
}


@pytest.mark.parametrize(
    ("config", "part", "path", "name", "shape"), SPOTS, ids=[spot[3] for spot in SPOTS]
)
def test_known_names(config, part, path, name, shape):
    make, _ = TABLES[part]
    prefix = PREFIXES.get(part) or PREFIXES[config.name, part]
    (entry,) = (entry for entry in make(getattr(config, part)) if entry.path == path)
    assert entry.name == prefix + name
    assert entry.file_shape == shape


def test_prefixes_can_be_others():
    assert original.autoencoder(SD_1.autoencoder, "")[0].name == "quant_conv.weight"
    assert original.unet(SD_1.unet, "")[0].name == "time_embed.0.weight"
    clip = original.clip(SD_1.text_encoder, "cond_stage_model.transformer.")
    assert clip[0].name == "cond_stage_model.transformer.embeddings.token_embedding.weight"
    assert original.openclip(SD_2.text_encoder, "")[0].name == "token_embedding.weight"


def test_only_the_weights_of_the_attention_are_pointwise():
    config = SMALL["sd1"]["autoencoder"]
    pointwise = [w.name for w in original.autoencoder(config, "") if w.layout == "pointwise"]
    assert sorted(pointwise) == sorted(
        f"{half}.mid.attn_1.{name}.weight"
        for half in ("encoder", "decoder")
        for name in ("q", "k", "v", "proj_out")
    )
    linear = original.autoencoder(config, "", pointwise=False)
    assert sorted(w.name for w in linear if w.layout == "linear") == sorted(pointwise)


def test_query_key_and_value_are_the_thirds_of_one_tensor():
    table = original.openclip(SMALL["sd2"]["text_encoder"], "")
    name = "transformer.resblocks.1.attn.in_proj_weight"
    entries = {entry.path.split("/")[-2]: entry for entry in table if entry.name == name}
    whole = np.arange(96 * 32).reshape(96, 32)
    for i, which in enumerate(("query", "key", "value")):
        assert entries[which].path == f"layer_1/attention/{which}/kernel"
        rows = whole[32 * i : 32 * (i + 1)]
        np.testing.assert_array_equal(entries[which].ours(whole), rows.T)
        np.testing.assert_array_equal(entries[which].theirs(rows.T), rows)


def test_the_moving_average_has_names_without_dots():
    name = original.ema_name("model.diffusion_model.input_blocks.1.1.proj_in.weight")
    assert name == "model_ema.diffusion_modelinput_blocks11proj_inweight"
    for config in (SD_1, SD_2):
        table = original.unet(config.unet)
        assert len({original.ema_name(entry.name) for entry in table}) == len(table)


@pytest.mark.parametrize(
    "name",
    [
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "lvlb_weights",
        "logvar",
        "scale_factor",
        "v_pred",
        "ztsnr",
        "model_ema.decay",
        "model_ema.num_updates",
        "model_ema.encoderconv_inweight",
        "first_stage_model.loss.discriminator.main.0.weight",
        "loss.logvar",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.transformer.embeddings.position_ids",
        "embeddings.position_ids",
        "cond_stage_model.logit_scale",
        "cond_stage_model.model.logit_scale",
        "cond_stage_model.model.text_projection",
        "cond_stage_model.transformer.text_projection.weight",
        "cond_stage_model.model.attn_mask",
        "text_projection.weight",
        "embedding_manager.string_to_param_dict.x",
    ],
)
def test_what_training_left_is_known(name):
    assert original.is_ignored(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "betas.weight",
        "model.betas",
        "model_ema.diffusion_modelout2bias",
        "model.diffusion_model.label_emb.weight",
        "first_stage_model.encoder.conv_in.weight",
        "cond_stage_model.model.transformer.resblocks.23.ln_1.bias",
        "control_model.time_embed.0.weight",
        "my_position_ids",
    ],
)
def test_nothing_else_is(name):
    assert not original.is_ignored(name)


def test_no_variable_is_ignored():
    for config, part in FULL:
        make, _ = TABLES[part]
        table = make(getattr(config, part))
        assert not [entry.name for entry in table if original.is_ignored(entry.name)]


# Read back by diffusers


def libraries():
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from diffusers.loaders import single_file_utils

    return single_file_utils


def reference(part, config):
    """The library's network."""
    if part == "text_encoder":
        from transformers import CLIPTextConfig, CLIPTextModel

        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocab_size,
                max_position_embeddings=config.max_length,
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_width,
                hidden_act=config.activation,
            )
        )
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if part == "autoencoder":
        return AutoencoderKL(
            block_out_channels=config.widths,
            layers_per_block=config.blocks,
            latent_channels=config.latent_channels,
            down_block_types=("DownEncoderBlock2D",) * len(config.widths),
            up_block_types=("UpDecoderBlock2D",) * len(config.widths),
        )
    kinds = ["CrossAttn" if depth else "" for depth in config.depths]
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.widths,
        attention_head_dim=config.heads,
        layers_per_block=config.blocks,
        transformer_layers_per_block=tuple(max(depth, 1) for depth in config.depths),
        cross_attention_dim=config.context_width,
        use_linear_projection=config.linear_projection,
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
    )


def bare(state):
    """Without `text_model.`, which some versions of transformers have."""
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}


def converted(part, config, model, file, **options):
    """What diffusers makes of the tensors of a single file."""
    utils = libraries()
    if part == "unet":
        return utils.convert_ldm_unet_checkpoint(file, dict(model.config), **options)
    if part == "autoencoder":
        return utils.convert_ldm_vae_checkpoint(file, dict(model.config))
    if config.activation == "quick_gelu":
        return bare(utils.convert_ldm_clip_checkpoint(file))
    return bare(utils.convert_open_clip_checkpoint(model, file))


def written(part, config, state, **options):
    """The tensors of a single file, in our names, from the library's network."""
    make, canonical = TABLES[part]
    ours = {entry.path: entry.ours(state[entry.name].numpy()) for entry in canonical(config)}
    pieces = {}
    for entry in make(config, **options):
        pieces.setdefault(entry.name, {})[entry.part] = entry.theirs(ours[entry.path])
    return {
        name: np.concatenate([parts[key] for key in sorted(parts)])
        if len(parts) > 1
        else parts[None]
        for name, parts in pieces.items()
    }


@pytest.mark.references
@small
@pytest.mark.parametrize("pointwise", [True, False])
def test_diffusers_reads_our_names(family, part, pointwise):
    libraries()
    import torch

    config = SMALL[family][part]
    model = reference(part, config)
    state = {name: torch.randn(value.shape) for name, value in bare(model.state_dict()).items()}
    options = {"pointwise": pointwise} if part == "autoencoder" else {}
    arrays = written(part, config, state, **options)
    file = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    read = converted(part, config, model, file)
    assert read.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(read[name], value), name


@pytest.mark.references
@pytest.mark.parametrize("family", SMALL)
def test_diffusers_finds_our_moving_average(family):
    libraries()
    import torch

    # More than a hundred tensors, or diffusers does not believe in it.
    config = replace(SMALL[family]["unet"], blocks=2)
    model = reference("unet", config)
    state = {name: torch.randn(value.shape) for name, value in model.state_dict().items()}
    file = {}
    for name, array in written("unet", config, state).items():
        file[original.ema_name(name)] = torch.from_numpy(np.array(array))
        file[name] = torch.zeros(())
    read = converted("unet", config, model, file, extract_ema=True)
    assert read.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(read[name], value), name


@pytest.mark.references
@pytest.mark.parametrize(("config", "part"), FULL)
def test_diffusers_has_the_full_size_names_and_shapes(config, part):
    libraries()
    import torch

    make, _ = TABLES[part]
    config = getattr(config, part)
    with torch.device("meta"):
        model = reference(part, config)
        file = {entry.name: torch.empty(entry.file_shape) for entry in make(config)}
        read = converted(part, config, model, file)
    expected = {name: tuple(value.shape) for name, value in bare(model.state_dict()).items()}
    assert {name: tuple(value.shape) for name, value in read.items()} == expected
