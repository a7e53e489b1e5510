"""What a model that is there can still be taught on a CPU: wordings, or some scenes. On torch.

A lesson makes batches for `refine`. At a rate at which something is learned, targets as noisy as
those of a training spoil more in small batches than they bring: the weights are at their best for
the rate they ended with. So what shall stay is learned from the model itself as it was, whose
targets are without noise.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from keras_sd.config import ModelConfig
from keras_sd.networks import UNet
from keras_sd.tokenizer import Tokenizer
from keras_sd.training import drawings, painting, scenes, words
from keras_sd.training.objective import Noising, noised, spread, target
from recipes.emoji.config import OBJECTIVE
from recipes.emoji.data import VARIANTS
from recipes.emoji.log import say

CHUNK = 1024
"""Scenes that are painted and encoded at a time."""

POOL = 24
"""Chunks that are kept: a new one takes the place of the oldest."""

ROUND = 8192
"""Samples between two new chunks, when there are `POOL`; before, half as many."""

BEST = scenes.Wordings(scenes.LAST.one[:1], scenes.LAST.beside[:1], scenes.LAST.above[:1])
"""The wordings in which a text encoder says best what is meant."""

NEW = "on {a_colour} background, {scene}"

TAUGHT = dataclasses.replace(
    scenes.WORDINGS, one=(NEW, *(each for each in scenes.WORDINGS.one if each != NEW))
)
"""All wordings; of one colour, the new one comes most often."""

TRUTH = 0.25
"""Weight of the pictures themselves where a text encoder learns of itself."""

HARDER = scenes.Mix(
    kinds={"one": 50, "placed": 15, "many": 8, "two": 23, "listed": 2, "class": 2},
    single={"noto": 34, "3d": 14, "flat": 12, "line": 26, "pixel": 7, "sticker": 7},
    other={"noto": 68, "3d": 11, "flat": 9, "line": 12},
)
"""More line drawings, pairs and numbers than a training from nothing has."""

LEARNED = {
    "line": (
        scenes.Mix({"one": 80, "placed": 10, "many": 5, "two": 5}, {"line": 1}, {"line": 1}),
        scenes.Mix(
            single={"noto": 48, "3d": 15, "flat": 13, "pixel": 6, "sticker": 6},
            other={"noto": 8, "3d": 1, "flat": 1},
        ),
    ),
}
"""What a UNet can learn better -> scenes that show it, and others."""

SHARE = 0.75
"""Of a batch, the scenes that show it."""

KEPT = scenes.Mix(
    kinds={"one": 50, "placed": 12, "many": 5, "two": 28, "listed": 3, "class": 2},
    single={"noto": 30, "3d": 28, "flat": 22, "pixel": 10, "sticker": 10},
    other={"noto": 8, "3d": 1, "flat": 1},
)
"""Scenes that are in none of `LEARNED`, more of those that suffer most than in a training: pairs,
and styles other than Noto's.
"""

SHARED = 0.25
"""Of a batch, what UNets of which each has learned something say together."""


class Painter:
    """Pictures and captions without end, each a function of the seed and its number.

    Args:
        bank: path of the drawings.
        subjects: path of their names.
        mix: of the scenes.
    """

    def __init__(self, bank: Path, subjects: Path, mix: scenes.Mix = scenes.USUAL):
        opened = drawings.Bank(bank)
        self.subjects, self.mix = words.load(subjects), mix
        drawn = {style: opened.sprites(style) for style in opened.styles}
        self.bank = torch.from_numpy(painting.sprite_bank(drawn))

    def of(self, mix: scenes.Mix) -> Painter:
        """One of other scenes."""
        other = copy.copy(self)
        other.mix = mix
        return other

    def make(self, seed: int, count: int) -> list[scenes.Scene]:
        """So many scenes of a seed."""
        rng = random.Random(seed)
        return [scenes.random_scene(self.subjects, rng, self.mix) for _ in range(count)]

    def paint(self, made: list[scenes.Scene]) -> torch.Tensor:
        """Their pictures, `(n, SIZE, SIZE, 3)` in [-1, 1]."""
        laid = painting.layout(made, list(scenes.STYLES), len(self.subjects))
        most = max(len(scene.items) for scene in made)
        for name in ("sprite", "box"):
            laid[name] = laid[name][:, :most]
        return painting.compose(self.bank, **laid)


class Latents:
    """Latents of scenes with their captions, of which some are made anew from time to time.

    Args:
        autoencoder: makes them.
        painter: of the scenes.
        tokenizer: of the captions.
        caption: `(scene, rng)` -> the texts of a scene.
        seed: of all of them.
    """

    def __init__(
        self,
        autoencoder: Any,
        painter: Painter,
        tokenizer: Tokenizer,
        caption: Callable[[scenes.Scene, random.Random], list[str]],
        seed: int,
    ):
        self.autoencoder, self.painter, self.tokenizer = autoencoder, painter, tokenizer
        self.caption, self.seed = caption, seed
        self.chunks: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.number, self.fresh = 0, 0

    def fill(self, done: int) -> None:
        """What there shall be when so many samples have been taken."""
        if not self.chunks:
            self.number, self.fresh = done // ROUND, done
            for _ in range(POOL // 3):
                self._add()
            say(f"{len(self.chunks) * CHUNK} scenes")
        elif done - self.fresh >= (ROUND if len(self.chunks) >= POOL else ROUND // 2):
            self._add()
            self.fresh = done

    def _add(self) -> None:
        self.chunks = [*self.chunks[-POOL + 1 :], self._made(self.seed * 1_000_003 + self.number)]
        self.number += 1

    def _made(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        made, rng = self.painter.make(seed, CHUNK), random.Random(seed)
        texts = [self._fitting(scene, rng) for scene in made]
        tokens = self.tokenizer([text for each in texts for text in each])
        tokens = torch.from_numpy(np.asarray(tokens)).long().reshape(CHUNK, len(texts[0]), -1)
        cells = scenes.SIZE // self.autoencoder.config.factor
        shape = cells, cells, self.autoencoder.config.latent_channels
        latents = torch.empty((CHUNK, *shape))
        order = sorted(range(CHUNK), key=lambda i: len(made[i].items))
        with torch.no_grad():
            for at in range(0, CHUNK, 16):  # of as many drawings each, which is quicker to paint
                part = order[at : at + 16]
                latents[part] = self.autoencoder.encode(self.painter.paint([made[i] for i in part]))
        return latents, tokens

    def _fitting(self, scene: scenes.Scene, rng: random.Random) -> list[str]:
        for _ in range(100):
            texts = self.caption(scene, rng)
            if max(len(self.tokenizer.encode(text)) for text in texts) <= self.tokenizer.max_length:
                return texts
        raise ValueError(f"No caption fits in {self.tokenizer.max_length} tokens: {texts}")

    def take(self, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Some of them at random: latents, and the tokens `(count, texts, length)`."""
        chunks, rows = rng.integers(len(self.chunks), size=count), rng.integers(CHUNK, size=count)
        places = zip(chunks, rows, strict=True)
        taken = [(self.chunks[a][0][b], self.chunks[a][1][b]) for a, b in places]
        latents, tokens = zip(*taken, strict=True)
        return torch.stack(latents), torch.stack(tokens)


class Noisy:
    """Noised latents, and what the UNet should say of them."""

    def __init__(self, config: ModelConfig):
        self.abar = torch.from_numpy(np.asarray(config.noise.table().alphas_cumprod, np.float32))

    def __call__(
        self, x0: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, Noising]:
        """`(x, target, level)`, with timesteps that are spread evenly."""
        count, last = len(x0), len(self.abar) - 1
        timestep = (spread(count, rng) * len(self.abar)).astype(np.int64)
        # A run begins with noise alone, of which the table's last level is 7 % short: what little
        # it shows of the image there is hidden, and the level comes up more often.
        timestep[rng.random(count) < 0.04] = last
        places = torch.from_numpy(timestep)
        signal = self.abar[places]
        level = Noising(places.float(), signal.sqrt(), (1 - signal).sqrt())
        alpha, sigma = (each[:, None, None, None] for each in (level.alpha, level.sigma))
        noise = torch.from_numpy(rng.standard_normal(x0.shape, np.float32))
        x = noised(x0, noise, alpha, sigma)
        x = torch.where((places == last)[:, None, None, None], noise, x)
        return x, target(OBJECTIVE.kind, x0, noise, alpha, sigma), level


class Lesson(ABC):
    """Batches without end for one of the networks.

    Args:
        networks: of the preset, by their names.
        config: of the preset.
        painter: of the pictures.
        tokenizer: of the captions.
        batch: latents a step.
        seed: of all chance.

    Attributes:
        trains: the name of the network that learns.
        variables: its.
    """

    trains: str

    def __init__(
        self,
        networks: Mapping[str, Any],
        config: ModelConfig,
        painter: Painter,
        tokenizer: Tokenizer,
        batch: int,
        seed: int,
    ):
        self.unet, self.text_encoder = networks["unet"], networks["text_encoder"]
        self.autoencoder, self.tokenizer = networks["autoencoder"], tokenizer
        self.painter, self.batch, self.seed = painter, batch, seed
        self.subjects = painter.subjects
        self.empty = torch.from_numpy(np.asarray(tokenizer("")[0])).long()
        self.noisy = Noisy(config)
        self.variables: Sequence[Any] = networks[self.trains].trainable_variables

    def latents_of(self, mix: scenes.Mix, seed: int) -> Latents:
        """Latents of such scenes, with this lesson's captions."""
        return Latents(self.autoencoder, self.painter.of(mix), self.tokenizer, self._captions, seed)

    def losses(self, step: int) -> Iterator[Callable[[], tuple[torch.Tensor, float]]]:
        """From this step on: functions that give the loss of a batch, and a number to show."""
        while True:
            self._fill(step)
            yield lambda step=step: self._loss(np.random.default_rng((self.seed, step)))
            step += 1

    @abstractmethod
    def _captions(self, scene: scenes.Scene, rng: random.Random) -> list[str]:
        """The texts of a scene."""

    @abstractmethod
    def _fill(self, step: int) -> None:
        """Sees to the latents of this step."""

    @abstractmethod
    def _loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        """Of a batch, and the number to show."""


class Words(Lesson):
    """The text encoder learns to say in any wording what it says in the one that it knows best; the
    UNet, which stays as it is, shows the difference (as Hinton et al. 2015 let a model learn of
    another). A little it learns of the pictures themselves. The number is what sets the wordings
    apart.
    """

    trains = "text_encoder"

    def __init__(self, networks: Mapping[str, Any], config: ModelConfig, *more: Any):
        super().__init__(networks, config, *more)
        self.teacher = copy_of(self.text_encoder)
        self.latents = self.latents_of(HARDER, self.seed)

    def _captions(self, scene: scenes.Scene, rng: random.Random) -> list[str]:
        """The same words of a scene in the best known wording, and in others."""
        seed = rng.random()
        known = scene.caption(self.subjects, random.Random(seed), BEST)
        others = [
            scene.caption(self.subjects, random.Random(seed), TAUGHT, rng) for _ in range(VARIANTS)
        ]
        return [known, *(scenes.strange(text, rng) for text in others)]

    def _fill(self, step: int) -> None:
        self.latents.fill(step * self.batch)

    def _loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        x0, tokens = self.latents.take(self.batch, rng)
        known, asked = tokens[:, 0], one_of(tokens, rng, 1)
        without = torch.from_numpy(rng.random((self.batch, 1)) < 0.06)
        known, asked = (torch.where(without, self.empty, each) for each in (known, asked))
        x, wanted, level = self.noisy(x0, rng)
        with torch.no_grad():
            taught = self.unet(x, level.t, self.teacher(known)).float()
        said = self.unet(x, level.t, self.text_encoder(asked)).float()
        apart = OBJECTIVE.loss(said, taught, level).mean()
        loss = apart + TRUTH * OBJECTIVE.loss(said, wanted, level).mean()
        return loss, float(apart.detach())


@dataclasses.dataclass(frozen=True)
class Group:
    """Scenes of a batch, and who says what the UNet shall answer.

    Attributes:
        mix: of the scenes.
        share: of the batch, at most 1; the last group has what is left.
        teacher: a UNet; `None`: the pictures themselves.
    """

    mix: scenes.Mix
    share: float
    teacher: UNet | None = None


class Scenes(Lesson):
    """The UNet learns of several groups of scenes at once, in wordings that are known. The last
    group is what shall stay, and its teacher, the model as it was, also says what is drawn without
    words: that is of all kinds. The number is the error of the other groups.

    Args:
        networks: see `Lesson`.
        config: likewise.
        *more: likewise.
        groups: of the scenes.
    """

    trains = "unet"

    def __init__(
        self,
        networks: Mapping[str, Any],
        config: ModelConfig,
        *more: Any,
        groups: Sequence[Group],
    ):
        super().__init__(networks, config, *more)
        self.groups = groups
        *first, last = range(len(groups))
        counts = [round(self.batch * groups[i].share) for i in first]
        self.counts = *counts, self.batch - sum(counts)
        self.latents = [
            self.latents_of(each.mix, self.seed + 7 * i) for i, each in enumerate(groups)
        ]
        # The same rows in each batch: of other numbers, convolutions would be planned anew.
        self.without = torch.arange(self.batch) % 10 == 9
        group = torch.repeat_interleave(torch.tensor(self.counts))
        self.says = torch.where(self.without, last, group)

    def _captions(self, scene: scenes.Scene, rng: random.Random) -> list[str]:
        return [scene.caption(self.subjects, rng, scenes.LAST) for _ in range(VARIANTS)]

    def _fill(self, step: int) -> None:
        for latents, count in zip(self.latents, self.counts, strict=True):
            latents.fill(step * count)

    def _loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        taken = [each.take(n, rng) for each, n in zip(self.latents, self.counts, strict=True)]
        x0, tokens = (torch.cat(each) for each in zip(*taken, strict=True))
        tokens = torch.where(self.without[:, None], self.empty, one_of(tokens, rng))
        x, wanted, level = self.noisy(x0, rng)
        with torch.no_grad():
            context = self.text_encoder(tokens)
            for i, group in enumerate(self.groups):
                if group.teacher is not None:
                    rows = self.says == i
                    said = group.teacher(x[rows], level.t[rows], context[rows])
                    wanted[rows] = said.float()
        losses = OBJECTIVE.loss(self.unet(x, level.t, context).float(), wanted, level)
        return losses.mean(), float(losses[: -self.counts[-1]].mean().detach())


def copy_of(network: Any) -> Any:
    """Another network of the same weights."""
    other = type(network)(network.config)
    other.set_weights(network.get_weights())
    return other


def one_of(tokens: torch.Tensor, rng: np.random.Generator, first: int = 0) -> torch.Tensor:
    """One of the texts of each row, from the first on that is meant: `(n, length)`."""
    count, texts = tokens.shape[:2]
    return tokens[torch.arange(count), torch.from_numpy(rng.integers(first, texts, size=count))]
