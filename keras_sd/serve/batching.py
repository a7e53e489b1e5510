"""Evaluations of several runs in one call of the UNet: `Batches`.

A run calls the model's compiled steps with its own latents, level and conditions. Rows of a call
know nothing of each other, so those of any runs can be one call, whatever their samplers, levels,
prompts and guidance: numbers that are scalars in a run of its own are a column here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from keras_sd.backend import to_numpy
from keras_sd.denoiser import WEIGHTS

__all__ = ["Batches", "Evaluation"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one run calls a compiled step with.

    Attributes:
        step: the compiled step, of the form of `keras_sd.denoiser.STEPS`.
        x: the latents, `(rows, height, width, channels)` float32.
        level: `t`, `alpha` and `sigma`, scalars.
        conditions: what the UNet is told; of an array `(n * rows, ...)`, the rows for each of `n`
            predictions a row of `x`.
        strength: of guidance, scalars.
    """

    step: Callable[..., Any]
    x: Any
    level: tuple[Any, ...]
    conditions: Mapping[str, Any]
    strength: tuple[Any, ...]

    @property
    def rows(self) -> int:
        """Latents."""
        return int(self.x.shape[0])

    @property
    def kind(self) -> tuple[Any, ...]:
        """What those have in common that can be one call."""
        shapes = sorted(
            (name, *self._folded(name, tuple(array.shape)))
            for name, array in self.conditions.items()
        )
        return self.step, tuple(self.x.shape[1:]), tuple(shapes)

    def _folded(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of conditions as (predictions a row, rows, ...), without the rows."""
        if name == WEIGHTS:
            return shape[0], *shape[2:]
        return shape[0] // self.rows, *shape[1:]

    def folded(self, name: str) -> np.ndarray:
        """Conditions as `(predictions a row, rows, ...)`."""
        array = to_numpy(self.conditions[name])
        return array if name == WEIGHTS else array.reshape(-1, self.rows, *array.shape[1:])


class Batches:
    """Calls of a model's steps, each for several runs.

    Args:
        sizes: rising numbers of rows that a call may have: it is filled up to the next of them, so
            that a backend which compiles for a shape meets few. Empty is any number.

    Attributes:
        calls: of steps, so far.
        rows: that were asked for, so far.
    """

    def __init__(self, sizes: Sequence[int] = ()):
        self.sizes = sizes
        # The last call of each kind: whose conditions, how many rows, and the conditions as one.
        self._told: dict[tuple[Any, ...], tuple[list[Mapping[str, Any]], int, Any]] = {}
        self.calls = 0
        self.rows = 0

    def through(
        self, ask: Callable[[Evaluation], Any], steps: Mapping[str, Callable[..., Any]]
    ) -> Mapping[str, Callable[..., Any]]:
        """Steps that ask somebody, see `keras_sd.run.run`.

        Args:
            ask: gives the result of an evaluation.
            steps: the model's compiled steps.
        """

        def asked(step: Callable[..., Any], x, t, alpha, sigma, conditions, *strength) -> Any:
            return ask(Evaluation(step, x, (t, alpha, sigma), conditions, strength))

        return {name: partial(asked, step) for name, step in steps.items()}

    def evaluate(self, asked: Sequence[Evaluation]) -> list[Any]:
        """The result of each: a tensor like its latents, or a tuple of them; or the exception that
        it raises where it is alone.
        """
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for number, each in enumerate(asked):
            kinds.setdefault(each.kind, []).append(number)
        for gone in self._told.keys() - kinds.keys():
            del self._told[gone]
        results: list[Any] = [None] * len(asked)
        for kind, numbers in kinds.items():
            for some in self._parts(asked, numbers):
                found = self._called(kind, [asked[number] for number in some])
                for number, result in zip(some, found, strict=True):
                    results[number] = result
        return results

    def _parts(self, asked: Sequence[Evaluation], numbers: list[int]) -> list[list[int]]:
        """No call has more rows than the largest size, unless one evaluation alone has."""
        if not self.sizes:
            return [numbers]
        parts: list[list[int]] = []
        rows = 0
        for number in numbers:
            rows += asked[number].rows
            if not parts or rows > self.sizes[-1]:
                parts.append([])
                rows = asked[number].rows
            parts[-1].append(number)
        return parts

    def _called(self, kind: tuple[Any, ...], asked: list[Evaluation]) -> list[Any]:
        try:
            return self._call(kind, asked)
        except Exception as error:
            if len(asked) == 1:
                return [error]
        # One of them cannot be computed, or all are too many: each by itself.
        return [result for each in asked for result in self._called(kind, [each])]

    def _call(self, kind: tuple[Any, ...], asked: list[Evaluation]) -> list[Any]:
        rows = [each.rows for each in asked]
        size = next((size for size in self.sizes if size >= sum(rows)), sum(rows))
        x = _filled(np.concatenate([to_numpy(each.x) for each in asked]), size)
        t, *numbers = (
            _filled(np.repeat(np.array([to_numpy(v) for v in column], np.float32), rows), size)
            for column in zip(*(each.level + each.strength for each in asked), strict=True)
        )
        alpha, sigma, *strength = (
            ops.convert_to_tensor(column.reshape(-1, 1, 1, 1)) for column in numbers
        )
        given = ops.convert_to_tensor(x), ops.convert_to_tensor(t), alpha, sigma
        found = asked[0].step(*given, self._conditions(kind, asked, size), *strength)
        self.calls, self.rows = self.calls + 1, self.rows + sum(rows)
        whole = isinstance(found, tuple)
        columns = [_parted(to_numpy(array), size, rows) for array in (found if whole else (found,))]
        results = [tuple(map(ops.convert_to_tensor, row)) for row in zip(*columns, strict=True)]
        return results if whole else [result for (result,) in results]

    def _conditions(self, kind: tuple[Any, ...], asked: list[Evaluation], size: int) -> Any:
        """As one batch; they are the same ones until a run comes or goes."""
        whose = [each.conditions for each in asked]
        before, had, made = self._told.get(kind, ([], 0, None))
        if had == size and list(map(id, before)) == list(map(id, whose)):
            return made
        told = {}
        for name in asked[0].conditions:
            array = np.concatenate([each.folded(name) for each in asked], axis=1)
            array = np.stack([_filled(prediction, size) for prediction in array])
            if name != WEIGHTS:
                array = array.reshape(-1, *array.shape[2:])
            told[name] = ops.convert_to_tensor(array)
        self._told[kind] = whose, size, told
        return told


def _parted(array: np.ndarray, size: int, rows: list[int]) -> list[np.ndarray]:
    """The rows of each run, of an array of some predictions for each of `size` rows."""
    folded = array.reshape(-1, size, *array.shape[1:])[:, : sum(rows)]
    parts = np.split(folded, np.cumsum(rows)[:-1], axis=1)
    return [part.reshape(-1, *array.shape[1:]) for part in parts]


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows up to a number, which repeat the last."""
    missing = size - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
