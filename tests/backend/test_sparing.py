"""What a run leaves out where it is asked to: deep features of an earlier evaluation, guidance that
makes no difference.

Runs are compared with runs by hand, which are told what is left out, and where.
"""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from test_control_network import drawn as filled
from test_engine import distance
from test_pipeline import TINY, make
from test_turns import EDIT, PICTURE, ByHand, attending, drawn, edited, far, near

from keras_sd import ControlNet
from keras_sd.adaptive import Adaptive
from keras_sd.backend import to_numpy
from keras_sd.caching import _Features
from keras_sd.checks import SettingError
from keras_sd.conditions import CONTEXT, HINT, STRENGTH
from keras_sd.denoiser import KEEPING, STEPS, predict, to_x0
from keras_sd.forms import request_of
from keras_sd.networks import UNet
from keras_sd.noise import Level
from keras_sd.request import Request
from keras_sd.run import run
from keras_sd.sampler import Parts
from keras_sd.serve.engine import Engine

pytestmark = pytest.mark.usefixtures("without_tracing")

RNG = np.random.default_rng(11)
SMALL = replace(TINY.unet, depths=(1, 0))
DEEPER = replace(TINY.unet, blocks=2)


@pytest.fixture(scope="module")
def tiny():
    """A small model whose UNet is ours."""
    return make()


def random(*shape):
    return ops.convert_to_tensor(RNG.standard_normal(shape).astype(np.float32))


def network(config, **changes):
    config = replace(config, **changes)
    keras.utils.set_random_seed(0)
    unet = UNet(config)
    filled(unet, size=0.3)
    return unet


def asked(rows=2):
    return random(rows, 8, 6, 4), ops.convert_to_tensor([700.0, 30.0]), random(rows, 5, 16)


def kept(unet, given):
    """Random numbers in the shapes of what the way down keeps, and of the middle's output."""
    time = ops.zeros((2, unet.config.time_width))
    skips, middle = unet._go_down(unet.conv_in(given[0]), time, given[2])
    return [random(*each.shape) for each in (*skips, middle)]


def close(found, expected):
    expected = to_numpy(expected)
    np.testing.assert_allclose(to_numpy(found), expected, rtol=0, atol=1e-6 * abs(expected).max())


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steered", [False, True])
def test_with_the_features_of_the_same_evaluation_it_gives_the_same(steered):
    given, residuals, told = asked(), None, {}
    unet = network(SMALL, **({"pooled_width": 8, "numbers": 6} if steered else {}))
    if steered:
        residuals = kept(unet, given)
        told = {
            "pooled": random(2, 8),
            "numbers": ops.ones((2, 6)),
            "features": [random(2, 8, 6, 8), random(2, 4, 3, 16)],
            "perturbed": True,
        }
    plain = unet(*given, residuals, **told)
    whole, deep = unet(*given, residuals, keeps=True, **told)
    np.testing.assert_array_equal(to_numpy(whole), to_numpy(plain))
    assert len(deep) == (3 if steered else 1)
    close(unet(*given, deep=deep, **told), plain)


def test_it_computes_the_finest_part_alone():
    """By hand, layer by layer; and no weight of a deeper layer counts."""
    unet, given = network(DEEPER), asked()
    _, deep = unet(*given, keeps=True)
    latent, times, context = asked()
    found = to_numpy(unet(latent, times, context, deep=deep))
    sinusoids = ops.outer(times, ops.exp(-np.log(10000.0) * ops.arange(4, dtype="float32") / 4))
    time = ops.concatenate([ops.cos(sinusoids), ops.sin(sinusoids)], axis=-1)
    time = unet.time2(ops.silu(unet.time1(time)))
    first = unet.conv_in(latent)
    second = unet.down[0](first, time, context)
    x = unet.up[-2](ops.concatenate([deep[0], second], axis=-1), time, context)
    x = unet.up[-1](ops.concatenate([x, first], axis=-1), time, context)
    close(found, unet.conv_out(ops.silu(unet.norm_out(x))))
    for layer in (*unet.down[1:], unet.middle, *unet.up[:-2], *unet.upsamples):
        for variable in layer.variables:
            variable.assign(variable + 1)
    np.testing.assert_array_equal(to_numpy(unet(latent, times, context, deep=deep)), found)


def test_a_controlnet_is_not_asked_where_its_residuals_are_known(tiny):
    net = ControlNet.from_unet(tiny).network
    filled(net, size=0.2)
    latent, _, context = asked()
    told = {
        CONTEXT: context,
        HINT.format(0): random(2, 8, 6, 8),
        STRENGTH.format(0): random(2, 5) * 0 + 1,
    }
    whole, deep = predict(tiny.unet, latent, 500.0, told, [net], keeps=True)
    told |= {f"deep {number}": each for number, each in enumerate(deep)}
    found = predict(tiny.unet, latent, 500.0, told, [net])
    close(found, whole)
    np.testing.assert_array_equal(
        to_numpy(predict(tiny.unet, latent, 500.0, told, [])), to_numpy(found)
    )


# --- runs -----------------------------------------------------------------------------------------


class Spared(ByHand):
    """A run by hand that is told which of its evaluations are whole."""

    whole: tuple = ()
    asks = 0

    def predicted(self, x, level, texts):
        context = ops.repeat(self.encode(*texts), x.shape[0], axis=0)
        t = np.full(len(texts) * x.shape[0], level.t, np.float32)
        batch = ops.concatenate([x] * len(texts))
        given = batch, ops.convert_to_tensor(t), context
        if self.asks in self.whole:
            found, self.deep = self.unet(*given, keeps=True)
        else:
            found = self.unet(*given, deep=self.deep)
        self.asks += 1
        return ops.split(found, len(texts))


def by_hand(pipeline, whole, said="a cat", **settings):
    hand = Spared(pipeline, said if callable(said) else lambda step: said, **settings)
    hand.whole, hand.unet = whole, pipeline.unet
    return hand.latents()


def test_every_so_many_evaluations_are_whole(tiny):
    settings = {"guidance_rescale": 0.7, "sampler": "heun", "num_steps": 3}
    found = drawn(tiny, "a cat", feature_caching=3, **settings)
    near(found, by_hand(tiny, (0, 3), **settings))
    far(found, drawn(tiny, "a cat", **settings))


def test_other_prompts_and_other_halves_begin_with_a_whole_one(tiny):
    levels = tiny.levels(5, "trailing")
    middle = {"guidance_interval": ((levels[2].ratio + levels[3].ratio) / 2, 1e9)}
    text = f"{EDIT} AND blue :0.5"
    found = drawn(tiny, text, prompt_style="keras_sd", feature_caching=5, **middle)

    def parts(step):
        return [(edited(step), 1.0), ("blue", 0.5)]

    near(found, by_hand(tiny, (0, 2, 3), parts, **middle))


@pytest.mark.once
def test_each_kind_of_prediction_has_features_of_its_own():
    """As of samplers that see both halves, and of PAG, which asks for two kinds a step."""
    calls = []

    def step(name, x, t, alpha, sigma, conditions, *strength):
        calls.append((name, sorted(conditions)))
        results = ("told", "untold") if name.startswith("parts") else ("x0",)
        if name.endswith("keeping"):
            return (*results, f"of {len(calls)}", "residual")
        return results if len(results) > 1 else results[0]

    steps = {name: lambda *given, name=name: step(name, *given) for name in STEPS}
    features = _Features(2)
    one, other = features.steps(steps), features.steps(steps)
    for own in (one, one, other, one):
        assert own["parts"](0, 0, 0, 0, {"context": 1}) == ("told", "untold")
        assert own["perturbed"](0, 0, 0, 0, {"context": 1}) == "x0"
    whole, shallow = ["context"], ["context", "deep 0", "deep 1"]
    pairs = [(KEEPING.format(name), whole) for name in ("parts", "perturbed")]
    assert calls == [*pairs, ("parts", shallow), ("perturbed", shallow), *pairs, *pairs]


def test_a_run_leaves_nothing_to_the_next(tiny):
    spared = drawn(tiny, "a cat", feature_caching=3)
    whole = drawn(tiny, "a cat")
    for again, once in ((drawn(tiny, "a cat", feature_caching=3), spared), (whole, whole)):
        np.testing.assert_array_equal(again[-1], once[-1])


def test_the_engine_draws_such_runs_beside_others(tiny):
    settings = [
        {"feature_caching": 2},
        {"prompt": "a rocket"},
        {"feature_caching": 3, "prompt": "a rocket"},
        {"adaptive_guidance": -1.0},
    ]
    requests = [
        request_of(**{"prompt": "a cat", "num_steps": 3, "seed": seed, **each})
        for seed, each in enumerate(settings)
    ]
    with Engine(tiny.model, max_rows=8) as engine:
        jobs = [engine.submit(request) for request in requests]
        found = [job.result(120) for job in jobs]
    for request, images in zip(requests, found, strict=True):
        *_, last = run(tiny.model, request)
        assert distance(images, np.asarray(last.image())) <= 1, request
        assert images.request.feature_caching == request.feature_caching


# --- guidance that ends ---------------------------------------------------------------------------


def cosines(tiny, text, noise):
    """Of each evaluation of a run with guidance."""
    found = []

    class Watched(ByHand):
        def predicted(self, x, level, texts):
            both = super().predicted(x, level, texts)
            one, other = (to_numpy(each).astype(float).ravel() for each in both)
            found.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
            return both

    return Watched(tiny, lambda step: text, diffusion_noise=noise, seed=None).latents(), found


class Until(ByHand):
    """A run by hand with guidance in its first evaluations alone."""

    count: int
    asks = 0

    def denoise(self, x, level):
        self.asks += 1
        if self.asks <= self.count:
            return super().denoise(x, level)
        (told,) = self.predicted(x, level, [self.said(1)])
        return level.alpha * x - level.sigma * told


def test_guidance_ends_a_picture_at_a_time(tiny):
    noise = RNG.normal(size=(2, 8, 6, 4)).astype(np.float32)
    texts = ["a cat", "a rocket on blue"]
    firsts = [cosines(tiny, text, rows)[1] for text, rows in zip(texts, noise, strict=True)]
    # A threshold that one of them passes first.
    threshold = (max(firsts[0][:2]) + max(firsts[1][:2])) / 2
    settings = {"adaptive_guidance": threshold, "unconditional_guidance_scale": 3.0}
    together = drawn(tiny, texts, diffusion_noise=noise, **settings)
    counts = []
    for row, text in enumerate(texts):
        alone = drawn(tiny, text, diffusion_noise=noise[row], **settings)
        near([each[row : row + 1] for each in together], alone)
        past = [number for number, each in enumerate(firsts[row]) if each >= threshold]
        counts.append(past[0] + 1 if past else 5)
        hand = Until(tiny, lambda step, text=text: text, diffusion_noise=noise[row], seed=None)
        hand.count = counts[-1]
        near(alone, hand.latents())
    assert min(counts) < max(counts)


def test_what_no_picture_needs_is_not_computed(tiny, monkeypatch):
    model, asks = tiny.model, []
    counted = {
        name: lambda *given, step=step, name=name: (asks.append(name), step(*given))[1]
        for name, step in model.steps().items()
    }
    monkeypatch.setattr(model, "steps", lambda merging: counted)
    drawn(tiny, "a cat", adaptive_guidance=-1.0)
    assert asks == ["parts"] + ["plain"] * 4
    asks.clear()
    drawn(tiny, "a cat", adaptive_guidance=-1.0, sampler="euler_cfg_pp", feature_caching=2)
    assert asks == ["parts, keeping", "plain, keeping", "plain", "plain, keeping", "plain"]
    asks.clear()
    drawn(tiny, "a cat")
    assert asks == ["guided"] * 5


def test_it_is_what_the_unet_gives_that_is_compared():
    level, x, one, other = Level(500.0, 0.6, 0.8), random(2, 3), random(2, 3), random(2, 3)
    pairs = [to_numpy(each).astype(float) for each in (one, other)]
    expected = np.sum(pairs[0] * pairs[1], -1) / np.prod(np.linalg.norm(pairs, axis=-1), axis=0)
    for kind in ("v", "epsilon", "x0"):
        told, untold = (to_x0(kind, x, level.alpha, level.sigma, each) for each in (one, other))
        for shift, over in ((-1e-4, True), (1e-4, False)):
            adaptive = Adaptive(expected.min() + shift, kind)
            adaptive.settled(Parts(told, untold, told), x, level)
            assert adaptive.over is over


# --- what does not go together --------------------------------------------------------------------


@pytest.mark.once
def test_what_has_no_place_is_said_before_the_run(tiny):
    other = attending()
    for pipeline, settings, message in (
        (other, {"feature_caching": 2}, "feature_caching is for a keras_sd.networks.UNet.*another"),
        (tiny, {"feature_caching": 0}, "feature_caching .*at least 1|feature_caching .*1 to 1000"),
        (tiny, {"feature_caching": 2.5}, "feature_caching"),
        (tiny, {"adaptive_guidance": 2}, "adaptive_guidance"),
        (tiny, {"adaptive_guidance": 0.9, "guidance_rescale": 0.5}, "guidance_rescale .*adaptive_"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            pipeline.stream("a cat", **{"num_steps": 2, "seed": 1, **settings})
    for name, value in (("feature_caching", 2), ("adaptive_guidance", 0.9)):
        with pytest.raises(SettingError, match=f"{name} is for runs of samplers alone"):
            tiny.invert("a cat", PICTURE, num_steps=2, **{name: value})
    told = make(replace(TINY, unet=replace(TINY.unet, guidance_width=8)))
    with pytest.raises(SettingError, match=r"adaptive_guidance spares a second evaluation.*tiny"):
        told.stream("a cat", num_steps=2, adaptive_guidance=0.9)


@pytest.mark.once
def test_json_has_them_where_they_are_on():
    plain = Request(("a cat",))
    assert not {"feature_caching", "adaptive_guidance"} & plain.to_dict().keys()
    asked = replace(plain, feature_caching=3, adaptive_guidance=0.95)
    assert Request.from_json(asked.to_json()) == asked
    assert asked.to_dict()["feature_caching"] == 3
