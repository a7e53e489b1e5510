"""The driver: runs a sampler, holds it to its contract, and hands every step to whoever asked.

The caller owns the loop: progress is a ``for``, cancelling is ``close()`` or leaving the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from keras_sd.noise import Level, Levels
from keras_sd.sampler import Array, Denoise, Noise, Parts, Sampler, label

__all__ = ["SamplerContractError", "Step", "sample"]

_CONTRACT = "(docs/sampler-contract.md)"


class SamplerContractError(RuntimeError):
    """A sampler broke its contract; the message names the clause."""


@dataclass(frozen=True, eq=False)
class Step:
    """What is known after one interval of a run.

    Args:
        index: 1 after the first interval, `total` after the last.
        total: The number of intervals.
        level: The level reached.
        latent: The latent at that level.
        x0: The last clean latent the model predicted, of ``denoise.parts`` the guided one.
        evaluations: How often the model has been called so far.
    """

    index: int
    total: int
    level: Level
    latent: Array
    x0: Array
    evaluations: int
    _preview: Callable[[Array], Any] | None = field(default=None, repr=False)

    def preview(self) -> Any:
        """What the picture looks like so far: `x0` through the run's preview function.

        Raises:
            ValueError: The run was started without one.
        """
        return self._picture(self.x0)

    def image(self) -> Any:
        """The picture of `latent`, through the same function: of the last step, the result.

        Raises:
            ValueError: The run was started without one.
        """
        return self._picture(self.latent)

    def _picture(self, latent: Array) -> Any:
        if self._preview is None:
            raise ValueError(
                "This run has no preview: start it with sample(..., preview=function of x0)."
            )
        return self._preview(latent)


def sample(
    sampler: Sampler,
    denoise: Denoise,
    x: Array,
    levels: Levels,
    noise: Noise,
    *,
    preview: Callable[[Array], Any] | None = None,
) -> Iterator[Step]:
    """Run a sampler, one `Step` per interval.

    Closing the iterator, or leaving it to be collected, closes the sampler. What `denoise`, `noise`
    or the sampler raise passes through unchanged.

    Args:
        sampler: The sampler, see `keras_sd.sampler`.
        denoise: ``denoise(x, level) -> x0``.
        x: The latent at ``levels[0]``.
        levels: At least two levels.
        noise: ``noise(now, nxt)``: standard normal, shaped like `x`.
        preview: Makes a picture of a clean latent, for `Step.preview`.

    Returns:
        An iterator of ``len(levels) - 1`` steps.

    Raises:
        ValueError: There are fewer than two levels, or the sampler needs ``denoise.parts`` and this
            `denoise` has none.
        TypeError: `levels` is not `Levels`, or `sampler` is a class or not callable.
        SamplerContractError: While iterating, when the sampler breaks a clause of its contract.
    """
    if isinstance(sampler, type) or not callable(sampler):
        raise TypeError(
            f"sampler must be an instance with the sampler contract's __call__, got "
            f"{label(sampler)}."
        )
    if not isinstance(levels, Levels):
        raise TypeError(f"levels must be keras_sd.noise.Levels, got {type(levels).__name__}.")
    if len(levels) < 2:
        raise ValueError(f"A run needs at least two levels, got {len(levels)}.")
    if getattr(sampler, "needs_parts", False) and not hasattr(denoise, "parts"):
        raise ValueError(
            f"Sampler {label(sampler)} needs both halves of guidance, denoise.parts(x, level), "
            "which this denoise does not give: take another sampler, or a run with guidance."
        )
    return _steps(sampler, denoise, x, levels, noise, preview)


def _steps(
    sampler: Sampler,
    denoise: Denoise,
    x: Array,
    levels: Levels,
    noise: Noise,
    preview: Callable[[Array], Any] | None,
) -> Iterator[Step]:
    name = getattr(sampler, "__name__", type(sampler).__name__)
    total = len(levels) - 1
    intervals = f"{total} interval{'s' if total > 1 else ''}"
    host = _Host(denoise, noise, name)
    run: Iterator[Array] | None = None
    try:
        run = sampler(host.denoise, x, levels, host.noise)
        if not isinstance(run, Iterator):
            raise SamplerContractError(
                f"Sampler {name!r} returned {type(run).__name__} where the contract is a "
                f"generator: yield the latent once per interval {_CONTRACT}."
            )
        pending: Step | None = None
        for latent in run:
            index = pending.index + 1 if pending else 1
            if index > total:
                raise SamplerContractError(
                    f"Sampler {name!r} yielded more than {total} latents for {intervals}; "
                    f"the contract is one per interval {_CONTRACT}."
                )
            _check_kept(name, "shape", _shape(latent), _shape(x))
            _check_kept(name, "dtype", getattr(latent, "dtype", None), getattr(x, "dtype", None))
            if not host.evaluations:
                raise SamplerContractError(
                    f"Sampler {name!r} yielded before its first call of denoise; "
                    f"the contract is to call it first {_CONTRACT}."
                )
            pending = Step(index, total, levels[index], latent, host.x0, host.evaluations, preview)
            # The last step waits until the generator has ended, so that a wrong count is an error
            # even for a caller who stops there.
            if index < total:
                yield pending
        count = pending.index if pending else 0
        if pending is None or count < total:
            raise SamplerContractError(
                f"Sampler {name!r} yielded {count} latent{'' if count == 1 else 's'} for "
                f"{intervals}; the contract is one per interval {_CONTRACT}."
            )
        yield pending
    except SystemExit as error:
        if error is host.raised:
            raise
        raise SamplerContractError(
            f"Sampler {name!r} called sys.exit: no sampler ends the program {_CONTRACT}."
        ) from error
    finally:
        close = getattr(run, "close", None)
        if close is not None:
            close()


class _Host:
    """What a sampler is given by the host, counted and held to the contract.

    Args:
        denoise: The model; it may have ``parts``.
        noise: The randomness.
        name: The sampler's, for messages.
    """

    def __init__(self, denoise: Denoise, noise: Noise, name: str) -> None:
        self._denoise, self._noise, self._name = denoise, noise, name
        self.x0: Array = None
        self.evaluations = 0
        self.raised: BaseException | None = None

    @property
    def denoise(self) -> Denoise:
        def denoise(x: Array, level: Level) -> Array:
            self.x0 = self._evaluated(self._denoise, x, level)
            return self.x0

        def parts(x: Array, level: Level) -> Parts:
            found = Parts(*self._evaluated(given, x, level))
            self.x0 = found.guided
            return found

        given: Any = getattr(self._denoise, "parts", None)
        if given is not None:
            denoise.parts = parts  # type: ignore[attr-defined]
        return denoise

    def noise(self, now: Level, nxt: Level) -> Array:
        return self._passed(self._noise, now, nxt)

    def _evaluated(self, function: Callable[..., Any], x: Array, level: Level) -> Any:
        if not level.sigma > 0:
            raise SamplerContractError(
                f"Sampler {self._name!r} called denoise at sigma 0; the contract is never: there "
                f"is no noise left to predict {_CONTRACT}."
            )
        found = self._passed(function, x, level)
        self.evaluations += 1
        return found

    def _passed(self, function: Callable[..., Any], *given: Any) -> Any:
        try:
            return function(*given)
        except BaseException as error:
            self.raised = error
            raise


def _shape(array: Array) -> tuple[int, ...] | None:
    shape = getattr(array, "shape", None)
    return None if shape is None else tuple(shape)


def _check_kept(name: str, what: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise SamplerContractError(
            f"Sampler {name!r} was given a latent of {what} {expected} and yielded one of {what} "
            f"{got}; the contract is to keep it {_CONTRACT}."
        )
