from __future__ import annotations

import ast
import importlib.util
import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from keras_sd.levels import make_levels
from keras_sd.noise import Level, Levels, NoiseTable, denoised, for_run, transfer
from keras_sd.registry import (
    get_sampler,
    get_schedule,
    list_samplers,
    list_schedules,
    mismatch,
)
from keras_sd.sampler import Parts
from keras_sd.sampling import sample
from keras_sd.schedules import exponential, from_timesteps, karras, leading
from keras_sd.testing import check_backend_tensors, measure_order, parametrize_with_checks
from keras_sd.testing.convergence import gaussian_errors
from keras_sd.testing.problems import VARIANCE

FIXTURES = Path(__file__).parents[1] / "fixtures"
SAMPLERS = Path(importlib.util.find_spec("keras_sd_samplers").origin).parent
SD = NoiseTable.scaled_linear()


def load_maker():
    spec = importlib.util.spec_from_file_location(
        "make_sampler_goldens", FIXTURES / "make_sampler_goldens.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = load_maker()
GOLDENS = np.load(FIXTURES / "sampler_goldens.npz")


def toy_denoise(x, level):
    """The fixture's model of the noise, as a model of x0."""
    return denoised(x, MAKER.toy_epsilon(x, level.t), level)


def alike(denoise):
    """A model whose parts are all what it says, for samplers that ask for them."""

    def whole(x, level):
        return denoise(x, level)

    whole.parts = lambda x, level: Parts(*[denoise(x, level)] * 3)
    return whole


def run(sampler, levels, dtype=np.float64):
    start, noise = (array.astype(dtype) for array in MAKER.inputs())
    draws = iter([*noise, *-noise])  # some draw three times a step
    return list(sample(sampler, alike(toy_denoise), start, levels, lambda now, nxt: next(draws)))


def assert_golden(name, sampler, levels, tolerance, dtype=np.float64):
    golden = GOLDENS[f"{name}/{len(levels) - 1}"]
    steps = run(sampler, levels, dtype)
    if len(golden) == 1:  # the last latent only
        steps = steps[-1:]
    for step, expected in zip(steps, golden, strict=True):
        # An Euler latent of diffusers is x / alpha; the fixture has multiplied it by alpha.
        assert abs(step.latent - expected).max() <= tolerance * abs(expected).max(), step.index
    return steps


# ---- what is installed ---------------------------------------------------------------------------


OURS = {
    "ddim": "ddim:DDIM",
    "ddpm": "ddpm:DDPM",
    "deis": "deis:DEIS",
    "dpm2": "dpm2:DPM2",
    "dpm2_ancestral": "dpm2:DPM2Ancestral",
    "dpm_adaptive": "dpm_adaptive:DPMAdaptive",
    "dpm_fast": "dpm_fast:DPMFast",
    "dpmpp_2m": "dpmpp_2m:DPMpp2M",
    "dpmpp_2m_cfg_pp": "cfg_pp:DPMpp2MCFGpp",
    "dpmpp_2m_sde": "dpmpp_2m:DPMpp2MSDE",
    "dpmpp_2s_ancestral": "dpmpp_2s_ancestral:DPMpp2SAncestral",
    "dpmpp_2s_ancestral_cfg_pp": "cfg_pp:DPMpp2SAncestralCFGpp",
    "dpmpp_3m": "dpmpp_3m:DPMpp3M",
    "dpmpp_3m_sde": "dpmpp_3m:DPMpp3MSDE",
    "dpmpp_sde": "dpmpp_sde:DPMppSDE",
    "er_sde": "er_sde:ERSDE",
    "euler": "euler:Euler",
    "euler_ancestral": "euler_ancestral:EulerAncestral",
    "euler_ancestral_cfg_pp": "cfg_pp:EulerAncestralCFGpp",
    "euler_cfg_pp": "cfg_pp:EulerCFGpp",
    "gradient_estimation": "gradient_estimation:GradientEstimation",
    "heun": "heun:Heun",
    "heunpp2": "heunpp2:HeunPP2",
    "ipndm": "ipndm:IPNDM",
    "ipndm_v": "ipndm_v:IPNDMV",
    "lcm": "lcm:LCM",
    "lms": "lms:LMS",
    "pndm": "pndm:PNDM",
    "res_multistep": "res_multistep:RESMultistep",
    "restart": "restart:Restart",
    "sa_solver": "sa_solver:SASolver",
    "seeds_2": "seeds:SEEDS2",
    "seeds_3": "seeds:SEEDS3",
    "tcd": "tcd:TCD",
    "unipc": "unipc:UniPC",
}


def test_ours_are_installed_through_their_entry_points():
    found = {i.name: i.value for i in list_samplers() if i.distribution == "keras-sd"}
    assert found == {name: f"keras_sd_samplers.{value}" for name, value in OURS.items()}


def parametrize_without_keras(samplers):
    """The kit's checks, but for the one on tensors: tests/backend/test_samplers_on_tensors.py."""
    names, cases = parametrize_with_checks(samplers).mark.args
    plain = [case for case in cases if case.values[1] is not check_backend_tensors]
    assert len(plain) < len(cases)
    return pytest.mark.parametrize(names, plain)


@parametrize_without_keras([info.qualified_name for info in list_samplers()])
def test_every_installed_sampler_keeps_the_contract(sampler, check):
    check(sampler)


SETTINGS = [
    ("ddim", {"eta": 0.3}),
    ("ddim", {"eta": 1.0}),
    ("ddpm", {"variance": "large"}),
    ("deis", {"solver_order": 1}),
    ("dpm2", {"eta": 0.4}),
    ("dpm_adaptive", {"solver_order": 2}),
    ("dpmpp_2m_sde", {"eta": 0.4, "solver": "heun"}),
    ("dpmpp_2s_ancestral", {"eta": 0.0}),
    ("dpmpp_3m_sde", {"eta": 0.4}),
    ("dpmpp_sde", {"eta": 0.0}),
    ("dpmpp_sde", {"r": 0.7}),
    ("euler_ancestral", {"eta": 0.0}),
    ("er_sde", {"solver_order": 1}),
    ("gradient_estimation", {"gamma": 1.5}),
    ("ipndm_v", {"solver_order": 1}),
    ("euler_ancestral_cfg_pp", {"eta": 0.4}),
    ("dpmpp_2s_ancestral_cfg_pp", {"eta": 0.0}),
    ("lms", {"solver_order": 2}),
    ("pndm", {"combine": "v"}),
    ("restart", {"low": 0.3, "high": 5.0, "times": 2}),
    ("sa_solver", {"tau": 0.0, "predictor_order": 1, "corrector_order": 1}),
    ("sa_solver", {"predictor_order": 2, "corrector_order": 2, "few_steps": True}),
    ("sa_solver", {"low": 0.3, "high": 5.0}),
    ("seeds_2", {"eta": 0.0}),
    ("seeds_3", {"eta": 0.5, "r1": 0.2, "r2": 0.6}),
    ("tcd", {"eta": 0.0}),
    ("unipc", {"solver_order": 1}),
    ("unipc", {"solver_order": 3, "variant": "bh1"}),
]


@parametrize_without_keras([get_sampler(name, **settings) for name, settings in SETTINGS])
def test_other_settings_keep_the_contract(sampler, check):
    check(sampler)


def test_samplers_import_only_what_the_contract_allows():
    allowed = {"keras_sd.noise", "keras_sd.sampler", "numpy"}
    for file in SAMPLERS.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, file
                names = [node.module]
            else:
                continue
            for name in names:
                top = name.split(".")[0]
                assert name in allowed or top in (*sys.stdlib_module_names, SAMPLERS.name), file


# ---- parity with diffusers (golden values, float64) ----------------------------------------------


# What is predicted makes no difference to a sampler, which is given the clean latent: so it is held
# to the schedulers of models that predict the noise, and to those of models that predict v.
PREDICTED = pytest.mark.parametrize("v", ["", "-v"])


@PREDICTED
@pytest.mark.parametrize("num_steps", MAKER.STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_equals_diffusers(eta, num_steps, v):
    levels = leading(SD, num_steps, final_sigma="first")
    steps = assert_golden(f"ddim-{eta}{v}", get_sampler("ddim", eta=eta), levels, 1e-12)
    assert steps[-1].evaluations == num_steps


@pytest.mark.parametrize(("golden", "sampler"), [("pndm", "pndm"), ("pndm-v", "pndm:combine=v")])
@pytest.mark.parametrize("num_steps", MAKER.STEPS)
def test_pndm_equals_diffusers(num_steps, golden, sampler):
    levels = leading(SD, num_steps, final_sigma="first")
    steps = assert_golden(golden, get_sampler(sampler), levels, 1e-12)
    assert steps[-1].evaluations == (num_steps + 1 if num_steps > 1 else 1)


@pytest.mark.parametrize(
    ("spacing", "num_steps"),
    # One linspace step starts at timestep 0 in diffusers, at the noisiest here.
    [(s, n) for s in MAKER.SPACINGS for n in MAKER.STEPS if (s, n) != ("linspace", 1)],
)
@PREDICTED
def test_euler_equals_diffusers(spacing, num_steps, v):
    levels = get_schedule(spacing)(SD, num_steps)
    steps = assert_golden(f"euler-{spacing}{v}", get_sampler("euler"), levels, 1e-12)
    assert steps[-1].evaluations == num_steps


@pytest.mark.parametrize(
    ("name", "sampler", "final_sigma"),
    [
        ("ddim-0.0", get_sampler("ddim"), "first"),
        ("ddim-1.0", get_sampler("ddim", eta=1.0), "first"),
        ("pndm", get_sampler("pndm"), "first"),
        ("euler-leading", get_sampler("euler"), "zero"),
    ],
)
def test_float32_stays_within_the_tolerance_of_the_whole_model(name, sampler, final_sigma):
    levels = leading(SD, 20, final_sigma=final_sigma)
    steps = assert_golden(name, sampler, levels, 2e-5, np.float32)
    assert steps[-1].latent.dtype == np.float32


# ---- the family, on a model that couples the elements of a latent --------------------------------


def path_vp(ratio):
    norm = math.hypot(1, ratio)
    return Level(ratio, 1 / norm, ratio / norm)


def path_ve(ratio):
    return Level(ratio, 1.0, ratio)


def path_flow(ratio):
    return Level(ratio, 1 / (1 + ratio), ratio / (1 + ratio))


PATHS = (path_vp, path_ve, path_flow)
GRIDS = {
    "karras": lambda n: karras(SD, n),
    "karras-first": lambda n: karras(SD, n, final_sigma="first"),
    "leading": lambda n: leading(SD, n),
    "leading-first": lambda n: leading(SD, n, final_sigma="first"),
}
FAMILY = {
    **{f"k-diffusion/{case}": row[:2] for case, row in MAKER.K_DIFFUSION.items()},
    **{
        f"{library}/{case}": row[:2]
        for library in MAKER.PREDICTIONS
        for case, row in MAKER.DIFFUSERS.items()
        if (library, case) != ("diffusers-v", "ipndm")  # which takes v, whatever it is told
    },
}


def clean(x, level):
    return MAKER.toy_clean(x / level.alpha, level.ratio)


def last_over_alpha(sampler, levels):
    """The last latent over alpha, and the number of evaluations."""
    start, noise = MAKER.inputs()
    draws = iter(noise)
    run = sample(sampler, clean, start * levels[0].sigma, levels, lambda now, nxt: next(draws))
    *_, last = run
    return last.latent / levels[-1].alpha, last.evaluations


def assert_close(found, golden, tolerance, message):
    assert abs(found - golden).max() <= tolerance * abs(golden).max(), message


@pytest.mark.parametrize("case", FAMILY)
def test_family_equals_its_reference(case):
    sampler = get_sampler(FAMILY[case][0], **FAMILY[case][1])
    compared = 0
    for grid, levels_of in GRIDS.items():
        if f"{case}/{grid}" not in GOLDENS:
            continue  # some of diffusers' always end at 0, others above
        for num_steps, golden in zip(MAKER.STEPS, GOLDENS[f"{case}/{grid}"], strict=True):
            # A long step leaves the reference fewer digits of its ancestral split.
            tolerance = 1e-12 if num_steps >= 20 else 1e-10
            for path in PATHS:
                ratios = [level.ratio for level in levels_of(num_steps)]
                found, _ = last_over_alpha(sampler, Levels(map(path, ratios), path=path))
                assert np.isfinite(found).all()
                if not np.isnan(golden).any():  # the reference has no answer
                    assert_close(found, golden, tolerance, (grid, num_steps, path))
                    compared += 1
    assert compared >= 2 * 5 * 3


@pytest.mark.parametrize("path", PATHS)
def test_dpm_fast_equals_k_diffusion(path):
    high, low = math.log(SD.ratios[-1]), math.log(SD.ratios[0])
    for num_steps, golden in zip(MAKER.STEPS, GOLDENS["k-diffusion/dpm_fast"], strict=True):
        # Its own levels: equal steps in the logarithm, each parted by the order it is walked with.
        whole, left = divmod(num_steps, 3)
        orders = [3] * whole + [left] if left else [3] * (whole - 1) + [2, 1]
        places = [0.0]
        for index, order in enumerate(orders):
            places += [(index + k / order) / len(orders) for k in range(1, order + 1)]
        levels = Levels([path(math.exp(high + f * (low - high))) for f in places], path=path)
        found, evaluations = last_over_alpha(get_sampler("dpm_fast"), levels)
        assert_close(found, golden, 1e-12, num_steps)
        assert evaluations == num_steps


@pytest.mark.parametrize("path", PATHS)
def test_dpm_adaptive_equals_k_diffusion(path):
    levels = Levels([path(SD.ratios[-1]), path(SD.ratios[0])], path=path)
    goldens = GOLDENS["k-diffusion/dpm_adaptive"], GOLDENS["k-diffusion/dpm_adaptive/evaluations"]
    for order, golden, expected in zip((2, 3), *goldens, strict=True):
        sampler = get_sampler("dpm_adaptive", solver_order=order)
        found, evaluations = last_over_alpha(sampler, levels)
        assert_close(found, golden, 1e-11, order)
        assert evaluations == expected


@pytest.mark.parametrize("library", MAKER.PREDICTIONS)
@pytest.mark.parametrize("case", MAKER.TIMESTEPS)
def test_models_told_timesteps_equal_diffusers(case, library):
    name, settings, *_ = MAKER.TIMESTEPS[case]
    timesteps = list(GOLDENS[f"{library}/{case}/timesteps"])
    for num_steps, golden in zip(MAKER.STEPS, GOLDENS[f"{library}/{case}"], strict=True):
        own, timesteps = timesteps[:num_steps], timesteps[num_steps:]
        levels = from_timesteps(SD, own, final_sigma="first" if name == "tcd" else "zero")
        last = run(get_sampler(name, **settings), levels)[-1]
        assert_close(last.latent, golden, 1e-12, num_steps)


@pytest.mark.references
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers itself
def test_goldens_are_what_the_references_make_today():
    pytest.importorskip("diffusers")
    pytest.importorskip("scipy")
    if importlib.util.find_spec("k_diffusion") is None:
        pytest.skip("k-diffusion is not installed: pip install --no-deps k-diffusion")
    made = MAKER.make()
    assert set(made) == set(GOLDENS)
    for name, array in made.items():
        np.testing.assert_allclose(GOLDENS[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


# ---- which schedules ---------------------------------------------------------------------------


def spread(sampler, schedule, num_steps=20):
    """How much of the spread of normal data there is at the end of a run, 1 where it is right."""
    table = NoiseTable.scaled_linear()
    (_, deviation) = gaussian_errors(sampler, make_levels(schedule, table, num_steps))[-1]
    return 1 + deviation / math.sqrt(VARIANCE)


@pytest.mark.parametrize("name", OURS)
def test_who_keeps_too_much_spread_on_a_schedule_says_so(name):
    sampler = get_sampler(name)
    for info in list_schedules():
        if spread(sampler, info.name) > 1.5:
            said = mismatch(sampler, f"{info.qualified_name}:final_sigma=zero")
            assert said is not None
            assert repr(info.name) in said
            assert "'exponential'" in said
        else:
            assert mismatch(sampler, info.name) is None or spread(sampler, info.name, 8) > 1.5


def test_a_sampler_without_noise_goes_with_every_schedule():
    assert mismatch(get_sampler("dpmpp_3m"), "linspace") is None
    assert mismatch(get_sampler("dpmpp_3m", eta=0.5), "linspace")
    assert mismatch(lambda denoise, x, levels, noise: x, "linspace") is None


# ---- each method ---------------------------------------------------------------------------------


def test_ddim_without_eta_is_euler_to_the_bit():
    levels = leading(SD, 10)
    for a, b in zip(
        run(get_sampler("ddim"), levels), run(get_sampler("euler"), levels), strict=True
    ):
        np.testing.assert_array_equal(a.latent, b.latent)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan"), float("inf")])
def test_ddim_checks_eta(eta):
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\], got"):
        get_sampler("ddim", eta=eta)


def test_ddim_draws_nothing_for_sigma_zero():
    draws = []
    levels = leading(SD, 5)

    def noise(now, nxt):
        draws.append((now, nxt))
        return np.zeros(MAKER.SHAPE)

    list(sample(get_sampler("ddim", eta=1.0), toy_denoise, MAKER.inputs()[0], levels, noise))
    assert draws == list(pairwise(levels[:-1]))


def test_pndm_starts_at_zero_terminal_snr():
    # The first interval takes the believed x0; the method proper starts at the second.
    levels = Levels([Level(999, 0.0, 1.0), *leading(SD, 6)], path=SD.at_ratio)
    steps = run_constant(get_sampler("pndm"), levels)
    assert steps[0].evaluations == 1
    assert steps[1].evaluations == 3
    np.testing.assert_allclose(steps[-1].latent, 0.7, atol=1e-12)


def test_averaging_v_is_of_lower_order_than_averaging_noise():
    # samplers/README.md, "PNDM and v".
    table = for_run(SD, final_sigma="first")
    for num_steps, noise, v in [(4, 0.070, 0.300), (20, 0.007, 0.061), (50, 0.001, 0.025)]:
        for sampler, error in (("pndm", noise), ("pndm:combine=v", v)):
            levels = make_levels("leading", table, num_steps)
            found = sum(gaussian_errors(get_sampler(sampler), levels)[-1])
            assert found == pytest.approx(error, abs=6e-4)
    with pytest.raises(ValueError, match="combine must be 'noise' or 'v', got 'x0'"):
        get_sampler("pndm:combine=x0")


def test_averaged_v_starts_at_zero_terminal_snr():
    levels = Levels([Level(999, 0.0, 1.0), *leading(SD, 6)], path=SD.at_ratio)
    steps = run_constant(get_sampler("pndm:combine=v"), levels)
    assert steps[0].evaluations == 2
    np.testing.assert_allclose(steps[-1].latent, 0.7, atol=1e-12)


def run_constant(sampler, levels):
    x, picture = np.zeros((2, 2)), np.full((2, 2), 0.7)
    return list(sample(sampler, lambda x, level: picture, x, levels, lambda now, nxt: x))


# Measured between 64 and 128 steps, on VP, VE and flow: the table of docs/sampler-contract.md.
ORDERS = {
    "ddim": (1.00, 0.99, 0.99),
    "ddpm": (0.97, 0.98, 0.97),
    "deis": (1.86, 2.05, 1.98),
    "dpm2": (2.01, 2.01, 2.01),
    "dpm2_ancestral": (1.99, 2.02, 1.99),
    "dpm_adaptive": (2.95, 3.04, 2.96),
    "dpm_fast": (4.58, 4.44, 4.30),
    "dpmpp_2m": (1.99, 1.97, 2.01),
    "dpmpp_2m_cfg_pp": (1.99, 1.97, 2.01),
    "dpmpp_2m_sde": (2.02, 1.97, 2.03),
    "dpmpp_2s_ancestral": (1.95, 1.98, 1.96),
    "dpmpp_2s_ancestral_cfg_pp": (1.95, 1.98, 1.96),
    "dpmpp_3m": (1.75, 2.09, 1.73),
    "dpmpp_3m_sde": (2.24, 2.09, 2.12),
    "dpmpp_sde": (2.12, 2.07, 2.13),
    "er_sde": (2.05, 2.07, 2.06),
    "euler": (1.00, 0.99, 0.99),
    "euler_ancestral": (0.97, 0.98, 0.97),
    "euler_ancestral_cfg_pp": (0.97, 0.98, 0.97),
    "euler_cfg_pp": (1.00, 0.99, 0.99),
    "gradient_estimation": (0.92, 0.95, 0.94),
    "heun": (2.01, 2.01, 2.01),
    "heunpp2": (1.00, 1.00, 0.99),
    "ipndm": (1.77, 2.00, 1.97),
    "ipndm_v": (2.34, 3.40, 2.66),
    "lms": (2.34, 3.40, 2.66),
    "pndm": (2.01, 2.00, 2.01),
    "res_multistep": (2.00, 2.00, 2.02),
    "restart": (2.00, 2.01, 2.00),
    "sa_solver": (2.95, 2.83, 3.04),
    "seeds_2": (1.97, 1.98, 1.97),
    "seeds_3": (1.81, 1.85, 1.80),
    "tcd": (0.13, 0.14, 0.14),
    "unipc": (1.95, 1.85, 1.92),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name):
    found = [measure_order(get_sampler(name), path)[0] for path in ("VP", "VE", "flow")]
    np.testing.assert_allclose(found, ORDERS[name], rtol=0, atol=0.006)


def test_ancestral_euler_is_ddpm_and_ddim_with_all_noise_drawn_anew():
    levels = leading(SD, 10)
    expected = run(get_sampler("ddpm"), levels)[-1].latent
    for sampler in (get_sampler("ddim", eta=1.0), get_sampler("euler_ancestral")):
        np.testing.assert_array_equal(run(sampler, levels)[-1].latent, expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("dpm2_ancestral", {"eta": 0.0}), ("dpm2", {})),
        (("dpmpp_2m_sde", {"eta": 0.0}), ("dpmpp_2m", {})),
        (("dpmpp_3m_sde", {"eta": 0.0}), ("dpmpp_3m", {})),
        (("dpmpp_sde", {"eta": 0.0}), ("dpmpp_2s_ancestral", {"eta": 0.0})),
        (("euler_ancestral", {"eta": 0.0}), ("euler", {})),
        (("tcd", {"eta": 0.0}), ("euler", {})),
        (("lms", {"solver_order": 1}), ("euler", {})),
        (("deis", {"solver_order": 1}), ("euler", {})),
        (("gradient_estimation", {"gamma": 1.0}), ("euler", {})),
        (("ipndm_v", {"solver_order": 1}), ("euler", {})),
        (("res_multistep", {}), ("dpmpp_2m", {"solver": "heun"})),
        (("sa_solver", {"tau": 0.0, "predictor_order": 1, "corrector_order": 1}), ("euler", {})),
        (("seeds_2", {"eta": 0.0}), ("dpmpp_2s_ancestral", {"eta": 0.0})),
    ],
)
def test_methods_that_coincide(one, other):
    levels = karras(SD, 7)
    a, b = (run(get_sampler(name, **settings), levels) for name, settings in (one, other))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x.latent, y.latent, rtol=1e-12, atol=1e-14)


# For n steps of a run to sigma 0.
EVALUATIONS = {
    "pndm": lambda n: n + (n > 1),
    "heun": lambda n: 2 * n - 1,
    "dpm2": lambda n: 2 * n - 1,
    "dpm2_ancestral": lambda n: 2 * n - 1,
    "dpmpp_2s_ancestral": lambda n: 2 * n - 1,
    "dpmpp_2s_ancestral_cfg_pp": lambda n: 2 * n - 1,
    "dpmpp_sde": lambda n: 2 * n - 1,
    "heunpp2": lambda n: max(3 * (n - 1), 1),
    "seeds_2": lambda n: 2 * n - 1,
    "seeds_3": lambda n: 3 * n - 2,
}


@pytest.mark.parametrize("name", [n for n in OURS if n not in ("dpm_adaptive", "restart")])
def test_evaluations(name):
    for num_steps in (1, 2, 3, 20):
        *_, last = run(get_sampler(name), karras(SD, num_steps))
        assert last.evaluations == EVALUATIONS.get(name, lambda n: n)(num_steps)


@pytest.fixture(scope="module")
def every_run():
    """Levels of every installed schedule for each number of steps, whole and the last half."""
    found = {}
    for name in [info.qualified_name for info in list_schedules()]:
        for num_steps in (1, 2, 3, 50):
            whole = get_schedule(name)(SD, num_steps)
            found[name, num_steps, "whole"] = whole
            found[name, num_steps, "suffix"] = whole[num_steps // 2 :]
    return found


@pytest.mark.parametrize("name", [info.qualified_name for info in list_samplers()])
def test_every_number_of_steps_of_every_schedule(name, every_run):
    sampler = get_sampler(name)
    for case, levels in every_run.items():
        with np.errstate(all="raise"):
            steps = run(sampler, levels)
        assert len(steps) == len(levels) - 1, case
        assert all(np.isfinite(step.latent).all() for step in steps), case


@pytest.mark.parametrize("name", OURS)
def test_few_steps_from_alpha_zero(name):
    pure, end = Level(999, 0.0, 1.0), Level(0, 1.0, 0.0)
    middle = [SD.level(600), SD.level(200), SD.level(0)]
    start = MAKER.inputs()[0]
    for rest in ([end], middle[:1], [*middle[:1], end], middle[:2], [*middle, end]):
        levels = Levels([pure, *rest], path=SD.at_ratio)
        steps = sample(
            get_sampler(name),
            alike(lambda x, level: np.tanh(x)),
            start,
            levels,
            lambda now, nxt: start,
        )
        assert all(np.isfinite(step.latent).all() for step in steps)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        *[
            (name, settings, message)
            for name in (
                "dpm2",
                "dpm2_ancestral",
                "dpmpp_2m",
                "dpmpp_2m_sde",
                "dpmpp_2s_ancestral",
                "dpmpp_3m",
                "dpmpp_3m_sde",
                "dpmpp_sde",
                "euler_ancestral",
                "euler_ancestral_cfg_pp",
                "euler_cfg_pp",
                "dpmpp_2s_ancestral_cfg_pp",
                "seeds_2",
                "seeds_3",
            )
            for settings, message in (
                ({"eta": 1.1}, r"eta must lie in \[0, 1\], got 1.1"),
                ({"eta": -0.1}, r"eta must lie in \[0, 1\], got -0.1"),
                ({"s_noise": -1.0}, "s_noise must be a finite number from 0 up, got -1.0"),
                ({"s_noise": math.inf}, "s_noise must be a finite number from 0 up, got inf"),
            )
        ],
        ("ddpm", {"variance": "learned"}, "variance must be 'small' or 'large', got 'learned'"),
        ("deis", {"solver_order": 4}, "solver_order must be 1, 2 or 3, got 4"),
        ("dpm_adaptive", {"solver_order": 1}, "solver_order must be 2 or 3, got 1"),
        ("dpm_adaptive", {"rtol": 0.0}, "rtol must be above 0, got 0.0"),
        ("dpm_adaptive", {"atol": math.inf}, "atol must be above 0, got inf"),
        ("dpm_adaptive", {"h_init": -1.0}, "h_init must be above 0, got -1.0"),
        ("dpm_adaptive", {"accept_safety": math.nan}, "accept_safety must be above 0, got nan"),
        ("dpm_adaptive", {"accept_safety": 1.5}, "accept_safety must be at most 1, .*"),
        ("dpmpp_2m", {"solver": "euler"}, "solver must be 'midpoint' or 'heun', got 'euler'"),
        ("dpmpp_sde", {"r": 1.0}, "r must lie between 0 and 1, got 1.0"),
        ("lcm", {"timestep_scaling": 0.0}, "timestep_scaling must be above 0, got 0.0"),
        ("lms", {"solver_order": 5}, "solver_order must be 1, 2, 3 or 4, got 5"),
        ("er_sde", {"solver_order": 4}, "solver_order must be 1, 2 or 3, got 4"),
        ("er_sde", {"s_noise": -1.0}, "s_noise must be a finite number from 0 up, got -1.0"),
        ("gradient_estimation", {"gamma": 0.5}, "gamma must be a finite number from 1 up, got 0.5"),
        ("ipndm_v", {"solver_order": 5}, "solver_order must be 1, 2, 3 or 4, got 5"),
        ("sa_solver", {"tau": -1.0}, "tau must be a finite number from 0 up, got -1.0"),
        ("sa_solver", {"predictor_order": 0}, "predictor_order must be 1, 2, 3 or 4, got 0"),
        ("sa_solver", {"corrector_order": 5}, "corrector_order must be 1, 2, 3 or 4, got 5"),
        ("sa_solver", {"low": 2, "high": 1}, "0 <= low < high must hold, got low 2 and high 1"),
        ("seeds_2", {"r": 1.0}, "r must lie between 0 and 1, got 1.0"),
        ("seeds_3", {"r1": 0.8}, "0 < r1 < r2 < 1 must hold, got r1 0.8 and r2 0.66.*"),
        ("restart", {"low": 2.0}, "0 < low < high must hold, got low 2.0 and high 2.0"),
        ("restart", {"high": math.inf}, "0 < low < high must hold, got low 0.1 and high inf"),
        ("restart", {"times": 0}, "times must be at least 1, got 0"),
        ("tcd", {"eta": -0.1}, r"eta must lie in \[0, 1\], got -0.1"),
        ("unipc", {"solver_order": 4}, "solver_order must be 1, 2 or 3, got 4"),
        ("unipc", {"variant": "bh3"}, "variant must be 'bh1' or 'bh2', got 'bh3'"),
    ],
)
def test_settings_are_checked(name, settings, message):
    with pytest.raises(ValueError, match=f"^{message}.$"):
        get_sampler(name, **settings)


def test_restart_walks_its_interval_again():
    levels = karras(SD, 12)
    within = [level for level in levels if 0.3 <= level.ratio <= 5.0]
    draws = []

    def noise(now, nxt):
        draws.append((now, nxt))
        return np.zeros(MAKER.SHAPE)

    sampler = get_sampler("restart", low=0.3, high=5.0, times=3)
    steps = list(sample(sampler, toy_denoise, MAKER.inputs()[0], levels, noise))
    assert draws == [(within[0], within[-1])] * 3
    again = [step for step in steps if step.level == within[-1]]
    assert [step.evaluations for step in again] == [2 * again[0].index + 3 * 2 * (len(within) - 1)]


def test_restart_with_one_level_in_its_interval_is_heun():
    levels = karras(SD, 12)
    middle = levels[6].ratio
    sampler = get_sampler("restart", low=0.99 * middle, high=1.01 * middle)
    steps = list(sample(sampler, toy_denoise, MAKER.inputs()[0], levels, None))  # draws nothing
    for step, expected in zip(steps, run(get_sampler("heun"), levels), strict=True):
        np.testing.assert_array_equal(step.latent, expected.latent)


def test_brownian_samplers_say_so():
    found = {n for n in OURS if getattr(get_sampler(n), "brownian", False)}
    assert found == {
        "dpmpp_sde",
        "dpmpp_2m_sde",
        "dpmpp_3m_sde",
        "er_sde",
        "sa_solver",
        "seeds_2",
        "seeds_3",
    }
    for name in found - {"er_sde"}:
        still = get_sampler(name, **{"tau" if name == "sa_solver" else "eta": 0.0})
        assert not still.brownian
        assert not still.stochastic


def test_dpm_adaptive_takes_more_steps_for_less_error():
    levels = Levels([SD.level(999), SD.level(0)], path=SD.at_ratio)
    counts = [
        last_over_alpha(get_sampler("dpm_adaptive", rtol=rtol, atol=rtol), levels)[1]
        for rtol in (0.1, 0.01, 0.001)
    ]
    assert counts == sorted(set(counts))


def test_dpm_adaptive_goes_on_after_many_short_intervals():
    # A step that an interval's end cut short must not let the next be tried at any length.
    levels = exponential(SD, 400, final_sigma="first")
    levels = Levels([*levels[:200], levels[-1]], path=levels.path)
    sampler = get_sampler("dpm_adaptive", rtol=1e-3, atol=1e-3)
    *_, before, last = sample(sampler, clean, MAKER.inputs()[0], levels, None)
    assert before.evaluations == 3 * 199
    assert last.evaluations - before.evaluations < 40


def test_dpm_adaptive_does_not_search_for_ever_where_the_model_is_not_finite():
    levels = Levels([SD.level(999), SD.level(0)], path=SD.at_ratio)
    nothing = np.full(MAKER.SHAPE, np.nan)
    run = sample(get_sampler("dpm_adaptive"), lambda x, level: nothing, nothing, levels, None)
    with pytest.raises(FloatingPointError, match="not finite"):
        next(run)


def test_tcd_goes_past_the_next_level_and_back():
    levels = from_timesteps(SD, [800, 401], final_sigma="first")
    draws = []

    def noise(now, nxt):
        draws.append((now, nxt))
        return np.ones(MAKER.SHAPE)

    x = MAKER.inputs()[0]
    first = next(sample(get_sampler("tcd", eta=0.5), toy_denoise, x, levels, noise))
    past, nxt = SD.level(200), levels[1]
    there = transfer(x, toy_denoise(x, levels[0]), levels[0], past)
    gain = nxt.alpha / past.alpha
    expected = gain * there + math.sqrt(nxt.sigma**2 - (gain * past.sigma) ** 2)
    np.testing.assert_allclose(first.latent, expected, rtol=1e-12)
    assert draws == [(levels[0], nxt)]


def test_tcd_stays_on_its_way_whatever_the_timesteps_are():
    # Karras' own, which fall below 0, and a clean level that has one of its own.
    def path(ratio):
        return Level(math.log(ratio) / 4 if ratio else -math.inf, 1.0, ratio)

    levels = Levels([*map(path, (10.0, 1.0, 0.02, 0.01)), Level(5.0, 1.0, 0.0)], path=path)
    for eta in (0.1, 0.9, 1.0):
        steps = run_constant(get_sampler("tcd", eta=eta), levels)
        np.testing.assert_allclose(steps[-1].latent, 0.7, atol=1e-12)


def test_a_search_for_a_short_enough_step_ends():
    never = get_sampler("dpm_adaptive", rtol=1e-30, atol=1e-30)
    levels = karras(NoiseTable.scaled_linear(), 2)
    x = np.random.default_rng(0).standard_normal((2, 3))
    with pytest.raises(FloatingPointError, match=r"No step from .* allow more error"):
        list(never(lambda x, level: np.tanh(x), x, levels, None))
