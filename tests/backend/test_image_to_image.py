"""Image-to-image: against diffusers, the steps that are run, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference_models as reference
from keras import ops
from PIL import Image
from test_pipeline import TINY, differ, make

from keras_sd.gallery import Images
from keras_sd.networks import UNet
from keras_sd.training import measure, pictures

RNG = np.random.default_rng(3)
PICTURE = RNG.integers(0, 256, (32, 24, 3), np.uint8)
OTHER = RNG.integers(0, 256, (32, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def pipeline():
    return make()


# Against diffusers. The whole table of runs is in the test that has it installed.


@pytest.mark.parametrize(
    ("scheduler", "strength"),
    [
        *[(scheduler, 0.75) for scheduler in reference.SCHEDULES],
        *[(scheduler, 1.0) for scheduler in ("ddim", "pndm", "euler")],
        ("pndm", 0.4),
    ],
)
def test_latents_are_those_of_diffusers(scheduler, strength):
    found = reference.run_difference("sd1", "image", scheduler, strength)
    assert found < reference.TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": reference.STEPS + 1},
        {"steps_mode": "run"},
        {"image": reference.given("sd1", "picture") ^ 1},
        {"sampler": "euler"},
    ],
)
def test_what_is_another_run_shows(change):
    found = reference.run_difference("sd1", "image", "pndm", 0.75, **change)
    assert found > 2 * reference.TOLERANCE


@pytest.mark.references
def test_the_goldens_are_what_diffusers_makes_and_every_run_is_theirs(tmp_path):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    with np.load(reference.script().write(tmp_path)) as file:
        made = dict(file)
    kept = reference.pictures()
    assert made.keys() == kept.keys()
    for name, value in kept.items():
        assert np.abs(made[name] - value.astype(float)).max() <= 1e-5 * np.abs(value).max(), name
    for run in reference.script().runs():
        assert reference.run_difference(*run) < reference.TOLERANCE, run


@pytest.mark.references
@pytest.mark.parametrize("strength", [0.9, 0.75])  # the list of timesteps cut by one, and by more
def test_pndm_of_diffusers_misses_its_levels_on_a_part_of_a_run(strength):
    """Why the goldens have its timesteps put right; see their script."""
    pytest.importorskip("diffusers")
    script = reference.script()
    run = ("sd1", "image", "pndm", strength)
    right = script.latents(*run, reference.pictures())
    wrong = script.latents(*run, reference.pictures(), misaligned=True)
    assert np.abs(wrong - right).max() > 0.05 * np.abs(right).max()


# The steps that are run


@pytest.mark.parametrize("steps_mode", ["run", "schedule"])
def test_the_steps_that_are_asked_for_are_run(pipeline, steps_mode):
    steps = list(
        pipeline.stream(
            "a cat", num_steps=10, seed=0, image=PICTURE, strength=0.35, steps_mode=steps_mode
        )
    )
    assert len(steps) == {"run": 10, "schedule": 3}[steps_mode]
    assert {step.total for step in steps} == {len(steps)}


def test_a_little_strength_is_a_step_not_none(pipeline):
    for steps_mode in ("run", "schedule"):
        image = pipeline.image_to_image(
            "a cat", PICTURE, 0.01, num_steps=1, steps_mode=steps_mode, seed=0
        )
        assert image.shape == (1, 32, 24, 3)


# What goes in and comes out


def test_the_picture_counts_the_seed_counts_and_both_are_kept(pipeline):
    made = pipeline.image_to_image("a cat", PICTURE, seed=7, batch_size=2)
    assert isinstance(made, Images)
    assert (made.prompts, made.seed, made.numbers) == (("a cat", "a cat"), 7, (0, 1))
    np.testing.assert_array_equal(
        made, pipeline.image_to_image("a cat", PICTURE, seed=7, batch_size=2)
    )
    assert differ(made[0], made[1]) > 10
    assert differ(made, pipeline.image_to_image("a cat", OTHER, seed=7, batch_size=2)) > 10
    assert differ(made, pipeline.image_to_image("a rocket", PICTURE, seed=7, batch_size=2)) > 2


def test_a_seed_that_was_drawn_makes_the_picture_again(pipeline):
    made = pipeline.image_to_image("a cat", PICTURE)
    np.testing.assert_array_equal(made, pipeline.image_to_image("a cat", PICTURE, seed=made.seed))
    assert pipeline.text_to_image("a cat", diffusion_noise=np.zeros((8, 6, 4))).seed is None


def test_one_picture_each_is_the_same_as_alone(pipeline):
    prompts = ["a cat", "a rocket"]
    both = pipeline.image_to_image(prompts, [PICTURE, OTHER], seed=7)
    alone = pipeline.image_to_image("a rocket", OTHER, seed=7, first_image=1)
    assert differ(both[1:], alone) <= 1
    stacked = pipeline.image_to_image(prompts, np.stack([PICTURE, OTHER]), seed=7)
    np.testing.assert_array_equal(both, stacked)


def test_paths_and_pillow_images_are_pictures(pipeline, tmp_path):
    made = pipeline.image_to_image("a cat", PICTURE, seed=1)
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PICTURE)):
        np.testing.assert_array_equal(made, pipeline.image_to_image("a cat", source, seed=1))


def test_a_picture_has_its_own_size_or_is_brought_to_the_pipelines(pipeline):
    wide = np.tile(PICTURE, (1, 2, 1))
    assert pipeline.image_to_image("a cat", wide, seed=0).shape == (1, 32, 48, 3)
    odd = wide[:31]
    sizes = {
        how: pipeline.image_to_image("a cat", odd, seed=0, resize=how)
        for how in ("stretch", "crop", "pad")
    }
    assert {image.shape for image in sizes.values()} == {(1, 32, 24, 3)}
    assert differ(sizes["stretch"], sizes["crop"]) > 10


def test_encodings_are_prompts(pipeline):
    encoded = pipeline.encode_text(["a cat", "a rocket"])
    made = pipeline.text_to_image(encoded, pipeline.encode_text("a rocket"), seed=1)
    said = pipeline.text_to_image(["a cat", "a rocket"], "a rocket", seed=1)
    assert differ(made, said) <= 1
    assert made.prompts == (None, None)
    assert differ(pipeline.text_to_image(encoded[0], "a rocket", seed=1), said[:1]) <= 1


# encode


def test_encode_is_the_encoder_at_any_multiple_of_8(pipeline):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)
    latents = ops.convert_to_numpy(pipeline.encode(pixels))
    assert latents.shape == (2, 10, 14, 4)
    assert latents.dtype == np.float32
    expected = pipeline.autoencoder.encode(pixels / np.float32(127.5) - 1)
    np.testing.assert_allclose(latents, ops.convert_to_numpy(expected), atol=1e-5)


def test_encode_with_noise_is_a_draw_from_the_posterior(pipeline):
    noise = np.random.default_rng(0).normal(size=(1, 8, 6, 4))
    mean, log_variance = (
        ops.convert_to_numpy(part)
        for part in pipeline.autoencoder.moments(PICTURE[None] / np.float32(127.5) - 1)
    )
    expected = (mean + np.exp(log_variance / 2) * noise) * pipeline.config.autoencoder.scale
    found = ops.convert_to_numpy(pipeline.encode(PICTURE, noise))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found, ops.convert_to_numpy(pipeline.encode(PICTURE, noise[0])))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": PICTURE[:31]}, "height 31 is not a multiple of 8.*24 and 32$"),
        ({"images": []}, "empty list"),
        ({"images": PICTURE / 255}, "uint8"),
        ({"images": [PICTURE, PICTURE[:8]]}, "one size, these of 24x32, 24x8"),
        (
            {"images": PICTURE, "noise": np.zeros((2, 8, 6, 4))},
            r"shape \(2, 8, 6, 4\).*\(8, 6, 4\)",
        ),
        ({"images": PICTURE, "noise": np.full((8, 6, 4), np.inf)}, "finite"),
    ],
)
def test_what_cannot_be_encoded(pipeline, arguments, words):
    with pytest.raises(ValueError, match=words):
        pipeline.encode(**arguments)


# Bad input


@pytest.fixture
def no_steps(monkeypatch):
    def never(*_):
        raise AssertionError("a network was run")

    monkeypatch.setattr(UNet, "call", never)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"strength": 0}, "above 0"),
        ({"strength": 1.01}, "at most 1"),
        ({"strength": -0.5}, "above 0"),
        ({"strength": float("nan")}, "not nan"),
        ({"steps_mode": "suffix"}, "'run', 'schedule', not 'suffix'"),
        (
            {"strength": 0.02, "num_steps": 21},
            "0.02 has 20 of .* 21 steps .* do not fit.*'schedule'",
        ),
        ({"num_steps": 0}, "from 1 to 1000"),
        ({"schedule": [900, 500, 100]}, "give strength=1"),
        ({"image": PICTURE[:31]}, r"height 31 is not a multiple of 8.*resize='stretch'.*24x32"),
        ({"image": PICTURE[:31], "resize": "fit"}, "resize is one of None, 'stretch'"),
        ({"image": PICTURE.astype("float32")}, "uint8"),
        ({"image": None}, "of an image"),
        ({"image": [PICTURE] * 3, "batch_size": 2}, "3 images for 2 picture"),
        ({"image": []}, "empty list"),
        ({"image": [PICTURE, PICTURE[:8]], "batch_size": 2}, "24x32, 24x8"),
        ({"seed": 1, "diffusion_noise": np.zeros((8, 6, 4))}, "not both"),
        ({"diffusion_noise": np.zeros((8, 6))}, r"\(8, 6, 4\)"),
        ({"diffusion_noise": np.zeros((3, 8, 6, 4))}, r"\(1, 8, 6, 4\)"),
        ({"prompt": np.zeros((16,), "float32")}, r"\(tokens, 16\) or \(prompts, tokens, 16\)"),
        ({"prompt": np.zeros((1, 1, 12, 16), "float32")}, "encode_text"),
        ({"prompt": np.zeros((2, 12, 15), "float32")}, r"is of shape \(12, 15\)"),
        ({"prompt": np.zeros((0, 12, 16), "float32")}, r"\(0, 12, 16\)"),
        ({"prompt": np.full((12, 16), np.nan, "float32")}, "finite"),
        ({"negative_prompt": np.zeros((3, 12, 16), "float32")}, "3 negative prompts for 1"),
    ],
)
def test_bad_input_is_an_error_before_any_step(pipeline, no_steps, arguments, words):
    with pytest.raises(ValueError, match=words):
        pipeline.image_to_image(**{"prompt": "a cat", "image": PICTURE, **arguments})


def test_a_model_without_an_image_encoder_says_so(no_steps):
    config = replace(TINY, autoencoder=replace(TINY.autoencoder, encoder=False))
    blind = make(config)
    for run in (lambda: blind.image_to_image("a cat", PICTURE), lambda: blind.encode(PICTURE)):
        with pytest.raises(ValueError, match="has no image encoder"):
            run()


def test_a_missing_file_is_an_error(pipeline, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        pipeline.image_to_image("a cat", tmp_path / "nothing.png")


# On the embedded model


CAT, ROCKET = "a cat face on a blue background", "a rocket on a blue background"


@pytest.fixture(scope="module")
def edited(emoji):
    """A cat, and with the prompt of a rocket what becomes of it at 0.3 and at 0.9."""
    (cat,) = emoji.text_to_image(CAT, seed=1)
    return [emoji.image_to_image(ROCKET, cat, s, seed=2, batch_size=2) for s in (0.3, 0.9)]


@pytest.mark.thorough
def test_a_strength_of_0_3_keeps_the_subject_and_0_9_changes_it(emoji, edited):
    drawn = emoji.text_to_image([CAT, ROCKET], seed=9).astype(int)
    kept, changed = (
        ((images.astype(int)[:, None] - drawn) ** 2).sum((2, 3, 4)) for images in edited
    )
    assert (kept[:, 0] < kept[:, 1]).all()
    assert (changed[:, 1] < 0.7 * changed[:, 0]).all()


def test_recognition_says_so_too(edited):
    try:
        source = pictures.Pictures()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    kept, changed = (
        measure.subjects(np.asarray(images), measure.backgrounds(np.asarray(images)), source)
        for images in edited
    )
    assert kept == ["cat face", "cat face"]
    assert changed == ["rocket", "rocket"]
