"""Optional packages: the extra that installs each, and the line about one that is missing."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from chem.oracles.compose import make_component
from conf.schema import extras
from conf.schema.base import ConfigError
from conf.schema.extras import EXTRAS, missing_package
from conf.schema.oracle import ComponentConfig
from launch.cli.app import Outcomes
from launch.runs.run_folder import one_line_errors

HOME = Path(__file__).parents[3]


def test_every_extra_is_one_of_the_project_and_installs_the_package():
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        names = [requirement.partition(">")[0] for requirement in project[extra]]
        assert {"sklearn": "scikit-learn"}.get(package, package.replace("_", "-")) in names


def missing(name):
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_the_line_names_the_extra():
    assert missing_package(missing("rdkit.Chem")) == "rdkit is not installed: pip install 'mara-rl[chem]'"
    wrapped = ValueError("a component failed")
    wrapped.__cause__ = missing("syntheseus")
    assert missing_package(wrapped) == "syntheseus is not installed: pip install 'mara-rl[synthesis]'"
    assert missing_package(missing("no_such_package")) is None
    assert missing_package(ValueError("rdkit")) is None


@pytest.mark.parametrize(("version", "note"), [((3, 12), False), ((3, 14), True)])
def test_a_package_that_this_python_cannot_have(monkeypatch, version, note):
    monkeypatch.setattr(extras.sys, "version_info", version)
    assert ("with a Python before 3.13" in str(missing_package(missing("vina")))) == note


def test_a_missing_package_is_one_line_wherever_it_is_met(capsys, monkeypatch):
    outcomes = Outcomes("chem", False)
    outcomes.add_error(missing("rdkit"))
    assert capsys.readouterr().err == "chem: rdkit is not installed: pip install 'mara-rl[chem]'\n"
    outcomes.add_error(missing("no_such_package"))
    assert capsys.readouterr().err.count("\n") > 1  # control: with a traceback
    with pytest.raises(SystemExit, match=r"chem\.convert: rdkit is not installed"), one_line_errors("chem.convert"):
        raise missing("rdkit")
    with pytest.raises(ModuleNotFoundError), one_line_errors("chem.convert"):  # control
        raise missing("no_such_package")
    loaded = [name for name in sys.modules if name.partition(".")[0] == "syntheseus"]
    for package in ("syntheseus", "syntheseus.interface", *loaded):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "chem.oracles.synthesis.component", raising=False)
    with pytest.raises(ConfigError, match=r"synthesis: syntheseus is not installed: pip install"):
        make_component(ComponentConfig("synthesis", {}))


def test_a_command_without_rdkit_is_one_line(tmp_path):
    (tmp_path / "rdkit.py").write_text("raise ModuleNotFoundError(\"No module named 'rdkit'\", name='rdkit')")
    command = [sys.executable, "-c", "import runpy; runpy.run_module('chem', run_name='__main__')"]
    process = subprocess.run(
        [*command, f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{HOME}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert process.returncode == 1
    assert process.stderr == "chem: rdkit is not installed: pip install 'mara-rl[chem]'\n"
