"""A whole benchmark: from what was asked for to the files with the answer."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Collection
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comparison import plot, table
from comparison.cases import VARIANTS, Case, cases_of, notes_of
from comparison.model import (
    Model,
    make,
    noise_of,
    refusal_of_keras_cv,
    write_for_keras_cv,
)
from comparison.runs import Results, RunError, machine, measure, run_worker
from comparison.systems import Job
from keras_sd.config import check_size
from keras_sd.files import replace_file
from keras_sd.image import save_png

RESULTS, TABLE, PLOT, WORK, PICTURES = "results.json", "table.md", "plot.png", "work", "pictures"
"""What is in the folder: everything, as JSON; the table; the plot; what is gone in the end; and the
first picture of each row."""

_PROMPTS = {"emoji": "a cat face on a blue background"}
_PROMPT = "a photograph of an astronaut riding a horse"

Run = Callable[[str, Job, str, float], dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Attributes:
        model: `"emoji"`, one of `model.RANDOM`, or anything that `from_preset` takes.
        output: a folder that is not there yet, or is empty.
        pythons: the interpreter of each system, of `cases.SYSTEMS`.
        backends: of keras_sd, at least one, each installed.
        variants: of `cases.VARIANTS`.
        dtype: the policy of the mixed rows.
        prompt: what to draw; None is one that fits the model.
        batch: pictures at a time.
        height: in pixels; None is the model's.
        width: likewise.
        steps: None is the model's.
        seed: of the noise.
        runs: processes for each row.
        warm: pictures in each, after the first and before the one whose parts are timed.
        threads: processors for each.
        timeout: seconds after which a run has failed.
        twice: measure the first row twice, to see what differences mean nothing.
        keep: keep the weights that were written.
    """

    model: str
    output: Path
    pythons: dict[str, str]
    backends: tuple[str, ...]
    threads: int
    variants: tuple[str, ...] = tuple(VARIANTS)
    dtype: str = "mixed_float16"
    prompt: str | None = None
    batch: int = 1
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    seed: int = 0
    runs: int = 5
    warm: int = 1
    timeout: float = 3600.0
    twice: bool = False
    keep: bool = False


def benchmark(
    settings: Settings,
    say: Callable[[str], object],
    done: Callable[[Case, str | None], object],
    run: Run = run_worker,
) -> Results:
    """Measures, and writes the files; JSON and table after each run, so that nothing is lost.

    Args:
        settings: what is asked for.
        say: is given lines for whoever waits.
        done: called after each run with its case and the reason why it failed, if it did.
        run: starts a worker.

    Returns:
        What `results.json` holds.

    Raises:
        FileExistsError: there is something in the output folder already.
        ValueError: a size that does not work.
        OSError: not enough room for the weights.
    """
    for name in ("height", "width"):
        if (size := getattr(settings, name)) is not None:
            check_size(name, size)
    systems, output = settings.pythons, settings.output
    cases = cases_of(
        systems, settings.backends, settings.variants, settings.dtype, twice=settings.twice
    )
    if not cases:
        raise ValueError("There is no such row: torch and diffusers have none with XLA.")
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} has files already; take another folder")
    (output / PICTURES).mkdir(parents=True, exist_ok=True)
    with _work_folder(output / WORK, settings.keep) as work:
        say(f"the weights of {settings.model}")
        model = make(settings.model, work / "model", for_diffusers="diffusers" in systems)
        workers = _Workers(settings, model, work, run)
        notes = []
        if "keras_cv" in systems:
            reason = refusal_of_keras_cv(model.config, workers.height, workers.width)
            if reason is None:
                workers.weights = write_for_keras_cv(model, work / "keras_cv")
            else:
                notes.append(f"There is no row of KerasCV, which cannot draw this: {reason}.")
                cases = [case for case in cases if case.system != "keras_cv"]
        notes += notes_of(cases, settings.variants)
        say("the reference pictures")
        author, references = workers.references({case.system for case in cases}, notes)
        results: Results = {
            "settings": workers.shown,
            "machine": machine(settings.threads),
            "reference": author,
            "notes": notes,
        }

        def changed(case: Case, error: str | None) -> None:
            _write(output / RESULTS, json.dumps(results, indent=1) + "\n")
            _write(output / TABLE, table.markdown(results))
            done(case, error)

        measure(cases, settings.runs, results, workers.measured, references, changed)
    try:
        plot.save(results, output / PLOT)
    except ImportError:
        say('no plot, for matplotlib is not installed: pip install "keras-sd[plot]"')
    return results


class _Workers:
    """Starts workers with what is the same for all of them."""

    def __init__(self, settings: Settings, model: Model, work: Path, run: Run):
        defaults = model.config.defaults
        self.height = settings.height or defaults.height
        self.width = settings.width or defaults.width
        self.weights: dict[str, str] = {}
        self._settings, self._model, self._run = settings, model, run
        self._steps = settings.steps or defaults.num_steps
        self._prompt = settings.prompt or _PROMPTS.get(settings.model, _PROMPT)
        self._noise, self._picture = work / "noise.npy", work / "picture.npy"
        noise = noise_of(model.config, settings.seed, settings.batch, self.height, self.width)
        np.save(self._noise, noise)

    @property
    def shown(self) -> dict[str, Any]:
        """The settings, with what was left to the model."""
        return {
            **asdict(self._settings),
            "output": str(self._settings.output),
            "model": Path(self._settings.model).name,
            "height": self.height,
            "width": self.width,
            "steps": self._steps,
            "prompt": self._prompt,
            "guidance": self._model.config.defaults.guidance_scale,
            "pythons": sorted(self._settings.pythons),
        }

    def references(
        self, systems: Collection[str], notes: list[str]
    ) -> tuple[str, dict[str, np.ndarray]]:
        """Who draws the right pictures, and those pictures by the name of the system.

        They are drawn in float32: by diffusers, if it is measured, for it is nobody's child here,
        else by keras_sd; for KerasCV by keras_sd as KerasCV computes.
        """
        backend = self._settings.backends[0]
        ours = Case("keras_sd", backend, "xla" if backend == "jax" else "standard", "float32")
        theirs = Case("diffusers", "torch", "standard", "float32")
        author = theirs if "diffusers" in systems else ours
        wanted: dict[str, tuple[Case, str | None]] = {
            name: (author, None) for name in ("keras_sd", "diffusers") if name in systems
        }
        found: dict[str, np.ndarray] = {}
        drawn: dict[Any, np.ndarray] = {}
        if "keras_cv" in systems:
            wanted["keras_cv"] = (ours, "keras_cv")
        for system, (case, compat) in wanted.items():
            try:
                if (case, compat) not in drawn:
                    drawn[case, compat] = self.drawn(case, warm=0, compat=compat)[1]
                found[system] = drawn[case, compat]
            except RunError as error:
                notes.append(f"No reference for {system}'s pictures: {error}")
        return author.program, found

    def measured(self, case: Case) -> tuple[dict[str, Any], np.ndarray]:
        """One run of a case; its first picture is kept."""
        found, pictures = self.drawn(case, warm=self._settings.warm)
        path = self._settings.output / PICTURES / f"{case.slug}.png"
        if not path.exists():
            save_png(path, pictures[0], {"prompt": self._prompt, "case": case.name})
        return found, pictures

    def drawn(
        self, case: Case, *, warm: int, compat: str | None = None
    ) -> tuple[dict[str, Any], np.ndarray]:
        """What a worker says, and its pictures."""
        settings, config = self._settings, self._model.config
        python = settings.pythons.get(case.system, sys.executable)
        job = Job(
            system=case.system,
            dtype=case.dtype,
            xla=case.xla,
            model=str(self._model.path.resolve()),
            prompt=self._prompt,
            batch=settings.batch,
            height=self.height,
            width=self.width,
            steps=self._steps,
            guidance=config.defaults.guidance_scale,
            final_sigma=config.noise.final_sigma,
            noise=str(self._noise.resolve()),
            picture=str(self._picture.resolve()),
            threads=settings.threads,
            warm=warm,
            compat=compat,
            tokens=self._tokens(),
            weights={name: str(Path(path).resolve()) for name, path in self.weights.items()},
            version=2 if config.unet.linear_projection else 1,
        )
        found = self._run(python, job, case.backend, settings.timeout)
        return found, np.load(self._picture)

    def _tokens(self) -> list[int]:
        """Of the prompt, as KerasCV has them: it fills up with the end token in 2.x too."""
        padded = self._model.tokenizer(self._prompt)[0].tolist()
        end = max(padded)  # CLIP's last token
        return padded[: padded.index(end) + 1]


@contextmanager
def _work_folder(folder: Path, keep: bool):
    folder.mkdir()
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
