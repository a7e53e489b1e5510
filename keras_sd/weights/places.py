"""Where a file may have a network: whose names it has there, and what they begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from keras_sd.config import SD_1
from keras_sd.weights.architecture import (
    PARTS,
    Shapes,
    Telling,
    numbers_of,
    part_config,
    projection_of,
)
from keras_sd.weights.names import Layout, Table, diffusers, original, under

_OLD_ATTENTION = {
    ".to_q.": ".query.",
    ".to_k.": ".key.",
    ".to_v.": ".value.",
    ".to_out.0.": ".proj_attn.",
}


@dataclass(frozen=True)
class TensorPlace:
    """Where a file may have a network.

    Attributes:
        part: of a model, that it is.
        names: whose layout the names are of, a key of `architecture.NAMES`.
        prefix: what they begin with.
        average: it is there as the moving average of its weights.
    """

    part: str
    names: str
    prefix: str
    average: bool = False

    @property
    def layout(self) -> str:
        """Whose layout it is, for people."""
        if self.part in ("text_encoder", "text_encoder_2"):
            ours = self.prefix.startswith(("cond_stage_model.", original.EMBEDDERS))
            return "original" if ours else "transformers"
        return self.names

    def name(self, name: str) -> str:
        """What the file calls a tensor of the layout."""
        prefix = self.prefix
        if name == "text_projection.weight":  # which transformers has outside of `text_model.`
            prefix = prefix.removesuffix("text_model.")
        name = prefix + name
        return original.ema_name(name) if self.average else name

    def table(self, config: Any, shapes: Shapes) -> Table:
        """Which variable is in which tensor, of a network with this config."""
        table = _TABLES[self.part, self.names](config, self.prefix, shapes)
        if not self.average:
            return table
        return [replace(entry, name=original.ema_name(entry.name)) for entry in table]


_TABLES: dict[tuple[str, str], Callable[[Any, str, Shapes], Table]] = {
    ("text_encoder", "diffusers"): lambda config, prefix, _: original.clip(config, prefix),
    ("text_encoder", "original"): lambda config, prefix, _: original.openclip(config, prefix),
    ("text_encoder_2", "diffusers"): lambda config, prefix, _: original.clip(config, prefix),
    ("text_encoder_2", "original"): lambda config, prefix, _: original.openclip(config, prefix),
    ("unet", "original"): lambda config, prefix, _: original.unet(config, prefix),
    ("unet", "diffusers"): lambda config, prefix, _: under(prefix, "", diffusers.unet(config)),
    ("autoencoder", "original"): lambda config, prefix, shapes: _by_rank(
        original.autoencoder(config, prefix), shapes
    ),
    ("autoencoder", "diffusers"): lambda config, prefix, shapes: old_attention(
        under(prefix, "", diffusers.autoencoder(config)), shapes
    ),
}

_CLIP = (original.CLIP, original.CLIP.removesuffix("text_model."))
_CLIP_ELSEWHERE = (
    "text_encoder.text_model.",
    "text_encoder.",
    "clip_l.transformer.text_model.",
    "text_encoders.clip_l.transformer.text_model.",
    "text_model.",
    "",
)
_MARKS = {
    ("text_encoder", "diffusers"): (
        "embeddings.token_embedding.weight",
        (*_CLIP, original.CLIP_XL, *_CLIP_ELSEWHERE),
    ),
    ("text_encoder", "original"): (
        "positional_embedding",
        (original.OPENCLIP, original.OPENCLIP_REFINER),
    ),
    ("text_encoder_2", "diffusers"): (
        "embeddings.token_embedding.weight",
        (
            f"{original.EMBEDDERS}1.transformer.text_model.",
            "text_encoder_2.text_model.",
            "clip_g.transformer.text_model.",
            "text_encoders.clip_g.transformer.text_model.",
        ),
    ),
    ("text_encoder_2", "original"): ("positional_embedding", (original.OPENCLIP_XL,)),
    ("unet", "original"): (
        "input_blocks.0.0.weight",
        (original.UNET, original.UNET.removeprefix("model."), "unet.", ""),
    ),
    ("unet", "diffusers"): ("conv_in.weight", ("unet.", "")),
    ("autoencoder", "original"): (
        "encoder.down.0.block.0.conv1.weight",
        (original.AUTOENCODER, "vae.", ""),
    ),
    ("autoencoder", "diffusers"): (
        "encoder.down_blocks.0.resnets.0.conv1.weight",
        (original.AUTOENCODER, "vae.", ""),
    ),
}
"""Of each part and layout: a tensor that every such file has, and the prefixes it is found under,
those of whole models first."""


def places_of(part: str) -> Iterator[TensorPlace]:
    """Where a part may be, what goes before others first."""
    for (of, names), (_, prefixes) in _MARKS.items():
        if of == part:
            yield from (TensorPlace(part, names, prefix) for prefix in prefixes)


def marked_in(shapes: Shapes) -> dict[str, list[TensorPlace]]:
    """The parts in a file, each with the places where it is."""
    found: dict[str, list[TensorPlace]] = {}
    for part in PARTS:
        for place in places_of(part):
            if place.name(_MARKS[part, place.names][0]) in shapes:
                found.setdefault(part, []).append(place)
    if "unet" not in found:
        averages = (replace(p, average=True) for p in places_of("unet") if p.names == "original")
        mark = _MARKS["unet", "original"][0]
        if there := [place for place in averages if place.name(mark) in shapes]:
            found["unet"] = there
    return {part: found[part] for part in PARTS if part in found}


@dataclass(frozen=True)
class Found:
    """A network in a file.

    Attributes:
        place: where it is.
        facts: those of its config's fields that the shapes tell.
        beyond: what the names of its layers begin with that we do not run.
    """

    place: TensorPlace
    facts: dict[str, Any]
    beyond: str = ""


def _read(place: TensorPlace, shapes: Shapes, source: str) -> Found:
    telling = Telling(place.names, shapes, source, place.name)
    facts = numbers_of(place.part, telling)
    if place.part == "text_encoder_2" or place.prefix == original.OPENCLIP_REFINER:
        return Found(place, {**facts, "projection_width": projection_of(telling)})
    if (place.part, place.names) != ("text_encoder", "original"):
        return Found(place, facts)
    # The text encoding of OpenCLIP is that before the last layer. The files of Stability hold all
    # of its 24 layers, those that were made from diffusers' layout the 23 that are run.
    depth = facts["depth"]
    if depth != 24 and (depth == 23 or not telling.has("text_projection")):
        return Found(place, facts)
    beyond = f"{place.prefix}transformer.resblocks.{depth - 1}."
    return Found(place, {**facts, "depth": depth - 1}, beyond)


def chosen(places: list[TensorPlace], shapes: Shapes, source: str) -> Found:
    """The network in the first of the places where it is whole."""
    for place in places if len(places) > 1 else ():
        try:
            found = _read(place, shapes, source)
            table = place.table(part_config(SD_1, place.part, found.facts), shapes)
        except ValueError:  # A WeightsError too: there is something, but no network.
            continue
        if all(entry.name in shapes for entry in table):
            return found
    return _read(places[0], shapes, source)


def old_attention(table: Table, shapes: Shapes) -> Table:
    """The table of a diffusers autoencoder as a file has it that may be an old one.

    Until 2023 diffusers called the weights of the attention otherwise, and kept them as 1x1
    convolutions where they came from such.

    Args:
        table: `diffusers.autoencoder(config)`, under any prefix.
        shapes: of the file's tensors, by name.
    """
    entries = []
    for entry in table:
        if "mid_block.attentions." in entry.name:
            old = entry.name
            for new, name in _OLD_ATTENTION.items():
                old = old.replace(new, name)
            entry = replace(entry, name=old if old in shapes else entry.name)
        entries.append(entry)
    return _by_rank(entries, shapes)


def _by_rank(table: Table, shapes: Shapes) -> Table:
    """The table of an autoencoder, whose attention may be linear maps or convolutions of one pixel,
    or, in a merge of two files, some of it the one and some the other.
    """
    layouts: dict[int, Layout] = {2: "linear", 4: "pointwise"}
    return [
        replace(entry, layout=layouts.get(len(shapes.get(entry.name, ())), entry.layout))
        if entry.layout in ("linear", "pointwise")
        else entry
        for entry in table
    ]
