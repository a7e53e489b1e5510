"""A sampler or a schedule with its settings in one line: ``"ddim:eta=1"``.

The line is ``name`` or ``distribution:name``, and after another colon settings, written as in a
call in Python: ``"acme-samplers:foo:strength=0.5,rounds=2"``. Values are Python's literals:
numbers, strings in quotes, ``True``, ``None``, tuples. A bare word is a string, ``variant=bh1``.
In JSON it is a mapping, ``{"name": "ddim", "eta": 1}``.
"""

from __future__ import annotations

import ast
import keyword
import math
import warnings
from collections.abc import Mapping
from typing import Any

__all__ = ["format_spec", "parse_spec", "split_spec"]

_EXAMPLE = "as in 'ddim:eta=1' or 'dpmpp_2m_sde:solver=heun,eta=0.5'"


def split_spec(text: str) -> tuple[str, str]:
    """The name in a line, and the text of its settings, ``""`` where there are none.

    Raises:
        ValueError: There is no name, or no settings where the colon promises some.
    """
    before, equals, _ = text.partition("=")
    name, colon, _ = before.rpartition(":") if equals else (text, "", "")
    settings = text[len(name) + 1 :].strip() if equals else ""
    name = name.strip()
    if equals and not (colon and name):
        raise ValueError(f"{text!r} has settings and no name before them: write both, {_EXAMPLE}.")
    if not name:
        raise ValueError(f"A name is needed, got {text!r}: write it {_EXAMPLE}.")
    if name.endswith(":") or name.startswith(":") or name.count(":") > 1:
        raise ValueError(
            f"{text!r} has a colon with nothing behind or before it: the form is name, "
            f"distribution:name, and settings after one more colon, {_EXAMPLE}."
        )
    return name, settings


def parse_spec(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and settings of a line or a mapping.

    Args:
        spec: ``"name"`` or ``"distribution:name"``, either with ``":setting=value,..."`` behind
            it, or a mapping with the key ``"name"`` whose other items are settings.

    Returns:
        ``("ddim", {"eta": 1})``. What a name stands for and which settings it has is not looked up.

    Raises:
        ValueError: The line is none of these, a value is no literal, or a setting comes twice.
        TypeError: It is neither a string nor a mapping with a name.
    """
    if isinstance(spec, str):
        name, text = split_spec(spec)
        return name, _settings(spec, text) if text else {}
    if not isinstance(spec, Mapping):
        raise TypeError(f"A name with settings is a string or a mapping, got {spec!r}.")
    given = dict(spec)
    named = given.pop("name", None)
    if not isinstance(named, str) or not all(isinstance(key, str) for key in given):
        raise TypeError(
            "A mapping says what it names: {'name': 'ddim', 'eta': 1}, with strings as keys, "
            f"got {spec!r}."
        )
    name, settings = parse_spec(named)
    return name, merged(named, settings, given)


def format_spec(name: str, settings: Mapping[str, Any]) -> str:
    """The line of a name and settings; `parse_spec` reads it back.

    Raises:
        ValueError: A value is none that a literal can write, as an array or NaN.
    """
    if not settings:
        return name
    return f"{name}:{','.join(f'{key}={_written(key, value)}' for key, value in settings.items())}"


def merged(spec: str, settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from two places.

    Raises:
        ValueError: One is in both.
    """
    if twice := settings.keys() & more.keys():
        raise ValueError(f"The setting {min(twice)!r} is in {spec!r} already: give it once.")
    return {**settings, **more}


def _settings(spec: str, text: str) -> dict[str, Any]:
    source = f"f({text})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of what Python only doubts in a literal
            call = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        call = None
    whole = isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    if not isinstance(call, ast.Call) or not whole or call.end_col_offset != len(source.encode()):
        raise ValueError(f"The settings in {spec!r} cannot be read: write them {_EXAMPLE}.")
    if call.args or any(given.arg is None for given in call.keywords):
        raise ValueError(f"A value in {spec!r} has no name: write settings {_EXAMPLE}.")
    settings: dict[str, Any] = {}
    for given in call.keywords:
        key = str(given.arg)
        if key in settings:
            raise ValueError(f"The setting {key!r} comes twice in {spec!r}: give it once.")
        settings[key] = _value(spec, key, given.value)
    return settings


def _value(spec: str, key: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(
            f"The value of {key!r} in {spec!r} is no literal: write a number, True, None, a "
            "tuple, a word, or a string in quotes."
        ) from None


def _written(key: str, value: Any) -> str:
    if isinstance(value, str) and value.isidentifier() and not keyword.iskeyword(value):
        return str(value)  # a word
    return _literal(key, value)


def _literal(key: str, value: Any) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    if type(value) is tuple:
        inside = ",".join(_literal(key, each) for each in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    for kind in (bool, int, float, str):
        if isinstance(value, kind):  # of a NumPy number the Python one
            value = kind(value)
            break
    plain = value is None or type(value) in (bool, int, float, str, bytes, list, dict)
    try:
        written = repr(value) if plain else ""
        same = bool(ast.literal_eval(written) == value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        same = False
    if not same:
        raise ValueError(
            f"The setting {key}={value!r} cannot be written as a literal: only numbers, "
            "strings, True, None and tuples of them can."
        )
    return written
