"""What is measured: the rows of the table."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

VARIANTS = {
    "standard": "Standard",
    "mixed": "Mixed precision",
    "xla": "XLA",
    "xla-mixed": "XLA + mixed precision",
}
"""The rows of KerasCV's guide, and their names in the table."""

SYSTEMS = ("keras_sd", "diffusers", "keras_cv")

# What each other program runs on.
_RUNS_ON = {"diffusers": "torch", "keras_cv": "tensorflow"}
_EAGER = "torch"
"""The backend that has no XLA."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        system: one of `SYSTEMS`.
        backend: what it runs on.
        variant: one of `VARIANTS`.
        dtype: the dtype policy, such as `"float32"` or `"mixed_float16"`.
        again: whether this is the second of two equal cases, which show the noise of the method.
    """

    system: str
    backend: str
    variant: str
    dtype: str
    again: bool = False

    @property
    def xla(self) -> bool:
        return self.variant.startswith("xla")

    @property
    def mixed(self) -> bool:
        return self.variant.endswith("mixed")

    @property
    def program(self) -> str:
        """What the table calls the system."""
        name = f"{self.system} ({self.backend})" if self.system == "keras_sd" else self.system
        return f"{name}, again" if self.again else name

    @property
    def name(self) -> str:
        return f"{self.program}, {VARIANTS[self.variant]}"

    @property
    def slug(self) -> str:
        """The name for files."""
        again = ["again"] if self.again else []
        return "-".join([self.system, self.backend, self.variant, *again])


def cases_of(
    systems: Collection[str],
    backends: Iterable[str],
    variants: Collection[str],
    dtype: str,
    *,
    twice: bool = False,
) -> list[Case]:
    """The cases there are, in the order in which they are run.

    There is no XLA on torch, so the rows with XLA are those of jax and TensorFlow alone.

    Args:
        systems: of `SYSTEMS`.
        backends: that keras_sd runs on.
        variants: of `VARIANTS`.
        dtype: the policy of the mixed rows.
        twice: whether the first case is there twice, one after the other.
    """
    places = [("keras_sd", backend) for backend in backends if "keras_sd" in systems]
    places += [(name, on) for name, on in _RUNS_ON.items() if name in systems]
    found = []
    for (system, backend), variant in itertools.product(places, VARIANTS):
        case = Case(system, backend, variant, "float32")
        if variant not in variants or (case.xla and backend == _EAGER):
            continue
        found.append(replace(case, dtype=dtype) if case.mixed else case)
    if twice:
        found.insert(1, replace(found[0], again=True))
    return found


def notes_of(cases: Sequence[Case], variants: Collection[str]) -> list[str]:
    """What a reader of the table has to know about the rows that are there, and those that are not.

    Args:
        cases: of the table.
        variants: that were asked for.
    """
    notes = []
    if any(case.backend == _EAGER for case in cases) and any("xla" in name for name in variants):
        notes.append("torch has no XLA: it runs eagerly, and has no rows with XLA.")
    if any(case.backend == "jax" and not case.xla for case in cases):
        notes.append(
            "jax without XLA's compilation of the whole network still has XLA compile each "
            "operation by itself: nobody has to run it so, and the row is there for completeness."
        )
    if any(case.xla for case in cases) and any(case.system == "diffusers" for case in cases):
        notes.append(
            "diffusers runs eagerly, as its users have it: for a row with XLA, the ratio to it is "
            "one of compiled to uncompiled."
        )
    for case in cases:
        if case.mixed and case.system == "diffusers":
            kind = case.dtype.removeprefix("mixed_")
            notes.append(
                f"diffusers' row of mixed precision has its weights in {kind}, as its users have "
                "them; mixed precision in Keras keeps them in float32."
            )
    return notes


def baseline(case: Case, cases: Iterable[Case], system: str) -> Case | None:
    """The row of another system that a row is compared with: of the same precision, and with XLA
    or without it likewise, if there is such a one.

    Args:
        case: the row.
        cases: all of them.
        system: the other system.
    """
    if case.system == system:
        return None
    found = [c for c in cases if c.system == system and c.mixed == case.mixed and not c.again]
    return min(found, key=lambda c: c.xla != case.xla, default=None)
