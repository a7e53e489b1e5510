"""`keras-sd serve`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from keras_sd import installed
from keras_sd.cli import addons, backends, loading
from keras_sd.cli.draw import loaded
from keras_sd.cli.drawing import draws
from keras_sd.cli.terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from keras_sd.serve.source import Source


@draws(options=loading.Options)
def serve(
    model: Annotated[
        str, typer.Option(help="A name that `keras-sd models` lists, a path, or hf://owner/name.")
    ] = "emoji",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is one that is free.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is all, and needs a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="KERAS_SD_TOKEN",
            help="What clients have to know: the password, a bearer token, or typed into the page.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name the server is called by beside localhost: name or name:port."),
    ] = None,
    cors_allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A page that may use it from a browser: http://localhost:3000."),
    ] = None,
    max_waiting: Annotated[
        int, typer.Option(min=0, max=1000, help="Requests that may wait; more are refused.")
    ] = 8,
    max_rows: Annotated[
        int, typer.Option(min=1, max=256, help="Pictures that are drawn together at most.")
    ] = 8,
    max_wait: Annotated[
        float, typer.Option(min=1, help="Seconds after which a request waits no longer.")
    ] = 120.0,
    max_run: Annotated[float, typer.Option(min=1, help="Seconds that a request may run.")] = 600.0,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=64, help="Of a picture. Default: 1024x1024, for a small model less."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Of a request. Default: 150.")
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Likewise. Default: 16.")] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to finish what runs when the server is stopped.")
    ] = 30.0,
    warm_up: Annotated[
        bool, typer.Option(help="Draw once at the start, so that the first picture is quick.")
    ] = True,
    ray: Annotated[
        bool, typer.Option("--ray", help="Draw in the replicas of a Ray cluster, extra ray.")
    ] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Of the cluster. Default: one on this machine.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="The most of them, with --ray.")] = 1,
    adapter: addons.Adapters = None,
    embedding: addons.Embeddings = None,
    adapters_dir: addons.TaggedDir = None,
    *,
    settings: loading.Options,
) -> None:
    """Serve a page and an API that draw with a model, on this machine alone by default.

    It speaks /sdapi/v1 and /v1/images, which other programs know, and an API of its own; /docs
    lists all of it. Ctrl-C, or SIGTERM, ends it: what runs may finish first.
    """
    # 1. What can be known without Keras.
    _needs_extra()
    from keras_sd.serve.guard import Rules
    from keras_sd.serve.listen import bound

    options = loading.of(settings)
    beside = addons.given(adapter, embedding, adapters_dir)
    if ray and (adapter or embedding or adapters_dir):
        raise ValueError("--adapter, --adapters-dir and --embedding do not go with --ray")
    hosts, origins = allow_host or [], cors_allow_origin or []
    Rules(port or 1, host, token, hosts, origins)  # before anything is opened
    listening = bound(host, port)
    port = listening.getsockname()[1]
    rules = Rules(port, host, token, hosts, origins)
    backends.select(settings.backend)
    installed.keep()

    # 2. The model.
    with listening, ExitStack() as stack:
        pipeline, weights = loaded(model, options)
        drawing = stack.enter_context(beside.beside(pipeline))

        import keras

        from keras_sd.adapters.tagged import adapter_names
        from keras_sd.serve.about import About
        from keras_sd.serve.app import make_app
        from keras_sd.serve.limits import Limits
        from keras_sd.serve.listen import serve as run

        limits = Limits.of(
            drawing.model.defaults, pixels=max_pixels, steps=max_steps, images=max_images
        )
        about = About.of(
            drawing.model,
            limits,
            name=name_of(model),
            backend=keras.backend.backend(),
            loading={
                name: value.name if isinstance(value, Path) else value
                for name, value in (options | beside.made()).items()
                if name != "low_memory"
            },
            weights=_later(weights),
            adapters=() if adapters_dir is None else adapter_names(adapters_dir),
        )
        bounds: dict[str, Any] = {
            "max_waiting": max_waiting,
            "max_rows": max_rows,
            "max_wait": max_wait,
            "max_run": max_run,
        }
        source: Source
        if ray:
            from keras_sd.serve.on_ray import RaySource

            place = Path(model).absolute() if os.path.exists(model) else model
            source = RaySource(
                drawing.model,
                place,
                options,
                replicas=replicas,
                address=ray_address,
                **bounds,
            )
        else:
            from keras_sd.serve.engine import Engine

            source = Engine(drawing.model, **bounds)
        # 3. The server.
        app = make_app(source, about, rules, warm_up=warm_up, grace=grace)
        address = f"http://{_shown(host)}:{port}/"

        def said() -> None:
            typer.echo(f"{address}?token={quote(token)}" if token else address)
            say(f"{about.name} on {about.backend}; the API: {address}docs; Ctrl-C ends it")

        run(app, listening, said)


def name_of(model: str) -> str:
    """What the server calls a model: of a path, the file's stem; a path is nobody's business."""
    if model.startswith("hf://"):
        return model.removeprefix("hf://").partition("@")[0]
    name = Path(model).name or model
    return name.removesuffix(".safetensors").removesuffix(".ckpt")


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _needs_extra() -> None:
    """Raises: ValueError: the extra `web` is not installed."""
    from importlib.util import find_spec

    needed = ("starlette", "uvicorn", "python_multipart", "greenlet")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the server needs {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed: "
            'pip install "keras-sd[web]"'
        )


def _later(read: Callable[[], dict[str, str]]) -> Callable[[], dict[str, str]]:
    """What gives `{}` until a slow reading is done."""
    known: dict[str, Any] = {}
    # A daemon, so that Ctrl-C does not wait for gigabytes.
    Thread(target=lambda: known.update(read()), daemon=True).start()
    return lambda: dict(known)
