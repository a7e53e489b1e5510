"""The lab on the embedded model. The rest of it: tests/plain/test_lab.py."""

from __future__ import annotations

import numpy as np
import pytest
from test_lab import Ancestral, Broken, Euler

from keras_sd import lab
from keras_sd.lab import emoji


@pytest.mark.thorough
def test_on_the_embedded_model_distance_and_subjects_are_measured(monkeypatch):
    from keras_sd.pipeline import StableDiffusion
    from keras_sd.training import measure, pictures

    first, second = list(pictures.SUBJECTS)[::52]

    def subjects(images, colours, source):
        assert images.shape == (4 * 2, 64, 64, 3)
        assert images.dtype == np.uint8
        assert colours[2:4] == list(pictures.COLOURS)[:2]  # of the run with many steps
        assert source == "pictures of font.ttf"
        return [first, second, *[first] * 6]

    monkeypatch.setattr(measure, "subjects", subjects)
    monkeypatch.setattr(pictures, "Pictures", lambda font: f"pictures of {font}")
    monkeypatch.setattr(emoji, "_EVERY", 52)
    monkeypatch.setattr(emoji, "_CONVERGED", (Euler(), "simple", 8))
    asked = []
    stream = StableDiffusion.stream

    def streams(self, *arguments, schedule, **settings):
        levels = self.levels(settings["num_steps"], schedule)
        asked.append((levels, self.table.level(0)))
        return stream(self, *arguments, schedule=schedule, **settings)

    monkeypatch.setattr(StableDiffusion, "stream", streams)
    done = []
    samplers = [Euler(), Broken("raises"), Ancestral()]
    scales = ["Simple"]
    rows = lab.emoji_fidelity(samplers, scales, [1, 8], font="font.ttf", done=done.append)
    assert {each.schedule for each in rows} == {"simple"}
    found = {(each.sampler, each.measure, each.steps): each for each in rows}
    assert len(found) == len(rows) == 2 * 4
    assert found["Euler()", "latent", 1].value > 0.5
    assert found["Euler()", "latent", 8].value == 0
    assert found["Euler()", "latent", 8].evaluations == 8
    assert found["Euler()", "subject", 1].value == 1
    assert found["Euler()", "subject", 8].value == 0.5
    assert found["Ancestral()", "subject", 8].evaluations == 8
    assert "no more of this" in found[repr(Broken("raises")), "subject", 8].failure
    assert done == [repr(sampler) for sampler in samplers]
    # All runs end at one level, the model's own: else distances would be of levels, not of runs.
    assert len(asked) == 1 + 3 * 2
    assert all(levels[-1] == first_level for levels, first_level in asked)
