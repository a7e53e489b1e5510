"""Settings that spare a run a part of its work, at the price of another picture: `Sparing`, a part
of every request. None of them is on by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from keras_sd.checks import real, whole
from keras_sd.settings import Checked, setting

__all__ = ["MOST_MERGED", "Sparing"]

MOST_MERGED = 0.75
"""The most that token merging can merge: of 2x2 tokens one stays."""


@dataclass(frozen=True, kw_only=True)
class Sparing(Checked):
    """What a run leaves out.

    Raises:
        ValueError: a setting does not fit (`keras_sd.checks.SettingError`).
        TypeError: a setting is of another kind.
    """

    feature_caching: int = setting(
        1,
        "Every so many evaluations compute the whole UNet, those between its finest part alone, "
        "with features of the last whole one; 1 is all of them whole.",
        partial(whole, least=1, most=1_000),
    )
    adaptive_guidance: float | None = setting(
        None,
        "The cosine of the predictions with and without the prompt from which on a picture is "
        "drawn without guidance, such as 0.99; by itself, none.",
        partial(real, least=-1.0, most=1.0),
    )
    token_merging: float = setting(
        0.0,
        "The part of the tokens that the UNet's finest self-attention merges into others like "
        f"them, from 0 to {MOST_MERGED:g}; 0 is none.",
        partial(real, least=0.0, most=MOST_MERGED),
    )
