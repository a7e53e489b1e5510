"""Trains the embedded model `emoji` on one GPU within minutes, on JAX.

    python3 -m recipes.emoji.train --bank bank.zip --subjects subjects.json --merges merges.txt \
        --out OUT --seconds 520

The pictures are composed on the GPU, the captions are made by the other processor cores, and the
learning rate follows the clock: whatever the card does in the time is what there is. `OUT` gets the
weights (a running average, float16) in files of at most 15 MiB, facts, a log, and sheets of
pictures of every subject, measured: at most 8 files. `preset.py` makes a preset of them, from which
`--start` goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.emoji.log import write_to


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked before anything begins."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("bank", "subjects", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--merges", type=Path, help="of the tokenizer; with --start, its own")
    parser.add_argument("--start", type=Path, help="a preset folder to go on from, int8 or float16")
    parser.add_argument("--seconds", type=float, default=520, help="of the whole run")
    parser.add_argument(
        "--autoencoder-share",
        type=float,
        default=0.35,
        help="of the training; 0, with --start, leaves the autoencoder as it is",
    )
    parser.add_argument("--scenes", type=int, default=524_288)
    parser.add_argument("--autoencoder-batch", type=int, default=192)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--scan", type=int, default=20, help="steps of one compiled program")
    parser.add_argument("--autoencoder-rate", type=float, help="1.5e-3; with --start, 5e-4")
    parser.add_argument("--rate", type=float, help="1.2e-3; with --start, 8e-4")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tail", type=float, default=45, help="seconds kept for measuring")
    parser.add_argument("--state", type=Path, help="weights and moments: read if there, written")
    parser.add_argument("--tiny", action="store_true", help="a model for trying the program")
    options = parser.parse_args(arguments)
    if options.scenes % 256:
        parser.error(f"--scenes {options.scenes} is not a multiple of 256")
    if not 0 <= options.autoencoder_share < 1:
        parser.error(f"--autoencoder-share {options.autoencoder_share} is not in [0, 1)")
    if options.start is None:
        if options.merges is None:
            parser.error("--merges or --start is missing: the tokenizer needs the one or the other")
        if not options.autoencoder_share:
            parser.error("--autoencoder-share 0 needs a trained autoencoder: --start")
    else:
        own = options.start / "merges.txt"
        if options.merges and options.merges.read_bytes() != own.read_bytes():
            parser.error(
                f"--merges {options.merges} are not those of {options.start}: leave it out"
            )
        options.merges = own
    rates = (1.5e-3, 1.2e-3) if options.start is None else (5e-4, 8e-4)
    options.autoencoder_rate = options.autoencoder_rate or rates[0]
    options.rate = options.rate or rates[1]
    return options


@contextmanager
def workers(count: int) -> Iterator:
    """A pool of processes that make arrays, on the CPU alone."""
    before = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    pool = multiprocessing.get_context("spawn").Pool(count)
    if before is None:
        del os.environ["JAX_PLATFORMS"]
    else:
        os.environ["JAX_PLATFORMS"] = before
    try:
        yield pool
    finally:
        pool.terminate()


def main() -> None:
    options = options_of()
    options.out.mkdir(parents=True, exist_ok=True)
    write_to(options.out / "log.txt")
    os.environ["KERAS_BACKEND"] = "jax"
    with workers(options.workers) as pool:  # they begin while this process imports JAX
        from recipes.emoji.run import Run

        Run(options, pool).run()


if __name__ == "__main__":
    main()
