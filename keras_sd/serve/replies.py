"""What is answered when something is refused or fails: one rule for all routes, and the shape that
each API has for it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from keras_sd.serve.fields import Invalid
from keras_sd.serve.jobs import Cancelled, Expired, QueueFull, Stopping
from keras_sd.serve.pictures import PictureError

__all__ = ["Problem", "json_reply", "problem_of", "reply_of"]

logger = logging.getLogger("keras_sd")

_KINDS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    410: "Cancelled",
    413: "TooLarge",
    415: "UnsupportedMediaType",
    421: "MisdirectedRequest",
    422: "Invalid",
    500: "ServerError",
    503: "Unavailable",
    504: "Timeout",
}


@dataclass(eq=False)
class Problem(Exception):
    """A request that is refused, or has failed.

    Attributes:
        status: of HTTP.
        message: for people.
        headers: of the answer.
        errors: an object for each field that is wrong.
        kind: a word for programs; "" is the status's.
    """

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Sequence[Mapping[str, Any]] = ()
    kind: str = ""

    def __post_init__(self) -> None:
        self.kind = self.kind or _KINDS.get(self.status, "Error")

    def __str__(self) -> str:
        return self.message


def problem_of(error: BaseException, submitting: bool = False) -> Problem:
    """What an error means for the client.

    Args:
        error: that was raised.
        submitting: whether the request was being read: then a wrong value is the client's.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, QueueFull):
        wait = min(max(math.ceil(error.retry_after), 1), 120)
        return Problem(503, f"{error}", {"Retry-After": str(wait)}, kind="QueueFull")
    if isinstance(error, Stopping):
        return Problem(503, "The server is shutting down", {"Retry-After": "30"}, kind="Stopping")
    if isinstance(error, Expired):
        return Problem(504, f"{error}")
    if isinstance(error, Cancelled):
        return Problem(410, "The request was cancelled")
    if isinstance(error, Invalid):
        return Problem(422, f"{error}", errors=error.errors)
    if isinstance(error, PictureError):
        return Problem(400, f"{error}", kind="InvalidPicture")
    if submitting and isinstance(error, ValueError | TypeError | LookupError | ImportError):
        name = getattr(error, "name", None)
        fields = [{"loc": ["body", name], "msg": f"{error}", "type": "value_error"}] if name else []
        return Problem(422, _said(error), errors=fields, kind=type(error).__name__)
    if isinstance(error, FloatingPointError):
        return Problem(500, f"{error}", kind="FloatingPointError")
    # What it says may name a file of the server: that is for its log alone.
    logger.error("A request failed", exc_info=error)
    name = type(error).__name__
    return Problem(500, f"The server failed with {name}; its log says more", kind=name)


def _said(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f"{text}"


def json_reply(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer of JSON; a number that is not finite, which JSON does not have, is an error."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "replace")
    return Response(data, status, dict(headers or {}), "application/json")


def reply_of(path: str, problem: Problem) -> Response:
    """The answer that tells of a problem, in the shape of the API that the path belongs to."""
    if path.startswith("/v1/"):
        kind = "invalid_request_error" if problem.status < 500 else "server_error"
        fields = [each["loc"][-1] for each in problem.errors]
        content: dict[str, Any] = {
            "error": {
                "message": problem.message,
                "type": kind,
                "param": fields[0] if fields else None,
                "code": problem.kind,
            }
        }
    else:
        content = {
            "error": problem.kind,
            "detail": problem.message,
            "errors": [dict(each) for each in problem.errors],
        }
        if path.startswith("/sdapi/"):
            content["body"] = ""
    return json_reply(content, problem.status, problem.headers)
