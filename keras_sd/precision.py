"""Which numbers the networks compute in, and what happens when they overflow.

A policy is one of Keras' dtype policies: `mixed_float16` has float32 weights and computes in
float16, `float16` has both in float16. What must not be rounded stays float32 in all of them: the
timestep and its sinusoids, statistics of norms, scores and sums of attention, guidance, latents,
the sampler's arithmetic and the decoded image.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import keras
from keras import ops

from keras_sd.backend import NAME, JitCompile, compile_step, to_numpy
from keras_sd.networks.initializers import weights_follow
from keras_sd.sampling import Step

logger = logging.getLogger("keras_sd")

POLICIES = ("float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
"""Names of the policies that the networks run in, on each backend."""


def check_policy(dtype: Any = None) -> keras.DTypePolicy:
    """The policy that is meant.

    Args:
        dtype: its name, the policy itself, or a dtype such as `np.float16`; None is the global
            policy.

    Raises:
        ValueError: it is none of `POLICIES`.
    """
    try:
        policy = keras.dtype_policies.get(dtype)
    except (TypeError, ValueError):
        policy = None
    if policy is None or policy.name not in POLICIES:
        what = f"The global dtype policy {policy}" if dtype is None else f"dtype {dtype!r}"
        raise ValueError(
            f"{what} is nothing that the networks compute in on {NAME}; there is "
            f"{', '.join(POLICIES)}"
        )
    return policy


@contextmanager
def policy_scope(dtype: Any = None) -> Iterator[None]:
    """Networks built inside have this policy; afterwards the global one is what it was.

    Args:
        dtype: see `check_policy`.

    Raises:
        ValueError: see `check_policy`.
    """
    policy, old = check_policy(dtype), keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(old)


def all_finite(x: Any) -> Any:
    """Whether there is neither NaN nor infinity in a tensor: a boolean tensor, not waited for."""
    return ops.all(ops.isfinite(x))


def whole(network: keras.Model, method: str, jit_compile: JitCompile) -> Callable[..., Any]:
    """A method of a network, compiled."""
    return compile_step(getattr(network, method), [network], jit_compile)


class FiniteStep:
    """A method of a network, computed again in float32 where the result overflowed.

    The float32 network is made when it is first needed, and takes the weights of the other at every
    call that needs it, one call at a time.

    Args:
        network: one that is made of its `config` alone, such as the autoencoder.
        method: the name of a function of tensors with one result.
        jit_compile: see `keras_sd.backend.compile_step`.
        make: of a network, the method's name and `jit_compile`: the compiled call.
    """

    def __init__(
        self,
        network: keras.Model,
        method: str,
        jit_compile: JitCompile = "auto",
        make: Callable[..., Callable[..., Any]] = whole,
    ):
        self._network, self._method, self._jit, self._make = network, method, jit_compile, make
        self._step = make(network, method, jit_compile)
        self._float32: FiniteStep | None = None
        self._lock = threading.Lock()  # the float32 network's weights are of one call

    def __call__(self, *given: Any) -> Any:
        """The result, finite.

        Raises:
            FloatingPointError: it is not finite in float32 either, or what was given is not.
        """
        result = self._step(*given)
        if _is_true(all_finite(result)):
            return result
        what = f"The {self._network.name} cannot {self._method}"
        if not all(_is_true(all_finite(x)) for x in given):
            raise FloatingPointError(
                f"{what} what it was given: that is not finite. Where the run computes in float16, "
                "take dtype='mixed_bfloat16' or 'float32'"
            )
        policy = self._network.dtype_policy
        if policy.compute_dtype == "float32":
            raise FloatingPointError(
                f"{what}: the result is not finite in float32, so the weights are damaged, or what "
                "it was given is far out of range"
            )
        logger.warning(
            "The result of the %s is not finite under the policy %s; it is computed again in "
            "float32.",
            self._network.name,
            policy.name,
        )
        return self._in_float32(*given)

    def _in_float32(self, *given: Any) -> Any:
        with self._lock:
            if self._float32 is None:
                with policy_scope("float32"), weights_follow():
                    network = type(self._network)(self._network.config, name=self._network.name)
                self._float32 = FiniteStep(network, self._method, self._jit, self._make)
            pairs = zip(self._float32._network.weights, self._network.weights, strict=True)
            for variable, weight in pairs:
                variable.assign(ops.cast(weight.value, "float32"))
            return self._float32(*given)


def finite_steps(steps: Iterator[Step], policy: keras.DTypePolicy) -> Iterator[Step]:
    """The steps of a run, as long as their latents are finite.

    Each is looked at when the one after it is under way, so that an accelerator is never waited
    for; the last at once.

    Args:
        steps: from `keras_sd.sampling.sample`.
        policy: of the network that denoises.

    Raises:
        FloatingPointError: while iterating; it names the step and the policy.
    """
    with closing(steps):  # type: ignore[type-var]
        before: tuple[Step, Any] | None = None
        for step in steps:
            now = step, all_finite(step.latent)
            _require_finite(before, policy)
            if step.index == step.total:
                _require_finite(now, policy)
            before = now
            yield step


def _require_finite(checked: tuple[Step, Any] | None, policy: keras.DTypePolicy) -> None:
    if checked is None or _is_true(checked[1]):
        return
    step = checked[0]
    remedy = (
        "float16 ends at 65504; take dtype='mixed_bfloat16' or 'float32'"
        if policy.compute_dtype == "float16"
        else "the weights are damaged, or a setting such as the guidance scale is out of range"
    )
    raise FloatingPointError(
        f"The latent is not finite after step {step.index} of {step.total} under the policy "
        f"{policy.name}: {remedy}"
    )


def _is_true(flag: Any) -> bool:
    return bool(to_numpy(flag))
