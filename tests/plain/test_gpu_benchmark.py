"""The driver of benchmarks/gpu: whatever becomes of a measurement, the others are there."""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata

import pytest

from gpu import run
from gpu.jobs import Job, run_jobs
from gpu.metadata import write
from gpu.table import table

READY = 'print("@\\"ready\\"", flush=True); input()\n'
ROW = 'print("noise"); print("@" + "{\\"kind\\": \\"steps\\", \\"ms\\": %s}", flush=True)\n'
SLEEP = "import time; time.sleep(60)\n"


def job(name, script, limit=20.0, needs=0.0):
    return Job(name, [sys.executable, "-c", script], limit, needs)


def said(jobs, seconds=30.0):
    """What the jobs said, by name, without their seconds."""
    things = []
    start = time.monotonic()
    run_jobs(jobs, seconds, lambda name, thing: things.append((name, thing)))
    assert time.monotonic() - start < seconds + 2
    return [(name, thing) for name, thing in things if "seconds" not in thing]


def test_what_was_measured_before_a_job_fails_or_hangs_counts():
    jobs = [
        job("fails", READY + ROW % 1 + "raise ValueError('no such kernel')"),
        job("hangs", READY + ROW % 2 + SLEEP, limit=1.0),
        job("is broken", "import no_such_module"),
        job("babbles", READY + "print('@{')"),
        job("works", READY + ROW % 3),
    ]
    found = said(jobs)
    assert [name for name, _ in found] == ["fails"] * 2 + ["hangs"] * 2 + [
        "is broken",
        "babbles",
        "works",
    ]
    assert [thing["ms"] for _, thing in found if "ms" in thing] == [1, 2, 3]
    why = {name: thing["failed"] for name, thing in found if "failed" in thing}
    assert why["fails"].endswith("ValueError: no such kernel")
    assert "out of time" in why["hangs"]
    assert "no_such_module" in why["is broken"]
    assert "no JSON" in why["babbles"]


def test_a_job_that_no_longer_fits_is_not_begun():
    jobs = [job("long", READY + SLEEP, limit=1.0), job("big", READY + ROW % 1, needs=29.5)]
    jobs += [job("small", READY + ROW % 2)]
    found = said(jobs)
    assert [name for name, _ in found] == ["long", "big", "small"]
    assert "it needs 30" in found[1][1]["skipped"]
    assert found[2][1]["ms"] == 2


def test_one_job_measures_at_a_time_while_the_next_one_imports(tmp_path):
    log = tmp_path / "log"
    note = f"note = open({str(log)!r}, 'a', buffering=1).write\n"
    jobs = [
        job(name, f"{note}note('{name} imports\\n')\n{READY}note('{name} begins\\n')\n{pause}")
        for name, pause in (
            ("a", "import time; time.sleep(2); note('a ends\\n')"),
            ("b", "note('b ends\\n')"),
        )
    ]
    assert said(jobs) == []
    lines = log.read_text().splitlines()
    assert lines.index("b imports") < lines.index("a ends") < lines.index("b begins")


def test_all_ends_with_the_budget():
    start = time.monotonic()
    found = said([job("hangs", READY + SLEEP), job("next", READY + SLEEP, needs=1)], seconds=2.0)
    assert time.monotonic() - start < 4
    assert "out of time" in found[0][1]["failed"]
    assert "skipped" in found[1][1]


def test_results_are_on_disk_as_soon_as_they_are_known(tmp_path):
    results = run.Results(tmp_path / "out", {"card": "none"})
    results.add("a job", {"kind": "steps", "system": "ours", "ms": 12.3456, "batch": 3})
    known = json.loads((tmp_path / "out" / "results.json").read_text())
    assert known["rows"][0]["ms"] == 12.3456
    results.add("a job", {"seconds": 7.0})
    results.add("a job", {"failed": "ended with status 1.\nTraceback\nValueError: a|b"})
    results.add("a job", {"failed": "another"})
    results.add("a third", {"skipped": "2 s were left; it needs 9"})
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.startswith("card: none\n\n| SD 1.5, one guided step | dtype |")
    assert "| ours |  | 3 | 12.35 |" in text
    assert (
        "- a job failed: ended with status 1. ... ValueError: a|b\n- a job failed: another" in text
    )
    assert "- a third skipped: 2 s were left; it needs 9" in text


def test_the_table_is_short_whatever_there_is_to_say():
    rows = [{"kind": "attention", "system": "a|b", "ms": 1234.5}] * 80
    text = table({"machine": {}, "rows": rows, "wrong": []})
    assert len(text.splitlines()) == 60
    assert "| a\\|b |  | 1234 |" in text or "| a\\|b |  | 1235 |" in text
    assert text.endswith("lines more: see results.json")


@pytest.mark.parametrize("cpu_test", [False, True])
def test_every_job_of_the_plan_is_one_of_ours(cpu_test):
    jobs = run.plan(cpu_test)
    assert len({each.name for each in jobs}) == len(jobs)
    for each in jobs:
        options = json.loads(each.command[-1])
        assert (run.HERE / f"{options['what']}.py").is_file()
        assert options["tiny"] is cpu_test
        assert each.needs < each.limit
        assert each.environment["KERAS_BACKEND"] in ("jax", "torch")


def test_written_metadata_are_those_of_an_installation(tmp_path):
    folder = write(tmp_path)
    found = metadata.Distribution.at(folder)
    assert found.name == "keras-sd"
    points = {(point.group, point.name): point.value for point in found.entry_points}
    assert points["keras_sd.samplers", "ddim"] == "keras_sd_samplers.ddim:DDIM"
    assert points["keras_sd.sampler_names", "DPM++ 2M SDE"] == "dpmpp_2m_sde"
    installed = metadata.distribution("keras-sd").entry_points
    ours = {(p.group, p.name): p.value for p in installed if p.group.startswith("keras_sd.")}
    assert points == ours
