"""What an adapter does to a model, measured: `Effect`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keras_sd.backend import to_numpy
from keras_sd.model import Model
from keras_sd.request import Request
from keras_sd.run import run
from keras_sd.weights.load import variables_of

__all__ = ["Effect", "effect_of"]


@dataclass(frozen=True)
class PartEffect:
    """Of one network.

    Attributes:
        weights: that were changed.
        median: of the length of a weight's change over its own.
        largest: likewise.
        where: the weight with the largest.
    """

    weights: int
    median: float
    largest: float
    where: str


@dataclass(frozen=True)
class Effect:
    """Of an adapter on a model.

    Attributes:
        parts: by the name of the network.
        prediction: the length of the change of the first clean latent that a run predicts, over
            its own; 0 is an adapter that does nothing.
        restored: whether, taken out again, it left every weight as it was, bit for bit.
    """

    parts: Mapping[str, PartEffect]
    prediction: float
    restored: bool

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON types."""
        return asdict(self)


def effect_of(model: Model, adapter: Any, prompt: str = "") -> Effect:
    """Merges an adapter, measures, and takes it out.

    Args:
        model: that it was made for.
        adapter: what `merge_adapters` takes.
        prompt: of the run that is compared, whose noise is seed 0's.

    Raises:
        WeightsError: it does not fit the model.
    """
    before = _weights(model)
    plain = _first(model, prompt)
    with model.with_adapters(adapter):
        changes: dict[str, dict[str, float]] = {}
        for (part, path), now in _weights(model).items():
            old = before[part, path]
            if now.tobytes() != old.tobytes():
                base = np.asarray(old, np.float64)
                length = np.linalg.norm(np.asarray(now, np.float64) - base)
                whole = float(np.linalg.norm(base)) or 1.0
                changes.setdefault(part, {})[path] = float(length) / whole
        changed = _first(model, prompt)
    after = _weights(model)
    parts = {
        part: PartEffect(
            len(found),
            statistics.median(found.values()),
            max(found.values()),
            max(found, key=lambda path: found[path]),
        )
        for part, found in changes.items()
    }
    moved = float(np.linalg.norm(changed - plain) / np.linalg.norm(plain))
    restored = all(after[key].tobytes() == before[key].tobytes() for key in before)
    return Effect(parts, moved, restored)


def _weights(model: Model) -> dict[tuple[str, str], np.ndarray]:
    return {
        (part, path): to_numpy(variable.value).copy()
        for part, network in model.parts.items()
        if part != "autoencoder"
        for path, variable in variables_of(network).items()
    }


def _first(model: Model, prompt: str) -> np.ndarray:
    """The first clean latent of a run."""
    steps = run(model, Request((prompt,), images=((0, 0),), num_steps=2, sampler="ddim"))
    try:
        return np.asarray(to_numpy(next(steps).x0), np.float64)
    finally:
        steps.close()  # type: ignore[attr-defined]
