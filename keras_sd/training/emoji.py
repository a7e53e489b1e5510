"""Trains the embedded model from the font: vocabulary, autoencoder, denoiser, preset folder.

    keras-sd train-emoji OUT

Each stage keeps its state in `OUT/work` after every epoch, in files that are whole or not there:
started again, the command goes on where it stopped, however it did. The same seed gives the same
data on every machine; the weights then differ by rounding.
"""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_sd import image
from keras_sd.backend import to_numpy
from keras_sd.config import EMOJI, ModelConfig
from keras_sd.files import replace_file
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.pipeline import StableDiffusion
from keras_sd.tokenizer import Tokenizer
from keras_sd.training import pictures, trainers
from keras_sd.training.bpe import learn_merges
from keras_sd.training.objective import Objective, levels_of, spread
from keras_sd.training.state import check_run, damaged, note_run
from keras_sd.training.trainer import DenoiserTrainer
from keras_sd.weights.load import arrays_of
from keras_sd.weights.save import save_preset


@dataclass(frozen=True)
class Recipe:
    """How long and how fast.

    Attributes:
        seed: of the initial weights, the pictures, the captions and the noise.
        autoencoder_steps: batches that encoder and decoder see together.
        autoencoder_decay: batches after which their learning rate would have fallen to zero.
        autoencoder_batch: pictures in each.
        autoencoder_rate: the highest learning rate.
        decoder_steps: batches that the decoder sees alone after that; the latents stay.
        decoder_rate: its highest learning rate.
        denoiser_steps: batches the text encoder and the UNet see.
        denoiser_batch: latents in each.
        denoiser_rate: their highest learning rate.
        latents: pictures encoded once, before the denoiser is trained, from which it draws.
        unconditional: part of the captions replaced by the empty one, for guidance.
        epoch: batches between two saves and sample sheets.
        dtype: Keras dtype policy of the training; the weights stay float32.
    """

    seed: int = 0
    autoencoder_steps: int = 2400
    autoencoder_decay: int = 4500
    autoencoder_batch: int = 16
    autoencoder_rate: float = 1.5e-3
    decoder_steps: int = 2250
    decoder_rate: float = 1e-3
    denoiser_steps: int = 2850
    denoiser_batch: int = 64
    denoiser_rate: float = 1e-3
    latents: int = 12480
    unconditional: float = 0.1
    epoch: int = 150
    dtype: str = "mixed_bfloat16"


def main_train(*, output: Path, font: Path | None, seed: int) -> None:
    """The command `keras-sd train-emoji`."""
    train(output, font, Recipe(seed=seed))


def vocabulary(config: ModelConfig = EMOJI) -> list[str]:
    """Byte-pair merges learned from the names of Unicode's characters and our captions.

    Names are those of Unicode 3.2, which every Python knows, so that later ones change nothing.
    """
    letters = [chr(code) for code in range(0x2000, 0x20000) if code < 0x3400 or code > 0x1F000]
    names = [unicodedata.ucd_3_2_0.name(letter, "").lower() for letter in letters]
    captions = [
        wording.format(subject=subject, colour=colour, article="a an")
        for subject in pictures.SUBJECTS
        for colour in pictures.COLOURS
        for wording in pictures.WORDINGS
    ]
    return learn_merges([*names, *captions], config.text_encoder.vocab_size - 512 - 2)


def train(
    out: Path,
    font: Path | None = None,
    recipe: Recipe = Recipe(),
    model: ModelConfig = EMOJI,
    stages: tuple[str, ...] = ("vocabulary", "autoencoder", "decoder", "denoiser", "export"),
    report: Callable[[str], None] = print,
) -> None:
    """Runs the stages, each from where it was.

    Args:
        out: folder of the finished preset; `out/work` holds the state and the sample sheets.
        font: path of NotoColorEmoji.ttf, or None for where distributions put it.
        recipe: how long and how fast.
        model: the architecture; the autoencoder's scale is measured, not taken from it.
        stages: which stages to run.
        report: called with a line when something of note happened.

    Raises:
        FileNotFoundError: no font, or a stage is asked for whose forerunner has not finished.
        ValueError: `out` has the state of another recipe or architecture, or damaged state.
        OSError: a file cannot be written; the message names it.
    """
    (out / "work").mkdir(parents=True, exist_ok=True)
    made = {**dataclasses.asdict(recipe), "model": model.to_dict()}
    check_run(out / "work", "recipe.json", made)
    note_run(out / "work", "recipe.json", made)
    keras.utils.set_random_seed(recipe.seed)
    keras.config.set_dtype_policy(recipe.dtype)
    source = pictures.Pictures(font)
    run = _Run(out, source, recipe, model, report)
    for stage in stages:
        getattr(run, stage)()


class _Run:
    """The state that the stages share: all of it is in files of `work`."""

    def __init__(self, out, source, recipe, model, report):
        self.out, self.work = out, out / "work"
        self.source, self.recipe, self.model, self.report = source, recipe, model, report

    def vocabulary(self) -> None:
        path = self.work / "merges.txt"
        if not path.exists():
            text = "\n".join(vocabulary(self.model)) + "\n"
            replace_file(path, lambda at: at.write_text(text, encoding="utf-8"))
            self.report(f"vocabulary: {path}")

    def autoencoder(self) -> None:
        self._fit_autoencoder(
            trainers.AutoencoderTrainer(Autoencoder(self.model.autoencoder)),
            "autoencoder",
            steps=self.recipe.autoencoder_steps,
            decay_steps=self.recipe.autoencoder_decay,
            learning_rate=self.recipe.autoencoder_rate,
            seed=self.recipe.seed + 1,
        )

    def decoder(self) -> None:
        """More for the decoder alone, on nearly exact latents: these are fixed by then."""
        autoencoder = self._load(Autoencoder(self.model.autoencoder), "autoencoder")
        autoencoder.encoder.trainable = False
        self._fit_autoencoder(
            trainers.AutoencoderTrainer(autoencoder, edge_weight=0.2),
            "decoder",
            spread=0.3,
            steps=self.recipe.decoder_steps,
            learning_rate=self.recipe.decoder_rate,
            seed=self.recipe.seed + 3,
        )

    def _fit_autoencoder(
        self, trainer: trainers.AutoencoderTrainer, stage: str, spread: float = 1.0, **arguments
    ) -> None:
        """Trains on random pictures, with latents `spread` times as noisy as the encoder says."""
        autoencoder = trainer.autoencoder
        done, batch = self.work / f"{stage}.weights.h5", self.recipe.autoencoder_batch
        if done.exists():
            return
        cells = pictures.SIZE // autoencoder.config.factor
        latent = (cells, cells, autoencoder.config.latent_channels)

        def make(rng):
            images = np.stack([self.source.random(rng)[0] for _ in range(batch)])
            noise = rng.standard_normal((batch, *latent), dtype=np.float32)
            return {"image": images, "noise": noise * np.float32(spread)}, images

        held_out = make(np.random.default_rng((self.recipe.seed, 2**32)))[1]

        def sheet_of_pictures():
            decoded = to_numpy(autoencoder(held_out))
            error = np.abs(np.clip(decoded, -1, 1) - held_out).mean()
            self.report(f"{stage}: mean absolute error {error:.4f}")
            rows = np.concatenate([held_out[:8], decoded[:8], held_out[8:16], decoded[8:16]])
            return image.to_uint8(rows), 8

        trainers.fit(
            trainer,
            trainer.reconstruction_loss,
            make,
            steps_per_epoch=self.recipe.epoch,
            state=self.work / f"{stage}.state.weights.h5",
            callbacks=[_Sheets(self.work / f"{stage}.png", sheet_of_pictures)],
            **arguments,
        )
        replace_file(done, autoencoder.save_weights)

    def denoiser(self) -> None:
        recipe, done = self.recipe, self.work / "denoiser.weights.h5"
        if done.exists():
            return
        latents, captions, scale = self._latents()
        pipeline = self._pipeline(scale, "autoencoder")

        def make(rng):
            batch = recipe.denoiser_batch
            chosen = rng.integers(len(latents), size=batch)
            texts = [self._text(*captions[int(i)], rng) for i in chosen]
            x0 = latents[chosen].astype(np.float32) * scale
            level = levels_of(pipeline.table, spread(batch, rng))
            inputs = {
                "latents": x0,
                "noise": rng.standard_normal(x0.shape, dtype=np.float32),
                **vars(level),
                "text_encoder": pipeline.tokenizer(texts),
            }
            return (inputs,)

        asked = [
            pictures.caption(subject, colour)
            for subject, colour in zip(
                list(pictures.SUBJECTS)[::4], itertools.cycle(pictures.COLOURS), strict=False
            )
        ]

        def sheet_of_prompts():
            return pipeline.text_to_image(asked[:24], seed=recipe.seed), 8

        trainer = self._trainer(pipeline)
        trainers.fit(
            trainer,
            None,  # the trainer has its own
            make,
            steps=recipe.denoiser_steps,
            steps_per_epoch=recipe.epoch,
            learning_rate=recipe.denoiser_rate,
            seed=recipe.seed + 2,
            state=self.work / "denoiser.state.weights.h5",
            callbacks=[_Sheets(self.work / "denoiser.png", sheet_of_prompts)],
        )
        replace_file(done, trainer.save_weights)

    def export(self) -> None:
        *_, scale = self._latents()
        pipeline = self._pipeline(scale, "decoder")
        trainer = self._trainer(pipeline)
        self._load(trainer, "denoiser")
        save_preset(
            self.out,
            pipeline.config,
            arrays_of(pipeline.networks),
            (self.work / "merges.txt").read_text(encoding="utf-8").splitlines(),
            pictures.known_words(),
            license="Apache-2.0; trained on pictures of Noto Color Emoji (SIL OFL 1.1)",
        )
        self.report(f"preset: {self.out}")

    def _trainer(self, pipeline: StableDiffusion) -> DenoiserTrainer:
        networks = {"text_encoder": pipeline.text_encoder, "unet": pipeline.unet}
        return DenoiserTrainer(networks, Objective.of(self.model.noise))

    def _pipeline(self, scale: float, stage: str) -> StableDiffusion:
        """A new model with the autoencoder of `stage`."""
        config = dataclasses.replace(
            self.model, autoencoder=dataclasses.replace(self.model.autoencoder, scale=float(scale))
        )
        return StableDiffusion(
            config,
            TextEncoder(config.text_encoder),
            UNet(config.unet),
            self._load(Autoencoder(config.autoencoder), stage),
            self._tokenizer(),
        )

    def _text(self, subject: str, colour: str, rng: np.random.Generator) -> str:
        if rng.random() < self.recipe.unconditional:
            return ""
        return _with_strange_word(pictures.caption(subject, colour, rng), rng)

    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(
            self.work / "merges.txt",
            max_length=self.model.text_encoder.max_length,
            vocab_size=self.model.text_encoder.vocab_size,
        )

    def _load(self, network, name):
        path = self.work / f"{name}.weights.h5"
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there: run the stage {name!r} first")
        trainers.load_weights(network, path)
        return network

    def _latents(self) -> tuple[np.ndarray, list[tuple[str, str]], float]:
        """Means of `recipe.latents` random pictures, their captions, and one over their spread."""
        path = self.work / "latents.npz"
        if path.exists():
            try:
                with np.load(path) as known:
                    captions = [
                        (str(subject), str(colour)) for subject, colour in known["captions"]
                    ]
                    return known["latents"], captions, float(known["scale"])
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise ValueError(damaged(path, error)) from error
        autoencoder = self._load(Autoencoder(self.model.autoencoder), "autoencoder")
        rng = np.random.default_rng((self.recipe.seed, 2**33))
        captions, latents = [], []
        for start in range(0, self.recipe.latents, 48):
            drawn = [self.source.random(rng) for _ in range(min(48, self.recipe.latents - start))]
            captions += [(subject, colour) for _, subject, colour in drawn]
            means, _ = autoencoder.moments(np.stack([picture for picture, _, _ in drawn]))
            latents.append(to_numpy(ops.cast(means, "float32")).astype(np.float16))
        stacked = np.concatenate(latents)
        scale = float(1 / stacked.astype(np.float32).std())
        replace_file(path, lambda at: np.savez(at, latents=stacked, captions=captions, scale=scale))
        self.report(f"latents: {len(stacked)}, scale {scale:.4f}")
        return stacked, captions, scale


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _with_strange_word(text: str, rng: np.random.Generator) -> str:
    """One caption in ten gets a made-up word, so that unknown words do no harm later."""
    if rng.random() > 0.1:
        return text
    word = "".join(_LETTERS[i] for i in rng.integers(26, size=rng.integers(2, 9)))
    words = text.split()
    words.insert(int(rng.integers(len(words) + 1)), word)
    return " ".join(words)


class _Sheets(keras.callbacks.Callback):
    """Draws a sample sheet after every few epochs; `make()` gives uint8 images and columns."""

    def __init__(self, path: Path, make: Callable, every: int = 2):
        super().__init__()
        self.path, self.make, self.every = path, make, every

    def on_epoch_end(self, epoch, logs=None):
        if epoch % self.every == self.every - 1:
            image.save_png(self.path, image.sheet(*self.make()), {})
