"""A training, from its config to its files: `train`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sd.backend import NAME, supplied
from keras_sd.checks import SettingError
from keras_sd.config import MAX_BLOCKS, MAX_LEVELS
from keras_sd.controls import Control
from keras_sd.forms import request_of
from keras_sd.hints import HINTS
from keras_sd.lock import lock
from keras_sd.model import Model
from keras_sd.prompts.names import Names
from keras_sd.run import run
from keras_sd.tokenizer import Tokenizer
from keras_sd.training import callbacks
from keras_sd.training.batches import Batches, Samples, tokens_of
from keras_sd.training.buckets import Buckets
from keras_sd.training.config import TrainConfig, read_config
from keras_sd.training.control import ControlTrainer, HintedBatches, Hints
from keras_sd.training.examples import RUN, Example, ExamplesError, read_examples
from keras_sd.training.latents import cache_latents, digest_of
from keras_sd.training.learned import Learned, learned_of
from keras_sd.training.objective import Objective
from keras_sd.training.optimizer import averages_of, make_optimizer, make_schedule
from keras_sd.training.prior import draw_prior, read_prior
from keras_sd.training.state import check_run, load_state, note_run
from keras_sd.training.trainer import DenoiserTrainer, only
from keras_sd.weights.presets import here, open_preset
from keras_sd.weights.vocabulary import tokenizers_of

__all__ = ["Result", "check", "train"]

logger = logging.getLogger("keras_sd")

_LINE_EVERY = 10.0
_BLOCKS_OF_THE_UNET = (
    "middle",
    "middle_residual",
    *(
        f"{way}_{level}_{i}"
        for way in ("down", "up")
        for level in range(MAX_LEVELS)
        for i in range(MAX_BLOCKS + 1)
    ),
)


@dataclass(frozen=True)
class Result:
    """What a training has made.

    Attributes:
        files: paths of the weights: a folder, or files; empty where it was stopped before.
        averaged: likewise, of the averaged weights; empty where there are none.
        batches: of the whole run.
        losses: of the batches of this call, in their order.
    """

    files: tuple[Path, ...]
    averaged: tuple[Path, ...]
    batches: int
    losses: tuple[float, ...]


def check(config: TrainConfig | str | Path) -> tuple[TrainConfig, list[Example]]:
    """Looks at all that can be wrong with a training before a model is loaded.

    Args:
        config: of the training, or the path of its TOML file.

    Returns:
        The config, and the pictures.

    Raises:
        ValueError: a setting does not fit, or a picture cannot be trained on (`ExamplesError`).
        FileNotFoundError: there is no such file or folder.
        ImportError: what is asked for needs a package that is not installed.
    """
    if not isinstance(config, TrainConfig):
        config = read_config(config)
    if config.log.tensorboard:
        callbacks.check_tensorboard()
    if config.train.devices == "all" and NAME != "jax":
        raise SettingError(
            "train.devices", f"is 'one' on {NAME}: Keras divides batches among devices on JAX alone"
        )
    if config.train.devices == "all":
        rows, count = config.train.batch_size, len(keras.distribution.list_devices())
        if rows % count:
            raise SettingError(
                "train.batch_size", f"is a multiple of the {count} devices, not {rows}"
            )
    hinted = config.train.method == "controlnet" and config.controlnet.ready
    examples = read_examples(
        config.data.folder,
        config.data.caption,
        hinted=hinted,
        hints=config.controlnet.folder,
        without=config.apart,
    )
    read_prior(config)
    token = config.textual_inversion.token
    if config.train.method == "textual_inversion":
        word = Names({token: (0,)})  # as the tokenizer will find it
        without = [each.name for each in examples if not word.are_in(each.caption)]
        if without:
            raise ExamplesError(
                f"{len(without)} captions do not have {token!r} as a word of its own: "
                + ", ".join(without[:10])
            )
    # The word of a textual inversion is one token in its own tokenizers, which are made of a model.
    if config.train.method != "textual_inversion" and here(config.model) is not None:
        _tokens(config, examples, tokenizers_of(open_preset(config.model)))
    return config, examples


def _tokens(
    config: TrainConfig, examples: Sequence[Example], tokenizers: Mapping[str, Tokenizer]
) -> dict[str, np.ndarray]:
    """Those of the captions, see `tokens_of`.

    Raises:
        ExamplesError: captions are longer than a text encoder reads, the prior's too.
    """
    caption = config.prior.caption
    more = [] if caption is None else [replace(examples[0], name="prior.caption", caption=caption)]
    found = tokens_of([*examples, *more], tokenizers)
    return {part: rows[: len(examples)] for part, rows in found.items()}


def train(
    config: TrainConfig | str | Path,
    *,
    report: Callable[[str], None] = logger.info,
    stop_at: int | None = None,
) -> Result:
    """Trains what a config says, and goes on where it was stopped.

    In the output are the files of `Result`, `log.csv`, `samples/`, and in `state/` what the run
    goes on from: the same losses to the bit, on the same backend and machine.

    Args:
        config: of the training, or the path of its TOML file.
        report: is called with a line when something of note happened.
        stop_at: updates after which it stops as if it were stopped: a later call goes on.

    Raises:
        ValueError: see `check`; or the model cannot be trained so, or the output has another run's
            state, or damaged state.
        FloatingPointError: a loss or a weight is not finite; the last saved state stays.
        FileNotFoundError: see `check`.
        BlockingIOError: another process is training into this output.
        OSError: a file cannot be written; the message names it.
    """
    config, examples = check(config)
    output = Path(config.output)
    state = output / RUN.parent
    state.mkdir(parents=True, exist_ok=True)
    with lock(output / ".training.lock"), _divided(config.train.devices):
        return _train(config, examples, output, report, stop_at)


def _train(
    config: TrainConfig,
    examples: list[Example],
    output: Path,
    report: Callable[[str], None],
    stop_at: int | None,
) -> Result:
    settings = config.train
    state = output / RUN.parent
    model = _model(config)
    side = config.data.resolution or model.height
    identity = _identity(config, examples, side, model)
    check_run(state, RUN.name, identity)
    learned = learned_of(model, config, examples)
    tokens = _tokens(config, examples, learned.tokenizers)
    _sheet(config, learned)
    note_run(state, RUN.name, identity)  # all is well: from here on something is made
    kinds = [(examples, tokens, 1.0)]
    if config.prior.caption is not None:
        prior = draw_prior(model, config, side, report)
        pictures = {"prior's pictures": [each.sha256 for each in prior]}
        check_run(state, "prior.json", pictures, known=[RUN.name])
        note_run(state, "prior.json", pictures)
        kinds.append((prior, tokens_of(prior, learned.tokenizers), config.prior.weight))
    folder = Path(config.data.latents or output / "latents")
    buckets = Buckets(side, not config.data.buckets)
    samples = [
        Samples(cache_latents(model, each, buckets, folder), rows, weight)
        for each, rows, weight in kinds
    ]
    report(f"{sum(len(each.latents) for each in samples)} pictures are encoded in {folder}")

    networks = {part: model.parts[part] for part in (*model.config.text_encoders, "unet")}
    objective = Objective.of(model.config.noise, settings.min_snr or None)
    supply: Callable[..., Batches] = Batches
    beside: list[Any] = []
    shown: Hints | None = None
    if learned.control is not None:
        shown = Hints(examples, samples[0].latents, HINTS.get(config.controlnet.hint))
        supply, beside = partial(HintedBatches, shown), [learned.control.network]
    with only(learned.variables, [*networks.values(), *beside]):
        if beside:
            trainer: DenoiserTrainer = ControlTrainer(networks, objective, *beside)
        else:
            trainer = DenoiserTrainer(networks, objective, learned.vectors)
        learned.learn_from(trainer)
        schedule = make_schedule(
            settings.learning_rate,
            settings.steps,
            warmup=settings.warmup,
            schedule=settings.schedule,  # type: ignore[arg-type]
        )
        trainer.compile(
            make_optimizer(
                schedule,
                weight_decay=settings.weight_decay,
                clip=settings.clip or None,
                ema=settings.ema or None,
                accumulate=settings.accumulate,
                scale_loss=settings.dtype == "mixed_float16",
            ),
            auto_scale_loss=False,
        )
        trainer.optimizer.build(trainer.trainable_variables)
        first = load_state(state / "state.safetensors", trainer)
        last = settings.steps * settings.accumulate
        until = last if stop_at is None else max(first, min(last, stop_at * settings.accumulate))
        span = callbacks.Span(first, until, settings.accumulate, schedule)
        if first:
            report(f"goes on behind step {first // settings.accumulate} of {settings.steps}")
        batches = supply(
            samples,
            model.config,
            _empty(learned),
            batch=settings.batch_size,
            seed=settings.seed,
            dropout=config.data.caption_dropout,
            first=first,
            last=until,
            ends=_ends(model, learned),
        )
        losses = callbacks.Losses(settings.dtype == "mixed_float16", span)
        meanwhile = _callbacks(config, output, span, learned, report, shown)
        _fit(trainer, batches, [*meanwhile, losses])
        files: list[Path] = []
        averages: list[Path] = []
        if until == last:
            files = learned.write(output, "")
        if until == last and averages_of(trainer.optimizer):
            with callbacks.averaged(trainer):
                averages = learned.write(output, "-ema")
    for path in (*files, *averages):
        report(f"written: {path}")
    return Result(tuple(files), tuple(averages), until, tuple(losses.found))


@contextmanager
def _divided(devices: str) -> Iterator[None]:
    """Within it, batches are divided among all devices, if that is asked for."""
    before = keras.distribution.distribution()
    if devices == "all":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _fit(trainer: DenoiserTrainer, batches: Batches, beside: Sequence[callbacks.Numbered]) -> None:
    try:
        if len(batches):
            trainer.fit(
                supplied(batches),
                callbacks=[*beside],
                shuffle=False,
                # A bar with the time left, or `Report`'s lines.
                verbose=1 if sys.stdout.isatty() else 0,
            )
    finally:
        for each in beside:
            each.close()


def _model(config: TrainConfig) -> Model:
    """The model, in the dtype of the training.

    Raises:
        ValueError: it cannot be trained here.
    """
    blocks = keras.RematScope("list_of_layers", layer_names=list(_BLOCKS_OF_THE_UNET))
    with blocks if config.train.remat else nullcontext():
        model = Model.from_preset(config.model, dtype=config.train.dtype)
    unet = model.config.unet
    what = {
        "is told an aesthetic score": unet.numbers not in (0, 6),
        "is told the guidance scale": bool(unet.guidance_width),
        "paints into pictures": model.paints,
    }
    if reasons := [name for name, is_so in what.items() if is_so]:
        raise ValueError(
            f"{model.config.name} cannot be trained here: its UNet {' and '.join(reasons)}"
        )
    return model


def _identity(
    config: TrainConfig, examples: list[Example], side: int, model: Model
) -> dict[str, Any]:
    """What the losses of a run are a function of, but for the pictures of the prior, which may not
    be there yet.
    """
    found = config.to_dict()
    found["model"] = {part: digest_of(model.parts[part]) for part in model.config.parts}
    for name in ("output", "samples", "log"):
        del found[name]
    del found["data"]["folder"], found["data"]["latents"]
    del found["prior"]["folder"], found["controlnet"]["folder"]
    found["data"]["resolution"] = side
    found["pictures"] = [
        [each.sha256, each.caption, *([each.hint.sha256] if each.hint else ())] for each in examples
    ]
    return found


def _drawn(model: Model, request: Any) -> np.ndarray:
    *_, last = run(model, request)
    return last.image()


def _empty(learned: Learned) -> dict[str, np.ndarray]:
    return {part: tokenizer([""])[0] for part, tokenizer in learned.tokenizers.items()}


def _ends(model: Model, learned: Learned) -> int | None:
    if not model.config.unet.pooled_width:
        return None
    return list(learned.tokenizers.values())[-1].end_id


def _control(learned: Learned, shown: Hints | None, count: int) -> Control | None:
    """Of sample sheets: the hints of the first pictures, over and over."""
    if shown is None:
        return None
    hints = [shown[number % len(shown)] for number in range(count)]
    return Control(learned.control, hints, resize="crop")


def _sheet(config: TrainConfig, learned: Learned, shown: Hints | None = None) -> Any:
    """The request of a sample sheet; None where none is asked for.

    Raises:
        ValueError: it cannot be drawn.
    """
    samples = config.samples
    if not samples.prompts:
        return None
    try:
        request = request_of(
            list(samples.prompts),
            seed=samples.seed,
            num_steps=samples.steps,
            height=config.data.resolution,
            width=config.data.resolution,
            control=_control(learned, shown, len(samples.prompts)),
        )
        run(learned.drawing(), request)  # which says what is wrong with it, and draws nothing yet
    except ValueError as error:
        raise ValueError(f"The pictures of [samples] cannot be drawn: {error}") from error
    return request


def _callbacks(
    config: TrainConfig,
    output: Path,
    span: callbacks.Span,
    learned: Learned,
    report: Callable[[str], None],
    shown: Hints | None,
) -> list[callbacks.Numbered]:
    log, samples = config.log, config.samples
    state = output / RUN.parent / "state.safetensors"
    found: list[callbacks.Numbered] = []
    if log.csv:
        found.append(callbacks.CSVLog(output / "log.csv", span))
    if log.tensorboard:
        found.append(callbacks.TensorBoardLog(output / "tensorboard", span))
    # The logs have a batch before a state has it, behind which nothing is made again.
    found.append(callbacks.SaveState(state, log.save_every, span))
    if (request := _sheet(config, learned, shown)) is not None:
        found.append(
            callbacks.SampleSheets(
                output / "samples",
                samples.every,
                lambda: _drawn(learned.drawing(), request),
                span,
            )
        )
    if not sys.stdout.isatty():
        found.append(callbacks.Report(report, _LINE_EVERY, span))
    return found
