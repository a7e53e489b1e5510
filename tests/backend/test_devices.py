"""Four devices, simulated, draw the pictures of one, and each a part of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_sd import backend, devices

ON_JAX = pytest.mark.skipif(backend.NAME != "jax", reason="Keras has distributions on jax alone")

PROGRAM = """
import json, sys
import jax, keras, numpy as np
from keras_sd import devices
kind, path = sys.argv[1:]
work, jit = {}, jax.jit
def counted(fn, **options):
    made = {}
    def call(*args):
        shapes = str([each.shape for each in jax.tree.leaves(args)])
        if shapes not in made:
            made[shapes] = jit(fn, **options).lower(*args).compile()
            variables = len(args[0]) if args and isinstance(args[0], list) else 0
            work[variables] = made[shapes].cost_analysis()["flops"]
        return made[shapes](*args)
    return call
jax.jit = counted  # of each device
if kind == "data":
    keras.distribution.set_distribution(keras.distribution.DataParallel())
elif kind == "model":
    keras.distribution.set_distribution(devices.model_parallel(2))
from keras_sd.backend import to_numpy
from keras_sd.forms import request_of
from keras_sd.run import run
from test_pipeline import TINY, make
model = make(TINY).model
rng = np.random.default_rng(0)
for part in model.parts.values():
    for variable in part.variables:
        if variable.path.endswith(("kernel", "embeddings")):
            variable.assign(rng.normal(0, 0.08, variable.shape).astype("float32"))
request = request_of(["a cat", "a dog", "do"], seed=1, num_steps=3, height=32, width=32)
*_, last = run(model, request)
images, told = np.asarray(last.image()), {}
spec = getattr(getattr(last.x0, "sharding", None), "spec", None)
told["x0"] = str(spec)
told["rows"] = [shard.data.shape[0] for shard in last.x0.addressable_shards]
told["split"] = sum(
    not variable.value.sharding.is_fully_replicated for variable in model.parts["unet"].variables
)
told["work"] = work[len(model.parts["unet"].variables)]
np.save(path, images)
print(json.dumps(told))
"""


def drawn(tmp_path, kind, count=4):
    """The pictures, and what is known of where they were made."""
    path = tmp_path / f"{kind}.npy"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    folders = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    before = os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(path)],
        env={
            **os.environ,
            "XLA_FLAGS": flags.strip(),
            "PYTHONPATH": os.pathsep.join([*folders, before]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(path).astype(int), json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    pictures, told = drawn(tmp_path_factory.mktemp("one"), "none")
    assert told["rows"] == [3]
    assert pictures.std() > 5
    return pictures, told["work"]


@ON_JAX
def test_the_batch_is_divided_and_the_pictures_are_the_same(one, tmp_path):
    pictures, work = one
    data, told = drawn(tmp_path, "data")
    assert work / told["work"] == pytest.approx(3, rel=0.1)
    assert np.abs(pictures - data).max() <= 1
    assert told["rows"] == [1] * 4  # three pictures and one of filling
    assert told["x0"].startswith("PartitionSpec('batch'") or told["x0"].startswith("P('batch'")
    assert told["split"] == 0


@ON_JAX
def test_the_weights_are_divided_and_the_pictures_are_the_same(one, tmp_path):
    pictures, work = one
    model, told = drawn(tmp_path, "model")
    assert work / told["work"] > 1.8  # two rows of three, and half of the large products
    assert np.abs(pictures - model).max() <= 1
    assert told["split"] > 20
    assert told["rows"] == [2] * 4  # two by two devices


def test_nothing_is_filled_or_moved_without_a_distribution():
    x = {"a": np.ones((3, 2))}
    assert devices.spread(x) is x
    assert devices.batch_shards() == 1
    assert devices.filled(3) == [0, 1, 2]


@ON_JAX
def test_the_numbers_of_devices_have_to_fit():
    with pytest.raises(ValueError, match="1 devices are not divided by 2"):
        devices.model_parallel(2)
