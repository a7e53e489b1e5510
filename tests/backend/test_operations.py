"""How many operations a call of each network is. Counted, so that no machine's speed matters: a
change that makes one slower mostly adds some. Where fewer are left, the numbers here go down with
the change; where more are needed, whoever changes them says why.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from keras import ops

from keras_sd import backend

# Of the embedded model, the UNet's as in a step of a run, with the versions in
# tests/constraints.txt: torch's kernels, equations of jax before it compiles, nodes of TensorFlow's
# graph.
COUNTS = {
    "torch": {"text_encoder": 41, "unet": 330, "autoencoder": 77},
    "jax": {"text_encoder": 264, "unet": 2276, "autoencoder": 715},
    "tensorflow": {"text_encoder": 178, "unet": 1749, "autoencoder": 544},
}


def calls(model):
    """What a run calls of each network, and with what."""
    unet, text = model.config.unet, model.config.text_encoders["text_encoder"]
    tensor = ops.convert_to_tensor
    height, width, channels = model.latent_shape(64, 64)
    latents = np.zeros((2, height, width, channels), "float32")
    times = np.zeros(2, "float32")
    context = np.zeros((2, text.max_length, unet.context_width), "float32")
    parts = model.parts

    def in_a_step(latents, times, context, pairs):
        return parts["unet"](latents, times, context, pairs=pairs)

    pairs = parts["unet"].pairs(tensor(context))
    return {
        "text_encoder": (parts["text_encoder"], [tensor(np.zeros((1, text.max_length), "int32"))]),
        "unet": (in_a_step, [*map(tensor, (latents, times, context)), pairs]),
        "autoencoder": (parts["autoencoder"].decode, [tensor(latents[:1])]),
    }


def count_on_torch(call, given):
    torch = importlib.import_module("torch")
    dispatch = importlib.import_module("torch.utils._python_dispatch")

    class Counting(dispatch.TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            # Another view of the same numbers costs nothing worth counting.
            self.found += not func.is_view
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Counting() as counting:
        call(*given)
    return counting.found


def count_on_jax(call, given):
    jax = importlib.import_module("jax")

    def within(jaxpr):
        found = 0
        for equation in jaxpr.eqns:
            inner = [
                getattr(value, "jaxpr", value)
                for value in equation.params.values()
                if hasattr(getattr(value, "jaxpr", value), "eqns")
            ]
            found += sum(map(within, inner)) if inner else 1
        return found

    return within(jax.make_jaxpr(call)(*given).jaxpr)


def count_on_tensorflow(call, given):
    tf = importlib.import_module("tensorflow")
    graph = tf.function(call, autograph=False).get_concrete_function(*given).graph
    nothing = {"Const", "Placeholder", "Identity", "ReadVariableOp", "NoOp"}
    return sum(each.type not in nothing for each in graph.get_operations())


@pytest.mark.parametrize("network", ["text_encoder", "unet", "autoencoder"])
def test_a_call_is_as_many_operations_as_it_was(emoji, network):
    count = {
        "torch": count_on_torch,
        "jax": count_on_jax,
        "tensorflow": count_on_tensorflow,
    }[backend.NAME]
    found = count(*calls(emoji.model)[network])
    assert found == COUNTS[backend.NAME][network]
