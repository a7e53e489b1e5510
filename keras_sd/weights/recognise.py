"""What a file of weights is, told from the names and shapes of its tensors.

Stable Diffusion 1.x and 2.x, an autoencoder alone, a LoRA and Flux come under the same ending. The
names tell which network is there and in whose layout, the shapes its widths and depths; what
neither can tell (attention heads, the activation) follows from the family.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from keras_sd.config import SD_1, SD_2, SD_2_BASE, ModelConfig
from keras_sd.weights.families import BESIDE, family_of, kind_of, unsupported
from keras_sd.weights.names import Table, diffusers, original
from keras_sd.weights.readers import WeightsError, shown

Shapes = Mapping[str, tuple[int, ...]]
Prediction = Literal["epsilon", "v"]
"""Of a UNet: the noise, or `alpha * noise - sigma * x0`."""

PARTS = {"text_encoder": "text encoder", "unet": "UNet", "autoencoder": "autoencoder"}
"""The parts of a model, and what messages call them."""


@dataclass(frozen=True)
class Recognised:
    """What a file with a whole model is. Every name is in a table, or ignored, or left over.

    Attributes:
        layout: `"original"`; or `"keras_sd"`, our own, which has its config in another file.
        family: for people: `"Stable Diffusion 1.x inpainting"`.
        config: the model's numbers, those of its family for a part that is not there; None in our
            own layout.
        tables: for each part that is there, which variable is in which tensor.
        ignored: names that are known and no part of the model.
        leftover: names that are not known.
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
    leftover: tuple[str, ...] = ()
    ema: bool = False
    prediction_from: str = ""
    notes: tuple[str, ...] = ()
    unsupported: str | None = None


_CONTROL = "control_model."

# What is no Stable Diffusion 1.x or 2.x, by a name that no other file has.
_STRANGERS = {
    r"lora_(unet|te\d?)_|[._]lora([._](A|B|up|down)\b|_linear)|\.(hada|lokr)_w\d": "a LoRA",
    rf"^{re.escape(_CONTROL)}|^controlnet_|^input_hint_block\.": "a ControlNet",
    r"^string_to_(param|token)|^emb_params|^<.+>$": "a textual inversion embedding",
    r"^(ip_adapter|image_proj)\.": "an IP-Adapter",
    r"motion_modules?\.|temporal_transformer": "an AnimateDiff motion module",
    r"\.time_stack\.": "Stable Video Diffusion",
    r"^conditioner\.embedders\.|^add_embedding\.": "Stable Diffusion XL",
    r"(^|\.)joint_blocks\.\d": "Stable Diffusion 3",
    r"(^|\.)(double_blocks|single_transformer_blocks)\.\d": "Flux",
    r"^transformer_blocks\.\d": "a diffusion transformer, such as Stable Diffusion 3",
    r"^(effnet|clip_txt)_mapper\.": "Stable Cascade",
    r"\.quantize\.embedding\.|\.token_emb\.": "a latent diffusion model older than 1.x",
    r"^(vision_model|visual)\.": "CLIP with its image encoder",
    r"^(concept|special_care)_embeds": "a safety checker",
}

_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v",
    "v_prediction": "v",
}
_ARCHITECTURES = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v"}
ZERO_SNR = "ztsnr"
"""An empty tensor of this name says that the model was trained to zero terminal SNR."""
_V_PREDICTIONS = ("v_pred", ZERO_SNR)
"""And one of these that its UNet predicts v: nothing else can be trained to zero terminal SNR."""
_PREDICTION_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
_SIDECAR_BYTES = 1_000_000

_ASSUMED = "an assumption"
ASSUMED_NOTE = (
    "The file cannot say what its UNet predicts. v is assumed, as most files of 2.x are those for "
    '768x768; if the pictures are noise, pass prediction="epsilon".'
)

_CLIP_PREFIXES = (original.CLIP, original.CLIP.removesuffix("text_model."), "text_model.", "")
_HEAD = 64
"""Features of a head in CLIP and in the UNet of 2.x."""
_HEADS = 8
"""Heads at every resolution in the UNet of 1.x."""

_TRANSFORMER_TENSORS = 20
"""Tensors of a transformer block."""
_MOST_MISSING = 20
"""How many times the tensors of a file its UNet may have; of a file that is whole, once."""

_OLD_ATTENTION = {
    ".to_q.": ".query.",
    ".to_k.": ".key.",
    ".to_v.": ".value.",
    ".to_out.0.": ".proj_attn.",
}


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
        prediction: `"epsilon"` or `"v"`.
        ema: take the moving average of the UNet's weights, which some files hold as well.
        without: parts that will be taken from elsewhere, so that there is nothing to note of them.

    Raises:
        WeightsError: the file is something else, which the message names; or no network of ours
            has these shapes.
        ValueError: there is no such `prediction`.
    """
    if prediction not in (None, "epsilon", "v"):
        raise ValueError(f"prediction is {prediction!r}, not 'epsilon' or 'v'")
    if own := {name.split("/")[0] for name in shapes if "/" in name} & PARTS.keys():
        note = f"It holds {_listed(own)}; a config.json beside it has the model's numbers."
        return Recognised("keras_sd", "a model of keras_sd", notes=(note,))

    source = str(path or "the file")
    marked = _marked(shapes)
    if len(marked) < len(PARTS):
        _refuse_strangers(shapes, source)
    elif name := next((name for name in shapes if name.startswith(_CONTROL)), None):
        raise WeightsError(
            f"{source} is a ControlNet with the model that it was made for, as its {shown(name)} "
            "shows; keras_sd reads models without one"
        )
    found = {part: read(_Sizes(shapes, prefix, source)) for part, (prefix, read) in marked.items()}
    if len(found) == 1:
        ((part, one),) = found.items()
        raise WeightsError(
            f"{source} is {_listed(found)} alone, in the layout of {one.layout}. It can replace "
            f"that part of a whole model: from_preset(..., {part}=FILE)"
        )
    if "unet" not in found:
        raise WeightsError(f"{source} holds {_listed(found)}, but no UNet")

    second = found["unet"].facts["linear_projection"]
    kind = _kind(found["unet"], shapes)
    if prediction is not None:
        known, known_from = prediction, "the option prediction"
    else:
        stated = stated_prediction(shapes, metadata, path)
        known, known_from = stated or _family_prediction(second, kind)
    base = SD_1 if not second else SD_2 if known == "v" else SD_2_BASE
    if zero_snr := ZERO_SNR in shapes and "unet" not in without:
        # Timesteps that reach the noise which such a model was trained for (Lin et al. 2023).
        base = replace(base, defaults=replace(base.defaults, schedule="trailing"))
    with _naming(source):
        config = replace(
            base,
            noise=replace(base.noise, prediction=known, zero_terminal_snr=zero_snr),
            **{part: _part_config(base, part, one) for part, one in found.items()},
        )
    tables = {part: one.table(getattr(config, part)) for part, one in found.items()}
    averages = {entry.name: original.ema_name(entry.name) for entry in tables["unet"]}
    has_ema = not shapes.keys().isdisjoint(averages.values())
    if ema:
        if not has_ema:
            raise WeightsError(
                f"{source} holds one set of weights of the UNet and no moving average (EMA) beside "
                "it; that one may be the average already. Leave out ema"
            )
        tables["unet"] = [replace(entry, name=averages[entry.name]) for entry in tables["unet"]]

    spare = {*averages, *averages.values()}
    ignored, leftover = _ignored(shapes, tables, found, spare, kind)
    notes = [
        f"It has no {PARTS[part]}; give one: {part}=FILE."
        for part in PARTS
        if part not in found and part not in without
    ]
    if known_from == _ASSUMED:
        notes.append(ASSUMED_NOTE)
    if has_ema and not ema and "unet" not in without:
        notes.append("It also holds the moving average (EMA) of the UNet's weights: ema=True.")
    return Recognised(
        "original",
        family_of(config, kind),
        config,
        tables,
        ignored=ignored,
        leftover=leftover,
        ema=has_ema,
        prediction_from=known_from,
        notes=tuple(notes),
        unsupported=unsupported(source, config, kind),
    )


def recognise_part(
    shapes: Shapes, config: ModelConfig | None = None, *, path: Path | None = None
) -> tuple[str, Table, tuple[str, ...]]:
    """Says which part of a model a file is that holds one alone.

    Args:
        shapes: of the tensors, by name.
        config: of the model that it should be part of; None goes by the shapes and the family.
        path: of the file, for messages.

    Returns:
        `"text_encoder"`, `"unet"` or `"autoencoder"`; which variable is in which tensor; and the
        names that are known and no part of the network.

    Raises:
        WeightsError: the file is something else, more than one part, or part of another model.
    """
    source = str(path or "the file")
    _refuse_strangers(shapes, source)
    marked = _marked(shapes)
    if len(marked) > 1:
        raise WeightsError(f"{source} holds {_listed(marked)}; one of them alone was asked for")
    ((part, (prefix, read)),) = marked.items()
    found = read(_Sizes(shapes, prefix, source))
    if config is None:
        with _naming(source):
            wanted = _part_config(SD_1, part, found)
    else:
        wanted = getattr(config, part)
        others = [
            f"{name} is {value}, not {getattr(wanted, name)}"
            for name, value in found.facts.items()
            if value != getattr(wanted, name)
        ]
        if others:
            raise WeightsError(
                f"{source} is the {PARTS[part]} of another model than {config.name}: "
                + "; ".join(others)
            )
    table = found.table(wanted)
    averages = {original.ema_name(entry.name) for entry in table} if part == "unet" else set()
    ignored, _ = _ignored(shapes, {part: table}, {part: found}, averages, "")
    return part, table, ignored


def _ignored(
    shapes: Shapes,
    tables: Mapping[str, Table],
    found: Mapping[str, _Found],
    spare: Container[str],
    kind: str,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that no table has: those that are known to be no part of a network of ours, and
    the others. `spare` are second copies of weights."""
    beyond = tuple(one.beyond for one in found.values() if one.beyond) + BESIDE.get(kind, ())
    others = shapes.keys() - {entry.name for table in tables.values() for entry in table}
    ignored = {
        name
        for name in others
        if name in spare or original.is_ignored(name) or name.startswith(beyond)
    }
    return tuple(sorted(ignored)), tuple(sorted(others - ignored))


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
            if entry.layout == "linear" and len(shapes.get(entry.name, ())) == 4:
                entry = replace(entry, layout="pointwise")
        entries.append(entry)
    return entries


# The networks in a file


@dataclass(frozen=True)
class _Found:
    """A network in a file.

    Attributes:
        layout: whose names it has.
        facts: those of its config's fields that the shapes tell.
        table: makes its table from its config.
        beyond: what the names of its layers begin with that we do not run.
    """

    layout: str
    facts: dict[str, Any]
    table: Callable[[Any], Table]
    beyond: str = ""


@dataclass(frozen=True)
class _Sizes:
    """The shapes of the tensors under a prefix."""

    shapes: Shapes
    prefix: str
    source: str

    def has(self, name: str) -> bool:
        return self.prefix + name in self.shapes

    def of(self, name: str, *ranks: int) -> tuple[int, ...]:
        """The shape of a tensor that has to be there, with as many axes as one of the `ranks`."""
        shape = self.shapes.get(self.prefix + name)
        if shape is None:
            raise WeightsError(f"{self.source} is not whole: it has no {self.prefix}{name}")
        if len(shape) not in ranks or 0 in shape:
            raise WeightsError(
                f"{self.source}: {self.prefix}{name} cannot be of shape {tuple(shape)}"
            )
        return tuple(shape)

    def count(self, name: str, start: int = 0, least: int = 1) -> int:
        """How many there are of a name with a number in it, counted from `start` on."""
        found = next(n for n in itertools.count() if not self.has(name.format(start + n)))
        if found < least:
            self.of(name.format(start + found))
        return found


def _clip(sizes: _Sizes) -> _Found:
    vocab_size, width = sizes.of("embeddings.token_embedding.weight", 2)
    facts = {
        "vocab_size": vocab_size,
        "max_length": sizes.of("embeddings.position_embedding.weight", 2)[0],
        "width": width,
        "depth": sizes.count("encoder.layers.{}.mlp.fc1.weight"),
        "mlp_width": sizes.of("encoder.layers.0.mlp.fc1.weight", 2)[0],
    }
    layout = "original" if sizes.prefix.startswith("cond_stage_model.") else "transformers"
    return _Found(layout, facts, lambda config: original.clip(config, sizes.prefix))


def _openclip(sizes: _Sizes) -> _Found:
    vocab_size, width = sizes.of("token_embedding.weight", 2)
    depth = sizes.count("transformer.resblocks.{}.mlp.c_fc.weight")
    # The text encoding is that before the last layer of CLIP. The files of Stability hold all of
    # its 24 layers, those that were made from diffusers' layout the 23 that are run.
    last = depth == 24 or (depth != 23 and sizes.has("text_projection"))
    facts = {
        "vocab_size": vocab_size,
        "max_length": sizes.of("positional_embedding", 2)[0],
        "width": width,
        "depth": depth - last,
        "mlp_width": sizes.of("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
    }
    beyond = f"{sizes.prefix}transformer.resblocks.{depth - 1}." if last else ""
    return _Found("original", facts, lambda config: original.openclip(config, sizes.prefix), beyond)


def _original_unet(sizes: _Sizes) -> _Found:
    block = "input_blocks.{}.0.out_layers.3.weight"
    # A resolution ends with a place without a residual block: a downsampling, or nothing.
    blocks = sizes.count(block, start=1)
    places = itertools.count(1, blocks + 1)
    levels = itertools.takewhile(lambda n: sizes.has(block.format(n)), places)
    return _Found(
        "original",
        _unet_facts(
            sizes,
            blocks,
            {block.format(n): f"input_blocks.{n}.1." for n in levels},
            conv_in="input_blocks.0.0.weight",
            middle="middle_block.1.",
            conv_out="out.2.weight",
        ),
        lambda config: original.unet(config, sizes.prefix),
    )


def _diffusers_unet(sizes: _Sizes) -> _Found:
    block = "down_blocks.{}.resnets.0.conv2.weight"
    return _Found(
        "diffusers",
        _unet_facts(
            sizes,
            sizes.count("down_blocks.0.resnets.{}.conv2.weight"),
            {
                block.format(level): f"down_blocks.{level}.attentions.0."
                for level in range(sizes.count(block))
            },
            conv_in="conv_in.weight",
            middle="mid_block.attentions.0.",
            conv_out="conv_out.weight",
        ),
        diffusers.unet,
    )


def _unet_facts(
    sizes: _Sizes, blocks: int, levels: Mapping[str, str], conv_in: str, middle: str, conv_out: str
) -> dict[str, Any]:
    """`levels`: of each resolution's first block, a convolution and its transformer's prefix."""
    depths = tuple(
        sizes.count(transformer + "transformer_blocks.{}.attn2.to_k.weight", least=0)
        for transformer in levels.values()
    )
    # A few names must not make a table of thousands: it would list what is missing of a network
    # that nobody has.
    tensors = _TRANSFORMER_TENSORS * sum(depths) * (2 * blocks + 1)
    if tensors > _MOST_MISSING * len(sizes.shapes):
        raise WeightsError(
            f"{sizes.source} is not whole: a UNet with {blocks} blocks at each resolution and "
            f"{sum(depths)} transformers behind the first ones has {tensors} tensors or more, and "
            f"the file {len(sizes.shapes)}"
        )
    return {
        "in_channels": sizes.of(conv_in, 4)[1],
        "out_channels": sizes.of(conv_out, 4)[0],
        "widths": tuple(sizes.of(name, 4)[0] for name in levels),
        "depths": depths,
        "blocks": blocks,
        "context_width": sizes.of(f"{middle}transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "linear_projection": len(sizes.of(f"{middle}proj_in.weight", 2, 4)) == 2,
    }


def _original_autoencoder(sizes: _Sizes) -> _Found:
    pointwise = len(sizes.of("encoder.mid.attn_1.q.weight", 2, 4)) == 4
    return _Found(
        "original",
        _autoencoder_facts(sizes, "down", "block"),
        lambda config: original.autoencoder(config, sizes.prefix, pointwise=pointwise),
    )


def _diffusers_autoencoder(sizes: _Sizes) -> _Found:
    return _Found(
        "diffusers",
        _autoencoder_facts(sizes, "down_blocks", "resnets"),
        lambda config: old_attention(diffusers.autoencoder(config), sizes.shapes),
    )


def _autoencoder_facts(sizes: _Sizes, levels: str, blocks: str) -> dict[str, Any]:
    def block(level: Any, i: Any) -> str:
        return f"encoder.{levels}.{level}.{blocks}.{i}.conv2.weight"

    return {
        "latent_channels": sizes.of("decoder.conv_in.weight", 4)[1],
        "widths": tuple(
            sizes.of(block(level, 0), 4)[0] for level in range(sizes.count(block("{}", 0)))
        ),
        "blocks": sizes.count(block(0, "{}")),
    }


_MARKS: tuple[tuple[str, str, tuple[str, ...], Callable[[_Sizes], _Found]], ...] = (
    ("text_encoder", "embeddings.token_embedding.weight", _CLIP_PREFIXES, _clip),
    ("text_encoder", "positional_embedding", (original.OPENCLIP,), _openclip),
    ("unet", "input_blocks.0.0.weight", (original.UNET, ""), _original_unet),
    ("unet", "conv_in.weight", ("",), _diffusers_unet),
    (
        "autoencoder",
        "encoder.down.0.block.0.conv1.weight",
        (original.AUTOENCODER, ""),
        _original_autoencoder,
    ),
    (
        "autoencoder",
        "encoder.down_blocks.0.resnets.0.conv1.weight",
        ("",),
        _diffusers_autoencoder,
    ),
)
"""Of each part and layout: a tensor that every such file has, the prefixes it is found under, and
what reads the shapes."""


def _marked(shapes: Shapes) -> dict[str, tuple[str, Callable[[_Sizes], _Found]]]:
    """The parts in a file, each with its prefix and what reads its shapes."""
    return {
        part: (prefix, read)
        for part, mark, prefixes, read in _MARKS
        for prefix in prefixes
        if prefix + mark in shapes
    }


def _refuse_strangers(shapes: Shapes, source: str) -> None:
    for pattern, what in _STRANGERS.items():
        if name := next(filter(re.compile(pattern).search, shapes), None):
            raise WeightsError(
                f"{source} is {what}, as its {shown(name)} shows; keras_sd reads models of Stable "
                "Diffusion 1.x and 2.x, and their parts"
            )
    if not _marked(shapes):
        names = ", ".join(shown(name) for name in itertools.islice(shapes, 3))
        raise WeightsError(
            f"{source} holds no network of Stable Diffusion 1.x or 2.x: it has {len(shapes)} "
            f"tensors{names and ': '}{names}{' ...' if len(shapes) > 3 else ''}"
        )


# Families


def _kind(unet: _Found, shapes: Shapes) -> str:
    """What a UNet is for that takes more than a latent and a text; "" where it does not."""
    if f"{original.UNET}label_emb.0.0.weight" in shapes:
        return "unCLIP"
    return kind_of(unet.facts["in_channels"], unet.facts["out_channels"])


def _part_config(base: ModelConfig, part: str, found: _Found) -> Any:
    """A part of the family's config, with the numbers of the file."""

    def heads(width: int) -> int:
        if width % _HEAD:
            raise ValueError(f"width {width} of a {PARTS[part]} is no multiple of {_HEAD}, a head")
        return width // _HEAD

    numbers = dict(found.facts)
    if part == "text_encoder":
        numbers["heads"] = heads(numbers["width"])
    elif part == "unet":
        numbers["heads"] = tuple(
            heads(width) if numbers["linear_projection"] else _HEADS for width in numbers["widths"]
        )
    return replace(getattr(base, part), **numbers)


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """A config that cannot be is the fault of the file."""
    try:
        yield
    except ValueError as error:
        raise WeightsError(f"{source} is no model that keras_sd can build: {error}") from error


def _family_prediction(second: bool, variant: str) -> tuple[Prediction, str]:
    """What the UNets of a family predict, where that is one thing."""
    if not second or variant in ("inpainting", "InstructPix2Pix", "depth-to-image"):
        return "epsilon", "the family"
    return "v", "the family" if variant else _ASSUMED


def stated_prediction(
    shapes: Shapes, metadata: Mapping[str, str] | None = None, path: Path | None = None
) -> tuple[Prediction, str] | None:
    """What a file says that its UNet predicts, and where: its metadata, an empty tensor `v_pred`
    or `ztsnr`, a `.yaml` file of the same name beside it. None where nothing does.

    Args:
        shapes: of the tensors, by name.
        metadata: what the file says of itself.
        path: of the file, for messages and for the `.yaml` file.

    Raises:
        WeightsError: it says something that is neither epsilon nor v.
    """
    metadata = metadata or {}
    said = next((key for key in _PREDICTION_KEYS if key in metadata), None)
    if said is not None:
        value, who = metadata[said], f"the file's metadata, {said}"
    elif metadata.get("modelspec.architecture") in _ARCHITECTURES:
        value = _ARCHITECTURES[metadata["modelspec.architecture"]]
        who = "the file's metadata, modelspec.architecture"
    elif said := next((name for name in _V_PREDICTIONS if name in shapes), None):
        value, who = "v", f"the file's tensor {said}"
    elif path is not None and (stated := _sidecar(path.with_suffix(".yaml"))):
        value, who = stated
    else:
        return None
    if value not in _PREDICTIONS:
        raise WeightsError(
            f"{path or 'the file'}: {who}, says that the UNet predicts {shown(value)}; keras_sd "
            "knows 'epsilon' and 'v'. The option prediction overrules it"
        )
    return _PREDICTIONS[value], who


def _sidecar(path: Path) -> tuple[str, str] | None:
    """What the original training configuration says that was put beside a file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        text = file.read(_SIDECAR_BYTES).decode(errors="replace")
    if stated := re.search(r"^ *parameterization: *[\"']?(\w+)", text, re.MULTILINE):
        return stated[1], str(path)
    # The program that these files are of predicts the noise where they do not say otherwise.
    return ("epsilon", str(path)) if re.search(r"^model:", text, re.MULTILINE) else None


def _listed(parts: Iterable[str]) -> str:
    return " and ".join(f"the {PARTS[part]}" for part in PARTS if part in parts)
