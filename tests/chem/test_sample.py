"""`python -m chem.sample`."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from chem.molecules import canonical_form
from launch.runs.run_folder import read_json

HOME = Path(__file__).resolve().parents[2]


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "chem.sample", "count=12", "threads=1", f"hydra.run.dir={tmp_path / 'run'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr
    with (tmp_path / "run" / "molecules.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["smiles"] for row in rows}) == 12
    assert all(canonical_form(row["drawn_as"]) == row["smiles"] for row in rows)
    assert all(-100 < float(row["logp_nats"]) < 0 for row in rows)
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["written"] == summary["distinct"] == 12 <= summary["valid"] <= summary["drawn"]
    assert "strings drawn" in process.stdout
