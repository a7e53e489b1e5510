"""What an opened checkpoint is: its config, its parts, and what there is to say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_sd.config import ModelConfig
from keras_sd.weights.parts import Part, listed
from keras_sd.weights.readers import WeightsError


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights as they lie on the disk.

    Attributes:
        path: of the file or folder.
        layout: `"keras_sd"`, `"diffusers"`, `"original"` or `"keras_cv"`.
        family: what it is, for people: "Stable Diffusion 1.x".
        config: the model's numbers.
        parts: by the names of `config.parts`.
        merges: of the tokenizer: the path of their file, or the merges; None where there are none
            beside the weights.
        vocab_size: tokens that the merges make, where the text encoder may know more; None is as
            many as it knows.
        words: the words the model was trained on, or None where there is no list.
        license: of the weights, or None where nothing says.
        leftover: names in the files that belong to no part, are not known, and make it unfit.
        left_out: names that are not known and that nothing here needs, and second copies.
        ignored: names that are known and no part of the model, such as a table of betas.
        notes: what whoever uses it should know.
        unsupported: why it cannot be run, or None.
        prediction_from: how it is known what the UNet predicts.
        absent: what there is to say of a part that is not there, by its name.
    """

    path: Path
    layout: str
    family: str
    config: ModelConfig
    parts: dict[str, Part]
    merges: Path | tuple[str, ...] | None = None
    vocab_size: int | None = None
    words: tuple[str, ...] | None = None
    license: str | None = None
    leftover: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unsupported: str | None = None
    prediction_from: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the weights are in."""
        return tuple(dict.fromkeys(file for part in self.parts.values() for file in part.files))

    def problems(self) -> dict[str, list[str]]:
        """What does not fit, of all parts together; see `Part.problems`."""
        found: dict[str, list[str]] = {}
        if self.leftover:
            found["unexpected"] = list(self.leftover)
        if absent := [
            f"{part} ({self.absent.get(part, f'give one: {part}=FILE')})"
            for part in self.config.parts
            if part not in self.parts
        ]:
            found["missing"] = absent
        for part in self.parts.values():
            for kind, names in part.problems().items():
                found.setdefault(kind, []).extend(names)
        return found

    def check(self) -> None:
        """Refuses a checkpoint that does not fit its config, from its headers alone.

        Raises:
            WeightsError: a tensor has no variable, a variable no tensor, or a shape or dtype does
                not fit. The message lists the first ten of each kind.
        """
        if problems := self.problems():
            # One of these may be what is missing, under a name that nobody knows.
            refuse(str(self.path), {**problems, "left out": self.left_out})

    def arrays(self) -> dict[str, np.ndarray]:
        """Every variable by `part/path`, in our layout and the file's dtype: views of the file
        where the format allows it.
        """
        return {
            f"{name}/{path}": array
            for name, part in self.parts.items()
            for path, array in part.arrays()
        }


def refuse(source: str, problems: Mapping[str, Iterable[str]]) -> None:
    """Raises one error with everything that does not fit; nothing where all does.

    Args:
        source: the file or folder.
        problems: names by what is wrong with them.

    Raises:
        WeightsError: there are problems.
    """
    lines = []
    for kind, found in problems.items():
        if names := list(found):
            lines.append(f"  {len(names)} {kind}: {listed(names)}")
    if lines:
        raise WeightsError("\n".join([f"{source} does not fit, nothing was loaded:", *lines]))
