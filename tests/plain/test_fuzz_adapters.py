"""Files of adapters with any names, shapes, numbers and settings: our own error, or one that fits,
in bounded time and memory. Damaged bytes are `test_fuzz.py`'s: the same readers read all kinds.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from fuzz import (
    archive,
    bounded,
    damaged_pickle,
    integer,
    nothing_executed,
    state,
    storage,
    tensor,
    text,
)
from safetensors.numpy import save_file
from test_image_prompt_files import ENCODER, T2I, config, small
from tiny import TINY, TINY_2, TINY_XL

from keras_sd.adapters.control_files import open_control
from keras_sd.adapters.control_writing import settings_of
from keras_sd.adapters.feature_files import open_features
from keras_sd.adapters.fitting import feature_misfits, prompt_misfits
from keras_sd.adapters.image_encoder_files import open_image_encoder
from keras_sd.adapters.image_prompt_files import open_image_prompt
from keras_sd.adapters.kinds import applied
from keras_sd.adapters.matching import uses_of
from keras_sd.adapters.rotations import turned
from keras_sd.addons import inspect
from keras_sd.config import ControlConfig
from keras_sd.embeddings import open_embedding
from keras_sd.weights.names import diffusers, original, steering
from keras_sd.weights.readers import WeightsError, is_finite

COUNTS = [60, pytest.param(10_000, marks=pytest.mark.fuzz)]
FLOATS = ("f2", "f4")


def zeros(table):
    return {entry.name: np.zeros(entry.file_shape, "float16") for entry in table}


# What a file is, by its kind: whole tensors, the model, and a config.json beside it or None.

_XL = ControlConfig.of(TINY_XL.unet)
_LARGE = replace(_XL, hint_widths=(16, 32))
_SMALL = replace(_LARGE, depths=(0, 0), middle_depth=0)
_HALF = replace(_LARGE, depths=(0, 1), middle_depth=-1)
_ENCODER_SAYS = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "num_attention_heads": 2,
    "hidden_act": "quick_gelu",
}
WHOLE = {
    "IP-Adapter, base": (zeros(steering.image_prompt(config(), TINY.unet)), TINY, None),
    "IP-Adapter, plus, diffusers": (
        zeros(steering.image_prompt(config("plus", TINY_2), TINY_2.unet, True)),
        TINY_2,
        None,
    ),
    "T2I-Adapter, diffusers": (zeros(steering.features(small(T2I["full"]), True)), TINY, None),
    "T2I-Adapter, light": (zeros(steering.features(small(T2I["light"]), False)), TINY, None),
    "image encoder": (zeros(steering.image_encoder(ENCODER)), TINY, _ENCODER_SAYS),
    "ControlNet of XL, large": (zeros(diffusers.control(_LARGE)), TINY_XL, settings_of(_LARGE)),
    "ControlNet of XL, small": (zeros(diffusers.control(_SMALL)), TINY_XL, settings_of(_SMALL)),
    "ControlNet of XL, half": (zeros(original.control(_HALF)), TINY_XL, None),
}
STEMS = {"image encoder": "model"}


def use(kind, path, model):
    """All that is done with a file before a network is made of it: what is wrong with it."""
    if kind.startswith("IP-Adapter"):
        file = open_image_prompt(path)
        wanted = file.config(model)
        return [*file.part(wanted, model).problems(), *prompt_misfits(wanted, model)]
    if kind.startswith("T2I-Adapter"):
        file = open_features(path)
        feature_misfits(file.config, model)  # it is of the usual sizes, over 40
        return list(file.part().problems())
    if kind == "image encoder":
        return list(open_image_encoder(path).part().problems())
    file = open_control(path)
    wanted = file.config(model)
    return list(file.part(wanted).problems())


SIZES = (0, 1, 2, 3, 4, 16, 31, 32, 64, 128, 1024)


def shape_of(rng, empty=True):
    shape = [rng.choice(SIZES[not empty :]) for _ in range(rng.randrange(6))]
    if np.prod(shape or [1], dtype=float) > 2**16:
        shape = shape[:1]
    if empty and rng.random() < 0.1:  # huge, and no bytes
        shape = [*shape[:2], 2**40, 0]
    return tuple(shape)


def mutated(tensors, rng):
    """A few tensors left out, renamed, of another shape, dtype or number."""
    made = dict(tensors)
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(list(made))
        match rng.randrange(6):
            case 0 if len(made) > 1:
                del made[name]
            case 1:
                made[name] = np.zeros(shape_of(rng), "float16")
            case 2:
                kind = rng.choice(["f4", "f8", "i4", "?", "u1", "i8"])
                with np.errstate(all="ignore"):
                    made[name] = made[name].astype(kind)
            case 3:  # another place, maybe one that there cannot be
                parts = [str(part) for part in name.split(".")]
                digits = [i for i, part in enumerate(parts) if part.isdigit()] or [0]
                parts[rng.choice(digits)] = rng.choice(
                    ("0", "7", "99", "9999", "-1", "x", "9" * 40)
                )
                made[".".join(parts)] = made[name]
            case 4:
                made[name] = made[rng.choice(list(made))]
            case 5:
                odd = rng.choice((np.nan, np.inf, -1, 60000))
                made[name] = np.full(made[name].shape, odd, rng.choice(FLOATS))
    return made


ODD = (None, True, -1, 0, 1, 3, 2**40, 1e308, "", "x" * 10_000, [], [1], {}, [[[]]], "rgb", 10**50)


def odd_settings(settings, rng):
    made = dict(settings)
    for _ in range(rng.choice((0, 0, 1, 2))):
        name = rng.choice(list(made))
        value = made[name]
        if isinstance(value, list) and value and rng.random() < 0.5:
            value = list(value)
            value[rng.randrange(len(value))] = rng.choice(ODD)
            made[name] = value
        elif rng.random() < 0.2:
            del made[name]
        else:
            made[name] = rng.choice(ODD)
    return made


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", WHOLE)
def test_files_of_any_names_shapes_and_settings(tmp_path, kind, count):
    tensors, model, settings = WHOLE[kind]
    refused, misfits = [], 0
    for seed in range(count):
        rng = random.Random(f"{kind} {seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        stem = STEMS.get(kind, "diffusion_pytorch_model" if settings else "x")
        path = folder / f"{stem}.safetensors"
        save_file(mutated(tensors, rng), path)
        if settings:
            (folder / "config.json").write_text(json.dumps(odd_settings(settings, rng)))
        try:
            with bounded():
                misfits += bool(use(kind, folder if settings else path, model))
        except WeightsError as error:
            refused.append((folder, str(error)))
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}")
            raise
        path.unlink()
    assert refused
    assert 0.2 * count < len(refused) + misfits < count
    assert all(str(path) in said and len(said) < 3000 for path, said in refused)


def test_whole_files_fit(tmp_path):
    for number, (kind, (tensors, model, settings)) in enumerate(WHOLE.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / f"{STEMS.get(kind, 'diffusion_pytorch_model')}.safetensors"
        save_file(tensors, path)
        if settings:
            (folder / "config.json").write_text(json.dumps(settings))
        assert use(kind, path, model) == []


# An IP-Adapter as its authors write it: two dictionaries in one.


def nested(groups):
    """The pickle, and the bytes of its arrays."""
    outer, data = {}, {"byteorder": b"little"}
    for group, tensors in groups.items():
        items = b""
        for name, array in tensors.items():
            key = str(len(data))
            with np.errstate(all="ignore"):
                data[f"data/{key}"] = array.astype("<f4").tobytes()
            strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
            items += text(name) + tensor(array.shape, strides, of=storage(key, array.size))
        outer[group] = b"}(" + items + b"u"
    return outer, data


@pytest.mark.parametrize("count", COUNTS)
def test_dictionaries_in_dictionaries(tmp_path, count):
    whole = WHOLE["IP-Adapter, base"][0]
    groups = {"image_proj": {}, "ip_adapter": {}}
    for name, array in whole.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = array
    path = tmp_path / "whole.bin"
    outer, data = nested(groups)
    path.write_bytes(archive(state(**outer), data))
    assert use("IP-Adapter", path, TINY) == []
    refused, misfits = [], 0
    for seed in range(count):
        rng = random.Random(seed)
        made = {name: dict(group) for name, group in groups.items()}
        if rng.random() < 0.5:
            group = rng.choice(list(made))
            made[group] = mutated(made[group], rng)
        outer, data = nested(made)
        match rng.randrange(5):
            case 0:
                outer[rng.choice(list(outer))] = rng.choice((integer(7), text("x"), b"}", b"]"))
            case 1:
                outer["more"] = rng.choice((outer["ip_adapter"], b"}" * 50 + b"s" * 49, integer(3)))
            case 2:  # within each other
                inner = b"}(" + text("a") + outer["ip_adapter"] + b"u"
                outer["ip_adapter"] = inner
        pickle = state(**outer)
        if rng.random() < 0.4:
            pickle = damaged_pickle(pickle, rng, len(pickle))
        path = tmp_path / f"{seed}.bin"
        path.write_bytes(archive(pickle, data))
        try:
            with bounded(), nothing_executed():
                misfits += bool(use("IP-Adapter", path, TINY))
        except WeightsError as error:
            refused.append((path, str(error)))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        path.unlink()
    assert 0.2 * count < len(refused) + misfits < count
    assert all(str(path) in said for path, said in refused)


# Relatives of LoRA.

_LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"  # (32, 32)
_CONV = "lora_unet_down_blocks_0_resnets_0_conv1"  # (32, 32, 3, 3)
ADAPTERS = {
    "GLoRA": {
        f"{_LINEAR}.{role}.weight": shape
        for role, shape in (("a1", (32, 4)), ("a2", (4, 32)), ("b1", (32, 4)), ("b2", (4, 32)))
    },
    "IA3": {f"{_LINEAR}.weight": (32,), f"{_LINEAR}.on_input": ()},
    "OFT": {f"{_LINEAR}.oft_blocks": (8, 4, 4), f"{_LINEAR}.alpha": ()},
    "BOFT": {f"{_CONV}.oft_blocks": (3, 8, 4, 4), f"{_CONV}.rescale": (32, 1, 1, 1)},
}


def numbers(shape, rng):
    return np.random.default_rng(rng.randrange(2**32)).normal(0, 0.3, shape).astype("f4")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_relatives_of_lora_of_any_shapes_and_numbers(tmp_path, kind, count):
    merged, refused = 0, []
    ends = [name.partition(".")[2] for shapes in ADAPTERS.values() for name in shapes]
    for seed in range(count):
        rng = random.Random(f"{kind} {seed}")
        good = {name: numbers(shape, rng) for name, shape in ADAPTERS[kind].items()}
        made = mutated(good, rng) if seed else good
        if rng.random() < 0.3:
            made[f"{rng.choice((_LINEAR, _CONV))}.{rng.choice(ends)}"] = numbers(shape_of(rng), rng)
        if rng.random() < 0.2:
            name = rng.choice(list(made))
            with np.errstate(all="ignore"):
                made[name] = np.asarray(made[name] * np.float32(rng.choice((1e20, 1e-30, 3e38))))
        path = tmp_path / f"{seed}.safetensors"
        save_file(made, path)
        try:
            with bounded(), np.errstate(all="ignore"):
                inspect(path)
                (use,) = uses_of((path,), TINY, True)
                for change, _, entry in use.match.matched:
                    tensors = [np.asarray(each, "f4") for each in change.tensors.values()]
                    if not all(map(is_finite, tensors)):
                        continue  # which merging refuses, and says of which file
                    weight = np.ones(entry.file_shape, np.float32)
                    for strength in (1.0, 0.5):
                        found = applied(
                            change.kind, change.factors(), weight, change.scale, strength
                        )
                        assert found.shape == weight.shape
                merged += 1
        except WeightsError as error:
            refused.append((path, str(error)))
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}")
            raise
        path.unlink()
    assert count / 50 < merged < count
    assert all(str(path) in said for path, said in refused)


def test_rotations_that_float32_cannot_compute_are_not_finite():
    rows = [[0, 0, 1, -1], [1, 1, 1, 1], [1, 1, 0, -1], [0, -1, -1, 0]]
    blocks = np.array([rows, rows], np.float32) * np.float32(2**60)
    with np.errstate(all="ignore"):
        found = turned({"oft_blocks": blocks}, np.ones((8, 3), np.float32), 0.0, 1.0)
    assert not is_finite(found)  # `merge_adapters` says so, and merges nothing


@pytest.mark.parametrize("count", COUNTS)
def test_embeddings_for_two_text_encoders(tmp_path, count):
    good = {"clip_l": np.ones((2, 8), "f4"), "clip_g": np.ones((2, 16), "f4")}
    opened, refused = 0, []
    for seed in range(count):
        rng = random.Random(seed)
        made = mutated(good, rng)
        if rng.random() < 0.3:
            made[rng.choice(("emb_params", "<word>", "clip_x"))] = np.ones(shape_of(rng), "f4")
        path = tmp_path / f"{seed}.safetensors"
        save_file(made, path)
        try:
            with bounded():
                found = open_embedding(path, clip_l_alone=bool(seed % 2))
            opened += 1
            assert found.vectors.ndim == 2
            assert found.vectors_2 is None or len(found.vectors_2) == len(found.vectors)
        except WeightsError as error:
            refused.append((path, str(error)))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        path.unlink()
    assert count / 50 < opened < count
    assert all(str(path) in said for path, said in refused)
