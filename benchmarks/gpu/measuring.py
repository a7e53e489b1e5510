"""What every job uses: a clock, and how the driver is told."""

from __future__ import annotations

import json
import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any

from gpu.jobs import MARK

WARMUPS = 3
REPEATS = 10
_LONG_MS = 60.0


def say(thing: Any) -> None:
    """Tells the driver."""
    print(MARK + json.dumps(thing), flush=True)


def row(kind: str, **cells: Any) -> None:
    """Tells the driver a row of a table."""
    say({"kind": kind, **cells})


def clock(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, round(time.perf_counter() - start, 6)


def failed(what: str) -> None:
    """Tells the driver of the exception that is being handled; the job goes on."""
    say({"failed": f"{what}: {traceback.format_exc()[-1500:]}"})


def steady(call: Callable[[], Any], wait: Callable[[Any], Any]) -> dict[str, float]:
    """Milliseconds of a call when it is warm: `ms`, each waited for, the median; `queued_ms`, the
    mean of calls that are queued, and waited for together.
    """
    for _ in range(WARMUPS):
        wait(call())
    waited = 1000 * statistics.median(clock(lambda: wait(call()))[1] for _ in range(REPEATS))
    count = REPEATS if waited < _LONG_MS else 4

    def queue() -> None:
        for _ in range(count):
            last = call()
        wait(last)

    queued = 1000 * clock(queue)[1]
    return {"ms": round(waited, 3), "queued_ms": round(queued / count, 3)}
