"""The sampler contract: what a sampler is given, what it gives back, and what it must not do.

A sampler is a frozen dataclass of settings whose ``__call__`` is a generator. DDIM with eta = 0,
whole::

    @dataclass(frozen=True)
    class DDIM:
        '''Song et al. 2021, equation 12.'''

        def __call__(self, denoise, x, levels, noise):
            for now, nxt in pairwise(levels):
                x = transfer(x, denoise(x, now), now, nxt)
                yield x

The clauses, which error messages and the conformance kit (`keras_sd.testing`) cite by number:

1. **levels** is a `keras_sd.noise.Levels`: a tuple of `Level`, noise falling. The last sigma may be
   0 or not; the first alpha may be 0. Look between two of them with ``levels.between(now, nxt,
   fraction)``.
2. **denoise(x, level)** gives the clean latent x0, guidance included. Call it as often as you like,
   before the first yield at least once, and never at sigma 0. ``denoise.parts(x, level)``, which a
   host may have, gives `Parts` instead, the conditional, the unconditional and the guided x0 of one
   evaluation, for methods that guide in a way of their own; see ``needs_parts``.
3. **noise(now, nxt)** gives standard normal numbers shaped like x and is the only randomness: new
   ones at each call, or those of one Brownian path, see ``brownian``.
4. **Yield exactly once per interval**, the latent at its end, whatever the number of evaluations:
   shaped like x, of the same dtype (float32 from the pipeline).
5. **State lives in locals**, so that two runs of one sampler may interleave. Settings are checked
   in ``__post_init__``, since a generator's body starts too late for a good error, and show in the
   repr.
6. **Branch on levels, never on tensors; plain arithmetic only** (``+ - * / ** abs``, Python
   numbers), out of place, so that NumPy, torch, jax and TensorFlow arrays all work.
7. **No ``with`` block around a yield**: it would stay open in the host's code. Let
   ``GeneratorExit`` and what `denoise` raises pass: that is how a run is cancelled.

A sampler may declare, as class attributes or properties, what the kit then expects of it:

* ``order`` (default 1): its order of convergence; 0 promises none, as methods for distilled models;
* ``stochastic`` (default False): it draws noise;
* ``zero_alpha`` (default True): it can start at alpha 0; one that cannot raises ValueError;
* ``reads_tensors`` (default False): it reads tensors as numbers (an adaptive method's error norm);
* ``brownian`` (default False): its noise is that of one Brownian path, so that the noise of an
  interval is the sum of its parts', and runs of more steps come to the same picture;
* ``consistency`` (default False): its model is a consistency model, whose x0 is the end of the ODE;
* ``unsuited`` (default none): by the name of a schedule, why not to run on it, and what to take
  instead;
* ``needs_parts`` (default False): it calls ``denoise.parts``, and a run whose denoise has none is a
  ValueError before it starts;
* ``unconditional_noise`` (default False): it believes the guided x0 and keeps the noise that goes
  with the unconditional one, as CFG++ does, so that it is run with a guidance made for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from keras_sd.noise import Level, Levels

__all__ = ["Array", "Denoise", "Noise", "Parts", "Sampler", "label"]

Array = Any
"""A NumPy array or a tensor of any backend."""

Denoise = Callable[[Array, Level], Array]
"""``denoise(x, level) -> x0``: the model's clean latent, shaped like x. It may have a method
``parts(x, level) -> Parts``."""


class Parts(NamedTuple):
    """The clean latents of one evaluation.

    Attributes:
        conditional: With the prompt.
        unconditional: With the negative prompt.
        guided: What guidance makes of both, as ``denoise(x, level)`` gives it.
    """

    conditional: Array
    unconditional: Array
    guided: Array


Noise = Callable[[Level, Level], Array]
"""``noise(now, nxt) -> n``: standard normal, shaped like x."""


@runtime_checkable
class Sampler(Protocol):
    """A callable that walks a latent down the noise levels; see this module for the contract."""

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        """Walk `x` from ``levels[0]`` to ``levels[-1]``, yielding once per interval.

        Args:
            denoise: The model, see clause 2.
            x: The latent at ``levels[0]``.
            levels: The noise levels of the run, see clause 1.
            noise: The only randomness, see clause 3.

        Yields:
            The latent at the end of each interval, shaped like `x`.
        """
        ...


def label(sampler: Any) -> str:
    """What a message calls a sampler, a schedule or whatever was given for one: its name if it has
    one, else its repr, which a stranger's may fail to give.
    """
    try:
        return str(getattr(sampler, "__name__", None) or repr(sampler))
    except Exception:
        return f"a {type(sampler).__name__}, which has no repr"
