"""The kinds of adapters, and what each makes of a weight.

Weights are here as files have them: (out, in), or (out, in, height, width) of a convolution. A file
has the factors of a change under one name and several suffixes; `ROLES` has what each suffix is.
All is computed in float32.

Sources: LoRA is Hu et al. 2021, DoRA Liu et al. 2024, LoHa Hyeon-Woo et al. 2021 ("FedPara"), LoKr
Yeh et al. 2023 ("LyCORIS"), which has the convolutions and the Tucker form too, GLoRA Chavan et al.
2023, IA3 Liu et al. 2022; OFT and BOFT are in `rotations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_sd.adapters import rotations
from keras_sd.adapters.rotations import Factors, Shape, Shapes

ROLES: dict[str, str] = {
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    "_lora.up.weight": "up",
    "_lora.down.weight": "down",
    ".alpha": "alpha",
    ".dora_scale": "dora",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    **{f".hada_{role}": role for role in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{
        f".lokr_{role}": f"lokr_{role}"
        for role in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    },
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".on_input": "on_input",
    ".oft_blocks": "oft_blocks",
    ".rescale": "rescale",
    **{f".{role}.weight": f"glora_{role}" for role in ("a1", "a2", "b1", "b2")},
}
"""What a tensor is of the change that it belongs to, by the end of its name."""

REFUSED: dict[str, str] = {
    ".oft_diag": "OFT in its first form",
    ".oft_R.weight": "PEFT's OFT",
    ".oft_R.default.weight": "PEFT's OFT",
    ".boft_R": "PEFT's BOFT",
    ".boft_s": "PEFT's BOFT",
    ".boft_R.default": "PEFT's BOFT",
    ".boft_s.default": "PEFT's BOFT",
    ".ia3_l": "PEFT's IA3",
    ".ia3_l.default": "PEFT's IA3",
    ".lora_embedding_A": "LoRA of embeddings",
    ".lora_embedding_B": "LoRA of embeddings",
    ".lora_B.bias": "LoRA with a bias",
    ".lora_up.bias": "LoRA with a bias",
    ".vera_lambda_b": "VeRA",
    ".vera_lambda_d": "VeRA",
}
"""Kinds that are known and not read, by the end of a name that only they have."""

TELLING = frozenset({*ROLES, *REFUSED}) - {".alpha", ".rescale"}
"""The ends of names by which a file is an adapter; other files have an alpha too."""

OF_IA3 = ".weight"
"""The end of a name that is of an IA3 where there is the same with `.on_input`. The role is
`ia3_in` or `ia3_out`, as that one says."""


@dataclass(frozen=True)
class Kind:
    """One way to write a change of a weight.

    Attributes:
        name: for people.
        needs: one of these sets of roles is there.
        may: roles that may be there too.
        shape: of the weight that it changes, from the shapes of the factors; a kernel may be flat,
            (out, in * height * width). None where the factors do not fit together.
        rank: from the shapes, or None where there is none.
        change: of a weight, without the factor alpha / rank; None where it is turned.
        scaled: whether alpha / rank counts.
        turned: the changed weight, from factors, weight, alpha and strength, where it is no sum of
            both. Its alpha, 0 where there is none, is a bound; see `rotations`.
        fits: whether it is one of a weight of this shape, where the factors do not tell it.
    """

    name: str
    needs: tuple[frozenset[str], ...]
    may: frozenset[str]
    shape: Callable[[Shapes], Shape | None]
    rank: Callable[[Shapes], int | None]
    change: Callable[[Factors, np.ndarray], np.ndarray] | None
    scaled: Callable[[Collection[str]], bool] = lambda roles: True
    turned: Callable[[Factors, np.ndarray, float, float], np.ndarray] | None = None
    fits: Callable[[Shapes, Shape], bool] | None = None


def kind_of(roles: Collection[str]) -> Kind | None:
    """The kind that is written with these roles, no more and no less; None where there is none."""
    there = frozenset(roles)
    for kind in KINDS:
        for needs in kind.needs:
            if needs <= there <= needs | kind.may:
                return kind
    return None


def applied(
    kind: Kind, factors: Factors, weight: np.ndarray, scale: float, strength: float
) -> np.ndarray:
    """The changed weight, `W + strength * scale * change`, in float32.

    With a magnitude (DoRA) it is `W + strength * (V * magnitude / norm(V) - W)`, where V is
    `W + scale * change` and the norm goes along the axes on which the magnitude has one number.

    Args:
        kind: of the change.
        factors: its arrays by role, in float32.
        weight: as files have it.
        scale: alpha / rank; alpha where a weight is turned.
        strength: how much of the change.
    """
    if kind.turned is not None:
        return kind.turned(factors, weight, scale, strength)
    assert kind.change is not None, kind.name
    change = kind.change(factors, weight)
    magnitude = _magnitude(factors, weight.shape)
    if magnitude is None:
        return weight + np.float32(strength * scale) * change
    merged = weight + np.float32(scale) * change
    axes = tuple(axis for axis, size in enumerate(magnitude.shape) if size == 1)
    norm = np.sqrt(np.sum(merged * merged, axis=axes, keepdims=True))
    tiny = np.finfo(np.float32).tiny
    return weight + np.float32(strength) * (merged * (magnitude / (norm + tiny)) - weight)


def fits(kind: Kind, shapes: Shapes, wanted: Shape) -> bool:
    """Whether a change is one of a weight of this shape; `wanted` is as files have it."""
    found = kind.shape(shapes)
    if found is None:
        return False
    if kind.fits is not None:
        return kind.fits(shapes, wanted)
    if any(role in shapes for role in ("dora", "magnitude")) and not _fits_magnitude(
        shapes, wanted
    ):
        return False
    if _core(found) == _core(wanted):
        return True
    # A kernel that is written flat.
    flat = len(found) == 2 and len(wanted) == 4 and found == (wanted[0], math.prod(wanted[1:]))
    first = _lokr_factor(shapes, "w1") if flat and kind.name == "LoKr" else None
    return flat and (first is None or wanted[1] % first[1] == 0)


def _core(shape: Shape) -> Shape:
    """A convolution of one pixel is a linear map, and may be written as one."""
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


# LoRA


def _lora_shape(shapes: Shapes) -> Shape | None:
    up, down = shapes["up"], shapes["down"]
    if len(up) not in (2, 4) or len(down) not in (2, 4) or any(size != 1 for size in up[2:]):
        return None
    if up[1] != down[0]:
        return None
    if "mid" not in shapes:
        return (up[0], *down[1:])
    mid = shapes["mid"]
    if len(mid) != 4 or mid[:2] != (up[1], down[0]) or any(size != 1 for size in down[2:]):
        return None
    return (up[0], down[1], *mid[2:])


def _lora(factors: Factors, weight: np.ndarray) -> np.ndarray:
    up, down = factors["up"], factors["down"]
    up = up.reshape(up.shape[:2])
    if "mid" in factors:
        return _tucker(factors["mid"], up.T, down.reshape(down.shape[:2])).reshape(weight.shape)
    return (up @ down.reshape(len(down), -1)).reshape(weight.shape)


def _tucker(core: np.ndarray, out: np.ndarray, into: np.ndarray) -> np.ndarray:
    """`sum_ab core[a, b, h, w] out[a, o] into[b, i]`: the kernel (o, i, h, w)."""
    rank, _, height, width = core.shape
    inner = np.tensordot(core, into, axes=(1, 0))  # a, h, w, i
    found = out.T @ inner.reshape(rank, -1)
    return found.reshape(-1, height, width, into.shape[1]).transpose(0, 3, 1, 2)


# LoHa: the product, number by number, of two of them


def _loha_shape(shapes: Shapes) -> Shape | None:
    halves = [_loha_half(shapes, number) for number in ("1", "2")]
    return halves[0] if halves[0] == halves[1] else None


def _loha_half(shapes: Shapes, number: str) -> Shape | None:
    a, b = shapes[f"w{number}_a"], shapes[f"w{number}_b"]
    if len(a) != 2 or len(b) != 2:
        return None
    if (core := shapes.get(f"t{number}")) is not None:
        if len(core) != 4 or core[:2] != (a[0], b[0]):
            return None
        return (a[1], b[1], *core[2:])
    return (a[0], b[1]) if a[1] == b[0] else None


def _loha(factors: Factors, weight: np.ndarray) -> np.ndarray:
    halves = []
    for number in ("1", "2"):
        a, b = factors[f"w{number}_a"], factors[f"w{number}_b"]
        core = factors.get(f"t{number}")
        halves.append((a @ b if core is None else _tucker(core, a, b)).reshape(weight.shape))
    return halves[0] * halves[1]


# LoKr: the Kronecker product of two


def _lokr_factor(shapes: Shapes, which: str) -> Shape | None:
    if (whole := shapes.get(f"lokr_{which}")) is not None:
        return whole
    a, b = shapes[f"lokr_{which}_a"], shapes[f"lokr_{which}_b"]
    if len(a) != 2 or len(b) != 2:
        return None
    if which == "w2" and (core := shapes.get("lokr_t2")) is not None:
        if len(core) != 4 or core[:2] != (a[0], b[0]):
            return None
        return (a[1], b[1], *core[2:])
    return (a[0], b[1]) if a[1] == b[0] else None


def _lokr_shape(shapes: Shapes) -> Shape | None:
    first, second = _lokr_factor(shapes, "w1"), _lokr_factor(shapes, "w2")
    if first is None or second is None or len(second) not in (2, 4):
        return None
    if len(first) not in (2, 4) or any(size != 1 for size in first[2:]):
        return None
    return (first[0] * second[0], first[1] * second[1], *second[2:])


def _lokr_rank(shapes: Shapes) -> int | None:
    inner = shapes.get("lokr_w1_b") or shapes.get("lokr_w2_b")
    return inner[0] if inner else None


def _lokr(factors: Factors, weight: np.ndarray) -> np.ndarray:
    first: Any = factors.get("lokr_w1")
    if first is None:
        first = factors["lokr_w1_a"] @ factors["lokr_w1_b"]
    first = first.reshape(first.shape[:2])
    second: Any = factors.get("lokr_w2")
    if second is None:
        a, b = factors["lokr_w2_a"], factors["lokr_w2_b"]
        core = factors.get("lokr_t2")
        second = a @ b if core is None else _tucker(core, a, b)
    # The kernel is a part of the second factor alone, whose rows may be written flat.
    second = second.reshape(len(second), weight.shape[1] // first.shape[1], -1)
    return np.kron(first[:, :, None], second).reshape(weight.shape)


# GLoRA: a low rank beside the weight, and one behind it


def _glora_shape(shapes: Shapes) -> Shape | None:
    a1, a2, b1, b2 = (shapes[f"glora_{role}"] for role in ("a1", "a2", "b1", "b2"))
    if any(len(each) not in (2, 4) for each in (a1, a2, b1, b2)):
        return None
    if any(size != 1 for each in (a1, a2, b1) for size in each[2:]):
        return None
    ranks, inputs = {a1[1], a2[0], b1[1], b2[0]}, {a1[0], a2[1], b2[1]}
    return (b1[0], *b2[1:]) if len(ranks) == len(inputs) == 1 else None


def _glora(factors: Factors, weight: np.ndarray) -> np.ndarray:
    a1, a2, b1 = (factors[f"glora_{role}"] for role in ("a1", "a2", "b1"))
    behind = a1.reshape(a1.shape[:2]) @ a2.reshape(a2.shape[:2])
    beside = b1.reshape(b1.shape[:2]) @ factors["glora_b2"].reshape(b1.shape[1], -1)
    moved = np.moveaxis(np.tensordot(weight, behind, axes=(1, 0)), -1, 1)
    return beside.reshape(weight.shape) + moved


# IA3: rows or columns of a weight, each longer or shorter


def _ia3(axis: int) -> Callable[[Factors, np.ndarray], np.ndarray]:
    def change(factors: Factors, weight: np.ndarray) -> np.ndarray:
        (lengths,) = factors.values()
        beside = [-1 if each == axis else 1 for each in range(weight.ndim)]
        return weight * lengths.reshape(beside)

    return change


# Differences


def _same(role: str) -> Callable[[Factors, np.ndarray], np.ndarray]:
    return lambda factors, weight: factors[role].reshape(weight.shape)


def _magnitude(factors: Factors, shape: Shape) -> np.ndarray | None:
    """The lengths that DoRA keeps, as they stand beside the weight; None where there are none."""
    if "magnitude" in factors:  # of PEFT: one a row
        return factors["magnitude"].reshape(-1, *(1 for _ in shape[1:]))
    if "dora" not in factors:
        return None
    lengths = factors["dora"]
    return lengths.reshape(*lengths.shape[:2], *(1 for _ in shape[2:]))


def _fits_magnitude(shapes: Shapes, wanted: Shape) -> bool:
    if len(wanted) < 2:
        return False
    if "magnitude" in shapes:
        return "dora" not in shapes and math.prod(shapes["magnitude"]) == wanted[0]
    found = shapes["dora"]
    by_axis = ((wanted[0], 1), (1, wanted[1]))
    return found[:2] in by_axis and math.prod(found[2:]) == 1


_LORA = frozenset({"up", "down"})
_LOHA = frozenset({"w1_a", "w1_b", "w2_a", "w2_b"})
_SCALED = frozenset({"alpha", "dora"})

KINDS: tuple[Kind, ...] = (
    Kind(
        "LoRA",
        (_LORA,),
        _SCALED | {"mid", "magnitude"},
        _lora_shape,
        lambda shapes: shapes["down"][0],
        _lora,
    ),
    Kind(
        "LoHa",
        (_LOHA, _LOHA | {"t1", "t2"}),
        _SCALED,
        _loha_shape,
        lambda shapes: shapes["w1_b"][0],
        _loha,
    ),
    Kind(
        "LoKr",
        tuple(
            frozenset((*(f"lokr_{role}" for role in (*first, *second)),))
            for first in (("w1",), ("w1_a", "w1_b"))
            for second in (("w2",), ("w2_a", "w2_b"), ("w2_a", "w2_b", "t2"))
        ),
        _SCALED,
        _lokr_shape,
        _lokr_rank,
        _lokr,
        # Of two whole factors there is no rank, and no alpha that counts.
        lambda roles: "lokr_w1_b" in roles or "lokr_w2_b" in roles,
    ),
    Kind(
        "GLoRA",
        (frozenset({"glora_a1", "glora_a2", "glora_b1", "glora_b2"}),),
        frozenset({"alpha"}),
        _glora_shape,
        lambda shapes: shapes["glora_b1"][1],
        _glora,
    ),
    *(
        Kind(
            "IA3",
            (frozenset({role}),),
            frozenset({"alpha"}),
            lambda shapes, role=role: (math.prod(shapes[role]),),  # type: ignore[misc]
            lambda shapes: None,
            _ia3(axis),
            lambda roles: False,
            fits=lambda shapes, wanted, role=role, axis=axis: (  # type: ignore[misc]
                len(wanted) > 1 and math.prod(shapes[role]) == wanted[axis]
            ),
        )
        for axis, role in enumerate(("ia3_out", "ia3_in"))
    ),
    Kind(
        "OFT",
        (frozenset({"oft_blocks"}),),
        frozenset({"alpha", "rescale"}),
        rotations.outputs_of,
        lambda shapes: None,
        None,
        lambda roles: False,
        turned=rotations.turned,
        fits=rotations.fits,
    ),
    *(
        Kind(
            name,
            (frozenset({role}),),
            frozenset({"alpha"}),
            lambda shapes, role=role: shapes[role],  # type: ignore[misc]
            lambda shapes: None,
            _same(role),
            lambda roles: False,
        )
        for name, role in (
            ("full difference", "diff"),
            ("full difference", "diff_b"),
            ("norm", "w_norm"),
            ("norm", "b_norm"),
        )
    ),
)
"""All that are read."""

OF_BIAS = frozenset({"diff_b", "b_norm"})
"""The roles that change the bias of a place; all others change its weight."""


def described(kind: Kind, shapes: Shapes) -> str:
    """The kind's name with what is special about this one: "LoCon (Tucker)", "LoRA (DoRA)"."""
    name = kind.name
    if kind.name == "LoRA" and ("mid" in shapes or len(_core(shapes["down"])) == 4):
        name = "LoCon"
    if kind.name == "OFT" and len(shapes["oft_blocks"]) == 4:
        name = "BOFT"
    if any(role in shapes for role in ("mid", "t1", "lokr_t2")):
        name += " (Tucker)"
    if "dora" in shapes or "magnitude" in shapes:
        name += " (DoRA)"
    return name


def as_float32(value: Any) -> np.ndarray:
    """Numbers of a file in float32."""
    with np.errstate(over="ignore"):
        return np.asarray(value).astype(np.float32)
