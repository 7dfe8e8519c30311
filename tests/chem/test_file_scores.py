"""Scores of a file: reading, resuming from the cache, and rows without a score."""

import csv

import pytest

from chem import file_scores
from chem.file_scores import score_file
from chem.oracles import OracleError, Result, Status
from conf.schema.base import ConfigError
from conf.schema.chem import ScoreConfig
from launch.cli.compose import compose_typed

from .molecules import UNREADABLE
from .test_score import Summary


class FakeOracle:
    """Scores in this process; nitrogen fails, and iodine ends everything."""

    key, notes = "fake", ("a note",)
    asked: list[str] = []  # noqa: RUF012

    def __init__(self, config):
        self.config = config

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __call__(self, smiles):
        if any("I" in molecule for molecule in smiles):
            raise OracleError("oracle: too many failures")
        self.asked.extend(smiles)
        return [
            Result(molecule, Status.failed, None, message="qed: no")
            if "N" in molecule
            else Result(molecule, Status.ok, 0.5, {"qed": 0.25})
            for molecule in smiles
        ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(file_scores, "Oracle", FakeOracle)
    FakeOracle.asked.clear()
    return tmp_path


def run_on(folder, text, *overrides, name="a.smi"):
    (folder / name).write_text(text)
    config: ScoreConfig = compose_typed("chem.score", [f"file={folder / name}", "cache=null", *overrides])[0]
    run = Summary(folder)
    score_file(config, run)
    with (folder / "scores.csv").open() as file:
        return run.summary, list(csv.DictReader(file))


def test_failures_and_strings_that_are_no_molecules_keep_their_rows(folder, capsys):
    text = f"CCO\nCCN\n{UNREADABLE[0]}\n"
    summary, rows = run_on(folder, text)
    assert [row["status"] for row in rows] == ["ok", "failed", "invalid"]
    assert [row["score"] for row in rows] == ["0.5", "", "0.0"]
    assert [row["message"] for row in rows] == ["", "qed: no", "its canonical SMILES cannot be read"]
    assert [row["qed"] for row in rows] == ["0.25", "", ""]
    assert summary["failed_for"] == {"failed: qed: no": 1}
    assert "qed: no" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"^file: b\.smi has no molecule among its 1 strings"):
        run_on(folder, "C(\n", name="b.smi")


def test_what_was_scored_is_not_asked_again(folder):
    """The run is stopped in its second chunk."""
    with pytest.raises(ConfigError, match=r"too many failures; the answers so far are kept, run the same command"):
        run_on(folder, "C\nCC\nCCC\nCI\n", "chunk=2")
    assert FakeOracle.asked == ["C", "CC"]
    summary, _ = run_on(folder, "C\nCC\nCCC\n", "chunk=2")
    assert FakeOracle.asked == ["C", "CC", "CCC"]
    assert summary["cached"] == 2


def test_tables_are_read_by_column(folder):
    summary, rows = run_on(folder, '\ufeffid,SMILES\n1,OCC\n2,"C1CC1"\n3,\n', name="a.csv")
    assert [row["smiles"] for row in rows] == ["OCC", "C1CC1", ""]
    assert summary["strings"] == 3
    with pytest.raises(ConfigError, match=r"^smiles_column: a\.csv has no column smiles; its columns are: id"):
        run_on(folder, "id,SMILES\n1,OCC\n", "smiles_column=smiles", name="a.csv")
