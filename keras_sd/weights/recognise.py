"""What a file of weights is, told from the names and shapes of its tensors.

Stable Diffusion 1.x, 2.x and XL, an autoencoder alone, a LoRA and Flux come under the same ending.
The names tell which network is there and in whose layout, the shapes its widths and depths (see
`architecture`); what neither can tell (attention heads, the activation) follows from the family.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from keras_sd.config import SD_1, SD_2, SD_2_BASE, SDXL, SDXL_REFINER, ModelConfig
from keras_sd.weights.architecture import PARTS, Shapes, part_config
from keras_sd.weights.families import BESIDE, family_of, kind_of, unsupported, xl_of
from keras_sd.weights.names import Table, Weight, original
from keras_sd.weights.places import Found, TensorPlace, chosen, marked_in, places_of
from keras_sd.weights.prediction import (
    ASSUMED,
    ASSUMED_NOTE,
    ZERO_SNR,
    Prediction,
    family_prediction,
    stated_prediction,
)
from keras_sd.weights.readers import WeightsError, shown


@dataclass(frozen=True)
class Copy:
    """Tensors that a file has a second time, under other names.

    Attributes:
        part: of the model that they are of.
        taken: what the names begin with that are in the part's table.
        other: what the others begin with.
        pairs: of each variable that is there twice, its entry in the table and the other one.
    """

    part: str
    taken: str
    other: str
    pairs: tuple[tuple[Weight, Weight], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are not taken."""
        return tuple(dict.fromkeys(entry.name for _, entry in self.pairs))


@dataclass(frozen=True)
class Recognised:
    """What a file with a whole model is. Every name is in a table, ignored, in a copy or left over.

    Attributes:
        layout: `"original"`; or `"keras_sd"`, our own, which has its config in another file.
        family: for people: `"Stable Diffusion 1.x inpainting"`.
        config: the model's numbers, those of its family for a part that is not there; None in our
            own layout.
        tables: for each part that is there, which variable is in which tensor.
        ignored: names that are known and no part of the model.
        copies: what is there twice; whether with the same numbers, no shape tells.
        leftover: names that are not known.
        absent: what there is to say of a part that is not there, by its name.
        ema: whether the file also holds the moving average of the UNet's weights.
        prediction_from: how it is known what the UNet predicts.
        notes: what whoever uses the file should know.
        unsupported: why it cannot be run, or None.
    """

    layout: str
    family: str
    config: ModelConfig | None = None
    tables: dict[str, Table] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    copies: tuple[Copy, ...] = ()
    leftover: tuple[str, ...] = ()
    absent: dict[str, str] = field(default_factory=dict)
    ema: bool = False
    prediction_from: str = ""
    notes: tuple[str, ...] = ()
    unsupported: str | None = None


_CONTROL = "control_model."

_OTHER_NOISE = "edm_mean"
"""A tensor of models that were trained with the noise of Karras et al. 2022."""

# What is no Stable Diffusion 1.x, 2.x or XL, by a name that no other file has.
_STRANGERS = {
    r"lora_(unet|te\d?)_|[._]lora([._](A|B|up|down)\b|_linear)|\.(hada|lokr)_w\d"
    r"|^lycoris_|\.(oft_(blocks|diag|R)|boft_[Rs]|ia3_l)\b": "a LoRA",
    rf"^{re.escape(_CONTROL)}|^controlnet_|^input_hint_block\.": "a ControlNet",
    r"^string_to_(param|token)|^emb_params|^<.+>$": "a textual inversion embedding",
    r"^(ip_adapter|image_proj)\.": "an IP-Adapter",
    r"^(adapter\.)?body\.\d+\.": "a T2I-Adapter",
    r"motion_modules?\.|temporal_transformer": "an AnimateDiff motion module",
    r"\.time_stack\.": "Stable Video Diffusion",
    r"(^|\.)joint_blocks\.\d": "Stable Diffusion 3",
    r"(^|\.)(double_blocks|single_transformer_blocks)\.\d": "Flux",
    r"^transformer_blocks\.\d": "a diffusion transformer, such as Stable Diffusion 3",
    r"^(effnet|clip_txt)_mapper\.": "Stable Cascade",
    r"\.quantize\.embedding\.|\.token_emb\.": "a latent diffusion model older than 1.x",
    r"^(vision_model|visual)\.": "CLIP with its image encoder",
    r"^(concept|special_care)_embeds": "a safety checker",
}

_TAKEN = {
    "a LoRA": "; a model takes it by merge_adapters",
    "a ControlNet": "; keras_sd.ControlNet.from_file reads it",
    "an IP-Adapter": "; keras_sd.IPAdapter.from_file reads it",
    "a T2I-Adapter": "; keras_sd.T2IAdapter.from_file reads it",
    "CLIP with its image encoder": "; keras_sd.IPAdapter.from_file takes it beside an IP-Adapter",
    "a textual inversion embedding": "; a pipeline takes it by with_embeddings",
}
"""How a model is used with those that are not for themselves."""


def recognise(
    shapes: Shapes,
    metadata: Mapping[str, str] | None = None,
    *,
    path: Path | None = None,
    prediction: Prediction | None = None,
    ema: bool = False,
    without: Collection[str] = (),
) -> Recognised:
    """Says what a file is that should hold a whole model.

    What its UNet predicts is known from the first of these that says so: `prediction`, the
    metadata, an empty tensor `v_pred` or `ztsnr`, a `.yaml` file of the same name beside it, the
    family. Where none does, as in most files of 2.x, `"v"` is assumed and a note says so.

    Args:
        shapes: of the tensors, by name.
        metadata: what the file says of itself.
        path: of the file, for messages and for the `.yaml` file.
        prediction: `"epsilon"`, `"v"` or `"x0"`.
        ema: take the moving average of the UNet's weights, which some files hold as well, and some
            alone.
        without: parts that will be taken from elsewhere, so that there is nothing to note of them.

    Raises:
        WeightsError: the file is something else, which the message names; or no network of ours
            has these shapes.
        ValueError: there is no such `prediction`.
    """
    if prediction not in (None, *get_args(Prediction)):
        raise ValueError(f"prediction is {prediction!r}, not 'epsilon', 'v' or 'x0'")
    if own := {name.split("/")[0] for name in shapes if "/" in name} & PARTS.keys():
        note = f"It holds {_listed(own)}; a config.json beside it has the model's numbers."
        return Recognised("keras_sd", "a model of keras_sd", notes=(note,))

    source = str(path or "the file")
    marked = marked_in(shapes)
    if not marked.keys() >= SD_1.parts.keys():
        _refuse_strangers(shapes, source)
    elif name := next((name for name in shapes if name.startswith(_CONTROL)), None):
        raise WeightsError(
            f"{source} is a ControlNet with the model that it was made for, as its {shown(name)} "
            "shows; keras_sd reads models without one"
        )
    found = {part: chosen(places, shapes, source) for part, places in marked.items()}
    if len(found) == 1:
        ((part, one),) = found.items()
        raise WeightsError(
            f"{source} is {_listed(found)} alone, in the layout of {one.place.layout}. It can "
            f"replace that part of a whole model: from_preset(..., {part}=FILE)"
        )
    if "unet" not in found:
        raise WeightsError(f"{source} holds {_listed(found)}, but no UNet")

    xl = _is_xl(found)
    found["unet"] = _of_family(found, xl)
    second = found["unet"].facts["linear_projection"]
    kind = _kind(found["unet"], shapes)
    if prediction is not None:
        known, known_from = prediction, "the option prediction"
    else:
        stated = stated_prediction(shapes, metadata, path)
        known, known_from = stated or family_prediction(second and not xl, kind)
    base = SD_1 if not second else SD_2 if known == "v" else SD_2_BASE
    if xl:
        base = SDXL_REFINER if _is_refiner(found) else xl_of(found["unet"].facts)
    if zero_snr := ZERO_SNR in shapes and "unet" not in without:
        # Timesteps that reach the noise which such a model was trained for (Lin et al. 2023).
        base = replace(base, defaults=replace(base.defaults, schedule="trailing"))
    with _naming(source):
        config = replace(
            base,
            noise=replace(base.noise, prediction=known, zero_terminal_snr=zero_snr),
            **{part: part_config(base, part, one.facts) for part, one in found.items()},
        )
    tables = {part: one.place.table(getattr(config, part), shapes) for part, one in found.items()}
    absent = {}
    alone = found["unet"].place.average
    averages = _averages(found["unet"].place, config, shapes)
    has_ema = not shapes.keys().isdisjoint(averages.values())
    if alone and not ema:
        del tables["unet"]
        absent["unet"] = "the file has its moving average (EMA) alone: ema=True takes that"
    elif ema and not alone:
        if not has_ema:
            raise WeightsError(
                f"{source} holds one set of weights of the UNet and no moving average (EMA) beside "
                "it; that one may be the average already. Leave out ema"
            )
        tables["unet"] = [replace(entry, name=averages[entry.name]) for entry in tables["unet"]]

    spare = {*averages, *averages.values()}
    ignored, others = _ignored(shapes, tables, found, spare, kind)
    copies = _copies(found, tables, config, shapes, others) if others else ()
    twice = {name for copy in copies for name in copy.names}
    notes = [
        f"It has no {PARTS[part]}; give one: {part}=FILE."
        for part in config.parts
        if part not in found and part not in without
    ]
    if known_from == ASSUMED:
        notes.append(ASSUMED_NOTE)
    if has_ema and not ema and not alone and "unet" not in without:
        notes.append("It also holds the moving average (EMA) of the UNet's weights: ema=True.")
    reason = unsupported(source, config, kind)
    if _OTHER_NOISE in shapes:
        reason = (
            f"{source} was trained with other noise, as its {_OTHER_NOISE} shows (Playground 2.5 "
            "was), which keras_sd does not have yet"
        )
    return Recognised(
        "original",
        family_of(config, kind),
        config,
        tables,
        ignored=ignored,
        copies=copies,
        leftover=tuple(name for name in others if name not in twice),
        absent=absent,
        ema=has_ema,
        prediction_from=known_from,
        notes=tuple(notes),
        unsupported=reason,
    )


def recognise_part(
    shapes: Shapes,
    config: ModelConfig | None = None,
    *,
    path: Path | None = None,
    wanted: str | None = None,
) -> tuple[str, Table, tuple[str, ...]]:
    """Says which part of a model a file is that holds one alone.

    Args:
        shapes: of the tensors, by name.
        config: of the model that it should be part of; None goes by the shapes and the family.
        path: of the file, for messages.
        wanted: the part that it should be; a text encoder alone may be either of two.

    Returns:
        A key of `PARTS`; which variable is in which tensor; and the names that are known and no
        part of the network.

    Raises:
        WeightsError: the file is something else, more than one part, or part of another model.
    """
    source = str(path or "the file")
    _refuse_strangers(shapes, source)
    marked = marked_in(shapes)
    if len(marked) > 1:
        raise WeightsError(f"{source} holds {_listed(marked)}; one of them alone was asked for")
    ((part, places),) = marked.items()
    if (part, wanted) == ("text_encoder", "text_encoder_2"):
        part, places = "text_encoder_2", [replace(each, part="text_encoder_2") for each in places]
    found = chosen(places, shapes, source)
    if config is None:
        with _naming(source):
            numbers = part_config(SD_1, part, found.facts)
    else:
        numbers = config.parts.get(part)
        if numbers is None:
            raise WeightsError(f"{source} is a {PARTS[part]}, and {config.name} has none")
        others = [
            f"{name} is {value}, not {getattr(numbers, name)}"
            for name, value in found.facts.items()
            if value != getattr(numbers, name)
        ]
        if others:
            raise WeightsError(
                f"{source} is the {PARTS[part]} of another model than {config.name}: "
                + "; ".join(others)
            )
    table = found.place.table(numbers, shapes)
    averages = {original.ema_name(entry.name) for entry in table} if part == "unet" else set()
    ignored, _ = _ignored(shapes, {part: table}, {part: found}, averages, "")
    return part, table, ignored


def _ignored(
    shapes: Shapes,
    tables: Mapping[str, Table],
    found: Mapping[str, Found],
    spare: Container[str],
    kind: str,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that no table has: those that are known to be no part of a network of ours, and
    the others. `spare` are second copies of weights.
    """
    beyond = tuple(one.beyond for one in found.values() if one.beyond) + BESIDE.get(kind, ())
    others = shapes.keys() - {entry.name for table in tables.values() for entry in table}
    ignored = {
        name
        for name in others
        if name in spare or original.is_ignored(name) or name.startswith(beyond)
    }
    return tuple(sorted(ignored)), tuple(sorted(others - ignored))


def _averages(place: TensorPlace, config: ModelConfig, shapes: Shapes) -> dict[str, str]:
    """What the average of each weight of the UNet is called, by what the weight is called."""
    table = replace(place, average=False).table(config.unet, shapes)
    return {entry.name: original.ema_name(entry.name) for entry in table}


def _copies(
    found: Mapping[str, Found],
    tables: Mapping[str, Table],
    config: ModelConfig,
    shapes: Shapes,
    others: Collection[str],
) -> tuple[Copy, ...]:
    """What else of a file would be a part of the model, under any other names that one can have."""
    left = set(others)
    copies = []
    for part, table in tables.items():
        taken = {entry.path: entry for entry in table}
        for place in places_of(part):
            if place == found[part].place or not any(
                name.startswith(place.prefix) for name in left
            ):
                continue
            pairs = tuple(
                (taken[entry.path], entry)
                for entry in place.table(getattr(config, part), shapes)
                if entry.name in left and tuple(shapes[entry.name]) == entry.file_shape
            )
            if pairs:
                copies.append(Copy(part, found[part].place.prefix, place.prefix, pairs))
                left -= {entry.name for _, entry in pairs}
    return tuple(copies)


def _refuse_strangers(shapes: Shapes, source: str) -> None:
    for pattern, what in _STRANGERS.items():
        if name := next(filter(re.compile(pattern).search, shapes), None):
            hint = _TAKEN.get(what, "")
            raise WeightsError(
                f"{source} is {what}, as its {shown(name)} shows; keras_sd reads models of Stable "
                f"Diffusion 1.x, 2.x and XL, and their parts{hint}"
            )
    if not marked_in(shapes):
        names = ", ".join(shown(name) for name in itertools.islice(shapes, 3))
        raise WeightsError(
            f"{source} holds no network of Stable Diffusion 1.x, 2.x or XL: it has {len(shapes)} "
            f"tensors{names and ': '}{names}{' ...' if len(shapes) > 3 else ''}"
        )


# Families


_CONTEXTS = tuple(base.unet.context_width for base in (SDXL, SDXL_REFINER))


def _is_xl(found: Mapping[str, Found]) -> bool:
    """Whether the UNet is told the text as one vector and numbers; that of "unCLIP", a kind of 2.x,
    is told the vector of a picture in the same place.
    """
    facts = found["unet"].facts
    named = any(one.place.prefix.startswith(original.EMBEDDERS) for one in found.values())
    return "added_width" in facts and (named or facts["context_width"] in _CONTEXTS)


def _of_family(found: Mapping[str, Found], xl: bool) -> Found:
    """The UNet with the facts that its family has."""
    unet = found["unet"]
    if not xl:
        others = ("added_width", "middle_depth", "up_depths")
        return replace(unet, facts={k: n for k, n in unet.facts.items() if k not in others})
    for part, one in found.items():
        if part.startswith("text_encoder") and "projection_width" in one.facts:
            pooled = one.facts["projection_width"]
            return replace(unet, facts={**unet.facts, "pooled_width": pooled})
    return unet


def _is_refiner(found: Mapping[str, Found]) -> bool:
    if "text_encoder" in found:
        return found["text_encoder"].place.prefix == original.OPENCLIP_REFINER
    widths = (SDXL_REFINER.unet.added_width, SDXL_REFINER.unet.context_width)
    facts = found["unet"].facts
    return (facts["added_width"], facts["context_width"]) == widths


def _kind(unet: Found, shapes: Shapes) -> str:
    """What a UNet is for that takes more than a latent and a text; "" where it does not."""
    if "added_width" not in unet.facts and unet.place.name("label_emb.0.0.weight") in shapes:
        return "unCLIP"
    return kind_of(unet.facts["in_channels"], unet.facts["out_channels"])


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """A config that cannot be is the fault of the file."""
    try:
        yield
    except ValueError as error:
        raise WeightsError(f"{source} is no model that keras_sd can build: {error}") from error


def _listed(parts: Iterable[str]) -> str:
    return " and ".join(f"the {PARTS[part]}" for part in PARTS if part in parts)
