"""From prompts to what the UNet is told of them.

Plain texts go through the tokenizers as they are, those in a style with weights as `Wording`s,
encodings as they were given. All are brought to the same number of tokens, those that a run comes
to at a later step too, so that nothing is compiled anew there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from keras import ops

from keras_sd.checks import SettingError
from keras_sd.conditions import CONTEXT, GUIDANCE, NUMBERS, POOLED, Conditions
from keras_sd.config import ModelConfig
from keras_sd.forms import as_float32
from keras_sd.guidance import embedded
from keras_sd.low_memory import config_of
from keras_sd.prompts import Prompt, PromptError, Turn, parse, script
from keras_sd.request import Request
from keras_sd.start import Attachment
from keras_sd.tokenizer import Tokenizer
from keras_sd.wording import Wording, encodings, pooled, worded

__all__ = ["Texts", "Tokenized", "Told"]

_Rows: TypeAlias = "tuple[tuple[int, ...], ...]"  # of parts and images, as `Turn` has them


@dataclass(frozen=True)
class Tokenized:
    """Texts as the model reads them, one row a text: of each image one or, where its prompt has AND
    or changes, several.

    Attributes:
        lengths: tokens of each row's encoding.
        turns: which rows the images have at which steps; see `keras_sd.prompts.script`.
        weights: of their parts, see there.
        ids: by text encoder, int32 `(rows, tokens)`; empty where something else was given.
        wordings: likewise, of texts in a style with weights.
        given: encodings, float32 `(tokens, features)` each.
        words: the texts without weights and the like.
        clip_skip: see `keras_sd.request.Request`.
        beside: what the UNet is told with each row, by the names of `keras_sd.conditions`.
        zeros: which rows are zeros to the UNet, see `keras_sd.conditioning.Conditioning`.
    """

    lengths: tuple[int, ...]
    turns: tuple[Turn, ...]
    weights: tuple[tuple[float, ...], ...] | None = None
    ids: Mapping[str, np.ndarray] = field(default_factory=dict)
    wordings: Mapping[str, Sequence[Wording]] = field(default_factory=dict)
    given: Sequence[np.ndarray] = ()
    words: Sequence[str] = ()
    clip_skip: int = 1
    beside: Mapping[str, Any] = field(default_factory=dict)
    zeros: tuple[bool, ...] = ()

    def __len__(self) -> int:
        """Rows."""
        return len(self.lengths)


@dataclass(frozen=True, eq=False)
class Told:
    """What the UNet is told at some steps of a run.

    Attributes:
        told: of the prompts, a row an image and part: first the first part of every image.
        untold: of the negative prompts, one row an image.
        weights: of the parts, float32 `(parts, images)`; None where every image has one part, of
            weight 1.
    """

    told: Conditions
    untold: Conditions
    weights: np.ndarray | None = None

    @property
    def parts(self) -> int:
        """Rows of an image among those of the prompts."""
        return 1 if self.weights is None else len(self.weights)


@dataclass(frozen=True)
class Texts:
    """The text encoders of a model, as runs use them.

    Attributes:
        config: the model's numbers.
        parts: its networks by name.
        tokenizers: by the names of their text encoders.
        encode: `(part, clip_skip, ids)` or `(part, clip_skip, ids, seen)` -> the encodings, with
            `ends=` the pooled vectors too; see `keras_sd.networks.TextEncoder`.
    """

    config: ModelConfig
    parts: Mapping[str, Any]
    tokenizers: Mapping[str, Tokenizer]
    encode: Callable[..., Any]

    def tokens(
        self,
        name: str,
        texts: Sequence[str | Attachment],
        style: str = "plain",
        clip_skip: int = 1,
        *,
        num_steps: int | None = None,
        negative: bool = False,
        obeyed: Collection[tuple[str, float, float]] = (),
    ) -> Tokenized:
        """Texts as the model reads them.

        Args:
            name: of the argument that they came in, for errors.
            texts: strings, or encodings `(tokens, features)`, one an image.
            style: of the strings, see `keras_sd.prompts`.
            clip_skip: see `keras_sd.request.Request`.
            num_steps: of the run that they are for; None is no run, and then each has one encoding.
            negative: whether they are negative prompts.
            obeyed: name and strengths, in the UNet and in the text encoders, of the adapters that
                the run has, so that tags may name them.

        Raises:
            ValueError: a text is too long (`PromptTooLongError`) or has no meaning in its style
                (`keras_sd.prompts.PromptError`), has several encodings where there is no run, has a
                token that the text encoder does not have, or an encoding is of another shape or not
                finite; there are fewer layers to skip.
        """
        if clip_skip > 1:
            depth = min(self._config(part).passed for part in self.config.text_encoders)
            if clip_skip > depth:
                raise SettingError("clip_skip", f"is at most {depth} here, not {clip_skip}")
        still = (Turn(num_steps or 1, (tuple(range(len(texts))),)),)
        given = [each for each in texts if isinstance(each, Attachment)]
        if given:
            if len(given) != len(texts):
                raise ValueError(f"{name} are texts or encodings of texts, not some of each")
            if self._pools is not None:
                raise ValueError(
                    f"{name} is an encoding, and {self.config.name} is told a vector of the whole "
                    "text too, which is not in it: give the text"
                )
            rows = [self._encoding(name, each) for each in given]
            return Tokenized(tuple(map(len, rows)), still, given=rows, clip_skip=clip_skip)
        strings = [each for each in texts if isinstance(each, str)]
        length = self.config.text_encoder.max_length
        if style == "plain":
            ids = {part: self.tokenizers[part](strings) for part in self.config.text_encoders}
            for part, tokens in ids.items():
                self._check_known(name, part, int(tokens.max()))
            return Tokenized(
                (length,) * len(strings), still, ids=ids, words=strings, clip_skip=clip_skip
            )
        prompts = [parse(each, style, negative=negative) for each in strings]
        for each in prompts:
            _check_drawn(name, each, num_steps, obeyed)
        written = script(prompts, num_steps or 1)
        wordings = {
            part: [worded(line, self.tokenizers[part]) for line in written.lines]
            for part in self.config.text_encoders
        }
        for part, row in wordings.items():
            self._check_known(name, part, max(each.largest for each in row))
        counts = [max(map(len, row)) for row in zip(*wordings.values(), strict=True)]
        return Tokenized(
            tuple(count * length for count in counts),
            written.turns,
            written.weights,
            wordings=wordings,
            words=[each.words for each in next(iter(wordings.values()))],
            clip_skip=clip_skip,
        )

    def _config(self, part: str) -> Any:
        return config_of(self.parts, part, self.config.text_encoders[part])

    def _check_known(self, name: str, part: str, largest: int) -> None:
        known = self._config(part).vocab_size
        # A tokenizer of others has no names.
        names = getattr(self.tokenizers[part], "names", None)
        if largest >= (known if names is None else names.end):
            raise ValueError(
                f"{name} has a token of number {largest}, which the text encoder does not "
                f"have: it has {known}. A token that was added needs one with room for it"
            )

    @property
    def _pools(self) -> str | None:
        """The text encoder whose pooled vector the UNet is told."""
        return list(self.config.text_encoders)[-1] if self.config.unet.pooled_width else None

    def _beside(
        self, request: Request, size: tuple[int, int] | None, negative: bool
    ) -> dict[str, Any]:
        """What the UNet is told in numbers."""
        unet = self.config.unet
        found: dict[str, Any] = {}
        if unet.numbers:
            size = size or request.size
            found[NUMBERS] = request.numbers(unet.numbers, size, negative=negative)
        if unet.guidance_width:
            scale: Any = request.guidance_scale  # a number, since it is resolved
            found[GUIDANCE] = embedded(scale, unet.guidance_width)
        return found

    def read(
        self,
        request: Request,
        num_steps: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> tuple[Tokenized, Tokenized]:
        """Prompts and negative prompts of a request.

        Args:
            request: of the run.
            num_steps: which the run takes; see `tokens`.
            size: height and width of the pictures; None is the request's.

        Raises:
            ValueError: see `tokens`; or their encodings have other numbers of tokens, and cannot be
                brought to one by the encoding of no text.
        """
        obeyed = [
            (each.file.name or "", each.strengths["unet"], each.strengths["text_encoder"])
            for each in request.adapters
        ]
        told, untold = (
            self.tokens(
                name,
                texts,
                request.prompt_style,
                request.clip_skip,
                num_steps=num_steps,
                negative=name == "negative_prompt",
                obeyed=obeyed,
            )
            for name, texts in (
                ("prompt", request.prompts),
                ("negative_prompt", request.negative_prompts),
            )
        )
        self._length(told, untold)
        told = replace(told, beside=self._beside(request, size, False))
        untold = replace(untold, beside=self._beside(request, size, True))
        if request.empty_negative == "zeros":
            untold = replace(untold, zeros=tuple(not each.strip() for each in untold.words))
        return told, untold

    def _length(self, *tokens: Tokenized) -> int:
        """The tokens that all encodings are brought to."""
        chunk = self.config.text_encoder.max_length
        lengths = sorted({length for each in tokens for length in each.lengths})
        if any((lengths[-1] - length) % chunk for length in lengths):
            raise ValueError(
                f"Encodings are of one length, or of lengths that differ by multiples of {chunk} "
                f"tokens, which is a text encoding; these have {' and '.join(map(str, lengths))}"
            )
        return lengths[-1]

    def conditions(self, tokens: Tokenized, length: int) -> Conditions:
        """What the UNet is told of texts.

        Args:
            tokens: what `tokens` or `read` gave.
            length: tokens of each encoding: where there are fewer, those of no text come behind.
        """
        skip = tokens.clip_skip
        found: dict[str, Any] = {}
        chunk = self.config.text_encoder.max_length
        if tokens.given:
            rows = [ops.convert_to_tensor(each)[None] for each in tokens.given]
            context = ops.concatenate([self._padded(row, length, skip) for row in rows])
        elif tokens.ids:
            encoded = []
            for part, ids in tokens.ids.items():
                if part == self._pools:
                    rows, found[POOLED] = self.encode(part, skip, ids, ends=self._ends(part, ids))
                else:
                    rows = self.encode(part, skip, ids)
                encoded.append(rows)
            one = len(encoded) == 1
            context = encoded[0] if one else ops.concatenate(encoded, axis=-1)
            context = self._padded(context, length, skip)
        else:
            encoded = [
                encodings(
                    wordings,
                    self.tokenizers[part],
                    partial(self.encode, part, skip),
                    length // chunk,
                )
                for part, wordings in tokens.wordings.items()
            ]
            context = ops.concatenate(encoded, axis=-1)
            if (last := self._pools) is not None:
                found[POOLED] = pooled(
                    tokens.wordings[last],
                    self.tokenizers[last],
                    lambda ids: self.encode(last, skip, ids, ends=self._ends(last, ids))[1],
                )
        found = {CONTEXT: context, **found}
        if any(tokens.zeros):
            kept = ops.convert_to_tensor(np.logical_not(tokens.zeros).astype(np.float32))
            for name, array in found.items():
                mask = ops.reshape(kept, (-1, *[1] * (len(array.shape) - 1)))
                found[name] = array * ops.cast(mask, array.dtype)
        for name, row in tokens.beside.items():
            repeated = np.repeat(np.asarray([row], np.float32), len(tokens), axis=0)
            found[name] = ops.convert_to_tensor(repeated)
        return Conditions(found)

    def _ends(self, part: str, ids: np.ndarray) -> np.ndarray:
        """Where the first end mark of each row is."""
        return np.argmax(ids == self.tokenizers[part].end_id, axis=1).astype(np.int32)

    def told(self, *tokens: Tokenized) -> list[Conditions]:
        """`conditions` of each, all with the same number of tokens.

        Raises:
            ValueError: see `read`.
        """
        length = self._length(*tokens)
        return [self.conditions(each, length) for each in tokens]

    def turns(self, told: Tokenized, untold: Tokenized) -> list[tuple[int, Told]]:
        """What the UNet is told over the steps of a run.

        Args:
            told: the prompts.
            untold: the negative prompts.

        Returns:
            In their order, each with the last step that it is for. What comes back, as with
            `[a|b]`, is the same object again.

        Raises:
            ValueError: see `read`.
        """
        rows, others = self.told(told, untold)
        weights = None if told.weights is None else np.array(told.weights, np.float32)
        made: dict[tuple[_Rows, _Rows], Told] = {}
        found = []
        for last in sorted({turn.last for each in (told, untold) for turn in each.turns}):
            chosen, other = (_turn(each, last).rows for each in (told, untold))
            if (chosen, other) not in made:
                made[chosen, other] = Told(_taken(rows, chosen), _taken(others, other), weights)
            found.append((last, made[chosen, other]))
        return found

    def _padded(self, context: Any, length: int, skip: int) -> Any:
        """Encodings with those of no text behind."""
        chunk = self.config.text_encoder.max_length
        missing = (length - context.shape[1]) // chunk
        if not missing:
            return context
        none = self.conditions(self.tokens("prompt", [""], clip_skip=skip), chunk)[CONTEXT]
        row = ops.repeat(ops.cast(none, context.dtype), context.shape[0], axis=0)
        return ops.concatenate([context, *[row] * missing], axis=1)

    def _encoding(self, name: str, given: Attachment) -> np.ndarray:
        width = self.config.unet.context_width
        if given.data is None:
            raise ValueError(f"{name} has an encoding without its numbers: see Request.attached")
        rows = as_float32(name, given.data)
        if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
            raise ValueError(
                f"Encodings are (tokens, {width}) or (prompts, tokens, {width}), as encode_text "
                f"gives them; {name} is of shape {rows.shape}"
            )
        return rows


def _turn(tokens: Tokenized, step: int) -> Turn:
    return next(turn for turn in tokens.turns if turn.last >= step)


def _taken(conditions: Conditions, rows: _Rows) -> Conditions:
    """Those rows, one part of all images behind the other."""
    numbers = [number for part in rows for number in part]
    if all(numbers == list(range(array.shape[0])) for array in conditions.values()):
        return conditions
    taken = np.array(numbers, np.int32)
    return Conditions({name: ops.take(array, taken, axis=0) for name, array in conditions.items()})


def _check_drawn(
    name: str, prompt: Prompt, num_steps: int | None, obeyed: Collection[tuple[str, float, float]]
) -> None:
    """Raises:
    PromptError: the prompt asks for what is not drawn, or without a run has several encodings.
    """
    for tag in prompt.tags:
        if not tag.known or (tag.name, tag.unet, tag.text_encoder) not in obeyed:
            raise PromptError(
                f"{name} has the tag {tag.source}, and nothing here obeys it; leave it out, or "
                "say in which folder its file is: adapters_dir"
            )
    changes = any(part.changes for part in prompt.parts)
    parts = prompt.join == "guided" and [part.weight for part in prompt.parts] != [1.0]
    if num_steps is None and (changes or parts):
        what = "another text at other steps" if changes else "parts with weights"
        raise PromptError(
            f"{name} has {what}, which are of a run and have no encoding together: {prompt.text!r}"
        )
