"""From prompts to what the UNet is told of them.

Plain texts go through the tokenizers as they are, those in a style with weights as `Wording`s,
encodings as they were given. All are brought to the same number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from keras_sd.checks import SettingError
from keras_sd.conditions import CONTEXT, Conditions
from keras_sd.config import ModelConfig
from keras_sd.forms import as_float32
from keras_sd.request import Request
from keras_sd.start import Attachment
from keras_sd.tokenizer import Tokenizer
from keras_sd.wording import Wording, encodings, worded

__all__ = ["Texts", "Tokenized"]


@dataclass(frozen=True)
class Tokenized:
    """Texts as the model reads them, one row an image.

    Attributes:
        lengths: tokens of each row's encoding.
        ids: by text encoder, int32 `(images, tokens)`; empty where something else was given.
        wordings: likewise, of texts in a style with weights.
        given: encodings, float32 `(tokens, features)` each.
        words: the texts without weights and the like.
        clip_skip: see `keras_sd.request.Request`.
    """

    lengths: tuple[int, ...]
    ids: Mapping[str, np.ndarray] = field(default_factory=dict)
    wordings: Mapping[str, Sequence[Wording]] = field(default_factory=dict)
    given: Sequence[np.ndarray] = ()
    words: Sequence[str] = ()
    clip_skip: int = 1

    def __len__(self) -> int:
        """Rows."""
        return len(self.lengths)


@dataclass(frozen=True)
class Texts:
    """The text encoders of a model, as runs use them.

    Attributes:
        config: the model's numbers.
        parts: its networks by name.
        tokenizers: by the names of their text encoders.
        encode: `(part, clip_skip, ids)` or `(part, clip_skip, ids, seen)` -> the encodings; see
            `keras_sd.networks.TextEncoder`.
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
    ) -> Tokenized:
        """Texts as the model reads them.

        Args:
            name: of the argument that they came in, for errors.
            texts: strings, or encodings `(tokens, features)`, one an image.
            style: of the strings, see `keras_sd.prompts`.
            clip_skip: see `keras_sd.request.Request`.

        Raises:
            ValueError: a text is too long (`PromptTooLongError`) or has no meaning in its style
                (`keras_sd.prompts.PromptError`), has a token that the text encoder does not have,
                or an encoding is of another shape or not finite; there are fewer layers to skip.
        """
        if clip_skip > 1:
            depth = min(self.parts[part].config.depth for part in self.config.text_encoders)
            if clip_skip > depth:
                raise SettingError("clip_skip", f"is at most {depth} here, not {clip_skip}")
        given = [each for each in texts if isinstance(each, Attachment)]
        if given:
            if len(given) != len(texts):
                raise ValueError(f"{name} are texts or encodings of texts, not some of each")
            rows = [self._encoding(name, each) for each in given]
            return Tokenized(tuple(map(len, rows)), given=rows, clip_skip=clip_skip)
        strings = [each for each in texts if isinstance(each, str)]
        length = self.config.text_encoder.max_length
        if style == "plain":
            ids = {part: self.tokenizers[part](strings) for part in self.config.text_encoders}
            for part, tokens in ids.items():
                self._check_known(name, part, int(tokens.max()))
            return Tokenized((length,) * len(strings), ids, words=strings, clip_skip=clip_skip)
        wordings = {
            part: [worded(name, each, style, self.tokenizers[part]) for each in strings]
            for part in self.config.text_encoders
        }
        for part, each in ((part, each) for part, row in wordings.items() for each in row):
            self._check_known(name, part, each.largest)
        counts = [max(map(len, row)) for row in zip(*wordings.values(), strict=True)]
        return Tokenized(
            tuple(count * length for count in counts),
            wordings=wordings,
            words=[each.words for each in next(iter(wordings.values()))],
            clip_skip=clip_skip,
        )

    def _check_known(self, name: str, part: str, largest: int) -> None:
        known = self.parts[part].config.vocab_size
        if largest >= known:
            raise ValueError(
                f"{name} has a token of number {largest}, which the text encoder does not "
                f"have: it has {known}. A token that was added needs one with room for it"
            )

    def read(self, request: Request) -> tuple[Tokenized, Tokenized]:
        """Prompts and negative prompts of a request.

        Raises:
            ValueError: see `tokens`; or their encodings have other numbers of tokens, and cannot be
                brought to one by the encoding of no text.
        """
        told, untold = (
            self.tokens(name, texts, request.prompt_style, request.clip_skip)
            for name, texts in (
                ("prompt", request.prompts),
                ("negative_prompt", request.negative_prompts),
            )
        )
        self._length(told, untold)
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
        chunk = self.config.text_encoder.max_length
        if tokens.given:
            rows = [ops.convert_to_tensor(each)[None] for each in tokens.given]
            context = ops.concatenate([self._padded(row, length, skip) for row in rows])
        elif tokens.ids:
            encoded = [self.encode(part, skip, ids) for part, ids in tokens.ids.items()]
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
        return Conditions({CONTEXT: context})

    def told(self, *tokens: Tokenized) -> list[Conditions]:
        """`conditions` of each, all with the same number of tokens.

        Raises:
            ValueError: see `read`.
        """
        length = self._length(*tokens)
        return [self.conditions(each, length) for each in tokens]

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
