"""`/v1/images/generations`, `/v1/images/edits` and `/v1/models`, as OpenAI's client sends and reads
them. What else a picture depends on, `seed`, `steps` and so on, are fields beside.
"""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from keras_sd.prompts import PromptError, parse
from keras_sd.request import Request
from keras_sd.serve.about import About
from keras_sd.serve.bodies import Door, json_body, timeout_of
from keras_sd.serve.drawing import Studio
from keras_sd.serve.fields import Field, Form
from keras_sd.serve.ledger import FINAL, Kept, Watch
from keras_sd.serve.pictures import Budget, encoded, small_png
from keras_sd.serve.replies import Problem, json_reply
from keras_sd.serve.streams import Events
from keras_sd.start import Attachment, Masking, Start

__all__ = ["OpenAIImages"]

_IGNORED = Field("any", used=False)
_TAKEN = ("quality", "style", "moderation", "response_format", "user", "timeout")
_FORMATS = ("png", "jpeg", "webp")
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
# Clients that know no other models name these: they stand for the one that is here.
_ANY_MODEL = re.compile(r"(dall-e|gpt-image|chatgpt-image)[a-z0-9.-]*")

_FIELDS = {
    "prompt": Field("text", None, "What the picture shows.", required=True),
    "model": Field("text", None, "The server's; names of OpenAI's stand for it."),
    "n": Field("whole", 1, "Pictures.", 1, 10),
    "size": Field("text", "auto", "WIDTHxHEIGHT, or auto."),
    "output_format": Field("text", "png", "Of the pictures.", choices=_FORMATS),
    "output_compression": Field("whole", 90, "Quality of JPEG and WebP.", 0, 100),
    "background": Field("text", "auto", "Pictures are opaque.", choices=("auto", "opaque")),
    "stream": Field("flag", False, "Whether the answer is server-sent events."),
    "partial_images": Field("whole", 0, "Previews among them.", 0, 3),
    "negative_prompt": Field("text", "", "What it shall not show."),
    "seed": Field("whole", None, "Same seed, same pictures.", 0, 2**63),
    "steps": Field("whole", None, "Sampler steps.", 1, 10_000),
    "sampler": Field("text", None, "A sampler's name.", most=500),
    "schedule": Field("text", None, "A schedule's name.", most=500),
    "guidance_scale": Field("real", None, "How closely to follow the prompt."),
    "prompt_style": Field("text", None, "Whose grammar the prompt is written in."),
    **dict.fromkeys(
        ("quality", "style", "moderation", "response_format", "user", "timeout"), _IGNORED
    ),
}
_GENERATION = Form("ImageGeneration", _FIELDS)
_EDIT = Form(
    "ImageEdit",
    {
        **_FIELDS,
        "image": Field("any", None, "A file: the picture."),
        "mask": Field("any", None, "A PNG file of its size: what is transparent is painted."),
        "strength": Field("real", None, "How much is made anew.", 0, 1),
    },
)


class OpenAIImages:
    """The routes.

    Args:
        studio: where pictures come from.
    """

    def __init__(self, studio: Studio):
        self._studio = studio
        self._about, self._limits = studio.about, studio.about.limits
        self._began = int(time.time())

    def doors(self) -> list[Door]:
        """All of them."""
        base = "/v1/images"
        return [
            Door("POST", f"{base}/generations", self.generations, _GENERATION),
            Door("POST", f"{base}/edits", self.edits, _EDIT, multipart=True),
            Door("GET", "/v1/models", self.models),
            Door("GET", "/v1/models/{id}", self.model),
        ]

    async def models(self, http: HTTPRequest) -> Response:
        """The one model."""
        return json_reply({"object": "list", "data": [self._model()]})

    async def model(self, http: HTTPRequest) -> Response:
        """The same, by its name."""
        _check_model(http.path_params["id"], self._about)
        return json_reply(self._model())

    def _model(self) -> dict[str, Any]:
        name = self._about.name
        return {"id": name, "object": "model", "created": self._began, "owned_by": "keras_sd"}

    async def generations(self, http: HTTPRequest) -> Any:
        """Pictures of a prompt."""
        given = _GENERATION.read(await json_body(http, self._limits))
        return await self._draw(http, given, {}, "image_generation")

    async def edits(self, http: HTTPRequest) -> Any:
        """Pictures that begin at one; with a mask, what is transparent in it is painted."""
        files: dict[str, bytes] = {}
        fields: dict[str, Any] = {}
        async with http.form(max_files=8, max_fields=64, max_part_size=2**16) as form:
            for name, value in form.multi_items():
                if isinstance(value, str):
                    fields[name.removesuffix("[]")] = _unstrung(name, value)
                elif name.removesuffix("[]") in files:
                    raise Problem(400, "One picture is edited at a time, and one mask")
                else:
                    files[name.removesuffix("[]")] = await value.read()
        if set(files) - {"image", "mask"} or "image" not in files:
            raise Problem(400, f"The files are image and mask, not {sorted(files)}")
        return await self._draw(http, _EDIT.read(fields), files, "image_edit")

    async def _draw(
        self, http: HTTPRequest, given: Mapping[str, Any], files: Mapping[str, bytes], event: str
    ) -> Any:
        _check_model(given["model"], self._about)
        kept = await self._studio.submit(
            lambda: self._request(given, files),
            "v1",
            http,
            watched=bool(given["stream"] and given["partial_images"]),
            timeout=timeout_of(http),
        )
        if not given["stream"]:
            await self._studio.wait(http, kept)
            pictures = [await self._encoded(kept, i, given) for i in range(len(kept.request))]
            data = [
                {"b64_json": text, "seed": seed}
                for text, (seed, _) in zip(pictures, kept.request.images, strict=True)
            ]
            return json_reply({"created": int(time.time()), "data": data, **_told(kept, given)})
        return Events(self._events(kept, given, event), leave=kept.job.cancel)

    async def _events(
        self, kept: Kept, given: Mapping[str, Any], name: str
    ) -> AsyncIterator[tuple[str, Any]]:
        wanted, sent = given["partial_images"], 0
        async for event in Watch(kept.job):
            told = {"created_at": int(time.time()), **_told(kept, given)}
            if event.kind == "step" and event.preview is not None and sent < wanted:
                # Spread over the run: the k-th of n comes behind k / (n + 1) of it.
                if event.step * (wanted + 1) < (sent + 1) * max(event.total, 1):
                    continue
                kind = f"{name}.partial_image"
                preview = await asyncio.to_thread(_enlarged, event.preview[0], kept)
                told |= {"b64_json": encoded(preview), "partial_image_index": sent}
                sent += 1
                yield kind, {"type": kind, **told}
            elif event.kind == "done":
                kind = f"{name}.completed"
                for i in range(len(kept.request)):
                    text = await self._encoded(kept, i, given)
                    yield kind, {"type": kind, **told, "b64_json": text, "usage": _USAGE}
            elif event.kind in FINAL:
                problem = self._studio.problem(kept, event)
                error = {"message": problem.message, "type": "server_error", "code": problem.kind}
                yield "error", {"type": "error", "error": {**error, "param": None}}

    async def _encoded(self, kept: Kept, number: int, given: Mapping[str, Any]) -> str:
        data, text = await self._studio.png(kept, number)
        if given["output_format"] != "png":
            form, quality = given["output_format"], given["output_compression"]
            data = await asyncio.to_thread(_in_format, data, text, form, quality)
        return encoded(data)

    def _request(self, given: Mapping[str, Any], files: Mapping[str, bytes]) -> Request:
        limits = self._limits
        start = None
        size = _size_of(given["size"])
        if files:
            start, own = self._start(given, files)
            size = size or own
        height, width = limits.fitted(*size) if size else (None, None)
        style = given["prompt_style"]
        prompt, style = (given["prompt"], style) if style else self._plain(given["prompt"])
        request = Request.of(
            prompt,
            given["negative_prompt"],
            given["n"],
            given["seed"],
            height=height,
            width=width,
            num_steps=given["steps"],
            sampler=given["sampler"],
            schedule=given["schedule"],
            guidance_scale=given["guidance_scale"],
            prompt_style=style,
        )
        return replace(request, start=start) if start else request

    def _plain(self, prompt: str) -> tuple[str, str]:
        """A plain prompt and its style. One that is longer than a chunk is written in the style
        that is broken into chunks, where that means the same.
        """
        tokenizer = self._about.tokenizer
        self._limits.check_prompt("prompt", prompt, "plain")
        if tokenizer is None or len(tokenizer.encode(prompt)) <= tokenizer.max_length:
            return prompt, "plain"
        escaped = re.sub(r"([\\()\[\]<>{}|:])", r"\\\1", prompt)
        try:
            parts = parse(escaped, "keras_sd").parts
        except PromptError:
            return prompt, "plain"  # which says that it is too long
        sections = [each.sections for part in parts for each in part.ranges(1)]
        if len(sections) != 1 or len(sections[0]) != 1:
            return prompt, "plain"
        segments = sections[0][0]
        text = "".join(each.text for each in segments)
        same = text.split() == prompt.split() and all(each.weight == 1 for each in segments)
        return (escaped, "keras_sd") if same else (prompt, "plain")

    def _start(
        self, given: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> tuple[Start, tuple[int, int]]:
        budget = Budget(self._limits.given)
        opened = budget.opened("image", files["image"])
        picture = Attachment.of(np.array(opened.convert("RGBA").convert("RGB")))
        height, width = picture.data.shape[:2]
        holes = budget.opened("mask", files["mask"]) if "mask" in files else opened
        masking = None
        if holes.has_transparency_data:
            alpha = np.asarray(holes.convert("RGBA").getchannel("A"))
            if alpha.shape != (height, width):
                raise Problem(400, "The mask is of the picture's size")
            if alpha.min() < 128:
                mask = Attachment.of((alpha < 128).astype(np.float32))
                masking = Masking(masks=(mask,))
        if "mask" in files and masking is None:
            raise Problem(400, "The mask has no transparent part: that is what is painted")
        return Start(
            pictures=(picture,),
            strength=given["strength"] or None,
            resize="crop",
            masking=masking,
        ), (height, width)


_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}


def _told(kept: Kept, given: Mapping[str, Any]) -> dict[str, Any]:
    height, width = kept.request.size
    return {
        "size": f"{width}x{height}",
        "quality": "auto",
        "background": "opaque",
        "output_format": given["output_format"],
    }


def _check_model(name: str | None, about: About) -> None:
    if name in (None, "", about.name) or _ANY_MODEL.fullmatch(name or ""):
        return
    said = f"There is no model {str(name)[:100]!r} here, but {about.name!r}"
    raise Problem(404, said, kind="model_not_found")


def _size_of(text: str) -> tuple[int, int] | None:
    """Height and width; None is for the model, or the picture, to say."""
    if text in ("auto", ""):
        return None
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]) * int(match[2]):
        raise Problem(400, f"size is WIDTHxHEIGHT or auto, not {text[:40]!r}")
    return int(match[2]), int(match[1])


def _unstrung(name: str, value: str) -> Any:
    """A field of a form of files, of which all are strings."""
    kind = _EDIT.fields[name].kind if name in _EDIT.fields else "text"
    try:
        if kind == "whole":
            return int(value) if len(value) < 30 else value
        if kind == "real":
            return float(value)
    except ValueError:
        return value  # the form says what is wrong with it
    if kind == "flag" and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value


def _enlarged(preview: np.ndarray, kept: Kept) -> bytes:
    height, width = kept.request.size
    small = Image.fromarray(np.ascontiguousarray(preview))
    return small_png(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))


def _in_format(data: bytes, text: str, form: str, quality: int) -> bytes:
    """A PNG file in another format, its settings in EXIF's comment as web UIs write them there."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be", "replace")
    with Image.open(io.BytesIO(data)) as picture:
        picture.convert("RGB").save(buffer, format=form.upper(), quality=quality, exif=exif)
    return buffer.getvalue()
