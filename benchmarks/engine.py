"""How much the engine gains: pictures a second of N requests at once, and of one after the other.

    KERAS_BACKEND=jax python benchmarks/engine.py
    KERAS_BACKEND=torch python benchmarks/engine.py --model sd15/ --size 256 --steps 4 --counts 4

Requests differ in prompt, seed, sampler, steps and guidance. Each number is the median of some
runs, in which the two ways take turns. At the end the queue is kept full by clients that come back
at once, and it is told how long requests waited.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import keras_sd
from keras_sd.forms import request_of
from keras_sd.request import Request
from keras_sd.run import run
from keras_sd.serve.engine import Engine, QueueFull

SAMPLERS = ("dpmpp_2m", "euler_ancestral", "heun", "dpmpp_sde", "ddim", "pndm", "lcm", "unipc")
PROMPTS = ("a cat face on a blue background", "a rocket", "a red apple on white", "a frog face")


def requests(count: int, steps: int, size: int | None) -> list[Request]:
    """Requests that have little in common."""
    given = {} if size is None else {"height": size, "width": size}
    return [
        request_of(
            PROMPTS[i % len(PROMPTS)],
            seed=i,
            sampler=SAMPLERS[i % len(SAMPLERS)],
            num_steps=steps - i % 3,
            guidance_scale=2.0 + i % 4,
            **given,
        )
        for i in range(count)
    ]


def alone(model: keras_sd.model.Model, asked: list[Request]) -> list[np.ndarray]:
    """One after the other, as `pipeline.draw` does."""
    pictures = []
    for request in asked:
        *_, last = run(model, request)
        pictures.append(np.asarray(last.image())[0])
    return pictures


def together(engine: Engine, asked: list[Request]) -> list[np.ndarray]:
    """Through the engine."""
    jobs = [engine.submit(request) for request in asked]
    return [np.asarray(job.result())[0] for job in jobs]


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def waits(engine: Engine, asked: list[Request], clients: int, length: float) -> dict[str, float]:
    """What clients see that ask again as soon as they have a picture or a refusal."""
    end, spans, refused, lock = time.monotonic() + length, [], [0], threading.Lock()

    def client(number: int) -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                engine.submit(asked[number % len(asked)]).result()
            except QueueFull as full:
                with lock:
                    refused[0] += 1
                time.sleep(min(full.retry_after, 1.0))
            else:
                with lock:
                    spans.append(time.monotonic() - began)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(spans)
    return {
        "clients": clients,
        "pictures": len(spans),
        "refused": refused[0],
        "pictures a second": len(spans) / length,
        "p50 s": ordered[len(ordered) // 2],
        "p95 s": ordered[int(0.95 * (len(ordered) - 1))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--size", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="with a full queue; 0 is none")
    options = parser.parse_args()

    model = keras_sd.StableDiffusion.from_preset(options.model).model
    rows = []
    for count in options.counts:
        asked = requests(count, options.steps, options.size)
        with Engine(model, max_rows=count, max_waiting=count) as engine:
            one, other = alone(model, asked), together(engine, asked)
            apart = max(
                int(np.abs(a.astype(int) - b).max()) for a, b in zip(one, other, strict=True)
            )
            times = [
                (seconds(partial(alone, model, asked)), seconds(partial(together, engine, asked)))
                for _ in range(options.runs)
            ]
        first, second = (statistics.median(column) for column in zip(*times, strict=True))
        gains = sorted(a / b for a, b in times)
        rows.append(
            {
                "requests": count,
                "one after the other, s": first,
                "at once, s": second,
                "gain": statistics.median(gains),
                "gain from to": [gains[0], gains[-1]],
                "pictures a second": count / second,
                "at most apart": apart,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    told = {
        "backend": keras_sd.backend.NAME,
        "machine": platform.processor() or platform.machine(),
        "model": options.model,
        "steps": options.steps,
        "runs": options.runs,
        "rows": rows,
    }
    if options.seconds:
        asked = requests(8, options.steps, options.size)
        with Engine(model, max_rows=8, max_waiting=8) as engine:
            engine.warm_up()
            together(engine, asked)
            told["full queue"] = waits(engine, asked, 24, options.seconds)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
