"""A server on loopback under twice the load that it can take.

    KERAS_BACKEND=jax python benchmarks/serve_load.py --seconds 120

Starts `keras-sd serve`, measures what it draws a second, then sends twice as many requests as that,
each at a random moment, whether or not earlier ones are answered. Told are the answers by status,
pictures that came twice or not at all, the server's memory over time, and how long a cancel took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

FIELDS = {"prompt": "a cat face on a blue background", "steps": 10}


def memory(process: int) -> float:
    """Resident MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


async def ask(client: httpx.AsyncClient, seed: int) -> tuple[int, int | None]:
    """The status, and the seed that the answer is of."""
    answer = await client.post("/sdapi/v1/txt2img", json={**FIELDS, "seed": seed})
    if answer.status_code != 200:
        assert answer.headers.get("retry-after"), answer.text
        return answer.status_code, None
    return 200, json.loads(answer.json()["info"])["seed"]


async def capacity(client: httpx.AsyncClient, length: float) -> float:
    """Pictures a second, with eight clients that ask again at once."""
    end, count = time.monotonic() + length, 0

    async def one(number: int) -> None:
        nonlocal count
        while time.monotonic() < end:
            status, _ = await ask(client, number)
            count += status == 200

    began = time.monotonic()
    await asyncio.gather(*(one(i) for i in range(8)))
    return count / (time.monotonic() - began)


async def flood(
    client: httpx.AsyncClient, rate: float, length: float, process: int
) -> dict[str, object]:
    """What becomes of requests that come at random moments."""
    statuses: Counter[int] = Counter()
    seeds: Counter[int] = Counter()
    spans: list[float] = []
    levels: list[float] = []
    random.seed(0)

    async def one(seed: int) -> None:
        began = time.monotonic()
        status, made = await ask(client, seed)
        statuses[status] += 1
        if status == 200:
            assert made == seed, (made, seed)
            seeds[seed] += 1
            spans.append(time.monotonic() - began)

    tasks, end, number = [], time.monotonic() + length, 0
    told = time.monotonic()
    while time.monotonic() < end:
        number += 1
        tasks.append(asyncio.create_task(one(number)))
        await asyncio.sleep(random.expovariate(rate))
        if time.monotonic() > told:
            levels.append(memory(process))
            told += length / 12
    await asyncio.gather(*tasks)
    levels.append(memory(process))
    ordered = sorted(spans)
    return {
        "asked": number,
        "answers": dict(statuses),
        "lost": number - sum(statuses.values()),
        "twice": sum(count > 1 for count in seeds.values()),
        "drawn a second": statuses[200] / length,
        "p50 s": round(ordered[len(ordered) // 2], 2),
        "p95 s": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "MB over time": [round(level) for level in levels],
    }


async def cancel(client: httpx.AsyncClient) -> dict[str, float]:
    """How long a request that is cancelled goes on, beside how long a step takes."""
    made = (await client.post("/api/requests", json={"prompt": "x", "num_steps": 150})).json()
    place = f"/api/requests/{made['id']}"
    while not (state := (await client.get(place)).json()).get("step"):
        await asyncio.sleep(0.01)
    before, began = state["step"], time.monotonic()
    await asyncio.sleep(0.5)
    step = 0.5 / max(1, (await client.get(place)).json()["step"] - before)
    began = time.monotonic()
    await client.delete(place)
    while (await client.get("/metrics")).text.count("keras_sd_rows 0") == 0:
        await asyncio.sleep(0.002)
    return {"step s": round(step, 3), "cancel s": round(time.monotonic() - began, 3)}


async def measured(address: str, process: int, length: float) -> dict[str, object]:
    limits = httpx.Limits(max_connections=1000)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        while (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.2)
        await capacity(client, 5)
        most = await capacity(client, 20)
        told: dict[str, object] = {"capacity, pictures a second": round(most, 2)}
        told |= await flood(client, 2 * most, length, process)
        await asyncio.sleep(1)
        told |= await cancel(client)
        return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    command = [sys.executable, "-m", "keras_sd.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            told = asyncio.run(measured(address, server.pid, options.seconds))
        finally:
            server.terminate()
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
