"""Files of the page, read at the start: a fixed dictionary, never a folder at run time.

`keras_sd/serve/page/index.html` is `/`; each other file beside it is `/page/NAME`. What refers to
another does so by a relative address: `page/app.js` in index.html.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple

__all__ = ["File", "login_form", "page_files"]

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}


class File(NamedTuple):
    """A file of the page."""

    data: bytes
    kind: str
    tag: str


def page_files() -> dict[str, File]:
    """Path -> file; `/` is always there."""
    found = {"/": _file(_PLAIN.encode(), ".html")}
    folder = resources.files("keras_sd.serve") / "page"
    if not folder.is_dir():
        return found
    for each in sorted(folder.iterdir(), key=lambda each: each.name):
        ending = f".{each.name.rpartition('.')[2]}"
        if each.is_file() and ending in _TYPES:
            path = "/" if each.name == "index.html" else f"/page/{each.name}"
            found[path] = _file(each.read_bytes(), ending)
    return found


def _file(data: bytes, ending: str) -> File:
    return File(data, _TYPES[ending], f'"{hashlib.sha256(data).hexdigest()[:32]}"')


def login_form(wrong: bool = False) -> str:
    """The page that asks for the token."""
    said = "<p role=alert>That is not the token.</p>" if wrong else ""
    return _LOGIN.replace("SAID", said)


_LOGIN = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>keras_sd: token</title>
<h1>keras_sd</h1>
SAID
<form method="post" action="login">
<label for="token">Token of this server, which it printed when it was started</label>
<p><input id="token" name="token" type="password"
 autocomplete="current-password" required autofocus>
<button>Log in</button></p>
</form>
</html>
"""

_PLAIN = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>keras_sd</title>
<h1>keras_sd</h1>
<p>The server is up. Its API: <a href="docs">what it takes and gives</a>.</p>
</html>
"""
