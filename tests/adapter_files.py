"""LoRA files made by hand, in each layout that a trainer writes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import save_file

from keras_sd.weights.names import diffusers

RANK = 4

# A linear map and convolutions of each kind, in one model of two levels and in those of full size.
PLACES = {
    "unet": (
        "conv_in",
        "down_blocks.0.downsamplers.0.conv",
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.attentions.0.proj_in",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    ),
    "text_encoder": (
        "encoder.layers.0.self_attn.q_proj",
        "encoder.layers.1.self_attn.out_proj",
        "encoder.layers.1.mlp.fc1",
    ),
}
_ATTENTION = {
    "unet": tuple(name for name in PLACES["unet"] if "attn" in name),
    "text_encoder": tuple(name for name in PLACES["text_encoder"] if "attn" in name),
}

# The same places in the original layout, of one transformer block a level.
_ORIGINAL = {
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.{}.0.op",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
}


def _original(name: str, blocks: int) -> str:
    for here, there in _ORIGINAL.items():
        if name.startswith(here):
            return there.format(blocks + 1) + name.removeprefix(here)
    raise KeyError(name)


@dataclass(frozen=True)
class Layout:
    """How a trainer writes a file: a name of each place, and two suffixes."""

    label: str
    unet: Callable[[str, int], str]
    text: Callable[[str], str] | None
    down: str
    up: str
    alpha: bool = False
    of_attention: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return ("unet",) if self.text is None else ("unet", "text_encoder")

    @property
    def places(self) -> dict[str, tuple[str, ...]]:
        """What a file has, by part."""
        places = _ATTENTION if self.of_attention else PLACES
        return {part: places[part] for part in self.parts}


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _processor(name: str) -> str:
    layer, number, end = name.partition("attn1." if "attn1." in name else "attn2.")
    return f"{layer}{number}processor.{end.removesuffix('.0')}"


def _projection(name: str) -> str:
    layer, _, end = name.rpartition(".")
    return f"{layer}.to_{end.removesuffix('_proj')}"


KOHYA = (".lora_down.weight", ".lora_up.weight", True)
PEFT = (".lora_A.weight", ".lora_B.weight")

LAYOUTS = {
    "kohya": Layout(
        "kohya",
        lambda name, blocks: f"lora_unet_{_flat(name)}",
        lambda name: f"lora_te_text_model_{_flat(name)}",
        *KOHYA,
    ),
    "original blocks": Layout(
        "kohya, original blocks",
        lambda name, blocks: f"lora_unet_{_flat(_original(name, blocks))}",
        None,
        *KOHYA,
    ),
    "original": Layout(
        "original",
        lambda name, blocks: f"diffusion_model.{_original(name, blocks)}",
        None,
        *PEFT,
    ),
    "lycoris": Layout(
        "LyCORIS",
        lambda name, blocks: f"lycoris_{_flat(name)}",
        lambda name: f"lycoris_{_flat(name)}",
        *KOHYA,
    ),
    "diffusers": Layout(
        "diffusers",
        lambda name, blocks: f"unet.{name}",
        lambda name: f"text_encoder.text_model.{name}",
        *PEFT,
    ),
    "diffusers, second": Layout(
        "diffusers",
        lambda name, blocks: f"unet.{name}.lora",
        lambda name: f"text_encoder.{name}.lora_linear_layer",
        ".down.weight",
        ".up.weight",
    ),
    "diffusers, first": Layout(
        "diffusers, attention processors",
        lambda name, blocks: f"unet.{_processor(name)}",
        lambda name: f"text_encoder.text_model.{_projection(name)}",
        "_lora.down.weight",
        "_lora.up.weight",
        of_attention=True,
    ),
    "a UNet's own": Layout("diffusers", lambda name, blocks: name, None, *PEFT),
    "peft": Layout(
        "PEFT",
        lambda name, blocks: f"base_model.model.{name}",
        None,
        ".lora_A.default.weight",
        ".lora_B.default.weight",
    ),
}


def shape_of(name: str, config) -> tuple[int, ...]:
    """Of a place's weight, as files have it."""
    tables = (diffusers.unet(config.unet), diffusers.text_encoder(config.text_encoder))
    return next(e.file_shape for table in tables for e in table if e.name == f"{name}.weight")


def change_of(name: str, config, rank: int = RANK) -> tuple[np.ndarray, np.ndarray]:
    """The factors of a place, the same ones in every layout."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    out, *into = shape_of(name, config)
    ones = (1,) * (len(into) - 1)
    up = rng.normal(0, 0.3, (out, rank, *ones)).astype(np.float32)
    return up, rng.normal(0, 0.3, (rank, *into)).astype(np.float32)


def lora(name: str, down: str, up: str, shape: tuple[int, ...], rank: int = RANK) -> dict:
    """A change of random numbers."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    ones = (1,) * (len(shape) - 2)
    return {
        name + down: rng.normal(0, 0.3, (rank, *shape[1:])).astype(np.float32),
        name + up: rng.normal(0, 0.3, (shape[0], rank, *ones)).astype(np.float32),
    }


def tensors(layout: str, config) -> dict[str, np.ndarray]:
    """A whole file in a layout, with alpha half of the rank where the layout says it."""
    how = LAYOUTS[layout]
    found = {}
    for part, places in how.places.items():
        for place in places:
            up, down = change_of(place, config)
            name = how.unet(place, config.unet.blocks) if part == "unet" else how.text(place)
            found[name + how.down], found[name + how.up] = down, up
            if how.alpha:
                found[f"{name}.alpha"] = np.array(RANK / 2, np.float32)
    return found


def write(path, layout: str, config, metadata=None):
    """Writes such a file and gives its path."""
    save_file(tensors(layout, config), path, metadata)
    return path
