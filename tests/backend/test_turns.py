"""Prompts that change over the steps, and prompts of several parts.

What a run draws of them is compared with a run by hand, which chooses the texts step by step and
adds the predictions up as the formula says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import layers, ops, tree
from test_pipeline import TINY, make

from keras_sd import get_sampler, sampling
from keras_sd.backend import compile_step, to_numpy
from keras_sd.denoiser import predict
from keras_sd.forms import request_of
from keras_sd.inversion import invert
from keras_sd.noise import Levels
from keras_sd.prompts import PromptError
from keras_sd.run import Beginning, levels_of

pytestmark = pytest.mark.usefixtures("without_tracing")

RNG = np.random.default_rng(7)
PICTURE = RNG.integers(0, 256, (32, 24, 3), np.uint8)
MASK = np.zeros((32, 24), np.uint8)
MASK[8:20, 8:] = 255
NOISE = RNG.normal(size=(3, 8, 6, 4)).astype(np.float32)
STEPS = 5
RUN = {"num_steps": STEPS, "seed": 3, "unconditional_guidance_scale": 3.0, "sampler": "ddim"}
NINE = replace(TINY, name="nine", unet=replace(TINY.unet, in_channels=9))


class Attending(keras.Model):
    """A UNet in two layers, which any backend compiles at once: each place looks at the text."""

    def __init__(self, channels):
        super().__init__()
        self.keys, self.values = layers.Dense(channels), layers.Dense(4)

    def call(self, latent, timesteps, context):
        scores = ops.einsum("bhwc,btc->bhwt", latent, self.keys(context))
        seen = ops.einsum("bhwt,btc->bhwc", ops.softmax(scores), self.values(context))
        time = ops.cast(timesteps, "float32")[:, None, None, None] / 1000
        return seen + ops.tanh(latent[..., :4]) * time


def attending(config=TINY):
    made = make(config)
    unet = Attending(config.unet.in_channels)
    latent = np.zeros((1, 8, 6, config.unet.in_channels), np.float32)
    unet(latent, np.zeros(1, np.float32), np.zeros((1, 2, 16), np.float32))
    made.model.parts["unet"] = unet
    return made


@pytest.fixture(scope="module")
def pipeline():
    return attending()


@pytest.fixture(scope="module")
def nine():
    return attending(NINE)


def drawn(pipeline, *args, **settings):
    """The latents of a run, after each step."""
    settings = {**RUN, **settings}
    if "diffusion_noise" in settings:
        del settings["seed"]
    return [to_numpy(step.latent) for step in pipeline.stream(*args, **settings)]


@cache
def compiled(pipeline):
    return compile_step(partial(predict, pipeline.unet), [pipeline.unet])


class ByHand:
    """A run whose texts are given step by step.

    Args:
        pipeline: of the model.
        said: from a step, counted from 1, to the prompt, or to texts and weights of its parts.
        unsaid: from a step to the negative prompt.
        style: of all texts.
        settings: of the run.
    """

    def __init__(self, pipeline, said, unsaid=lambda step: "", style="keras_sd", **settings):
        self.said, self.unsaid = said, unsaid
        self.predict = compiled(pipeline)
        self.encode = cache(lambda *texts: pipeline.encode_text(list(texts), style))
        self.request = request_of("", **{**RUN, **settings}).resolved(pipeline.model.defaults)
        self.begin = Beginning(pipeline.model, self.request)
        size = self.begin.height, self.begin.width
        self.levels = levels_of(pipeline.model, self.request, size)
        self.x, self.shown, self.blend = self.begin.placed(self.levels[0])

    def predicted(self, x, level, texts):
        """What the UNet gives for each text, of one batch, as a run asks."""
        count, images = len(texts), x.shape[0]
        told = {name: ops.concatenate([array] * count) for name, array in self.shown.items()}
        context = ops.repeat(self.encode(*texts), images, axis=0)
        t = ops.convert_to_tensor(np.float32(level.t))
        batch = ops.concatenate([x] * count)
        found = self.predict(batch, t, {"context": context, **told})
        return ops.split(found, count)

    def step(self, level):
        return max(i for i, each in enumerate(self.levels[:-1], 1) if each.ratio >= level.ratio)

    def denoise(self, x, level):
        step, request = self.step(level), self.request
        said = self.said(step)
        texts, weights = ([said], [1.0]) if isinstance(said, str) else zip(*said, strict=True)
        unconditional, *parts = self.predicted(x, level, [self.unsaid(step), *texts])
        change = sum(w * (each - unconditional) for w, each in zip(weights, parts, strict=True))
        low, high = request.guidance_interval or (0, np.inf)
        scale = request.guidance_scale if low <= level.ratio <= high else 1.0
        guided = unconditional + scale * change
        if request.guidance_rescale and scale != 1:
            pair = unconditional + change, guided
            meant, spread = (ops.std(each, axis=(1, 2, 3), keepdims=True) for each in pair)
            phi = request.guidance_rescale
            guided = phi * guided * meant / spread + (1 - phi) * guided
        return level.alpha * x - level.sigma * guided

    def latents(self):
        sampler = get_sampler(self.request.sampler)
        noise = self.begin.noise_for(sampler)
        walk = self.begin.blended(sampler, self.denoise, self.blend)
        steps = sampling.sample(*walk, self.x, self.levels, noise)
        return [to_numpy(step.latent) for step in steps]


def near(found, expected, relative=2e-6):
    """Within so much of the largest number after one step, and as much more with each other one:
    sums of a batch are rounded in another order.
    """
    assert len(found) == len(expected)
    for step, (one, other) in enumerate(zip(found, expected, strict=True), 1):
        atol = step * relative * np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def far(found, other):
    assert np.abs(found[-1] - other[-1]).max() > 1e-3 * np.abs(other[-1]).max()


def edited(step, last=2):
    return "a cat on a blue" if step <= last else "a rocket on a blue"


def turned(step):
    return "a rocket" if step % 2 else "a cat"


EDIT = "a [cat:rocket:2] on a blue"
PARTS = [("a cat", 1.0), ("a rocket", 0.5), ("blue", -0.75)]
AND = "a cat AND a rocket :0.5 AND blue: -0.75"


# --- over the steps ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    ["ddim", "heun", "dpm2", "dpmpp_2m", "pndm", "restart", "euler_ancestral", "dpmpp_sde"],
)
def test_an_edit_is_another_text_from_its_step_on(pipeline, sampler):
    """Whatever a sampler asks within a step and how often."""
    found = drawn(pipeline, EDIT, prompt_style="keras_sd", sampler=sampler)
    near(found, ByHand(pipeline, edited, sampler=sampler).latents())


def test_a_unet_is_told_both():
    made = make()
    text = f"{EDIT} AND blue :0.5"
    found = drawn(made, text, "a [rocket|cat]", prompt_style="keras_sd")
    expected = ByHand(made, lambda step: [(edited(step), 1.0), ("blue", 0.5)], turned).latents()
    near(found, expected)


def test_the_step_of_an_edit_counts(pipeline):
    found, later, never = (
        drawn(pipeline, f"a [cat:rocket:{step}] on a blue", prompt_style="keras_sd")
        for step in (2, 3, 5)
    )
    near(found[:2], later[:2])
    far(found, later)
    far(later, never)
    near(never, drawn(pipeline, "a cat on a blue"))
    # The web UI comes a step late.
    near(drawn(pipeline, EDIT, prompt_style="a1111"), later)


def test_an_alternation_has_another_text_each_step(pipeline):
    found = drawn(pipeline, "a [rocket|cat]", prompt_style="keras_sd")
    near(found, ByHand(pipeline, turned).latents())
    far(found, drawn(pipeline, "a [cat|rocket]", prompt_style="keras_sd"))


def test_a_negative_prompt_changes_too(pipeline):
    found = drawn(pipeline, "blue", "a [rocket|cat]", prompt_style="a1111")

    def late(step):
        return turned(max(1, step - 1))

    near(found, ByHand(pipeline, lambda step: "blue", late).latents())
    both = drawn(pipeline, EDIT, "a [rocket|cat]", prompt_style="keras_sd")
    near(both, ByHand(pipeline, edited, turned).latents())


@pytest.mark.parametrize(
    ("strength", "mode", "run"), [(0.6, "run", 5), (0.6, "schedule", 3), (1.0, "run", 5)]
)
def test_steps_are_those_that_a_run_from_a_picture_takes(pipeline, strength, mode, run):
    begin = {"image": PICTURE, "strength": strength, "steps_mode": mode}
    for when in ("2", "0.5"):
        text = f"a [cat:rocket:{when}] on a blue"
        found = drawn(pipeline, text, prompt_style="keras_sd", **begin)
        last = 2 if when == "2" else run // 2
        assert len(found) == run
        near(found, ByHand(pipeline, lambda step, last=last: edited(step, last), **begin).latents())


@pytest.mark.parametrize("num_resamples", [1, 2])
def test_a_masked_picture(pipeline, num_resamples):
    begin = {"image": PICTURE, "mask": MASK, "num_resamples": num_resamples}
    for text, said in ((EDIT, edited), (AND, lambda step: PARTS)):
        found = drawn(pipeline, text, prompt_style="keras_sd", **begin)
        near(found, ByHand(pipeline, said, **begin).latents())


def test_a_model_that_is_shown_the_mask(nine):
    begin = {"image": [PICTURE, PICTURE[::-1]], "mask": MASK, "batch_size": 2}
    for text, said in ((EDIT, edited), (AND, lambda step: PARTS)):
        found = drawn(nine, text, prompt_style="keras_sd", **begin)
        near(found, ByHand(nine, said, **begin).latents())


def test_an_inversion_has_the_texts_of_the_steps_that_it_goes_back(pipeline):
    """On the way up a step is first asked for at its other end, and belongs to the same text."""
    run = {"num_steps": 4, "sampler": "ddim", "unconditional_guidance_scale": 2.0}
    for num_refinements in (0, 1):
        given = {**run, "prompt_style": "keras_sd", "num_refinements": num_refinements}
        found = pipeline.invert(EDIT, PICTURE, schedule="leading", **given)
        hand = ByHand(pipeline, edited, image=PICTURE, strength=1.0, schedule="leading", **run)
        ends = [pipeline.model.path.level(0)]
        hand.levels = levels = Levels([*hand.levels[:-1], *ends], path=hand.levels.path)
        steps = {level.t: step for step, level in enumerate(levels[:-1], 1)}
        hand.step = lambda level, steps=steps: steps[level.t]
        expected = invert(hand.denoise, pipeline.encode(PICTURE), levels, num_refinements)
        near([found], [to_numpy(expected)], 1e-5)


def test_nothing_is_compiled_anew_where_the_text_changes(pipeline, monkeypatch):
    """Each call has arguments of the same names and shapes, though the texts have one chunk, two
    and three.
    """
    shapes = []

    def watched(name, step):
        def call(*given):
            shapes.append((name, tree.map_structure(lambda each: tuple(each.shape), list(given))))
            return step(*given)

        return call

    steps = {name: watched(name, step) for name, step in pipeline.model.steps().items()}
    monkeypatch.setattr(pipeline.model, "steps", lambda *given: steps)
    text = "a [cat:rocket BREAK blue:2] AND [blue BREAK cat BREAK a|cat]"
    drawn(pipeline, text, "[rocket:cat:4]", prompt_style="keras_sd")
    assert len(shapes) == STEPS
    assert all(each == shapes[0] for each in shapes)


def test_a_shorter_text_has_that_of_nothing_behind(pipeline):
    found = drawn(pipeline, "a cat[: BREAK a rocket:2]", prompt_style="keras_sd")

    def said(step):
        return "a cat BREAK BREAK" if step <= 2 else "a cat BREAK a rocket"

    near(found, ByHand(pipeline, said, lambda step: "BREAK BREAK").latents())


# --- parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sampler": "heun", "batch_size": 2},
        {"unconditional_guidance_scale": 1.0},
        {"guidance_rescale": 0.7},
        {"guidance_interval": (0.5, 4.0)},
        {"guidance_interval": (0.5, 4.0), "guidance_rescale": 0.7},
        {"image": PICTURE, "strength": 0.7},
    ],
)
def test_parts_are_differences_from_the_unconditional_prediction(pipeline, settings):
    found = drawn(pipeline, AND, "rocket", prompt_style="keras_sd", **settings)
    expected = ByHand(pipeline, lambda step: PARTS, lambda step: "rocket", **settings).latents()
    near(found, expected)


def test_one_part_may_have_a_weight_in_the_original(pipeline):
    found = drawn(pipeline, "a ratio of 16:2", prompt_style="a1111")
    expected = ByHand(pipeline, lambda step: [("a ratio of 16", 2.0)], style="a1111").latents()
    near(found, expected)


def test_a_part_changes_by_itself(pipeline):
    found = drawn(pipeline, f"{EDIT} AND a [rocket|cat] :0.5", prompt_style="keras_sd")
    near(found, ByHand(pipeline, lambda step: [(edited(step), 1), (turned(step), 0.5)]).latents())


def test_each_image_of_a_batch_is_that_of_its_prompt_alone(pipeline):
    prompts = [AND, EDIT, "(a cat:1.2) BREAK on a blue"]
    negatives = ["", "a [rocket|cat]", "rocket"]
    style = {"prompt_style": "keras_sd"}
    together = drawn(pipeline, prompts, negatives, diffusion_noise=NOISE, **style)
    for index, pair in enumerate(zip(prompts, negatives, strict=True)):
        # As many chunks as in the batch, or the UNet would attend to less.
        prompt, negative = pair[0], f"{pair[1]} BREAK BREAK"
        alone = drawn(pipeline, prompt, negative, diffusion_noise=NOISE[index], **style)
        near([each[index : index + 1] for each in together], alone)


@dataclass(frozen=True)
class Halves:
    """Both halves of guidance in a sum, as a sampler that guides by itself has them."""

    needs_parts: ClassVar[bool] = True

    def __call__(self, denoise, x, levels, noise):
        for now in levels[:-1]:
            conditional, unconditional, _ = denoise.parts(x, now)
            x = conditional + unconditional / 2
            yield x


def test_a_sampler_is_given_both_halves(pipeline):
    found = drawn(pipeline, f"{EDIT} AND blue :0.5", prompt_style="keras_sd", sampler=Halves())
    hand = ByHand(pipeline, lambda step: [(edited(step), 1.0), ("blue", 0.5)])
    x, expected = hand.x, []
    for step, level in enumerate(hand.levels[:-1], 1):
        none, *parts = hand.predicted(x, level, ["", edited(step), "blue"])
        change = sum(w * (each - none) for w, each in zip((1.0, 0.5), parts, strict=True))
        x = 1.5 * (level.alpha * x - level.sigma * none) - level.sigma * change
        expected.append(to_numpy(x))
    near(found, expected)


# --- what has no place -------------------------------------------------------------------------


def test_a_negative_prompt_has_no_parts_and_tags(pipeline):
    for text, what in (("cat AND blue", "AND"), ("<lora:x>", "the tag '<lora:x>'")):
        with pytest.raises(
            PromptError, match=f"^A negative prompt has {what}.*belong in the prompt"
        ):
            pipeline.stream("a", text, prompt_style="keras_sd")
        found = drawn(pipeline, "a", text, prompt_style="a1111", num_steps=1)
        near(found, drawn(pipeline, "a", text, num_steps=1))


@pytest.mark.parametrize("text", [EDIT, "a [cat|rocket]", AND, "a cat AND a rocket"])
def test_without_a_run_a_prompt_has_one_encoding(pipeline, text):
    with pytest.raises(PromptError, match="which are of a run"):
        pipeline.encode_text(text, "keras_sd")


def test_what_edits_put_together_is_refused_before_any_step(pipeline):
    with pytest.raises(PromptError, match="no number"):
        pipeline.stream("(a cat:1.[2:2.3:3])", prompt_style="keras_sd", num_steps=5)
