"""The schedulers of diffusers: the noise of a model, and the sampler and schedule of its runs.

What one of them calls a setting is here a sampler, a schedule, or a setting of either. Each that
changes what a run computes is followed, noted or, where it changes the noise, refused. Their
pipelines of Stable Diffusion set `steps_offset` to 1 and `clip_sample` to false whatever the file
says, and so do runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from keras_sd.config import MAX_TIMESTEPS, Defaults, NoiseConfig
from keras_sd.specs import format_spec
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.readers import WeightsError, shown

SIGMAS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}
SPACINGS = {name: name for name in ("leading", "linspace", "trailing")}

# FolderSettings that have to be one of these; the first is diffusers' default.
FIXED: dict[str, tuple[Any, ...]] = {
    "timestep_type": ("discrete",),
    "trained_betas": (None,),
    "use_flow_sigmas": (False, None),
}
# What changes a run and has nothing here that it could be; the first is diffusers' default.
NOTED: dict[str, tuple[Any, ...]] = {
    "disable_corrector": ([], None),
    "interpolation_type": ("linear",),
    "lambda_min_clipped": (float("-inf"), None, "-inf", "-Infinity"),
    "noise_sampler_seed": (None,),
    "predict_x0": (True,),
    "sigma_max": (None,),
    "sigma_min": (None,),
    "solver_p": (None,),
    "thresholding": (False,),
}
_SHORT = "runs of less than 15 steps end with steps of lower order in diffusers, and here do not"
_LOWEST = (
    "diffusers' first latent has the noise of the first level, up to 0.3 % less than here, where "
    "it is of unit variance"
)
_STANDS = "the last step stands still in diffusers; here the levels of all steps differ"

Spec = tuple[str, dict[str, Any]]
"""Name and settings."""


@dataclass(frozen=True)
class Kind:
    """What a class of theirs is here.

    Attributes:
        sampler: from its settings, which may note what it cannot follow; or a name.
        grid: how it places timesteps. `"each"`: each sigma is that of a timestep, and those of
            Karras and others lie between the first and the last of them. `"multistep"`: of a step
            more the last is left out, and Karras' are over all of the noise. `"steps"`: whole
            timesteps, without other sigmas. `"distilled"`: those of consistency models.
        end: where a run ends: a fixed place, or the setting that says it.
        betas: the defaults of `beta_schedule`, `beta_start` and `beta_end`.
        whole: the model is told whole timesteps with Karras' sigmas.
        spacing: the default of `timestep_spacing`.
    """

    sampler: str | Callable[[FolderSettings, list[str]], Spec]
    grid: Literal["each", "multistep", "steps", "distilled"]
    end: str = "zero"
    betas: tuple[str, float, float] = ("linear", 0.0001, 0.02)
    whole: bool = False
    spacing: str = field(default="")

    def default_spacing(self) -> str:
        return self.spacing or ("leading" if self.grid in ("steps", "distilled") else "linspace")


def _one_of(
    given: FolderSettings, key: str, default: Any, known: Mapping[Any, Any], notes: list
) -> Any:
    """What a value is here; another is noted, and the default's taken."""
    value = given.take(key, default)
    if isinstance(value, (str, int, bool)) and value in known:
        return known[value]
    _note(given, key, notes)
    return known[default]


def _note(given: FolderSettings, key: str, notes: list[str], why: str = "") -> None:
    why = why or "which runs here do not follow"
    notes.append(f"the scheduler's {key} is {shown(given.values.get(key))}, {why}")


def _order(given: FolderSettings, default: int, notes: list[str]) -> int:
    return int(_one_of(given, "solver_order", default, {1: 1, 2: 2, 3: 3}, notes))


def _pndm(given: FolderSettings, notes: list[str]) -> Spec:
    if not given.flag("skip_prk_steps", False):
        notes.append("the scheduler's skip_prk_steps is False; 'pndm' here skips those steps")
    # It averages what the model predicts.
    v = given.values.get("prediction_type") == "v_prediction"
    return "pndm", {"combine": "v"} if v else {}


def _ddpm(given: FolderSettings, notes: list[str]) -> Spec:
    known = {"fixed_small": "small", "fixed_large": "large"}
    variance = _one_of(given, "variance_type", "fixed_small", known, notes)
    if variance == "small":
        return "ddpm", {}
    notes.append("the last step of diffusers adds noise to the clean latent; here it does not")
    return "ddpm", {"variance": variance}


def _lcm(given: FolderSettings, notes: list[str]) -> Spec:
    scaling = given.number("timestep_scaling", 10.0)
    return "lcm", {} if scaling == 10 else {"timestep_scaling": scaling}


def _multistep(given: FolderSettings, notes: list[str]) -> Spec:
    order = _order(given, 2, notes)
    kinds = {"dpmsolver++": 0, "sde-dpmsolver++": 1, "dpmsolver": 0, "sde-dpmsolver": 1, "deis": 0}
    stochastic = bool(_one_of(given, "algorithm_type", "dpmsolver++", kinds, notes))
    if given.values.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver") and order > 1:
        _note(given, "algorithm_type", notes, "of noise estimates; here is the one with ++")
    solvers = {"midpoint": "midpoint", "heun": "heun"} | dict.fromkeys(
        ("logrho", "bh1", "bh2"), "midpoint"
    )
    solver = _one_of(given, "solver_type", "midpoint", solvers, notes)
    _note_variance(given, notes)
    lower, euler = given.flag("lower_order_final", True), given.flag("euler_at_final", False)
    ends_clean = given.values.get("final_sigmas_type", "zero") == "zero"
    if order == 1:
        return "ddim", {"eta": 1} if stochastic else {}
    # A step to sigma 0 is of order 1 anyway.
    if euler and not ends_clean:
        _note(given, "euler_at_final", notes)
    if lower and (order == 3 or not ends_clean):
        notes.append(f"the scheduler's lower_order_final is True: {_SHORT}")
    if order == 3:
        if solver != "heun":
            _note(given, "solver_type", notes, "which the second step here does not follow")
        return "dpmpp_3m_sde" if stochastic else "dpmpp_3m", {}
    name = "dpmpp_2m_sde" if stochastic else "dpmpp_2m"
    return name, {} if solver == "midpoint" else {"solver": solver}


def _singlestep(given: FolderSettings, notes: list[str]) -> Spec:
    order = _order(given, 2, notes)
    given.flag("lower_order_final", False)
    kinds = {"dpmsolver++": 0, "dpmsolver": 0, "sde-dpmsolver++": 1}
    eta = int(_one_of(given, "algorithm_type", "dpmsolver++", kinds, notes))
    _note_variance(given, notes)
    if order == 1:
        return "ddim", {"eta": eta} if eta else {}
    notes.append(
        f"the folder asks for DPMSolverSinglestepScheduler of order {order}, of whose steps each "
        "is one evaluation; here it is 'dpmpp_2s_ancestral', each step of which takes two: half as "
        "many steps are as much work"
    )
    return "dpmpp_2s_ancestral", {"eta": eta}


def _note_variance(given: FolderSettings, notes: list[str]) -> None:
    if given.take("variance_type") is not None:
        _note(given, "variance_type", notes)


def _unipc(given: FolderSettings, notes: list[str]) -> Spec:
    settings: dict[str, Any] = {}
    if (order := _order(given, 2, notes)) != 2:
        settings["solver_order"] = order
    known = {"bh1": "bh1"} | dict.fromkeys(("bh2", "midpoint", "heun", "logrho"), "bh2")
    if (variant := _one_of(given, "solver_type", "bh2", known, notes)) != "bh2":
        settings["variant"] = variant
    if not given.flag("lower_order_final", True):
        _note(given, "lower_order_final", notes)
    return "unipc", settings


def _deis(given: FolderSettings, notes: list[str]) -> Spec:
    order = _order(given, 2, notes)
    if given.take("algorithm_type", "deis") not in ("deis", "dpmsolver", "dpmsolver++"):
        _note(given, "algorithm_type", notes)
    if given.take("solver_type", "logrho") not in ("logrho", "midpoint", "heun", "bh1", "bh2"):
        _note(given, "solver_type", notes)
    if given.flag("lower_order_final", True) and order > 1:
        notes.append(f"the scheduler's lower_order_final is True: {_SHORT}")
    return "deis", {} if order == 3 else {"solver_order": order}


def _sa_solver(given: FolderSettings, notes: list[str]) -> Spec:
    settings: dict[str, Any] = {"few_steps": True}  # as theirs weighs two values
    orders = {1: 1, 2: 2, 3: 3, 4: 4}
    for key, known in (("predictor_order", orders), ("corrector_order", orders)):
        if (order := _one_of(given, key, 2, known, notes)) != 2:
            settings[key] = order
    if settings.get("corrector_order") == 1:
        _note(
            given, "corrector_order", notes, "whose corrector takes one value; here there is none"
        )
    if given.take("algorithm_type", "data_prediction") != "data_prediction":
        _note(given, "algorithm_type", notes)
    if given.take("tau_func") is not None:
        _note(given, "tau_func", notes, "a function; taken is the one that it has by default")
    _note_variance(given, notes)
    if given.flag("lower_order_final", True) and settings.get("predictor_order") != 1:
        notes.append(
            "the scheduler's lower_order_final is True: the last steps are of lower order in "
            "diffusers, and here are not"
        )
    noise = _read_noise(given, "SASolverScheduler", KINDS["SASolverScheduler"])
    # It draws at the timesteps from 200 to 800, and they are whole.
    if noise.num_train_timesteps <= 200:
        return "sa_solver", {**settings, "tau": 0.0}
    for key, t in (("low", 199.5), ("high", 800.5)):
        if t < noise.num_train_timesteps - 1:
            settings[key] = float(f"{noise.table().level(t).ratio:.6g}")
    return "sa_solver", settings


_K = ("linear", 0.00085, 0.012)
_SCALED = ("scaled_linear", 0.00085, 0.012)

KINDS: dict[str, Kind] = {
    "DDIMScheduler": Kind("ddim", "steps", "set_alpha_to_one"),
    "DDIMParallelScheduler": Kind("ddim", "steps", "set_alpha_to_one"),
    "PNDMScheduler": Kind(_pndm, "steps", "set_alpha_to_one"),
    "DDPMScheduler": Kind(_ddpm, "steps"),
    "DDPMParallelScheduler": Kind(_ddpm, "steps"),
    "EulerDiscreteScheduler": Kind("euler", "each", "final_sigmas_type"),
    "EulerAncestralDiscreteScheduler": Kind("euler_ancestral", "each"),
    "HeunDiscreteScheduler": Kind("heun", "each", betas=_K),
    "LMSDiscreteScheduler": Kind("lms", "each"),
    "KDPM2DiscreteScheduler": Kind("dpm2", "each", betas=_K, whole=True),
    "KDPM2AncestralDiscreteScheduler": Kind("dpm2_ancestral", "each", betas=_K, whole=True),
    "DPMSolverSDEScheduler": Kind("dpmpp_sde", "each", betas=_K),
    "DPMSolverMultistepScheduler": Kind(_multistep, "multistep", "final_sigmas_type"),
    "DPMSolverSinglestepScheduler": Kind(_singlestep, "multistep", "final_sigmas_type"),
    "UniPCMultistepScheduler": Kind(_unipc, "multistep", "final_sigmas_type"),
    "DEISMultistepScheduler": Kind(_deis, "multistep", "first"),
    "SASolverScheduler": Kind(_sa_solver, "multistep", "first"),
    "LCMScheduler": Kind(_lcm, "distilled", betas=_SCALED),
    "TCDScheduler": Kind("tcd", "distilled", "first", betas=_SCALED),
}
# Of the same noise, without a sampler here that is theirs.
UNKNOWN = ("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler")
# Whose default differs: Stable Diffusion's files say false.
_TO_ONE = ("DDIMScheduler", "DDIMParallelScheduler")


def read_scheduler(
    given: FolderSettings | None, name: str | None, notes: list[str]
) -> tuple[NoiseConfig, Defaults]:
    """The noise of a model, and what a run does where the caller says nothing.

    Args:
        given: of `scheduler_config.json`, or None where there is none.
        name: of the scheduler's class, as the index has it, or None.
        notes: gets what whoever uses the model should know.

    Raises:
        WeightsError: the noise is not one that we know; the message names the file and the setting.
    """
    if given is None:
        notes.append(
            "the folder has no scheduler: taken are Stable Diffusion's noise and epsilon prediction"
        )
        return NoiseConfig(), Defaults()
    name = name or given.take("_class_name")
    if not isinstance(name, str) or name not in (*KINDS, *UNKNOWN):
        raise WeightsError(
            f"{given.path}: a {shown(name)} is not known to have the noise of Stable Diffusion "
            f"1.x and 2.x; known are {', '.join((*KINDS, *UNKNOWN))}"
        )
    kind = KINDS.get(name, KINDS["DDIMScheduler"])
    given.fixed(FIXED)
    noise = _read_noise(given, name, kind)
    if name in UNKNOWN:
        notes.append(f"the folder asks for {name}; a run takes 'ddim' if you name no sampler")
    sampler = (kind.sampler, {}) if isinstance(kind.sampler, str) else kind.sampler(given, notes)
    schedule = _read_schedule(given, kind, noise, notes)
    for key, allowed in NOTED.items():
        if given.take(key, allowed[0]) not in allowed:
            _note(given, key, notes)
    return noise, Defaults(sampler=format_spec(*sampler), schedule=format_spec(*schedule))


def _read_noise(given: FolderSettings, name: str, kind: Kind) -> NoiseConfig:
    schedule, first, last = kind.betas
    start = given.number("beta_start", first, below=1.0)
    end = given.number("beta_end", last, below=1.0)
    if end < start:
        given.refuse("beta_end", f"at least beta_start, {start}")
    final = kind.end
    if final == "set_alpha_to_one":
        final = "zero" if given.flag(final, name in _TO_ONE) else "first"
    elif final == "final_sigmas_type":
        final = given.choice(final, "zero", {"zero": "zero", "sigma_min": "first"})
    betas: dict[str, Literal["scaled_linear", "linear"]] = {
        "scaled_linear": "scaled_linear",
        "linear": "linear",
    }
    try:
        return NoiseConfig(
            beta_schedule=given.choice("beta_schedule", schedule, betas),
            beta_start=start,
            beta_end=end,
            num_train_timesteps=given.size("num_train_timesteps", 1000, most=MAX_TIMESTEPS),
            prediction=given.choice(
                "prediction_type",
                "epsilon",
                {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"},
            ),
            zero_terminal_snr=given.flag("rescale_betas_zero_snr", False),
            final_sigma="zero" if final == "zero" else "first",
        )
    except ValueError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{given.path}: {error}") from error


def _read_schedule(given: FolderSettings, kind: Kind, noise: NoiseConfig, notes: list[str]) -> Spec:
    if kind.grid == "distilled":
        steps = given.size("original_inference_steps", 50, most=noise.num_train_timesteps)
        skip = noise.num_train_timesteps // steps
        return "lcm", {} if skip == 20 else {"skip": skip}
    singlestep = kind.sampler is _singlestep  # which has no such setting
    spacing = (
        "linspace"
        if singlestep
        else given.choice("timestep_spacing", kind.default_spacing(), SPACINGS)
    )
    named = [ours for key, ours in SIGMAS.items() if kind.grid != "steps" and given.take(key)]
    lambdas = kind.sampler is _multistep and given.take("use_lu_lambdas")
    if lambdas and not named:
        named = ["exponential"]  # equal steps in the logarithm, as those are
    if named and noise.zero_terminal_snr:
        notes.append(
            f"the scheduler asks for sigmas of {named[0]!r}, which a model of zero terminal SNR "
            f"has no place for: its timestep_spacing, {spacing!r}, is taken alone"
        )
        named = []
    ends_first = noise.final_sigma == "first"
    if kind.grid == "each" and spacing != "leading":
        notes.append(_LOWEST)
        if ends_first and spacing == "linspace":
            notes.append(_STANDS)
    if kind.grid == "multistep":
        if named:
            if ends_first:
                notes.append(_STANDS)
            nearest = named[0] == "karras" or (lambdas and named[0] == "exponential")
            return named[0], {"whole": "nearest" if nearest else "below"}
        if spacing == "linspace":
            return spacing, {"inside": True, "whole": "nearest"}
        return spacing, {"inside": True} if spacing == "leading" else {}
    if kind.grid == "steps":
        if spacing != "linspace":
            return spacing, {}
        if kind.end == "set_alpha_to_one":
            notes.append(
                "the scheduler's timestep_spacing is 'linspace', at which diffusers' steps end "
                "elsewhere than the next one begins; here they meet"
            )
        return spacing, {"whole": "nearest"}
    if not named:
        return spacing, {}
    settings: dict[str, Any] = {} if spacing == "linspace" else {"spacing": spacing}
    if kind.whole and named[0] == "karras":
        settings["whole"] = "nearest"
    return named[0], settings
