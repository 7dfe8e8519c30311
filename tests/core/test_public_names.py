"""The names of the light library: complete, and loaded only when they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

import core

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", core.__all__)
def test_a_public_name_is_that_of_its_module(name):
    value = getattr(core, name)
    assert value.__module__ == f"core.{core.MODULE_OF[name]}"
    assert value.__doc__


def test_other_names_are_errors():
    with pytest.raises(AttributeError, match="module 'core' has no attribute 'reverse_target'"):
        core.reverse_target  # noqa: B018
    assert set(core.__all__) <= set(dir(core))


def test_the_import_alone_loads_no_torch():
    code = "import sys, core; print('torch' in sys.modules); core.entropy; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]  # the second is the control
