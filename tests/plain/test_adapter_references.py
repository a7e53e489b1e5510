"""What an adapter makes of a weight, beside PEFT's merged weights and LyCORIS' forward pass."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import TINY

from keras_sd.adapters import match, open_adapter
from keras_sd.adapters.kinds import applied, fits

pytestmark = pytest.mark.references

LAYERS = [
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "linear_1", "time_emb_proj"),
    *("proj_in", "conv1", "conv_shortcut", "conv", "conv_in"),
]


def made():
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=TINY.unet.widths,
        layers_per_block=1,
        cross_attention_dim=TINY.unet.context_width,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
    )


def check_merged(change, place, weight, module):
    """What PEFT makes of a weight, within 1e-5 of the change."""
    module.merge()
    wanted = module.get_base_layer().weight.detach().numpy()
    merged = applied(change.kind, change.factors(), weight, change.scale, 1.0)
    size = np.abs(wanted - weight).max()
    assert size > 1e-3
    assert np.abs(merged - wanted).max() <= 1e-5 * size, place.name


@pytest.mark.parametrize("written", ["save_lora_adapter", "save_pretrained"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_q": 6, "conv1": 1}},
        {"use_dora": True},
    ],
    ids=["lora", "rs", "patterns", "dora"],
)
def test_weights_that_peft_merges(tmp_path, settings, written):
    import peft
    import torch
    from safetensors.torch import save_file

    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS, **settings)
    unet = made()
    before = {name: tensor.clone().numpy() for name, tensor in unet.state_dict().items()}
    unet.add_adapter(config)
    for name, parameter in unet.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.3
        elif "magnitude" in name:
            parameter.data *= 1.3
    if written == "save_lora_adapter":
        unet.save_lora_adapter(tmp_path)
    else:
        tensors = peft.get_peft_model_state_dict(unet, adapter_name="default")
        named = {f"base_model.model.{n}": tensor.contiguous() for n, tensor in tensors.items()}
        save_file(named, tmp_path / "adapter_model.safetensors")
        config.save_pretrained(tmp_path)

    adapter = open_adapter(tmp_path)
    found = match(adapter, TINY)
    found.check()
    assert adapter.notes == ()
    modules = dict(unet.named_modules())
    assert len(found.matched) > 60
    for change, place, _ in found.matched:
        weight = before[f"{place.name}.weight"]
        check_merged(change, place, weight, modules[place.name])


LYCORIS = {
    "LoCon": ("locon", "LoConModule", {}),
    "LoCon, core": ("locon", "LoConModule", {"use_tucker": True}),
    "DoRA, rows": ("locon", "LoConModule", {"weight_decompose": True, "wd_on_out": True}),
    "DoRA, columns": ("locon", "LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    "LoHa": ("loha", "LohaModule", {}),
    "LoHa, cores": ("loha", "LohaModule", {"use_tucker": True}),
    "LoHa, DoRA": ("loha", "LohaModule", {"weight_decompose": True, "wd_on_out": True}),
    "LoKr": ("lokr", "LokrModule", {"factor": -1}),
    "LoKr, both": ("lokr", "LokrModule", {"factor": 4, "decompose_both": True}),
    "LoKr, core": ("lokr", "LokrModule", {"factor": 4, "use_tucker": True}),
    "LoKr, whole": ("lokr", "LokrModule", {"factor": 4, "full_matrix": True}),
    "GLoRA": ("glora", "GLoRAModule", {}),
    "IA3": ("ia3", "IA3Module", {}),
    "IA3 of inputs": ("ia3", "IA3Module", {"train_on_input": True}),
    "OFT": ("diag_oft", "DiagOFTModule", {"lora_dim": 4}),
    "OFT, bound": ("diag_oft", "DiagOFTModule", {"lora_dim": 4, "constraint": 0.05}),
    "OFT, lengths": ("diag_oft", "DiagOFTModule", {"lora_dim": 4, "rescaled": True}),
    "BOFT": ("boft", "ButterflyOFTModule", {"lora_dim": 4}),
    "BOFT, bound": ("boft", "ButterflyOFTModule", {"lora_dim": 4, "constraint": 0.05}),
    "BOFT, lengths": ("boft", "ButterflyOFTModule", {"lora_dim": 2, "rescaled": True}),
}


@pytest.mark.parametrize(
    ("name", "layer", "strength"),
    [
        (name, layer, strength)
        for name in LYCORIS
        for layer in ("linear", "1x1", "3x3")
        for strength in (1.0, 0.7)
        # Of these other strengths differ by program.
        if strength == 1 or not ("DoRA" in name or "lengths" in name)
    ],
)
def test_the_forward_pass_of_lycoris(tmp_path, name, layer, strength):
    import lycoris
    import torch
    from safetensors.torch import save_file

    module, cls, options = LYCORIS[name]
    torch.manual_seed(0)
    if layer == "linear":
        original, x = torch.nn.Linear(12, 16), torch.randn(5, 12)
    else:
        kernel = int(layer[0])
        original = torch.nn.Conv2d(12, 16, kernel, padding=kernel // 2)
        x = torch.randn(2, 12, 6, 6)
    make = getattr(getattr(lycoris.modules, module), cls)
    options = {"lora_dim": 3, "alpha": 1.5} | options
    adapter = make("x", original, multiplier=1.0, **options)
    for key, parameter in adapter.named_parameters():
        longer = "dora" in key or "rescale" in key
        scale = parameter.data * 1.4 if longer else torch.randn_like(parameter) * 0.3
        parameter.data = scale
    state = {f"x.{key}": tensor.detach().clone() for key, tensor in adapter.state_dict().items()}
    save_file(state, tmp_path / "x.safetensors")
    adapter.eval().apply_to()
    adapter.multiplier = strength
    with torch.no_grad():
        wanted = adapter(x).numpy()

    (change,) = open_adapter(tmp_path / "x.safetensors").changes
    assert change.description.split()[0] in (name.split(",")[0].split()[0], "LoCon", "LoRA")
    weight = original.weight.detach().numpy()
    assert fits(change.kind, change.shapes, weight.shape)
    merged = applied(change.kind, change.factors(), weight, change.scale, strength)

    def output(numbers):
        original.weight.data = torch.from_numpy(np.ascontiguousarray(numbers))
        with torch.no_grad():
            return type(original).forward(original, x).numpy()

    size = np.abs(wanted - output(weight.copy())).max()
    assert size > 1e-2
    assert np.abs(output(merged) - wanted).max() <= 1e-5 * size


def test_a_file_of_a_pipeline_that_diffusers_writes(tmp_path):
    """UNet and text encoder in one file, whose names are of several layouts."""
    import peft
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    text = TINY.text_encoder
    settings = CLIPTextConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.width,
        intermediate_size=text.mlp_width,
        num_hidden_layers=text.depth,
        num_attention_heads=text.heads,
        bos_token_id=text.vocab_size - 2,
        eos_token_id=text.vocab_size - 1,
    )
    networks = {"unet": made(), "text_encoder": CLIPTextModel(settings)}
    layers = {
        "unet": LAYERS,
        "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    }
    before, states, counts = {}, {}, {}
    for part, network in networks.items():
        before[part] = {n: tensor.clone().numpy() for n, tensor in network.state_dict().items()}
        config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=layers[part])
        peft.inject_adapter_in_model(config, network)
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn_like(parameter) * 0.3
        state = peft.get_peft_model_state_dict(network, adapter_name="default")
        counts[part] = len(state) // 2
        states[part] = convert_state_dict_to_diffusers(state)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=states["text_encoder"],
    )

    found = match(open_adapter(tmp_path), TINY)
    found.check()
    assert found.parts == counts
    assert counts["text_encoder"] == 12
    for change, place, _ in found.matched:
        modules = {
            name.removeprefix("text_model."): module
            for name, module in networks[place.part].named_modules()
        }
        own = before[place.part]
        name = f"{place.name}.weight"
        weight = own[name] if name in own else own[f"text_model.{name}"]
        check_merged(change, place, weight, modules[place.name])
