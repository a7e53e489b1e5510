"""Which files a preset's name or path stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_sd.weights import fetch
from keras_sd.weights.checkpoint import CONFIG, Checkpoint, open_checkpoint

PRESETS = Path(__file__).parent.parent / "presets"
"""The presets in the package."""


def list_presets() -> list[str]:
    """The names of the presets in the package."""
    return sorted(path.parent.name for path in PRESETS.glob(f"*/{CONFIG}"))


def locate(preset: str | Path, variant: str | None = None) -> Path:
    """The file or folder that a preset stands for; only names and `hf://` may use the network.

    Args:
        preset: a name in the package, the path of a file or folder, a name that `fetch` knows, or
            `hf://owner/name[@revision]`.
        variant: of the files in a folder, such as `"fp16"`, where they have to be fetched.

    Raises:
        FileNotFoundError: there is no such preset.
        FetchError: it could not be fetched; an OSError.
    """
    names = list_presets()
    if preset in names:
        return PRESETS / preset
    path = Path(preset).expanduser()
    return path if path.exists() else fetch.resolve(preset, variant=variant, others=names)


def open_preset(preset: str | Path, *, variant: str | None = None, **options: Any) -> Checkpoint:
    """Opens what a preset stands for.

    Args:
        preset: see `locate`.
        variant: of the files, such as `"fp16"`.
        **options: of `open_checkpoint`.

    Raises:
        FileNotFoundError: see `locate`.
        WeightsError: see `open_checkpoint`.
    """
    path = locate(preset, variant)
    # Of a name, the variant is a file of its own; in a folder it is looked for.
    fetched = path != Path(preset).expanduser() and path.is_file()
    return open_checkpoint(path, variant=None if fetched else variant, **options)
