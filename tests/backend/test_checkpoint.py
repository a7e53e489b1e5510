"""Whole models through every layout that we write: opened, loaded, drawn with, written again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from tiny import AUTOENCODER, MERGES, TINY, TINY_2

from keras_sd.compat import get
from keras_sd.config import Defaults, ModelConfig, NoiseConfig
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.pipeline import StableDiffusion
from keras_sd.tokenizer import Tokenizer
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.files import tensors_of
from keras_sd.weights.load import arrays_of
from keras_sd.weights.names import diffusers, original
from keras_sd.weights.readers import WeightsError, read_file

pytestmark = pytest.mark.usefixtures("without_tracing")

CONFIGS = {"1.x": TINY, "2.x": TINY_2}


def make(config):
    keras.utils.set_random_seed(0)
    pipeline = StableDiffusion(
        config,
        TextEncoder(config.text_encoder),
        UNet(config.unet),
        Autoencoder(config.autoencoder),
        Tokenizer(MERGES, pad=config.pad_token),
        height=32,
        width=32,
    )
    # Its first value is zero, which would draw the same whatever the rest is.
    kernel = pipeline.unet.conv_out.kernel
    kernel.assign(np.random.default_rng(0).normal(0, 0.05, kernel.shape).astype("float32"))
    return pipeline


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return make(CONFIGS[request.param])


@pytest.fixture(scope="module")
def first():
    return make(CONFIGS["1.x"])


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_text("\n".join(MERGES))
    return path


def load(path, **options):
    return StableDiffusion.from_preset(path, height=32, width=32, **options)


def draw(pipeline):
    return pipeline.text_to_image("cat dog", num_steps=2, seed=3)


def same(a, b):
    assert a.keys() == b.keys()
    return all(np.array_equal(a[name], b[name]) for name in a)


def write(model, layout, folder, dtype=None):
    """The model in a layout; the path of it."""
    if layout != "original":
        model.save_preset(folder / layout, layout=layout, dtype=dtype)
        return folder / layout
    model.save_checkpoint(folder / "model.safetensors", dtype=dtype)
    return folder / "model.safetensors"


@pytest.mark.parametrize("layout", ["keras_sd", "diffusers", "original"])
@pytest.mark.thorough
def test_a_model_comes_back_as_it_was(model, layout, tmp_path, vocabulary):
    path = write(model, layout, tmp_path)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.layout, checkpoint.path, checkpoint.notes) == (layout, path, ())
    assert not checkpoint.problems()
    assert same(checkpoint.arrays(), arrays_of(model.networks))

    given = {"vocabulary": vocabulary} if layout == "original" else {}
    again = load(path, **given)
    assert same(arrays_of(again.networks), arrays_of(model.networks))
    # A single file has no word of the sampler and the size, and these are its family's.
    for part in ("text_encoder", "unet", "autoencoder", "noise", "pad_token"):
        assert getattr(again.config, part) == getattr(model.config, part), part

    assert write(again, layout, tmp_path / "again").exists()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            other = tmp_path / "again" / file.relative_to(tmp_path)
            assert other.read_bytes() == file.read_bytes(), file


@pytest.mark.parametrize("layout", ["keras_sd", "diffusers", "original"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.thorough
def test_other_precisions(model, layout, dtype, tmp_path, vocabulary):
    path = write(model, layout, tmp_path, dtype)
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    arrays = open_checkpoint(path).arrays()
    assert {array.dtype for array in arrays.values()} == {numpy_dtype}
    again = load(path, vocabulary=vocabulary)
    cast = {name: array.astype(numpy_dtype) for name, array in arrays_of(model.networks).items()}
    assert same(arrays, cast)
    assert same(
        arrays_of(again.networks), {name: array.astype("float32") for name, array in cast.items()}
    )


def test_half_precision_weights_stay_so_under_its_policy(first, tmp_path, vocabulary):
    path = write(first, "original", tmp_path, "float16")
    keras.config.set_dtype_policy("float16")
    try:
        again = load(path, vocabulary=vocabulary)
    finally:
        keras.config.set_dtype_policy("float32")
    assert same(arrays_of(again.networks), open_checkpoint(path).arrays())
    write(again, "original", tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == path.read_bytes()


def edit(path, change):
    """A `.safetensors` file with its tensors changed."""
    tensors = {name: np.array(tensor) for name, tensor in read_file(path).tensors.items()}
    change(tensors)
    safetensors.numpy.save_file(tensors, path)
    return path


def test_what_a_file_has_too_much_and_too_little_is_said_at_once(first, tmp_path, vocabulary):
    def change(tensors):
        tensors["model.diffusion_model.stranger"] = np.zeros(1, "float32")
        tensors["unknown.weight"] = np.zeros(1, "float32")
        del tensors["first_stage_model.decoder.norm_out.bias"]
        tensors["model.diffusion_model.time_embed.2.bias"] = np.zeros(5, "float32")
        tensors["model.diffusion_model.out.stranger"] = np.zeros(1, "float32")
        tensors["betas"] = np.zeros(1000, "float32")

    path = edit(write(first, "original", tmp_path), change)
    with pytest.raises(WeightsError) as caught:
        load(path, vocabulary=vocabulary)
    message = str(caught.value)
    assert f"{path} does not fit, nothing was loaded" in message
    assert "1 unexpected: model.diffusion_model.out.stranger" in message
    assert "2 left out: model.diffusion_model.stranger, unknown.weight" in message
    assert "1 missing: first_stage_model.decoder.norm_out.bias" in message
    assert "1 misshapen: model.diffusion_model.time_embed.2.bias is (5,), not (128,)" in message
    assert "betas" not in message


def test_a_stray_tensor_is_refused_only_where_that_is_asked_for(
    first, tmp_path, vocabulary, caplog
):
    def change(tensors):
        tensors["global_step"] = np.zeros(1, "float32")

    path = edit(write(first, "original", tmp_path), change)
    assert same(arrays_of(load(path, vocabulary=vocabulary).networks), arrays_of(first.networks))
    assert "1 tensor is left out, which nothing here needs: global_step" in caplog.text
    with pytest.raises(WeightsError, match="1 unexpected: global_step"):
        load(path, vocabulary=vocabulary, strict=True)


def test_a_number_that_is_not_finite_is_named_as_the_file_names_it(first, tmp_path, vocabulary):
    def change(tensors):
        tensors["model.diffusion_model.out.2.weight"][0, 0, 0, 0] = np.nan

    path = edit(write(first, "original", tmp_path), change)
    with pytest.raises(WeightsError, match=r"1 not finite: model.diffusion_model.out.2.weight$"):
        load(path, vocabulary=vocabulary)


def with_more_channels(model, folder, more):
    """A checkpoint whose UNet takes channels beside the latent's four."""

    def change(tensors):
        name = "model.diffusion_model.input_blocks.0.0.weight"
        kernel = np.concatenate([tensors[name]] * 3, axis=1)
        tensors[name] = np.ascontiguousarray(kernel[:, : 4 + more])

    path = edit(write(model, "original", folder), change)
    assert open_checkpoint(path).config.unet.in_channels == 4 + more
    assert not open_checkpoint(path).problems()
    return path


def test_what_cannot_be_run_is_refused_by_name_but_can_be_opened(first, tmp_path, vocabulary):
    with pytest.raises(WeightsError, match="InstructPix2Pix"):
        load(with_more_channels(first, tmp_path, 4), vocabulary=vocabulary)


def test_an_inpainting_model_paints_and_is_saved_as_one(first, tmp_path, vocabulary):
    painter = load(with_more_channels(first, tmp_path, 5), vocabulary=vocabulary)
    mask = np.zeros((32, 32), bool)
    mask[:16] = True
    picture = np.full((32, 32, 3), 99, np.uint8)
    painted = painter.inpaint("cat", picture, mask, num_steps=2, seed=0)
    assert (painted[0, 16:] == 99).all()
    assert (painted[0, :16] != 99).mean() > 0.5
    painter.save_preset(tmp_path / "saved", layout="diffusers")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionInpaintPipeline"
    again = load(tmp_path / "saved")
    np.testing.assert_array_equal(
        painted, again.inpaint("cat", picture, mask, num_steps=2, seed=0, sampler="ddim")
    )


@pytest.mark.parametrize("names", ["diffusers", "original"])
@pytest.mark.thorough
def test_an_autoencoder_of_its_own_file(first, names, tmp_path, vocabulary):
    other = Autoencoder(AUTOENCODER)
    table = (
        diffusers.autoencoder(AUTOENCODER)
        if names == "diffusers"
        else original.autoencoder(AUTOENCODER, "")
    )
    file = tmp_path / "vae.safetensors"
    arrays = arrays_of({"autoencoder": other})
    safetensors.numpy.save_file(tensors_of(arrays, {"autoencoder": table}, None), file)
    path = write(first, "original", tmp_path)
    again = load(path, autoencoder=file, vocabulary=vocabulary)
    expected = {**arrays_of(first.networks), **arrays}
    assert same(arrays_of(again.networks), expected)
    assert not np.array_equal(draw(again), draw(first))
    with pytest.raises(WeightsError, match="is no unet, it holds the autoencoder"):
        open_checkpoint(path, unet=file)
    with pytest.raises(WeightsError, match=r"the autoencoder alone.*autoencoder=FILE"):
        open_checkpoint(file)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "autoencoder"])
@pytest.mark.thorough
def test_a_part_that_keras_saved(first, part, tmp_path, vocabulary):
    other = make(CONFIGS["1.x"]).networks[part]
    for variable in other.weights:
        variable.assign(variable.value * 2)
    file = tmp_path / f"{part}.weights.h5"
    other.save_weights(file)
    with h5py.File(file, "a") as opened:  # as Keras leaves it after training
        opened["optimizer/vars/0"] = np.zeros(3, "float32")
    path = write(first, "original", tmp_path)
    again = load(path, vocabulary=vocabulary, **{part: file})
    expected = {**arrays_of(first.networks), **arrays_of({part: other})}
    assert same(arrays_of(again.networks), expected)


def test_a_part_from_elsewhere_need_not_be_in_the_folder(first, tmp_path):
    folder = write(first, "diffusers", tmp_path)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, tmp_path / "vae.safetensors")
    with pytest.raises(FileNotFoundError, match="vae has no weights"):
        open_checkpoint(folder)
    found = open_checkpoint(folder, autoencoder=tmp_path / "vae.safetensors")
    assert same(found.arrays(), arrays_of(first.networks))
    assert found.notes == ()


def test_a_model_without_an_autoencoder_asks_for_one(first, tmp_path, vocabulary):
    def change(tensors):
        for name in [name for name in tensors if name.startswith(original.AUTOENCODER)]:
            del tensors[name]

    path = edit(write(first, "original", tmp_path), change)
    with pytest.raises(WeightsError, match=r"1 missing: autoencoder \(give one: autoencoder=FILE"):
        load(path, vocabulary=vocabulary)


def test_what_a_file_of_2_x_predicts(tmp_path, vocabulary):
    config = replace(CONFIGS["2.x"], noise=NoiseConfig(prediction="epsilon"))
    path = write(make(config), "original", tmp_path)
    assert open_checkpoint(path).config.noise.prediction == "epsilon"
    assert open_checkpoint(path, prediction="v").config.noise.prediction == "v"
    edit(path, lambda tensors: None)  # which writes no metadata
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.noise.prediction == "v"
    assert 'prediction="epsilon"' in " ".join(checkpoint.notes)
    assert not open_checkpoint(path, prediction="epsilon").notes


def test_the_average_of_the_weights(first, tmp_path, vocabulary):
    def change(tensors):
        for name in [name for name in tensors if name.startswith(original.UNET)]:
            tensors[original.ema_name(name)] = tensors[name] * 2

    path = edit(write(first, "original", tmp_path), change)
    plain, averaged = (open_checkpoint(path, ema=ema) for ema in (False, True))
    assert "ema=True" in " ".join(plain.notes)
    for name, array in averaged.arrays().items():
        factor = 2 if name.startswith("unet/") else 1
        np.testing.assert_array_equal(array, plain.arrays()[name] * np.float32(factor))


def test_the_arithmetic_of_keras_cv(first, tmp_path, vocabulary):
    path = write(first, "original", tmp_path)
    again = load(path, compat="keras_cv", vocabulary=vocabulary)
    assert again.config == get("keras_cv").config(open_checkpoint(path).config)
    assert again.unet.config.transformer_epsilon == 1e-5
    with pytest.raises(ValueError, match=r"compat is one of 'keras_cv', .*not 'keras'"):
        open_checkpoint(path, compat="keras")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prediction": "score"}, "prediction is 'epsilon', 'v' or 'x0', not 'score'"),
        ({"variant": "fp16"}, "variant 'fp16' is of files in a folder"),
        ({"ema": True}, "no moving average"),
        ({"unet": "none.safetensors"}, "none.safetensors"),
    ],
)
def test_options_that_do_not_fit(first, tmp_path, options, words):
    path = write(first, "original", tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        open_checkpoint(path, **options)


def test_a_path_that_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        open_checkpoint(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("hello, this is text")
    with pytest.raises(WeightsError, match=r"no checkpoint.*It has notes.txt"):
        open_checkpoint(tmp_path)
    with pytest.raises(WeightsError, match="begins with b'hello, t'"):
        open_checkpoint(tmp_path / "notes.txt")


def test_weights_of_a_preset_folder_need_their_config(first, tmp_path):
    folder = write(first, "keras_sd", tmp_path)
    with pytest.raises(WeightsError, match=r"config.json.*give the folder"):
        open_checkpoint(folder / "model.safetensors")


def test_the_defaults_of_a_whole_model_are_kept(tmp_path):
    config = ModelConfig(
        "mine",
        **{part: getattr(CONFIGS["1.x"], part) for part in ("text_encoder", "unet", "autoencoder")},
        defaults=Defaults(height=16, width=24, sampler="euler", num_steps=7),
    )
    for layout in ("keras_sd", "diffusers"):
        path = write(make(config), layout, tmp_path)
        assert open_checkpoint(path).config.defaults == config.defaults


@pytest.mark.references
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_diffusers_makes_the_same_latents_of_what_we_write(model, layout, tmp_path):
    torch = pytest.importorskip("torch")
    pipelines = pytest.importorskip("diffusers")
    torch.set_num_threads(1)
    folder = write(model, "diffusers", tmp_path)
    if layout == "diffusers":
        theirs = pipelines.StableDiffusionPipeline.from_pretrained(folder)
    else:
        file = write(model, "original", tmp_path)
        theirs = pipelines.StableDiffusionPipeline.from_single_file(
            file, config=str(folder), local_files_only=True
        )
    theirs.scheduler = pipelines.DDIMScheduler.from_pretrained(folder / "scheduler")
    theirs.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(1).normal(size=(1, 16, 16, 4)).astype("float32")
    latents = theirs(
        "cat dog",
        negative_prompt="dog",
        num_inference_steps=5,
        guidance_scale=7.5,
        latents=torch.from_numpy(noise).permute(0, 3, 1, 2),
        height=32,
        width=32,
        output_type="latent",
    ).images
    *_, step = model.stream(
        "cat dog", "dog", num_steps=5, unconditional_guidance_scale=7.5, diffusion_noise=noise
    )
    expected = latents.permute(0, 2, 3, 1).numpy()
    found = keras.ops.convert_to_numpy(step.latent)
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
