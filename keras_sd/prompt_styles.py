"""The names of the styles of prompts.

What each reads is in `keras_sd.prompts`, which a request does not need to be made: what draws
nothing starts without it.
"""

from __future__ import annotations

__all__ = ["STYLES"]

STYLES = ("plain", "keras_sd", "a1111", "comfy", "compel")
"""Whose grammar a prompt is written in: see `keras_sd.prompts`."""
