"""What an engine is asked for, and what becomes of it: `Job` and `Event`."""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

    from keras_sd.gallery import Images
    from keras_sd.request import Request

logger = logging.getLogger("keras_sd")

__all__ = ["Cancelled", "Event", "Expired", "Job", "QueueFull", "State", "Stopping"]

State = Literal["waiting", "running", "done", "failed", "cancelled", "expired"]


class QueueFull(RuntimeError):
    """No job more can wait now.

    Attributes:
        retry_after: seconds until one probably can.
    """

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(
            f"{waiting} jobs are waiting, which is all that may: ask again in {retry_after:.0f} s"
        )
        self.waiting, self.retry_after = waiting, retry_after

    def __reduce__(self) -> Any:
        return type(self), (self.waiting, self.retry_after)


class Stopping(RuntimeError):
    """The engine is being closed, and takes no work any more."""


class Cancelled(RuntimeError):
    """Somebody called the job off."""


class Expired(RuntimeError):
    """The job waited, or ran, longer than it may."""


@dataclass(frozen=True, eq=False)
class Event:
    """What has become of a job.

    Attributes:
        kind: the job's state; or `"step"`, of one that runs.
        job: which.
        step: steps done, of all its pictures.
        total: steps there are, as far as is known.
        preview: uint8 array `(pictures, height, width, 3)`, a pixel for each cell of the latent, of
            those of its pictures that run; None without one.
        images: the pictures, when it is done.
        error: why it has none, when it ended otherwise.
    """

    kind: Literal["waiting", "step", "done", "failed", "cancelled", "expired"]
    job: Job
    step: int = 0
    total: int = 0
    preview: np.ndarray | None = None
    images: Images | None = None
    error: BaseException | None = None


class Owner(Protocol):
    """What a job asks its engine for."""

    def position(self, job: Job) -> int:
        """How many jobs are before it in the queue."""

    def cancel(self, job: Job) -> None:
        """Calls it off."""


class Job:
    """A request in an engine. `keras_sd.serve.engine.Engine.submit` makes it.

    Attributes:
        id: 32 hexadecimal digits.
        request: resolved, so that its seeds are known.
        watched: whether previews are made.
        created: when, by `time.monotonic`.
        deadline: likewise, when it has to be done.
    """

    def __init__(self, request: Request, owner: Owner, *, watched: bool, timeout: float | None):
        self.id = uuid.uuid4().hex
        self.request, self.watched = request, watched
        self.created = time.monotonic()
        self.deadline = self.created + (math.inf if timeout is None else timeout)
        self._owner = owner
        self._steps = [(0, request.num_steps or 1)] * len(request)
        self._state: State = "waiting"
        self._event = Event("waiting", self, 0, self.total)
        self._listeners: list[Callable[[Event], None]] = []
        self._lock = threading.RLock()  # events come in their order
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.state}, {self.step} of {self.total} steps>"

    @property
    def state(self) -> State:
        """What has become of it."""
        return self._state

    @property
    def ended(self) -> bool:
        """Whether nothing becomes of it any more."""
        return self._ended.is_set()

    @property
    def step(self) -> int:
        """Steps done, of all its pictures."""
        return sum(step for step, _ in self._steps)

    @property
    def total(self) -> int:
        """Steps there are; of a picture that has not begun, what the request says."""
        return sum(total for _, total in self._steps)

    @property
    def position(self) -> int:
        """How many jobs are before it in the queue; 0 as soon as it runs."""
        return self._owner.position(self)

    def cancel(self) -> None:
        """Calls it off: before its next step, it ends as cancelled. What has ended stays so."""
        self._owner.cancel(self)

    def result(self, timeout: float | None = None) -> Images:
        """The pictures.

        Args:
            timeout: how many seconds to wait for them; None is until there are any.

        Raises:
            TimeoutError: they are not there yet.
            Cancelled: somebody called it off.
            Expired: it took too long.
            Stopping: the engine was closed.
            Exception: what the run raised.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"The job is not done after {timeout} s")
        if self._event.error is not None:
            raise self._event.error
        assert self._event.images is not None
        return self._event.images

    def listen(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Calls back at once with what has become of it, then at each change.

        Args:
            callback: is called from the engine's thread, which waits for it; so it hands the event
                on and returns. One that raises hears no more.

        Returns:
            A function after which nothing calls back any more.
        """
        with self._lock:
            if not self.ended:
                self._listeners.append(callback)
            self._tell(callback)

        def stop() -> None:
            with self._lock:
                if callback in self._listeners:
                    self._listeners.remove(callback)

        return stop

    def stepped(self, number: int, step: int, total: int) -> None:
        """Of its owner: one of its pictures has come so far."""
        self._steps[number] = step, total

    def came(self, step: int, total: int) -> None:
        """Likewise: all its pictures together have."""
        self._steps = [(step, total)]

    def emit(self, kind: Any, **more: Any) -> bool:
        """Of its owner: tells everybody what has become of it.

        Args:
            kind: see `Event`.
            **more: other attributes of the event.

        Returns:
            False where it had ended before; then nothing changes.
        """
        with self._lock:
            if self.ended:
                return False
            self._state = "running" if kind == "step" else kind
            self._event = Event(kind, self, self.step, self.total, **more)
            for callback in list(self._listeners):
                self._tell(callback)
            if kind not in ("waiting", "step"):
                self._listeners.clear()
                self._ended.set()
            return True

    def _tell(self, callback: Callable[[Event], None]) -> None:
        try:
            callback(self._event)
        except BaseException:  # the engine's thread goes on, whatever it is
            logger.exception("Who listens to %r raised, and hears no more of it", self)
            if callback in self._listeners:
                self._listeners.remove(callback)
