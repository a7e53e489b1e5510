"""A checkpoint: a file or folder of weights of any layout, opened and checked, nothing loaded.

`open_checkpoint` says what a path holds and where each variable of ours is in it. Everything that
is done with weights (running, converting, inspecting) starts from the `Checkpoint` it gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from keras_sd.compat import rules_of
from keras_sd.config import SDXL_LCM, ModelConfig
from keras_sd.tokenizer import UNMERGED, read_merges
from keras_sd.weights import diffusers_folder, int8, keras_cv_h5
from keras_sd.weights.architecture import NAMES as TENSOR_NAMES
from keras_sd.weights.architecture import PARTS, UNetNames
from keras_sd.weights.contents import Checkpoint, refuse
from keras_sd.weights.diffusers_folder.configs import SCHEDULER
from keras_sd.weights.families import family_of, unsupported
from keras_sd.weights.files import read_json
from keras_sd.weights.names import own, weights_h5
from keras_sd.weights.parts import (
    Alone,
    Part,
    check_fits,
    component_file,
    component_of,
    open_alone,
    shapes_of,
)
from keras_sd.weights.prediction import ASSUMED_NOTE, ZERO_SNR, Prediction, stated_prediction
from keras_sd.weights.readers import TensorFile, WeightsError, read_file, sha256
from keras_sd.weights.recognise import recognise
from keras_sd.weights.strays import noting_float8, said_of_copy, said_of_strays, without_strays

__all__ = [
    "CONFIG",
    "FORMAT",
    "MERGES",
    "PARTS",
    "WEIGHTS",
    "Checkpoint",
    "Part",
    "Prediction",
    "open_checkpoint",
    "open_part",
    "read_preset",
    "refuse",
]

CONFIG, WEIGHTS, MERGES = "config.json", "model.safetensors", "merges.txt"
NAMES = (CONFIG, WEIGHTS, MERGES)
"""The files of a preset folder."""

FORMAT = 1
"""Of preset folders."""


def open_checkpoint(
    path: str | Path,
    *,
    text_encoder: str | Path | None = None,
    text_encoder_2: str | Path | None = None,
    unet: str | Path | None = None,
    autoencoder: str | Path | None = None,
    prediction: Prediction | None = None,
    ema: bool = False,
    variant: str | None = None,
    compat: str | None = None,
    strict: bool = False,
) -> Checkpoint:
    """Opens a checkpoint of any layout. Only headers are read, but the files of a folder of ours
    are hashed, and what a file has twice is compared; no network, no Keras.

    Tensors that no part needs are left out, and a note names them: what training or a merge left
    beside the networks, and second copies of weights under other names. What lies in a network
    and is none of its variables is none of these, for such a network computes otherwise.

    Args:
        path: of a file or folder, see docs/checkpoints.md.
        text_encoder: path of what holds the text encoder that takes the place of the checkpoint's:
            a file with it alone, its folder inside of a diffusers folder, or any checkpoint.
        text_encoder_2: likewise.
        unet: likewise; one that is told the guidance scale may take the place of one that is not.
        autoencoder: likewise.
        prediction: what the UNet gives, for files that cannot say it. None is what the file of the
            UNet says, or else the checkpoint.
        ema: take the averaged weights of the UNet, from a file that has both.
        variant: of the files in a diffusers folder, such as `"fp16"`.
        compat: the version of KerasCV whose arithmetic it has, see `keras_sd.compat.get`.
        strict: a tensor that is not known makes the checkpoint unfit, whatever it is.

    Raises:
        WeightsError: it is damaged, or no Stable Diffusion 1.x or 2.x, or holds a part only; the
            message says what it is.
        FileNotFoundError: there is no such file or folder, or a file of it is missing.
        ValueError: an option that is unknown, or that this layout does not have.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}")
    if prediction not in (None, *get_args(Prediction)):
        raise ValueError(f"prediction is 'epsilon', 'v' or 'x0', not {prediction!r}")
    rules = rules_of(compat)
    named = {
        **{"text_encoder": text_encoder, "text_encoder_2": text_encoder_2},
        **{"unet": unet, "autoencoder": autoencoder},
    }
    given = {part: Path(file) for part, file in named.items() if file is not None}
    if path.is_dir():
        checkpoint = _open_folder(path, variant, ema, given)
    elif variant is not None:
        raise ValueError(f"variant {variant!r} is of files in a folder, and {path} is one file")
    else:
        checkpoint = _open_file(path, prediction, ema, given, strict)
    checkpoint = _with_parts(checkpoint, given, strict)
    if not strict:
        checkpoint = without_strays(checkpoint)
    checkpoint = noting_float8(checkpoint)
    if prediction is not None:
        checkpoint = _with_noise(checkpoint, "the option prediction", prediction=prediction)
    elif "unet" in given and (stated := _stated(given["unet"])):
        checkpoint = _with_stated(checkpoint, given["unet"], *stated)
    return replace(checkpoint, config=rules.config(checkpoint.config))


def open_part(part: str, path: str | Path, config: ModelConfig, *, strict: bool = False) -> Alone:
    """Opens what shall be one part of a model.

    Args:
        part: one of the config's.
        path: of a file that holds it, alone or with others; of its folder inside of a diffusers
            folder; or of the folder of a whole model.
        config: of the model it shall be part of.
        strict: see `open_checkpoint`.

    Raises:
        WeightsError: the file is damaged, holds something else, or is of another size.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}")
    if part not in config.parts:
        raise ValueError(f"{config.name} has no {part}: its parts are {', '.join(config.parts)}")
    file = _file_of(path)
    if file is None:
        found = _one_of(open_checkpoint(path, strict=strict), part)
    else:
        try:
            found = open_alone(file, config, part)
        except WeightsError as error:
            try:
                whole = open_checkpoint(file, strict=strict)
            except WeightsError:
                raise error from None
            found = _one_of(whole, part)
    if found.name in ("encoder", "decoder"):
        raise WeightsError(
            f"{path} is one half of the autoencoder alone, KerasCV's "
            f"{keras_cv_h5.CLASSES[found.name]}. Both halves lie in a folder with KerasCV's other "
            "files; or give a file with a whole autoencoder"
        )
    if found.name != part:
        raise WeightsError(f"{path} is no {part}, it holds the {found.name}")
    check_fits(path, part, found.part.table, config)
    if strict:
        return found
    clean, strays = found.part.without_strays()
    return replace(found, part=clean, left_out=(*found.left_out, *strays))


def _file_of(path: Path) -> Path | None:
    """The file that may hold a part: the path itself, or the weights in a component's folder; None
    for the folder of a whole model.
    """
    if not path.is_dir():
        return path
    component = component_of(path)
    return None if component is None else component_file(path, component)


def _one_of(whole: Checkpoint, part: str) -> Alone:
    if part not in whole.parts:
        raise WeightsError(f"{whole.path} has no {part}")
    return Alone(part, whole.parts[part], ())


def _with_parts(checkpoint: Checkpoint, given: Mapping[str, Path], strict: bool) -> Checkpoint:
    """The checkpoint with parts of other files."""
    if not given:
        return checkpoint
    if "unet" in given:
        checkpoint = _told_guidance(checkpoint, given["unet"])
    found = {
        part: open_part(part, path, checkpoint.config, strict=strict)
        for part, path in given.items()
    }
    ignored = [name for one in found.values() for name in one.ignored]
    left_out = [name for one in found.values() for name in one.left_out]
    notes = [
        note for part, path in given.items() for note in said_of_strays(path, found[part].left_out)
    ]
    changed = replace(
        checkpoint,
        parts={**checkpoint.parts, **{name: one.part for name, one in found.items()}},
        ignored=tuple(dict.fromkeys([*checkpoint.ignored, *ignored])),
        left_out=(*checkpoint.left_out, *left_out),
        notes=(*checkpoint.notes, *notes),
    )
    return _named_anew(changed) if "unet" in given else changed


def _told_guidance(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """With the config that a UNet asks for which is told the guidance scale, or is not; all else of
    it has to be the same.
    """
    place = _file_of(path)
    if place is None:
        return checkpoint
    file = read_file(place)
    names = [TENSOR_NAMES[layout]["unet"] for layout in ("diffusers", "original")]
    ends = tuple(each.guidance for each in names if isinstance(each, UNetNames))
    kernels = [t.shape for name, t in file.tensors.items() if name.endswith(ends)]
    width = int(kernels[0][1]) if kernels and len(kernels[0]) == 2 else 0
    config = checkpoint.config
    if width == config.unet.guidance_width or file.format == "hdf5":
        return checkpoint
    unet = replace(config.unet, guidance_width=width)
    defaults = config.defaults
    if width:
        lcm = SDXL_LCM.defaults
        defaults = replace(
            defaults,
            **{k: getattr(lcm, k) for k in ("sampler", "schedule", "num_steps", "guidance_scale")},
        )
    return replace(checkpoint, config=replace(config, unet=unet, defaults=defaults))


def _with_noise(checkpoint: Checkpoint, who: str, **changes: Any) -> Checkpoint:
    config = checkpoint.config
    noise = replace(config.noise, **changes)
    if noise == config.noise:
        return replace(checkpoint, prediction_from=who)
    return _named_anew(
        replace(checkpoint, config=replace(config, noise=noise), prediction_from=who)
    )


def _with_stated(
    checkpoint: Checkpoint, file: Path, prediction: Prediction, zero_snr: bool, who: str
) -> Checkpoint:
    """With what the file of the UNet says of its training."""
    notes = [note for note in checkpoint.notes if note != ASSUMED_NOTE]
    before = checkpoint.config.noise.prediction
    if prediction != before:
        notes.append(
            f"The UNet of {file} predicts {prediction} ({who}), that of {checkpoint.path} "
            f"{before}: {prediction} is taken. The option prediction overrules it."
        )
    checkpoint = _with_noise(checkpoint, who, prediction=prediction, zero_terminal_snr=zero_snr)
    return replace(checkpoint, notes=tuple(notes))


def _stated(path: Path) -> tuple[Prediction, bool, str] | None:
    """What a file or folder says that its UNet predicts, whether it was trained to zero terminal
    SNR, and where it says so.
    """
    place = _file_of(path)
    if place is None:
        whole = open_checkpoint(path)
        noise = whole.config.noise
        return noise.prediction, noise.zero_terminal_snr, f"{path}, {whole.prediction_from}"
    file = read_file(place)
    shapes = shapes_of(file)
    stated = stated_prediction(shapes, file.metadata, place)
    return None if stated is None else (stated[0], ZERO_SNR in shapes, stated[1])


def _named_anew(checkpoint: Checkpoint) -> Checkpoint:
    """With the family, and whether it can be run, as the config now is."""
    config, family = checkpoint.config, checkpoint.family
    if checkpoint.layout in ("diffusers", "original"):
        family = family_of(config)
    reason = unsupported(checkpoint.path, config)
    return replace(checkpoint, family=family, unsupported=reason)


def _open_folder(
    folder: Path, variant: str | None, ema: bool, given: Mapping[str, Path]
) -> Checkpoint:
    if ema:
        raise ValueError(f"{folder} is a folder: its files have the averaged weights or not")
    if (folder / diffusers_folder.INDEX).is_file():
        if _is_preset(folder):
            raise WeightsError(
                f"{folder} is two models: {diffusers_folder.INDEX} is of a diffusers folder, "
                f"{CONFIG} with a format of one of keras_sd. Remove one of the two"
            )
        return _open_diffusers(folder, variant, given)
    if variant is not None:
        raise ValueError(f"variant {variant!r} is of a diffusers folder, and {folder} is none")
    if part := component_of(folder):
        raise WeightsError(
            f"{folder} is the {folder.name} of a diffusers folder, one part of a model: give the "
            f"folder above it, or {part}={folder} with another model"
        )
    if (folder / CONFIG).is_file():
        return read_preset(folder)
    if paths := sorted(folder.glob("*.h5")):
        return keras_cv_h5.open_folder(folder, paths, given)
    there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise WeightsError(
        f"{folder} is no checkpoint: a preset folder has {CONFIG}, a diffusers folder "
        f"model_index.json, one of KerasCV .h5 files. It has {there}"
    )


def _is_preset(folder: Path) -> bool:
    path = folder / CONFIG
    if not path.is_file():
        return False
    try:
        return "format" in read_json(path)
    except WeightsError:  # Whatever it is, it is not ours.
        return False


def _open_diffusers(folder: Path, variant: str | None, given: Mapping[str, Path]) -> Checkpoint:
    found = diffusers_folder.read_folder(folder, variant, without=given)
    parts: dict[str, Part] = {}
    ignored: list[str] = []
    for part in PARTS:
        if part in found.weights:
            tensors, table, known = diffusers_folder.read_part(found, part)
            source = str(folder / found.folders[part])
            parts[part] = Part(tensors, table, source, tuple(found.weights[part].files))
            ignored += known
    return Checkpoint(
        folder,
        "diffusers",
        found.family,
        found.config,
        parts,
        merges=found.merges,
        vocab_size=found.vocab_size,
        ignored=tuple(ignored),
        notes=found.notes,
        unsupported=found.unsupported,
        prediction_from=SCHEDULER,
    )


def _open_file(
    path: Path,
    prediction: Prediction | None,
    ema: bool,
    given: Mapping[str, Path],
    strict: bool,
) -> Checkpoint:
    file = read_file(path)
    if file.format == "hdf5":
        _refuse_part(path, file)
    found = recognise(
        shapes_of(file),
        file.metadata,
        path=path,
        prediction=prediction,
        ema=ema,
        without=given,
    )
    if found.config is None:
        raise WeightsError(
            f"{path} holds the weights of a preset folder, whose {CONFIG} has the numbers of the "
            "model: give the folder"
        )
    parts = {
        part: Part(
            {entry.name: file.tensors[entry.name] for entry in table if entry.name in file.tensors},
            table,
            str(path),
            (path,),
        )
        for part, table in found.tables.items()
    }
    twice = tuple(name for copy in found.copies for name in copy.names)
    copies = () if strict else [copy for copy in found.copies if copy.part not in given]
    return Checkpoint(
        path,
        found.layout,
        found.family,
        found.config,
        parts,
        leftover=(*found.leftover, *twice) if strict else found.leftover,
        left_out=() if strict else twice,
        ignored=found.ignored,
        notes=(*found.notes, *(said_of_copy(copy, file.tensors) for copy in copies)),
        unsupported=found.unsupported,
        prediction_from=found.prediction_from,
        absent=found.absent,
    )


def _refuse_part(path: Path, file: TensorFile) -> None:
    """An HDF5 file holds one network."""
    if part := weights_h5.part_of(file.tensors):
        raise WeightsError(
            f"{path} is the {part} of a model alone, as Keras saved it. It can replace that part "
            f"of a whole model: from_preset(..., {part}=FILE)"
        )
    order_says = keras_cv_h5.recognise(file).part
    where = "a folder with KerasCV's other files is a model"
    if order_says in PARTS:
        where += f", and it can replace that part of one: from_preset(..., {order_says}=FILE)"
    raise WeightsError(f"{path} is KerasCV's {keras_cv_h5.CLASSES[order_says]} alone; {where}")


def read_preset(folder: str | Path) -> Checkpoint:
    """Opens a preset folder, whose files have to be as they were saved.

    Args:
        folder: with `config.json`, `model.safetensors` and `merges.txt`.

    Raises:
        FileNotFoundError: one of the files is missing.
        WeightsError: a file is not the one that was saved; the message names it.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"The preset {folder} is not complete: {CONFIG} is missing")
    data = read_json(path)
    files, words, licence = (data.pop(key, None) for key in ("files", "words", "license"))
    number = data.pop("format", None)
    if number != FORMAT:
        raise WeightsError(f"{path}: format is {number!r}; this version reads {FORMAT}")
    if not isinstance(files, dict) or not {WEIGHTS, MERGES} <= set(files):
        raise WeightsError(f"{path}: files must give the sha256 of {WEIGHTS} and {MERGES}")
    if licence is not None and not isinstance(licence, str):
        raise WeightsError(f"{path}: license is {licence!r:.80}, not a string or null")
    if words is not None and not _is_strings(words):
        raise WeightsError(f"{path}: words is not a list of strings")
    try:
        config = ModelConfig.from_dict(data)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: {error}") from error
    for name, expected in files.items():
        if Path(name).name != name:
            raise WeightsError(f"{path}: {name!r} is not the name of a file in the same folder")
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(f"The preset {folder} is not complete: {name} is missing")
        found = sha256(file)
        if found != expected:
            raise WeightsError(
                f"{file} is damaged or was changed: its sha256 is {found}, {CONFIG} says "
                f"{expected}. Copy the preset again."
            )
    try:
        merges = len(read_merges(folder / MERGES))
    except ValueError as error:
        raise WeightsError(str(error)) from error
    weights = folder / WEIGHTS
    tensors = int8.expanded(read_file(weights).tensors)
    parts = {
        part: Part(_under(f"{part}/", tensors), table, str(weights), (weights,))
        for part, table in own.tables(config).items()
    }
    return Checkpoint(
        folder,
        "keras_sd",
        config.name,
        config,
        parts,
        merges=folder / MERGES,
        # The text encoder may know more, which were added.
        vocab_size=min(UNMERGED + merges, config.text_encoder.vocab_size),
        words=None if words is None else tuple(words),
        license=licence,
        leftover=_leftover(tensors, parts),
        unsupported=unsupported(folder, config),
        prediction_from=CONFIG,
    )


def _under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _leftover(tensors: Mapping[str, Any], parts: Mapping[str, Part]) -> tuple[str, ...]:
    return tuple(
        name for name in tensors if not any(name in part.tensors for part in parts.values())
    )


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
