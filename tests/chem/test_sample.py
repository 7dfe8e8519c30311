"""`python -m chem.sample`."""

import csv

from chem.molecules import canonical_form
from launch.runs.run_folder import read_json

from ..commands import run_module


def test_the_command(tmp_path):
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    process = run_module("chem.sample", "count=12", "threads=1", folder, status=0)
    with (tmp_path / "run" / "molecules.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["smiles"] for row in rows}) == 12
    assert all(canonical_form(row["drawn_as"]) == row["smiles"] for row in rows)
    assert all(-100 < float(row["logp_nats"]) < 0 for row in rows)
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["written"] == summary["distinct"] == 12 <= summary["valid"] <= summary["drawn"]
    assert "strings drawn" in process.stdout
