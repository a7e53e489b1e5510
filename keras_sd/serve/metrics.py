"""`/metrics`, in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Attribute of the source's stats -> name, type and sentence.
_STATS = {
    "waiting": ("requests_waiting", "gauge", "Requests in the queue."),
    "running": ("requests_running", "gauge", "Requests that are being drawn."),
    "rows": ("rows", "gauge", "Pictures that are drawn at this moment."),
    "calls": ("unet_calls_total", "counter", "Calls of the UNet."),
    "evaluations": ("evaluations_total", "counter", "Clean latents that these gave."),
    "seconds_a_job": ("seconds_a_request", "gauge", "Seconds from start to end, on average."),
}
_OUTCOMES = ("done", "failed", "cancelled", "expired", "refused")


def exposition(stats: Any, answers: Mapping[tuple[str, int], int], ready: bool) -> str:
    """The page.

    Args:
        stats: of the source; what it does not have is left out.
        answers: how many, by API and status.
        ready: whether the server is.
    """
    lines = [*_sample("ready", "gauge", "1 after the warm-up.", [("", int(ready))])]
    for attribute, (name, kind, text) in _STATS.items():
        value = getattr(stats, attribute, None)
        if value is not None:
            lines += _sample(name, kind, text, [("", value)])
    outcomes = [
        (f'{{outcome="{name}"}}', value)
        for name in _OUTCOMES
        if (value := getattr(stats, name, None)) is not None
    ]
    lines += _sample("requests_total", "counter", "Requests by how they ended.", outcomes)
    told = [
        (f'{{api="{api}",status="{status}"}}', count)
        for (api, status), count in sorted(answers.items())
    ]
    lines += _sample("http_answers_total", "counter", "Answers by API and status.", told)
    return "\n".join([*lines, ""])


def _sample(name: str, kind: str, text: str, values: list[tuple[str, Any]]) -> Iterator[str]:
    name = f"keras_sd_{name}"
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values:
        yield f"{name}{labels} {float(value):.10g}"
