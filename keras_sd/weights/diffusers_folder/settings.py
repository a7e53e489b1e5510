"""A JSON object whose settings are taken one by one, each checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from keras_sd.config import MAX_WIDTH
from keras_sd.weights.files import read_json
from keras_sd.weights.readers import WeightsError, shown


class FolderSettings:
    """A JSON object of a file, whose settings are taken one by one; each is checked."""

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self.path = path
        self.values = values
        self._taken: set[str] = set()

    @classmethod
    def read(cls, path: Path) -> FolderSettings:
        """Those of a file; raises what `read_json` does."""
        return cls(path, read_json(path))

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Says that the value of `key` is not what it may be."""
        raise WeightsError(f"{self.path}: {key} is {shown(self.values.get(key))}, not {wanted}")

    def take(self, key: str, default: Any = None) -> Any:
        """The value as it is."""
        self._taken.add(key)
        return self.values.get(key, default)

    def size(self, key: str, default: int, most: int = MAX_WIDTH) -> int:
        """A whole number from 1 to `most`."""
        value = self.take(key, default)
        if not _is_size(value, most):
            self.refuse(key, f"a whole number from 1 to {most}")
        return int(value)

    def sizes(self, key: str, default: Any, count: int, most: int = MAX_WIDTH) -> tuple[int, ...]:
        """A number for each of `count` levels; the file may give one for all."""
        value = self.take(key, default)
        values = [value] * count if _is_size(value, most) else value
        if not isinstance(values, (list, tuple)) or len(values) != count:
            self.refuse(key, f"a whole number from 1 to {most}, or one for each of {count} levels")
        if not all(_is_size(item, most) for item in values):
            self.refuse(key, f"{count} whole numbers from 1 to {most}")
        return tuple(values)

    def rows_of_sizes(
        self, key: str, default: Any, count: int, each: int, most: int = MAX_WIDTH
    ) -> list[list[int]]:
        """A number for each of `each` blocks of `count` levels; the file may give one for all
        blocks of a level, or one for all levels.
        """
        value = self.take(key, default)
        levels = [value] * count if _is_size(value, most) else value
        if isinstance(levels, (list, tuple)) and len(levels) == count:
            rows = [[row] * each if _is_size(row, most) else row for row in levels]
            if all(
                isinstance(row, (list, tuple))
                and len(row) == each
                and all(_is_size(item, most) for item in row)
                for row in rows
            ):
                return [list(row) for row in rows]
        self.refuse(
            key,
            f"a whole number from 1 to {most}, or for each of {count} levels one, or one for each "
            f"of {each} blocks",
        )

    def same_size(self, key: str, default: int, count: int, most: int = MAX_WIDTH) -> int:
        """A number that the file may give for each of `count` levels, if it is the same in all."""
        values = self.sizes(key, default, count, most)
        if len(set(values)) != 1:
            self.refuse(key, "the same at every level")
        return values[0]

    def number(self, key: str, default: float, below: float = 1e9) -> float:
        """A number between 0 and `below`, which it is neither."""
        value = self.take(key, default)
        if type(value) not in (int, float) or not 0 < value < below:
            self.refuse(key, f"a number above 0 and below {below:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.take(key, default)
        if type(value) is not bool:
            self.refuse(key, "true or false")
        return bool(value)

    def choice(self, key: str, default: str, ours: Mapping[str, Any]) -> Any:
        """One of a few strings, as what we call it."""
        value = self.take(key, default)
        if not isinstance(value, str) or value not in ours:
            self.refuse(key, " or ".join(map(repr, ours)))
        return ours[value]

    def fixed(self, table: Mapping[str, Sequence[Any]]) -> None:
        """FolderSettings with values that we know nothing else than."""
        for key, allowed in table.items():
            if self.take(key, allowed[0]) not in allowed:
                self.refuse(key, " or ".join(map(repr, allowed)))

    def untaken(self) -> list[str]:
        """The keys that nobody has asked for. One that begins with an underscore is no setting."""
        return [key for key in self.values if key not in self._taken and not key.startswith("_")]


def _is_size(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most
