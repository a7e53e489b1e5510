"""Runs with another guidance than the usual one: what they compute, and what goes together."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import pytest
import reference_models as reference
from keras import ops
from test_denoiser import Network, arrays
from test_parity import difference, last
from test_pipeline import TINY, make
from test_turns import PICTURE, ByHand, attending, drawn, near

from keras_sd.backend import to_numpy
from keras_sd.checks import SettingError
from keras_sd.conditions import Conditions
from keras_sd.denoiser import Denoiser, compiled_steps
from keras_sd.forms import request_of
from keras_sd.guidance import Guidance, Seen
from keras_sd.guides import APG, CFG, CFGPlusPlus, CFGZero
from keras_sd.noise import Level
from keras_sd.registry import list_guidance
from keras_sd.request import Request
from keras_sd.run import run
from keras_sd.serve.engine import Engine
from keras_sd.testing.guidance import check_guidance_backend_tensors

pytestmark = pytest.mark.usefixtures("without_tracing")

LEVEL = Level(500.0, 0.6, 0.8)
RUN = {"num_steps": 3, "seed": 1, "sampler": "ddim", "unconditional_guidance_scale": 5.0}


@pytest.fixture(scope="module")
def pipeline():
    return attending()


@pytest.fixture(scope="module")
def tiny():
    """A small model whose UNet is ours."""
    return make()


@pytest.mark.parametrize("name", [info.name for info in list_guidance()])
def test_guidance_on_tensors_is_guidance_on_arrays(name):
    check_guidance_backend_tensors(name)


# --- what it computes ----------------------------------------------------------------------------


def dot(a, b):
    return (a * b).sum(axis=(1, 2, 3), keepdims=True)


def apg(told, untold, scale, average, eta=0.0, norm=15.0, momentum=-0.5):
    """Algorithm 1 of the paper, in its own order, and the running average after it."""
    average = told - untold + momentum * average
    change = average * np.minimum(1.0, norm / np.sqrt(dot(average, average)))
    unit = told / np.sqrt(dot(told, told))
    parallel = dot(change, unit) * unit
    return told + (scale - 1) * (change - parallel + eta * parallel), average


class Apart(ByHand):
    """A run by hand whose halves are put together by adaptive projected guidance."""

    settings: dict
    average = 0.0

    def denoise(self, x, level):
        step = self.step(level)
        rows = self.predicted(x, level, [self.unsaid(step), self.said(step)])
        halves = [to_numpy(level.alpha * x - level.sigma * row).astype(float) for row in rows]
        scale = self.request.guidance_scale
        found, self.average = apg(halves[1], halves[0], scale, self.average, **self.settings)
        return ops.convert_to_tensor(found.astype("float32"))


@pytest.mark.parametrize(
    ("method", "settings"),
    [("apg", {}), ("apg:eta=0.3,norm=2,momentum=0.4", {"eta": 0.3, "norm": 2, "momentum": 0.4})],
)
@pytest.mark.parametrize("said", ["a cat", "a [cat:dog:0.4]"])
def test_a_run_remembers_over_its_steps(pipeline, method, settings, said):
    def told(step):  # of five steps
        return said if "[" not in said else "a cat" if step <= 2 else "a dog"

    hand = Apart(pipeline, told)
    hand.settings = settings
    style = {"prompt_style": "keras_sd"}
    near(drawn(pipeline, said, guidance_method=method, **style), hand.latents())


def test_a_picture_is_the_one_that_it_is_alone(pipeline):
    noise = np.random.default_rng(3).normal(size=(2, 8, 6, 4)).astype(np.float32)
    settings = {"guidance_method": {"name": "apg", "norm": 3.0}, "unconditional_guidance_scale": 9}
    together = drawn(pipeline, ["a cat", "a dog"], diffusion_noise=noise, **settings)
    for row, text in enumerate(["a cat", "a dog"]):
        alone = drawn(pipeline, text, diffusion_noise=noise[row], **settings)
        near([each[row : row + 1] for each in together], alone)


def test_runs_that_take_turns_do_not_disturb_each_other(pipeline):
    settings = {**RUN, "guidance_method": APG(norm=3.0)}
    alone = [drawn(pipeline, text, **settings) for text in ("a cat", "a dog")]
    runs = [pipeline.stream(text, **settings) for text in ("a cat", "a dog")]
    for pair, expected in zip(zip(*runs, strict=True), zip(*alone, strict=True), strict=True):
        for step, latent in zip(pair, expected, strict=True):
            np.testing.assert_array_equal(to_numpy(step.latent), latent)


GUIDES = (CFG(), CFGPlusPlus(), CFGZero(), CFGZero("v"), APG(), APG(eta=1, norm=0, momentum=0))


@pytest.mark.parametrize("guide", GUIDES, ids=repr)
@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_a_denoiser_gives_what_its_guide_makes(guide, kind):
    x, context, untold = map(ops.convert_to_tensor, arrays())
    told, untold = (Conditions({"context": each}) for each in (context, untold))
    denoise = Denoiser(compiled_steps(Network(), kind), told, untold, Guidance(5.0, guide=guide))
    latent = arrays()[0].astype(float)
    halves = []
    for w in (1.5, 0.0):
        prediction = latent * w + latent**2 * (w - 1) + w
        clean = (latent - LEVEL.sigma * prediction) / LEVEL.alpha
        if kind == "v":
            clean = LEVEL.alpha * latent - LEVEL.sigma * prediction
        halves.append(clean)
    expected = guide(Seen(*halves, latent, LEVEL, dot), 5.0, {})
    np.testing.assert_allclose(to_numpy(denoise(x, LEVEL)), expected, rtol=1e-4, atol=1e-4)
    denoise = Denoiser(compiled_steps(Network(), kind), told, untold, Guidance(5.0, guide=guide))
    for found, part in zip(denoise.parts(x, LEVEL), (*halves, expected), strict=True):
        np.testing.assert_allclose(to_numpy(found), part, rtol=1e-4, atol=1e-4)


def test_zero_star_scales_the_prediction_it_is_told():
    """The formula of the paper on predictions, of which the clean latents are made."""
    rng = np.random.default_rng(5)
    told, untold, x = rng.normal(size=(3, 2, 4, 4, 3))
    best = dot(told, untold) / dot(untold, untold)
    guided = best * untold + 6.0 * (told - best * untold)
    clean = {
        "noise": lambda p: (x - LEVEL.sigma * p) / LEVEL.alpha,
        "v": lambda p: LEVEL.alpha * x - LEVEL.sigma * p,
    }
    for of, made in clean.items():
        found = CFGZero(of)(Seen(made(told), made(untold), x, LEVEL, dot), 6.0, {})
        np.testing.assert_allclose(found, made(guided), rtol=1e-6)
    flow = Level(700.0, 0.3, 0.7)
    made = lambda p: x - flow.sigma * p  # noqa: E731
    found = CFGZero("flow")(Seen(made(told), made(untold), x, flow, dot), 6.0, {})
    np.testing.assert_allclose(found, made(guided), rtol=1e-6)


def names_of_steps(model, request):
    """The compiled steps that a run calls, and its latents."""
    called = []

    def through(steps):
        def counted(name):
            def call(*args):
                called.append(name)
                return steps[name](*args)

            return call

        return {name: counted(name) for name in steps}

    latents = [to_numpy(s.latent) for s in run(model, request, through=through)]
    return set(called), len(called), latents


@pytest.mark.once
def test_plain_guidance_is_the_compiled_step_and_nothing_more(tiny):
    def asked(**settings):
        return request_of("a cat", **{**RUN, **settings})

    none, plain = (names_of_steps(tiny.model, asked(guidance_method=m)) for m in (None, "cfg"))
    assert none[:2] == plain[:2] == ({"guided"}, 3)
    for one, other in zip(none[2], plain[2], strict=True):
        np.testing.assert_array_equal(one, other)
    for settings, expected in (
        ({"guidance_rescale": 0.5}, ({"rescaled"}, 3)),
        ({"unconditional_guidance_scale": 1}, ({"plain"}, 3)),
        ({"guidance_method": "apg"}, ({"parts"}, 3)),
        ({"guidance_method": "pag"}, ({"parts", "perturbed"}, 6)),
        ({"sampler": "euler_cfg_pp"}, ({"parts"}, 3)),
    ):
        assert names_of_steps(tiny.model, asked(**settings))[:2] == expected


# --- perturbed attention ------------------------------------------------------------------------


def inputs(side, width=16):
    rng = np.random.default_rng(3)
    latent = rng.normal(size=(2, side, side, 4)).astype("float32")
    context = rng.normal(size=(2, 7, width)).astype("float32")
    return latent, np.array([3.0, 801.5], "float32"), context


@pytest.mark.once
def test_only_the_self_attention_of_the_middle_is_perturbed():
    config = replace(TINY, unet=replace(TINY.unet, depths=(1, 1)))
    unet = make(config).model.parts["unet"]
    for side, same in ((2, True), (4, False)):
        given = list(map(ops.convert_to_tensor, inputs(side)))
        found, usual = (to_numpy(unet(*given, **how)) for how in ({"perturbed": True}, {}))
        # In the middle, at half the size, one token attends to itself alone, whatever it does.
        assert (difference(found, usual) < 1e-5) == same


@pytest.mark.references
def test_the_perturbed_prediction_is_diffusers():
    diffusers = pytest.importorskip("diffusers")
    import torch

    ours = reference.pipeline("sd2").model.parts["unet"]
    unet = reference.script().networks("sd2", "image")[0]["unet"]
    usual = unet.attn_processors
    processor = diffusers.models.attention_processor.PAGIdentitySelfAttnProcessor2_0()
    changed = {
        name: processor if name.startswith("mid_block") and "attn1" in name else each
        for name, each in usual.items()
    }
    assert sum(each is processor for each in changed.values()) == 1
    given = inputs(8, ours.config.context_width)
    latent, times, context = map(torch.from_numpy, given)
    rows = [torch.cat([each, each]) for each in (latent.permute(0, 3, 1, 2), times, context)]
    try:
        unet.set_attn_processor(changed)
        with torch.no_grad():  # it perturbs the second half
            both = unet(rows[0].double(), rows[1], rows[2].double()).sample
    finally:
        unet.set_attn_processor(usual)
    told, perturbed = last(both.numpy()).reshape(2, 2, 8, 8, 4)
    found = [ours(*map(ops.convert_to_tensor, given), perturbed=p) for p in (False, True)]
    assert difference(found[0], told) < reference.TOLERANCE
    assert difference(found[1], perturbed) < reference.TOLERANCE
    assert difference(found[1], told) > 1e-3


@pytest.mark.references
@pytest.mark.parametrize("settings", [{}, {"eta": 0.4, "norm": 2.0, "momentum": 0.3}])
def test_adaptive_projection_is_diffusers(settings):
    module = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    import torch

    guide, memory, rng = APG(**settings), {}, np.random.default_rng(2)
    buffer = module.MomentumBuffer(guide.momentum)
    for _ in range(4):
        told, untold = rng.normal(size=(2, 2, 4, 4, 3))
        theirs = module.normalized_guidance(
            *(torch.from_numpy(each) for each in (told, untold)),
            guidance_scale=8.0 - 1,
            momentum_buffer=buffer,
            eta=guide.eta,
            norm_threshold=guide.norm,
            use_original_formulation=True,
        )
        found = guide(Seen(told, untold, told, LEVEL, dot), 8.0, memory)
        np.testing.assert_allclose(found, theirs.numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.references
def test_zero_star_is_diffusers():
    module = pytest.importorskip("diffusers.guiders.classifier_free_zero_star_guidance")
    import torch

    told, untold = np.random.default_rng(2).normal(size=(2, 2, 4, 4, 3))
    guider = module.ClassifierFreeZeroStarGuidance(guidance_scale=6.0, zero_init_steps=0)
    guider.set_state(step=0, num_inference_steps=1, timestep=torch.tensor(0))
    theirs = guider.forward(*(torch.from_numpy(each) for each in (told, untold))).pred.numpy()
    x = np.zeros_like(told)
    made = lambda p: (x - LEVEL.sigma * p) / LEVEL.alpha  # noqa: E731
    found = CFGZero()(Seen(made(told), made(untold), x, LEVEL, dot), 6.0, {})
    np.testing.assert_allclose(found, made(theirs), rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_perturbed_guidance_goes_away_from_it(tiny, scale):
    asked = request_of("a cat", guidance_method="pag:strength=2", **{**RUN, "num_steps": 1})
    asked = replace(asked, guidance_scale=scale).resolved(tiny.model.defaults)
    parts = []

    @dataclass(frozen=True)
    class Watched:
        needs_parts = True

        def __call__(self, denoise, x, levels, noise):
            parts.append((x, levels[0], denoise.parts(x, levels[0])))
            yield parts[0][2].guided

    *_, step = run(tiny.model, replace(asked, sampler=Watched()))
    x, level, found = parts[0]
    told, untold, guided = map(to_numpy, found)
    texts = tiny.model.texts.read(asked, 1, (asked.height, asked.width))
    ((_, halves),) = tiny.model.texts.turns(*texts)
    t = ops.convert_to_tensor(np.float32([level.t]))
    context = halves.told.tree()["context"]
    blind = to_numpy(tiny.model.parts["unet"](x, t, context, perturbed=True))
    blind = level.alpha * to_numpy(x) - level.sigma * blind
    expected = untold + scale * (told - untold) + 2 * (told - blind)
    near([guided], [expected])
    np.testing.assert_array_equal(to_numpy(step.latent), guided)


# --- CFG++ ----------------------------------------------------------------------------------------


def test_cfg_plus_plus_keeps_the_noise_of_the_unconditional_prediction(pipeline):
    found = drawn(pipeline, "a cat", sampler="euler_cfg_pp", unconditional_guidance_scale=0.7)
    hand = ByHand(pipeline, lambda step: "a cat")
    x, expected = hand.x, []
    for now, nxt in zip(hand.levels, hand.levels[1:], strict=False):
        untold, told = hand.predicted(x, now, ["", "a cat"])  # of v
        guided = untold + 0.7 * (told - untold)
        clean = now.alpha * x - now.sigma * guided
        noise = now.sigma * x + now.alpha * untold
        x = nxt.alpha * clean + nxt.sigma * noise
        expected.append(to_numpy(x))
    near(found, expected)


def test_the_sampler_and_the_guidance_of_cfg_plus_plus_find_each_other(pipeline, caplog):
    defaults = pipeline.model.defaults
    asked = request_of("a cat", sampler="DPM++ 2M CFG++ Karras").resolved(defaults)
    assert (asked.guidance_method, asked.guidance_scale) == ("cfg_pp", 0.6)
    assert (asked.sampler, asked.schedule) == ("dpmpp_2m_cfg_pp", "karras")
    assert Request.from_json(asked.to_json()) == asked
    with pytest.raises(SettingError, match=r"cfg_pp'.*'ddim' .*|cfg_pp'.*DDIM.*euler_cfg_pp"):
        request_of("a cat", sampler="ddim", guidance_method="cfg_pp").resolved(defaults)
    with pytest.raises(SettingError, match=r"'apg'.*EulerCFGpp.*leave guidance_method out"):
        request_of("a", sampler="euler_cfg_pp", guidance_method="apg").resolved(defaults)
    with caplog.at_level(logging.WARNING, logger="keras_sd"):
        drawn(pipeline, "a cat", sampler="euler_cfg_pp", unconditional_guidance_scale=7.5)
    assert "is made for scales from 0 to 2, and guidance_scale is 7.5" in caplog.text


@pytest.mark.parametrize("name", ["apg", "cfg_zero", "cfg_pp"])
def test_outside_of_the_interval_there_is_no_guidance(pipeline, name):
    sampler = "euler_cfg_pp" if name == "cfg_pp" else "ddim"
    settings = {"guidance_method": name, "guidance_interval": (1e8, 1e9), "sampler": sampler}
    found = drawn(pipeline, "a cat", **settings)
    near(found, drawn(pipeline, "a cat", unconditional_guidance_scale=1.0, sampler="ddim"))


# --- what does not go together --------------------------------------------------------------------


def test_what_has_no_place_is_said_before_the_run(pipeline, tiny):
    for settings, message in (
        ({"guidance_method": "apgg"}, r"No guidance 'apgg'. Did you mean 'apg'\?"),
        ({"guidance_method": "apg", "guidance_rescale": 0.5}, "guidance_rescale .* 'cfg' alone"),
        ({"guidance_method": "pag"}, "guidance_method is 'pag'.*another network than ours"),
        (
            {"guidance_rescale": 0.5, "sampler": "euler_cfg_pp"},
            "guidance_rescale .*EulerCFGpp.* leave it out",
        ),
        ({"guidance_method": "apg:norm=-1"}, "norm must be a finite number from 0 up, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.stream("a cat", **{**RUN, **settings})

    class Wants:
        needs = ("depth",)

        def __call__(self, seen, scale, memory):
            raise AssertionError

    with pytest.raises(SettingError, match="needs depth; there is perturbed"):
        pipeline.stream("a cat", **RUN, guidance_method=Wants())
    with pytest.raises(TypeError, match=r"has no setting 'nrom'. Did you mean 'norm'"):
        pipeline.stream("a cat", **RUN, guidance_method="apg:nrom=3")


def test_a_model_without_attention_in_its_middle_has_nothing_to_perturb(tiny):
    config = tiny.model.config
    bare = replace(config, unet=replace(config.unet, middle_depth=0))
    model = object.__new__(type(tiny.model))
    vars(model).update(vars(tiny.model), _config=bare)
    with pytest.raises(SettingError, match=r"guidance_method is 'pag'.*and there is none"):
        run(model, request_of("a cat", **RUN, guidance_method="pag"))


def test_an_inversion_is_of_plain_guidance(tiny):
    with pytest.raises(SettingError, match="an inversion is done with plain 'cfg'"):
        tiny.invert("a cat", PICTURE, num_steps=2, sampler="euler_cfg_pp")


# --- in the server's engine -----------------------------------------------------------------------


def test_the_engine_draws_them_beside_each_other(pipeline):
    methods = ["apg:norm=2", None, "cfg_zero", "apg:momentum=0.5", None]
    samplers = ["heun", "ddim", "euler", "ddim", "dpmpp_2s_ancestral_cfg_pp"]
    requests = [
        request_of(
            ["a cat", "a dog"],
            **{
                **RUN,
                "unconditional_guidance_scale": 1.5 + i,
                "num_steps": 2 + i % 2,
                "guidance_method": method,
                "seed": i,
                "sampler": sampler,
            },
        )
        for i, (method, sampler) in enumerate(zip(methods, samplers, strict=True))
    ]
    with Engine(pipeline.model, max_rows=10) as engine:
        found = [job.result(120) for job in [engine.submit(each) for each in requests]]
    for request, images in zip(requests, found, strict=True):
        for number in range(2):
            *_, step = run(pipeline.model, request.only(number))
            off = np.abs(np.asarray(images)[number].astype(int) - np.asarray(step.image())[0])
            assert off.max() <= 1
