"""The benchmark: its protocol with workers that do nothing, its numbers and pages from runs that
were made up, and one run that is real, of the embedded model.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from test_keras_cv import FIXTURE, V1

import compare
from comparison import history, model, plot, results, session, table
from comparison.cases import Case, baseline, cases_of, notes_of
from comparison.runs import RunError, difference, machine, measure, run_worker
from comparison.systems import Job
from keras_sd.config import EMOJI, SD_1, SD_2, SD_2_BASE
from keras_sd.keras_cv import names as keras_cv
from keras_sd.tokenizer import CLIP_VOCAB_SIZE, Tokenizer
from keras_sd.weights.names import under
from keras_sd.weights.readers.hdf5 import keras2_order, read

pytestmark = pytest.mark.once

BACKENDS = ("jax", "tensorflow", "torch")
ALL = ("standard", "mixed", "xla", "xla-mixed")
PICTURE = np.full((1, 8, 8, 3), 100, np.uint8)
OURS = Case("keras_sd", "jax", "xla", "float32")
THEIRS = Case("diffusers", "torch", "standard", "float32")


def run_of(scale=1.0, mean=0.0, **changes):
    """What a worker says, and what was found of its pictures."""
    parts = {"text": [0.1, 0.1], "step": [scale, 2 * scale, 6 * scale], "decode": [0.5]}
    return {
        "import": 2.0,
        "load": 3.0,
        "first": 20.0 * scale,
        "first_parts": {"text": [1.0], "step": [12 * scale, scale, scale], "decode": [1.0]},
        "warm": 10.0 * scale,
        "parts": parts,
        "memory": 2_000_000_000,
        "device": {"name": "cpu", "memory": None},
        "versions": {"python": "3.11", "jax": "0.1"},
        "threads": 1,
        "load_average": 1.5,
        "difference": {"max": 3.0, "mean": mean},
        **changes,
    }


def results_of(runs: Mapping[Case, list], errors: Mapping[Case, str] = {}):
    """What `results.json` holds."""
    settings = {"model": "m", "width": 64, "height": 32, "batch": 2, "steps": 3, "guidance": 7.5}
    return {
        "settings": {**settings, "runs": 3, "dtype": "mixed_float16"},
        "machine": machine(1),
        "reference": "diffusers",
        "notes": ["a note"],
        "cases": [
            {
                "case": vars(case),
                "runs": [{"round": number, **run} for number, run in enumerate(of)],
                "error": errors.get(case),
                "log": "",
            }
            for case, of in runs.items()
        ],
    }


# --- earlier days ---------------------------------------------------------------------


def test_a_history_says_what_changed_since_the_last_of_the_same_settings(tmp_path):
    path, first = tmp_path / "history.jsonl", results_of({OURS: [run_of()], THEIRS: [run_of(2.0)]})
    assert history.append(path, history.entry(first, "abc")) == []
    other = copy.deepcopy(first)
    other["settings"]["batch"] = 1
    assert history.append(path, history.entry(other, None)) == []
    slower = results_of({OURS: [run_of(3.0)], THEIRS: [run_of(2.0)]})
    slower["settings"]["output"] = "another folder"  # as each benchmark has
    (line,) = history.append(path, history.entry(slower, "def"))
    assert line.startswith(f"{OURS.name} over diffusers since ")
    assert ", abc: warm 0.50 -> 1.50, step 0.50 -> 1.50, decode 1.00 -> 1.00" in line
    kept = path.read_text().splitlines()
    assert [json.loads(each)["commit"] for each in kept] == ["abc", None, "def"]
    path.write_text("\n".join([*kept, "oops"]))
    with pytest.raises(ValueError, match="line 4 is no benchmark"):
        history.append(path, history.entry(slower, "def"))
    assert path.read_text().splitlines() == [*kept, "oops"]


# --- what is measured -----------------------------------------------------------------


def test_every_backend_has_its_rows_and_torch_none_with_xla():
    cases = cases_of(("keras_sd", "diffusers", "keras_cv"), BACKENDS, ALL, "mixed_bfloat16")
    rows = [(case.program, case.variant) for case in cases]
    two, four = ALL[:2], ALL
    assert rows == [
        *(("keras_sd (jax)", name) for name in four),
        *(("keras_sd (tensorflow)", name) for name in four),
        *(("keras_sd (torch)", name) for name in two),
        *(("diffusers", name) for name in two),
        *(("keras_cv", name) for name in four),
    ]
    assert {case.dtype for case in cases if case.mixed} == {"mixed_bfloat16"}
    assert {case.dtype for case in cases if not case.mixed} == {"float32"}
    assert len({case.slug for case in cases}) == len(cases)
    notes = " ".join(notes_of(cases, ALL))
    assert "torch has no XLA" in notes
    assert "weights in bfloat16" in notes
    assert "torch" not in " ".join(notes_of(cases, two[:1]))


def test_the_first_row_can_be_measured_twice():
    first, again, *others = cases_of(("keras_sd",), ("jax",), ALL, "float16", twice=True)
    assert (first.again, again.again) == (False, True)
    assert replace(again, again=False) == first
    assert len(others) == 3


def test_a_row_is_compared_with_one_of_the_same_precision():
    cases = cases_of(("keras_sd", "diffusers", "keras_cv"), BACKENDS, ALL, "mixed_float16")
    found = {case.name: baseline(case, cases, "diffusers") for case in cases}
    assert found["keras_sd (jax), XLA"].name == "diffusers, Standard"
    assert found["keras_sd (jax), XLA + mixed precision"].name == "diffusers, Mixed precision"
    assert found["diffusers, Standard"] is None
    ours = next(case for case in cases if case.name == "keras_sd (jax), XLA")
    assert baseline(ours, cases, "keras_cv").name == "keras_cv, XLA"
    assert baseline(ours, cases[:1], "keras_cv") is None


# --- the protocol ---------------------------------------------------------------------


def measured(cases, runs, run, references):
    found, heard = {}, []
    measure(cases, runs, found, run, references, lambda case, error: heard.append((case, error)))
    return found["cases"], heard


def test_the_rows_are_run_in_turn():
    order = []

    def run(case):
        order.append(case)
        return run_of(), PICTURE

    found, heard = measured([OURS, THEIRS], 3, run, {})
    assert order == [OURS, THEIRS] * 3
    assert [case for case, _ in heard] == order
    assert [len(row["runs"]) for row in found] == [3, 3]
    assert found[0]["runs"][0]["difference"] is None  # there is no reference


def test_a_failure_is_told_and_loses_nothing():
    calls = []

    def run(case):
        calls.append(case)
        if case == OURS or (case.again and calls.count(case) == 2):
            raise RunError("no memory", "the log")
        return run_of(), PICTURE

    again = replace(OURS, again=True)
    found, heard = measured([OURS, THEIRS, again], 3, run, {})
    assert calls.count(OURS) == 1  # what fails at its first run is not run again
    assert calls.count(THEIRS) == calls.count(again) == 3
    assert [len(row["runs"]) for row in found] == [0, 3, 2]
    assert [row["error"] for row in found] == ["no memory", None, "no memory"]
    assert found[0]["log"] == "the log"
    errors = [error for _, error in heard]
    assert errors == ["no memory", None, None, None, None, "no memory", None, None, None]


def test_pictures_are_compared_with_the_reference_of_their_system():
    wrong = PICTURE.copy()
    wrong[0, :, :2] += 50
    wrong[0, :, 2:4] -= 50

    def run(case):
        return run_of(), PICTURE if case == THEIRS else wrong

    found, _ = measured([OURS, THEIRS], 1, run, {"keras_sd": PICTURE, "diffusers": PICTURE})
    assert found[0]["runs"][0]["difference"] == {"max": 50.0, "mean": 25.0}
    assert found[1]["runs"][0]["difference"] == {"max": 0.0, "mean": 0.0}
    assert difference(PICTURE[:, :4], PICTURE) == {"max": None, "mean": None}


def job_of(**changes):
    job = Job(
        **{"system": "nothing", "dtype": "float32", "xla": False, "model": "", "prompt": ""},
        **{"batch": 1, "height": 8, "width": 8, "steps": 1, "guidance": 1.0},
        **{"final_sigma": "first", "noise": "", "picture": "", "threads": 1, "warm": 1},
        **{"compat": None, "tokens": [], "weights": {}, "version": 1},
    )
    return replace(job, **changes)


def test_why_a_worker_failed(tmp_path):
    def reason(python, timeout=60.0):
        with pytest.raises(RunError) as error:
            run_worker(str(python), job_of(), "jax", timeout)
        return error.value

    # The package is found beside the worker, wherever that is started.
    found = reason(sys.executable)
    assert str(found) == ("ModuleNotFoundError: No module named 'comparison.systems.nothing'")
    assert "Traceback" in found.log
    assert "cannot be started" in str(reason(tmp_path / "nobody"))
    for name, script, words in (
        ("killed", "kill -9 $$", "memory runs out"),
        ("status", "echo first >&2; echo last >&2; exit 3", "last"),
        ("quiet", "exit 3", "it ended with status 3"),
        ("slow", "exec sleep 60", "it took more than 1 seconds"),
    ):
        python = tmp_path / name
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        assert words in str(reason(python, 1.0 if name == "slow" else 60.0))


# --- numbers --------------------------------------------------------------------------


def test_medians_spreads_and_ratios():
    found = results_of(
        {OURS: [run_of(1), run_of(4), run_of(2)], THEIRS: [run_of(2), run_of(2), run_of(2)]}
    )
    ours, theirs = results.rows_of(found)
    medians = {name: spread.median for name, spread in ours.spreads.items()}
    assert medians == {
        "cold": 40.0,
        "start": 45.0,
        "warm": 20.0,
        "step": 4.0,
        "text": 0.2,
        "decode": 0.5,
        "compile": 20.0,
        "memory": 2e9,
    }
    assert ours.spreads["warm"] == results.Spread(20.0, 10.0, 40.0, 3)
    assert ours.ratios["diffusers"]["warm"] == results.Spread(1.0, 0.5, 2.0, 3)
    assert set(ours.ratios) == {"diffusers"}
    assert theirs.ratios == {}
    assert results.noise_of(found) is None


def test_ratios_are_of_the_runs_that_came_together():
    # A machine that gets slower is so for both: the ratio stays, where that of medians would not.
    slower = [run_of(scale) for scale in (1, 2, 4)]
    found = results_of({OURS: slower[:2], THEIRS: slower})
    ours, _ = results.rows_of(found)
    assert ours.ratios["diffusers"]["step"] == results.Spread(1.0, 1.0, 1.0, 2)


def test_a_row_against_itself_shows_the_noise():
    again = replace(OURS, again=True)
    found = results_of({OURS: [run_of(1)], again: [run_of(1.25)], THEIRS: [run_of(7)]})
    assert results.noise_of(found)["warm"].median == 1.25
    assert "warm 1.25 (1.25 to 1.25)" in table.markdown(found)


@pytest.mark.parametrize(
    ("variant", "mean", "verdict"),
    [
        ("standard", 0.1, "right"),
        ("standard", 1.0, "wrong"),
        ("mixed", 1.0, "right"),
        ("mixed", 40.0, "wrong"),
        ("xla-mixed", None, "wrong"),
    ],
)
def test_wrong_pictures_are_marked(variant, mean, verdict):
    case = replace(OURS, variant=variant)
    bad = run_of(difference={"max": mean, "mean": mean})
    found = results_of({case: [run_of(), bad, run_of()]})
    assert results.rows_of(found)[0].verdict == verdict
    assert ("WRONG" in table.markdown(found)) == (verdict == "wrong")


# --- pages ----------------------------------------------------------------------------


def example():
    mixed, failed = replace(OURS, variant="mixed"), replace(OURS, variant="xla-mixed")
    half = replace(OURS, variant="standard")
    found = {
        OURS: [run_of(0.5)],
        mixed: [run_of(device={"name": "H200", "memory": 5_000_000_000}, mean=99.0)],
        half: [run_of(difference=None)],
        failed: [],
        THEIRS: [run_of(1)],
    }
    return results_of(found, {failed: "a | b", half: "it went away"})


def test_the_table():
    lines = table.markdown(example()).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    totals, parts = rows[:7], rows[7:]
    assert totals[0] == ["", "", "cold", "start", "warm", "warm / diffusers", "n"]
    assert totals[2] == [
        *("keras_sd (jax)", "XLA", "10.0 (10.0 to 10.0)", "15.0 (15.0 to 15.0)"),
        *("5.00 (5.00 to 5.00)", "0.50 (0.50 to 0.50)", "1"),
    ]
    assert totals[3][1] == "Mixed precision (pictures are wrong)"
    assert totals[4][-1] == "1; then failed: it went away"
    assert totals[5][:3] == ["keras_sd (jax)", "XLA + mixed precision", "failed: a / b"]
    assert totals[6][5] == ""
    assert len({len(row) for row in totals}) == len({len(row) for row in parts}) == 1
    assert parts[3][-2:] == ["5.00", "WRONG: 99.00, 3"]
    assert parts[4][-1] == "no reference"
    assert parts[2][2:5] == ["5.00 (5.00 to 5.00)", "0.20 (0.20 to 0.20)", "1.00 (1.00 to 1.00)"]
    text = "\n".join(lines)
    assert "2 pictures at a time, 3 steps of DDIM, guidance 7.5; n = 3" in text
    assert "H200" in text
    assert "- a note" in text


def test_a_row_that_is_still_to_come():
    text = table.markdown(results_of({OURS: [run_of()], THEIRS: []}))
    assert "| diffusers | Standard | not measured |" in text
    assert "failed" not in text


def test_a_run_that_failed_does_not_shift_the_pairs():
    ours = [run_of(1.0, round=0), run_of(3.0, round=2)]
    theirs = [run_of(1.0), run_of(2.0), run_of(3.0)]
    row = results.rows_of(results_of({OURS: ours, THEIRS: theirs}))[0]
    assert row.ratios["diffusers"]["warm"] == results.Spread(1.0, 1.0, 1.0, 2)


def test_without_other_systems_there_are_no_ratios():
    text = table.markdown(results_of({OURS: [run_of()]}))
    assert "/ diffusers" not in text
    assert "Ratios" not in text


def test_the_plot(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    keep = figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), keep(self, *a, **k))
    )
    plot.save(example(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    warm, cold = drawn[0].axes
    assert [bar.get_width() for bar in warm.patches] == [5.0, 10.0, 10.0, 10.0]
    assert [bar.get_width() for bar in cold.patches] == [10.0, 20.0, 20.0, 20.0]
    assert [bool(bar.get_hatch()) for bar in warm.patches] == [False, True, False, False]
    assert any("failed" in text.get_text() for text in warm.texts)


# --- the model ------------------------------------------------------------------------


def test_random_weights_are_the_same_everywhere_and_fit():
    config = replace(V1, name="random")
    arrays = model.RandomArrays(config)
    assert {path: array.shape for path, array in arrays.items()} == model.shapes_of(config)
    assert {array.dtype for array in arrays.values()} == {np.dtype("float16")}
    kernel = arrays["unet/conv_in/kernel"]
    assert np.array_equal(kernel, model.RandomArrays(config)["unet/conv_in/kernel"])
    assert abs(np.std(kernel.astype(float)) * 36**0.5 - 1) < 0.2
    assert abs(np.mean(arrays["unet/norm_out/gamma"].astype(float)) - 1) < 0.3
    assert len(arrays) == len(list(arrays))


def test_the_vocabulary_that_means_nothing_is_as_large_as_clips():
    tokenizer = Tokenizer(model.random_merges())
    assert len(tokenizer.vocabulary) == CLIP_VOCAB_SIZE
    tokens = tokenizer("a photograph of an astronaut riding a horse")[0]
    assert (tokens[0], tokens[-1]) == (CLIP_VOCAB_SIZE - 2, CLIP_VOCAB_SIZE - 1)


def test_keras_cv_gets_its_weights_in_its_order(tmp_path):
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path)
    arrays, known = {}, {}
    for network, file, prefix, of in (
        ("text_encoder", "text_encoder", "text_encoder/", keras_cv.text_encoder(V1.text_encoder)),
        ("unet", "diffusion_model", "unet/", keras_cv.unet(V1.unet)),
        ("decoder", "decoder", "autoencoder/", keras_cv.decoder(V1.autoencoder)),
    ):
        order = keras2_order(tmp_path / f"{file}.h5")
        tensors = read(tmp_path / f"{file}.h5").tensors
        known[network] = [np.asarray(tensors[name]) for name in order]
        for entry in under("", prefix, keras_cv.in_order(of, order)):
            arrays[entry.path] = np.asarray(entry.ours(np.asarray(tensors[entry.name])))
    checkpoint = SimpleNamespace(arrays=lambda: arrays)
    made = model.Model(tmp_path, V1, checkpoint, None)  # type: ignore[arg-type]
    for network, path in model.write_for_keras_cv(made, tmp_path / "out").items():
        with np.load(path) as file:
            assert len(file.files) == len(known[network]) > 0
            for name, array in zip(file.files, known[network], strict=True):
                assert np.array_equal(file[name], array)


def test_what_keras_cv_cannot_draw():
    assert model.refusal_of_keras_cv(SD_1, 512, 384) is None
    assert model.refusal_of_keras_cv(SD_2_BASE, 512, 512) is None
    assert "epsilon" in model.refusal_of_keras_cv(SD_2, 768, 768)
    assert "128" in model.refusal_of_keras_cv(SD_1, 512, 320)
    assert "full size" in model.refusal_of_keras_cv(EMOJI, 128, 128)


def test_weights_that_do_not_fit_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(model.shutil, "disk_usage", lambda path: SimpleNamespace(free=2e9))
    with pytest.raises(OSError, match=r"take 2\.1 GB, and 2\.0 GB are free"):
        model.make("random-sd-1.5", tmp_path / "new" / "model", for_diffusers=True)
    assert not any(tmp_path.iterdir())


# --- the whole ------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path):
    pythons = {name: f"python of {name}" for name in ("keras_sd", "diffusers", "keras_cv")}
    return session.Settings(
        model="emoji",
        output=tmp_path / "out",
        pythons=pythons,
        backends=("jax",),
        threads=3,
        variants=("standard", "xla"),
        batch=2,
        runs=2,
        steps=4,
    )


def test_a_session_with_workers_that_do_nothing(settings, monkeypatch):
    jobs, said, heard = [], [], []

    def run(python, job, backend, timeout):
        assert (Path(job.model) / "model_index.json").is_file()  # diffusers can read it
        assert np.load(job.noise).shape == (2, 16, 16, 8)
        jobs.append((python, backend, job))
        np.save(job.picture, np.full((2, 64, 64, 3), 7, np.uint8))
        return run_of()

    def done(case, error):
        heard.append(case)
        stored = json.loads((settings.output / session.RESULTS).read_text())
        assert sum(len(row["runs"]) for row in stored["cases"]) == len(heard)
        unknown = "not measured" in (settings.output / session.TABLE).read_text()
        assert unknown == (len(heard) < 3)

    found = session.benchmark(settings, said.append, done, run)
    assert [(python, job.system, job.xla, job.warm) for python, _, job in jobs] == [
        ("python of diffusers", "diffusers", False, 0),  # the reference
        *[
            ("python of keras_sd", "keras_sd", False, 1),
            ("python of keras_sd", "keras_sd", True, 1),
            ("python of diffusers", "diffusers", False, 1),
        ]
        * 2,
    ]
    job = jobs[-1][2]
    assert (job.batch, job.steps, job.threads, job.guidance) == (2, 4, 3, 3.0)
    assert len(heard) == 6
    assert any("no row of KerasCV" in note for note in found["notes"])
    assert found["reference"] == "diffusers"
    stored = json.loads((settings.output / session.RESULTS).read_text())
    assert stored == json.loads(json.dumps(found))
    assert "keras_sd (jax)" in (settings.output / session.TABLE).read_text()
    names = sorted(path.name for path in (settings.output / session.PICTURES).iterdir())
    assert names == [
        "diffusers-torch-standard.png",
        "keras_sd-jax-standard.png",
        "keras_sd-jax-xla.png",
    ]
    assert not (settings.output / session.WORK).exists()
    with pytest.raises(FileExistsError, match="has files already"):
        session.benchmark(settings, said.append, lambda *told: None, run)


def test_without_a_reference_the_numbers_are_kept(settings, monkeypatch):
    def run(python, job, backend, timeout):
        if not job.warm:
            raise RunError("no reference today")
        np.save(job.picture, np.zeros((2, 64, 64, 3), np.uint8))
        return run_of()

    monkeypatch.setattr(plot, "save", lambda *_: importlib.import_module("no_such_module"))
    said = []
    settings = replace(settings, pythons={"keras_sd": "python"}, keep=True)
    found = session.benchmark(settings, said.append, lambda *told: None, run)
    assert any("no reference today" in note for note in found["notes"])
    assert {row.verdict for row in results.rows_of(found)} == {"unknown"}
    assert any("matplotlib" in line for line in said)
    assert (settings.output / session.WORK).exists()  # as asked


def test_nothing_to_measure(settings):
    settings = replace(settings, pythons={"diffusers": "python"}, variants=("xla",))
    with pytest.raises(ValueError, match="none with XLA"):
        session.benchmark(settings, print, print)
    with pytest.raises(ValueError, match="height 63 is not a multiple of 8"):
        session.benchmark(replace(settings, height=63), print, print)
    assert not settings.output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--backend abacus", "--backend: 'abacus'; there are jax, tensorflow, torch"),
        ("--variants quick", "--variants: 'quick'; there are standard, mixed, xla, xla-mixed"),
        ("--system keras_cv", "--keras-cv-python names the Python"),
        ("--size big", "--size is 'big'"),
    ],
)
def test_bad_arguments(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin="here"))
    if "keras_cv" in arguments:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr("keras_sd.choose._is_installed", lambda name: True)
    assert compare.main(arguments.split()) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_the_command_measures_the_embedded_model(capsys, tmp_path):
    backend = keras.backend.backend()
    variant = "xla" if backend == "jax" else "standard"
    output = tmp_path / "out"
    arguments = f"""--system keras_sd --backend {backend} --variants {variant} --runs 1
        --steps 2 --size 32 --threads 1 --output {output}"""
    assert compare.main(arguments.split()) == 0
    (row,) = results.rows_of(json.loads((output / session.RESULTS).read_text()))
    assert row.error is None
    assert row.verdict == "right"
    assert row.difference["max"] == 0
    found = copy.copy(row.spreads)
    assert 1e8 < found.pop("memory").median < 1e10
    assert found.pop("compile").median > -1
    assert all(0 < spread.median < 600 for spread in found.values())
    assert found["cold"].median < found["start"].median
    assert row.versions["keras"] == keras.__version__
    (entry,) = json.loads((output / session.RESULTS).read_text())["cases"]
    assert entry["runs"][0]["threads"] == 1
    assert [len(entry["runs"][0]["parts"][part]) for part in ("step", "decode")] == [2, 1]
    assert f"keras_sd ({backend})" in capsys.readouterr().out
