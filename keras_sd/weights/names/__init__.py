"""What others call our variables: pure tables, made from a config alone.

A table is a list of `Weight`. It has every variable once and every number of the file once, so one
table serves reading and writing. `diffusers` walks the architecture and knows every shape; the
tables of the other layouts are its entries under other names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

Layout = Literal["same", "linear", "conv", "pointwise", "keras_pointwise"]

# The axes of the other layout in the order in which we have them: torch keeps (out, in) and
# (out, in, height, width), Keras (in, out) and (height, width, in, out).
_AXES: dict[str, tuple[int, ...]] = {"linear": (1, 0), "conv": (2, 3, 1, 0)}


@dataclass(frozen=True)
class Weight:
    """One tensor of a file, or a part of one, and one variable of ours.

    Attributes:
        name: in the file.
        path: of our variable in its network: the variable's `path` without the network's name.
        shape: of our variable.
        layout: of the numbers in the file: `"same"`; `"linear"`, (out, in) there and (in, out)
            here; `"conv"`, (out, in, height, width) there and (height, width, in, out) here;
            `"pointwise"`, a convolution (out, in, 1, 1) there and (in, out) here;
            `"keras_pointwise"`, a convolution (1, 1, in, out) there and (in, out) here.
        part: (i, n) where the file keeps n variables in one tensor, one after the other along its
            first axis, and this is the i-th; None where the tensor is this variable.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    layout: Layout = "same"
    part: tuple[int, int] | None = None

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape of the file's tensor, all of its parts together."""
        match self.layout:
            case "same":
                shape = self.shape
            case "pointwise":
                shape = (*reversed(self.shape), 1, 1)
            case "keras_pointwise":
                shape = (1, 1, *self.shape)
            case _:
                axes = _AXES[self.layout]
                shape = tuple(self.shape[axes.index(axis)] for axis in range(len(axes)))
        if self.part is not None:
            shape = (shape[0] * self.part[1], *shape[1:])
        return shape

    def rows(self, array: Any) -> Any:
        """What is ours of the tensor of the file: all of it, or its part; a view."""
        if self.part is None:
            return array
        index, parts = self.part
        rows = array.shape[0] // parts
        return array[index * rows : (index + 1) * rows]

    def ours(self, array: Any) -> Any:
        """The tensor of the file as our variable, a view of it."""
        array = self.rows(array)
        match self.layout:
            case "same":
                return array
            case "pointwise":
                return array[:, :, 0, 0].transpose()
            case "keras_pointwise":
                return array[0, 0]
            case _:
                return array.transpose(_AXES[self.layout])

    def theirs(self, array: Any) -> Any:
        """Our variable as the tensor of the file, or as its part of it; a view."""
        match self.layout:
            case "same":
                return array
            case "pointwise":
                return array.transpose()[:, :, None, None]
            case "keras_pointwise":
                return array[None, None]
            case _:
                axes = _AXES[self.layout]
                return array.transpose([axes.index(axis) for axis in range(len(axes))])


Table = list[Weight]


def under(name: str, path: str, table: Iterable[Weight]) -> Table:
    """The table with `name` before its names and `path` before its paths."""
    return [replace(entry, name=name + entry.name, path=path + entry.path) for entry in table]
