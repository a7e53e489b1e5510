"""Where pictures come from, as routes see it.

An engine in this process is a source (`keras_sd.serve.engine.Engine`); a handle to engines on other
machines may be one too. It makes a `keras_sd.serve.jobs.Job` of each request, whose owner it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from keras_sd.serve.jobs import Job

if TYPE_CHECKING:
    from keras_sd.request import Request

__all__ = ["Source"]


class Source(Protocol):
    """What takes requests and makes pictures of them."""

    def submit(
        self, request: Request, *, watched: bool = False, timeout: float | None = None
    ) -> Job:
        """A job for a request.

        Raises:
            ValueError: the request does not fit the model.
            TypeError: likewise.
            QueueFull: too many are waiting.
            Stopping: it is being closed.
        """
        ...

    def stats(self) -> Any:
        """Numbers for `/metrics`, as the attributes of `keras_sd.serve.engine.Stats`."""
        ...

    def warm_up(self) -> None:
        """Draws once, so that all is compiled; blocks."""
        ...

    def close(self, grace: float = 30.0) -> None:
        """Takes no more jobs, ends those that wait, and returns when none runs any more.

        Args:
            grace: seconds after which those that still run are ended.
        """
        ...
