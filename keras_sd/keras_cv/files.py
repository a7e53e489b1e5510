"""The files of KerasCV's classes: which is which, a folder of them as a model, and writing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np

from keras_sd.files import replace_file
from keras_sd.keras_cv import names
from keras_sd.weights.checkpoint import Checkpoint, Part
from keras_sd.weights.keras_cv_h5 import CLASSES
from keras_sd.weights.names import Table, under
from keras_sd.weights.parts import OF_TRAINING, shapes_of
from keras_sd.weights.readers import TensorFile, WeightsError, hdf5, read_file


def recognise(file: TensorFile) -> names.KnownPart:
    """What one of the files holds that KerasCV's classes write.

    Raises:
        WeightsError: it is none of them.
    """
    # Keras 3 names the weights; before, only their order says which is which.
    names_say = any(name.startswith("layers/") for name in file.tensors)
    order = None if names_say or file.format != "hdf5" else hdf5.keras2_order(file.path)
    found = names.recognise(shapes_of(file), order)
    if found is None:
        raise WeightsError(f"{file.path} is none of the files that KerasCV's classes write")
    return found


_Known = tuple[TensorFile, names.KnownPart]


def open_folder(folder: Path, paths: list[Path], given: Mapping[str, Path]) -> Checkpoint:
    """A folder with the files of KerasCV's classes, as its cache is one: there may be those of
    several models, and files of something else.
    """
    there: dict[str, list[_Known]] = {}
    notes: list[str] = []
    for path in paths:
        if path.name.startswith("."):
            notes.append(f"{path} is hidden, and not looked at.")
            continue
        try:
            file = read_file(path)
            found = recognise(file)
        except WeightsError as error:
            notes.append(f"{path.name} is not used: {error}.")
        else:
            there.setdefault(found.part, []).append((file, found))
    for part, path in given.items():
        if (chosen := _given(part, path)) is not None:
            there[part] = [chosen]
        elif len(there.get(part, ())) > 1:
            del there[part]
    if "autoencoder" in given:
        there.pop("encoder", None)
        there.pop("decoder", None)
    if several := [
        f"the {CLASSES[part]} is in {' and in '.join(file.path.name for file, _ in files)} "
        f"({_option(part)}=FILE chooses one)"
        for part, files in there.items()
        if len(files) > 1
    ]:
        raise WeightsError(f"{folder} has files of several models: {'; '.join(several)}")

    files = {part: found[0] for part, found in there.items()}
    absent = _half_alone(files)
    if "unet" in files:
        config = files["unet"][1].config
    elif "unet" in given and "text_encoder" in files:
        config = files["text_encoder"][1].config
    else:
        has = ", ".join(f"{file.path.name} ({CLASSES[p]})" for p, (file, _) in files.items())
        more = " ".join([*(f"{text}." for text in absent.values()), *notes])
        raise WeightsError(
            f"{folder} has no diffusion model of KerasCV's, only {has or 'other files'}. {more}"
        )
    if "text_encoder" in files:
        text = files["text_encoder"][1].config.text_encoder
        if text.width != config.unet.context_width:
            raise WeightsError(
                f"{folder}: the text encoder gives {text.width} features a token, the diffusion "
                f"model expects {config.unet.context_width}: one is of 1.x, the other of 2.x"
            )
        config = replace(config, text_encoder=text)
    notes.insert(
        0,
        "KerasCV computed with other epsilons and another gelu than Stable Diffusion was trained "
        "with. Weights that were trained with KerasCV expect that: compat='keras_cv'.",
    )
    parts: dict[str, Part] = {
        part: _part(*files[part]) for part in ("text_encoder", "unet") if part in files
    }
    if {"encoder", "decoder"} <= files.keys():
        encoder, decoder = (_part(*files[half]) for half in ("encoder", "decoder"))
        parts["autoencoder"] = Part(
            {**encoder.tensors, **decoder.tensors},
            encoder.table + decoder.table,
            f"{encoder.source} and {decoder.source}",
            encoder.files + decoder.files,
        )
    elif "decoder" in files:
        parts["autoencoder"] = _part(*files["decoder"])
        config = replace(config, autoencoder=replace(config.autoencoder, encoder=False))
        notes.append(
            f"{folder} has no image encoder of KerasCV's: it makes pictures, but not of other "
            "pictures. For that, put vae_encoder.h5 in it."
        )
    return Checkpoint(
        folder,
        "keras_cv",
        f"Stable Diffusion {'2.x base' if config.unet.linear_projection else '1.x'} of KerasCV",
        config,
        parts,
        notes=tuple(notes),
        prediction_from="the family",
        absent=absent,
    )


def _given(part: str, path: Path) -> _Known | None:
    """A file of KerasCV's that was given for a part; it says which version the others are of."""
    if not path.is_file():
        return None
    try:
        file = read_file(path)
        found = recognise(file)
    except WeightsError:  # Of something else, or damaged: who opens it as a part says so.
        return None
    return (file, found) if found.part == part else None


def _option(part: str) -> str:
    return "autoencoder" if part in ("encoder", "decoder") else part


def _half_alone(files: Mapping[str, _Known]) -> dict[str, str]:
    """What to say of an autoencoder that is there by its encoder alone, which makes no images."""
    if "encoder" not in files or "decoder" in files:
        return {}
    return {
        "autoencoder": f"{files['encoder'][0].path.name} is one half of it, and KerasCV's "
        f"{CLASSES['decoder']} (kcv_decoder.h5) belongs beside it; or give a whole one: "
        "autoencoder=FILE"
    }


def _part(file: TensorFile, found: names.KnownPart) -> Part:
    """The names of two files may be the same, so each has its file's name before it."""
    prefix = f"{file.path.name}: "
    tensors = {n: tensor for n, tensor in file.tensors.items() if not OF_TRAINING.match(n)}
    return Part(
        {prefix + name: tensor for name, tensor in tensors.items()},
        under(prefix, "", found.table),
        str(file.path),
        (file.path,),
    )


def write_keras_cv(path: Path, table: Table, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the weights of one class, whole or not at all.

    Args:
        path: of the file: `.weights.h5` as Keras 3 writes it, or any other `.h5`, whose layers are
            told apart by their order alone, as Keras 2 does.
        table: of the class, in KerasCV's order, see `keras_sd.keras_cv.names`.
        arrays: every variable by its path, in our layout.
    """

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            if path.name.endswith(".weights.h5"):
                for entry in table:
                    file[entry.name] = entry.theirs(arrays[entry.path])
                return
            layers = []
            # "layers/dense_1/vars/0" is of the layer dense_1
            for layer, entries in groupby(table, key=lambda entry: entry.name.split("/")[1]):
                group = file.create_group(layer)
                names = []
                for entry in entries:
                    inside = entry.name.removeprefix(f"layers/{layer}/").replace("/vars/", "/")
                    names.append(f"{layer}/{inside}:0")
                    group[names[-1]] = entry.theirs(arrays[entry.path])
                group.attrs["weight_names"] = [name.encode() for name in names]
                layers.append(layer)
            file.attrs["layer_names"] = [name.encode() for name in layers]
            # Keras 2 takes a file that does not say so for one of Keras 1.
            file.attrs["keras_version"], file.attrs["backend"] = b"2.15.0", b"tensorflow"

    replace_file(path, write)
