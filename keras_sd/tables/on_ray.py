"""The chunks of a table over the processes and machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_sd.cluster import connect
from keras_sd.tables.rows import Row

__all__ = ["draw_on_ray"]


class _Actor:
    """A process with a model of its own."""

    def __init__(
        self, chunks: Any, source: Any, options: Mapping[str, Any], folder: Path, made: Any
    ):
        import ray

        from keras_sd.model import Model
        from keras_sd.tables.painter import Painter

        self._chunks = ray.get(chunks)
        self._painter = Painter(Model.from_preset(source, **options), folder, made)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        chunks = [self._chunks[int(number)] for number in batch["item"]]
        failed = [self._painter.draw(chunk) for chunk in chunks]
        return {"rows": [len(chunk) for chunk in chunks], "failed": failed}


def draw_on_ray(
    chunks: Sequence[Sequence[Row]],
    source: Any,
    options: Mapping[str, Any],
    folder: Path,
    made: Mapping[str, Any],
    *,
    actors: int,
    address: str | None = None,
) -> Iterator[tuple[int, int]]:
    """Draws chunks in actors of Ray Data, each with a model of its own. One that dies is started
    again, and its chunk is drawn again.

    Args:
        chunks: of the rows that are left.
        source: what `from_preset` takes; every machine has to find it under that name.
        options: likewise.
        folder: of the pictures, on a disk that all machines share.
        made: see `keras_sd.tables.painter.Painter`.
        actors: models. Where the cluster has GPUs, each takes one.
        address: of a cluster; None starts one on this machine, which ends with the drawing.

    Yields:
        Of each chunk, in any order, the number of its rows and of those without a picture.

    Raises:
        ModuleNotFoundError: ray is not installed.
        ray.exceptions.RayError: the cluster failed.
    """
    gpus = connect(address)
    import ray

    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        drawn = ray.data.from_items(
            list(range(len(chunks))), override_num_blocks=len(chunks)
        ).map_batches(
            _Actor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_gpus=gpus,
            fn_constructor_args=(ray.put(list(chunks)), source, dict(options), folder, dict(made)),
        )
        for row in drawn.iter_rows():
            yield int(row["rows"]), int(row["failed"])
    finally:
        ray.shutdown()
