"""A process that keeps its memory is given no new pages for what it needs again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from keras_sd import machine

PROGRAM = """
import resource
from keras_sd.machine import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    large = bytearray(2**26)
    large[::4096] = bytes(2**14)
    del large
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given = faults()
kept = keep_memory()
faults()
print(kept, given, faults())
"""

IS_GLIBC = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})


def pages(**environment):
    inherited = {k: v for k, v in os.environ.items() if k not in machine._CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**inherited, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    kept, first, again = done.stdout.split()
    return kept == "True", int(first), int(again)


@pytest.mark.skipif(not IS_GLIBC, reason="glibc's own way")
def test_pages_are_given_once():
    kept, first, again = pages()
    assert kept
    # Where the system gives large pages, the first are few, too.
    assert again < 100
    assert first > 2 * again


@pytest.mark.parametrize("name", sorted(machine._CHOSEN))
def test_what_the_environment_chose_stays(name):
    value = {"GLIBC_TUNABLES": ""}.get(name, "100000")
    kept, first, again = pages(**{name: value})
    assert not kept
    assert again > first / 2


def test_without_glibc_nothing_is_done(monkeypatch):
    for name in machine._CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine.os, "confstr_names", {})
    monkeypatch.setattr(machine.ctypes, "CDLL", None)
    assert not machine.keep_memory()
