"""The way back up: on the toy model exactly, on the embedded model to the same picture."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keras_sd.inversion import invert
from keras_sd.noise import NoiseTable, transfer
from keras_sd.registry import get_sampler
from keras_sd.schedules import leading

TABLE = NoiseTable.scaled_linear()
X = np.random.default_rng(0).standard_normal((2, 3, 4))


def toy(x, level):
    return np.tanh(x / (1 + level.t / 300)) * 0.7 + 0.1 * np.sin(x + level.t / 200)


def down(x, levels):
    *_, x = get_sampler("ddim")(toy, x, levels, None)
    return x


def off(num_steps, num_refinements):
    levels = leading(TABLE, num_steps, final_sigma="first")
    return np.abs(down(invert(toy, X, levels, num_refinements), levels) - X).max()


def test_more_steps_come_back_nearer():
    few, more = off(50, 0), off(200, 0)
    assert 1e-4 < more < few / 2 < 0.1


def test_refinements_make_it_exact():
    errors = [off(200, n) for n in (0, 2, 30)]
    assert errors[1] < errors[0] / 5
    assert errors[2] < 1e-11


def test_a_step_up_asks_at_the_noisier_timestep():
    asked = []

    def denoise(x, level):
        asked.append((level.t, level.sigma))
        return toy(x, level)

    levels = leading(TABLE, 2, final_sigma="first")
    out = invert(denoise, X, levels)
    noisy, middle, clean = levels
    assert asked == [(middle.t, clean.sigma), (noisy.t, middle.sigma)]
    first = transfer(X, toy(X, middle), clean, middle)
    np.testing.assert_array_equal(out, transfer(first, toy(first, noisy), middle, noisy))


@pytest.mark.references
def test_it_is_that_of_diffusers():
    import torch
    from diffusers import DDIMInverseScheduler

    scheduler = DDIMInverseScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip
    scheduler.set_timesteps(20)
    abar = TABLE.alphas_cumprod
    scheduler.alphas_cumprod = torch.tensor(abar, dtype=torch.float64)
    scheduler.initial_alpha_cumprod = scheduler.alphas_cumprod[0]
    levels = leading(TABLE, 20, final_sigma="first")
    x = torch.tensor(X)
    for clean, noisy, t in zip(levels[:0:-1], levels[-2::-1], scheduler.timesteps, strict=True):
        x0 = toy(x.numpy(), noisy)
        eps = (x - clean.alpha * torch.tensor(x0)) / clean.sigma
        x = scheduler.step(eps, int(t), x).prev_sample
    found = invert(toy, X, levels)
    assert np.abs(found - x.numpy()).max() < 1e-10 * np.abs(found).max()


def test_levels_without_a_way_back_are_refused():
    with pytest.raises(ValueError, match="starts at a level with noise"):
        invert(toy, X, leading(TABLE, 4))
    levels = leading(TABLE, 4, final_sigma="first")
    for wrong in (-1, 1.5, True):
        with pytest.raises(ValueError, match=f"num_refinements is a number from 0 up, not {wrong}"):
            invert(toy, X, levels, wrong)
    pure = type(levels)([type(levels[0])(999.0, 0.0, 1.0), *levels])
    with pytest.raises(ValueError, match="pure noise"):
        invert(toy, X, pure)


@pytest.mark.thorough
def test_a_picture_comes_back_from_its_noise(emoji):
    prompt = "a cat face on a blue background"
    run = {"num_steps": 10, "unconditional_guidance_scale": 1.0}
    (picture,) = emoji.text_to_image(prompt, seed=4, **run)
    noise = emoji.invert(prompt, picture, **run, num_refinements=3)
    assert noise.shape == (1, *emoji.encode(picture).shape[1:])
    assert 0.7 < noise.std() < 1.3
    seen = np.asarray(emoji.decode(emoji.encode(picture)), np.float64)
    back = emoji.text_to_image(prompt, diffusion_noise=noise, sampler="ddim", **run)
    other = emoji.text_to_image(prompt, seed=5, sampler="ddim", **run)
    off = [math.sqrt(np.mean((np.asarray(each, np.float64) - seen) ** 2)) for each in (back, other)]
    assert off[0] < 8 < off[1] / 4


def test_what_cannot_be_inverted_is_refused(emoji):
    with pytest.raises(ValueError, match="of an image: give one"):
        emoji.invert("a cat", None)
    with pytest.raises(ValueError, match="num_refinements"):
        emoji.invert("a cat", np.zeros((64, 64, 3), np.uint8), num_refinements=-1)
    with pytest.raises(ValueError, match="scale is a finite number"):
        emoji.invert("a cat", np.zeros((64, 64, 3), np.uint8), unconditional_guidance_scale=np.nan)
