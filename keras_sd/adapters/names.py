"""Every name that a place in a model has in adapter files: one dictionary, made from the tables.

Trainers write the name of a layer with "_" for "." and lose where it was; so a name is never taken
apart here. Each layer's names are written as each trainer writes them, and looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from keras_sd.config import ModelConfig
from keras_sd.weights.names import Table, Weight, diffusers, original
from keras_sd.weights.readers import WeightsError

_ATTENTION = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
_SELF_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
"""The ends of names that diffusers' first layout has others for."""


@dataclass(frozen=True)
class Place:
    """A layer of a model.

    Attributes:
        part: `"unet"`, `"text_encoder"` or `"text_encoder_2"`.
        name: in diffusers' tables.
        weight: its entry in the table.
        bias: likewise, or None where it has none.
        used: whether the model has it. Files for 2.x may change a last layer of the text encoder,
            which the model was trained without.
    """

    part: str
    name: str
    weight: Weight
    bias: Weight | None
    used: bool = True


@dataclass(frozen=True)
class Named:
    """What a name stands for: a place, in the layout that writes it so."""

    place: Place
    layout: str


def names_of(config: ModelConfig) -> dict[str, Named]:
    """All names of all places.

    Args:
        config: of the model.

    Raises:
        WeightsError: a name would be that of two places.
    """
    found: dict[str, Named] = {}
    for place, name, layout in _all(config):
        other = found.setdefault(name, Named(place, layout))
        if other.place != place:
            raise WeightsError(
                f"In a model such as {config.name}, {name} is the name of two places: "
                f"{other.place.name} and {place.name}"
            )
    return found


def _all(config: ModelConfig) -> Iterator[tuple[Place, str, str]]:
    table = diffusers.unet(config.unet)
    places = _places("unet", table)
    theirs = dict(zip(_layers(table), _layers(original.unet(config.unet, prefix="")), strict=True))
    for place in places:
        for name, layout in _of_unet(place.name, theirs[place.name]):
            yield place, name, layout

    for part, encoder in config.text_encoders.items():
        # OpenCLIP's last layer is in training, and in no model of 2.x.
        more = 0 if encoder.activation == "quick_gelu" or encoder.penultimate else 1
        kept = {entry.name for entry in diffusers.text_encoder(encoder)}
        table = diffusers.text_encoder(replace(encoder, depth=encoder.depth + more))
        for place in _places(part, table):
            place = replace(place, used=place.weight.name in kept)
            for name, layout in _of_text_encoder(place.name, part, len(config.text_encoders) == 1):
                yield place, name, layout


def _of_unet(name: str, original_name: str) -> Iterator[tuple[str, str]]:
    yield f"lora_unet_{_flat(name)}", "kohya"
    yield f"lora_unet_{_flat(original_name)}", "kohya, original blocks"
    yield f"lycoris_{_flat(name)}", "LyCORIS"
    yield f"unet.{name}", "diffusers"
    yield name, "diffusers"
    yield f"base_model.model.{name}", "PEFT"
    yield f"diffusion_model.{original_name}", "original"
    yield f"model.diffusion_model.{original_name}", "original"
    for end, other in _ATTENTION.items():
        layer, dot, _ = name.rpartition(f".{end}")
        if dot and f"{layer}.{end}" == name and layer.endswith(("attn1", "attn2")):
            yield f"unet.{layer}.processor.{other}", "diffusers, attention processors"
            yield f"{layer}.processor.{other}", "diffusers, attention processors"


_KOHYA = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
"""What names begin with, where there are two text encoders."""


def _of_text_encoder(name: str, part: str, alone: bool) -> Iterator[tuple[str, str]]:
    # Some releases of transformers have every name under `text_model.`, others none.
    for full in (f"text_model.{name}", name):
        yield f"{'lora_te_' if alone else _KOHYA[part]}{_flat(full)}", "kohya"
        yield f"{part}.{full}", "diffusers"
        if alone:  # else these are of either
            yield f"lycoris_{_flat(full)}", "LyCORIS"
            yield full, "diffusers"
            yield f"base_model.model.{full}", "PEFT"
        for said in _KOHYA if alone else (part,):  # by the class that PEFT's settings say
            yield f"{said}.base_model.model.{full}", "PEFT"
        for end, other in _SELF_ATTENTION.items():
            if full.endswith(f".self_attn.{end}"):
                layer = full.removesuffix(end)
                yield f"{part}.{layer}{other}", "diffusers, attention processors"


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _layers(table: Table) -> list[str]:
    """The layers of a table in its order; both tables of a network have the same."""
    return list(dict.fromkeys(_layer(entry) for entry in table))


def _layer(entry: Weight) -> str:
    return entry.name.rpartition(".")[0]


def _places(part: str, table: Table) -> list[Place]:
    layers: dict[str, dict[str, Weight]] = {}
    for entry in table:
        layer, _, kind = entry.name.rpartition(".")
        layers.setdefault(layer, {})[kind] = entry
    return [_place(part, name, entries) for name, entries in layers.items()]


def _place(part: str, name: str, entries: Mapping[str, Weight]) -> Place:
    return Place(part, name, entries["weight"], entries.get("bias"))
