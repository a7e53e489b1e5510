"""KerasCV's names over our networks: what its programs, its guides and its own tests do.

Most of it runs on a small model of Stable Diffusion's shape (77 tokens, 768 features, 4 channels,
an eighth of the pixels), since guides have these numbers in them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import keras_sd
from keras_sd import pipeline
from keras_sd.config import (
    SD_1,
    SD_2_BASE,
    AutoencoderConfig,
    Defaults,
    NoiseConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.image import to_uint8
from keras_sd.models import StableDiffusion, StableDiffusionV2
from keras_sd.models.stable_diffusion import (
    Decoder,
    DiffusionModel,
    DiffusionModelV2,
    ImageEncoder,
    NoiseScheduler,
    SimpleTokenizer,
    TextEncoder,
    TextEncoderV2,
)
from keras_sd.networks import Autoencoder, UNet
from keras_sd.networks import TextEncoder as OurTextEncoder
from keras_sd.networks.unet import timestep_embedding
from keras_sd.tokenizer import PromptTooLongError, Tokenizer
from keras_sd.weights.hub import FetchError
from keras_sd.weights.readers import WeightsError

BACKEND = keras.backend.backend()
TOKENS, WIDTH, SIZE = 77, 768, 16
MERGES = ["c a", "ca t</w>", "a </w>"][:2]
CONFIG = replace(
    SD_1,
    name="shaped",
    text_encoder=TextEncoderConfig(vocab_size=516, depth=1, mlp_width=32),
    # 320 features of a timestep, as many as the guides embed it in.
    unet=UNetConfig(widths=(320,), heads=(8,), depths=(0,), blocks=1),
    autoencoder=AutoencoderConfig(widths=(32, 32, 32, 32), blocks=1),
    defaults=Defaults(height=SIZE, width=SIZE, num_steps=2, guidance_scale=3.0),
)
pytestmark = pytest.mark.usefixtures("without_tracing")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """The folder of a small model with random weights."""
    keras.utils.set_random_seed(3)
    path = tmp_path_factory.mktemp("shaped")
    unet = UNet(CONFIG.unet)
    # It begins as zeros, which would make any context the same picture.
    unet.conv_out.kernel.assign(np.random.default_rng(3).normal(0, 0.03, (3, 3, 320, 4)))
    ours = pipeline.StableDiffusion(
        CONFIG,
        OurTextEncoder(CONFIG.text_encoder),
        unet,
        Autoencoder(CONFIG.autoencoder),
        Tokenizer(MERGES, max_length=TOKENS),
    )
    ours.save_preset(path)
    return path


def make(preset=None, **options):
    """A model that XLA does not compile, which would take most of the time."""
    return StableDiffusion(preset=preset, **{"jit_compile": False, **options})


@pytest.fixture(scope="module")
def model(preset):
    """Shared by the tests that change nothing."""
    return make(preset)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def draw(model, text="cat", **options):
    return model.text_to_image(text, **{"num_steps": 2, "seed": 5, "verbose": False, **options})


# Names


def test_names_and_old_module_paths():
    from keras_sd.models.stable_diffusion import (
        clip_tokenizer,
        decoder,
        diffusion_model,
        image_encoder,
        noise_scheduler,
        stable_diffusion,
        text_encoder,
    )

    assert keras_sd.models.StableDiffusion is stable_diffusion.StableDiffusion is StableDiffusion
    assert keras_sd.models.StableDiffusionV2 is stable_diffusion.StableDiffusionV2
    assert keras_sd.models.stable_diffusion.stable_diffusion.MAX_PROMPT_LENGTH == 77
    assert clip_tokenizer.SimpleTokenizer is SimpleTokenizer
    assert decoder.Decoder is Decoder
    assert diffusion_model.DiffusionModel is DiffusionModel
    assert diffusion_model.DiffusionModelV2 is DiffusionModelV2
    assert image_encoder.ImageEncoder is ImageEncoder
    assert noise_scheduler.NoiseScheduler is NoiseScheduler
    assert text_encoder.TextEncoder is TextEncoder
    assert text_encoder.TextEncoderV2 is TextEncoderV2


def test_nothing_is_fetched_before_it_is_needed(caplog):
    """What is made needs no file, and what needs one says so."""
    caplog.set_level(logging.INFO)
    model = StableDiffusion()
    assert (model.img_height, model.img_width, model.jit_compile) == (512, 512, True)
    assert model.config == SD_1
    assert "CreativeML Open RAIL-M" in caplog.text
    newer = StableDiffusionV2(img_height=768, img_width=256)
    assert (newer.img_height, newer.img_width, newer.config) == (768, 256, SD_2_BASE)
    for part in ("text_encoder", "diffusion_model", "decoder", "image_encoder"):
        for each in (model, newer):
            with pytest.raises(FetchError, match="OFFLINE"):
                getattr(each, part)
    with pytest.raises(FetchError, match="vocabulary"):
        _ = model.tokenizer
    with pytest.raises(FetchError):
        TextEncoder(77)


def test_what_is_chosen_is_loaded(preset, model, tmp_path, monkeypatch):
    assert model.config == CONFIG
    assert (model.img_height, model.img_width) == (SIZE, SIZE)
    wide = make(preset, img_height=8, img_width=24)
    assert (wide.img_height, wide.img_width) == (8, 24)
    assert np.array_equal(draw(make(weights=preset)), draw(model))
    assert make(weights=str(preset)).config == model.config
    same = StableDiffusion.from_preset(preset, height=24, jit_compile=False)
    assert (same.config, same.img_height, same.img_width) == (CONFIG, 24, SIZE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="emoji"):
        StableDiffusion(weights="emoji")  # a path, and never a name
    with pytest.raises(ValueError, match=r"preset.*weights.*not both"):
        StableDiffusion(preset="emoji", weights=preset)


@pytest.mark.parametrize("size", [100, 0, 7, 515])
def test_sizes_are_never_rounded(preset, size):
    with pytest.raises(ValueError, match=f"height {size} is not a multiple of 8"):
        StableDiffusion(size, preset=preset)


def test_emoji_has_its_own_defaults(emoji):
    model = make("emoji")
    assert (model.img_height, model.words, model.license) == (64, emoji.words, emoji.license)
    assert model.config == emoji.config
    ours, theirs = emoji.tokenizer, model.tokenizer
    assert ours("a cat face").tolist() == theirs("a cat face").tolist()


def test_jit_compile_is_never_a_worry(preset, caplog):
    """True is the default, so a backend that cannot does not complain."""
    caplog.set_level(logging.DEBUG, "keras_sd")
    for jit in (True, False, "auto"):
        assert StableDiffusion(preset=preset, jit_compile=jit).jit_compile is jit
    assert "jit" not in caplog.text
    with pytest.raises(ValueError, match="jit_compile is True, False or 'auto'"):
        StableDiffusion(preset=preset, jit_compile="yes")


def test_an_unknown_compat_or_dtype_is_one_error(preset):
    with pytest.raises(ValueError, match=r"compat is one of 'keras_cv'.*'keras_cv==0.4'"):
        StableDiffusion(preset=preset, compat="keras_cv==0.5")
    with pytest.raises(ValueError, match="float8"):
        StableDiffusion(preset=preset, dtype="float8")


# Images: the expectations of KerasCV's own tests


def test_text_to_image_is_generate_image_of_encode_text(model):
    encoding = model.encode_text("a cat")
    assert isinstance(encoding, np.ndarray)
    assert (encoding.shape, encoding.dtype) == ((1, TOKENS, WIDTH), np.float32)
    images = draw(model, "a cat")
    assert (images.shape, images.dtype) == ((1, SIZE, SIZE, 3), np.uint8)
    again = model.generate_image(encoding, num_steps=2, seed=5, verbose=False)
    assert np.array_equal(images, again)
    assert not np.array_equal(images, draw(model, "another cat"))


def test_one_step_works(model):
    assert draw(model, num_steps=1).shape == (1, SIZE, SIZE, 3)


def test_noise_and_a_seed_are_refused(model):
    noise = np.zeros((SIZE // 8, SIZE // 8, 4))
    with pytest.raises(ValueError, match=r"seed.*diffusion_noise.*not both"):
        model.generate_image(model.encode_text("a"), diffusion_noise=noise, seed=1)


@pytest.mark.parametrize("compat", [None, "keras_cv==0.9"])
def test_a_long_prompt_is_refused(preset, compat):
    with pytest.raises(PromptTooLongError, match="limit is 77"):
        make(preset, compat=compat).encode_text("cat " * 76)


@pytest.mark.thorough
def test_encodings_and_noise_of_every_shape(model):
    encoding = model.encode_text("cat")
    noise = np.random.default_rng(0).normal(size=(2, SIZE // 8, SIZE // 8, 4))
    options = {"num_steps": 2, "verbose": False}
    assert noise.dtype == np.float64
    one = model.generate_image(encoding[0], diffusion_noise=noise[0], **options)
    for text in (encoding, encoding[0], ops.convert_to_tensor(encoding)):
        for start in (noise[0], noise[:1], ops.convert_to_tensor(noise[0])):
            again = model.generate_image(text, batch_size=2, diffusion_noise=start, **options)
            assert again.shape == (2, SIZE, SIZE, 3)
            assert np.abs(again.astype(int) - one.astype(int)).max() <= 1
    two = np.concatenate([encoding, model.encode_text("another")])
    both = model.generate_image(two, batch_size=2, diffusion_noise=noise, **options)
    assert np.abs(both[:1].astype(int) - one.astype(int)).max() <= 1
    assert not np.array_equal(both[0], both[1])
    assert model.generate_image(two, seed=1, **options).shape[0] == 2
    with pytest.raises(ValueError, match="batch_size is 3, but there are 2 encodings"):
        model.generate_image(two, batch_size=3, **options)
    for wrong in (encoding[0, 0], encoding[:, :5], encoding[None]):
        with pytest.raises(ValueError, match="Encodings are"):
            model.generate_image(wrong, **options)
    for wrong in (noise[0, 0], np.zeros((3, 2, 2, 4)), np.zeros((4, 4, 4))):
        with pytest.raises(ValueError, match="diffusion_noise is of shape"):
            model.generate_image(encoding, batch_size=2, diffusion_noise=wrong, **options)


def test_a_negative_prompt_and_no_guidance(model):
    plain = draw(model)
    assert np.array_equal(draw(model, negative_prompt=""), plain)
    assert not np.array_equal(draw(model, negative_prompt="another cat"), plain)
    assert not np.array_equal(draw(model, unconditional_guidance_scale=40), plain)
    # What the preset has, where nothing is said.
    assert np.array_equal(draw(model, unconditional_guidance_scale=3.0, num_steps=None), plain)


def test_seeds(model):
    assert np.array_equal(draw(model, seed=0), draw(model, seed=0))
    assert not np.array_equal(draw(model, seed=0), draw(model, seed=1))
    assert not np.array_equal(draw(model, seed=None), draw(model, seed=None))


def test_a_bar_shows_how_far_it_is(model, capsys):
    seen = []
    draw(model, verbose=True, callback=lambda step: seen.append(step.index))
    assert "2/2" in capsys.readouterr().out
    draw(model)
    assert capsys.readouterr().out == ""
    assert seen == [1, 2]


def test_inpaint_in_the_old_order_and_with_the_old_mask(model):
    """1 keeps: a guide's mask is ones with a hole of zeros."""
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3))
    mask = np.ones((1, SIZE, SIZE), "float32")
    mask[:, :8, :8] = 0
    tensor = ops.convert_to_tensor(image.astype("float32"))
    images = model.inpaint("cat", tensor, mask, None, 1, 2, 2, 3.0, None, 3, False)
    assert images.shape == (2, SIZE, SIZE, 3)
    for made in images:
        assert np.array_equal(made[mask[0] == 1], image[mask[0] == 1])
        assert (made[:8, :8] != image[:8, :8]).mean() > 0.5
    white = model.inpaint(
        "cat",
        image.astype("uint8"),
        1 - mask[0],
        batch_size=2,
        num_steps=2,
        seed=3,
        mask_convention="white_repaints",
        verbose=False,
    )
    assert np.array_equal(images, white)
    with pytest.raises(ValueError, match="pixels are from 0 to 255"):
        model.inpaint("cat", image / 255 - 1, mask[0])


# Precision, compiling, weights that change


def test_the_guides_precision(preset, policy):
    policy("mixed_float16")
    model = StableDiffusion(preset=preset, jit_compile=False)
    policy("float32")
    other = make(preset)
    # Both parts are made now, each under the policy of its model's time.
    assert (model.diffusion_model.compute_dtype, model.diffusion_model.variable_dtype) == (
        "float16",
        "float32",
    )
    assert model.text_encoder.norm.compute_dtype == "float16"
    assert other.diffusion_model.compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    off = np.abs(draw(model).astype(int) - draw(other).astype(int))
    assert off.mean() < 3
    explicit = StableDiffusion(preset=preset, dtype="mixed_bfloat16")
    assert explicit.decoder.compute_dtype == explicit.image_encoder.compute_dtype == "bfloat16"


def test_numbers_of_tokens_are_not_rounded(policy):
    policy("mixed_float16")
    config = replace(CONFIG.text_encoder, vocab_size=4096)
    source = TextEncoder(77, 4096, download_weights=False, preset=_source(config))
    tokens = np.full((1, 77), 4095.0)  # float16 has 4096 next
    positions = np.arange(77)[None]
    same = numpy(source([tokens, positions]))
    assert np.array_equal(numpy(source(np.full((1, 77), 4095))), same)
    assert not np.array_equal(numpy(source(np.full((1, 77), 4094))), same)


def _source(text_encoder):
    from keras_sd.keras_cv.parts import PartSource

    source = PartSource("", replace(CONFIG, text_encoder=text_encoder))
    return source


@pytest.mark.traced
def test_a_model_lives_on_after_clear_session(preset):
    model = make(preset)
    before = draw(model)
    keras.backend.clear_session()
    assert np.array_equal(draw(model), before)
    other = make(preset)
    keras.backend.clear_session()
    assert np.array_equal(draw(other), before)  # its parts are made only now


@pytest.mark.parametrize("part", ["text_encoder", "diffusion_model", "decoder"])
@pytest.mark.traced
def test_the_next_image_sees_weights_that_changed(preset, part):
    model = make(preset)
    before = draw(model)
    weights = getattr(model, part).get_weights()
    for variable, value in zip(getattr(model, part).weights, weights, strict=True):
        variable.assign(value * 0.5)
    changed = draw(model)
    assert not np.array_equal(changed, before)
    getattr(model, part).set_weights(weights)
    assert np.array_equal(draw(model), before)


@pytest.mark.traced
def test_the_next_image_is_made_with_parts_that_were_set(preset):
    model = make(preset)
    before = draw(model)
    unet = DiffusionModel(8, 8, 77, download_weights=False, preset=preset)
    unet.conv_out.bias.assign([0.5] * 4)  # it begins as zeros
    for name, part in (
        ("_text_encoder", TextEncoder(77, 516, download_weights=False, preset=preset)),
        ("_diffusion_model", unet),
        ("_decoder", Decoder(8, 8, download_weights=False, preset=preset)),
    ):
        old = getattr(model, name)
        setattr(model, name, part)
        assert getattr(model, name) is part
        assert getattr(model, name.removeprefix("_")) is part
        assert not np.array_equal(draw(model), before), name
        setattr(model, name, old)
        assert np.array_equal(draw(model), before)
    latents = numpy(model.encode(before))
    model._image_encoder = ImageEncoder(download_weights=False, preset=preset)
    assert not np.allclose(numpy(model.encode(before)), latents)
    model._tokenizer = SimpleTokenizer(["d o"], max_length=77)
    assert not np.array_equal(draw(model), before)


def test_what_was_set_is_saved(preset, tmp_path):
    model = make(preset)
    model.decoder.decoder.conv_out.bias.assign([0.1, 0.2, 0.3])
    model.save_preset(tmp_path / "ours")
    again = keras_sd.StableDiffusion.from_preset(tmp_path / "ours", jit_compile=False)
    assert np.array_equal(again.text_to_image("cat", num_steps=2, seed=5), draw(model))
    assert np.array_equal(numpy(again.encode(draw(model))), numpy(model.encode(draw(model))))


# Parts


def test_text_encoder(preset):
    encoder = TextEncoder(77, 516, preset=preset)
    tokens = np.random.default_rng(0).integers(0, 516, (3, 77))
    positions = np.arange(77)[None]
    wanted = numpy(encoder(tokens))
    assert wanted.shape == (3, 77, WIDTH)
    for given in (
        [tokens, positions],
        {"tokens": tokens, "positions": positions},
        [tokens.astype("float64"), np.repeat(positions, 3, axis=0)],
    ):
        assert np.allclose(numpy(encoder(given)), wanted, atol=1e-5)
    both = {"tokens": tokens[:1], "positions": positions}
    assert np.allclose(numpy(encoder.predict_on_batch(both)), wanted[:1], atol=1e-4)
    backwards = numpy(encoder([tokens, positions[:, ::-1]]))
    assert not np.allclose(backwards, wanted, atol=1e-2)

    embedding = encoder.layers[2]
    assert "clip_embedding" in embedding.name
    assert embedding.token_embedding.get_weights()[0].shape == (516, WIDTH)
    assert embedding.position_embedding.get_weights()[0].shape == (77, WIDTH)
    assert numpy(embedding.token_embedding(ops.convert_to_tensor(7))).shape == (WIDTH,)
    assert len(encoder.layers) == 2 + 1 + 1 + 1
    with pytest.raises(ValueError, match="77 tokens out of 516, not 77 out of 49408"):
        TextEncoder(77, preset=preset)


def test_diffusion_model(preset):
    unet = DiffusionModel(SIZE, SIZE, 77, preset=preset)
    generator = np.random.default_rng(0)
    latent = generator.normal(size=(2, 2, 2, 4))
    context = generator.normal(size=(2, 77, WIDTH))
    times = np.array([3.0, 900.0], "float32")
    embedded = timestep_embedding(ops.convert_to_tensor(times), 320)
    wanted = numpy(unet(latent, times, context))
    assert wanted.shape == (2, 2, 2, 4)
    named = {"latent": latent, "timestep_embedding": embedded, "context": context}
    for given in ([latent, embedded, context], named):
        assert np.allclose(numpy(unet(given)), wanted, atol=1e-5)
        assert np.allclose(numpy(unet(given, training=True)), wanted, atol=1e-5)
    assert np.allclose(numpy(unet.predict_on_batch(named)), wanted, atol=1e-4)
    with pytest.raises(ValueError, match="img_width 12"):
        DiffusionModel(16, 12, 77, download_weights=False, preset=preset)


def test_image_encoder_and_decoder(preset, model):
    encoder, decoder = ImageEncoder(preset=preset), Decoder(SIZE, SIZE, preset=preset)
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype("float32")
    latents = numpy(encoder(pixels))
    assert latents.shape == (2, 2, 3, 4)
    assert np.allclose(numpy(encoder.predict(pixels, verbose=0)), latents, atol=1e-4)
    moments = keras.Model(encoder.input, encoder.layers[-2].output)
    mean, _ = ops.split(moments(pixels), 2, axis=-1)
    assert np.allclose(numpy(mean) * 0.18215, latents, atol=1e-6)
    for image in ImageEncoder(img_height=16, img_width=16, preset=preset), encoder:
        assert numpy(image(pixels[:1, :8])).shape == (1, 1, 3, 4)

    images = numpy(decoder(latents))
    assert images.shape == pixels.shape
    assert np.allclose(numpy(decoder.predict_on_batch(latents)), images, atol=1e-4)
    whole = model.autoencoder
    assert np.allclose(numpy(whole.decode(ops.convert_to_tensor(latents))), images, atol=1e-5)


def test_the_classes_of_2(preset):
    assert TextEncoderV2._config.text_encoder.width == 1024
    assert DiffusionModelV2._config.unet.context_width == 1024
    encoder = TextEncoderV2(77, 516, download_weights=False, preset=preset)
    assert isinstance(encoder, TextEncoder)
    assert StableDiffusionV2(preset=preset).text_encoder.config.width == WIDTH


# Files


PARTS = {
    "text_encoder": lambda **options: TextEncoder(77, 516, **options),
    "diffusion_model": lambda **options: DiffusionModel(8, 8, 77, **options),
    "image_encoder": lambda **options: ImageEncoder(**options),
    "decoder": lambda **options: Decoder(8, 8, **options),
}
parts = pytest.mark.parametrize("part", PARTS)


def same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@parts
@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
def test_save_and_load_weights(preset, tmp_path, part, ending):
    trained, path = PARTS[part](preset=preset), tmp_path / f"ckpt_epochs_72{ending}"
    trained.save_weights(filepath=path, overwrite=True, save_format="h5", options=None)
    fresh = PARTS[part](download_weights=False, preset=preset)
    assert not same_weights(fresh, trained)
    fresh.load_weights(str(path))
    assert same_weights(fresh, trained)
    with pytest.raises(FileExistsError, match="overwrite is False"):
        trained.save_weights(path, overwrite=False)


@parts
def test_load_weights_takes_whole_models_of_any_layout(preset, model, tmp_path, part):
    trained = PARTS[part](preset=preset)
    model.save_preset(tmp_path / "diffusers", layout="diffusers")
    for path in (preset, tmp_path / "diffusers"):
        fresh = PARTS[part](download_weights=False, preset=preset)
        fresh.load_weights(path)
        assert same_weights(fresh, trained)


def test_load_weights_is_all_or_nothing(preset, tmp_path):
    decoder = PARTS["decoder"](preset=preset)
    path = tmp_path / "decoder.h5"
    decoder.save_weights(path)
    encoder = PARTS["image_encoder"](preset=preset)
    before = encoder.get_weights()
    with pytest.raises(WeightsError, match="nothing was loaded"):
        encoder.load_weights(path)
    assert all(np.array_equal(a, b) for a, b in zip(before, encoder.get_weights(), strict=True))
    with pytest.raises(FileNotFoundError):
        encoder.load_weights(tmp_path / "none.h5")
    with pytest.raises(ValueError, match="has no by_name, skip_mismatch"):
        encoder.load_weights(path, skip_mismatch=True, by_name=True)
    for name, options in (("x.keras", {}), ("x.h5", {"save_format": "tf"})):
        with pytest.raises(ValueError, match=r"end in .h5 and have no options"):
            encoder.save_weights(tmp_path / name, **options)


def test_a_fine_tuned_file_changes_the_next_image(preset, tmp_path):
    """sayakpaul/kerascv_sd_pokemon_finetuned is loaded so."""
    model = make(preset)
    before = draw(model)
    tuned = DiffusionModel(8, 8, 77, preset=preset)
    tuned.conv_out.bias.assign([0.5, -0.5, 0.5, 0.2])
    tuned.save_weights(tmp_path / "ckpt_epochs_72_res_512_mp_True.h5")
    model.diffusion_model.load_weights(tmp_path / "ckpt_epochs_72_res_512_mp_True.h5")
    assert not np.array_equal(draw(model), before)


@pytest.mark.thorough
def test_a_model_without_an_image_encoder(preset, tmp_path):
    model = make(preset)
    whole = keras_sd.StableDiffusion.from_preset(preset)
    half = replace(CONFIG.autoencoder, encoder=False)
    whole.config = replace(CONFIG, autoencoder=half)
    whole.autoencoder = Autoencoder(half, decoder=whole.autoencoder.decoder)
    whole.save_preset(tmp_path / "half")
    image = draw(model)
    alone = make(tmp_path / "half")
    assert np.array_equal(draw(alone), image)
    for fails in (
        lambda: alone.image_encoder,
        lambda: alone.encode(image),
        lambda: keras_sd.StableDiffusion.from_preset(tmp_path / "half").encode(image),
        lambda: alone.image_to_image("cat", image[0]),
        lambda: alone.inpaint("cat", image[0], np.eye(SIZE)),
        lambda: Autoencoder(half).encode(ops.convert_to_tensor(image)),
    ):
        with pytest.raises(ValueError, match=r"no image encoder.*vae_encoder\.h5"):
            fails()
    alone.save_preset(tmp_path / "again")
    assert np.array_equal(draw(make(tmp_path / "again")), image)
    for save in (
        lambda: alone.save_preset(tmp_path / "theirs", layout="diffusers"),
        lambda: alone.save_checkpoint(tmp_path / "x.safetensors"),
    ):
        with pytest.raises(WeightsError, match=r"no place for a model without an image encoder"):
            save()


# The tokenizer


def test_tokenizer_by_the_old_names():
    tokenizer = SimpleTokenizer(MERGES)
    ids = tokenizer.encode("A cat!")
    assert ids[0] == tokenizer.start_of_text == 514
    assert ids[-1] == tokenizer.end_of_text == 515
    assert tokenizer.decode(ids) == "<|startoftext|>a cat ! <|endoftext|>"
    assert tokenizer.vocab[tokenizer.encoder["cat</w>"]] == "cat</w>"
    assert tokenizer.decoder[515] == "<|endoftext|>"
    assert tokenizer.bpe("cat") == "cat</w>"
    assert tokenizer.bpe("cab") == "ca b</w>"
    assert tokenizer.bpe("<|endoftext|>") == "<|endoftext|>"
    assert tokenizer.bpe_ranks == {("c", "a"): 0, ("ca", "t</w>"): 1}
    assert len(tokenizer.encode("cat " * 200)) == 202
    assert tokenizer.byte_decoder[tokenizer.byte_encoder[0]] == 0
    with pytest.raises(ValueError, match="Id 516 is outside"):
        tokenizer.decode([516])


def test_added_tokens():
    tokenizer = SimpleTokenizer(MERGES)
    assert tokenizer.add_tokens("<my-funny-cat-token>") == 1
    assert tokenizer.add_tokens(["<my-funny-cat-token>", "<Other>"]) == 1
    assert len(tokenizer.vocab) == 518
    assert tokenizer.encode("a <my-funny-cat-token>cat")[2] == 516
    assert tokenizer.encode("<other>")[1:-1] == [517]
    assert tokenizer.decode([516, 517]) == "<my-funny-cat-token><Other>"
    assert set(tokenizer.special_tokens) == {
        "<|startoftext|>",
        "<|endoftext|>",
        "<my-funny-cat-token>",
        "<Other>",
    }
    assert tokenizer(["a <other>"])[0, :4].tolist() == [514, *tokenizer.encode("a")[1:2], 517, 515]


def test_the_tokens_of_keras_cvs_test_sentence():
    """Where CLIP's vocabulary is; the tokenizer's own tests have this sentence anywhere."""
    vocabulary = Path.home() / ".keras" / "keras_sd" / "bpe_simple_vocab_16e6.txt.gz"
    if not vocabulary.is_file():
        pytest.skip("CLIP's vocabulary is not here")
    tokens = SimpleTokenizer(vocabulary).encode(
        "a caterpillar smoking a hookah while sitting on a mushroom"
    )
    assert tokens[:5] == [49406, 320, 27111, 9038, 320]


# The noise scheduler


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, 4.0358e-05),
        (
            {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
            0.0046601,
        ),
    ],
)
def test_noise_scheduler(options, last):
    scheduler = NoiseScheduler(**options)
    assert len(scheduler) == scheduler.train_timesteps == 1000
    betas, alphas, products = (
        numpy(getattr(scheduler, name)) for name in ("betas", "alphas", "alphas_cumprod")
    )
    assert betas.shape == (1000,)
    assert np.allclose(alphas, 1 - betas)
    assert np.allclose(products, np.cumprod(alphas.astype(float)), rtol=1e-4)
    assert products[-1] == pytest.approx(last, rel=1e-3)
    generator = np.random.default_rng(0)
    clean, noise = generator.normal(size=(2, 3, 2, 2, 4)).astype("float32")
    times = np.array([0, 500, 999])
    noisy = numpy(scheduler.add_noise(clean, noise, ops.convert_to_tensor(times)))
    at = products[times][:, None, None, None]
    assert np.allclose(noisy, np.sqrt(at) * clean + np.sqrt(1 - at) * noise, atol=1e-5)


def test_a_step_of_the_scheduler():
    scheduler = NoiseScheduler(clip_sample=False)
    products = numpy(scheduler.alphas_cumprod).astype(float)
    clean, noise = np.full((2, 64, 64, 4), 0.5), np.full((2, 64, 64, 4), -0.3)
    sample = (np.sqrt(products[500]) * clean + np.sqrt(1 - products[500]) * noise).astype("float32")
    noise = noise.astype("float32")
    found = numpy(scheduler.step(noise, 500, sample))
    believed = numpy(scheduler.step(clean.astype("float32"), 500, sample, predict_epsilon=False))
    beta, before = 1 - products[500] / products[499], products[499]
    rest = 1 - products[500]
    mean = np.sqrt(before) * beta / rest * clean + np.sqrt(1 - beta) * (1 - before) / rest * sample
    spread = np.sqrt(beta * (1 - before) / rest)
    for result in (found, believed):
        assert result.mean() == pytest.approx(mean.mean(), abs=1e-2)
        assert result.std() == pytest.approx(spread, rel=0.03)
    assert np.allclose(numpy(scheduler.step(noise, 0, sample)).std(), 0, atol=1e-6)
    large = NoiseScheduler(clip_sample=False, variance_type="fixed_large")
    assert numpy(large.step(noise, 500, sample)).std() == pytest.approx(np.sqrt(beta), rel=0.03)
    clipped = numpy(NoiseScheduler().step(noise * 0, 0, sample * 0 + 9))  # KerasCV's cannot
    assert np.allclose(clipped, 1, atol=1e-3)
    for wrong in ({"beta_schedule": "cosine"}, {"variance_type": "learned"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is one of"):
            NoiseScheduler(**wrong)


# Compat


@pytest.mark.parametrize(
    ("name", "timesteps"),
    [
        ("keras_cv==0.4", [667, 334, 1]),
        ("keras_cv==0.6", [667, 334, 1]),
        ("keras_cv==0.8.1", [667, 334, 1]),
        ("keras_cv==0.9", [999, 500, 0]),
    ],
)
@pytest.mark.thorough
def test_a_run_under_compat(preset, name, timesteps):
    model = make(preset, compat=name)
    version = model.compat
    assert model.config == version.config(CONFIG)
    assert model.autoencoder.config.epsilon == 1e-5
    assert model.image_encoder.encoder.downsamples[0].pad.padding[0] == version.encoder_pad
    levels = []
    images = draw(model, num_steps=3, batch_size=2, callback=lambda step: levels.append(step))
    assert [level.t for level in model.levels(3)][:-1] == timesteps
    assert model.levels(3)[-1].sigma == 0
    noise = version.first_noise(5, range(2), (SIZE // 8, SIZE // 8, 4))
    assert np.array_equal(model._get_initial_diffusion_noise(2, 5), noise)
    given = draw(model, num_steps=3, batch_size=2, seed=None, diffusion_noise=noise)
    assert np.array_equal(images, given)
    pixels = numpy(model.autoencoder.decode(levels[-1].latent))
    # Near a whole number, the last bit of a float decides where decimals are cut off.
    different = version.to_uint8(pixels) != images
    assert different.mean() < 0.01
    assert (to_uint8(pixels) != images).mean() > 0.3
    assert model.levels(1)[0].t == timesteps[-1]
    assert len(model.levels(30)) - 1 == (30 if name == "keras_cv==0.9" else 31)
    assert not np.array_equal(images, draw(make(preset), num_steps=3))


def test_what_programs_call_though_it_is_private(model):
    embedding = numpy(model._get_timestep_embedding(981, 3))
    assert embedding.shape == (3, 320)
    assert embedding[0, 0] == pytest.approx(np.cos(981), abs=1e-3)
    assert embedding[0, 160] == pytest.approx(np.sin(981), abs=1e-3)
    alphas, before = model._get_initial_alphas(np.arange(1, 1000, 250))
    assert before == [1.0, *alphas[:-1]]
    assert alphas[0] == pytest.approx(0.9983, abs=1e-4)
    assert model._get_initial_diffusion_noise(2, 0).shape == (2, 2, 2, 4)
    assert numpy(model._get_pos_ids()).tolist() == [list(range(77))]
    assert np.array_equal(model._get_unconditional_context(), model.encode_text(""))
    assert numpy(model._expand_tensor(model.encode_text("a"), 3)).shape == (3, 77, WIDTH)
    assert numpy(model._expand_tensor(np.zeros((3, 77, WIDTH)), 3)).shape == (3, 77, WIDTH)


# The guides


@pytest.mark.traced
def test_generate_images_with_stable_diffusion(preset, policy):
    model = StableDiffusion(img_width=SIZE, img_height=SIZE, jit_compile=False, preset=preset)
    images = model.text_to_image("photograph of an astronaut", batch_size=2, num_steps=2)
    assert len(images) == 2
    keras.backend.clear_session()
    policy("mixed_float16")
    model = StableDiffusion(jit_compile=False, preset=preset)
    assert model.diffusion_model.compute_dtype == "float16"
    model.text_to_image("warming up the model", batch_size=2, num_steps=2)
    policy("float32")
    model = StableDiffusion(jit_compile=True, preset=preset)
    policy("mixed_float16")
    both = StableDiffusion(jit_compile=True, preset=preset)
    assert (both.diffusion_model.compute_dtype, model.unet.compute_dtype) == ("float16", "float32")
    if BACKEND != "tensorflow":  # where XLA takes a minute
        assert len(both.text_to_image("A cute magical flying dog", num_steps=1)) == 1


def test_random_walks_through_latent_space(preset, model):
    steps, batch = 4, 2
    one, two = (ops.squeeze(model.encode_text(text)) for text in ("a cat", "a dog"))
    assert tuple(one.shape) == (TOKENS, WIDTH)
    noise = keras.random.normal((SIZE // 8, SIZE // 8, 4), seed=12345)
    walked = ops.linspace(one, two, steps)
    images = [
        model.generate_image(part, batch_size=batch, num_steps=2, diffusion_noise=noise)
        for part in ops.split(walked, steps // batch)
    ]
    assert np.concatenate(images).shape == (steps, SIZE, SIZE, 3)
    grid = ops.linspace(ops.linspace(one, two, 2), ops.linspace(two, one, 2), 2)
    grid = ops.reshape(grid, (4, TOKENS, WIDTH))
    assert len(model.generate_image(grid[:2], batch_size=2, num_steps=1)) == 2

    encoding = one
    delta = ops.ones_like(encoding) * 5e-3
    some = []
    for _ in range(2):
        some.append(encoding)
        encoding += delta
    assert len(model.generate_image(ops.stack(some), batch_size=2, num_steps=1)) == 2

    double = "float32" if BACKEND == "jax" else "float64"  # jax has none, and warns
    x = keras.random.normal((SIZE // 8, SIZE // 8, 4), dtype=double)
    y = keras.random.normal((SIZE // 8, SIZE // 8, 4), dtype=double)
    angle = ops.linspace(0, 2 * np.pi, 2)
    around = ops.add(
        ops.tensordot(ops.cos(angle), ops.cast(x, angle.dtype), axes=0),
        ops.tensordot(ops.sin(angle), ops.cast(y, angle.dtype), axes=0),
    )
    circle = model.generate_image(one, batch_size=2, num_steps=1, diffusion_noise=around)
    assert circle.shape == (2, SIZE, SIZE, 3)


def test_the_v_of_a_config_is_kept(preset, tmp_path):
    """A preset that predicts v is run as one, though KerasCV's models never did."""
    whole = keras_sd.StableDiffusion.from_preset(preset)
    whole.config = replace(CONFIG, noise=NoiseConfig(prediction="v"))
    whole.save_preset(tmp_path / "v")
    model = make(tmp_path / "v")
    ours = keras_sd.StableDiffusion.from_preset(tmp_path / "v", jit_compile=False)
    assert np.array_equal(draw(model), ours.text_to_image("cat", num_steps=2, seed=5))
    assert not np.array_equal(draw(model), draw(make(preset)))


def test_added_tokens_that_a_prompt_cannot_tell_apart(preset):
    tokenizer = make(preset).tokenizer
    assert tokenizer.add_tokens("<A>") == 1
    with pytest.raises(ValueError, match="'<a>' is '<A>' in a prompt"):
        tokenizer.add_tokens("<a>")
    assert tokenizer.encoder["<A>"] == 516
    assert tokenizer.encode("<a>")[1:-1] == [516]


def test_a_token_without_a_place_in_the_text_encoder(preset, tmp_path):
    model = make(preset)
    model.tokenizer.add_tokens("<zz>")
    with pytest.raises(ValueError, match="token of number 516, which the text encoder"):
        draw(model, "<zz> cat")
    with pytest.raises(PromptTooLongError) as caught:
        model.tokenizer("<zz> " * 80)
    assert caught.value.left_out == ("<zz>",) * 5
    model._text_encoder = TextEncoder(77, 517, download_weights=False, preset=preset)
    draw(model, "<zz> cat")
    with pytest.raises(WeightsError, match=r"\(517, \d+\), not \(516"):
        model.save_preset(tmp_path / "lost")


def test_a_decode_that_overflows_is_done_again_in_float32(preset, caplog):
    model = make(preset, dtype="mixed_float16")
    far = np.full((1, 2, 2, 4), 1e5, "float32")  # float16 ends at 65504
    images = model.decode(far)
    assert "computed again in float32" in caplog.text
    exact = make(preset, dtype="float32").decode(far)
    assert np.abs(images.astype(int) - exact.astype(int)).max() <= 2


def test_a_file_of_another_class_is_named(preset, tmp_path, monkeypatch):
    """They are known by their shapes, at full size."""
    from keras_sd.keras_cv import files, names

    found = names.KnownPart("decoder", SD_1, [])
    monkeypatch.setattr(files, "recognise", lambda file: found)
    encoder = PARTS["image_encoder"](preset=preset)
    encoder.save_weights(tmp_path / "x.h5")
    with pytest.raises(WeightsError, match="is KerasCV's decoder, not the image encoder"):
        encoder.load_weights(tmp_path / "x.h5")
