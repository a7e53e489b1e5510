"""What leaving evaluations out gains and costs: time, and pictures, beside the whole run.

    KERAS_BACKEND=jax python benchmarks/fewer_evaluations.py
    KERAS_BACKEND=torch python benchmarks/fewer_evaluations.py --model sd15/ --size 512 --steps 20
    KERAS_BACKEND=torch python benchmarks/fewer_evaluations.py --unet --size 512

Eight prompts, a seed each. The ways take turns, `--repeat` times; times are medians of ratios to
the plain run of the same turn. The difference is the mean absolute one over all pixels, of 255.
Right is a picture of the embedded model that shows the subject and the background that were asked
for, as `keras_sd.training.measure` judges; of other models nobody judges. The last line is another
seed: how far apart two good pictures of a prompt are.

With `--unet` there is no picture: one evaluation of the UNet of Stable Diffusion 1.5 alone, of two
rows and with random weights, plain and with each ratio of token merging.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from functools import partial
from typing import Any

import numpy as np
from keras import ops

import keras_sd
from keras_sd.backend import compile_step, to_numpy
from keras_sd.config import SD_1
from keras_sd.networks import UNet
from keras_sd.training.measure import backgrounds, subjects
from keras_sd.training.pictures import Pictures, caption

ASKED = (
    ("cat face", "blue"),
    ("frog face", "green"),
    ("red apple", "white"),
    ("strawberry", "yellow"),
    ("rocket", "red"),
    ("banana", "purple"),
    ("tomato", "white"),
    ("panda face", "orange"),
)
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    **{f"feature_caching={n}": {"feature_caching": n} for n in (2, 3, 5)},
    **{f"adaptive_guidance={least}": {"adaptive_guidance": least} for least in (0.999, 0.99, 0.97)},
    "guidance_interval=(0.2, 5.0)": {"guidance_interval": (0.2, 5.0)},
    "feature_caching=2, adaptive_guidance=0.99": {"feature_caching": 2, "adaptive_guidance": 0.99},
    **{f"token_merging={ratio}": {"token_merging": ratio} for ratio in (0.25, 0.5, 0.75)},
    "freeu=(1.2, 1.3, 0.9, 0.6)": {"freeu": (1.2, 1.3, 0.9, 0.6)},
    "another seed": {"seed": 1},
}


def draw(pipeline: Any, asked: list[tuple[str, str]], **settings: Any) -> np.ndarray:
    """A picture of each."""
    prompts = [caption(*pair) for pair in asked]
    made = [
        pipeline.text_to_image(prompt, first_image=number, **{"seed": 0, **settings})
        for number, prompt in enumerate(prompts)
    ]
    return np.concatenate([np.asarray(each) for each in made])


def right(pictures: dict[str, np.ndarray], asked: list[tuple[str, str]]) -> dict[str, str]:
    """How many of each way show what was asked for; at once, since renderings take their time."""
    images = np.concatenate(list(pictures.values()))
    colours = backgrounds(images)
    shown = list(zip(subjects(images, colours, Pictures()), colours, strict=True))
    count = len(asked)
    rows = {name: shown[i * count : (i + 1) * count] for i, name in enumerate(pictures)}
    return {
        name: f"{sum(one == other for one, other in zip(row, asked, strict=True))} of {count}"
        for name, row in rows.items()
    }


def evaluations(side: int, repeat: int) -> None:
    """Prints the processor time of an evaluation of Stable Diffusion 1.5's UNet with tokens merged,
    beside a plain one; other work on the machine disturbs it less than a clock.

    Args:
        side: of the picture, in pixels.
        repeat: how often each is timed, in turns.
    """
    unet, rng = UNet(SD_1.unet), np.random.default_rng(0)
    cells = side // SD_1.autoencoder.factor
    shapes = (2, cells, cells, SD_1.unet.in_channels), (2,), (2, 77, SD_1.unet.context_width)
    given = [
        ops.convert_to_tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes
    ]
    ratios = (0.0, 0.25, 0.5, 0.75)
    steps = {each: compile_step(partial(unet, merging=each), [unet]) for each in ratios}
    times: dict[float, list[float]] = {ratio: [] for ratio in ratios}
    for turn in range(repeat + 1):
        for ratio, step in steps.items():
            began = time.process_time()
            to_numpy(step(*given))
            if turn:  # the first compiles
                times[ratio].append(time.process_time() - began)
    seconds = statistics.median(times[0.0])
    print(f"{cells}x{cells}, {keras_sd.backend.NAME}: plain, {seconds:.2f} s an evaluation\n")
    print("| token_merging | time |\n|---|---|")
    for ratio in ratios:
        beside = [own / all_ for own, all_ in zip(times[ratio], times[0.0], strict=True)]
        print(f"| {ratio:g} | {statistics.median(beside):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--size", type=int, help="side in pixels; by itself the model's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=len(ASKED))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ways", default="", help="those alone whose names begin so, and plain")
    parser.add_argument("--unet", action="store_true", help="an evaluation of a large UNet alone")
    args = parser.parse_args()
    if args.unet:
        return evaluations(args.size or 512, args.repeat)
    ways = {
        name: way for name, way in WAYS.items() if name == "plain" or name.startswith(args.ways)
    }

    pipeline = keras_sd.StableDiffusion.from_preset(args.model)
    given: dict[str, Any] = {"num_steps": args.steps}
    if args.size is not None:
        given |= {"height": args.size, "width": args.size}
    asked = list(ASKED[: args.prompts])
    pictures = {}
    for name, settings in ways.items():  # and all is compiled
        pictures[name] = draw(pipeline, asked, **given, **settings)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeat):
        for name, settings in ways.items():
            began = time.perf_counter()
            draw(pipeline, asked, **given, **settings)
            times[name].append(time.perf_counter() - began)

    judged = right(pictures, asked) if args.model == "emoji" else {}
    backend, plain = keras_sd.backend.NAME, pictures["plain"].astype(int)
    seconds = statistics.median(times["plain"])
    print(
        f"{args.model}, {args.steps} steps, {backend} on {platform.processor() or 'a CPU'}: plain, "
        f"{seconds / len(asked):.2f} s a picture\n"
    )
    print("| setting | time | difference, of 255 | right |\n|---|---|---|---|")
    for name in ways:
        ratios = [own / all_ for own, all_ in zip(times[name], times["plain"], strict=True)]
        apart = np.abs(pictures[name].astype(int) - plain).mean()
        ratio = statistics.median(ratios)
        print(f"| `{name}` | {ratio:.2f} | {apart:.1f} | {judged.get(name, '')} |")


if __name__ == "__main__":
    main()
