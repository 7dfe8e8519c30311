"""`python -m chem.evaluate` on a CSV file."""

import csv

import pytest

from launch.runs.run_folder import read_json

from ..commands import run_module
from .molecules import MOLECULES, distances


def evaluate(*arguments):
    return run_module("chem.evaluate", *arguments)


def test_the_command(tmp_path):
    """Columns have other names and another order, and there are further columns."""
    rows = [(n, f"{n / 20:.3f}", smiles) for n, smiles in enumerate(MOLECULES)] + [(99, "", "CCC"), (100, 0.1, "C1")]
    with (tmp_path / "other.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "Reward", "SMILES"), *rows])
    known = tmp_path / "known.smi"
    known.write_text("OCC alcohol\nCCCCCCCC\n")
    process = evaluate(
        f"file={tmp_path / 'other.csv'}", "score_column=Reward", "screens=[0.5,0.3]",
        f"known={known}", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["0.5/yield"] == 4
    assert summary["0.5/OB1"] == 11
    assert summary["0.5/OB10"] is None
    assert summary["0.3/yield"] == 8
    assert summary["unscored"] == 1
    assert summary["generated"] == 16
    assert summary["novelty"] == pytest.approx(13 / 15)
    assert summary["validity"] == pytest.approx(15 / 16)
    assert summary["0.3/int_div1"] == pytest.approx(distances(MOLECULES[6:]).mean())
    assert summary["known"] == {"lines": 2, "kept": 2}
    assert summary["file_counts"] == {"lines": 16, "kept": 15, "not a molecule": 1}
    assert "other.csv: lines 16, kept 15, not a molecule 1" in process.stdout + process.stderr
    assert "not reached" in process.stdout
    assert "#Circles" in process.stdout
    assert {"figure.png", "molecules.png"} <= {path.name for path in (tmp_path / "run").iterdir()}

    wrong = evaluate(f"file={tmp_path / 'other.csv'}", f"hydra.run.dir={tmp_path / 'wrong'}")
    assert wrong.returncode == 1
    assert "score_column: other.csv has no column score; its columns are: step, Reward, SMILES" in wrong.stderr
