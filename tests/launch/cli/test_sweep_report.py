"""`report_sweep`: which packages compare the runs of their sweeps, and when."""

import sys
from types import ModuleType

import pytest

from conf.schema.base import ConfigError
from launch.cli.sweep_report import report_sweep


@pytest.fixture
def package(monkeypatch):
    """The name of a package whose report keeps what it is called with, and the list of calls."""
    calls: list[tuple] = []
    made_up, report = ModuleType("made_up_package"), ModuleType("made_up_package.report")
    made_up.__path__ = []
    report.__spec__ = ModuleType("spec")  # type: ignore[assignment]  # find_spec only asks whether there is one
    report.report_sweep = lambda *arguments: calls.append(arguments)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_package", made_up)
    monkeypatch.setitem(sys.modules, "made_up_package.report", report)
    return report, calls


def test_the_packages_report_is_called_with_the_runs(package, tmp_path):
    _, calls = package
    runs = [tmp_path / "0", tmp_path / "1"]
    report_sweep("made_up_package", runs, tmp_path)
    assert calls == [(runs, tmp_path)]


def test_nothing_is_called_for_one_run_for_a_command_or_without_a_report(package, tmp_path):
    report, calls = package
    runs = [tmp_path / "0", tmp_path / "1"]
    report_sweep("made_up_package", runs[:1], tmp_path)
    report_sweep("made_up_package.evaluate", runs, tmp_path)
    report_sweep("tests", runs, tmp_path)  # a package without a report
    del report.report_sweep
    report_sweep("made_up_package", runs, tmp_path)
    assert calls == []


@pytest.mark.parametrize("name", ["llm", "chem", "didactic"])
def test_each_package_compares_its_sweeps(name, tmp_path):
    """Without files of the runs it fails, so it was called."""
    with pytest.raises((FileNotFoundError, ConfigError), match=r"0/summary\.json"):
        report_sweep(name, [tmp_path / "0", tmp_path / "1"], tmp_path)
