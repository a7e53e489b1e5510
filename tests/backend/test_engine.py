"""The engine: requests of all kinds share the model's calls, and each gets the pictures that it
gets alone; what goes wrong with one is no matter of the others.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from test_turns import MASK, NINE, PICTURE, attending

from keras_sd import get_sampler, list_samplers
from keras_sd.backend import to_numpy
from keras_sd.forms import request_of
from keras_sd.run import run
from keras_sd.serve import engine as engines
from keras_sd.serve.batching import Batches
from keras_sd.serve.engine import Cancelled, Engine, Expired, QueueFull, Stopping
from keras_sd.serve.previews import Previews

pytestmark = pytest.mark.usefixtures("without_tracing")

RUN = {"num_steps": 4, "height": 32, "width": 24, "sampler": "ddim"}
PROMPTS = ["a cat", "a dog", "cat cat dog", "do ca"]


@pytest.fixture(scope="module")
def model():
    return attending().model


@dataclass(frozen=True)
class Held:
    """DDIM that waits at its second evaluation until it may go on."""

    at: ClassVar[threading.Event] = threading.Event()
    may: ClassVar[threading.Event] = threading.Event()
    closed: ClassVar[list] = []

    def __call__(self, denoise, x, levels, noise):
        try:
            for number, latent in enumerate(get_sampler("ddim")(denoise, x, levels, noise)):
                if number == 0:
                    self.at.set()
                    assert self.may.wait(60)
                yield latent
        finally:
            self.closed.append(True)


@contextmanager
def held(engine, **settings):
    """A job that has the engine's thread until the block ends."""
    Held.at.clear(), Held.may.clear(), Held.closed.clear()
    job = engine.submit(asked("a cat", **{"sampler": Held(), **settings}))
    assert Held.at.wait(60)
    try:
        yield job
    finally:
        Held.may.set()


def asked(prompt="a cat", **settings):
    return request_of(prompt, **{**RUN, "seed": 1, **settings})


def alone(model, request):
    """The pictures of a request, each drawn by itself."""
    request = request.resolved(model.defaults)
    pictures = []
    for number in range(len(request)):
        *_, last = run(model, request.only(number))
        pictures.append(np.asarray(last.image())[0])
    return np.stack(pictures)


def distance(one, other):
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


@pytest.mark.thorough
def test_every_pair_of_samplers_shares_a_batch(model):
    """All at once, so each with each; of other lengths, guidance, prompts and seeds."""
    requests = [
        asked(
            PROMPTS[i % 4],
            sampler=name,
            seed=i,
            num_steps=2 + i % 3,
            unconditional_guidance_scale=1.5 + i / 4,
        )
        for i, name in enumerate(info.name for info in list_samplers())
    ]
    assert len(requests) > 20
    with Engine(model, max_rows=len(requests)) as engine:
        jobs = [engine.submit(request) for request in requests]
        found = [job.result(120) for job in jobs]
    for request, images in zip(requests, found, strict=True):
        assert distance(images, alone(model, request)) <= 1, request.sampler
        assert images.request.sampler == request.sampler
    assert len({images.tobytes() for images in found}) == len(found)


KINDS = {
    "plain": {},
    "unguided": {"unconditional_guidance_scale": 1},
    "rescaled": {"guidance_rescale": 0.7},
    "at some levels": {"guidance_interval": (0.5, 5.0)},
    "of two parts": {"prompt": "a cat AND a dog :0.5", "prompt_style": "a1111"},
    "that changes": {"prompt": "a [cat:dog:0.5]", "prompt_style": "a1111"},
    "long": {"prompt": "cat " * 40, "prompt_style": "a1111"},
    "of another size": {"height": 16, "width": 24},
    "several": {"prompt": ["a cat", "a dog", "do"], "negative_prompt": ["", "dog", "cat"]},
    "of a picture": {"image": PICTURE, "strength": 0.6, "height": None, "width": None},
    "painted": {"image": PICTURE, "mask": MASK, "height": None, "width": None},
}


@pytest.mark.thorough
def test_requests_of_every_kind_run_beside_each_other(model):
    requests = {
        kind: asked(**{"seed": number, "prompt": "a cat", "batch_size": 1, **settings})
        for number, (kind, settings) in enumerate(KINDS.items())
    }
    with Engine(model, max_rows=16, max_waiting=16) as engine:
        jobs = {kind: engine.submit(request) for kind, request in requests.items()}
        found = {kind: job.result(120) for kind, job in jobs.items()}
    for kind, request in requests.items():
        assert distance(found[kind], alone(model, request)) <= 1, kind


def test_a_model_made_for_painting_is_shown_the_pictures_of_each():
    model = attending(NINE).model
    given = {"image": PICTURE, "height": None, "width": None}
    requests = [asked(mask=MASK, seed=1, **given), asked("a dog", mask=255 - MASK, seed=2, **given)]
    with Engine(model) as engine:
        found = [job.result(60) for job in [engine.submit(request) for request in requests]]
    for request, images in zip(requests, found, strict=True):
        assert distance(images, alone(model, request)) <= 1


@pytest.mark.once
def test_what_runs_at_once_is_one_call(model):
    with Engine(model, max_rows=5) as engine:
        with held(engine):
            jobs = [engine.submit(asked(seed=i, num_steps=4)) for i in range(4)]
        for job in jobs:
            job.result(60)
        # One of the held job alone; then three of it beside the first three of the others, which
        # have one more.
        assert engine.stats().calls == 5
        assert engine.stats().evaluations == 20


@pytest.mark.once
def test_pictures_are_drawn_as_rows_become_free(model):
    request = asked([*PROMPTS, "a", "do"])
    with Engine(model, max_rows=2) as engine:
        job = engine.submit(request)
        images = job.result(60)
        assert engine.stats().calls == 3 * 4
    assert distance(images, alone(model, request)) <= 1
    assert job.step == job.total == 6 * 4
    assert images.prompts == tuple(request.prompts)


@pytest.mark.once
def test_a_small_job_does_not_wait_for_all_of_a_large_one(model):
    ends = []
    with Engine(model, max_rows=2) as engine:
        with held(engine) as first:
            large = engine.submit(asked(["a cat"] * 8))
            small = engine.submit(asked())
            for name, job in (("large", large), ("small", small)):
                job.listen(lambda event, name=name: event.images is not None and ends.append(name))
        for job in (first, large, small):
            job.result(60)
    assert ends == ["small", "large"]


def test_calls_are_filled_up_to_few_sizes(model):
    seen = []

    def step(x, *given):
        seen.append(x.shape[0])
        return steps["guided"](x, *given)

    steps = model.steps()
    batches = Batches((2, 4))
    asks = []

    def ask(evaluation):
        asks.append(evaluation)
        raise StopIteration

    through = lambda steps: batches.through(ask, dict.fromkeys(steps, step))  # noqa: E731
    for seed in range(7):
        with pytest.raises(RuntimeError):
            next(run(model, asked(seed=seed), through=through))
    found = batches.evaluate(asks)
    assert seen == [4, 4]
    for evaluation, result in zip(asks, found, strict=True):
        (one,) = Batches().evaluate([evaluation])
        np.testing.assert_allclose(np.asarray(result), np.asarray(one), atol=1e-5)
    seen.clear()
    batches.evaluate(asks[:1])
    assert seen == [2]


@pytest.mark.once
def test_the_queue_has_an_end(model):
    with Engine(model, max_rows=1, max_waiting=2) as engine:
        with held(engine) as first:
            jobs = [engine.submit(asked()) for _ in range(2)]
            assert [first.position, *(job.position for job in jobs)] == [0, 0, 1]
            assert [job.state for job in (first, *jobs)] == ["running", "waiting", "waiting"]
            with pytest.raises(QueueFull, match="2 jobs are waiting") as caught:
                engine.submit(asked())
            assert caught.value.retry_after >= 1
            assert pickle.loads(pickle.dumps(caught.value)).retry_after >= 1  # between processes
            assert engine.stats().refused == 1
            jobs[0].cancel()
            assert jobs[0].state == "cancelled"
            assert jobs[1].position == 0
            engine.submit(asked()).cancel()
        jobs[1].result(60)
        assert engine.stats().done == 2
        assert engine.stats().cancelled == 2


@pytest.mark.once
def test_without_a_queue_only_what_begins_at_once_is_taken(model):
    with Engine(model, max_rows=2, max_waiting=0) as engine, held(engine):
        engine.submit(asked())
        with pytest.raises(QueueFull):
            engine.submit(asked())


@pytest.mark.once
def test_what_runs_is_cancelled_before_its_next_step(model):
    with Engine(model) as engine:
        with held(engine) as job:
            other = engine.submit(asked(seed=5))
            job.cancel()
            assert job.state == "cancelled"
        with pytest.raises(Cancelled):
            job.result(60)
        assert distance(other.result(60), alone(model, asked(seed=5))) <= 1
        assert Held.closed == [True]
        assert engine.stats().rows == 0
        job.cancel()  # once more is nothing
        assert engine.stats().cancelled == 1


@pytest.mark.once
@pytest.mark.parametrize("at", range(5))
def test_a_job_may_be_called_off_at_every_step(model, at):
    with Engine(model) as engine:

        def leave(event):
            if event.step == at and event.kind in ("waiting", "step"):
                event.job.cancel()

        with held(engine):
            job, other = engine.submit(asked()), engine.submit(asked(seed=2))
            job.listen(leave)
        assert distance(other.result(60), alone(model, asked(seed=2))) <= 1
        try:
            job.result(60)
        except Cancelled:
            assert job.step <= at + 1
        else:
            assert at == 4  # there is no step after the last
        assert engine.stats().rows == 0


@pytest.mark.once
def test_a_job_that_takes_too_long_expires(model):
    with Engine(model, max_rows=1, max_wait=0.05) as engine:
        with held(engine):
            waiting = engine.submit(asked())
            time.sleep(0.1)
        with pytest.raises(Expired, match="waited longer than it may"):
            waiting.result(60)
    with Engine(model, max_run=0.05) as engine:
        with held(engine) as job:
            time.sleep(0.1)
        with pytest.raises(Expired, match="ran longer than it may"):
            job.result(60)
    with Engine(model, max_rows=1) as engine:
        with held(engine):
            hurried = engine.submit(asked(), timeout=0.05)
            patient = engine.submit(asked(), timeout=600)
            time.sleep(0.1)
        with pytest.raises(Expired):
            hurried.result(60)
        patient.result(60)
        assert engine.stats().expired == 1


def _raises(error):
    @dataclass(frozen=True)
    class Raises:
        def __call__(self, denoise, x, levels, noise):
            yield denoise(x, levels[0])
            raise error

    return Raises()


@dataclass(frozen=True)
class Stubborn:
    """It goes on asking, whatever it is told."""

    def __call__(self, denoise, x, levels, noise):
        while True:
            try:
                yield denoise(x, levels[0])
            except GeneratorExit:
                raise
            except BaseException:
                continue


@pytest.mark.once
@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), KeyboardInterrupt()])
def test_a_sampler_that_raises_ends_its_job_alone(model, error):
    with Engine(model) as engine:
        with held(engine) as other:
            job = engine.submit(asked(["a cat", "a dog"], sampler=_raises(error)))
        with pytest.raises(type(error)):
            job.result(60)
        assert job.state == "failed"
        other.result(60)
        assert engine.stats().failed == 1


@pytest.mark.once
def test_a_sampler_that_will_not_end_is_left(model, caplog):
    with Engine(model) as engine:
        job = engine.submit(asked(sampler=Stubborn()))
        job.listen(lambda event: event.step == 2 and event.job.cancel())
        with pytest.raises(Cancelled):
            job.result(60)
        engine.submit(asked()).result(60)
    assert "nobody answers" in caplog.text


def test_a_number_that_is_not_finite_is_of_its_own_job(model):
    noise = np.full((8, 6, 4), 1e38, np.float32)
    with Engine(model) as engine:
        with held(engine) as other:
            job = engine.submit(asked(diffusion_noise=noise, seed=None))
        with pytest.raises(FloatingPointError):
            job.result(60)
        assert np.isfinite(other.result(60)).all()


def test_what_cannot_be_computed_together_is_computed_alone(model):
    """As when a batch does not fit in memory."""
    steps = model.steps()
    asks = []

    def guided(x, *given):
        if x.shape[0] > 1:
            raise MemoryError("too many")
        if np.array_equal(to_numpy(given[3]["context"]), bad):
            raise ValueError("this one")
        return steps["guided"](x, *given)

    def ask(evaluation):
        asks.append(evaluation)
        raise StopIteration

    batches = Batches()
    through = lambda steps: batches.through(ask, dict.fromkeys(steps, guided))  # noqa: E731
    for prompt in ("a cat", "a dog", "do"):
        with pytest.raises(RuntimeError):
            next(run(model, asked(prompt), through=through))
    bad = to_numpy(asks[1].conditions["context"])
    first, second, third = batches.evaluate(asks)
    assert isinstance(second, ValueError)
    assert first.shape == third.shape == asks[0].x.shape


@pytest.mark.once
def test_wrong_requests_never_wait(model):
    with Engine(model) as engine:
        for settings in (
            {"prompt": "cat " * 90},
            {"sampler": "none such"},
            {"num_steps": 2000},
            {"height": 12},
        ):
            with pytest.raises((ValueError, LookupError)):
                engine.submit(asked(**settings))
        assert engine.stats().waiting == engine.stats().running == 0


@pytest.mark.once
def test_what_one_run_would_refuse_is_refused(model):
    pictures = [PICTURE, PICTURE[:16]]
    with Engine(model) as engine:
        with held(engine) as other, pytest.raises(ValueError, match="size"):
            engine.submit(asked(["a", "b"], image=pictures, height=None, width=None))
        other.result(60)


@pytest.mark.once
def test_events_tell_all_and_in_order(model):
    events, late = [], []
    with Engine(model) as engine:
        with held(engine):
            job = engine.submit(asked(["a cat", "a dog"]))
            job.listen(events.append)
            stop = job.listen(lambda event: late.append(event))
            stop()
        job.result(60)
        job.listen(late.append)
    kinds = [event.kind for event in events]
    assert kinds[0] == "waiting"
    assert kinds[-1] == "done"
    assert set(kinds[1:-1]) == {"step"}
    assert [event.step for event in events] == sorted(event.step for event in events)
    assert events[-1].step == events[-1].total == 8
    assert [event.kind for event in late] == ["waiting", "done"]
    assert all(event.preview is None for event in events)


@pytest.mark.once
@pytest.mark.parametrize("error", [RuntimeError("gone"), asyncio.CancelledError()])
def test_who_listens_and_raises_is_left_out(model, caplog, error):
    def bad(event):
        raise error

    with Engine(model) as engine:
        with held(engine):
            job = engine.submit(asked())
            job.listen(bad)
        job.result(60)
        engine.submit(asked()).result(60)
    assert "hears no more" in caplog.text


@pytest.mark.once
def test_previews_are_made_where_somebody_watches(model, monkeypatch):
    monkeypatch.setattr(engines, "PREVIEW_SECONDS", 0.0)
    seen = []
    with Engine(model) as engine:
        engine.submit(asked()).result(60)
        assert engine._previews is None
        job = engine.submit(asked(["a cat", "a dog"]), watched=True)
        job.listen(seen.append)
        job.result(60)
    shown = [event.preview for event in seen if event.preview is not None]
    assert shown
    assert all(each.dtype == np.uint8 and each.shape[1:] == (8, 6, 3) for each in shown)


@pytest.mark.once
def test_a_picture_is_drawn_where_no_preview_can_be(model, monkeypatch, caplog):
    def damaged(model):
        raise FloatingPointError("the decoder")

    monkeypatch.setattr(engines, "Previews", damaged)
    monkeypatch.setattr(engines, "PREVIEW_SECONDS", 0.0)
    with Engine(model) as engine:
        seen = []
        with held(engine):
            jobs = [engine.submit(asked(), watched=watched) for watched in (True, True, False)]
            for job in jobs:
                job.listen(seen.append)
        assert all(job.result(60) is not None for job in jobs)
    assert {event.preview is None for event in seen} == {True}
    assert caplog.text.count("There are no previews") == 1


@pytest.mark.once
def test_previews_are_not_made_all_the_time(model):
    seen = []
    with Engine(model) as engine:
        engine.submit(asked(), watched=True).result(60)  # fits the map
        job = engine.submit(asked(num_steps=50), watched=True)
        began = time.monotonic()
        job.listen(seen.append)
        job.result(60)
        took = time.monotonic() - began
    shown = [event for event in seen if event.preview is not None]
    assert len(shown) <= 2 + took / engines.PREVIEW_SECONDS
    assert len(shown) < 50


def test_a_preview_looks_like_the_picture(emoji):
    *_, last = emoji.stream("a red apple on a blue background", seed=1, num_steps=6)
    shown = Previews(emoji.model)(last.latent)
    factor = emoji.model.config.autoencoder.factor
    picture = np.asarray(last.image()).astype(float)
    count, height, width, _ = shown.shape
    cells = picture.reshape(count, height, factor, width, factor, 3).mean(axis=(2, 4))
    assert 1 - np.var(shown - cells) / np.var(cells) > 0.75


@pytest.mark.once
def test_closing_ends_what_waits_and_lets_what_runs_finish(model):
    engine = Engine(model, max_rows=1)
    with held(engine) as job:
        waiting = engine.submit(asked())
        closing = threading.Thread(target=engine.close)
        closing.start()
        while engine._until is None:
            time.sleep(0.001)
        with pytest.raises(Stopping):
            engine.submit(asked())
    closing.join(60)
    assert not closing.is_alive()
    assert job.result(0) is not None
    with pytest.raises(Stopping):
        waiting.result(0)
    engine.close()  # once more is nothing


@pytest.mark.once
def test_closing_without_grace_ends_what_runs(model):
    engine = Engine(model)
    with held(engine) as job:
        closing = threading.Thread(target=engine.close, args=(0.0,))
        closing.start()
        while engine._until is None:
            time.sleep(0.001)
    closing.join(60)
    with pytest.raises(Stopping):
        job.result(0)
    assert Held.closed == [True]


@pytest.mark.once
def test_a_fault_of_the_engine_reaches_whoever_waits(model, monkeypatch, caplog):
    with Engine(model) as engine:
        monkeypatch.setattr(engine, "_begin", lambda: 1 / 0)
        job = engine.submit(asked())
        with pytest.raises(ZeroDivisionError):
            job.result(60)
        monkeypatch.undo()
        engine.submit(asked()).result(60)
    assert "goes on" in caplog.text


@pytest.mark.thorough
def test_a_model_for_painting_is_warmed_up_too():
    with Engine(attending(NINE).model) as engine:
        engine.warm_up()
        assert engine.stats().done >= 1


@pytest.mark.once
def test_a_closed_engine_is_not_warmed_up(model):
    engine = Engine(model)
    engine.close()
    with pytest.raises(Stopping):
        engine.warm_up()


def test_it_is_warm_after_a_warm_up(model):
    with Engine(model, max_rows=3) as engine:
        engine.warm_up()
        stats = engine.stats()
        assert stats.done == len(engine._batches.sizes or (1,))
        assert stats.rows == stats.running == stats.waiting == 0
        assert stats.seconds_a_job > 0


@pytest.mark.once
@pytest.mark.parametrize(
    "limits", [{"max_rows": 0}, {"max_waiting": -1}, {"max_wait": 0}, {"max_run": float("nan")}]
)
def test_limits_are_checked(model, limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        Engine(model, **limits)


@pytest.mark.once
def test_four_threads_ask_at_once(model):
    found, requests = {}, {seed: asked(PROMPTS[seed % 4], seed=seed) for seed in range(12)}
    with Engine(model, max_rows=4, max_waiting=12) as engine:

        def client(seeds):
            for seed in seeds:
                found[seed] = engine.submit(requests[seed]).result(60)

        threads = [threading.Thread(target=client, args=(range(i, 12, 4),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert sorted(found) == list(range(12))
    for seed, images in found.items():
        assert distance(images, alone(model, requests[seed])) <= 1
