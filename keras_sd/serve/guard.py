"""Who may talk to the server: every rule, in front of every route, as one ASGI middleware.

A page on the internet can make its visitor's browser send requests to this machine. Browsers say
where a request comes from, in `Host`, `Origin` and `Sec-Fetch-Site`; programs that are no browsers
send no origin. So, before any route sees a request:

1. `Host` is a name of this server: a page whose name was bound anew to 127.0.0.1 has its own.
2. `Origin`, if there is one, is exactly the server's own, or one that was allowed.
3. `Sec-Fetch-Site`, if there is one, is `same-origin` or `none`, for GET as well: a foreign page's
   image tags send no origin.
4. A body is `application/json`, or multipart where a route takes that: forms and `no-cors` requests
   of foreign pages cannot say so without asking first.
5. A token, if one is set, comes with the request: as a password, a bearer token or a cookie.
6. A body is as long as it may be, and comes within a minute.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keras_sd.serve.limits import Limits
from keras_sd.serve.replies import Problem, reply_of

__all__ = ["COOKIE", "Guard", "Rules", "is_loopback", "same"]

logger = logging.getLogger("keras_sd")

COOKIE = "keras_sd_session"
"""The name of the cookie that stands for the token."""

OPEN = ("/health", "/ready")
"""What needs neither a name nor a token: it says yes or no."""

LOGIN = "/login"

MULTIPART = ("/v1/images/edits",)
"""The routes that take a form of files."""

_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(:\d{1,5})?")
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_DELAY = 0.5  # seconds that a wrong token waits for its answer

_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'self'; img-src 'self' data: blob:; "
    b"object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cache-control": b"no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Rules:
    """Who may talk to the server.

    Attributes:
        port: that it listens on.
        host: likewise.
        token: None is none.
        hosts: names, with a port perhaps, that it is known by beside this machine's own.
        origins: pages of others that may use it from a browser.

    Raises:
        ValueError: it listens to other machines without a token, or a name or an origin is none.
    """

    port: int = 7860
    host: str = "127.0.0.1"
    token: str | None = None
    hosts: Collection[str] = ()
    origins: Collection[str] = ()
    _names: frozenset[str] = field(init=False, repr=False, default=frozenset())

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token:
            raise ValueError(
                f"--host {self.host} lets other machines in, and there is no token: all of them "
                "could draw. Give --token, or set KERAS_SD_TOKEN"
            )
        if self.token is not None and (len(self.token) < 8 or not self.token.isprintable()):
            raise ValueError("--token has at least 8 characters, all of them printable")
        for host in self.hosts:
            if not _NAME.fullmatch(host.lower()):
                raise ValueError(
                    f"--allow-host {host!r} is a name or address, with a port perhaps, such as "
                    "pictures.example.org or localhost:8080"
                )
        for origin in self.origins:
            if not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin.lower()):
                raise ValueError(
                    f"--cors-allow-origin {origin!r} is an origin, such as "
                    "http://localhost:3000, without a path; * is none"
                )
        names = {host.lower() for host in self.hosts}
        own = [*_LOCAL, *([self._bracketed(self.host)] if self.host not in _ANY else [])]
        names |= {f"{name}:{self.port}" for name in own}
        if self.port == 80:
            names |= set(own)
        object.__setattr__(self, "_names", frozenset(names))

    @staticmethod
    def _bracketed(host: str) -> str:
        return f"[{host}]" if ":" in host and not host.startswith("[") else host.lower()

    def knows(self, host: str) -> bool:
        """Whether a Host header is a name of this server."""
        host = host.lower()
        name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "80")
        if host in self._names or name in self._names:
            return True
        # To other machines it has addresses that it does not know. An address is bound to no other
        # machine, as a name may be; and there is a token.
        if is_loopback(self.host) or port != str(self.port):
            return False
        try:
            return not ipaddress.ip_address(name.strip("[]")).is_unspecified
        except ValueError:
            return False

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may use the server, which was called by this name."""
        origin = origin.lower()
        own = (f"http://{host.lower()}", f"https://{host.lower()}")
        return origin in own or origin in {each.lower() for each in self.origins}

    @property
    def session(self) -> str:
        """What the cookie holds: it is made of the token, which is not made of it."""
        secret = (self.token or "").encode()
        return hmac.new(secret, b"keras_sd session", hashlib.sha256).hexdigest()

    def admits(self, authorization: str, cookie: str) -> bool:
        """Whether what came with a request is the token.

        Args:
            authorization: the header, `Basic` or `Bearer`; where no token is set, it may be
                anything, since clients send one all the same.
            cookie: the header.
        """
        if self.token is None:
            return True
        kind, _, rest = authorization.partition(" ")
        given = []
        if kind.lower() == "bearer":
            given.append(rest.strip())
        elif kind.lower() == "basic":
            try:
                pair = base64.b64decode(rest.strip(), validate=True).decode("utf-8")
            except (binascii.Error, UnicodeDecodeError, ValueError):
                pair = ""
            given += [pair, pair.partition(":")[2]]  # user:password may be the token as a whole
        if any(same(each, self.token) for each in given):
            return True
        return same(cookie_parser(cookie).get(COOKIE, ""), self.session)

    def cookie(self) -> str:
        """The header that lets a browser in."""
        return f"{COOKIE}={self.session}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000"


_ANY = ("0.0.0.0", "::", "[::]", "")


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how far."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))


class Guard:
    """The middleware.

    Args:
        app: behind it.
        rules: who may talk to it.
        limits: how long bodies are.
    """

    def __init__(self, app: ASGIApp, rules: Rules, limits: Limits):
        self._app, self._rules, self._limits = app, rules, limits
        self._held = 0  # bytes of bodies that are being received
        self.answers: dict[tuple[str, int], int] = {}
        """Answers so far, by API and status."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            if key in headers and key in ("host", "origin", "sec-fetch-site", "content-type"):
                key = "twice"
            headers[key] = value.decode("latin-1")
        path, method = scope["path"], scope["method"]
        origin = headers.get("origin")
        foreign = origin is not None and origin.lower() in {
            each.lower() for each in self._rules.origins
        }
        answer = self._answering(scope, send, origin if foreign else None)
        if path in OPEN and method in ("GET", "HEAD"):
            await self._app(scope, receive, answer)
            return
        try:
            self._check(method, path, headers, foreign)
            if foreign and method == "OPTIONS":
                await _preflight()(scope, receive, answer)
                return
            if not await self._admitted(scope, receive, answer, headers):
                return
            await self._bounded(scope, receive, answer, headers)
        except Problem as problem:
            await reply_of(path, problem)(scope, receive, answer)

    def _check(self, method: str, path: str, headers: dict[str, str], foreign: bool) -> None:
        """Rules 1 to 4.

        Raises:
            Problem: one is broken.
        """
        host = headers.get("host", "")
        if "twice" in headers:
            raise Problem(400, "A header that says where the request comes from is there twice")
        if not self._rules.knows(host):
            raise Problem(
                421,
                f"This server is not {host[:100]!r}: start it with --allow-host to give it a name",
            )
        origin = headers.get("origin")
        if origin is not None and not self._rules.allows(origin, host):
            raise Problem(
                403,
                f"A page of {origin[:100]} may not use this server: start it with "
                "--cors-allow-origin to let it",
            )
        site = headers.get("sec-fetch-site")
        if site is not None and site not in ("same-origin", "none") and not foreign:
            # A link to the page, on another page, is followed by the reader.
            link = method == "GET" and path in ("/", LOGIN, "/docs")
            followed = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
            if not (link and followed == ("navigate", "document")):
                raise Problem(403, "A page of another site may not use this server")
        if method not in ("POST", "PUT", "PATCH"):
            return
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        length = headers.get("content-length", "")
        empty = length in ("", "0") and "transfer-encoding" not in headers
        takes = {"application/json"}
        if path in MULTIPART:
            takes.add("multipart/form-data")
        if path == LOGIN:
            takes = {"application/x-www-form-urlencoded"}
        if kind not in takes and not (empty and not kind):
            raise Problem(415, f"The Content-Type is {' or '.join(sorted(takes))} here")

    async def _admitted(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]
    ) -> bool:
        """Rule 5; where it is broken, an answer was sent."""
        rules, path = self._rules, scope["path"]
        if rules.token is None or path == LOGIN:
            return True
        query = scope.get("query_string", b"").decode("latin-1")
        tried = parse_qs(query[:2000], max_num_fields=2000).get("token", [""])[0]
        if path == "/" and scope["method"] == "GET" and same(tried, rules.token):
            # The address that the server prints; the token is not left in it.
            await RedirectResponse("/", 303, {"Set-Cookie": rules.cookie()})(scope, receive, send)
            return False
        if rules.admits(headers.get("authorization", ""), headers.get("cookie", "")):
            return True
        if tried or headers.get("authorization"):  # a guess
            await asyncio.sleep(_DELAY)
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            await RedirectResponse(LOGIN, 303)(scope, receive, send)
            return False
        # Browsers ask for a password of their own only where a client may have none of ours.
        basic = path.startswith("/sdapi/")
        more = {"WWW-Authenticate": 'Basic realm="keras_sd"' if basic else "Bearer"}
        raise Problem(401, "This server asks for its token", more)

    async def _bounded(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]
    ) -> None:
        """Rule 6: receives the body, then calls what is behind."""
        limits, length = self._limits, headers.get("content-length")
        if length is not None and (not length.isdigit() or int(length[:20]) > limits.body):
            raise Problem(413, f"A body has at most {limits.body} bytes here")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    self._held += len(chunk)
                    chunks.append(chunk)
                    if size > limits.body:
                        raise Problem(413, f"A body has at most {limits.body} bytes here")
                    if self._held > limits.bodies:
                        raise Problem(503, "Too much is being received", {"Retry-After": "2"})
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Problem(
                408, f"The body took longer than {limits.seconds:g} s", {"Connection": "close"}
            ) from None
        finally:
            self._held -= size
        body = b"".join(chunks)
        chunks.clear()
        given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        del body

        async def again() -> Message:
            return given.pop() if given else await receive()

        await self._app(scope, again, send)

    def _answering(self, scope: Scope, send: Send, foreign: str | None) -> Send:
        """Sends answers with the headers that all of them have, and counts them."""

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message.get("headers", ())}
                more = [pair for pair in _HEADERS.items() if pair[0] not in there]
                if foreign is not None:
                    more = [pair for pair in more if pair[0] != b"cross-origin-resource-policy"]
                    more += [
                        (b"access-control-allow-origin", foreign.encode("latin-1")),
                        (b"cross-origin-resource-policy", b"cross-origin"),
                        (b"vary", b"Origin"),
                    ]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
                key = (_api(scope["path"]), message["status"])
                self.answers[key] = self.answers.get(key, 0) + 1
            await send(message)

        return answer


def _preflight() -> Response:
    """What a browser wants to know before it lets an allowed page send JSON."""
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": "Content-Type, Authorization, X-Request-Timeout",
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers=headers)


def _api(path: str) -> str:
    """The API of a path: a few words, whatever clients ask for."""
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    return first if first in ("api", "sdapi", "v1", "health", "ready", "metrics") else "page"
