"""The document of the API, and a page to read it, both made of the tables that check requests."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from keras_sd import __version__
from keras_sd.serve.bodies import Door

__all__ = ["document", "page"]


def document(doors: Iterable[Door]) -> dict[str, Any]:
    """OpenAPI 3.1.

    Args:
        doors: all routes that clients call.
    """
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    for door in doors:
        operation: dict[str, Any] = {
            "summary": _summary(door),
            "operationId": re.sub(r"\W+", "_", f"{door.method.lower()}{door.path}").strip("_"),
            "tags": [door.path.split("/")[1]],
            "responses": {
                "200": {"description": "Done."},
                "default": {"description": "Refused or failed; the body says why."},
            },
        }
        names = re.findall(r"{(\w+)}", door.path)
        if names:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in names
            ]
        if door.form is not None:
            schemas[door.form.name] = door.form.schema()
            where = {"schema": {"$ref": f"#/components/schemas/{door.form.name}"}}
            kind = "multipart/form-data" if door.multipart else "application/json"
            operation["requestBody"] = {"required": True, "content": {kind: where}}
        paths.setdefault(door.path, {})[door.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "keras_sd", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def page(found: Mapping[str, Any]) -> str:
    """The document for people, without a script.

    Args:
        found: what `document` gave.
    """
    lines = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        "<title>keras_sd: API</title><h1>API of keras_sd</h1>",
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]
    schemas = found["components"]["schemas"]
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            lines.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            lines.append(f"<p>{html.escape(operation['summary'])}</p>")
            body = operation.get("requestBody")
            if body is None:
                continue
            (where,) = body["content"].values()
            schema = schemas[where["schema"]["$ref"].rpartition("/")[2]]
            lines.append("<details><summary>Fields</summary><table>")
            lines.append("<tr><th>field<th>type<th>default<th>bounds<th>meaning")
            lines += [_row(name, each) for name, each in schema["properties"].items()]
            lines.append("</table></details>")
    return "\n".join([*lines, "</html>", ""])


def _row(name: str, schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "any")
    kinds = [kind] if isinstance(kind, str) else [each for each in kind if each != "null"]
    bounds = [f"from {schema['minimum']}"] if "minimum" in schema else []
    bounds += [f"to {schema['maximum']}"] if "maximum" in schema else []
    if "enum" in schema:
        bounds.append(", ".join(str(each) for each in schema["enum"] if each is not None))
    cells = (
        f"<code>{html.escape(name)}</code>",
        " or ".join(kinds),
        html.escape(repr(schema["default"])) if "default" in schema else "",
        html.escape(" ".join(bounds)),
        html.escape(schema.get("description", "")),
    )
    return "<tr><td>" + "<td>".join(cells)


def _summary(door: Door) -> str:
    text = inspect.getdoc(door.handler) or ""
    return " ".join(text.split("\n\n")[0].split())
