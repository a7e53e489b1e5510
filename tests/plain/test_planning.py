"""Memory and time of a run, planned without Keras."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import MERGES, TINY, TINY_2, TINY_REFINER, TINY_XL

from keras_sd import choose, costs, machine, planning
from keras_sd.cli import main
from keras_sd.config import EMOJI, SD_1, SD_2, SDXL, SDXL_LCM, ControlConfig, UNetConfig
from keras_sd.planning import RUNTIMES, plan, weights_of
from keras_sd.plans import DoesNotFitError
from keras_sd.weights.diffusers_folder import write_folder
from keras_sd.weights.int8 import SCALE
from keras_sd.weights.names import diffusers, own
from keras_sd.weights.presets import PRESETS
from keras_sd.weights.save import save_checkpoint, save_preset
from keras_sd.weights.sources import CONFIGS, SOURCES

GB = 10**9


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """A machine of 100 GFLOP a second and 16 GB, without a GPU."""
    monkeypatch.setattr(planning, "_speed", lambda: 1e11)
    monkeypatch.setattr(machine, "free_memory", lambda: 16 * GB)
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr(choose, "expected_policy", lambda: "float32")


def phases(*args, **settings):
    return {phase.name: phase for phase in plan(*args, **settings).phases}


def in_file(path, prefix=""):
    """The numbers in a safetensors file, as its header has them; scales are none of their own."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(
        math.prod(each["shape"])
        for name, each in header.items()
        if name.startswith(prefix) and not name.endswith(SCALE)
    )


# --- weights --------------------------------------------------------------------------


def test_weights_are_those_of_the_file():
    for part, count in weights_of(planning._config("emoji")).items():
        assert count == in_file(PRESETS / "emoji" / "model.safetensors", f"{part}/")


@pytest.mark.parametrize("config", [TINY, TINY_2, TINY_XL], ids=["1", "2", "xl"])
@pytest.mark.parametrize("layout", ["keras_sd", "diffusers", "original"])
def test_weights_are_those_of_the_headers_of_every_layout(config, layout, tmp_path):
    arrays = {
        f"{part}/{each.path}": np.zeros(each.shape, np.float32)
        for part, table in own.tables(config).items()
        for each in table
    }
    path = tmp_path / "model"
    if layout == "keras_sd":
        save_preset(path, config, arrays, MERGES, dtype="float32")
    elif layout == "diffusers":
        write_folder(path, config, arrays, MERGES)
    else:
        path = tmp_path / "model.safetensors"
        save_checkpoint(path, config, arrays)
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    found = plan(path, low_memory=True)
    assert sum(map(in_file, files)) == sum(weights_of(config).values())
    counted = {phase.name: phase.weights for phase in found.phases}
    assert counted["unet"] == 4 * weights_of(config)["unet"]
    assert counted["decode"] == 4 * weights_of(config)["autoencoder"]


def test_weights_of_models_that_everybody_knows():
    assert weights_of(SD_1)["unet"] == 859_520_964
    assert weights_of(SDXL)["unet"] == 2_567_463_684
    assert weights_of(SD_1)["text_encoder"] == 123_060_480
    assert weights_of(SD_1)["autoencoder"] == 83_653_863
    assert weights_of(ControlConfig.of(SD_1.unet))["control"] == 361_279_120


def test_names_have_the_numbers_that_their_files_will_have():
    assert set(CONFIGS) == set(SOURCES)
    for name, source in SOURCES.items():
        count = sum(weights_of(CONFIGS[name]).values())
        # In float32 or float16, and some files have tables and a text layer that is not used.
        assert any(0.8 < count * size / source.file.size < 1.02 for size in (2, 4)), name


# --- operations and tensors -----------------------------------------------------------


def test_operations_of_stable_diffusion_are_as_published():
    # 401 and 1,240 billion products and sums at 512x512, as profilers count them.
    unet = costs.unet(SD_1.unet, 1, (64, 64), 77, 4, costs.fused)
    assert unet.operations == pytest.approx(2 * 401e9, rel=0.02)
    decoder = costs.decoder(SD_1.autoencoder, 1, (64, 64), 4, costs.fused)
    assert decoder.operations == pytest.approx(2 * 1240e9, rel=0.03)


def test_the_decoder_holds_what_its_largest_block_is_given_three_times():
    pixels, width = 512 * 512, 256
    held = costs.decoder(SD_1.autoencoder, 1, (64, 64), 4, costs.fused).held
    assert held == 3 * pixels * width * 4


def test_the_unet_holds_what_the_way_down_has_kept_until_it_is_used():
    config = UNetConfig(widths=(32, 32), heads=(1, 1), depths=(0, 0), blocks=1, middle_depth=0)
    one = 16 * 24 * 32  # features of the finest level
    # There, the first block on the way up: two that are kept, and twice as wide an input, with its
    # norm and its activation.
    held = costs.unet(config, 2, (16, 24), 77, 4, costs.fused).held
    assert held == 2 * 4 * (2 * one + 3 * 2 * one)


def test_scores_are_held_where_no_kernel_is_fused():
    assert costs.fused(2, 8, 4096, 4096) == 0
    assert costs.whole(2, 8, 4096, 4096) == 2 * 8 * 4096**2
    assert costs.chunked(2, 8, 4096, 4096) == 4096**2
    assert costs.chunked(1, 1, 16384, 16384) == 512 * 16384
    assert costs.chunked(2, 8, 1024, 1024) == costs.whole(2, 8, 1024, 1024)
    large = {name: phases(SD_1, backend=name)["unet"].tensors for name in RUNTIMES}
    assert large["tensorflow"] > 2 * large["torch"]


@pytest.mark.parametrize("config", [SD_1, SD_2, SDXL, EMOJI, TINY_XL], ids=lambda c: c.name)
@pytest.mark.parametrize("backend", RUNTIMES)
def test_more_pixels_and_more_pictures_take_more(config, backend):
    def taken(**settings):
        return phases(config, backend=backend, num_steps=2, **settings)

    small = taken(width=256, height=256)
    for larger in (taken(width=512, height=256), taken(width=256, height=256, batch_size=2)):
        for name in ("unet", "decode"):
            assert larger[name].operations > small[name].operations
            # On jax scores are many until they are chunked, so there a larger run may hold less.
            spared = 4 * costs.CHUNK_SCORES if backend == "jax" else 0
            assert larger[name].tensors > small[name].tensors - spared


def test_a_batch_takes_as_many_operations_a_picture():
    one, four = (phases(SD_1, batch_size=count) for count in (1, 4))
    for name in ("text", "unet", "decode"):
        assert four[name].operations == 4 * one[name].operations


def test_half_precision_halves_weights_and_on_a_cpu_no_tensors():
    whole, half, mixed = (
        phases(SD_1, dtype=dtype)["unet"] for dtype in ("float32", "bfloat16", "mixed_bfloat16")
    )
    assert half.weights * 2 == whole.weights
    assert half.tensors == whole.tensors
    assert mixed == whole
    assert "several times as long" in plan(SD_1, dtype="float16").notes[0]
    assert not plan(SD_1).notes
    held = [costs.unet(SD_1.unet, 2, (64, 64), 77, size, costs.fused).held for size in (2, 4)]
    assert held[0] * 2 == held[1]


def test_strips_lower_the_decode_and_only_where_pictures_are_larger():
    plain, tiled = (phases(SD_1, width=1024, height=768, tiled=t) for t in (False, True))
    assert tiled["decode"].tensors < 0.65 * plain["decode"].tensors
    assert tiled["decode"].operations == plain["decode"].operations
    assert tiled["unet"] == plain["unet"]
    assert phases(SD_1, tiled=512) == phases(SD_1)
    assert phases(SD_1, tiled=256)["decode"].tensors < phases(SD_1)["decode"].tensors


def test_low_memory_has_one_network_at_a_time():
    plain, low = (
        plan(SDXL, width=512, height=512),
        plan(SDXL, width=512, height=512, low_memory=True),
    )
    counts = weights_of(SDXL)
    found = {phase.name: phase.weights for phase in low.phases}
    texts = counts["text_encoder"] + counts["text_encoder_2"]
    wanted = {"load": 0, "text": texts, "unet": counts["unet"], "decode": counts["autoencoder"]}
    assert found == {name: 4 * count for name, count in wanted.items()}
    assert low.peak < plain.peak - 4 * texts + GB
    assert low.evaluations == plain.evaluations


def test_a_refiner_and_controls_are_counted():
    both = phases(TINY_XL, refiner=TINY_REFINER, num_steps=10, refine_at=0.5)
    alone = phases(TINY_XL, num_steps=10)
    assert set(both) == {*alone, "refiner text", "refiner unet"}
    counts = [sum(weights_of(config).values()) for config in (TINY_XL, TINY_REFINER)]
    assert both["load"].weights == 4 * sum(counts)
    assert 0 < both["unet"].operations < alone["unet"].operations
    low = phases(TINY_XL, refiner=TINY_REFINER, low_memory=True)
    assert low["refiner unet"].weights == 4 * weights_of(TINY_REFINER)["unet"]


def test_a_controlnet_is_counted(tmp_path):
    config, path = ControlConfig.of(TINY.unet), tmp_path / "control.safetensors"
    table = diffusers.control(config)
    save_file({each.name: np.zeros(each.file_shape, "float16") for each in table}, path)
    size = {"width": 128, "height": 128}
    plain, two = phases(TINY, **size), phases(TINY, control=[path, path], **size)
    assert two["load"].weights - plain["load"].weights == 2 * 4 * weights_of(config)["control"]
    (evaluation, added), whole = (
        walk(numbers, 2, (64, 64), 77, 4, costs.fused)
        for walk, numbers in ((costs.control, config), (costs.unet, TINY.unet))
    )
    assert 0.3 * whole.operations < evaluation.operations < 0.6 * whole.operations
    calls = plan(TINY).evaluations
    more = two["unet"].operations - plain["unet"].operations
    assert more == 2 * calls * evaluation.operations
    assert two["unet"].tensors == 2 * (max(whole.held, evaluation.held) + 2 * added)
    assert phases(TINY, control=str(path))["load"].weights < two["load"].weights


# --- evaluations ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "evaluations", "rows"),
    [
        ({}, 20, 40),
        ({"guidance_scale": 1.0}, 20, 20),
        ({"guidance_interval": (0.0, 0.0001)}, 20, 20),
        ({"guidance_method": "pag"}, 40, 60),
        ({"sampler": "DPM++ 2M Karras"}, 20, 40),
        ({"sampler": "heun", "schedule": "karras"}, 39, 78),
    ],
)
def test_evaluations_are_those_of_the_sampler_with_guidance(settings, evaluations, rows):
    found = plan(SD_1, num_steps=20, **settings)
    assert found.evaluations == evaluations
    unet = {phase.name: phase for phase in found.phases}["unet"]
    row = costs.unet(SD_1.unet, 1, (64, 64), 77, 4, costs.fused).operations
    assert unet.operations == rows * row


def test_a_unet_that_is_told_the_scale_is_asked_once():
    found = phases(SDXL_LCM)["unet"]
    row = costs.unet(SDXL_LCM.unet, 1, (128, 128), 77, 4, costs.fused).operations
    assert found.operations == 4 * row


def test_few_steps_are_those_of_the_kind():
    assert plan(SD_1, few_steps="lcm").evaluations == 4


# --- what fits ------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_what_would():
    found = plan(SD_1, batch_size=4, width=768, height=768, memory=8 * GB)
    assert found.fits is False
    with pytest.raises(DoesNotFitError, match=r"takes \d+\.\d\d GB \(decode\), and 8\.00 GB"):
        found.check()
    assert {"tiled=True", "batch_size=1"} <= set(found.would_fit)
    assert all(taken <= 8 * GB for taken in found.would_fit.values())


def test_what_would_fit_does():
    asked = {"batch_size": 4, "width": 768, "height": 512, "memory": 8 * GB}
    found = plan(SD_1, **asked)
    for name, taken in found.would_fit.items():
        if "x" in name:
            width, height = map(int, name.split("x"))
            change = {"width": width, "height": height}
            assert width / height == pytest.approx(1.5, rel=0.2)
            larger = plan(SD_1, **asked | {"width": width + 96, "height": height + 64})
            assert larger.fits is False
        elif name.startswith("dtype"):
            change = {"dtype": "bfloat16"}
        else:
            key, value = name.split("=")
            change = {key: True if value == "True" else int(value)}
        changed = plan(SD_1, **asked | change)
        assert (changed.fits, changed.peak) == (True, taken), name


def test_where_no_change_is_enough_several_are():
    (name,) = plan(SD_1, batch_size=4, memory=3.2 * GB).would_fit
    assert name.startswith("tiled=True with low_memory=True with dtype=")
    assert plan(SD_1, memory=0.1 * GB).would_fit == {}
    with pytest.raises(DoesNotFitError, match="nothing that could be changed"):
        plan(SD_1, memory=0.1 * GB).check()


def test_what_fits_is_not_refused():
    found = plan(SD_1)
    assert (found.fits, found.would_fit, found.available) == (True, {}, 16 * GB)
    found.check()


def test_beside_a_gpu_nobody_knows(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    found = plan(SD_1)
    assert found.fits is None
    assert "There is a GPU" in found.notes[0]
    found.check()
    assert plan(SD_1, memory=GB).fits is False


def test_a_plan_is_told_in_a_table_and_in_json():
    found = plan(SD_1)
    lines = str(found).splitlines()
    assert lines[0] == "sd-1, 1 of 512x512, 50 evaluations, float32 on torch"
    names = [line.split()[0] for line in lines[2:]]
    assert names == ["load", "text", "unet", "decode", "peak", "free"]
    data = json.loads(json.dumps(found.as_json()))
    assert (data["peak"], data["fits"]) == (found.peak, True)
    assert found.seconds == pytest.approx(sum(each.seconds or 0 for each in found.phases))
    caching = plan(SD_1, feature_caching=3)
    assert "feature_caching" in caching.notes[0]
    assert plan(SD_1, token_merging=0.5).notes == caching.notes


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"width": 511}, "width"),
        ({"width": 10**9}, "width"),
        ({"width": 16384, "height": 16384}, "pixels"),
        ({"width": -8}, "width"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"num_steps": 10**9}, "steps"),
        ({"num_steps": "many"}, "num_steps"),
        ({"guidance_scale": math.nan}, "guidance_scale"),
        ({"sampler": "nobody"}, "nobody"),
        ({"dtype": "int8"}, "dtype"),
        ({"backend": "numpy"}, "backend"),
        ({"memory": -1}, "memory"),
        ({"memory": math.inf}, "memory"),
        ({"low_memory": "no"}, "low_memory"),
        ({"tiled": 7}, "tiled"),
        ({"tiled": 100}, "tiled"),
        ({"refine_at": 0.5}, "refine_at"),
        ({"control": "no-such-file"}, "no-such-file"),
        ({"refiner": "no-such-model"}, "no-such-model"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_values_that_do_not_fit_are_refused(settings, problem):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=problem):
        plan(SD_1, **settings)


def test_a_model_that_is_not_there_is_an_error_and_nothing_is_fetched():
    with pytest.raises(FileNotFoundError, match="no-such-model"):
        plan("no-such-model")
    with pytest.raises(FileNotFoundError, match="keras-sd fetch hf://owner/name"):
        plan("hf://owner/name")


# --- the command ----------------------------------------------------------------------


def test_the_command_says_the_plan_and_refuses(capsys):
    assert main(["plan", "--model", "sd-1.5", "--backend", "jax", "--steps", "10"]) == 0
    shown = capsys.readouterr().out
    assert "sd-1.5, 1 of 512x512, 10 evaluations, float32 on jax" in shown
    assert main(["plan", "--model", "sd-1.5", "--memory", "4"]) == 2
    out, err = capsys.readouterr()
    assert "peak" in out
    assert "What would fit:" in err
    assert main(["plan", "--size", "64x32", "--count", "3", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["width"], data["height"], data["batch_size"]) == (64, 32, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "100"], "--size"),
        (["--memory", "0"], "--memory"),
        (["--steps", "0"], "--steps"),
        (["--backend", "numpy"], "--backend"),
        (["--control", "no-such-file"], "no-such-file"),
    ],
)
def test_the_command_names_the_option(options, said, capsys):
    assert main(["plan", *options]) == 2
    assert said in capsys.readouterr().err


# --- the machine ----------------------------------------------------------------------


def linux(root, available=8_000_000, own=1_000_000, **files):
    for name, text in {
        "proc/meminfo": f"MemTotal: 16000000 kB\nMemAvailable: {available} kB\n",
        "proc/self/status": f"Name:\tpython3\nVmRSS:\t{own} kB\n",
        **files,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_free_memory_is_what_is_available_and_what_the_process_has(tmp_path):
    assert free(linux(tmp_path)) == 9_000_000 * 1024


def test_free_memory_is_that_of_the_group(tmp_path):
    group = "sys/fs/cgroup/docker/one"
    root = linux(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/docker/one\n",
            f"{group}/memory.max": "5000000000\n",
            f"{group}/memory.current": "3000000000\n",
            f"{group}/memory.stat": "anon 1\ninactive_file 500000000\n",
            "sys/fs/cgroup/docker/memory.max": "max\n",
            "sys/fs/cgroup/docker/memory.current": "1\n",
            "sys/fs/cgroup/docker/memory.stat": "anon 1\n",
        },
    )
    assert free(root) == 2_500_000_000 + 1_000_000 * 1024


def test_free_memory_knows_groups_of_the_first_version(tmp_path):
    group = "sys/fs/cgroup/memory"
    root = linux(
        tmp_path,
        **{
            "proc/self/cgroup": "4:memory:/seen/from/outside\n1:cpu:/\n",
            f"{group}/memory.limit_in_bytes": "2000000000\n",
            f"{group}/memory.usage_in_bytes": "1500000000\n",
            f"{group}/memory.stat": "total_inactive_file 100000000\n",
        },
    )
    assert free(root) == 600_000_000 + 1_000_000 * 1024


def test_elsewhere_it_is_all_there_is_or_unknown(tmp_path, monkeypatch):
    assert (free(tmp_path) or 0) > 2**28
    monkeypatch.delattr("os.sysconf")
    assert free(tmp_path) is None


free = machine.free_memory  # before the fixture takes its place
gpu = machine.has_gpu


def test_a_gpu_is_seen(tmp_path):
    assert not gpu(tmp_path)
    (tmp_path / "proc/driver/nvidia/gpus/0000").mkdir(parents=True)
    assert gpu(tmp_path)


def test_the_machine_multiplies():
    assert 1e7 < machine.speed(0.01) < 1e15


def test_the_policy_and_the_backend_are_those_that_keras_would_take(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert (choose.expected(), choose.expected_policy()) == ("tensorflow", "float32")
    (tmp_path / "keras.json").write_text('{"backend": "jax", "floatx": "bfloat16"}')
    assert (choose.expected(), choose.expected_policy()) == ("jax", "bfloat16")
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    with pytest.raises(ValueError, match="'openvino' here, and a plan is for jax"):
        plan(replace(TINY, name="any"), memory=np.float32(1e9))
