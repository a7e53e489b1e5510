from __future__ import annotations

import ast
import importlib.util
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from keras_sd.noise import Level, Levels, NoiseTable, denoised
from keras_sd.registry import get_sampler, list_samplers
from keras_sd.sampling import sample
from keras_sd.schedules import get_schedule, leading
from keras_sd.testing import measure_order, parametrize_with_checks

FIXTURES = Path(__file__).parent / "fixtures"
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


def run(sampler, levels, dtype=np.float64):
    start, noise = (array.astype(dtype) for array in MAKER.inputs())
    draws = iter(noise)
    return list(sample(sampler, toy_denoise, start, levels, lambda now, nxt: next(draws)))


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


def test_ours_are_installed_through_their_entry_points():
    found = {i.name: i.value for i in list_samplers() if i.distribution == "keras-sd"}
    assert found["ddim"] == "keras_sd_samplers.ddim:DDIM"
    assert found["pndm"] == "keras_sd_samplers.pndm:PNDM"
    assert found["euler"] == "keras_sd_samplers.euler:Euler"


@parametrize_with_checks([info.qualified_name for info in list_samplers()])
def test_every_installed_sampler_keeps_the_contract(sampler, check):
    check(sampler)


@parametrize_with_checks([get_sampler("ddim", eta=0.3), get_sampler("ddim", eta=1.0)])
def test_stochastic_ddim_keeps_the_contract(sampler, check):
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
                assert name in allowed or name.split(".")[0] in sys.stdlib_module_names, file


# ---- parity with diffusers (golden values, float64) ----------------------------------------------


@pytest.mark.parametrize("num_steps", MAKER.STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_equals_diffusers(eta, num_steps):
    levels = leading(SD, num_steps, final_sigma="first")
    steps = assert_golden(f"ddim-{eta}", get_sampler("ddim", eta=eta), levels, 1e-12)
    assert steps[-1].evaluations == num_steps


@pytest.mark.parametrize("num_steps", MAKER.STEPS)
def test_pndm_equals_diffusers(num_steps):
    levels = leading(SD, num_steps, final_sigma="first")
    steps = assert_golden("pndm", get_sampler("pndm"), levels, 1e-12)
    assert steps[-1].evaluations == (num_steps + 1 if num_steps > 1 else 1)


@pytest.mark.parametrize(
    ("spacing", "num_steps"),
    # One linspace step starts at timestep 0 in diffusers, at the noisiest here.
    [(s, n) for s in MAKER.SPACINGS for n in MAKER.STEPS if (s, n) != ("linspace", 1)],
)
def test_euler_equals_diffusers(spacing, num_steps):
    levels = get_schedule(spacing)(SD, num_steps)
    steps = assert_golden(f"euler-{spacing}", get_sampler("euler"), levels, 1e-12)
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


@pytest.mark.references
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers itself
def test_goldens_are_what_diffusers_makes_today():
    pytest.importorskip("diffusers")
    made = MAKER.make()
    assert set(made) == set(GOLDENS)
    for name, array in made.items():
        np.testing.assert_allclose(GOLDENS[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


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


def run_constant(sampler, levels):
    x, picture = np.zeros((2, 2)), np.full((2, 2), 0.7)
    return list(sample(sampler, lambda x, level: picture, x, levels, lambda now, nxt: x))


@pytest.mark.parametrize("path", ["VP", "VE", "flow"])
@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (get_sampler("ddim"), 1),
        (get_sampler("ddim", eta=1.0), 1),
        (get_sampler("euler"), 1),
        (get_sampler("pndm"), 2),
    ],
)
def test_order_of_convergence(sampler, expected, path):
    order, errors = measure_order(sampler, path)
    assert abs(order - expected) < 0.05
    assert errors[128] < (0.01 if expected == 1 else 1e-4)


# Keras hands torch tensors to np.array, which NumPy 2 finds wanting in torch's __array__.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["ddim", "pndm", "euler"])
def test_tensors_of_the_current_backend(name):
    ops = pytest.importorskip("keras").ops
    settings = {"eta": 0.5} if name == "ddim" else {}
    start, noise = MAKER.inputs()
    levels = leading(SD, 6)

    def final(convert, denoise):
        draws = iter(noise.astype("float32"))
        steps = sample(
            get_sampler(name, **settings),
            denoise,
            convert(start.astype("float32")),
            levels,
            lambda now, nxt: convert(next(draws)),
        )
        return list(steps)[-1].latent

    expected = final(np.asarray, lambda x, level: denoised(x, np.tanh(x), level))
    tensor = final(ops.convert_to_tensor, lambda x, level: denoised(x, ops.tanh(x), level))
    assert ops.is_tensor(tensor)
    assert np.asarray(ops.convert_to_numpy(tensor)).dtype == np.float32
    np.testing.assert_allclose(ops.convert_to_numpy(tensor), expected, rtol=2e-5, atol=2e-6)
