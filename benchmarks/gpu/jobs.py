"""Jobs in processes of their own, one at a time, within a budget of seconds.

A job's process prints a line that begins with `@` for each thing it has to say, JSON behind it: the
first, `@"ready"`, when all is imported. Then it waits for a line, and measures. So the next job's
imports, which need no GPU, go on while a job is measured. Whatever a job has said counts, also when
it fails or is stopped later.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

MARK = "@"
READY = "ready"
_TAIL = 1500
"""Characters of what a failed job wrote to stderr."""


@dataclass(frozen=True)
class Job:
    """One process.

    Args:
        name: what it is called in the results.
        command: of its process.
        limit: seconds after which it is stopped, from when it may measure.
        needs: seconds that must be left, or it is not begun.
        environment: beside that of this process.
    """

    name: str
    command: Sequence[str]
    limit: float
    needs: float
    environment: dict[str, str] = field(default_factory=dict)


class _Process:
    """A job that has been started, and waits before it measures."""

    def __init__(self, job: Job):
        self.job = job
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            job.command,
            env=os.environ | job.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            errors="replace",
            start_new_session=True,  # it may have children, which shall end with it
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                self._lines.put(line[len(MARK) :])
        self._lines.put(None)

    def measure(self, until: float, say: Callable[[Any], None]) -> str | None:
        """Lets it measure; what it says goes to `say`.

        Args:
            until: when it is stopped, by `time.monotonic`; `job.limit` counts too.
            say: is called with each thing.

        Returns:
            What went wrong, or None.
        """
        stop = until
        try:
            while True:
                line = self._lines.get(timeout=max(0.0, stop - time.monotonic()))
                if line is None:
                    break
                thing = json.loads(line)
                if thing == READY:
                    stop = min(until, time.monotonic() + self.job.limit)
                    self._go()
                else:
                    say(thing)
            status = self._process.wait(timeout=10)
        except (queue.Empty, subprocess.TimeoutExpired):
            return f"was stopped: it ran out of time. {self._tail()}".strip()
        except ValueError as error:
            return f"said what is no JSON: {error}"
        return None if status == 0 else f"ended with status {status}. {self._tail()}".strip()

    def _go(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its status tells
            self._process.stdin.write("go\n")
            self._process.stdin.close()

    def _tail(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()[-_TAIL:]

    def end(self) -> None:
        """Ends it and its children, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=5)
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            with contextlib.suppress(BrokenPipeError):  # what it was never told
                pipe.close()  # type: ignore[union-attr]


def run_jobs(jobs: Iterable[Job], seconds: float, say: Callable[[str, Any], None]) -> None:
    """Runs jobs in their order.

    Args:
        jobs: the most important first.
        seconds: after which all of them have ended.
        say: is called with a job's name and each thing it said. What went wrong is such a thing:
            `{"failed": why}`, or `{"skipped": why}` of a job that was not begun.
    """
    deadline = time.monotonic() + seconds
    waiting = list(jobs)
    ahead: _Process | None = None
    try:
        while waiting:
            job = waiting.pop(0)
            left = deadline - time.monotonic()
            if left < job.needs:
                say(job.name, {"skipped": f"{left:.0f} s were left; it needs {job.needs:.0f}"})
                continue
            if ahead is None or ahead.job is not job:
                if ahead is not None:
                    ahead.end()
                ahead = _Process(job)
            now, ahead = ahead, None
            try:
                ahead = _Process(waiting[0]) if waiting else None
                start = time.monotonic()
                why = now.measure(deadline, lambda thing, name=job.name: say(name, thing))  # type: ignore[misc]
            finally:
                now.end()
            say(job.name, {"seconds": round(time.monotonic() - start, 1)})
            if why is not None:
                say(job.name, {"failed": why})
    finally:
        if ahead is not None:
            ahead.end()
