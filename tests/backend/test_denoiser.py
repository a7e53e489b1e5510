"""Guidance by itself, on a network that says what it is told."""

from __future__ import annotations

import numpy as np
import pytest
from keras import layers, ops

from keras_sd.conditions import Conditions
from keras_sd.denoiser import Denoiser, Turns, compiled_steps
from keras_sd.guidance import Guidance
from keras_sd.noise import Level, Levels

LEVEL = Level(500.0, 0.6, 0.8)


class Network(layers.Layer):
    """A prediction that differs with the context, in mean and spread."""

    def call(self, latent, timesteps, context):
        weight = ops.mean(context, axis=(1, 2))[:, None, None, None]
        return latent * weight + ops.square(latent) * (weight - 1) + weight


def arrays():
    generator = np.random.Generator(np.random.PCG64(3))
    x = generator.standard_normal((2, 4, 6, 3)).astype(np.float32)
    context = np.full((2, 5, 7), 1.5, np.float32)
    return x, context, np.zeros_like(context)


def denoised(guidance, prediction="epsilon"):
    x, context, unconditional = (ops.convert_to_tensor(a) for a in arrays())
    denoise = denoiser(context, unconditional, guidance, prediction)
    return ops.convert_to_numpy(denoise(x, LEVEL))


def denoiser(context, unconditional, guidance, prediction="epsilon"):
    steps = compiled_steps(Network(), prediction)
    told, untold = (Conditions({"context": each}) for each in (context, unconditional))
    return Denoiser(steps, told, untold, guidance)


def test_the_clean_latent_may_be_what_is_predicted():
    x = arrays()[0].astype(np.float64)
    conditional, unconditional = (x * w + x**2 * (w - 1) + w for w in (1.5, 0.0))
    wanted = unconditional + 7.5 * (conditional - unconditional)
    found = denoised(Guidance(7.5), "x0")
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def expected(scale, rescale=0.0):
    """x0 as the papers write it, in float64."""
    x = arrays()[0].astype(np.float64)
    conditional, unconditional = (x * w + x**2 * (w - 1) + w for w in (1.5, 0.0))
    guided = unconditional + scale * (conditional - unconditional)
    spreads = [part.std(axis=(1, 2, 3), keepdims=True) for part in (conditional, guided)]
    brought_back = guided * spreads[0] / spreads[1]
    prediction = rescale * brought_back + (1 - rescale) * guided
    return (x - LEVEL.sigma * prediction) / LEVEL.alpha


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance_is_that_of_the_papers(scale, rescale):
    # Without guidance there is nothing to bring back.
    reference = expected(scale, 0.0 if scale == 1 else rescale)
    np.testing.assert_allclose(denoised(Guidance(scale, rescale)), reference, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_parts_are_both_predictions_and_the_guided_one(scale):
    x, context, unconditional = (ops.convert_to_tensor(a) for a in arrays())
    parts = denoiser(context, unconditional, Guidance(scale)).parts(x, LEVEL)
    for part, alone in zip(parts, map(expected, (1.0, 0.0, scale)), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(part), alone, rtol=2e-5, atol=2e-5)


WEIGHTS = np.array([[1.0, 0.5], [0.25, 0.0], [-2.0, 1.5]], np.float32)  # of parts and images
SAID = np.array([[1.5, 1.2], [0.5, 3.0], [1.1, 0.8]], np.float32)


def composed(guidance):
    """A denoiser of two images with three parts each."""
    told = np.broadcast_to(SAID.reshape(-1, 1, 1), (6, 5, 7))
    untold = np.zeros((2, 5, 7), np.float32)
    told, untold = (Conditions({"context": ops.convert_to_tensor(e)}) for e in (told, untold))
    return Denoiser(compiled_steps(Network(), "epsilon"), told, untold, guidance, WEIGHTS)


@pytest.mark.parametrize(
    "guidance",
    [Guidance(7.5), Guidance(1.0), Guidance(7.5, 0.7), Guidance(7.5, interval=(0.0, 1.3))],
)
def test_parts_of_prompts_are_added_by_weight(guidance):
    """As in Composable Diffusion (Liu et al. 2022), image by image, in float64."""
    x = arrays()[0].astype(np.float64)
    denoise = composed(guidance)
    given = ops.convert_to_tensor(arrays()[0])
    found = ops.convert_to_numpy(denoise(given, LEVEL))
    halves = [ops.convert_to_numpy(each) for each in denoise.parts(given, LEVEL)]
    for image, latent in enumerate(x):
        unconditional, *parts = (
            latent * w + latent**2 * (w - 1) + w for w in (0.0, *SAID[:, image].astype(float))
        )
        pairs = zip(WEIGHTS[:, image], parts, strict=True)
        whole = unconditional + sum(w * (part - unconditional) for w, part in pairs)
        scale = guidance.scale if guidance.guides(LEVEL) else 1.0
        guided = plain = unconditional + scale * (whole - unconditional)
        if scale != 1:
            back = guided * whole.std() / guided.std()
            guided = guidance.rescale * back + (1 - guidance.rescale) * guided
        untold = unconditional if guidance.includes(LEVEL) else whole
        for one, prediction in (
            (found, guided),
            (halves[0], whole),
            (halves[1], untold),
            (halves[2], plain),
        ):
            expected_x0 = (latent - LEVEL.sigma * prediction) / LEVEL.alpha
            np.testing.assert_allclose(one[image], expected_x0, rtol=2e-5, atol=5e-5)


class Said:
    """A denoiser that gives its name."""

    def __init__(self, name):
        self.name = name

    def __call__(self, x, level):
        return self.name

    def parts(self, x, level):
        return self.name, None


def test_turns_go_by_the_level():
    levels = Levels([Level(900.0, 0.0, 1.0), *(Level(t, 1.0, t) for t in (6.0, 4.0, 2.0, 1.0))])
    turns = Turns(levels, [(1, Said("a")), (3, Said("b")), (4, Said("c"))])

    def named(level):
        assert turns.parts(None, level) == (turns(None, level), None)
        return turns(None, level)

    assert [named(level) for level in levels] == ["a", "b", "b", "c", "c"]
    between = {8.0: "a", 6.1: "a", 5.0: "b", 2.5: "b", 1.5: "c", 0.5: "c"}
    assert {t: named(Level(t, 1.0, t)) for t in between} == between
    # Where the model is told the time of a level, the text is that of the level, too.
    assert named(Level(6.0, 1.0, 4.0)) == "b"
    assert named(Level(2.0, 1.0, 1.0)) == "c"
    # Below the first training timestep several levels have the time 0.
    same = Levels([Level(t, 1.0, noise) for t, noise in ((5.0, 3), (0.0, 2), (0.0, 1), (0.0, 0))])
    turns = Turns(same, [(1, Said("a")), (2, Said("b")), (3, Said("c"))])
    assert [named(level) for level in same] == ["a", "b", "c", "c"]


@pytest.mark.parametrize(
    ("interval", "guides"),
    [((0.0, 1.3), False), ((0.0, 1.4), True), ((1.4, 9.0), False), (None, True)],
)
def test_levels_outside_of_the_interval_are_not_guided(interval, guides):
    guidance = Guidance(7.5, interval=interval)
    assert guidance.guides(LEVEL) == guides  # sigma / alpha is 4 / 3
    reference = expected(7.5 if guides else 1.0)
    np.testing.assert_allclose(denoised(guidance), reference, rtol=2e-5, atol=2e-5)


def test_pure_noise_is_above_every_interval():
    noise = Level(999.0, 0.0, 1.0)
    assert not Guidance(7.5, interval=(0.2, 1e9)).guides(noise)
    assert Guidance(7.5, interval=(0.2, float("inf"))).guides(noise)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((float("inf"),), "guidance_scale is a finite number .*not inf"),
        ((7.5, -0.1), "guidance_rescale is from 0 to 1, not -0.1"),
        ((7.5, float("nan")), "guidance_rescale is from 0 to 1, not nan"),
        ((7.5, 0.0, (2.0, 1.0)), r"guidance_interval .*not \(2.0, 1.0\)"),
        ((7.5, 0.0, (-1.0, 1.0)), "guidance_interval"),
        ((7.5, 0.0, (1.0, 2.0, 3.0)), "guidance_interval"),
        ((7.5, 0.0, 5.0), "guidance_interval .*not 5.0"),
        ((7.5, 0.0, ("a", "b")), "guidance_interval"),
        ((7.5, None), "guidance_rescale is from 0 to 1, not None"),
        (("7",), "guidance_scale is a finite number .*not '7'"),
    ],
)
def test_what_guidance_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Guidance(*arguments)
