"""What a training run does, in order."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_sd.config import ModelConfig
from keras_sd.files import replace_file
from keras_sd.tokenizer import Tokenizer
from keras_sd.training import painting, scenes, words
from keras_sd.weights.checkpoint import Checkpoint, open_checkpoint
from keras_sd.weights.load import load_parts
from keras_sd.weights.readers import sha256
from recipes.emoji import data, pieces
from recipes.emoji.config import CONFIG, TINY, rate_at, with_scale
from recipes.emoji.log import passed, say
from recipes.emoji.measuring import BATCH, Examiner, Sheets
from recipes.emoji.steps import ENCODED, Steps, new_state

FILES = 8
"""That a run writes, at most; log, facts and sheets among them."""

EARLY = 65_536
"""Scenes that the autoencoder trains on, at most."""

SHOWN = 8
"""Seconds between two lines on how far the training is."""


class Compiler:
    """Compiles programs in threads, two at a time, in the order in which they are given.

    Args:
        policy: the dtype policy of Keras, which each thread has its own of.
    """

    def __init__(self, policy: str):
        self._policy = policy
        self._threads = ThreadPoolExecutor(2)
        self._programs: dict[str, Future] = {}

    def add(self, name: str, function: Callable, *shapes: Any, donated: tuple = ()) -> None:
        """A program for arguments of these shapes."""
        self._programs[name] = self._threads.submit(self._made, name, function, shapes, donated)

    def _made(self, name: str, function: Callable, shapes: tuple, donated: tuple) -> Callable:
        keras.config.set_dtype_policy(self._policy)
        begin = passed()
        made = jax.jit(function, donate_argnums=donated).lower(*shapes).compile()
        say(f"{name} compiled in {passed() - begin:.0f} s")
        return made

    def __getitem__(self, name: str) -> Callable:
        """The program, when it is there.

        Raises:
            Exception: it cannot be compiled.
        """
        return self._programs[name].result()


class Run:
    """One run, from nothing or from a preset, to the files in `OUT`."""

    def __init__(self, options: argparse.Namespace, pool):
        self.options = options
        self.sheets = Sheets(options.out / "sheets.zip")
        config, checkpoint = _config_of(options)
        weights = None if checkpoint is None else checkpoint.files[0]
        seed = data.seed_of(options.seed, weights)
        text = config.text_encoder
        # The drawings first: the workers take what they are given in order.
        self.drawings = data.Drawings(options.bank, pool, options.workers * 2)
        self.scenes = data.Scenes(
            pool, options.scenes, seed, options.subjects, options.merges, text
        )
        say(f"{jax.devices()}; jax {jax.__version__}, keras {keras.__version__}, seed {seed}")
        keras.utils.set_random_seed(seed)
        policy = "mixed_bfloat16" if jax.default_backend() != "cpu" else "float32"
        keras.config.set_dtype_policy(policy)
        self.key = jax.random.key(seed)
        self.scale = config.autoencoder.scale
        self.config = with_scale(config, 1.0)
        self.steps = Steps(self.config, options.autoencoder_batch, options.batch, options.scan)
        if checkpoint is not None:
            load_parts(self.steps.networks, checkpoint.parts, source=str(options.start))
            say(f"goes on from {options.start}, with latents of scale {self.scale:.4f}")
        self.values = self.steps.values()
        for name, each in self.values.items():
            say(f"{name}: {sum(v.size for v in each) / 1e6:.2f} million")
        self._check_files()
        self.subjects = words.load(options.subjects)
        self.tokenizer = Tokenizer(
            options.merges, max_length=text.max_length, vocab_size=text.vocab_size
        )
        self.programs = Compiler(policy)
        self.facts: dict[str, Any] = {
            "config": self.config.to_dict(),
            "devices": str(jax.devices()),
            "seconds": options.seconds,
            "options": {name: str(value) for name, value in vars(options).items()},
            "seed": seed,
            "merges": sha256(options.merges),
            "seen": {},
        }

    def run(self) -> None:
        """All of it."""
        self._compile()
        self.sprites = jax.device_put(self.drawings.all())
        say(f"{self.sprites.shape[0]} drawings on the device")
        if self.options.autoencoder_share:
            self._train_autoencoder()
        pieces.save(
            self.options.out,
            "autoencoder",
            {"autoencoder": self.values["autoencoder"]},
            self.facts["seen"].get("autoencoder", 0),
        )
        self._train_denoiser(*self._latents())
        self._write_facts()
        self._measure()

    def _next_key(self):
        self.key, use = jax.random.split(self.key)
        return use

    def _check_files(self) -> None:
        """Refuses a model whose weights are too many for the files."""
        sizes = pieces.sizes_of(self.values)
        of_autoencoder = {n: size for n, size in sizes.items() if n.startswith("autoencoder/")}
        rest = {n: size for n, size in sizes.items() if n not in of_autoencoder}
        count = len(pieces.split(of_autoencoder)) + len(pieces.split(rest)) + 3
        if count > FILES:
            raise SystemExit(f"This model would be written in {count} files; {FILES} are allowed")

    def _compile(self) -> None:
        """All programs, from the shapes of their arguments, while everything else goes on."""

        def shaped(shape, dtype="float32"):
            return jax.ShapeDtypeStruct(shape, dtype)

        options, steps, key, scalar = self.options, self.steps, self.key, shaped(())
        count, length = options.scenes, self.config.text_encoder.max_length
        cells = scenes.SIZE // self.config.autoencoder.factor
        given = jax.eval_shape(lambda: self.values)
        drawings = len(scenes.STYLES) * len(self.subjects)
        bank = shaped((drawings, scenes.SIZE, scenes.SIZE, 4), "uint8")

        def laid(*rows):
            return {
                "sprite": shaped((*rows, scenes.MOST), "int32"),
                "box": shaped((*rows, scenes.MOST, 3)),
                "ground": shaped((*rows, 2, 3)),
                "split": shaped(rows, "int32"),
                "ink": shaped(rows),
            }

        alone = {"autoencoder": given["autoencoder"]}
        if options.autoencoder_share:
            state = jax.eval_shape(new_state, alone)
            early = laid(min(count, EARLY))
            numbers = (scalar,) * 4
            self.programs.add(
                "autoencoder",
                steps.train_autoencoder,
                state,
                bank,
                early,
                key,
                *numbers,
                donated=(0,),
            )
        both = {name: given[name] for name in ("text_encoder", "unet")}
        latents = shaped((count, cells, cells, self.config.autoencoder.latent_channels), "float16")
        tokens, ids = shaped((count, data.VARIANTS, length), "uint16"), shaped((length,), "int32")
        self.programs.add(
            "denoiser",
            steps.train_denoiser,
            *(jax.eval_shape(new_state, both), latents, tokens, ids, key, scalar),
            donated=(0,),
        )
        self.programs.add("encoder", steps.encode, alone, bank, laid(count // ENCODED, ENCODED))
        self.programs.add("both halves", steps.reconstruct, alone, bank, laid(64))
        asked = shaped((BATCH, length), "int32")
        self.programs.add("sampler", steps.paint, given, asked, ids, key, scalar)

    def _train_autoencoder(self) -> None:
        options = self.options
        early = self.scenes.first(min(options.scenes, EARLY))
        del early["tokens"]
        say(f"{early['split'].shape[0]} scenes for the autoencoder")
        early = jax.device_put(early)
        train = self.programs["autoencoder"]
        state = new_state({"autoencoder": self.values["autoencoder"]})
        begin = passed()
        end = begin + (options.seconds - options.tail - begin) * options.autoencoder_share
        fixed = begin + (end - begin) * 0.72  # from here on the encoder stays: so do the latents
        count, shown = 0, 0.0
        while (now := passed()) < end:
            if whole := now < fixed:
                rate = rate_at(now, begin, begin + (end - begin) * 1.25, options.autoencoder_rate)
            else:
                rate = rate_at(
                    now, fixed - (end - fixed) * 0.7, end, options.autoencoder_rate * 0.8
                )
            numbers = (rate, 1.0, 0.5, 1.0) if whole else (rate, 0.3, 0.2, 0.0)
            state, errors = train(
                state, self.sprites, early, self._next_key(), *map(jnp.float32, numbers)
            )
            errors.block_until_ready()
            count += options.scan
            if now - shown > SHOWN:
                shown = now
                seen = count * options.autoencoder_batch
                say(f"autoencoder {count}: error {float(errors.mean()):.4f}, {seen} pictures")
        self.facts["seen"]["autoencoder"] = count * options.autoencoder_batch
        # The running average of the encoder is still moving when it is fixed; the decoder has been
        # trained on the latents of the encoder itself.
        first = self.steps.encoder_count
        self.values["autoencoder"] = [
            *state["values"]["autoencoder"][:first],
            *state["average"]["autoencoder"][first:],
        ]

    def _latents(self):
        """Latents of all scenes, of about unit variance, and their captions' tokens."""
        made = self.scenes.first(self.options.scenes)
        tokens = jax.device_put(made.pop("tokens"))
        say(f"{tokens.shape[0]} scenes with {data.VARIANTS} captions each")
        given = {"autoencoder": self.values["autoencoder"]}
        rows = {n: each.reshape(-1, ENCODED, *each.shape[1:]) for n, each in made.items()}
        latents = self.programs["encoder"](given, self.sprites, jax.device_put(rows))
        latents = latents.reshape(-1, *latents.shape[2:])
        if self.options.autoencoder_share:
            sample = latents[:: max(1, len(latents) // 8192)].astype("float32")
            self.scale = float(1 / sample.std())
        held_out = jax.device_put({name: each[:64] for name, each in made.items()})
        original, decoded = self.programs["both halves"](given, self.sprites, held_out)
        error = float(jnp.abs(decoded - original).mean())
        say(
            f"latents {latents.shape}, scale {self.scale:.4f}; "
            f"autoencoder's mean absolute error {error:.4f}"
        )
        self.facts |= {"scale": self.scale, "autoencoder_error": error}
        self.sheets.add("autoencoder", np.concatenate([original[:32], decoded[:32]]))
        scaled = jax.jit(
            lambda x: (x.astype("float32") * self.scale).astype("float16"), donate_argnums=0
        )
        return scaled(latents), tokens

    def _train_denoiser(self, latents, tokens) -> None:
        options, out = self.options, self.options.out
        train = self.programs["denoiser"]
        state = new_state({name: self.values[name] for name in ("text_encoder", "unet")})
        if options.state and options.state.exists():
            state = _read_state(options.state, state)
            say(f"goes on at step {float(state['step']):.0f}")
        begin, end = passed(), options.seconds - options.tail
        count, shown, saved = 0, 0.0, begin
        while (now := passed()) < end:
            rate = jnp.float32(rate_at(now, begin, end, options.rate))
            state, losses = train(state, latents, tokens, self._empty(), self._next_key(), rate)
            losses.block_until_ready()
            count += options.scan
            if now - shown > SHOWN:
                shown = now
                done = count * options.batch
                say(
                    f"denoiser {count}: loss {float(losses.mean()):.4f}, {done} samples, "
                    f"{done / (passed() - begin):.0f}/s"
                )
            if now - saved > 100:
                saved = now
                pieces.save(out, "denoiser", state["average"], count)
        self.facts["seen"]["denoiser"] = count * options.batch
        self.values.update(state["average"])
        pieces.save(out, "denoiser", state["average"], count)
        if options.state:
            _write_state(options.state, state)

    def _empty(self):
        return jnp.asarray(self.tokenizer("")[0])

    def _measure(self) -> None:
        say("measuring")

        key = self._next_key()

        def paint(prompts, first):
            asked = self.tokenizer(prompts)
            asked = np.concatenate([asked, np.repeat(asked[-1:], BATCH - len(asked), 0)])
            made = self.programs["sampler"](
                self.values,
                jnp.asarray(asked),
                self._empty(),
                jax.random.fold_in(key, first),
                jnp.float32(self.scale),
            )
            return np.asarray(made)[: len(prompts)]

        count = BATCH if self.options.tiny else len(self.subjects)
        examiner = Examiner(
            self.subjects,
            self.sprites,
            paint,
            self.sheets,
            count,
            compose=jax.jit(painting.compose),
        )
        self.facts["measured"] = examiner.measure(self.options.seconds - 6)
        self._write_facts()
        say("done")

    def _write_facts(self) -> None:
        text = json.dumps(self.facts, indent=1) + "\n"
        replace_file(
            self.options.out / "facts.json", lambda path: path.write_text(text, encoding="utf-8")
        )


def _config_of(options: argparse.Namespace) -> tuple[ModelConfig, Checkpoint | None]:
    """The model's numbers, and the checkpoint to go on from."""
    if options.start is None:
        return TINY if options.tiny else CONFIG, None
    checkpoint = open_checkpoint(options.start)
    checkpoint.check()
    config = checkpoint.config
    wanted = with_scale(TINY if options.tiny else CONFIG, config.autoencoder.scale)
    # How it is called, and how it draws by itself, is nothing that a training depends on.
    if dataclasses.replace(config, name=wanted.name, defaults=wanted.defaults) != wanted:
        raise SystemExit(f"{options.start} is another model than this recipe's: {config}")
    return config, checkpoint


def _read_state(path: Path, like):
    with np.load(path) as known:
        leaves = [jnp.asarray(known[str(i)]) for i in range(len(known.files))]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _write_state(path: Path, state) -> None:
    leaves = {str(i): np.asarray(v) for i, v in enumerate(jax.tree.leaves(state))}
    replace_file(path, lambda temporary: np.savez(temporary, **leaves))
