"""`/api`: requests are handed in, followed, fetched and cancelled; the page is a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from keras_sd.prompt_styles import STYLES
from keras_sd.prompts import explain, parse
from keras_sd.provenance import read_provenance
from keras_sd.serve import own_form
from keras_sd.serve.bodies import Door, json_body, timeout_of
from keras_sd.serve.drawing import Studio
from keras_sd.serve.fields import Field, Form
from keras_sd.serve.jobs import Event
from keras_sd.serve.ledger import FINAL, Kept, Watch
from keras_sd.serve.pictures import Budget, decoded, encoded, small_png
from keras_sd.serve.replies import Problem, json_reply, problem_of
from keras_sd.serve.streams import Events

__all__ = ["Own"]


class Own:
    """The routes.

    Args:
        studio: where pictures come from.
    """

    def __init__(self, studio: Studio):
        self._studio = studio
        self._about, self._limits = studio.about, studio.about.limits
        self.drawing = own_form.form(self._limits)
        self.prompt_form = Form(
            "Prompt",
            {
                "prompt": Field("text", "", "The text.", most=self._limits.prompt),
                "prompt_style": Field("text", "plain", "Whose grammar.", choices=STYLES),
                "num_steps": Field("whole", 20, "Steps that edits are spread over.", 1, 1000),
            },
            open=False,
        )
        self.read_form = Form(
            "Read", {"image": Field("picture", help="A file.", required=True)}, open=False
        )

    def doors(self) -> list[Door]:
        """All of them."""
        one = "/api/requests/{id}"
        return [
            Door("GET", "/api/info", self.info),
            Door("POST", "/api/prompt", self.prompt, self.prompt_form),
            Door("POST", "/api/read", self.read, self.read_form),
            Door("GET", "/api/requests", self.listed),
            Door("POST", "/api/requests", self.submit, self.drawing),
            Door("GET", one, self.state),
            Door("DELETE", one, self.cancel),
            Door("GET", f"{one}/events", self.events),
            Door("GET", f"{one}/images/{{file}}", self.image),
        ]

    async def info(self, http: Request) -> Response:
        """The model, its limits and defaults, samplers, schedules and guidance."""
        found = await asyncio.to_thread(self._about.info)
        return json_reply(found | {"ready": self._studio.warm and not self._studio.stopping})

    async def prompt(self, http: Request) -> Response:
        """How a prompt is understood: tokens, chunks, words that the model does not know."""
        given = self.prompt_form.read(await json_body(http, self._limits))
        return json_reply(await asyncio.to_thread(self._understood, **given))

    def _understood(self, prompt: str, prompt_style: str, num_steps: int) -> dict[str, Any]:
        tokenizer = self._about.tokenizer
        if tokenizer is None:
            raise Problem(404, "The tokenizer of this model is not here")
        try:
            self._limits.check_prompt("prompt", prompt, prompt_style)
            room = tokenizer.max_length - 2
            read = parse(prompt, prompt_style)
            if prompt_style == "plain":  # which is never broken into chunks
                tokens, chunks, texts = len(tokenizer.encode(prompt)) - 2, 1, [prompt]
            else:
                shown = explain(read, tokenizer.words, room=room, num_steps=num_steps)
                every = [each for _, steps in shown.parts for each in steps]
                tokens = max(each.tokens for each in every)
                chunks = max(len(each.chunks) for each in every)
                texts = [each.range.text for each in every]
        except ValueError as error:
            raise problem_of(error, submitting=True) from error
        unknown = dict.fromkeys(word for text in texts for word in self._about.unknown_words(text))
        return {
            "tokens": tokens,
            "limit": room,
            "chunks": chunks,
            "too_long": prompt_style == "plain" and tokens > room,
            "unknown_words": list(unknown),
            "texts": list(dict.fromkeys(texts)),
            "parts": len(read.parts),
            "tags": [tag.source for tag in read.tags],
        }

    async def read(self, http: Request) -> Response:
        """How a picture says that it was made."""
        given = self.read_form.read(await json_body(http, self._limits))
        data = decoded("image", given["image"])
        return json_reply(await asyncio.to_thread(self._read, data))

    def _read(self, data: bytes) -> dict[str, Any]:
        Budget(self._limits.given).opened("image", data)  # that it is a picture, of a size
        try:
            found = read_provenance(data, self._limits.given)
        except ValueError as error:
            return {"found": None, "settings": {}, "detail": f"{error}"}
        return {"found": found.to_dict(), "settings": own_form.settings_of(found)}

    # --- requests ---------------------------------------------------------------------

    async def submit(self, http: Request) -> Any:
        """Hands a request in: 202 with its id, or events until it is done."""
        body = await json_body(http, self._limits)
        if not isinstance(body, Mapping):
            raise Problem(422, "The body is an object: the fields of a drawing, or a Request")
        follows = "text/event-stream" in http.headers.get("accept", "")
        kept = await self._studio.submit(
            lambda: own_form.request_of(body, self._limits),
            "api",
            http,
            timeout=timeout_of(http, body),
        )
        told = self._told(kept)
        if not follows:
            where = {"Location": f"/api/requests/{kept.id}"}
            return json_reply(told, 202, where)
        return self._follow(kept, http, ("accepted", told), leave=kept.job.cancel)

    async def listed(self, http: Request) -> Response:
        """All requests that are remembered, oldest first."""
        return json_reply({"requests": [self._told(kept) for kept in self._studio.jobs]})

    async def state(self, http: Request) -> Response:
        """One of them."""
        return json_reply(self._told(self._found(http)))

    async def cancel(self, http: Request) -> Response:
        """Cancels it, before its next step; of one that is done nothing changes."""
        kept = self._found(http)
        kept.job.cancel()
        return json_reply({"id": kept.id, "state": kept.job.state})

    async def events(self, http: Request) -> Any:
        """What happens to it, from its present state on. Who leaves does not cancel it."""
        return self._follow(self._found(http), http)

    async def image(self, http: Request) -> Response:
        """One of its pictures, with its settings inside."""
        kept = self._found(http)
        number, _, ending = http.path_params["file"].partition(".")
        if ending != "png" or not number.isascii() or not number.isdigit() or len(number) > 6:
            raise Problem(404, "Pictures are 0.png, 1.png, ...")
        try:
            data, _ = await self._studio.png(kept, int(number))
        except IndexError:
            raise Problem(404, f"There is no picture {int(number)} of this request") from None
        name = f"keras-sd-{kept.id}-{int(number)}.png"
        headers = {
            "Cache-Control": "private, max-age=86400, immutable",
            "Content-Disposition": f'inline; filename="{name}"',
        }
        return Response(data, headers=headers, media_type="image/png")

    def _found(self, http: Request) -> Kept:
        kept = self._studio.jobs.get(http.path_params["id"])
        if kept is None:
            raise Problem(404, "There is no such request; the oldest that are done are forgotten")
        return kept

    def _follow(
        self, kept: Kept, http: Request, first: tuple[str, Any] | None = None, leave: Any = None
    ) -> Events:
        studio = self._studio
        if studio.streams >= self._limits.streams:
            if leave is not None:
                leave()
            raise Problem(503, "Too many clients follow requests", {"Retry-After": "5"})
        previews = http.query_params.get("preview") in ("1", "true")
        studio.streams += 1
        kept.watch(int(previews))

        def done() -> None:
            studio.streams -= 1
            kept.watch(-int(previews))

        events = self._events(kept, previews, first)
        return Events(events, leave=leave or (lambda: None), done=done)

    async def _events(
        self, kept: Kept, previews: bool, first: tuple[str, Any] | None
    ) -> AsyncIterator[tuple[str, Any]]:
        if first is not None:
            yield first
        async for event in Watch(kept.job):
            yield self._event(kept, event, previews)

    def _event(self, kept: Kept, event: Event, previews: bool) -> tuple[str, Any]:
        told: dict[str, Any] = {"id": kept.id}
        if event.kind == "waiting":
            return "waiting", told | {"position": kept.job.position}
        if event.kind == "step":
            told |= {"step": event.step, "total": event.total}
            if previews:
                pixels = () if event.preview is None else event.preview
                told["preview"] = [encoded(small_png(each)) for each in pixels] or None
            return "step", told
        if event.kind == "done":
            return "done", told | self._pictures(kept, event)
        if event.kind == "cancelled" and not self._studio.stopping:
            return "cancelled", told
        if event.kind == "cancelled":
            return "failed", told | {"error": "Stopping", "detail": "The server is shutting down"}
        problem = self._studio.problem(kept, event)
        return event.kind, told | {"error": problem.kind, "detail": problem.message}

    def _pictures(self, kept: Kept, event: Event) -> dict[str, Any]:
        assert event.images is not None
        height, width = event.images.shape[1:3]
        pictures = [
            {
                "url": f"/api/requests/{kept.id}/images/{i}.png",
                "seed": seed,
                "number": number,
                "width": width,
                "height": height,
            }
            for i, (seed, number) in enumerate(kept.request.images)
        ]
        return {"images": pictures, "request": kept.request.to_dict()}

    def _told(self, kept: Kept) -> dict[str, Any]:
        job, last = kept.job, kept.last
        told = {
            "id": kept.id,
            "state": last.kind if last is not None and last.kind in FINAL else job.state,
            "position": job.position,
            "step": job.step,
            "total": job.total,
            "created": kept.created,
            "door": kept.door,
            "request": kept.request.to_dict(),
        }
        if last is not None and last.kind == "done":
            told |= self._pictures(kept, last)
        elif last is not None and last.error is not None:
            problem = self._studio.problem(kept, last)
            told |= {"error": problem.kind, "detail": problem.message}
        return told
