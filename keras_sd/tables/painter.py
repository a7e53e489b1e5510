"""Draws chunks of a table's rows with one model: `Painter`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd.image import save_png
from keras_sd.infotext import infotext
from keras_sd.request import Request
from keras_sd.run import run
from keras_sd.tables.record import Record
from keras_sd.tables.rows import Row, joined

logger = logging.getLogger("keras_sd")

__all__ = ["Painter"]


class Painter:
    """Draws rows into a folder.

    Args:
        model: a `keras_sd.model.Model`.
        folder: of the pictures.
        made: what their files hold beside the request: model, weights, version.
    """

    def __init__(self, model: Any, folder: Path, made: Mapping[str, Any]):
        self._model, self._made = model, made
        self._record = Record(folder)

    def draw(self, chunk: Sequence[Row]) -> int:
        """Draws a chunk, writes its pictures, then its lines.

        Args:
            chunk: rows of `keras_sd.tables.rows.chunks_of`.

        Returns:
            How many of its rows have no picture: what they ask for does not fit the model, or made
            numbers that are not finite.

        Raises:
            OSError: a file cannot be written.
        """
        lines: dict[int, Mapping[str, Any]] = {}
        together: dict[int, list[Row]] = {}
        for row in chunk:
            try:
                assert row.request is not None
                run(self._model, row.request)
                length = self._length(row.request)
            except (ValueError, TypeError) as error:
                lines[row.number] = self._failed(row, error)
            else:
                together.setdefault(length, []).append(row)
        for rows in together.values():
            try:
                lines |= self._drawn(rows)
            except FloatingPointError:
                for row in rows:  # which of them it was, is seen where each is alone
                    try:
                        lines |= self._drawn([row])
                    except FloatingPointError as error:
                        lines[row.number] = self._failed(row, error)
        self._record.write(chunk, [lines[row.number] for row in chunk])
        return sum("error" in line for line in lines.values())

    def _length(self, request: Request) -> int:
        """Tokens of its encodings: in one run, texts are brought to those of the longest."""
        request = request.resolved(self._model.defaults)
        texts = self._model.texts.read(self._model.tagged(request), request.num_steps)
        return max(length for each in texts for length in each.lengths)

    def _failed(self, row: Row, error: Exception) -> dict[str, Any]:
        logger.warning("Row %d (%s) has no picture: %s", row.number, row.id, error)
        return {"error": str(error)}

    def _drawn(self, rows: Sequence[Row]) -> dict[int, Mapping[str, Any]]:
        *_, last = run(self._model, joined(list(rows)))
        images = last.image()
        lines: dict[int, Mapping[str, Any]] = {}
        for index, row in enumerate(rows):
            picture = images[index]
            request = picture.request.to_dict()
            made = {**self._made, "width": picture.shape[1], "height": picture.shape[0]}
            this = {"request": request, **made}
            file = f"{row.id}.png"
            save_png(self._record.folder / file, np.asarray(picture), this, infotext(this))
            lines[row.number] = {"file": file, "request": request}
        return lines
