"""What leaving evaluations out gains and costs: time, and pictures, beside the whole run.

    KERAS_BACKEND=jax python benchmarks/fewer_evaluations.py
    KERAS_BACKEND=torch python benchmarks/fewer_evaluations.py --model sd15/ --size 512 --steps 20

Eight prompts, a seed each. The ways take turns, `--repeat` times; times are medians of ratios to
the plain run of the same turn. The difference is the mean absolute one over all pixels, of 255.
Right is a picture of the embedded model that shows the subject and the background that were asked
for, as `keras_sd.training.measure` judges; of other models nobody judges. The last line is another
seed: how far apart two good pictures of a prompt are.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from typing import Any

import numpy as np

import keras_sd
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--size", type=int, help="side in pixels; by itself the model's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=len(ASKED))
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    pipeline = keras_sd.StableDiffusion.from_preset(args.model)
    given: dict[str, Any] = {"num_steps": args.steps}
    if args.size is not None:
        given |= {"height": args.size, "width": args.size}
    asked = list(ASKED[: args.prompts])
    pictures = {}
    for name, settings in WAYS.items():  # and all is compiled
        pictures[name] = draw(pipeline, asked, **given, **settings)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(args.repeat):
        for name, settings in WAYS.items():
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
    for name in WAYS:
        ratios = [own / all_ for own, all_ in zip(times[name], times["plain"], strict=True)]
        apart = np.abs(pictures[name].astype(int) - plain).mean()
        ratio = statistics.median(ratios)
        print(f"| `{name}` | {ratio:.2f} | {apart:.1f} | {judged.get(name, '')} |")


if __name__ == "__main__":
    main()
