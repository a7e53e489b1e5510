"""Bodies of JSON, read within bounds, and what every route does with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keras_sd.serve.fields import Form
from keras_sd.serve.limits import Limits
from keras_sd.serve.replies import Problem, problem_of, reply_of
from keras_sd.serve.streams import Left

__all__ = ["Door", "Handler", "json_body", "parsed", "timeout_of"]

Handler = Callable[[Request], Awaitable[Any]]

_INLINE = 2**16  # bytes of a body that is parsed at once; a longer one, by a thread


async def json_body(request: Request, limits: Limits, empty: Any = None) -> Any:
    """The body of a request.

    Args:
        request: whose body's size has been bounded.
        limits: of the server.
        empty: what an empty body stands for; None is none.

    Raises:
        Problem: it is no JSON, or nests too deep.
    """
    data = await request.body()
    if not data.strip():
        if empty is not None:
            return empty
        raise Problem(400, "The body is empty; it is an object of JSON")
    if len(data) <= _INLINE:
        return parsed(data, limits.depth)
    return await asyncio.to_thread(parsed, data, limits.depth)


def parsed(data: bytes, depth: int) -> Any:
    """The value of a text of JSON.

    Args:
        data: UTF-8.
        depth: objects and lists within each other at most.

    Raises:
        Problem: it is no JSON, has numbers that JSON does not have, or nests too deep.
    """
    try:
        value = json.loads(data, parse_constant=_refused)
        _check_depth(value, depth)
    except RecursionError:
        raise Problem(400, "The body nests too deep") from None
    except ValueError as error:
        raise Problem(400, f"The body is no JSON: {error}") from None
    return value


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise RecursionError
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            if isinstance(each, dict | list):
                _check_depth(each, left - 1)


def timeout_of(request: Request, body: Mapping[str, Any] | None = None) -> float | None:
    """The seconds that the client is ready to wait, by the header `X-Request-Timeout` or a field
    `timeout`; None where it says nothing. The source takes it only where it is shorter than its
    own.

    Raises:
        Problem: it is no number above 0.
    """
    given = (body or {}).get("timeout", request.headers.get("x-request-timeout"))
    if given is None:
        return None
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise Problem(422, "timeout is a number of seconds above 0")
    return seconds


@dataclass(frozen=True)
class Door:
    """A route, and what the document says of it: the handler's docstring and its form.

    Attributes:
        method: of HTTP.
        path: with `{names}`.
        handler: gives the answer; what it raises becomes one.
        form: of the body; None where there is none.
        multipart: whether the body is a form of files.
    """

    method: str
    path: str
    handler: Handler
    form: Form | None = None
    multipart: bool = False

    def route(self) -> Route:
        """The route of Starlette."""

        async def endpoint(request: Request) -> Any:
            try:
                return await self.handler(request)
            except Left:
                # Nobody reads this; the server's log has the status.
                return Response(status_code=499)
            except HTTPException:
                raise
            except Exception as error:
                return reply_of(request.url.path, problem_of(error))

        return Route(self.path, endpoint, methods=[self.method])
