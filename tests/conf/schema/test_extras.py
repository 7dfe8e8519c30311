"""Optional packages: the extra that installs each, and the line about one that is missing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from chem.oracles.compose import make_component
from conf.schema import extras
from conf.schema.base import ConfigError
from conf.schema.extras import ALONE, EXTRAS, distribution, missing_package, not_installed
from conf.schema.oracle import ComponentConfig
from launch.cli.app import Outcomes
from launch.runs.run_folder import one_line_errors

HOME = Path(__file__).parents[3]
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
NOT_IMPORTED = {"hydra-submitit-launcher"}  # hydra_plugins.mara does without it
FOR_DEVELOPERS = {"dev", "docs"}


def requirements(extra):
    """The packages of an extra, as pip calls them."""
    return {re.split("[<>=;]", requirement)[0].strip() for requirement in PROJECT["optional-dependencies"][extra]}


def test_the_table_is_that_of_the_project():
    assert set(EXTRAS.values()) == set(PROJECT["optional-dependencies"]) - FOR_DEVELOPERS
    for extra in set(EXTRAS.values()):
        packages = {package for package in EXTRAS if EXTRAS[package] == extra}
        assert {distribution(package) for package in packages - ALONE} == requirements(extra) - NOT_IMPORTED
    (alone,) = re.findall(r"^ALONE = (.*)$", (HOME / "Makefile").read_text(), re.MULTILINE)
    assert sorted(map(distribution, ALONE)) == alone.split()


def test_a_copy_that_is_no_clone_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "HOME", tmp_path)
    assert not_installed("sklearn") == "sklearn is not installed (extra qsar): pip install scikit-learn"
    (tmp_path / "pyproject.toml").touch()
    assert not_installed("sklearn").endswith(f": pip install -e '{tmp_path}[qsar]'")
    assert not_installed("datamol").endswith(": pip install --no-deps datamol")


def missing(name):
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_the_line_names_the_extra():
    line = f"rdkit is not installed (extra chem): pip install -e '{HOME}[chem]'"
    assert missing_package(missing("rdkit.Chem")) == line
    wrapped = ValueError("a component failed")
    wrapped.__cause__ = missing("syntheseus")
    assert missing_package(wrapped) == not_installed("syntheseus")
    assert missing_package(missing("no_such_package")) is None
    assert missing_package(ValueError("rdkit")) is None


@pytest.mark.parametrize(("version", "note"), [((3, 12), False), ((3, 14), True)])
def test_a_package_that_this_python_cannot_have(monkeypatch, version, note):
    monkeypatch.setattr(extras.sys, "version_info", version)
    assert ("with a Python before 3.13" in str(missing_package(missing("vina")))) == note


def test_a_missing_package_is_one_line_wherever_it_is_met(capsys, monkeypatch):
    outcomes = Outcomes("chem", False)
    outcomes.add_error(missing("rdkit"))
    assert capsys.readouterr().err == f"chem: {not_installed('rdkit')}\n"
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
    with pytest.raises(ConfigError, match=r"synthesis: syntheseus is not installed \(extra synthesis\): pip install"):
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
    assert process.stderr == f"chem: {not_installed('rdkit')}\n"
