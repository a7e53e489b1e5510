"""The fields of a body, written once: they are checked by this table, and documented by it.

A client may leave out any field, send null for one that has a default, and, where the form says so,
send fields that are not known. Numbers may be written as 20.0 where 20 is meant, as some clients
do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Field", "Form", "Invalid"]

_KINDS = {
    "text": "string",
    "whole": "integer",
    "real": "number",
    "flag": "boolean",
    "picture": "string",
    "list": "array",
    "object": "object",
    "any": None,
}


class Invalid(ValueError):
    """A body does not fit its form.

    Attributes:
        errors: an object for each field: `loc`, `msg`, `type`, as FastAPI has them.
    """

    def __init__(self, errors: Sequence[Mapping[str, Any]]):
        super().__init__("; ".join(f"{each['loc'][-1]} {each['msg']}" for each in errors))
        self.errors = [dict(each) for each in errors]


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        kind: "text", "whole", "real", "flag", "picture" (base64), "list", "object" or "any".
        default: what is taken where the field is missing or null.
        help: a sentence for the document.
        least: the smallest number.
        most: the largest number, or the most items or characters.
        choices: the values that there are.
        used: whether anything is done with it; one that is not is taken and ignored.
        required: whether it has to be there.
    """

    kind: str
    default: Any = None
    help: str = ""
    least: float | None = None
    most: float | None = None
    choices: Sequence[Any] | None = None
    used: bool = True
    required: bool = False

    def read(self, value: Any) -> Any:
        """The value, checked.

        Raises:
            ValueError: what is wrong with it, to be read after the field's name.
        """
        if value is None and not self.required:
            return self.default
        value = _CHECKS[self.kind](value)
        if self.choices is not None and value not in self.choices:
            raise ValueError(f"is one of {', '.join(map(repr, self.choices))}")
        number = value if self.kind in ("whole", "real") else None
        if number is not None and (
            (self.least is not None and number < self.least)
            or (self.most is not None and number > self.most)
        ):
            raise ValueError(f"is from {self.least} to {self.most}")
        if self.kind in ("text", "list") and self.most is not None and len(value) > self.most:
            unit = "characters" if self.kind == "text" else "items"
            raise ValueError(f"has {len(value)} {unit}; at most {self.most:g} are read")
        return value

    def schema(self) -> dict[str, Any]:
        """The field in JSON Schema."""
        kind = _KINDS[self.kind]
        found: dict[str, Any] = {} if kind is None else {"type": kind}
        if kind and not self.required:
            found["type"] = [kind, "null"]
        if self.kind == "picture":
            found["contentEncoding"] = "base64"
        if self.kind in ("whole", "real"):
            found |= {"minimum": self.least} if self.least is not None else {}
            found |= {"maximum": self.most} if self.most is not None else {}
        elif self.most is not None:
            found["maxItems" if self.kind == "list" else "maxLength"] = self.most
        if self.choices is not None:
            found["enum"] = [*self.choices, *([] if self.required else [None])]
        if self.default is not None:
            found["default"] = self.default
        text = self.help if self.used else "Taken and ignored."
        return found | ({"description": text} if text else {})


@dataclass(frozen=True)
class Form:
    """The fields of a body.

    Attributes:
        name: of the form, for the document.
        fields: by name.
        open: whether fields that are not known are ignored; else they are an error.
    """

    name: str
    fields: Mapping[str, Field]
    open: bool = True

    def read(self, body: Any) -> dict[str, Any]:
        """All fields of a body.

        Raises:
            Invalid: it does not fit; every field that is wrong is named.
        """
        if not isinstance(body, Mapping):
            raise Invalid([_error("body", "is an object", "type_error.dict")])
        errors, found = [], {}
        if not self.open:
            for name in [name for name in body if name not in self.fields][:20]:
                known = ", ".join(self.fields)
                errors.append(
                    _error(str(name)[:100], f"is no field; there are {known}", "value_error.extra")
                )
        for name, field in self.fields.items():
            if field.required and body.get(name) is None:
                errors.append(_error(name, "is missing", "value_error.missing"))
                continue
            try:
                found[name] = field.read(body.get(name))
            except ValueError as error:
                errors.append(_error(name, str(error), f"type_error.{field.kind}"))
        if errors:
            raise Invalid(errors)
        return found

    def schema(self) -> dict[str, Any]:
        """The form in JSON Schema."""
        required = [name for name, field in self.fields.items() if field.required]
        return {
            "title": self.name,
            "type": "object",
            "properties": {name: field.schema() for name, field in self.fields.items()},
            **({"required": required} if required else {}),
            "additionalProperties": self.open,
        }


def _error(name: str, message: str, kind: str) -> dict[str, Any]:
    return {"loc": ["body", name], "msg": message, "type": kind}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is a string")
    return value


def _whole(value: Any) -> int:
    number = _real(value)
    if number != int(number):
        raise ValueError("is a whole number")
    return value if isinstance(value, int) else int(number)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is a number")
    if (isinstance(value, int) and abs(value) > 2**64) or not math.isfinite(value):
        raise ValueError("is a finite number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is true or false")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("is a list")
    return value


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("is an object")
    return value


_CHECKS = {
    "text": _text,
    "whole": _whole,
    "real": _real,
    "flag": _flag,
    "picture": _text,
    "list": _list,
    "object": _object,
    "any": lambda value: value,
}
