"""Networks computed operation by operation, for what is drawn once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def eagerly() -> Iterator[None]:
    """Inside, TensorFlow does not trace a function either: that takes four times as long as to run
    a tiny network once. On the other backends `jit_compile=False` is enough.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            # Keras feeds its own loops through tf.data, which is traced all the same.
            warnings.filterwarnings("ignore", ".*does not apply to tf.data functions")
            yield
    finally:
        tf.config.run_functions_eagerly(False)
