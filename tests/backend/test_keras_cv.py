"""Files of KerasCV's own classes: found, read by position, and computed as KerasCV does.

`fixtures/keras_cv.zip` was written by `fixtures/make_keras_cv_goldens.py` with keras-cv 0.9 and
Keras 2: the weights of small networks, and what KerasCV makes of them.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from keras import ops

from keras_sd import models
from keras_sd.compat import get, stateless_normal
from keras_sd.config import (
    SD_1,
    SD_2,
    SD_2_BASE,
    AutoencoderConfig,
    ModelConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.keras_cv import names as keras_cv
from keras_sd.keras_cv.parts import PartSource
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.networks.unet import timestep_embedding
from keras_sd.pipeline import StableDiffusion
from keras_sd.tokenizer import Tokenizer
from keras_sd.weights.keras_cv_h5 import write_keras_cv
from keras_sd.weights.load import arrays_of, load_state_dict
from keras_sd.weights.names import under, weights_h5
from keras_sd.weights.readers import WeightsError
from keras_sd.weights.readers.hdf5 import keras2_order, read

pytestmark = pytest.mark.usefixtures("without_tracing")

FIXTURE = Path(__file__).parents[1] / "fixtures" / "keras_cv.zip"
FULL = os.environ.get("KERAS_CV_FULL")
TOLERANCE = 2e-5
compat = get("keras_cv==0.9").config

TEXT = {"vocab_size": 64, "max_length": 10, "width": 8, "mlp_width": 32}
UNET = {"widths": (4, 8, 12, 12), "depths": (1, 1, 1, 0), "context_width": 8, "groups": 4}
V1 = ModelConfig(
    name="small-1",
    text_encoder=TextEncoderConfig(**TEXT, depth=2, heads=2),
    unet=UNetConfig(**UNET, heads=(2, 2, 2, 2)),
    autoencoder=AutoencoderConfig(widths=(4, 8, 12, 12), groups=4),
)
V2 = replace(
    V1,
    name="small-2",
    text_encoder=TextEncoderConfig(**TEXT, depth=3, heads=4, activation="gelu"),
    unet=UNetConfig(**UNET, heads=(1, 2, 3, 3), linear_projection=True),
    pad_token="zero",
)
DEEPER = replace(
    V2,
    unet=replace(V2.unet, blocks=1, depths=(0, 2, 1, 0)),
    autoencoder=AutoencoderConfig(widths=(4, 8), blocks=1, groups=4),
)
# By the name of the file: the model it is of, its part and its table.
FILES = {
    "text_encoder": (V1, "text_encoder", keras_cv.text_encoder),
    "text_encoder_v2": (V2, "text_encoder", keras_cv.text_encoder),
    "diffusion_model": (V1, "unet", keras_cv.unet),
    "diffusion_model_v2": (V2, "unet", keras_cv.unet),
    "image_encoder": (V1, "autoencoder", keras_cv.encoder),
    "decoder": (V1, "autoencoder", keras_cv.decoder),
}
NETWORKS = {"text_encoder": TextEncoder, "unet": UNet, "autoencoder": Autoencoder}
all_files = pytest.mark.parametrize("file", FILES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The fixture's files."""
    path = tmp_path_factory.mktemp("keras_cv")
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(path)
    return path


@cache
def goldens(folder, file):
    """What is known of a network: inputs and outputs by name."""
    with np.load(folder / "goldens.npz") as known:
        start = f"{file}/"
        return {n.removeprefix(start): known[n] for n in known.files if n.startswith(start)}


def places(folder):
    """The names in `.weights.h5` files by file, in the order of the `.h5` file."""
    return json.loads((folder / "places.json").read_text())


def build(folder, file, config):
    """A network of `config` with KerasCV's weights. Its autoencoder is in two files."""
    _, part, _ = FILES[file]
    tensors, table = {}, []
    for name in ("image_encoder", "decoder") if part == "autoencoder" else (file,):
        path = folder / f"{name}.h5"
        halves = FILES[name][2](getattr(config, part))
        table += under(f"{name}: ", "", keras_cv.in_order(halves, keras2_order(path)))
        tensors |= {f"{name}: {key}": value for key, value in read(path).tensors.items()}
    network = NETWORKS[part](getattr(config, part))
    load_state_dict(network, tensors, table, source=str(folder))
    return network


def difference(network, file, known):
    """The largest difference between our outputs and KerasCV's, over KerasCV's largest."""
    if file.startswith("text_encoder"):
        outputs = {"context": network(known["tokens"])}
    elif file.startswith("diffusion_model"):
        inputs = (known[name] for name in ("latents", "timesteps", "context"))
        outputs = {"prediction": network(*inputs)}
    elif file == "decoder":
        outputs = {"images": network.decode(known["latents"])}
    else:
        outputs = {
            "moments": ops.concatenate(network.moments(known["images"]), axis=-1),
            "latents": network.encode(known["images"]),
        }
    found = []
    for name, ours in outputs.items():
        ours = ops.convert_to_numpy(ours)
        assert ours.shape == known[name].shape
        found.append(float(np.abs(ours - known[name]).max() / np.abs(known[name]).max()))
    return max(found)


# The same numbers


@all_files
def test_networks_give_what_keras_cv_gives(folder, file):
    network = build(folder, file, compat(FILES[file][0]))
    assert difference(network, file, goldens(folder, file)) < TOLERANCE


@pytest.mark.parametrize(
    ("file", "part", "numbers"),
    [
        ("text_encoder_v2", "text_encoder", {"activation": "gelu"}),
        ("diffusion_model_v2", "unet", {"gelu": "exact"}),
        ("diffusion_model_v2", "unet", {"transformer_epsilon": 1e-6}),
        ("image_encoder", "autoencoder", {"epsilon": 1e-6}),
        ("decoder", "autoencoder", {"epsilon": 1e-6}),
    ],
)
@pytest.mark.thorough
def test_they_do_not_without_each_of_its_deviations(folder, file, part, numbers):
    config = compat(FILES[file][0])
    plain = replace(config, **{part: replace(getattr(config, part), **numbers)})
    assert difference(build(folder, file, plain), file, goldens(folder, file)) > 5 * TOLERANCE


@pytest.mark.references
@pytest.mark.skipif(not FULL, reason="KERAS_CV_FULL is no folder of make_keras_cv_goldens.py")
@all_files
def test_full_networks_give_what_keras_cv_gives(file):
    path = Path(FULL) / f"{file}.h5"
    order = keras2_order(path)
    shapes = {name: tensor.shape for name, tensor in read(path).tensors.items()}
    found = keras_cv.recognise(shapes, order)
    with np.load(path.with_suffix(".npz")) as known:
        off = difference(build(path.parent, file, compat(found.config)), file, known)
    print(f"{file}: {off:.1e}")
    assert off < TOLERANCE


# Our classes of the same names


def of_keras_cv(file, source):
    """The class that wrote a file, by our hand."""
    parts, pixels = models.stable_diffusion, (128, 128)
    numbers = (TEXT["max_length"], TEXT["vocab_size"])
    make = {
        "text_encoder": lambda **o: parts.TextEncoder(*numbers, **o),
        "text_encoder_v2": lambda **o: parts.TextEncoderV2(*numbers, **o),
        "diffusion_model": lambda **o: parts.DiffusionModel(*pixels, numbers[0], **o),
        "diffusion_model_v2": lambda **o: parts.DiffusionModelV2(*pixels, numbers[0], **o),
        "image_encoder": lambda **o: parts.ImageEncoder(**o),
        "decoder": lambda **o: parts.Decoder(*pixels, **o),
    }
    return make[file](download_weights=False, preset=source)


@all_files
def test_our_classes_load_their_files_and_give_the_same(folder, file):
    known = goldens(folder, file)
    network = of_keras_cv(file, PartSource("", compat(FILES[file][0])))
    network.load_weights(folder / f"{file}.h5")
    if file.startswith("text_encoder"):
        positions = np.arange(TEXT["max_length"])[None]
        found, wanted = network([known["tokens"], positions]), known["context"]
    elif file.startswith("diffusion_model"):
        times = timestep_embedding(ops.convert_to_tensor(known["timesteps"]), UNET["widths"][0])
        found = network([known["latents"], times, known["context"]])
        wanted = known["prediction"]
    elif file == "decoder":
        found, wanted = network(known["latents"]), known["images"]
    else:
        found, wanted = network(known["images"]), known["latents"]
    assert np.abs(ops.convert_to_numpy(found) - wanted).max() < TOLERANCE * np.abs(wanted).max()


# A whole run


def run(folder, file, model, tokens):
    """What `file` holds of a run of KerasCV's 0.9, and what our pipeline makes of it."""
    known = dict(np.load(folder / file)) if file.endswith(".npz") else goldens(folder, file)
    pixels = known["images"].shape[1]
    unused = Tokenizer(["c a"], max_length=tokens)
    pipeline = StableDiffusion(
        *model, unused, height=pixels, width=pixels, compat=get("keras_cv==0.9")
    )
    images = pipeline.text_to_image(
        known["context"],
        known["unconditional"],
        num_steps=4,
        diffusion_noise=known["noise"].astype("float64"),
    )
    return known, images


def assert_same_pictures(known, images):
    """To the last bit, but where a pixel is a hair from a whole number before it is cut off."""
    off = np.abs(known["images"].astype(int) - images.astype(int))
    print(f"{(off > 0).mean():.1e} of the values differ, by {off.max()}")
    assert known["images"].std() > 5
    assert off.max() <= 1
    assert (off > 0).mean() < 2e-3


def test_a_run_makes_the_picture_of_keras_cv(folder):
    config = compat(V1)
    parts = [build(folder, file, config) for file in ("text_encoder", "diffusion_model", "decoder")]
    known, images = run(folder, "generate", (config, *parts), TEXT["max_length"])
    assert_same_pictures(known, images)
    for steps in (1, 2, 3, 25, 30, 50, 1000):
        wanted = list(known[f"timesteps_{steps}"][::-1])
        assert get("keras_cv==0.9").timesteps(steps) == wanted
    # On Keras 2, the one of these goldens; on Keras 3 the key is (seed, 0).
    drawn = stateless_normal((0, 7), known["seed_7"].shape)
    assert np.abs(drawn - known["seed_7"]).max() < 1e-6


@pytest.mark.parametrize("other", ["keras_cv==0.8.1", None])
@pytest.mark.thorough
def test_it_does_not_with_the_numbers_of_another(folder, other):
    config = compat(V1)
    parts = [build(folder, file, config) for file in ("text_encoder", "diffusion_model", "decoder")]
    known = goldens(folder, "generate")
    unused = Tokenizer(["c a"], max_length=TEXT["max_length"])
    pipeline = StableDiffusion(config, *parts, unused, height=128, width=128, compat=get(other))
    images = pipeline.text_to_image(
        known["context"], known["unconditional"], num_steps=4, diffusion_noise=known["noise"]
    )
    assert (images != known["images"]).mean() > 0.1


@pytest.mark.references
@pytest.mark.skipif(not FULL, reason="KERAS_CV_FULL is no folder of make_keras_cv_goldens.py")
def test_a_full_run_makes_the_picture_of_keras_cv():
    model = models.StableDiffusion(128, 128, weights=FULL, compat="keras_cv==0.9")
    with np.load(Path(FULL) / "generate.npz") as known:
        images = model.generate_image(
            known["context"],
            known["unconditional"],
            num_steps=4,
            diffusion_noise=known["noise"],
            verbose=False,
        )
        assert_same_pictures(known, images)


# The same files


@all_files
@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
def test_what_we_write_is_what_keras_cv_wrote(folder, tmp_path, file, ending):
    """KerasCV's own classes have loaded such files: make_keras_cv_goldens.py --read."""
    model, part, make = FILES[file]
    table, order = make(getattr(model, part)), keras2_order(folder / f"{file}.h5")
    old = read(folder / f"{file}.h5").tensors
    arrays = {entry.path: entry.ours(old[name]) for entry, name in zip(table, order, strict=True)}
    path = tmp_path / f"{file}{ending}"
    write_keras_cv(path, table, arrays)
    new = read(path).tensors
    if ending == ".weights.h5":
        assert sorted(new) == sorted(places(folder)[file])
        again = [new[name] for name in places(folder)[file]]
    else:
        again = [new[name] for name in keras2_order(path)]
        with h5py.File(path) as written:  # else Keras 2 takes it for a file of Keras 1
            assert written.attrs["keras_version"] == "2.15.0"
    for ours, name in zip(again, order, strict=True):
        assert np.array_equal(ours, old[name])
    if ours_to := os.environ.get("KERAS_CV_WRITE"):
        write_keras_cv(Path(ours_to) / f"{file}{ending}", table, arrays)


# The deviations as numbers


def test_compat_changes_what_keras_cv_does_otherwise_and_nothing_else():
    ours = compat(SD_2)
    assert ours.text_encoder == replace(SD_2.text_encoder, activation="gelu_tanh")
    assert ours.unet == replace(SD_2.unet, transformer_epsilon=1e-5, gelu="tanh")
    assert ours.autoencoder == replace(SD_2.autoencoder, epsilon=1e-5)
    assert (ours.pad_token, ours.noise, ours.defaults) == ("end", SD_2.noise, SD_2.defaults)
    assert compat(ours) == ours
    assert compat(SD_1).text_encoder == SD_1.text_encoder  # quick_gelu is what it was trained with


def test_a_config_without_these_numbers_is_the_reference():
    unet = UNetConfig()
    assert (unet.transformer_epsilon, unet.gelu) == (1e-6, "exact")
    assert AutoencoderConfig().epsilon == 1e-6
    assert ModelConfig.from_dict(compat(SD_2).to_dict()) == compat(SD_2)
    with pytest.raises(ValueError, match="unet: gelu 'erf' is not one of exact, tanh"):
        UNetConfig(gelu="erf")


# Names and order


@all_files
def test_the_names_are_those_of_weights_h5_in_the_order_of_h5(folder, file):
    model, part, table = FILES[file]
    entries = table(getattr(model, part))
    assert [entry.name for entry in entries] == places(folder)[file]
    tensors = read(folder / f"{file}.h5").tensors
    shapes = [tensors[name].shape for name in keras2_order(folder / f"{file}.h5")]
    assert [entry.file_shape for entry in entries] == shapes


@pytest.mark.parametrize("file", ["diffusion_model_v2", "decoder"])
def test_weights_h5_holds_the_same(folder, tmp_path, file):
    _, part, make = FILES[file]
    table = make(getattr(FILES[file][0], part))
    old = read(folder / f"{file}.h5").tensors
    order = keras2_order(folder / f"{file}.h5")
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as new:
        for name, place in zip(order, places(folder)[file], strict=True):
            new[place] = old[name]
    new = read(path).tensors
    assert set(new) == {entry.name for entry in table}
    for entry, name in zip(table, order, strict=True):
        assert np.array_equal(entry.ours(new[entry.name]), entry.ours(old[name]))


def damaged(order):
    """Orders of other files, by what is wrong with them."""
    return {
        "turned": [order[1], order[0], *order[2:]],
        "short": order[:-1],
        "first": order[1:],
        "long": [*order, "another/kernel:0"],
    }


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("turned", r"2 misshapen: .*embedding_1/embeddings:0 is \(10, 8\), not \(64, 8\)"),
        ("short", "1 unexpected: .*beta:0\n  1 missing: weight 35 of 36"),
        ("first", r"1 unexpected: .*embedding/embeddings:0\n  1 missing: .*\n  \d\d misshapen"),
        ("long", "1 unexpected: another/kernel:0"),
    ],
)
def test_another_order_is_refused(folder, kind, words):
    path = folder / "text_encoder.h5"
    tensors = dict(read(path).tensors)
    order = damaged(keras2_order(path))[kind]
    tensors |= {name: np.zeros(3, "float32") for name in order if name not in tensors}
    network = TextEncoder(V1.text_encoder)
    before = arrays_of({"text_encoder": network})
    with pytest.raises(WeightsError, match=words):
        load_state_dict(
            network, tensors, keras_cv.in_order(keras_cv.text_encoder(V1.text_encoder), order)
        )
    after = arrays_of({"text_encoder": network})
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_network_that_keras_cv_has_not_is_named():
    deeper = UNetConfig(**{**UNET, "depths": (2, 1, 1, 0)}, heads=(2, 2, 2, 2))
    with pytest.raises(ValueError, match="KerasCV has nothing like down_0_0/transformer/block_1/"):
        keras_cv.unet(deeper)


# What a file is


def full(part, config, *, numbered):
    """Shapes and order of a full-size file, as a process that made other layers before names it;
    without `numbered` those of a `.weights.h5` file.
    """
    make = {
        "text_encoder": lambda: keras_cv.text_encoder(config.text_encoder),
        "unet": lambda: keras_cv.unet(config.unet),
        "encoder": lambda: keras_cv.encoder(config.autoencoder),
        "decoder": lambda: keras_cv.decoder(config.autoencoder),
    }[part]
    entries = make()
    if not numbered:
        return {entry.name: entry.file_shape for entry in reversed(entries)}, None
    order = [f"layer_{997 - i}/weight:0" for i in range(len(entries))]
    return dict(zip(order, (entry.file_shape for entry in entries), strict=True)), order


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize(
    ("part", "config"),
    [
        ("text_encoder", SD_1),
        ("text_encoder", SD_2_BASE),
        ("unet", SD_1),
        ("unet", SD_2_BASE),
        ("encoder", SD_1),
        ("decoder", SD_1),
    ],
)
def test_a_file_is_recognised(part, config, numbered):
    shapes, order = full(part, config, numbered=numbered)
    found = keras_cv.recognise(shapes, order)
    assert (found.part, found.config) == (part, config)
    assert {entry.name: entry.file_shape for entry in found.table} == shapes


def test_words_that_were_added_are_counted():
    encoder = replace(SD_1.text_encoder, vocab_size=49409, max_length=60)
    shapes, order = full("text_encoder", replace(SD_1, text_encoder=encoder), numbered=True)
    found = keras_cv.recognise(shapes, order)
    assert found.config.text_encoder == encoder
    assert found.table[0].shape == (49409, 768)


@pytest.mark.parametrize("file", FILES)
def test_other_files_are_not(folder, file):
    path = folder / f"{file}.h5"
    shapes = {name: tensor.shape for name, tensor in read(path).tensors.items()}
    assert keras_cv.recognise(shapes, keras2_order(path)) is None  # like them, but of other sizes
    assert keras_cv.recognise({}, []) is None
    assert keras_cv.recognise({"layers/dense/vars/0": (784, 10)}, None) is None


# Our own networks


@pytest.mark.parametrize("model", [V1, DEEPER], ids=["as KerasCV", "deeper"])
@pytest.mark.parametrize("part", NETWORKS)
def test_our_own_weights_h5_is_read(tmp_path, model, part):
    network = NETWORKS[part](getattr(model, part))
    for i, variable in enumerate(network.weights):
        variable.assign(np.full(variable.shape, i, "float32"))
    path = tmp_path / "x.weights.h5"
    network.save_weights(path)
    tensors = read(path).tensors
    table = getattr(weights_h5, part)(getattr(model, part))
    assert weights_h5.part_of(tensors) == part
    again = NETWORKS[part](getattr(model, part))
    load_state_dict(again, tensors, table)
    saved, loaded = arrays_of({part: network}), arrays_of({part: again})
    assert all(np.array_equal(saved[name], loaded[name]) for name in saved)


def test_other_weights_h5_is_not_ours(folder):
    assert weights_h5.part_of(places(folder)["decoder"]) is None
