"""What a server says of itself: its model, and what can be asked of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from keras_sd import __version__
from keras_sd.aliases import display_name
from keras_sd.installed import Declared
from keras_sd.prompt_styles import STYLES
from keras_sd.registry import (
    get_guidance,
    get_sampler,
    get_schedule,
    list_guidance,
    list_samplers,
    list_schedules,
)
from keras_sd.request import Request
from keras_sd.serve.limits import Limits
from keras_sd.settings import settings
from keras_sd.specs import parse_spec
from keras_sd.start import Masking, Start

if TYPE_CHECKING:
    from keras_sd.config import Defaults
    from keras_sd.tokenizer import Tokenizer

__all__ = ["About", "Names"]


@dataclass(frozen=True)
class About:
    """What is known of a source's model without asking it.

    Attributes:
        name: of the model, no path.
        defaults: what it does where a request says nothing.
        limits: how much may be asked for.
        tokenizer: counts the tokens of prompts; None where that is not known.
        unknown_words: the words of a text that the model was not trained on.
        words: those that it was trained on, where they are few enough to say.
        paints: whether it is an inpainting model, which needs a picture and a mask.
        reads: whether it can begin at a picture.
        license: of the weights.
        backend: that computes.
        loading: options that it was loaded with, for the files of its pictures.
        weights: gives the SHA-256 of its files, `{}` until they are known.
        adapters: names that tags of prompts may have.
    """

    name: str
    defaults: Defaults
    limits: Limits
    tokenizer: Tokenizer | None = None
    unknown_words: Callable[[str], Sequence[str]] = lambda text: ()
    words: Sequence[str] = ()
    paints: bool = False
    reads: bool = True
    license: str | None = None
    backend: str = ""
    loading: Mapping[str, Any] = field(default_factory=dict)
    weights: Callable[[], Mapping[str, str]] = dict
    adapters: Sequence[str] = ()

    @classmethod
    def of(cls, model: Any, limits: Limits | None = None, **more: Any) -> About:
        """What a `keras_sd.model.Model` says of itself.

        Args:
            model: that draws.
            limits: None is those for its size.
            **more: `name`, `backend`, `loading`, `weights`, `adapters`.
        """
        return cls(
            **{"name": model.config.name, **more},
            defaults=model.defaults,
            limits=limits or Limits.of(model.defaults),
            tokenizer=model.tokenizers["text_encoder"],
            unknown_words=model.unknown_words,
            words=tuple(sorted(model.words or ())),
            paints=model.paints,
            reads=model.config.autoencoder.encoder,
            license=model.license,
        )

    @cached_property
    def samplers(self) -> Names:
        """Those that were installed at the start; a request cannot name another."""
        return Names(list_samplers(), get_sampler)

    @cached_property
    def schedules(self) -> Names:
        """Likewise."""
        return Names(list_schedules(), get_schedule)

    @cached_property
    def guidance(self) -> Names:
        """Likewise."""
        return Names(list_guidance(), get_guidance)

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the model's file, once it is known."""
        return self.weights().get("model")

    def made(self) -> dict[str, Any]:
        """What the files of pictures hold beside their requests."""
        weights = dict(self.weights())
        return {
            "model": self.name,
            **self.loading,
            **({"weights": weights} if weights else {}),
            "backend": self.backend,
            "version": __version__,
        }

    def info(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        defaults, limits = self.defaults, self.limits
        return {
            "model": {
                "name": self.name,
                "license": self.license,
                "words": list(self.words),
                "inpainting": self.paints,
                "image_to_image": self.reads,
            },
            "height": defaults.height,
            "width": defaults.width,
            "size_multiple": 8,
            "limits": {
                "pixels": limits.pixels,
                "steps": limits.steps,
                "images": limits.images,
                "work": limits.work,
                "prompt": limits.prompt,
                "body": limits.body,
                "given_pixels": limits.given,
            },
            "samplers": self.samplers.listed,
            "schedules": self.schedules.listed,
            "guidance": self.guidance.listed,
            "defaults": {
                "prompt": "",
                "negative_prompt": "",
                "seed": None,
                "batch_size": 1,
                **{
                    name: each.default
                    for part in (Request, Start, Masking)
                    for name, each in settings(part).items()
                },
                "height": defaults.height,
                "width": defaults.width,
                "num_steps": defaults.num_steps,
                "guidance_scale": defaults.guidance_scale,
                "sampler": defaults.sampler,
                "schedule": defaults.schedule,
            },
            "prompt_styles": list(STYLES),
            "adapters": list(self.adapters),
            "tokens": self.tokenizer.max_length - 2 if self.tokenizer else None,
            "backend": self.backend,
            "version": __version__,
        }


class Names:
    """Samplers, schedules or guidance, as they were installed at the start.

    Args:
        declared: all of them.
        get: gives one of a name.

    Attributes:
        names: that a request may give.
        listed: an object for each: `name`, `display_name`, `distribution`, `version`, `settings`.
    """

    def __init__(self, declared: Sequence[Declared], get: Callable[[str], Any]):
        self.listed: list[dict[str, Any]] = []
        self.names: set[str] = set()
        for each in declared:
            # One name is one thing: where two distributions have it, the first is meant.
            if each.name in self.names:
                continue
            self.names |= {each.name, each.qualified_name}
            self.listed.append(
                {
                    "name": each.name,
                    "display_name": display_name(each.name),
                    "distribution": each.distribution,
                    "version": each.version,
                    "settings": _settings(each.name, get),
                }
            )

    def has(self, spec: Any) -> bool:
        """Whether a resolved name, with settings perhaps, was there at the start."""
        return parse_spec(spec)[0] in self.names


def _settings(name: str, get: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Name, type, default and choices of each setting; none where the plugin is broken, which is
    said when it is asked for.
    """
    try:
        made = get(name)
    except (ImportError, ValueError, TypeError):
        return []
    target = made if inspect.isfunction(made) else type(made)
    try:
        hints = get_type_hints(target)
        parameters = list(inspect.signature(target).parameters.values())
    except (NameError, TypeError, ValueError):
        return []
    known = (*_OF_THE_CONTRACT, "self")
    return [
        _setting(each, hints.get(each.name))
        for each in parameters
        if each.name not in known
        and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        and each.default is not each.empty
    ]


# What the host gives, not the user.
_OF_THE_CONTRACT = (
    *("denoise", "x", "levels", "noise"),
    *("path", "num_steps", "final_sigma", "whole", "size"),
    *("seen", "scale", "memory"),
)


def _setting(parameter: inspect.Parameter, hint: Any) -> dict[str, Any]:
    default = parameter.default
    choices = [each for each in get_args(hint) if isinstance(each, str | int)]
    kind = type(default).__name__ if default is not None else str(hint)
    plain = default
    if isinstance(default, float) and not math.isfinite(default):
        plain = str(default)  # which JSON has no number for
    elif not (default is None or isinstance(default, str | int | float)):
        plain = repr(default)
    found = {"name": parameter.name, "type": kind, "default": plain}
    return found | ({"choices": choices} if choices else {})
