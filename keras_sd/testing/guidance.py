"""The kit for guidance: the clauses of `keras_sd.guidance`, one check after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from keras_sd.guidance import NEEDS, Guide, Seen
from keras_sd.noise import Level
from keras_sd.random import normal
from keras_sd.registry import get_guidance
from keras_sd.sampler import label
from keras_sd.testing.problems import Plain
from keras_sd.testing.running import ContractViolation, check_all, unshown

GuidanceCheck = Callable[[Guide | str], None]

CLAUSES = {
    1: "where the prompt makes no difference, nothing does",
    2: "a clean latent, shape and dtype kept",
    3: "a picture knows nothing of its batch",
    4: "what is remembered lies in the run's memory",
    5: "plain arithmetic, out of place",
    6: "settings show in the repr",
}

_LEVELS = (
    Level(999.0, 0.0, 1.0),
    Level(900.0, 0.2, 0.98),
    Level(500.0, 0.8, 0.6),
    Level(20.0, 1.0, 0.05),
    Level(500.0, 0.5, 0.5),
)
_SCALES = (0.0, 0.6, 1.0, 7.5)
_SHAPE = (3, 4, 5, 2)


def all_guidance_checks() -> tuple[GuidanceCheck, ...]:
    """Every check, each a function of a guidance (an instance or a name)."""
    return (
        check_guidance_settings,
        check_guidance_declarations,
        check_guidance_result,
        check_no_difference_no_guidance,
        check_pictures_apart,
        check_memory,
        check_guidance_inputs_unmodified,
        check_guidance_plain_arithmetic,
        check_guidance_backend_tensors,
    )


def check_guidance(guidance: Guide | str) -> None:
    """Run every check on a guidance.

    Args:
        guidance: An instance, or a name as `keras_sd.get_guidance` takes it.

    Raises:
        ContractViolation: At least one check failed; the message has all of them.
    """
    check_all(all_guidance_checks(), guidance)


def check_guidance_settings(guidance: Guide | str) -> None:
    """The repr shows every setting, so that a saved picture can say how it was made (clause 6)."""
    guide = get_guidance(guidance)
    if problem := unshown(guide):
        _fail(guide, 6, problem)


def check_guidance_declarations(guidance: Guide | str) -> None:
    """It needs what there is, and its usual scale is among those it is made for."""
    guide = get_guidance(guidance)
    needs = getattr(guide, "needs", ())
    if isinstance(needs, str) or not set(needs) <= set(NEEDS):
        raise ContractViolation(f"{label(guide)} declares needs = {needs!r}; there is {NEEDS!r}")
    low, high = getattr(guide, "scales", None) or (-np.inf, np.inf)
    usual = getattr(guide, "default_scale", None)
    if not low < high or not (usual is None or low <= usual <= high):
        raise ContractViolation(
            f"{label(guide)} declares scales = {(low, high)!r} and default_scale = {usual!r}: the "
            "first is lower than the second, and the last between them"
        )


def check_guidance_result(guidance: Guide | str) -> None:
    """The result is finite, of the shape and dtype of what was seen, at any level (clause 2)."""
    guide = get_guidance(guidance)
    for shape in ((1, 4, 4, 4), (3, 2, 5, 4), (2, 6)):
        for dtype in (np.float32, np.float64):
            for scale in _SCALES:
                memory: dict[str, Any] = {}
                for index, level in enumerate(_LEVELS):
                    found = _guided(guide, _seen(index, level, shape, dtype), scale, memory)
                    if getattr(found, "shape", None) != shape or found.dtype != dtype:
                        got = f"{getattr(found, 'shape', None)} {getattr(found, 'dtype', None)}"
                        _fail(guide, 2, f"of {shape} {np.dtype(dtype)} it made {got}")
                    if not np.isfinite(found).all():
                        _fail(guide, 2, f"with scale {scale:g} at {level} it is not finite")


def check_no_difference_no_guidance(guidance: Guide | str) -> None:
    """Of equal predictions it makes that one, whatever the scale (clause 1)."""
    guide = get_guidance(guidance)
    for scale in _SCALES:
        memory: dict[str, Any] = {}
        for index, level in enumerate(_LEVELS):
            clean = _seen(index, level).conditional
            seen = _seen(index, level, both=clean)
            found = _guided(guide, seen, scale, memory)
            if not np.allclose(found, clean, rtol=1e-6, atol=1e-6):
                off = float(np.abs(found - clean).max())
                _fail(guide, 1, f"with scale {scale:g} at {level} it is {off:.2g} off equal halves")


def check_pictures_apart(guidance: Guide | str) -> None:
    """Each row comes out as it does alone (clause 3)."""
    guide = get_guidance(guidance)
    for scale in _SCALES:
        whole = _run(guide, scale)
        for row in range(_SHAPE[0]):
            alone = _run(guide, scale, rows=slice(row, row + 1))
            for together, single in zip(whole, alone, strict=True):
                if not np.allclose(together[row], single[0], rtol=1e-9, atol=1e-9):
                    _fail(
                        guide,
                        3,
                        "a picture comes out otherwise beside others than alone: sum with seen.dot",
                    )


def check_memory(guidance: Guide | str) -> None:
    """Two runs that take turns are what each is alone, and a run leaves nothing behind (clause
    4).
    """
    guide = get_guidance(guidance)
    before = repr(getattr(guide, "__dict__", None))
    alone = [_run(guide, scale, seed) for seed, scale in ((0, 7.5), (9, 3.0))]
    memories: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for index, level in enumerate(_LEVELS):
        for run, (seed, scale) in enumerate(((0, 7.5), (9, 3.0))):
            found = _guided(guide, _seen(seed + index, level), scale, memories[run])
            if not np.array_equal(found, alone[run][index]):
                _fail(guide, 4, "two runs that take turns disturb each other: use memory")
    if repr(getattr(guide, "__dict__", None)) != before:
        _fail(guide, 4, "a run changed its attributes: use memory")


def check_guidance_inputs_unmodified(guidance: Guide | str) -> None:
    """What it has seen it does not write to, and what it gave neither (clause 5)."""
    guide = get_guidance(guidance)
    memory: dict[str, Any] = {}
    kept: list[tuple[Any, Any]] = []
    for index, level in enumerate(_LEVELS):
        seen = _seen(index, level)
        arrays = (seen.x, seen.conditional, seen.unconditional, seen.perturbed)
        kept += [(array, array.copy()) for array in arrays]
        found = _guided(guide, seen, 7.5, memory)
        if any(not np.array_equal(array, before) for array, before in kept):
            _fail(guide, 5, "it changed an array in place: write x = x + ..., not x += ...")
        kept.append((found, found.copy()))


def check_guidance_plain_arithmetic(guidance: Guide | str) -> None:
    """It runs on arrays that know ``+ - * / ** abs``, Python numbers and ``seen.dot`` (clause
    5).
    """
    guide = get_guidance(guidance)
    memory: dict[str, Any] = {}
    for index, level in enumerate(_LEVELS):
        _guided(guide, _seen(index, level, wrapped=Plain), 7.5, memory)


def check_guidance_backend_tensors(guidance: Guide | str) -> None:
    """Float32 tensors of Keras' backend come to what float64 NumPy arrays come to (clause 5).

    Raises:
        ImportError: Keras has no backend here.
    """
    guide = get_guidance(guidance)
    try:
        from keras import ops

        from keras_sd.backend import to_numpy
    except ImportError as error:
        raise ImportError(
            f"This check runs the guidance on the tensors of Keras' backend, but {error}: install "
            'one, as in pip install "keras-sd[jax]", and name it in KERAS_BACKEND.'
        ) from error

    def tensor(array: Any) -> Any:
        return ops.convert_to_tensor(array, "float32")

    def dot(a: Any, b: Any) -> Any:
        return ops.sum(a * b, axis=(1, 2, 3), keepdims=True)

    memory: dict[str, Any] = {}
    for index, (level, expected) in enumerate(zip(_LEVELS, _run(guide, 7.5), strict=True)):
        found = _guided(guide, _seen(index, level, wrapped=tensor, dot=dot), 7.5, memory)
        off = float(np.abs(to_numpy(found) - expected).max() / np.abs(expected).max())
        if not off < 1e-4:
            _fail(guide, 5, f"on {type(found).__module__} tensors it is {off:.2g} off NumPy's")


def _run(guide: Guide, scale: float, seed: int = 0, rows: slice = slice(None)) -> list[Any]:
    """What it makes of several evaluations of one run."""
    memory: dict[str, Any] = {}
    return [
        _guided(guide, _seen(seed + index, level, rows=rows), scale, memory)
        for index, level in enumerate(_LEVELS)
    ]


def _seen(
    seed: int,
    level: Level,
    shape: tuple[int, ...] = _SHAPE,
    dtype: Any = np.float64,
    *,
    both: Any = None,
    rows: slice = slice(None),
    wrapped: Callable[[Any], Any] = lambda array: array,
    dot: Callable[[Any, Any], Any] | None = None,
) -> Seen:
    clean, untold, perturbed, noise = (
        normal(seed, 0, draw, shape).astype(dtype)[rows] for draw in range(4)
    )
    if both is not None:
        clean = untold = perturbed = both
    else:  # predictions of one latent are near each other
        untold, perturbed = clean + 0.3 * untold, clean + 0.2 * perturbed
    x = level.alpha * clean + level.sigma * noise
    if not level.alpha:  # in pure noise both predict it
        x = noise
    x, clean, untold, perturbed = (
        wrapped(each.astype(dtype)) for each in (x, clean, untold, perturbed)
    )
    return Seen(clean, untold, x, level, dot or _dot, perturbed)


def _dot(a: Any, b: Any) -> Any:
    if isinstance(a, Plain):
        return Plain(_dot(a.value, b.value))
    return np.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def _guided(guide: Guide, seen: Seen, scale: float, memory: dict[str, Any]) -> Any:
    with _reported(guide), np.errstate(all="ignore"):
        return guide(seen, scale, memory)


@contextmanager
def _reported(guide: Guide) -> Iterator[None]:
    try:
        yield
    except ContractViolation:
        raise
    except Exception as error:
        raise ContractViolation(f"{label(guide)} raised {type(error).__name__}: {error}") from error


def _fail(guide: Guide, clause: int, what: str) -> NoReturn:
    raise ContractViolation(
        f"{label(guide)} breaks clause {clause} of the guidance contract ({CLAUSES[clause]}): "
        f"{what}."
    )
