"""How long a picture takes on this machine: the first, the next ones, and each step of one.

Every picture is a `Request`'s, drawn as a user's is, and the clock is a wall clock. How other
programs do on the same weights: `benchmarks/compare.py` of the source tree.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from keras_sd.forms import request_of


@dataclass(frozen=True)
class Times:
    """Seconds.

    Attributes:
        load: importing Keras, where it was not yet, and reading the weights.
        first: the first picture, whatever is compiled for it included.
        warm: each picture after it, of the same shape.
        step: each step of one more picture but its first, which also encodes the prompt.
    """

    load: float
    first: float
    warm: tuple[float, ...]
    step: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """The four, as JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The four in words, for people: medians, with the fastest and the slowest."""
        rows = {
            "import and load": (self.load,),
            "first picture": (self.first,),
            "next pictures": self.warm,
            "a step": self.step,
        }
        width = max(map(len, rows))
        return [f"{name:<{width}}  {_spread(seconds)}" for name, seconds in rows.items()]


def measure(
    model: str,
    prompt: str,
    *,
    dtype: str | None = None,
    num_steps: int,
    warm: int = 3,
    **settings: Any,
) -> Times:
    """Draws, and takes the time of it.

    Args:
        model: what `from_preset` takes.
        prompt: what is drawn.
        dtype: the dtype policy; None is Keras' own.
        num_steps: of each picture; at least 2.
        warm: pictures after the first; at least 1.
        settings: of `request_of`.

    Raises:
        ValueError: too few steps or pictures to take the time of; what `request_of`, `from_preset`
            and `draw` raise.
    """
    if num_steps < 2:
        raise ValueError(f"a benchmark takes at least 2 steps, not {num_steps}: the first is apart")
    if warm < 1:
        raise ValueError(f"a benchmark takes at least 1 warm picture, not {warm}")
    request = request_of(prompt, seed=0, num_steps=num_steps, **settings)
    clock = time.perf_counter
    began = clock()
    from keras_sd.backend import to_numpy
    from keras_sd.pipeline import StableDiffusion

    pipeline = StableDiffusion.from_preset(model, dtype=dtype)
    load = clock() - began

    def picture() -> float:
        began = clock()
        pipeline.draw(request)
        return clock() - began

    first, *others = (picture() for _ in range(1 + warm))
    ends = []
    for step in pipeline.stream(request):
        to_numpy(step.latent)  # a device may still be at work when a call returns
        ends.append(clock())
    steps = tuple(after - before for before, after in pairwise(ends))
    return Times(load, first, tuple(others), steps)


def _spread(seconds: tuple[float, ...]) -> str:
    unit, factor = ("s", 1) if max(seconds) >= 1 else ("ms", 1000)
    shown = [f"{factor * each:.3g}" for each in (min(seconds), max(seconds))]
    middle = f"{factor * statistics.median(seconds):.3g} {unit}"
    return middle if len(seconds) == 1 else f"{middle} ({' to '.join(shown)}, n = {len(seconds)})"
