"""Memory and time of a run before it, from the config of its model alone: `plan`.

No weights are loaded, and no Keras: of a checkpoint the headers are read, of a name the table. The
numbers are those of a CPU. `benchmarks/plan.py` of the source tree measures how far they are off.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_sd import choose, costs, machine
from keras_sd.checks import MAX_SIDE, TILE, SettingError, choice, flag, real, strip_side
from keras_sd.config import ControlConfig, ModelConfig
from keras_sd.costs import Cost
from keras_sd.evaluations import Evaluations, evaluations_of
from keras_sd.forms import request_of
from keras_sd.plans import Phase, Plan
from keras_sd.request import Request
from keras_sd.settings import takes
from keras_sd.weights.names import Table, diffusers, own

__all__ = ["BYTES", "RUNTIMES", "Runtime", "plan", "weights_of"]


@dataclass(frozen=True)
class Runtime:
    """What a backend adds to what is counted.

    Attributes:
        base: bytes of the process with Keras and the backend, without a model.
        program: bytes for each variable of the networks, of what is compiled for them.
        kept: the most bytes of tensors that are gone that the allocator keeps, where it found no
            use for them.
        scores: that an attention has at once.
        speed: of the UNet, over that of NumPy's products of matrices.
        decoding: likewise of the decoder, which is nearly all convolutions.
    """

    base: int
    program: int
    kept: int
    scores: costs.Scores
    speed: float
    decoding: float


RUNTIMES = {
    "jax": Runtime(
        base=380_000_000,
        program=280_000,
        kept=120_000_000,
        scores=costs.chunked,
        speed=0.6,
        decoding=0.95,
    ),
    "tensorflow": Runtime(
        base=685_000_000,
        program=250_000,
        kept=45_000_000,
        scores=costs.whole,
        speed=0.55,
        decoding=0.9,
    ),
    "torch": Runtime(
        base=540_000_000,
        program=0,
        kept=250_000_000,
        scores=costs.fused,
        speed=0.55,
        decoding=1.3,
    ),
}
"""Measured with `python benchmarks/plan.py --model MODEL --size SIZE --on jax tensorflow torch`, on
two cores of an AMD EPYC (AVX2), Keras 3.15, jax 0.10.2, tensorflow-cpu 2.21.0, torch 2.13.0+cpu: of
what a process has beside its weights and the counted tensors, `base` and `program` are what a small
picture of a small model (`emoji`) and of a large one (SD 1.5) leave, and `kept` is how much more it
is where the tensors are large. docs/benchmarks.md has the pictures and how far the plans were off.
"""

BYTES = {"float32": 4, "mixed_float16": 4, "mixed_bfloat16": 4, "float16": 2, "bfloat16": 2}
"""Of a weight, by dtype policy."""

_COMPUTED = 4
"""Bytes of a number in a tensor, whatever the policy: a CPU without instructions for 16 bits
computes in float32, and has the numbers so beside or in place of those of 16 bits."""


@takes(Request)
def plan(
    model: str | Path | ModelConfig,
    *,
    batch_size: int = 1,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    few_steps: str | None = None,
    dtype: str | None = None,
    backend: str | None = None,
    low_memory: bool = False,
    tiled: bool | int = False,
    refiner: str | Path | ModelConfig | None = None,
    control: str | Path | Sequence[str | Path] = (),
    variant: str | None = None,
    memory: float | None = None,
    **settings: Any,
) -> Plan:
    """What a run of `text_to_image` takes: memory, phase by phase, and time.

    Args:
        model: what `from_preset` takes, or a config. Nothing is fetched.
        batch_size: pictures.
        num_steps: sampler steps; None is the model's.
        guidance_scale: 1 is no guidance, which halves a step; None is the model's.
        few_steps: see `keras_sd.forms.request_of`.
        dtype: a policy by name, see `keras_sd.precision.POLICIES`; None is as Keras is configured.
        backend: `"jax"`, `"tensorflow"` or `"torch"`; None is the one that Keras takes.
        low_memory: see `keras_sd.model.Model.from_preset`.
        tiled: likewise.
        refiner: likewise; or a config.
        control: the path of a ControlNet, or several.
        variant: of the files in a diffusers folder, see `keras_sd.model.Model.from_preset`.
        memory: bytes to plan for, of another machine, say; None is what is free on this one.
        **settings: of `keras_sd.request.Request`, such as `width`, `height`, `sampler`.

    Returns:
        The plan, also of a run that does not fit: `Plan.check` refuses it.

    Raises:
        ValueError: a setting does not fit, or the checkpoint cannot be read.
        TypeError: likewise.
        FileNotFoundError: the model is not on this machine, and its name says nothing of its size.
    """
    backend = _backend(backend)
    dtype = _dtype(dtype)
    if memory is not None:
        memory = real("memory", memory, above=0.0)
    if isinstance(control, str | Path):
        control = (control,)
    asked = request_of(
        "",
        batch_size=batch_size,
        num_steps=num_steps,
        unconditional_guidance_scale=guidance_scale,
        few_steps=few_steps,
        seed=0,
        **settings,
    )
    config = _config(model, variant)
    refines = None if refiner is None else _config(refiner)
    if refines is None and asked.refine_at is not None:
        raise SettingError("refine_at", "is for a plan with a refiner")
    request = asked.resolved(config.defaults)
    height, width = request.size
    run = _Run(
        config,
        refines,
        tuple(_control(path, config) for path in control),
        evaluations_of(request, config, refines),
        (height, width),
        len(request),
        dtype,
        backend,
        flag("low_memory", low_memory),
        strip_side(tiled, config.autoencoder.factor),
    )
    notes = []
    spares = asked.feature_caching > 1, asked.adaptive_guidance is not None, asked.token_merging > 0
    if any(spares):
        notes.append(
            "What feature_caching, adaptive_guidance and token_merging spare is not taken off the "
            "time."
        )
    if dtype != "float32":
        notes.append(
            "The time is that of float32. A processor without instructions for 16 bits takes "
            "several times as long."
        )
    available: int | None
    if memory is not None:
        available = int(memory)
    elif machine.has_gpu():
        available = None
        notes.append(
            "There is a GPU here. The numbers are those of a CPU, and how much memory is free on a "
            "GPU is not known here: give memory."
        )
    else:
        available = machine.free_memory()
    phases = tuple(run.phases(_speed()))
    would: dict[str, int] = {}
    if available is not None and run.peak > available:
        would = _would_fit(run, available)
    return Plan(
        model=config.name if isinstance(model, ModelConfig) else str(model),
        backend=backend,
        dtype=dtype,
        width=width,
        height=height,
        batch_size=len(request),
        evaluations=sum(each.calls for each in run.evaluations),
        phases=phases,
        available=available,
        would_fit=would,
        notes=tuple(notes),
    )


def weights_of(config: ModelConfig | ControlConfig) -> dict[str, int]:
    """How many numbers each network of a model has, by the names of `config.parts`; of a ControlNet
    under `"control"`.
    """
    return {
        part: sum(math.prod(weight.shape) for weight in table)
        for part, table in _tables(config).items()
    }


def _tables(config: ModelConfig | ControlConfig) -> dict[str, Table]:
    if isinstance(config, ControlConfig):
        return {"control": diffusers.control(config)}
    return own.tables(config)


@dataclass(frozen=True)
class _Run:
    """All that memory and time depend on."""

    config: ModelConfig
    refiner: ModelConfig | None
    controls: tuple[ControlConfig, ...]
    evaluations: tuple[Evaluations, ...]
    size: tuple[int, int]
    batch: int
    dtype: str
    backend: str
    low_memory: bool
    side: int

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        return (self.config,) if self.refiner is None else (self.config, self.refiner)

    @property
    def peak(self) -> int:
        return max(phase.memory for phase in self.phases(1.0))

    def phases(self, speed: float) -> Iterator[Phase]:
        """The parts of the run, where NumPy has so many operations a second."""
        runtime = RUNTIMES[self.backend]
        stored = BYTES[self.dtype]
        counts = [_counted(config) for config in self.models]
        beside = sum(_counted(each)["control"] for each in self.controls) * stored
        everything = beside + stored * sum(sum(each.values()) for each in counts)
        variables = sum(_variables(each) for each in (*self.models, *self.controls))

        def phase(name: str, parts: int, held: int, operations: int, computes: bool = True) -> Any:
            weights = parts * stored + beside if self.low_memory else everything
            tensors = held + min(held, runtime.kept)
            over = runtime.decoding if name == "decode" else runtime.speed
            seconds = operations / speed / over if computes else None
            memory = runtime.base + runtime.program * variables + weights + tensors
            return Phase(name, weights, tensors, memory, operations, seconds)

        yield phase("load", 0, 0, 0, computes=False)
        for number, (config, count) in enumerate(zip(self.models, counts, strict=True)):
            encoders = config.text_encoders
            texts = [
                costs.text_encoder(each, 2 * self.batch, _COMPUTED, runtime.scores)
                for each in encoders.values()
            ]
            held, operations = max(each.held for each in texts), sum(e.operations for e in texts)
            name = "refiner text" if number else "text"
            yield phase(name, sum(count[part] for part in encoders), held, operations)
        for number, (config, count) in enumerate(zip(self.models, counts, strict=True)):
            done = self.evaluations[number]
            cost = self._unet(config, done.most)
            row = self._unet(config, 1).operations
            name = "refiner unet" if number else "unet"
            yield phase(name, count["unet"], cost.held, row * done.rows)
        cost = self._decoder()
        yield phase("decode", counts[0]["autoencoder"], cost.held, cost.operations)

    def _unet(self, config: ModelConfig, rows: int) -> Cost:
        """Of one evaluation with so many rows a picture."""
        factor, tokens = config.autoencoder.factor, config.text_encoder.max_length
        size = self.size[0] // factor, self.size[1] // factor
        rows *= self.batch
        options: Any = (rows, size, tokens, _COMPUTED, RUNTIMES[self.backend].scores)
        whole = costs.unet(config.unet, *options)
        if config is not self.config:
            return whole
        held, operations = whole.held, whole.operations
        for each in self.controls:
            cost, added = costs.control(each, *options)
            held, operations = max(held, cost.held) + added, operations + cost.operations
        return Cost(operations, held)

    def _decoder(self) -> Cost:
        config = self.config.autoencoder
        options: Any = (_COMPUTED, RUNTIMES[self.backend].scores)
        height, width = (side // config.factor for side in self.size)
        side = self.side // config.factor
        if not side or max(height, width) <= side:
            return costs.decoder(config, self.batch, (height, width), *options)
        one = costs.decoder_in_strips(config, (height, width), side, *options)
        # The pictures, in float32, and what they are copied to.
        whole = 2 * 4 * 3 * self.batch * math.prod(self.size)
        return Cost(one.operations * self.batch, one.held + whole)


@functools.lru_cache(maxsize=64)
def _counted(config: ModelConfig | ControlConfig) -> dict[str, int]:
    return weights_of(config)


@functools.lru_cache(maxsize=64)
def _variables(config: ModelConfig | ControlConfig) -> int:
    return sum(map(len, _tables(config).values()))


@functools.cache
def _speed() -> float:
    return machine.speed()


def _would_fit(run: _Run, available: int) -> dict[str, int]:
    """What would fit, with the bytes it takes: each change by itself, or the fewest together."""
    switches: list[tuple[str, dict[str, Any]]] = [
        ("tiled=True", {"side": TILE}),
        ("low_memory=True", {"low_memory": True}),
        ("dtype='bfloat16' or 'float16'", {"dtype": "bfloat16"}),
    ]
    alone = [(name, replace(run, **change)) for name, change in switches]
    alone += _smaller(run, available)
    if found := {name: each.peak for name, each in alone if each.peak <= available}:
        return found
    names: list[str] = []
    for name, change in [*switches, ("batch_size=1", {"batch": 1})]:
        changed = replace(run, **change)
        if changed.peak < run.peak:
            run = changed
            names.append(name)
        if run.peak <= available:
            return {" with ".join(names): run.peak}
    return {" with ".join([*names, name]): each.peak for name, each in _smaller(run, available)}


def _smaller(run: _Run, available: int) -> Iterator[tuple[str, _Run]]:
    """The largest batch, and the largest size, that fit."""
    batches = _largest(1, run.batch - 1, lambda count: replace(run, batch=count), available)
    if batches is not None:
        yield f"batch_size={batches.batch}", batches
    unit = run.config.autoencoder.factor * 2 ** (len(run.config.unet.widths) - 1)
    height, width = run.size

    def scaled(longer: int) -> _Run:
        part = longer * unit / max(height, width)
        sides = [max(unit, int(side * part) // unit * unit) for side in (height, width)]
        return replace(run, size=(sides[0], sides[1]))

    most = min(MAX_SIDE, max(height, width) - 1) // unit
    sized = _largest(1, most, scaled, available)
    if sized is not None:
        yield f"{sized.size[1]}x{sized.size[0]}", sized


def _largest(least: int, most: int, made: Any, available: int) -> _Run | None:
    """The run of the largest number that fits, by halves: memory grows with the number."""
    found: _Run | None = None
    while least <= most:
        middle = (least + most) // 2
        tried: _Run = made(middle)
        if tried.peak <= available:
            found, least = tried, middle + 1
        else:
            most = middle - 1
    return found


def _config(model: Any, variant: str | None = None) -> ModelConfig:
    """The numbers of a model, of which nothing is loaded, and nothing fetched."""
    if isinstance(model, ModelConfig):
        return model
    from keras_sd.weights import presets
    from keras_sd.weights.checkpoint import open_checkpoint
    from keras_sd.weights.fetch import list_sources
    from keras_sd.weights.readers import WeightsError
    from keras_sd.weights.sources import CONFIGS

    path = presets.here(model)
    if path is None and model in CONFIGS:
        return CONFIGS[model]
    if path is None:
        known = {source.name: source.path for source in list_sources()}
        path = known.get(str(model))
    if path is None and str(model).startswith("hf://"):
        raise FileNotFoundError(
            f"{model} is not on this machine, and its size is not known before; "
            f"`keras-sd fetch {model}` gets it"
        )
    if path is None:  # which says what there is
        path = presets.locate(model, needs_vocabulary=False)
    checkpoint = open_checkpoint(path, variant=variant if path.is_dir() else None)
    if checkpoint.unsupported:
        raise WeightsError(checkpoint.unsupported)
    return checkpoint.config


def _control(path: Any, config: ModelConfig) -> ControlConfig:
    from keras_sd.adapters.control_files import open_control

    return open_control(path).config(config)


def _backend(name: Any) -> str:
    known = tuple(RUNTIMES)
    if name is not None:
        return str(choice("backend", name, known))
    found = choose.expected()
    if found not in known:
        raise SettingError("backend", f"is {found!r} here, and a plan is for {', '.join(known)}")
    return found


def _dtype(name: Any) -> str:
    return str(choice("dtype", choose.expected_policy() if name is None else name, tuple(BYTES)))
