"""How a prompt is understood: what has which weight, which steps see what, how it is broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_sd.prompts.chunking import Chunk, Whole, Words, chunks
from keras_sd.prompts.grammar import Part, Prompt, Range, parse

__all__ = ["Explanation", "Shown", "explain"]

_JOINED = {
    "guided": "their predictions are added by weight",
    "blended": "their encodings are added by weight",
    "joined": "their encodings stand one behind the other",
}


@dataclass(frozen=True)
class Shown:
    """What some steps see of a part.

    Attributes:
        range: the steps, and the text with its weights.
        chunks: its tokens.
        tokens: how many the text has. Those of the chunks are as many: none is dropped.
        embeddings: those that are named, in their order, each with its number of vectors. They are
            among the tokens.
    """

    range: Range
    chunks: tuple[Chunk, ...]
    tokens: int
    embeddings: tuple[tuple[str, int], ...] = ()

    @property
    def dropped(self) -> int:
        """Tokens of the text that are in no chunk."""
        return self.tokens - sum(map(len, self.chunks))


@dataclass(frozen=True)
class Explanation:
    """How a prompt is understood; `print` shows it.

    Attributes:
        prompt: what was read.
        num_steps: of the run.
        parts: each part with what its steps see.
    """

    prompt: Prompt
    num_steps: int
    parts: tuple[tuple[Part, tuple[Shown, ...]], ...]

    def to_dict(self) -> dict[str, Any]:
        """The explanation in JSON's types."""
        prompt = self.prompt
        return {
            "prompt": prompt.text,
            "style": prompt.style,
            "num_steps": self.num_steps,
            "join": prompt.join,
            "parts": [
                {"weight": part.weight, "steps": [_plain(each) for each in shown]}
                for part, shown in self.parts
            ],
            "tags": [
                {
                    "source": tag.source,
                    "kind": tag.kind,
                    "name": tag.name,
                    "text_encoder": tag.text_encoder,
                    "unet": tag.unet,
                    "rank": tag.rank,
                    "known": tag.known,
                }
                for tag in prompt.tags
            ],
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        prompt = self.prompt
        yield f"style: {prompt.style}"
        if len(self.parts) > 1:
            yield f"{len(self.parts)} parts: {_JOINED[prompt.join]}"
        for number, (part, shown) in enumerate(self.parts, 1):
            if len(self.parts) > 1 or part.weight != 1:
                yield f"part {number}, weight {part.weight:.6g}"
            for each in shown:
                yield from self._of_steps(part, each)
        for tag in prompt.tags:
            if tag.known:
                rank = "" if tag.rank is None else f", rank {tag.rank}"
                yield (
                    f"tag {tag.source}: {tag.kind} {tag.name!r}, text encoder "
                    f"{tag.text_encoder:.6g}, UNet {tag.unet:.6g}{rank}"
                )
            else:
                yield f"unknown tag {tag.source}"

    def _of_steps(self, part: Part, shown: Shown) -> Iterator[str]:
        range_ = shown.range
        if part.changes:
            yield f"steps {range_.first} to {range_.last} of {self.num_steps}:"
        for index, section in enumerate(range_.sections):
            if index:
                yield "  BREAK"
            for segment in section:
                yield f"  {segment.weight:<8.6g} {segment.text!r}"
        sizes = " + ".join(str(len(chunk)) for chunk in shown.chunks)
        yield (
            f"  {_counted(shown.tokens, 'token')} in {_counted(len(shown.chunks), 'chunk')} "
            f"({sizes}), {shown.dropped or 'none'} dropped"
        )
        for name, count in shown.embeddings:
            yield f"  embedding {name!r}: {_counted(count, 'vector')}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _plain(shown: Shown) -> dict[str, Any]:
    return {
        "first": shown.range.first,
        "last": shown.range.last,
        "text": shown.range.text,
        "sections": [
            [{"text": segment.text, "weight": segment.weight} for segment in section]
            for section in shown.range.sections
        ],
        "tokens": shown.tokens,
        "dropped": shown.dropped,
        "embeddings": [{"name": name, "vectors": count} for name, count in shown.embeddings],
        "chunks": [{"ids": list(each.ids), "weights": list(each.weights)} for each in shown.chunks],
    }


def explain(
    prompt: Prompt | str, words: Words, style: str = "plain", *, room: int = 75, num_steps: int = 20
) -> Explanation:
    """How a prompt is understood.

    Args:
        prompt: a text, or what `parse` gave.
        words: the tokenizer, `keras_sd.tokenizer.Tokenizer.words` or one like it.
        style: of the text, see `parse`; a `Prompt` has its own.
        room: tokens in a chunk.
        num_steps: of the run that the edits are for.

    Raises:
        PromptError: see `parse` and `chunks`.
    """
    read = parse(prompt, style) if isinstance(prompt, str) else prompt
    parts = tuple(
        (part, tuple(_shown(part, each, words, room) for each in part.ranges(num_steps)))
        for part in read.parts
    )
    return Explanation(read, num_steps, parts)


def _shown(part: Part, range_: Range, words: Words, room: int) -> Shown:
    broken = chunks(range_.sections, words, part.style, room)
    segments = (segment for section in range_.sections for segment in section)
    found = [word for each in segments for word in words(each.text)]
    named = tuple((word.name, len(word)) for word in found if isinstance(word, Whole))
    return Shown(range_, broken, sum(map(len, found)), named)
