"""Samplers on the tensors of a backend: the kit's one check that needs Keras, and the kit whole.

The other checks: tests/plain/test_samplers.py and test_testing_kit.py.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_samplers import SETTINGS
from test_testing_kit import DEFECTS, GOOD

from keras_sd.registry import get_sampler, list_samplers
from keras_sd.testing import ContractViolation, check_backend_tensors, check_sampler


@pytest.mark.parametrize("name", [info.qualified_name for info in list_samplers()])
def test_every_installed_sampler_runs_on_tensors(name):
    check_backend_tensors(name)


@pytest.mark.parametrize(
    "sampler", [get_sampler(name, **given) for name, given in SETTINGS], ids=repr
)
def test_other_settings_run_on_tensors(sampler):
    check_backend_tensors(sampler)


@GOOD
def test_samplers_that_keep_the_contract_run_on_tensors(sampler):
    check_backend_tensors(sampler)


@pytest.mark.parametrize(
    ("make", "check", "message"),
    [defect for defect in DEFECTS if defect.values[1] == "check_backend_tensors"],
)
def test_a_defect_is_seen_on_tensors(make, check, message):
    with pytest.raises(ContractViolation, match=message):
        check_backend_tensors(make())


def test_the_whole_kit_runs_where_there_is_a_backend():
    check_sampler("ddim")


def test_the_kit_needs_pytest_only_to_parametrize():
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from keras_sd.testing import check_sampler\n"
        "from keras_sd.noise import transfer\n"
        "def euler(denoise, x, levels, noise):\n"
        "    for now, nxt in zip(levels, levels[1:]):\n"
        "        x = transfer(x, denoise(x, now), now, nxt)\n"
        "        yield x\n"
        "check_sampler(euler)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
