"""Adapters in the weights of a model, and the weights as they were.

A merged weight is always made of the one before any adapter, in float32, and rounded once. So what
is merged is a function of the model and the list of adapters: nothing adds up by being merged
twice, and what is taken out leaves not a bit behind.
"""

from __future__ import annotations

import logging
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_sd.adaptations import Adaptation
from keras_sd.adapters.files import Change
from keras_sd.adapters.kinds import applied
from keras_sd.adapters.matching import Use, uses_of
from keras_sd.adapters.tagged import tagged
from keras_sd.backend import to_numpy
from keras_sd.checks import flag
from keras_sd.config import ModelConfig
from keras_sd.delegates import attribute_of, method_of
from keras_sd.low_memory import InTurn
from keras_sd.networks.initializers import host_zeros
from keras_sd.request import Request
from keras_sd.weights.load import variables_of
from keras_sd.weights.names import Weight
from keras_sd.weights.parts import is_floating, listed
from keras_sd.weights.readers import WeightsError, is_finite

_log = logging.getLogger(__name__)

Key = tuple[str, str]
"""The part and the path of a variable."""

_Wanted = tuple[Change, Weight, float, Path]
"""A change, the weight that it changes, its strength, and the file that it is from."""


@dataclass(frozen=True)
class Merged:
    """What is merged into the networks of a model.

    Attributes:
        uses: the adapters, in order.
        base: the changed weights before any adapter.
        marks: a checksum of each as it was left, by which a change by others is seen.
    """

    uses: tuple[Use, ...] = ()
    base: Mapping[Key, np.ndarray] = field(default_factory=dict)
    marks: Mapping[Key, int] = field(default_factory=dict)


class Merging:
    """What is merged now, as all models of the same networks see it; and the runs that go on with
    them, all with the same adapters.

    Attributes:
        now: what is merged.
        before: the uses that the runs add theirs to.
        runs: how many go on.
        adaptations: of their requests.
        lock: of all of these.
    """

    def __init__(self, now: Merged | None = None) -> None:
        self.now = Merged() if now is None else now
        self.before: tuple[Use, ...] = ()
        self.runs = 0
        self.adaptations: tuple[Adaptation, ...] = ()
        self.lock = threading.RLock()

    def __reduce__(self) -> Any:
        return Merging, (self.now,)


class Adapts:
    """The part of a `Model` that is about adapters: it needs `parts`, `config` and `_merging`.

    Attributes:
        adapters_dir: the folder in which adapters lie that prompts name by tags; None is none.
    """

    parts: Any
    config: Any
    adapters_dir: str | os.PathLike[str] | None
    _merging: Merging

    @property
    def adapters(self) -> tuple[Use, ...]:
        """The adapters that are merged, in order: of each, what it changes and its strengths."""
        return self._merging.now.uses

    def tagged(self, request: Request) -> Request:
        """The request with the adapters that its prompts name by tags, from `adapters_dir`; see
        `keras_sd.adapters.tagged.tagged`, which has the errors.
        """
        return tagged(request, self.adapters_dir)

    def uses(self, adaptations: tuple[Adaptation, ...]) -> tuple[Use, ...]:
        """What the adapters of a request change here.

        Args:
            adaptations: of the request.

        Raises:
            WeightsError: one was made for another family, or fits only in part.
            ValueError: one is known by its hash alone.
        """
        for each in adaptations:
            if each.file.data is None:
                raise ValueError(
                    f"The adapter {each.file.name or each.file.sha256} is known by its hash alone: "
                    "give the request its file with Request.attached"
                )
        if adaptations:
            self._require_networks()
        given = tuple((each.file.data, each.strengths) for each in adaptations)
        return uses_of(given, self.config, False)

    @contextmanager
    def adapted(self, adaptations: tuple[Adaptation, ...], uses: tuple[Use, ...]) -> Iterator[None]:
        """A run: the first with these adapters merges them, and the last takes them out.

        Args:
            adaptations: of its request.
            uses: of these.

        Raises:
            RuntimeError: runs with others go on with the same networks.
            WeightsError: a weight of the result is not finite. Nothing was changed.
        """
        merging = self._merging
        with merging.lock:
            if merging.runs and adaptations != merging.adaptations:
                raise RuntimeError(
                    "Runs with other adapters go on with the same networks, whose weights are of "
                    "all of them: finish or close those first"
                )
            if adaptations and not merging.runs:
                merging.before = merging.now.uses
                merged = (*merging.before, *uses)
                merging.now = _merge(self.parts, self.config, merged, merging.now)
            merging.runs, merging.adaptations = merging.runs + 1, adaptations
        try:
            yield
        finally:
            with merging.lock:
                merging.runs -= 1
                if adaptations and not merging.runs:
                    merging.now = _merge(self.parts, self.config, merging.before, merging.now)

    def merge_adapters(self, *adapters: Any, allow_partial: bool = False) -> tuple[Use, ...]:
        """Makes the networks those of the model with these adapters and no others: what was merged
        before is taken out, and the changes of all of them are added to the weights of the model.
        The next picture is drawn with them, and a checkpoint that is saved has them. Not while a
        run goes on.

        Args:
            *adapters: each the path of a file, or a pair of it and its strength: a number, 1 where
                none is given, or a number by part, `{"unet": 0.8, "text_encoder": 0.5}`. In place
                of a path, an `Adapter` that is open.
            allow_partial: leave out what the model has no place for and name it in the log.

        Returns:
            Of each adapter, what it changes and its strengths.

        Raises:
            WeightsError: a file is damaged, is no adapter, was made for another family, or fits
                only in part; a weight of the result is not finite. Nothing was changed.
            FileNotFoundError: there is no such file.
            ValueError: a strength that does not fit.
            TypeError: something else was given.
            RuntimeError: somebody has changed a weight that adapters are merged into.
        """
        flag("allow_partial", allow_partial)
        if self._merging.runs and self._merging.adaptations:
            raise RuntimeError(
                "A run with adapters of its own goes on with these networks, and takes them out at "
                "its end: finish or close it first"
            )
        if adapters:
            self._require_networks()
        uses = uses_of(adapters, self.config, allow_partial)
        for use in uses:
            for note in use.match.adapter.notes:
                _log.warning("%s: %s", use.match.adapter.path, note)
            if names := use.match.unknown:
                _log.warning("%s: left out, as unknown: %s", use.match.adapter.path, listed(names))
        self._merging.now = _merge(self.parts, self.config, uses, self._merging.now)
        return uses

    def _require_networks(self) -> None:
        if isinstance(self.parts, InTurn):
            raise ValueError(
                "A model with low_memory takes no adapters, since its networks come and go: save "
                "the model with them, and load that"
            )

    def unmerge_adapters(self) -> None:
        """Takes all adapters out: the weights are those before them, bit for bit.

        Raises:
            RuntimeError: somebody has changed a weight that adapters are merged into.
        """
        self.merge_adapters()

    @contextmanager
    def with_adapters(self, *adapters: Any, allow_partial: bool = False) -> Iterator[Any]:
        """`merge_adapters` for the block of a `with` statement, of which the value is what that
        returns. After it the adapters are those before it. The arguments and errors are those of
        `merge_adapters`.
        """
        before = self.adapters
        uses = self.merge_adapters(*adapters, allow_partial=allow_partial)
        try:
            yield uses
        finally:
            self._merging.now = _merge(self.parts, self.config, before, self._merging.now)


class Doors:
    """The part of a pipeline that is about adapters: its model has them."""

    adapters = attribute_of("model", "adapters", "Those that are merged; see `Adapts.adapters`.")
    adapters_dir = attribute_of("model", "adapters_dir", "Of those that prompts name by tags.")
    merge_adapters = method_of("model", Adapts.merge_adapters)
    unmerge_adapters = method_of("model", Adapts.unmerge_adapters)
    with_adapters = method_of("model", Adapts.with_adapters)


def _merge(
    networks: Mapping[str, keras.Model], config: ModelConfig, uses: tuple[Use, ...], before: Merged
) -> Merged:
    """Sets the weights to those with `uses`, or leaves all as they are."""
    changes = _by_weight(uses)
    parts = {part for part, _ in (*changes, *before.base)}
    variables = {
        (part, path): variable
        for part in parts
        for path, variable in variables_of(networks[part]).items()
    }
    _check_variables(variables, changes, before)
    base: dict[Key, np.ndarray] = {}
    marks: dict[Key, int] = {}
    old: dict[Key, np.ndarray] = {}
    try:
        for key in changes.keys() | before.base.keys():
            now = to_numpy(variables[key].value)
            clean = before.base.get(key)
            if clean is None:
                # In memory of its own: what the backend gives may be a view of its own.
                clean = now.copy()
            value = clean
            if key in changes:
                base[key] = clean
                value = _merged(key, clean, changes[key])
                marks[key] = _mark(value)
            old[key] = now if key in before.base else clean
            _assign(variables[key], value)
    except BaseException:
        for key, value in old.items():
            _assign(variables[key], value)
        raise
    return Merged(uses, base, marks)


def _by_weight(uses: tuple[Use, ...]) -> dict[Key, list[_Wanted]]:
    """The changes of each variable, in the order of the adapters; none of strength 0, which leave
    a weight as it is.
    """
    found: dict[Key, list[_Wanted]] = {}
    for use in uses:
        for change, place, entry in use.match.matched:
            if strength := use.strength(place.part, entry.path):
                key = place.part, entry.path
                wanted = change, entry, strength, use.match.adapter.path
                found.setdefault(key, []).append(wanted)
    return found


def _merged(key: Key, clean: np.ndarray, changes: list[_Wanted]) -> np.ndarray:
    dtype = np.result_type(np.float32, clean.dtype)
    entry = changes[0][1]
    weight = np.ascontiguousarray(entry.theirs(clean)).astype(dtype)
    for change, _, strength, path in changes:
        try:
            factors = change.factors()
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}; nothing was merged") from None
        with np.errstate(over="ignore", invalid="ignore"):
            weight = applied(change.kind, factors, weight, change.scale, strength)
    with np.errstate(over="ignore"):
        value = np.ascontiguousarray(entry.ours(weight)).astype(clean.dtype)
    if not is_finite(value):
        names = ", ".join(change.name for change, *_ in changes)
        raise WeightsError(
            f"With {names} the weight {'/'.join(key)} does not fit {clean.dtype}: a number is not "
            "finite; nothing was merged"
        )
    return value


def _check_variables(
    variables: Mapping[Key, keras.Variable],
    changes: Mapping[Key, list[_Wanted]],
    before: Merged,
) -> None:
    for key, found in changes.items():
        entry, variable = found[0][1], variables.get(key)
        if variable is None or tuple(variable.shape) != entry.shape:
            raise WeightsError(
                f"The networks have no weight {'/'.join(key)} of shape {entry.shape}: they are not "
                "those of the model's config"
            )
        dtype = np.dtype(getattr(ml_dtypes, variable.dtype, variable.dtype))
        if not is_floating(dtype):
            raise WeightsError(
                f"{'/'.join(key)} holds {variable.dtype}: adapters are merged before weights are "
                "quantized"
            )
    for key, mark in before.marks.items():
        if key not in variables or _mark(to_numpy(variables[key].value)) != mark:
            raise RuntimeError(
                f"The weight {'/'.join(key)} was changed after adapters were merged into it, so "
                "what it would be without them is not known. To go on from here, save the model "
                "and load it again"
            )


def _mark(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _assign(variable: keras.Variable, value: np.ndarray) -> None:
    # Memory of its own, which the backend may take over.
    given = host_zeros(tuple(variable.shape), variable.dtype)
    given[...] = value
    variable.assign(given)
