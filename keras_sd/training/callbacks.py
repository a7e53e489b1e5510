"""What happens beside a training: its state is saved, losses are written, pictures are drawn."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sd import image
from keras_sd.backend import to_numpy
from keras_sd.files import replace_file
from keras_sd.training.optimizer import averages_of
from keras_sd.training.state import DIVERGED, damaged, save_state

__all__ = [
    *("CSVLog", "Losses", "Numbered", "Report", "SampleSheets", "SaveState", "Span"),
    *("TensorBoardLog", "averaged", "check_tensorboard"),
]

_COLUMNS = "batch,step,loss,learning_rate,seconds"


@contextmanager
def averaged(trainer: keras.Model) -> Iterator[None]:
    """Within it, the trained weights are their averages, where the optimizer keeps any."""
    averages = averages_of(trainer.optimizer)
    if not averages or not int(to_numpy(trainer.optimizer.iterations)):
        yield
        return
    variables = trainer.trainable_variables
    values = [to_numpy(variable.value) for variable in variables]
    try:
        for variable, average in zip(variables, averages, strict=True):
            variable.assign(to_numpy(average.value))
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


@dataclass(frozen=True)
class Span:
    """The batches of a `fit` in the whole run, whatever was done before.

    Attributes:
        first: number of its first batch.
        last: the number behind the last batch of the run.
        accumulate: batches of an update.
        rate: gives the learning rate of an update, counted from 0.
    """

    first: int
    last: int
    accumulate: int
    rate: Callable[[int], Any]

    def rate_of(self, step: int) -> float:
        """The learning rate of an update, counted from 0."""
        return float(to_numpy(self.rate(step)))


class Numbered(keras.callbacks.Callback):
    """A callback that knows the number of a batch in the whole run.

    On JAX what asks for `self.model` waits for the batch, so that what happens at each batch does
    not.

    Args:
        span: of the `fit`.
    """

    def __init__(self, span: Span):
        super().__init__()
        self.span = span

    def on_train_batch_end(self, batch, logs=None):
        done = self.span.first + batch + 1
        self.after(done, logs or {})
        if done % self.span.accumulate == 0:
            self.updated(done // self.span.accumulate, done, logs or {})

    def close(self) -> None:
        """Called when `fit` ends, however it does."""

    def after(self, done: int, logs: dict[str, Any]) -> None:
        """Called when so many batches are done."""

    def updated(self, step: int, done: int, logs: dict[str, Any]) -> None:
        """Called when so many updates, and batches, are done."""


class Losses(Numbered):
    """Keeps the losses, and stops a training whose loss is no number.

    Args:
        scaled: whether the loss is scaled: then batches are left out whose gradients overflow, and
            one whose loss does is none to stop at.
        span: of the `fit`.

    Attributes:
        found: the losses.
    """

    def __init__(self, scaled: bool, span: Span):
        super().__init__(span)
        self.scaled = scaled
        self.found: list[float] = []

    def after(self, done, logs):
        loss = float(logs["loss"])
        self.found.append(loss)
        if not (self.scaled or math.isfinite(loss)):
            raise FloatingPointError(f"The loss of a batch is {loss}: {DIVERGED}")


class SaveState(Numbered):
    """Saves the state every few updates, and at the end.

    Args:
        path: of the file.
        every: updates.
        span: of the `fit`.
    """

    def __init__(self, path: Path, every: int, span: Span):
        super().__init__(span)
        self.path, self.every = path, every

    def updated(self, step, done, logs):
        if step % self.every == 0 or done == self.span.last:
            save_state(self.path, self.model, done)


class CSVLog(Numbered):
    """A line a batch. Lines behind the state that a run goes on from are made again.

    Args:
        path: of the file.
        span: of the `fit`.

    Raises:
        ValueError: the file is no such log.
    """

    def __init__(self, path: Path, span: Span):
        super().__init__(span)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and lines[0] != _COLUMNS:
            raise ValueError(damaged(path, f"its first line is {lines[0][:60]!r}"))
        try:  # a log that was switched on later does not begin with batch 0
            lines = [line for line in lines[1:] if int(line.partition(",")[0]) < span.first]
        except ValueError as error:
            raise ValueError(damaged(path, error)) from error
        kept = "".join(f"{line}\n" for line in (_COLUMNS, *lines))
        replace_file(path, lambda at: at.write_text(kept, encoding="utf-8"))
        self.file = path.open("a", encoding="utf-8")

    def on_train_begin(self, logs=None):
        self.began = time.perf_counter()

    def after(self, done, logs):
        step = (done - 1) // self.span.accumulate
        seconds = time.perf_counter() - self.began
        rate = self.span.rate_of(step)
        self.file.write(f"{done - 1},{step},{float(logs['loss'])!r},{rate!r},{seconds:.3f}\n")
        self.file.flush()

    def close(self):
        self.file.close()


class TensorBoardLog(Numbered):
    """Losses and rates for TensorBoard, by the number of the update.

    Args:
        folder: of the logs.
        span: of the `fit`.

    Raises:
        ImportError: `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, span: Span):
        super().__init__(span)
        check_tensorboard()
        self.writer = importlib.import_module("tensorboard.summary").Writer(str(folder))

    def updated(self, step, done, logs):
        self.writer.add_scalar("loss", float(logs["loss"]), step)
        self.writer.add_scalar("learning_rate", self.span.rate_of(step - 1), step)

    def close(self):
        self.writer.close()


def check_tensorboard() -> None:
    """Whether TensorBoard's logs can be written.

    Raises:
        ImportError: they cannot; the message says what to install.
    """
    if find_spec("tensorboard") is None:
        raise ImportError(
            "TensorBoard is not installed, for whose logs log.tensorboard asks: pip install "
            '"keras-sd[tensorboard]", or take log.csv'
        )


class SampleSheets(Numbered):
    """Draws pictures every few updates, and at the end, with the averaged weights where there are
    any.

    Args:
        folder: of the sheets, `00000500.png` after 500 updates.
        every: updates.
        draw: gives uint8 pictures `(count, height, width, 3)`.
        span: of the `fit`.
    """

    def __init__(self, folder: Path, every: int, draw: Callable[[], np.ndarray], span: Span):
        super().__init__(span)
        self.folder, self.every, self.draw = folder, every, draw

    def updated(self, step, done, logs):
        if step % self.every and done != self.span.last:
            return
        with averaged(self.model):
            pictures = np.asarray(self.draw())
        columns = min(4, len(pictures))
        path = self.folder / f"{step:08}.png"
        sheet = image.sheet(pictures, columns)
        path.parent.mkdir(exist_ok=True)
        image.save_png(path, sheet, {})


class Report(Numbered):
    """A line every so often, where there is no terminal for a bar.

    Args:
        report: called with it.
        seconds: between two lines.
        span: of the `fit`.
    """

    def __init__(self, report: Callable[[str], None], seconds: float, span: Span):
        super().__init__(span)
        self.report, self.seconds = report, seconds
        self.losses: list[float] = []

    def on_train_begin(self, logs=None):
        self.began = self.said = time.perf_counter()

    def after(self, done, logs):
        self.losses.append(float(logs["loss"]))
        now = time.perf_counter()
        if now - self.said < self.seconds and done != self.span.last:
            return
        left = (now - self.began) / (done - self.span.first) * (self.span.last - done)
        loss = sum(self.losses) / len(self.losses)
        steps = self.span.last // self.span.accumulate
        self.report(
            f"step {done // self.span.accumulate} of {steps}, loss {loss:.5f}, {_time(left)} left"
        )
        self.said, self.losses = now, []


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
