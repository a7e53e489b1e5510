"""The guides that users of KerasCV know, call by call, and what our own guides say in numbers.

`generate_images` and `random_walks` make the calls of two guides of Keras: "Generate images with
Stable Diffusion" and "Random walks through latent space". What differs from the guides: the import,
where the weights come from, and smaller numbers of steps and pictures. They run on a model with
random weights and the shapes of Stable Diffusion, and on the embedded one with shapes of its own.
"""

from __future__ import annotations

import math
import pkgutil
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pages
import pytest
from keras import ops
from PIL import Image
from shaped import moved, values

from keras_sd import compat, models
from keras_sd.config import SD_1, AutoencoderConfig, TextEncoderConfig, UNetConfig
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.pipeline import StableDiffusion as Pipeline
from keras_sd.tokenizer import Tokenizer
from keras_sd.training.measure import backgrounds

ROOT = Path(__file__).parents[2]
MERGES = ["c a", "ca t</w>", "d o", "do g</w>"]


@dataclass(frozen=True)
class World:
    """Whose guide it is: the class that is imported, and the numbers of its model."""

    StableDiffusion: Callable
    size: int
    latent: tuple[int, int, int]
    encoding: tuple[int, int]
    prompts: tuple[str, ...]
    num_steps: int


@pytest.fixture(scope="module")
def like_sd(tmp_path_factory):
    """Random weights, thin networks, and the shapes that Stable Diffusion 1 shows its users, but
    a quarter of the pixels: float16 is slow on a CPU.
    """
    config = SD_1.__class__(
        name="thin",
        defaults=replace(SD_1.defaults, height=256, width=256),
        text_encoder=TextEncoderConfig(vocab_size=518, depth=1, mlp_width=32),
        unet=UNetConfig(widths=(4, 4), heads=(1, 1), depths=(0, 0), blocks=1, groups=4),
        autoencoder=AutoencoderConfig(widths=(4, 4, 4, 4), blocks=1, groups=4),
    )
    keras.utils.set_random_seed(0)
    unet = UNet(config.unet)
    for variable in unet.conv_out.variables:  # zeros at first, which would hide everything
        variable.assign(np.random.default_rng(0).normal(0, 0.3, variable.shape))
    folder = tmp_path_factory.mktemp("thin")
    Pipeline(
        config,
        TextEncoder(config.text_encoder),
        unet,
        Autoencoder(config.autoencoder),
        Tokenizer(MERGES, max_length=77, vocab_size=518),
    ).save_preset(folder)
    return World(
        partial(models.StableDiffusion, preset=folder),
        size=256,
        latent=(32, 32, 4),
        encoding=(77, 768),
        prompts=("a cat", "a dog", "a cat and a dog", "no cat"),
        num_steps=2,
    )


@pytest.fixture(scope="module")
def like_emoji():
    return World(
        partial(models.StableDiffusion, img_height=64, img_width=64, preset="emoji"),
        size=64,
        latent=(16, 16, 8),
        encoding=(40, 192),
        prompts=(
            "a cat face on a blue background",
            "a dog face on a red background",
            "a panda face on a white background",
            "a pig face on a green background",
        ),
        num_steps=2,
    )


@pytest.fixture
def world(request):
    return request.getfixturevalue(request.param)


WORLDS = pytest.mark.parametrize("world", ["like_sd", "like_emoji"], indirect=True)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """Figures go nowhere, and the dtype policy does not outlive a guide."""
    pytest.importorskip("matplotlib").use("Agg")
    yield
    keras.mixed_precision.set_global_policy("float32")


def plot_images(images):
    from matplotlib import pyplot as plt

    plt.figure(figsize=(20, 20))
    for i in range(len(images)):
        plt.subplot(1, len(images), i + 1)
        plt.imshow(images[i])
        plt.axis("off")
    plt.close()


def generate_images(world):
    """Yields the images of each section, and the model that made them."""
    size, steps = world.size, world.num_steps
    first, second, third, _ = world.prompts

    model = world.StableDiffusion(img_width=size, img_height=size, jit_compile=False)
    images = model.text_to_image(first, batch_size=3, num_steps=steps)
    plot_images(images)
    yield model, images
    images = model.text_to_image(second, batch_size=3, num_steps=steps)
    plot_images(images)
    yield model, images

    benchmark_result = []
    start = time.time()
    images = model.text_to_image(third, batch_size=3, num_steps=steps)
    benchmark_result.append(["Standard", time.time() - start])
    plot_images(images)
    keras.backend.clear_session()

    keras.mixed_precision.set_global_policy("mixed_float16")
    model = world.StableDiffusion(jit_compile=False)
    print("Compute dtype:", model.diffusion_model.compute_dtype)
    print("Variable dtype:", model.diffusion_model.variable_dtype)
    model.text_to_image("warming up", batch_size=3, num_steps=steps)
    start = time.time()
    images = model.text_to_image(first, batch_size=3, num_steps=steps)
    benchmark_result.append(["Mixed Precision", time.time() - start])
    plot_images(images)
    yield model, images
    keras.backend.clear_session()

    keras.mixed_precision.set_global_policy("float32")
    model = world.StableDiffusion(jit_compile=True)
    model.text_to_image("warming up", batch_size=3, num_steps=steps)
    start = time.time()
    images = model.text_to_image(second, batch_size=3, num_steps=steps)
    benchmark_result.append(["XLA", time.time() - start])
    plot_images(images)
    yield model, images
    keras.backend.clear_session()

    keras.mixed_precision.set_global_policy("mixed_float16")
    model = world.StableDiffusion(jit_compile=True)
    model.text_to_image("warming up", batch_size=3, num_steps=steps)
    start = time.time()
    images = model.text_to_image(third, batch_size=3, num_steps=steps)
    benchmark_result.append(["XLA + Mixed Precision", time.time() - start])
    plot_images(images)
    yield model, images

    for name, seconds in benchmark_result:
        print(f"{name:<22} {seconds:.2f}")


@WORLDS
@pytest.mark.guides
@pytest.mark.thorough
def test_generate_images_with_stable_diffusion(world, capsys):
    sections = list(generate_images(world))
    assert len(sections) == 5
    for _, images in sections:
        assert len(images) == 3
        assert images.shape == (3, world.size, world.size, 3)
        assert images.dtype == np.uint8
        assert np.ptp(images[0]) > 20
    printed = capsys.readouterr().out
    assert "Compute dtype: float16\nVariable dtype: float32\n" in printed
    assert printed.count("\nXLA") == 2
    computes = [model.diffusion_model.compute_dtype for model, _ in sections]
    assert computes == ["float32", "float32", "float16", "float32", "float16"]
    # The same prompt in two precisions; an old model after the session was cleared.
    model, images = sections[0]
    again = model.text_to_image(world.prompts[0], num_steps=world.num_steps, seed=1)
    mixed = sections[2][0].text_to_image(world.prompts[0], num_steps=world.num_steps, seed=1)
    assert 0 < np.abs(again.astype(int) - mixed).mean() < 8


def export_as_gif(filename, images, frames_per_second=10, rubber_band=False):
    if rubber_band:
        images += images[2:-1][::-1]
    images[0].save(
        filename,
        save_all=True,
        append_images=images[1:],
        duration=1000 // frames_per_second,
        loop=0,
    )


def random_walks(world, folder):
    """Yields the batches of images of each section."""
    size, num_steps = world.size, world.num_steps
    first, second, third, fourth = world.prompts
    batch_size, interpolation_steps = 3, 6
    batches = interpolation_steps // batch_size

    keras.mixed_precision.set_global_policy("mixed_float16")
    model = world.StableDiffusion(jit_compile=True)
    encoding_1 = ops.squeeze(model.encode_text(first))
    encoding_2 = ops.squeeze(model.encode_text(second))
    print(f"Encoding shape: {encoding_1.shape}")
    interpolated_encodings = ops.linspace(encoding_1, encoding_2, interpolation_steps)
    latent_size = size * world.latent[0] // world.size
    noise = keras.random.normal((latent_size, latent_size, world.latent[2]), seed=12345)
    batched_encodings = ops.split(interpolated_encodings, batches)
    walk = [
        model.generate_image(
            batched_encodings[batch],
            batch_size=batch_size,
            num_steps=num_steps,
            diffusion_noise=noise,
        )
        for batch in range(batches)
    ]
    frames = [Image.fromarray(img) for images in walk for img in images]
    export_as_gif(str(folder / "walk.gif"), frames, 2, rubber_band=True)
    yield walk

    encoding_3 = ops.squeeze(model.encode_text(third))
    encoding_4 = ops.squeeze(model.encode_text(fourth))
    interpolated_encodings = ops.linspace(
        ops.linspace(encoding_1, encoding_2, 3), ops.linspace(encoding_3, encoding_4, 3), 2
    )
    interpolated_encodings = ops.reshape(interpolated_encodings, (6, *world.encoding))
    batched_encodings = ops.split(interpolated_encodings, batches)
    for given in ({"diffusion_noise": noise}, {}):
        yield [
            model.generate_image(
                batched_encodings[batch], batch_size=batch_size, num_steps=num_steps, **given
            )
            for batch in range(batches)
        ]

    step_size = 0.05
    encoding = ops.squeeze(model.encode_text(first))
    delta = ops.ones_like(encoding) * step_size
    walked_encodings = []
    for _ in range(interpolation_steps):
        walked_encodings.append(encoding)
        encoding = encoding + delta
    walked_encodings = ops.stack(walked_encodings)
    batched_encodings = ops.split(walked_encodings, batches)
    yield [
        model.generate_image(
            batched_encodings[batch],
            batch_size=batch_size,
            num_steps=num_steps,
            diffusion_noise=noise,
        )
        for batch in range(batches)
    ]

    encoding = ops.squeeze(model.encode_text(second))
    walk_noise_x = keras.random.normal(noise.shape, dtype="float64")
    walk_noise_y = keras.random.normal(noise.shape, dtype="float64")
    walk_scale_x = ops.cos(ops.linspace(0, 2, interpolation_steps) * math.pi)
    walk_scale_y = ops.sin(ops.linspace(0, 2, interpolation_steps) * math.pi)
    noise_x = ops.tensordot(walk_scale_x, walk_noise_x, axes=0)
    noise_y = ops.tensordot(walk_scale_y, walk_noise_y, axes=0)
    noise = ops.add(noise_x, noise_y)
    batched_noise = ops.split(noise, batches)
    yield [
        model.generate_image(
            encoding,
            batch_size=batch_size,
            num_steps=num_steps,
            diffusion_noise=batched_noise[batch],
        )
        for batch in range(batches)
    ]


def apart(one, other):
    return np.abs(one.astype(int) - other).mean()


@WORLDS
@pytest.mark.guides
# The guide asks for float64 noise, which jax does not make unless it is told to.
@pytest.mark.filterwarnings("ignore:.*float64")
@pytest.mark.thorough
def test_random_walks_through_latent_space(world, tmp_path, capsys):
    sections = [np.concatenate(list(batches)) for batches in random_walks(world, tmp_path)]
    walk, grid, noises, around, circle = sections
    assert str(world.encoding) in capsys.readouterr().out.replace("torch.Size([", "(").replace(
        "])", ")"
    )
    for images, count in zip(sections, (6, 6, 6, 6, 6), strict=True):
        assert images.shape == (count, world.size, world.size, 3)
        assert images.dtype == np.uint8
    # Each picture is another than the one before; the circle ends where it began.
    assert all(apart(now, nxt) > 0 for now, nxt in pairwise(walk))
    assert apart(circle[0], circle[-1]) < 1 < apart(circle[0], circle[3])
    assert all(apart(now, nxt) > 0 for now, nxt in pairwise(around))
    # The grid's first row is the walk between the same two prompts; without its noise it is not.
    assert apart(grid[0], walk[0]) < 1
    assert apart(grid[2], walk[-1]) < 1
    assert apart(noises[0], grid[0]) > 1
    with Image.open(tmp_path / "walk.gif") as film:
        assert film.n_frames == 9
        assert film.size == (world.size, world.size)
    if world.size == 64:
        assert backgrounds(grid[[0, 2, 3, 5]]) == ["blue", "red", "white", "green"]


# docs/migrating-from-keras-cv.md

MIGRATING = (ROOT / "docs" / "migrating-from-keras-cv.md").read_text(encoding="utf-8")
OLD = "keras_cv.models.stable_diffusion"
NAMES_OF_KERAS_CV = [
    *("keras_cv.models.StableDiffusion", "keras_cv.models.StableDiffusionV2"),
    f"{OLD}.stable_diffusion.StableDiffusionBase",
    *(".text_to_image", ".encode_text", ".generate_image", ".inpaint"),
    *(".image_encoder", ".text_encoder", ".diffusion_model", ".decoder", ".tokenizer"),
    *("._image_encoder", "._text_encoder", "._diffusion_model", "._decoder", "._tokenizer"),
    *("._get_timestep_embedding", "._get_initial_alphas", "._get_initial_diffusion_noise"),
    *("._get_pos_ids", "._get_unconditional_context", "._expand_tensor"),
    *("img_height", "img_width", "jit_compile=True", "MAX_PROMPT_LENGTH"),
    *(f"{OLD}.constants.{name}" for name in ("_ALPHAS_CUMPROD", "_UNCONDITIONAL_TOKENS")),
    f"{OLD}.clip_tokenizer.SimpleTokenizer",
    f"{OLD}.decoder.Decoder",
    *(f"{OLD}.diffusion_model.{name}" for name in ("DiffusionModel", "DiffusionModelV2")),
    f"{OLD}.image_encoder.ImageEncoder",
    f"{OLD}.noise_scheduler.NoiseScheduler",
    *(f"{OLD}.text_encoder.{name}" for name in ("TextEncoder", "TextEncoderV2")),
    *("kcv_encoder.h5", "kcv_diffusion_model.h5", "kcv_decoder.h5", "vae_encoder.h5"),
    *("text_encoder_v2_1.h5", "diffusion_model_v2_1.h5", "bpe_simple_vocab_16e6.txt.gz"),
    "keras_cv.visualization.plot_image_gallery",
    *(f"keras_cv.layers.{name}" for name in ("CenterCrop", "RandomFlip", "RandomCropAndResize")),
    "keras_cv.models.generative.stable_diffusion",
    *(".input", ".inputs", ".output", ".outputs", ".input_shape", ".output_shape", ".layers"),
    *("copy.deepcopy(network)", '.save("x.keras")', "keras.models.clone_model", ".get_config()"),
]


@pytest.mark.parametrize("old", NAMES_OF_KERAS_CV)
def test_every_name_of_keras_cv_is_in_a_table(old):
    firsts = [line.split("|")[1] for line in MIGRATING.splitlines() if line.startswith("|")]
    assert any(f"`{old}`" in first for first in firsts)


def test_every_new_name_of_the_tables_is_there():
    rows = [line for line in MIGRATING.splitlines() if line.startswith("|")]
    names = set(re.findall(r"`(keras(?:_sd)?(?:\.\w+)+)`", "\n".join(rows)))
    assert len(names) > 30
    for name in names:
        assert pkgutil.resolve_name(name) is not None, name


def test_every_old_module_path_is_one_of_ours():
    paths = re.findall(r"^\| `(keras_cv\.models\.[\w.]+)` \| `([\w.]+)`", MIGRATING, re.MULTILINE)
    assert len(paths) > 10
    same = [new for old, new in paths if old.replace("keras_cv", "keras_sd") == new]
    assert len(same) == len(paths) - 1  # the base class of the two is another


def test_a_compat_of_every_version_is_on_the_page():
    section = MIGRATING.split("## The old pictures")[1].split("## ")[0]
    assert set(re.findall(r'"(keras_cv[=.\d]*)"', section)) == set(compat.NAMES)


# Its section on training: what the guides of test_guides_*.py change

TRAINING = MIGRATING.split("\n## Training\n")[1]


def plainly(code):
    """Without sizes, and wherever the line is broken: the tests' pictures are small ones."""
    return re.sub(r"\d+|\s", "", code.lower())


def test_every_line_of_the_page_is_one_that_a_guide_is_run_with():
    files = Path(__file__).parent.glob("test_guides_*.py")
    run = "".join(plainly(file.read_text(encoding="utf-8")) for file in files)
    rows = [row.split("|")[2] for row in TRAINING.splitlines() if re.match(r"\| (`|\|)", row)]
    lines = [line for row in rows for line in re.findall(r"`([^`]+)`", row) if "pip" not in line]
    assert len(lines) > 20
    for line in lines:
        assert plainly(line) in run, line


def test_the_lines_that_change_have_to():
    """One that Keras has again is one less on the page."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW()), loss="mse")
    for owner, name in (
        (keras.optimizers, "experimental"),
        (keras.layers, "RandomCropAndResize"),
        (model.optimizer, "get_scaled_loss"),
        (model.optimizer, "get_unscaled_gradients"),
    ):
        assert not hasattr(owner, name)
        assert name in TRAINING
    with pytest.raises(ValueError, match=r"must end in `\.weights\.h5`"):
        keras.callbacks.ModelCheckpoint("dreambooth-unet.h5", save_weights_only=True)
    assert keras.layers.RandomFlip().mode == "horizontal_and_vertical"


@pytest.mark.usefixtures("shaped_world", "without_tracing")
def test_the_trainers_of_the_page_run_on_every_backend():
    """The page's own code, on the small model instead of `emoji`."""
    model = models.StableDiffusion(jit_compile=False)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    page = {"keras": keras, "np": np, "model": model, "images": images}
    fine_tuning, dreambooth, inversion = pages.blocks(TRAINING)

    def draw():
        return model.text_to_image("a cat", seed=1).astype(int)

    unet, others = model.diffusion_model, (model.text_encoder, model.decoder, model.image_encoder)
    for block in fine_tuning, dreambooth:
        before = values(unet), [values(network) for network in others]
        exec("\n".join(block.lines), page)
        assert moved(before[0], unet) == len(before[0])
        assert [moved(*pair) for pair in zip(before[1], others, strict=True)] == [0, 0, 0]
    before, cat = [values(network) for network in (unet, *others)], draw()
    exec("\n".join(inversion.lines), page)
    assert np.abs(draw() - cat).max() <= 1  # another text encoder, with the same other words
    pairs = zip(before, (unet, *others), strict=True)
    assert [moved(*pair) for pair in pairs] == [0, 0, 0, 0]
    assert page["new"] is model.text_encoder
    assert len(page["new"].trainable_variables) == 1
    assert page["images"].shape == (1, 16, 16, 3)
