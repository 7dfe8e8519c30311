"""What a conversion writes."""

import pytest

from chem.foreign.conversion import Conversion, command_line
from chem.foreign.ledger import Ledger
from conf.schema.base import ConfigError


def test_files_and_command(tmp_path):
    ledger = Ledger()
    ledger.note("a.b", 1, "none", "gone\nfor good")
    conversion = Conversion(ledger, experiment={"replay": {"size": 1}}, oracle={"components": []}, seeds=["CCO", "C"])
    command = conversion.write(tmp_path / "my folder", tmp_path / "a run.toml")
    assert command_line(command) == f"python -m chem --config-dir '{tmp_path}/my folder' experiment=a_run"
    experiment = (tmp_path / "my folder/experiment/a_run.yaml").read_text()
    assert experiment.startswith("# @package _global_\n# Converted from a run.toml by chem.convert.\n")
    assert "# -- a.b = 1: no counterpart: gone for good\n" in experiment
    assert (tmp_path / "my folder/a_run_seeds.smi").read_text() == "CCO\nC\n"
    with pytest.raises(ConfigError, match=r"a_run\.yaml: exists already"):
        conversion.write(tmp_path / "my folder", tmp_path / "a run.toml")


def test_a_command_without_files(tmp_path):
    command = Conversion(Ledger(), "chem.sample", ["count=3"]).write(tmp_path / "out", tmp_path / "s.toml")
    assert command == ["python", "-m", "chem.sample", "count=3"]
    assert not (tmp_path / "out").exists()
