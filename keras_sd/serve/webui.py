"""`/sdapi/v1`, as A1111's web UI has it: what its clients call, and what they read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from keras_sd.image import png_bytes, resize
from keras_sd.serve import webui_answers as answers
from keras_sd.serve.bodies import Door, json_body, timeout_of
from keras_sd.serve.drawing import Studio
from keras_sd.serve.fields import Field, Form
from keras_sd.serve.ledger import Kept
from keras_sd.serve.pictures import Budget, decoded, encoded
from keras_sd.serve.replies import Problem, json_reply
from keras_sd.serve.webui_form import (
    IMG2IMG,
    TXT2IMG,
    Asked,
    asked_of,
    check_model,
    clip_skip_of,
    second_pass,
)

__all__ = ["WebUI"]

_EXTRAS: dict[str, Field] = {
    "resize_mode": Field("whole", 0, "0: upscaling_resize; 1: to a size.", 0, 1),
    "upscaling_resize": Field("real", 2.0, "How much larger.", 0.01, 16),
    "upscaling_resize_w": Field("whole", 512, "Pixels.", 1, 16_384),
    "upscaling_resize_h": Field("whole", 512, "Pixels.", 1, 16_384),
    "upscaling_crop": Field("flag", True, "Whether what does not fit is cut off."),
    "upscaler_1": Field("text", "None", "As `upscalers` lists them; another is Lanczos."),
}
_SINGLE = Form("ExtraSingle", {**_EXTRAS, "image": Field("picture", "", "A picture.")})
_LIST = Field("list", [], "Of {data, name}.", most=64)
_BATCH = Form("ExtraBatch", {**_EXTRAS, "imageList": _LIST})
_PNG_INFO = Form("PngInfo", {"image": Field("picture", "", "A picture.")})


class WebUI:
    """The routes.

    Args:
        studio: where pictures come from.
    """

    def __init__(self, studio: Studio):
        self._studio = studio
        self._about, self._limits = studio.about, studio.about.limits
        self._options: dict[str, Any] = {}
        self._interrupted: set[str] = set()

    def doors(self) -> list[Door]:
        """All of them."""
        base = "/sdapi/v1"
        about = self._about
        lists: dict[str, Any] = {
            "sd-models": lambda: answers.models(about),
            "samplers": lambda: answers.samplers(about),
            "schedulers": lambda: answers.schedulers(about),
            "upscalers": answers.upscalers,
            "latent-upscale-modes": lambda: [{"name": "Latent"}],
            "sd-vae": list,
            "scripts": lambda: {"txt2img": [], "img2img": []},
            "script-info": list,
            "loras": lambda: answers.loras(about),
            "embeddings": lambda: {"loaded": {}, "skipped": {}},
            "hypernetworks": list,
            "face-restorers": list,
            "realesrgan-models": list,
            "prompt-styles": list,
            "memory": answers.memory,
            "cmd-flags": dict,
        }
        nothing = ("refresh-loras", "refresh-checkpoints", "refresh-vae")
        return [
            Door("POST", f"{base}/txt2img", self.txt2img, TXT2IMG),
            Door("POST", f"{base}/img2img", self.img2img, IMG2IMG),
            Door("GET", f"{base}/progress", self.progress),
            Door("POST", f"{base}/interrupt", self.interrupt),
            Door("POST", f"{base}/skip", self.skip),
            Door("GET", f"{base}/options", self.options),
            Door("POST", f"{base}/options", self.set_options),
            Door("POST", f"{base}/png-info", self.png_info, _PNG_INFO),
            Door("POST", f"{base}/extra-single-image", self.extra_single, _SINGLE),
            Door("POST", f"{base}/extra-batch-images", self.extra_batch, _BATCH),
            *(Door("GET", f"{base}/{name}", _Answer(give)) for name, give in lists.items()),
            *(Door("POST", f"{base}/{name}", _Answer(lambda: None)) for name in nothing),
            Door("GET", "/internal/ping", _Answer(dict)),
        ]

    # --- pictures ---------------------------------------------------------------------

    async def txt2img(self, http: Request) -> Response:
        """Pictures of a prompt; answered when they are done."""
        return await self._draw(http, starts=False)

    async def img2img(self, http: Request) -> Response:
        """Pictures that begin at one, or paint a part of it; likewise."""
        return await self._draw(http, starts=True)

    async def _draw(self, http: Request, *, starts: bool) -> Response:
        body = await json_body(http, self._limits, empty={})
        asked: Asked | None = None

        def build() -> Any:
            nonlocal asked
            asked = asked_of(body, self._about, self._options, starts=starts)
            return asked.request

        timeout = timeout_of(http, body if isinstance(body, Mapping) else None)
        submit = partial(self._studio.submit, door="sdapi", http=http, watched=True)
        kept = await submit(build, timeout=timeout)
        assert asked is not None
        passes = [kept.request]
        event = await self._wait(http, kept)
        if event is not None and asked.given.get("enable_hr"):
            pictures = np.asarray(event.images)
            kept = await submit(lambda: second_pass(asked, pictures, self._about), timeout=timeout)
            passes.append(kept.request)
            event = await self._wait(http, kept)
        if event is None:
            images, texts = await asyncio.to_thread(_half_done, kept), [""]
        else:
            files = [await self._studio.png(kept, i) for i in range(len(kept.request))]
            images, texts = [encoded(data) for data, _ in files], [text for _, text in files]
        found = {
            "images": images if asked.given["send_images"] else [],
            "parameters": _echo(asked.given),
            "info": answers.info(asked, kept.request, self._about, texts, passes),
        }
        return json_reply(found)

    async def _wait(self, http: Request, kept: Kept) -> Any:
        """The last event; None where the client interrupted it."""
        try:
            return await self._studio.wait(http, kept)
        except Problem:
            if kept.id not in self._interrupted:
                raise
            return None
        finally:
            self._interrupted.discard(kept.id)

    # --- what happens -----------------------------------------------------------------

    def _current(self, http: Request) -> list[Kept]:
        """Jobs of this client that are not done, those that run before those that wait."""
        client = http.client.host if http.client else ""
        mine = [
            kept
            for kept in self._studio.jobs
            if kept.final is None and kept.door == "sdapi" and kept.client == client
        ]
        return sorted(mine, key=lambda kept: kept.job.state == "waiting")

    async def progress(self, http: Request) -> Response:
        """How far the client's oldest job is."""
        current = self._current(http)
        if not current:
            return json_reply(answers.IDLE)
        skip = http.query_params.get("skip_current_image", "false").lower() in ("true", "1")
        return json_reply(await asyncio.to_thread(answers.progress, current[0], picture=not skip))

    async def interrupt(self, http: Request) -> Response:
        """Ends what is drawn for this client; its answer has what there was. What waits, waits."""
        self._interrupt(http)
        return json_reply({})

    async def skip(self, http: Request) -> Response:
        """The same."""
        self._interrupt(http)
        return json_reply(None)

    def _interrupt(self, http: Request) -> None:
        for kept in self._current(http):
            if kept.job.state == "running":
                self._interrupted.add(kept.id)
                kept.job.cancel()

    # --- options ----------------------------------------------------------------------

    async def options(self, http: Request) -> Response:
        """Some of the web UI's options."""
        return json_reply(answers.options(self._about, self._options))

    async def set_options(self, http: Request) -> Response:
        """Clients post all options back: the model's name is checked, the layer of the text encoder
        is kept until the end of the server, and the rest is ignored.
        """
        body = await json_body(http, self._limits, empty={})
        if not isinstance(body, Mapping):
            raise Problem(422, "The body is an object of options")
        check_model(body.get("sd_model_checkpoint"), self._about)
        if "CLIP_stop_at_last_layers" in body:
            skip = clip_skip_of(body["CLIP_stop_at_last_layers"])
            self._options["CLIP_stop_at_last_layers"] = skip
        return json_reply(None)

    # --- pictures of others -----------------------------------------------------------

    async def png_info(self, http: Request) -> Response:
        """The texts of a picture."""
        given = _PNG_INFO.read(await json_body(http, self._limits))
        return json_reply(await asyncio.to_thread(self._png_info, given["image"]))

    def _png_info(self, text: str) -> dict[str, Any]:
        data = decoded("image", text)
        Budget(self._limits.given).opened("image", data)
        try:
            return answers.png_info(data, self._limits.given)
        except ValueError:  # a picture of a format that has no texts
            return {"info": "", "items": {}, "parameters": {}}

    async def extra_single(self, http: Request) -> Response:
        """A picture in another size."""
        given = _SINGLE.read(await json_body(http, self._limits))
        budget = Budget(self._limits.given)
        image = await asyncio.to_thread(self._resized, given, given["image"], budget)
        return json_reply({"image": image, "html_info": ""})

    async def extra_batch(self, http: Request) -> Response:
        """Pictures in another size."""
        given = _BATCH.read(await json_body(http, self._limits))
        budget, made = Budget(self._limits.given), Budget(self._limits.given)
        images = []
        for each in given["imageList"]:
            data = each.get("data") if isinstance(each, Mapping) else None
            images.append(await asyncio.to_thread(self._resized, given, data, budget, made))
        return json_reply({"images": images, "html_info": ""})

    def _resized(
        self, given: Mapping[str, Any], text: Any, budget: Budget, made: Budget | None = None
    ) -> str:
        picture = budget.picture("image", decoded("image", text))
        height, width = picture.shape[:2]
        if given["resize_mode"] == 0:
            scale = given["upscaling_resize"]
            height, width = max(round(height * scale), 1), max(round(width * scale), 1)
        elif given["upscaling_crop"]:
            height, width = given["upscaling_resize_h"], given["upscaling_resize_w"]
        else:
            scale = min(given["upscaling_resize_h"] / height, given["upscaling_resize_w"] / width)
            height, width = max(round(height * scale), 1), max(round(width * scale), 1)
        (made or Budget(self._limits.given)).take("the enlarged picture", width, height)
        if given["upscaler_1"] == "Nearest":
            nearest = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
            return encoded(png_bytes(np.asarray(nearest)))
        return encoded(png_bytes(resize(picture, height, width, "crop")))


class _Answer:
    """A handler that answers with what a function gives.

    Args:
        give: the function.
    """

    def __init__(self, give: Any):
        self._give = give
        self.__doc__ = "A list, empty where there is nothing of the kind."

    async def __call__(self, http: Request) -> Response:
        return json_reply(await asyncio.to_thread(self._give))


def _half_done(kept: Kept) -> list[str]:
    """The last preview of a job that was interrupted, if there is one."""
    return [] if kept.preview is None else [encoded(answers.preview(kept))]


def _echo(given: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it was understood; pictures are repeated only where that was asked for."""
    echoed = {name: value for name, value in given.items() if name != "timeout"}
    if not given.get("include_init_images"):
        echoed |= {name: None for name in ("init_images", "mask") if name in given}
    return echoed
