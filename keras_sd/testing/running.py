"""Runs for checks: a sampler on a problem, and a violation for whatever goes wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from keras_sd.noise import Level, Levels
from keras_sd.registry import get_sampler
from keras_sd.sampler import Denoise, Parts, Sampler, label
from keras_sd.sampling import SamplerContractError, Step, sample
from keras_sd.testing.problems import Draws, gaussian_denoise, started

Check = Callable[[Sampler | str], None]

CLAUSES = {
    1: "levels",
    2: "denoise",
    3: "noise is the only randomness",
    4: "one yield per interval, shape and dtype kept",
    5: "state lives in locals, settings show in the repr",
    6: "plain arithmetic, out of place",
    7: "no with block around a yield; cancelling passes",
}


class ContractViolation(AssertionError):
    """A sampler broke a clause of the sampler contract, or a promise of its own."""


def resolved(sampler: Sampler | str) -> Sampler:
    return get_sampler(sampler)


def called(given: Any) -> str:
    return given if isinstance(given, str) else label(given)


def check_all(checks: Iterable[Callable[[Any], None]], given: Any) -> None:
    """Runs every check.

    Raises:
        ContractViolation: at least one failed; the message has all of them.
    """
    failures = []
    for check in checks:
        try:
            check(given)
        except ContractViolation as violation:
            failures.append(violation)
    if failures:
        raise ContractViolation("\n".join(str(f) for f in failures)) from failures[0]


def unshown(given: Any) -> str | None:
    """What the repr of a plugin lacks of its settings, or None."""
    if inspect.isroutine(given):
        return None  # a plain function has no settings and is named by its name
    if " object at 0x" in repr(given):
        return f"its repr is {given!r}; make the class a frozen dataclass"
    missing = [s for s in inspect.signature(type(given)).parameters if s not in repr(given)]
    return f"the setting {missing[0]!r} is missing from its repr, {given!r}" if missing else None


def with_parts(sampler: Sampler, denoise: Denoise) -> Denoise:
    """The model, with the parts of guidance where a sampler needs them: all are what it says, so
    that however they are put together it is that.
    """
    if not getattr(sampler, "needs_parts", False):
        return denoise

    def whole(x: Any, level: Level) -> Any:
        return denoise(x, level)

    def parts(x: Any, level: Level) -> Parts:
        x0 = denoise(x, level)
        return Parts(x0, x0, x0)

    whole.parts = parts  # type: ignore[attr-defined]
    return whole


def fail(sampler: Sampler, clause: int, what: str) -> NoReturn:
    raise ContractViolation(
        f"{called(sampler)} breaks clause {clause} of the sampler contract ({CLAUSES[clause]}): "
        f"{what}."
    )


@contextmanager
def reported(sampler: Sampler, levels: Levels | None = None) -> Iterator[None]:
    try:
        with np.errstate(all="ignore"):  # what is not finite is reported as such
            yield
    except ContractViolation:
        raise
    except SamplerContractError as error:
        raise ContractViolation(f"{called(sampler)}: {error}") from error
    except Exception as error:
        where = f" on {len(levels) - 1} steps from {levels[0]} to {levels[-1]}" if levels else ""
        raise ContractViolation(
            f"{called(sampler)} raised {type(error).__name__}{where}: {error}"
        ) from error


def stepped(
    sampler: Sampler,
    levels: Levels,
    *,
    x: Any = None,
    denoise: Any = gaussian_denoise,
    noise: Any = None,
) -> Iterator[Step]:
    x = started() if x is None else x
    return sample(sampler, with_parts(sampler, denoise), x, levels, noise or Draws())


def finished(sampler: Sampler, levels: Levels, **arguments: Any) -> list[Step]:
    with reported(sampler, levels):
        steps = list(stepped(sampler, levels, **arguments))
    for step in steps:
        if isinstance(step.latent, np.ndarray) and not np.isfinite(step.latent).all():
            fail(
                sampler,
                1,
                f"step {step.index} of {step.total} from {levels[0]} to {levels[-1]} is not finite",
            )
    return steps
