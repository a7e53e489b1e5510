"""`keras-sd benchmark`: the speed of a model on this machine."""

from __future__ import annotations

import json

import pytest

from keras_sd import benchmark, cli
from keras_sd.forms import request_of
from keras_sd.pipeline import StableDiffusion


def test_the_embedded_model(emoji, monkeypatch, capsys):
    made, drawn = [], []
    stream = StableDiffusion.stream

    def load(preset, **settings):
        made.append((preset, settings))
        return emoji

    def streams(self, request):  # every door leads through it
        drawn.append(request)
        return stream(self, request)

    monkeypatch.setattr(StableDiffusion, "from_preset", load)
    monkeypatch.setattr(StableDiffusion, "stream", streams)
    asked = "benchmark --json --prompt cat --steps 3 --warm 2 --size 32 --batch 2"
    assert cli.main(asked.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert made == [("emoji", {"dtype": None})]
    settings = {"seed": 0, "num_steps": 3, "batch_size": 2, "width": 32, "height": 32}
    assert drawn == [request_of("cat", **settings)] * 4
    assert (len(found["warm"]), len(found["step"])) == (2, 2)
    numbers = [found["load"], found["first"], *found["warm"], *found["step"]]
    assert all(0 <= seconds < 600 for seconds in numbers)
    assert found["first"] > max(found["step"]) > 0


def test_what_people_are_told():
    times = benchmark.Times(2.5, 1.23456, (0.5, 0.4, 0.45), (0.021, 0.02))
    assert times.lines() == [
        "import and load  2.5 s",
        "first picture    1.23 s",
        "next pictures    450 ms (400 to 500, n = 3)",
        "a step           20.5 ms (20 to 21, n = 2)",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 1}, "at least 2 steps, not 1"),
        ({"num_steps": 2, "warm": 0}, "at least 1 warm picture, not 0"),
    ],
)
def test_too_little_to_measure(settings, message):
    with pytest.raises(ValueError, match=message):
        benchmark.measure("emoji", "a cat", **settings)
    assert cli.main(["benchmark", "--steps", "1"]) == 2


def test_the_size_is_checked_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "measure", lambda *given, **settings: pytest.fail("measured"))
    assert cli.main(["benchmark", "--size", "big"]) == 2
    assert "--size is 'big'" in capsys.readouterr().err
