"""Adapters that a request is drawn with: `Adaptation`, a file and how far it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from keras_sd.checks import SettingError, real
from keras_sd.settings import Checked, setting
from keras_sd.start import Attachment, read_attachments

__all__ = ["Adaptation"]

_STRENGTH = partial(real, least=-100, most=100)


def _blocks(name: str, value: Any) -> tuple[tuple[str, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    try:
        found = {block: _STRENGTH(f"strength of {block}", number) for block, number in pairs}
    except (TypeError, ValueError) as error:
        if isinstance(error, SettingError):
            raise
        found = {None: 0.0}
    if not all(isinstance(block, str) for block in found):
        raise SettingError(name, f"are pairs of a block and a strength, not {value!r}")
    return tuple(sorted(found.items()))


@dataclass(frozen=True)
class Adaptation(Checked):
    """A LoRA or one of its relatives in a request.

    Attributes:
        file: an `Attachment` of a `keras_sd.adapters.Adapter`; its hash is that of the file.

    Raises:
        ValueError: a strength does not fit.
        TypeError: likewise.
    """

    file: Attachment
    strength: float = setting(1.0, "How much of its change is added to the weights.", _STRENGTH)
    text_encoder_strength: float | None = setting(
        None, "Likewise in the text encoders; by itself, as much.", _STRENGTH
    )
    blocks: tuple[tuple[str, float], ...] = setting(
        (), "Strengths of blocks, as ('unet/middle', 0.5), in place of their part's.", _blocks
    )

    @property
    def strengths(self) -> dict[str, float]:
        """By part of the model, and by block."""
        text_encoder = self.text_encoder_strength
        return {
            "unet": self.strength,
            "text_encoder": self.strength if text_encoder is None else text_encoder,
            **dict(self.blocks),
        }

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name == "file":
            if not isinstance(value, Mapping):
                raise ValueError(f"file is the sha256 of an adapter and a name, not {value!r}")
            return read_attachments(name, [value])[0]
        return super()._read(name, value)
