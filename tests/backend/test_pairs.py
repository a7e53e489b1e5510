"""Every pair of what a run can be: door, kind of sampler, resamples, rules, dtype and start.

A fault often needs two of them, and seldom more: so each pair of values meets in some run.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
from test_pipeline import TINY, differ, make

from keras_sd import compat, precision
from keras_sd.request import Request

pytestmark = pytest.mark.usefixtures("without_tracing")

FACTORS = {
    "door": ("text", "image", "inpaint", "nine channels"),
    "sampler": ("ddim", "euler_ancestral", "dpmpp_sde", "dpmpp_2m", "pndm"),
    "resamples": (1, 2),
    "rules": (None, "keras_cv==0.4", "keras_cv==0.9"),
    "dtype": ("float32", "mixed_float16", "mixed_bfloat16"),
    "start": ("seed", "given noise", "seeds of their own"),
}
NAMES = tuple(FACTORS)
RNG = np.random.default_rng(6)
PICTURE = RNG.integers(0, 256, (32, 24, 3), np.uint8)
MASK = np.zeros((32, 24), np.uint8)
MASK[8:20, 8:] = 255
NOISE = RNG.standard_normal((2, 8, 6, 4))


def can_be(run: dict) -> bool:
    """Only ordinary models that inpaint take a step again."""
    return run["resamples"] == 1 or run["door"] == "inpaint"


def pairs_of(run: dict) -> set:
    return {((a, run[a]), (b, run[b])) for a, b in combinations(NAMES, 2)}


def covering() -> list[dict]:
    """Few runs in which every pair that can be meets: the one with the most new ones, in turn."""
    runs = [dict(zip(NAMES, values, strict=True)) for values in product(*FACTORS.values())]
    runs = [run for run in runs if can_be(run)]
    missing = set().union(*map(pairs_of, runs))
    chosen = []
    while missing:
        best = max(runs, key=lambda run: len(pairs_of(run) & missing))
        chosen.append(best)
        missing -= pairs_of(best)
    return chosen


RUNS = covering()


def test_the_runs_are_few_and_have_every_pair():
    met = set().union(*map(pairs_of, RUNS))
    everything = {
        ((a, x), (b, y))
        for a, b in combinations(NAMES, 2)
        for x, y in product(FACTORS[a], FACTORS[b])
    }
    impossible = {
        (("door", door), ("resamples", 2)) for door in FACTORS["door"] if door != "inpaint"
    }
    assert everything - met == impossible
    assert len(RUNS) < 30


@cache
def pipeline_of(nine: bool, rules: str | None, dtype: str):
    config = replace(TINY, name="nine", unet=replace(TINY.unet, in_channels=9)) if nine else TINY
    version = compat.get(rules)
    with precision.policy_scope(dtype):
        # To compile each of them takes longer than all of the runs.
        return make(
            version.config(config) if version else config, compat=version, jit_compile=False
        )


def apart(one, other):
    return np.abs(one.astype(int) - other).mean()


@pytest.mark.parametrize("run", RUNS, ids=lambda run: "-".join(map(str, run.values())))
@pytest.mark.thorough
def test_each_pair_of_what_a_run_can_be(run):
    nine = run["door"] == "nine channels"
    pipeline = pipeline_of(nine, run["rules"], run["dtype"])
    given = {"batch_size": 2, "num_steps": 2, "sampler": run["sampler"]}
    if run["door"] != "text":
        given |= {"image": PICTURE, "strength": 0.6}
    if run["door"] in ("inpaint", "nine channels"):
        given |= {"mask": MASK, "num_resamples": run["resamples"], "strength": 1.0}
    if run["start"] == "given noise":
        given["diffusion_noise"] = NOISE
    request = pipeline.request(["a cat"], **given)
    if run["start"] == "seeds of their own":
        request = replace(request, images=((7, 1), (8, 0)))
    elif run["start"] == "seed":
        request = replace(request, images=((7, 0), (7, 1)))

    images = pipeline.draw(request)
    assert images.shape == (2, 32, 24, 3)
    assert images.dtype == np.uint8
    assert differ(images[0], images[1]) > 2
    if "mask" in given:
        kept = MASK == 0
        assert (images[:, kept] == PICTURE[kept]).all()
        assert (images[:, ~kept] != PICTURE[~kept]).mean() > 0.5

    # What the pictures say of themselves makes them again: all of them, and one of them alone.
    arrays = [each.data for each in request.attachments()]
    again = Request.from_json(images.request.to_json()).attached(arrays)
    np.testing.assert_array_equal(images, pipeline.draw(again))
    alone = pipeline.draw(images[1].request)
    # In 16 bits the rounding of a batch may grow in some pixel, but not in the whole picture.
    rounding = {"float32": 0.001, "mixed_float16": 0.02, "mixed_bfloat16": 0.2}[run["dtype"]]
    assert apart(alone, images[1:]) < rounding * apart(images[:1], images[1:])
