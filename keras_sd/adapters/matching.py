"""Which place of an adapter is which layer of a model, and all that does not fit."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_sd.adapters.files import Adapter, Change, open_adapter
from keras_sd.adapters.kinds import fits
from keras_sd.adapters.names import Named, Place, names_of
from keras_sd.checks import real
from keras_sd.config import ModelConfig
from keras_sd.weights.names import Weight
from keras_sd.weights.parts import listed, printable
from keras_sd.weights.readers import WeightsError, shown

PARTS = ("unet", "text_encoder")
"""What an adapter changes."""


@dataclass(frozen=True)
class Match:
    """An adapter beside a model.

    Attributes:
        adapter: the file.
        model: the name of the model.
        context: features of a token that the model's UNet attends to.
        matched: each change that has its layer, with the entry of the weight that it changes.
        layouts: whose names they have, with how many.
        unused: names of places that are known and that the model does not have.
        unknown: names that are those of no place, and of tensors that are no change.
        misshapen: what is of another shape than the layer.
        twice: what would change a layer a second time, under another name.
    """

    adapter: Adapter
    model: str
    context: int
    matched: tuple[tuple[Change, Place, Weight], ...]
    layouts: Mapping[str, int]
    unused: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, int]:
        """Changes by the part of the model that they are of."""
        return dict(Counter(place.part for _, place, _ in self.matched))

    def check(self, allow_partial: bool = False) -> None:
        """Refuses what cannot be merged.

        Args:
            allow_partial: names that are not known are left out; the log has them.

        Raises:
            WeightsError: it was made for another family, nothing of it is in the model, or a part
                of it is not.
        """
        path, base, context = self.adapter.path, self.adapter.base, self.adapter.context
        # Where no shape tells the family, names do, which a model of it has.
        by_name = context is None and base is not None and not self.matched
        if by_name or context not in (None, self.context):
            features = f" ({context} features a token)" if context else ""
            raise WeightsError(
                f"{path} was made for {base}{features}; the model {printable(self.model)} has "
                f"{self.context} features a token. Take a model of that family"
            )
        if not self.matched:
            names = [*self.misshapen, *self.unknown, *self.unused, *self.adapter.strays]
            raise WeightsError(
                f"Nothing of {path} is in the model {printable(self.model)}: of its "
                f"{len(self.adapter.changes)} changes none has a layer here. Its layout is "
                f"{self.layout}, the family that it was made for "
                f"{base or 'is not told by any shape'}. It has {listed(names)}"
            )
        problems = {
            "of another shape than the layer": self.misshapen,
            "for a layer that another one changes": self.twice,
            "unknown": () if allow_partial else self.unknown,
        }
        lines = [
            f"  {len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names
        ]
        if lines:
            hint = "" if self.misshapen or self.twice else "; allow_partial=True leaves them out"
            raise WeightsError(
                f"{path} fits the model {printable(self.model)} in part, "
                f"{len(self.matched)} changes of it; nothing was merged{hint}:\n" + "\n".join(lines)
            )

    @property
    def layout(self) -> str:
        """Whose names the file has."""
        return " and ".join(self.layouts) or "none that is known"

    def __str__(self) -> str:
        parts = ", ".join(f"{count} in the {part}" for part, count in self.parts.items())
        left = [
            f"{len(names)} {kind}"
            for kind, names in (("unknown", self.unknown), ("not in this model", self.unused))
            if names
        ]
        return f"{self.adapter.path.name}: {'; '.join([parts or 'nothing', *left])}"


def match(adapter: Adapter, config: ModelConfig) -> Match:
    """Finds the layer of each change. Nothing is refused: `Match.check` does that.

    Args:
        adapter: the file.
        config: of the model.
    """
    return _match(adapter, config, names_of(config))


def _match(adapter: Adapter, config: ModelConfig, names: Mapping[str, Named]) -> Match:
    matched, taken = [], set()
    layouts: Counter[str] = Counter()
    unused, unknown, misshapen, twice = [], list(adapter.strays), [], []
    for change in adapter.changes:
        named = names.get(change.name)
        if named is None:
            unknown.append(change.name)
            continue
        layouts[named.layout] += 1
        place = named.place
        entry = place.bias if change.of_bias else place.weight
        if not place.used:
            unused.append(change.name)
        elif entry is None:
            misshapen.append(f"{change.name} (the layer has no bias)")
        elif not fits(change.kind, change.shapes, entry.file_shape):
            found = change.kind.shape(change.shapes)
            misshapen.append(f"{change.name} is {found}, not {entry.file_shape}")
        elif (place.part, entry.path) in taken:
            twice.append(change.name)
        else:
            taken.add((place.part, entry.path))
            matched.append((change, place, entry))
    return Match(
        adapter,
        config.name,
        config.unet.context_width,
        tuple(matched),
        dict(layouts),
        tuple(unused),
        tuple(unknown),
        tuple(misshapen),
        tuple(twice),
    )


@dataclass(frozen=True)
class Use:
    """An adapter that is merged.

    Attributes:
        match: where its changes are in the model.
        strengths: how much of them, by part, and by block as `unet/down_1`.
    """

    match: Match
    strengths: Mapping[str, float]

    def strength(self, part: str, path: str) -> float:
        """How much of the change of a variable: that of the longest name that it goes by."""
        names = [name for name in self.strengths if _goes_by(part, path, name)]
        return self.strengths[max(names, key=len)]


def _goes_by(part: str, path: str, name: str) -> bool:
    """Whether a variable is of a part, or of a block of it: the block `down_1` has `down_1_0`."""
    of, slash, block = name.partition("/")
    if not slash:
        return of == part
    begins = re.match(rf"{re.escape(block)}(?:[/_]|$)", path)
    return of == part.removesuffix("_2") and begins is not None


def uses_of(given: tuple[Any, ...], config: ModelConfig, allow_partial: bool) -> tuple[Use, ...]:
    """What adapters as people give them are, each checked.

    Args:
        given: each a path or an `Adapter`, or a pair of one and its strength: a number, or numbers
            by part, and by block as `{"unet": 1, "unet/middle": 0.5}`.
        config: of the model.
        allow_partial: see `Match.check`.

    Raises:
        WeightsError: see `open_adapter` and `Match.check`.
        ValueError: a strength that is not finite, or of a part or a block that there is not, or
            none for a part that there is.
        TypeError: something else was given.
    """
    wanted = [given_of(each) for each in given]
    names = names_of(config) if wanted else {}
    uses = []
    for adapter, strength in wanted:
        found = _match(adapter, config, names)
        found.check(allow_partial)
        uses.append(Use(found, _strengths(found, strength, names)))
    return tuple(uses)


def given_of(given: Any) -> tuple[Adapter, float | dict[str, float]]:
    """What was given for an adapter: the file, open, and its strength.

    Args:
        given: see `uses_of`.

    Raises:
        WeightsError: see `open_adapter`.
        ValueError: a strength that is not finite, or of a part that there is not.
        TypeError: something else was given.
    """
    source, strength = given, 1.0
    if isinstance(given, tuple) and len(given) == 2:
        source, strength = given
    if not isinstance(source, str | os.PathLike | Adapter):
        raise TypeError(
            "An adapter is a path, or a pair of a path and a strength such as "
            f"('style.safetensors', 0.8), not {shown(given)}"
        )
    if isinstance(strength, Mapping):
        if odd := [key for key in strength if str(key).partition("/")[0] not in PARTS]:
            raise ValueError(f"A strength is for {' or '.join(PARTS)}, not for {shown(odd[0])}")
        numbers = {part: real(f"strength of {part}", v) for part, v in strength.items()}
        return _opened(source), numbers
    return _opened(source), real("strength", strength)


def _opened(source: Any) -> Adapter:
    return source if isinstance(source, Adapter) else open_adapter(source)


def _strengths(
    found: Match, strength: float | Mapping[str, float], names: Mapping[str, Named]
) -> dict[str, float]:
    if not isinstance(strength, Mapping):
        return dict.fromkeys(found.parts, strength)
    # A strength of the text encoder is that of both, where there are two.
    asked = {part: part.removesuffix("_2") for part in found.parts}
    if left := [part for part in asked.values() if part not in strength]:
        raise ValueError(
            f"{found.adapter.path} changes the {left[0]} too: give its strength, of which 0 leaves "
            f"it as it is"
        )
    blocks = {name: number for name, number in strength.items() if "/" in name}
    if blocks:
        _check_blocks(blocks, names)
    return {part: strength[name] for part, name in asked.items()} | blocks


def _check_blocks(blocks: Iterable[str], names: Mapping[str, Named]) -> None:
    """Raises:
    ValueError: the model has no such block.
    """
    paths = {
        (each.place.part, entry.path)
        for each in names.values()
        for entry in (each.place.weight, each.place.bias)
        if entry is not None
    }
    for name in blocks:
        if any(_goes_by(part, path, name) for part, path in paths):
            continue
        of = name.partition("/")[0]
        known = {path.split("/")[0] for part, path in paths if part.removesuffix("_2") == of}
        raise ValueError(
            f"A strength is for {shown(name)}, which the model has not; the blocks of its {of} are "
            f"{', '.join(sorted(known))}, and what these begin with, as down_1"
        )
