"""Goes on with a preset on a CPU, in small batches, on torch, without spoiling what it can do.

    python -m recipes.emoji.refine words --start keras_sd/presets/emoji-128 --bank data/bank.zip \
        --subjects data/subjects.json --out refined --minutes 42 --rate 4e-4
    python -m recipes.emoji.refine line --start ... --out experts --minutes 140 --rate 2e-4
    python -m recipes.emoji.refine join --start ... --experts experts --out refined --minutes 170
    python -m recipes.emoji.preset refined --start keras_sd/presets/emoji-128 \
        --subjects data/subjects.json --out my-emoji

`words` trains the text encoder: it learns wordings. `line` trains the UNet: it learns to draw
lines, and unlearns a little of everything else. Neither knows of the other, so each can have a
core. `join` lets a UNet have both: it learns of the one that draws lines what that one does best,
and of the preset everything else; these teachers' answers are without noise.

`OUT` gets a log, `PART.pt`, from which a run that was stopped goes on, and at the end what the
average of the weights has more than the preset, float16, in `PART-0.npz` and so on, which `preset`
adds to it.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch

from keras_sd.files import replace_file
from keras_sd.networks import UNet
from keras_sd.tokenizer import Tokenizer
from keras_sd.weights.checkpoint import Checkpoint, open_checkpoint
from keras_sd.weights.load import build_networks
from recipes.emoji import pieces
from recipes.emoji.config import rate_at
from recipes.emoji.lessons import (
    KEPT,
    LEARNED,
    SHARE,
    SHARED,
    Group,
    Lesson,
    Painter,
    Scenes,
    Words,
    copy_of,
)
from recipes.emoji.log import say, write_to


class Training:
    """Weights on their way: AdamW in float32, a rate that follows the clock, a running average.

    Args:
        variables: what is trained.
        path: of the state; it is read where it is there.
        minutes: of the whole training, pauses not counted.
        rate: of learning, at most.
    """

    def __init__(self, variables: list, path: Path, minutes: float, rate: float):
        self.values = [variable.value for variable in variables]
        self.path, self.seconds, self.most = path, minutes * 60, rate
        self.optimizer = torch.optim.AdamW(
            self.values, lr=rate, betas=(0.9, 0.99), eps=1e-8, weight_decay=1e-4, fused=True
        )
        self.average = [value.detach().clone() for value in self.values]
        self.step, self.spent = 0, 0.0
        if path.exists():
            self._read()

    def _read(self) -> None:
        state = torch.load(self.path, weights_only=True)
        with torch.no_grad():
            for value, known in zip(self.values, state["values"], strict=True):
                value.copy_(known)
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent = state["step"], state["spent"]
        say(f"goes on at step {self.step}, after {self.spent / 60:.1f} minutes")

    def save(self) -> None:
        """Writes the state, whole or not at all."""
        state = {
            "values": [value.detach() for value in self.values],
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.spent,
        }
        replace_file(self.path, lambda path: torch.save(state, path))

    def run(self, lesson: Lesson) -> None:
        """Trains until the time is over, or goes on until then."""
        losses = lesson.losses(self.step)
        begin, shown, saved, seen = time.monotonic() - self.spent, time.monotonic(), 0.0, []
        while self.spent < self.seconds:
            loss, number = next(losses)()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.values, 1.0)
            rate = rate_at(self.spent, 0, self.seconds, self.most)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            keep = min(0.999, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.values, 1 - keep)
            seen.append(number)
            now = time.monotonic()
            self.spent = now - begin
            if now - shown > 30:
                say(f"step {self.step}: {np.mean(seen):.4f}, rate {rate:.2e}")
                shown, seen = now, []
            if now - saved > 300:
                self.save()
                saved = now
        self.save()


def dtype_policy() -> str:
    """bfloat16 where the processor multiplies in it; without, that takes several times longer."""
    about = Path("/proc/cpuinfo")
    multiplies = about.exists() and "avx512_bf16" in about.read_text(encoding="utf-8")
    return "mixed_bfloat16" if multiplies else "float32"


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=["words", *LEARNED, "join"])
    for name in ("start", "bank", "subjects", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--experts", type=Path, help="the folder of what `join` joins")
    parser.add_argument("--minutes", type=float, default=60, help="of training")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-4, help="of learning, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes {options.minutes:g} is no time")
    if options.batch < 10:
        parser.error(f"--batch {options.batch} is too small: 10 at least")
    if (options.part == "join") != (options.experts is not None):
        parser.error("--experts for `join`, and for nothing else")
    return options


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """That of a preset."""
    text = checkpoint.config.text_encoder
    return Tokenizer(
        checkpoint.path / "merges.txt", max_length=text.max_length, vocab_size=text.vocab_size
    )


def groups_of(part: str, unet: UNet, experts: Path | None) -> list[Group]:
    """Of what a UNet learns a part.

    Args:
        part: which one.
        unet: as the preset has it.
        experts: the folder of those that are joined.

    Raises:
        ValueError: there are no experts, or some of something else.
    """
    if experts is None:
        learned, kept = LEARNED[part]
        return [Group(learned, SHARE), Group(kept, 1 - SHARE, copy_of(unet))]
    found = pieces.parts_of(experts)
    if odd := sorted(found.keys() - LEARNED.keys()):
        raise ValueError(f"{experts} has {', '.join(odd)}; joined can be {', '.join(LEARNED)}")
    groups = []
    for each, network in found.items():
        expert = copy_of(unet)
        pieces.add(experts, each, network, expert)
        groups.append(Group(LEARNED[each][0], SHARED / len(found), expert))
    return [*groups, Group(KEPT, 1 - SHARED, copy_of(unet))]


def main() -> None:
    """The command."""
    options = options_of()
    options.out.mkdir(parents=True, exist_ok=True)
    write_to(options.out / f"{options.part}.log")
    torch.set_num_threads(options.threads)
    policy = dtype_policy()
    keras.config.set_dtype_policy(policy)
    checkpoint = open_checkpoint(options.start)
    config = checkpoint.config
    networks = build_networks(checkpoint)
    tokenizer = tokenizer_of(checkpoint)
    painter = Painter(options.bank, options.subjects)
    given = networks, config, painter, tokenizer, options.batch, options.seed
    lesson: Lesson
    if options.part == "words":
        lesson = Words(*given)
    else:
        groups = groups_of(options.part, networks["unet"], options.experts)
        lesson = Scenes(*given, groups=groups)
    first = [variable.value.detach().clone() for variable in lesson.variables]
    if options.experts:  # it begins with what all of them have gained
        for part, name in pieces.parts_of(options.experts).items():
            pieces.add(options.experts, part, name, networks[name])
    learns = {id(variable) for variable in lesson.variables}
    for network in networks.values():
        for variable in network.variables:
            variable.value.requires_grad_(id(variable) in learns)
    say(f"{options.part}: {policy}, {options.threads} threads; {vars(options)}")
    state = options.out / f"{options.part}.pt"
    training = Training(lesson.variables, state, options.minutes, options.rate)
    training.run(lesson)
    gained = [after - before for after, before in zip(training.average, first, strict=True)]
    pieces.save(options.out, options.part, {lesson.trains: gained}, training.step)
    say(f"done: {training.step} batches of {options.batch}")


if __name__ == "__main__":
    main()
