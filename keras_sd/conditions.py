"""What the UNet is told beside latent and time: `Conditions`, named arrays, one row an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keras import ops

__all__ = [
    *("BESIDE", "CONTEXT", "DEEP", "FEATURES", "FREEU", "GUIDANCE", "HINT", "KEYS", "NUMBERS"),
    *("PAINTED", "POOLED", "STRENGTH", "TOKENS", "VALUES"),
    "Conditions",
]

CONTEXT = "context"
"""Text encodings, `(images, tokens, features)`, which the UNet attends to."""

KEYS, VALUES = "keys {}", "values {}"
"""What the UNet's attentions make of the context, by their number, `(images, tokens, features)`, in
the networks' dtype: they are the same in each step."""

POOLED = "pooled"
"""Each text as one vector, `(images, features)`."""

NUMBERS = "numbers"
"""Of each picture, such as its size, `(images, count)`; see `keras_sd.sizing`."""

GUIDANCE = "guidance"
"""Scales that the UNet is told of, as features, `(images, features)`."""

FREEU = "freeu"
"""How far FreeU goes, `(images, 4)`, see `keras_sd.networks.UNet`."""

BESIDE = (POOLED, NUMBERS, GUIDANCE)
"""What a UNet takes by these names beside its context."""

PAINTED = "painted"
"""Of an inpainting UNet: the mask's cells and the masked picture's latent, `(images, height, width,
1 + channels)`, which it sees beside the latent."""

FEATURES = "features {}"
"""Of T2I-Adapters, by their number from the finest: what they add on the UNet's way down, `(images,
height, width, features)`."""

DEEP = "deep {}"
"""Of an earlier evaluation of the run, by their number: the UNet's deep features, see
`keras_sd.networks.UNet`; in place of what they are made of, the controls' residuals included."""

HINT = "hint {}"
"""Of a ControlNet, by its number among the run's networks: the picture that it is shown, as
features of the latent's size, `(images, height, width, features)`."""

TOKENS = "image tokens {}"
"""Of an IP-Adapter, likewise: its pictures as tokens, `(images, tokens, features)`."""

STRENGTH = "strength {}"
"""Of either, likewise: of a ControlNet what each tensor that it adds is multiplied by, `(images,
tensors)`; of an IP-Adapter what is found in its tokens, `(images, 1)`."""


class Conditions(Mapping[str, Any]):
    """Named arrays, one row an image.

    Args:
        arrays: tensors by name, all with the same number of rows.

    Raises:
        ValueError: the numbers of rows differ.
    """

    def __init__(self, arrays: Mapping[str, Any]):
        self._arrays = dict(arrays)
        rows = {name: array.shape[0] for name, array in self._arrays.items()}
        if len(set(rows.values())) > 1:
            listed = ", ".join(f"{count} of {name}" for name, count in rows.items())
            raise ValueError(f"Conditions have one row an image, these are {listed}")

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        listed = ", ".join(f"{name} {tuple(array.shape)}" for name, array in self.items())
        return f"Conditions({listed})"

    def __or__(self, others: Mapping[str, Any]) -> Conditions:
        """The arrays of both; under a name that both have, the array of the others."""
        return Conditions({**self, **others})

    def above(self, others: Conditions) -> Conditions:
        """One batch of both: first these rows, then the others, of which there may be more.

        Raises:
            ValueError: they have other names, or arrays of other shapes.
        """
        if self.keys() != others.keys() or any(
            self[name].shape[1:] != others[name].shape[1:] for name in self
        ):
            raise ValueError(f"One batch needs the same of both halves, not {self} and {others}")
        return Conditions({name: ops.concatenate([self[name], others[name]]) for name in self})

    def repeated(self, count: int) -> Conditions:
        """The rows so many times, all of them behind each other."""
        if count == 1:
            return self
        return Conditions({name: ops.concatenate([self[name]] * count) for name in self})

    def tree(self) -> dict[str, Any]:
        """The arrays in a dict, which every backend takes as an argument of a compiled step."""
        return dict(self._arrays)
