"""Inpainting: against diffusers, what stays as it is bit for bit, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import reference_models as reference
from keras import ops
from PIL import Image
from test_pipeline import TINY, differ, make

from keras_sd import get_sampler, inpainting, list_samplers, random
from keras_sd.denoiser import Denoiser
from keras_sd.forms import attach_masks, attach_pictures
from keras_sd.inpainting import Blend, Box, canvas_of, extend_canvas
from keras_sd.networks import UNet
from keras_sd.noise import Level, Levels
from keras_sd.start import Masking, Start
from keras_sd.training import measure, pictures

RNG = np.random.default_rng(4)
PICTURE = RNG.integers(0, 256, (32, 24, 3), np.uint8)
OTHER = RNG.integers(0, 256, (32, 24, 3), np.uint8)
MASK = np.zeros((32, 24), np.uint8)
MASK[8:20, 8:] = 255
NINE = replace(TINY, name="nine", unet=replace(TINY.unet, in_channels=9))


def masked_canvas(image, mask, count, height, width, factor, resize=None, **masking):
    masks = Masking(masks=attach_masks(mask), **masking)
    start = Start(pictures=attach_pictures(image), resize=resize, masking=masks)
    return canvas_of(start, count, height, width, factor)


@pytest.fixture(scope="module")
def pipeline():
    return make()


@pytest.fixture(scope="module")
def nine():
    return make(NINE)


def paint(pipeline, **arguments):
    return pipeline.inpaint(**{"prompt": "a cat", "image": PICTURE, "mask": MASK, **arguments})


# Against diffusers. The whole table of runs is in test_image_to_image.py.


@pytest.mark.parametrize(
    ("kind", "scheduler", "strength"),
    [
        *[("blend", scheduler, 0.75) for scheduler in reference.SCHEDULES],
        *[("blend", scheduler, 1.0) for scheduler in ("ddim", "pndm", "euler")],
        ("nine", "ddim", 1.0),
        ("nine", "pndm", 0.75),
        ("nine", "euler-linspace", 0.4),
    ],
)
def test_latents_are_those_of_diffusers(kind, scheduler, strength):
    assert reference.run_difference("sd1", kind, scheduler, strength) < reference.TOLERANCE


def shown(kind, scheduler="pndm", strength=0.75):
    return reference.run_difference("sd1", kind, scheduler, strength) > 2 * reference.TOLERANCE


def test_a_start_with_the_picture_in_it_shows_at_strength_1(monkeypatch):
    def blended(self, denoise):
        return lambda x, level: self.latent(denoise(self.latent(x, level), level), inpainting.CLEAN)

    monkeypatch.setattr(Blend, "denoiser", blended)
    assert shown("blend", strength=1.0)


def test_a_model_that_is_not_shown_what_is_known_shows(monkeypatch):
    monkeypatch.setattr(Blend, "denoiser", lambda self, denoise: denoise)
    assert shown("blend", "euler")


def test_latents_that_are_not_blended_show(monkeypatch):
    monkeypatch.setattr(Blend, "sampler", lambda self, sampler, num_resamples: sampler)
    assert shown("blend", "ddim")  # it ends at a little noise, diffusers' blend at none


@pytest.mark.parametrize("kind", ["blend", "nine"])
def test_another_reduction_of_the_mask_shows(monkeypatch, kind):
    cells = inpainting._cells

    def all_of_it(hard, factor, **_):
        return cells(hard, factor, all_of_it=True)

    monkeypatch.setattr(inpainting, "_cells", all_of_it)
    assert shown(kind)


def test_a_picture_that_is_not_hidden_shows(monkeypatch):
    def bare(*args, **kwargs):
        canvas = canvas_of(*args, **kwargs)
        return replace(canvas, hidden=np.zeros_like(canvas.hidden))

    monkeypatch.setattr(inpainting, "canvas_of", bare)
    assert shown("nine")


# What stays


@pytest.mark.parametrize("model", ["blending", "nine channels"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"mask_blur": 1.5}, {"only_masked": True, "padding": 3}, {"strength": 0.5}],
    ids=str,
)
@pytest.mark.thorough
def test_pixels_outside_of_the_mask_come_back_bit_for_bit(pipeline, nine, model, settings):
    model = pipeline if model == "blending" else nine
    # Every sampler's last level has its own noise; none of it may be left.
    images = paint(model, seed=0, batch_size=2, **settings)
    soft = masked_canvas(PICTURE, MASK, 2, 32, 24, 4, mask_blur=settings.get("mask_blur", 0)).cover
    kept = np.broadcast_to(soft == 0, images.shape[:3])
    assert kept.mean() > 0.3
    assert (images[kept] == np.broadcast_to(PICTURE, images.shape)[kept]).all()
    painted = np.broadcast_to(soft == 1, images.shape[:3])
    assert (images[painted] != np.broadcast_to(PICTURE, images.shape)[painted]).mean() > 0.9
    assert differ(images[0], images[1]) > 10


def test_without_it_they_are_the_autoencoders(pipeline):
    images = paint(pipeline, seed=0, keep_unmasked=False)
    assert (images[0, 24:] != PICTURE[24:]).mean() > 0.9
    inside = MASK == 255
    np.testing.assert_array_equal(images[0][inside], paint(pipeline, seed=0)[0][inside])


@pytest.mark.parametrize("sampler", [found.name for found in list_samplers()])
@pytest.mark.parametrize("num_resamples", [1, 2])
@pytest.mark.thorough
def test_the_end_is_the_clean_latent_around_the_mask(pipeline, sampler, num_resamples):
    steps = list(
        pipeline.stream(
            "a cat",
            image=PICTURE,
            mask=MASK,
            seed=0,
            num_steps=4,
            sampler=sampler,
            num_resamples=num_resamples,
        )
    )
    assert [step.index for step in steps] == [1, 2, 3, 4]
    around = np.ones((8, 6), bool)
    around[2:5, 2:] = False
    known = ops.convert_to_numpy(pipeline.encode(PICTURE))[0]
    end = ops.convert_to_numpy(steps[-1].latent)[0]
    np.testing.assert_allclose(end[around], known[around], atol=1e-6)
    assert np.abs(end - known)[~around].max() > 0.1
    # On the way there it is that latent with the noise of the run's start.
    first = steps[0]
    noise = random.normal(0, 0, 0, (8, 6, 4))
    expected = first.level.alpha * known + first.level.sigma * noise
    np.testing.assert_allclose(
        ops.convert_to_numpy(first.latent)[0][around], expected[around], atol=1e-5
    )


def test_a_preview_is_the_whole_picture(pipeline):
    steps = pipeline.stream("a cat", image=PICTURE, mask=MASK, seed=0, num_steps=2)
    preview = next(steps).preview()
    assert (preview[0][MASK == 0] == PICTURE[MASK == 0]).all()
    *_, last = steps
    np.testing.assert_array_equal(last.image(), paint(pipeline, seed=0, num_steps=2))


# Masks


def test_what_a_mask_is_does_not_matter(pipeline, tmp_path):
    made = paint(pipeline, seed=0)
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    for mask in (
        MASK > 0,
        MASK / 255,
        MASK[..., None],
        [MASK],
        tmp_path / "mask.png",
        Image.fromarray(MASK),
    ):
        np.testing.assert_array_equal(made, paint(pipeline, mask=mask, seed=0))


def test_kerascvs_masks_keep_what_is_1_and_every_cell_with_some_of_it(pipeline):
    keep = MASK == 0
    made = paint(pipeline, seed=0)
    np.testing.assert_array_equal(
        made, paint(pipeline, mask=keep, mask_convention="keras_cv", seed=0)
    )
    # From row 9 to 18: the outer cells are not of the mask alone.
    part = np.zeros((32, 24), bool)
    part[9:19, 8:] = True
    ours = masked_canvas(PICTURE, part, 1, 32, 24, 4).cells
    theirs = masked_canvas(PICTURE, ~part, 1, 32, 24, 4, mask_convention="keras_cv").cells
    assert ours[0, :, 2, 0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert theirs[0, :, 2, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


def test_a_blurred_mask_blends_pixels(pipeline):
    sharp = paint(pipeline, seed=0).astype(float)
    soft = paint(pipeline, seed=0, mask_blur=1).astype(float)
    edge = soft[0, 20, 12:20] - PICTURE[20, 12:20]
    assert (sharp[0, 20] == PICTURE[20]).all()
    assert 0 < np.abs(edge).mean() < np.abs(soft[0, 16, 12:20] - PICTURE[16, 12:20]).mean()


def test_every_picture_may_have_its_own_mask(pipeline):
    left = np.zeros((32, 24), bool)
    left[:, :8] = True
    both = paint(
        pipeline,
        prompt=["a cat", "a rocket"],
        image=[PICTURE, OTHER],
        mask=np.stack([MASK > 0, left]),
        seed=3,
    )
    alone = paint(pipeline, prompt="a rocket", image=OTHER, mask=left, seed=3, first_image=1)
    assert differ(both[1:], alone) <= 1
    assert (both[1][~left] == OTHER[~left]).all()


# Only the masked part


@pytest.mark.parametrize(
    ("rows", "columns", "padding", "size", "box"),
    [
        ((40, 50), (60, 70), 0, (64, 64), Box(40, 60, 10, 10)),
        ((40, 50), (60, 70), 5, (64, 64), Box(35, 55, 20, 20)),
        ((40, 60), (60, 70), 0, (64, 64), Box(40, 55, 20, 20)),  # wider, around the middle
        ((40, 50), (60, 70), 0, (64, 128), Box(40, 55, 10, 20)),
        ((0, 10), (190, 200), 6, (64, 64), Box(0, 184, 16, 16)),  # nothing to take beyond the edge
        ((40, 50), (0, 40), 0, (64, 64), Box(25, 0, 40, 40)),
        ((0, 90), (0, 150), 0, (64, 64), Box(-30, 0, 150, 150)),  # taller than the picture
    ],
)
def test_the_box_around_a_mask(rows, columns, padding, size, box):
    mask = np.zeros((90, 200), np.float32)
    mask[slice(*rows), slice(*columns)] = 1
    assert inpainting._box(mask, padding, *size) == box


def test_a_box_beyond_the_picture_goes_on_with_its_edges():
    cut = Box(-1, 1, 4, 2).cut(np.arange(6).reshape(2, 3))
    assert cut.tolist() == [[1, 2], [1, 2], [4, 5], [4, 5]]


def test_only_masked_runs_at_the_pipelines_size_in_a_picture_of_any(pipeline):
    picture = np.random.default_rng(0).integers(0, 256, (45, 203, 3), np.uint8)
    mask = np.zeros((45, 203), bool)
    mask[10:35, 50:61] = True
    arguments = {"image": picture, "mask": mask, "seed": 0, "only_masked": True, "padding": 4}
    steps = list(pipeline.stream("a cat", num_steps=2, **arguments))
    assert tuple(steps[0].latent.shape) == (1, 8, 6, 4)
    image = steps[-1].image()[0]
    assert image.shape == picture.shape
    assert (image[~mask] == picture[~mask]).all()
    assert (image[mask] != picture[mask]).mean() > 0.9
    # Without the pixels' own: those of the box, and still none beyond.
    box = paint(pipeline, **arguments, num_steps=2, keep_unmasked=False)[0]
    inside = np.zeros_like(mask)
    inside[6:39, 43:68] = True
    assert (box[~inside] == picture[~inside]).all()
    assert (box[6, 50:60] != picture[6, 50:60]).any()


def test_what_is_pasted_is_in_its_place():
    """A run that changes nothing gives a smooth picture back, through a box of twice its size."""
    y, x = np.mgrid[:48, :80]
    picture = np.stack([3 * x, 5 * y, 128 + 0 * x], axis=-1).astype(np.uint8)
    mask = np.zeros((48, 80), np.uint8)
    mask[:, 32:48] = 255
    canvas = masked_canvas(picture, mask, 1, 96, 96, 4, only_masked=True, padding=0)
    assert canvas.boxes == (Box(0, 16, 48, 48),)
    back = canvas.paste(canvas.pixels)[0]
    assert np.abs(back.astype(int) - picture).max() <= 2
    assert (back[mask == 0] == picture[mask == 0]).all()


# Beyond the picture


def test_extend_canvas_adds_edges_and_their_mask():
    image, mask = extend_canvas(PICTURE, left=8, bottom=16)
    assert image.shape == (48, 32, 3)
    assert (image[:32, 8:] == PICTURE).all()
    assert (image[:32, :8] == PICTURE[:, :1]).all()
    assert mask.dtype == np.uint8
    assert (mask == 0)[:32, 8:].all()
    assert mask.sum() == 255 * (48 * 32 - 32 * 24)


def test_outpainting_keeps_the_picture(pipeline):
    image, mask = extend_canvas(Image.fromarray(PICTURE), right=24)
    made = paint(pipeline, image=image, mask=mask, seed=0)
    assert made.shape == (1, 32, 48, 3)
    assert (made[0, :, :24] == PICTURE).all()
    assert differ(made[0, :, 24:], image[:, 24:]) > 10


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ({}, "Nothing to add"),
        ({"left": 0}, "Nothing to add"),
        ({"top": -8}, "top is a whole number from 0 to 16384, not -8"),
        ({"right": 2.5}, "right is a whole number"),
    ],
)
def test_what_cannot_be_added(sides, words):
    with pytest.raises(ValueError, match=words):
        extend_canvas(PICTURE, **sides)


# Resampling


def test_resampling_fits_the_inside_to_the_outside():
    """Two cells of unit variance and correlation 0.9, of which one is known to be 2: the other is
    1.8 on average, and a model that only blends is far from it.
    """
    covariance = np.array([[1, 0.9], [0.9, 1]])

    def denoise(x, level):
        noisy = level.alpha**2 * covariance + level.sigma**2 * np.eye(2)
        return level.alpha * x @ np.linalg.inv(noisy) @ covariance

    angles = np.linspace(np.pi / 2 * 0.98, 0.05, 25)
    levels = Levels([Level(a, math.cos(a), math.sin(a)) for a in angles] + [Level(0, 1, 0)])
    rng = np.random.default_rng(0)
    start = rng.standard_normal((4000, 2))
    found = []
    for num_resamples in (1, 10):
        blend = Blend(np.array([1.0, 0.0]), np.array([0.0, 2.0]), start, levels[0])
        walk = blend.sampler(get_sampler("ddim", eta=1.0), num_resamples)
        *_, x = walk(
            blend.denoiser(denoise), start, levels, lambda *_: rng.standard_normal(start.shape)
        )
        assert (x[:, 1] == 2).all()
        found.append(x[:, 0].mean())
    assert found[0] < 1.6
    assert found[1] == pytest.approx(1.8, abs=0.08)


def test_resampling_takes_each_step_but_the_last_again(pipeline):
    steps = list(
        pipeline.stream(
            "a cat", image=PICTURE, mask=MASK, seed=0, num_steps=4, num_resamples=3, sampler="ddim"
        )
    )
    assert [step.evaluations for step in steps] == [3, 6, 9, 10]


def test_going_back_gives_the_noise_of_the_level():
    rng = np.random.default_rng(0)
    clean, now, before = 3.0, Level(1, 0.8, 0.6), Level(2, 0.3, math.sqrt(1 - 0.09))
    x = now.alpha * clean + now.sigma * rng.standard_normal(100_000)
    back = inpainting._back(x, now, before, rng.standard_normal(100_000))
    assert back.mean() == pytest.approx(before.alpha * clean, abs=0.02)
    assert back.std() == pytest.approx(before.sigma, abs=0.02)


# Inpainting models


def test_an_inpainting_model_is_shown_the_mask_and_the_rest_of_the_picture(nine, monkeypatch):
    class Seen(Exception):
        pass

    def spy(self, steps, told, untold, guidance, *more):
        assert (ops.convert_to_numpy(told["painted"] - untold["painted"]) == 0).all()
        raise Seen(ops.convert_to_numpy(told["painted"]))

    monkeypatch.setattr(Denoiser, "__init__", spy)
    with pytest.raises(Seen) as caught:
        paint(nine, seed=0, batch_size=2)
    cells, masked = np.split(caught.value.args[0], [1], axis=-1)
    expected = np.zeros((2, 8, 6, 1))
    expected[:, 2:5, 2:] = 1
    np.testing.assert_array_equal(cells, expected)
    hidden = np.where(MASK[..., None], 0, PICTURE / np.float32(127.5) - 1).astype("float32")
    (latent,) = ops.convert_to_numpy(nine.model.latents(hidden[None]))
    np.testing.assert_allclose(masked, np.stack([latent] * 2), atol=1e-6)


def test_an_inpainting_model_does_nothing_else(nine):
    for run in (
        lambda: nine.text_to_image("a cat"),
        lambda: nine.image_to_image("a cat", PICTURE),
        lambda: nine.stream("a cat"),
    ):
        with pytest.raises(ValueError, match="nine is an inpainting model: it needs an image and"):
            run()
    with pytest.raises(ValueError, match="shown the image itself"):
        paint(nine, num_resamples=2)


# Bad input


@pytest.fixture
def no_steps(monkeypatch):
    def never(*_):
        raise AssertionError("a network was run")

    monkeypatch.setattr(UNet, "call", never)


TINY_MASK = np.zeros((32, 24), np.uint8)
TINY_MASK[9:11, 9:11] = 255


SQUARE = np.zeros((32, 24), np.uint8)
SQUARE[8:16, 8:16] = 255


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mask": MASK[:31]}, "mask is 24x31, the picture 24x32"),
        ({"mask": np.zeros((32, 24), bool)}, "mask is empty"),
        ({"mask": MASK // 3}, "mask is empty"),
        ({"mask": np.ones((32, 24), bool), "mask_convention": "keras_cv"}, "1 keeps a pixel"),
        ({"mask": TINY_MASK}, "too small: it has none of the 4x4 pixels"),
        ({"mask": np.full((32, 24), np.nan)}, "from nan"),
        ({"mask": np.full((32, 24), 3.5)}, "3.5"),
        ({"mask": np.zeros((32, 24, 3), np.uint8)}, "32 masks for 1 picture"),
        ({"mask": SQUARE, "mask_blur": 8}, "mask_blur of 8 leaves nothing"),
        ({"mask": TINY_MASK, "only_masked": True, "padding": 200}, "less padding"),
        ({"mask": [MASK] * 3}, "3 masks for 1 picture"),
        ({"mask": []}, "no mask in an empty list"),
        ({"mask": None}, "give a mask"),
        ({"image": None}, "of an image: give one"),
        ({"image": PICTURE[:31], "mask": MASK[:31]}, "resize='stretch'"),
        ({"strength": 0}, "above 0"),
        ({"strength": 1.5}, "at most 1"),
        ({"strength": float("nan")}, "not nan"),
        ({"num_resamples": 0}, "num_resamples is a whole number from 1 to 1000"),
        ({"num_resamples": 1.5}, "num_resamples"),
        ({"mask_convention": "black"}, "mask_convention is one of 'white_repaints', 'keras_cv'"),
        ({"mask_blur": -1}, "mask_blur"),
        ({"mask_blur": float("nan")}, "mask_blur"),
        ({"padding": -1, "only_masked": True}, "padding"),
        ({"padding": 1.5}, "padding"),
        ({"resize": "fit"}, "resize is one of"),
        ({"resize": "crop", "only_masked": True}, "no resize"),
        ({"seed": 1, "diffusion_noise": np.zeros((8, 6, 4))}, "not both"),
        ({"diffusion_noise": np.zeros((1, 6, 8, 4))}, r"\(8, 6, 4\)"),
        ({"num_steps": 1001}, "from 1 to 1000"),
    ],
)
def test_bad_input_is_an_error_before_any_step(pipeline, no_steps, arguments, words):
    with pytest.raises(ValueError, match=words):
        paint(pipeline, **arguments)


def test_settings_of_a_mask_without_one_are_an_error(pipeline):
    with pytest.raises(ValueError, match="give a mask"):
        pipeline.stream("a cat", image=PICTURE, only_masked=True)
    with pytest.raises(TypeError, match="mask_blurr"):
        pipeline.stream("a cat", image=PICTURE, mask=MASK, mask_blurr=1)
    with pytest.raises(TypeError, match="no setting 'seeds'"):
        pipeline.stream("a cat", seeds=1)


@pytest.mark.parametrize("num_resamples", [1, 2])
def test_an_interval_walked_again_has_other_noise_even_on_a_path(pipeline, num_resamples):
    drawn = {}

    class Asks:
        brownian = stochastic = True

        def __call__(self, denoise, x, levels, noise):
            for now, nxt in pairwise(levels):
                denoise(x, now)
                asked = [ops.convert_to_numpy(noise(now, nxt)) for _ in range(2)]
                drawn.setdefault((now, nxt), []).extend(asked)
                yield x

    paint(pipeline, seed=0, num_steps=3, num_resamples=num_resamples, sampler=Asks())
    first, *_ = drawn.values()
    assert len(first) == 2 * num_resamples
    # Of one path an interval has one noise; of a run that goes back, each time its own.
    same = [np.array_equal(a, b) for a, b in combinations(first, 2)]
    assert all(same) if num_resamples == 1 else not any(same)


def test_given_noise_is_not_drawn_again(pipeline):
    """What is drawn after noise that was given is not that of seed 0's first draw."""
    noise = random.normal(0, 0, 0, (8, 6, 4))
    drawn = []

    def asks(denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            denoise(x, now)
            drawn.append(ops.convert_to_numpy(noise(now, nxt))[0])
            yield x

    pipeline.text_to_image("a cat", diffusion_noise=noise, num_steps=2, sampler=asks)
    assert not any(np.array_equal(each, noise) for each in drawn)
    np.testing.assert_array_equal(drawn[0], random.normal(0, 0, 1, (8, 6, 4)))


def test_what_is_drawn_later_can_be_had_again_with_noise_of_ones_own(pipeline):
    noise = np.random.default_rng(0).standard_normal((8, 6, 4))
    twice = [paint(pipeline, diffusion_noise=noise, num_resamples=2, num_steps=2) for _ in range(2)]
    assert (twice[0] == twice[1]).all()


@pytest.mark.parametrize(
    ("resize", "rows", "columns"),
    [("stretch", (8, 24), (11, 21)), ("crop", (8, 24), (8, 24)), ("pad", (10, 21), (11, 21))],
)
def test_a_mask_is_resized_as_its_picture(resize, rows, columns):
    picture, mask = np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48), np.uint8)
    mask[8:24, 16:32] = 255
    canvas = masked_canvas(picture, mask, 1, 32, 32, 4, resize=resize)
    white = np.argwhere(canvas.cover[0] >= 0.5)
    assert (white.min(0) == [rows[0], columns[0]]).all()
    assert (white.max(0) + 1 == [rows[1], columns[1]]).all()


# On the embedded model


BLUE = np.broadcast_to(np.array(pictures.COLOURS["blue"], np.uint8), (128, 128, 3))
PADDING = 4
QUARTER = np.zeros((128, 128), bool)
QUARTER[:64, 64:] = True


@pytest.fixture(scope="module")
def strawberries(emoji):
    return emoji.inpaint(
        "a strawberry on a blue background",
        BLUE,
        QUARTER,
        seed=0,
        batch_size=2,
        only_masked=True,
        padding=PADDING,
    )


def test_the_model_sees_what_is_around_the_quarter():
    canvas = masked_canvas(BLUE, QUARTER, 1, 64, 64, 4, only_masked=True, padding=PADDING)
    assert not canvas.cells.all()


def test_a_strawberry_is_in_the_quarter_and_nowhere_else(emoji, strawberries):
    assert (strawberries[:, ~QUARTER] == BLUE[~QUARTER]).all()
    asked = [f"a {name} on a blue background" for name in ("strawberry", "rocket")]
    drawn = emoji.text_to_image(asked, seed=9).astype(int)
    quarter = np.asarray(strawberries)[:, :64, 64:].astype(int)
    far = ((quarter[:, None] - drawn) ** 2).sum((2, 3, 4))
    assert (far[:, 0] < 0.6 * far[:, 1]).all()


def test_recognition_says_so_too(strawberries):
    try:
        source = pictures.Pictures()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    quarter = np.asarray(strawberries)[:, :64, 64:]
    assert measure.subjects(quarter, ["blue", "blue"], source) == ["strawberry", "strawberry"]
