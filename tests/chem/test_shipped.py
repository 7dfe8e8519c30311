"""The default command, with the shipped prior."""

import subprocess
import sys
from pathlib import Path

from launch.runs.run_folder import read_jsonl

ROOT = Path(__file__).parents[2]


def test_the_default_command_designs_molecules(tmp_path):
    command = [sys.executable, "-m", "chem", "steps=2", "batch_size=16", "oracle.workers=1", "cache=null"]
    process = subprocess.run([*command, f"hydra.run.dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Best molecules" in process.stdout
    assert (tmp_path / "molecules.png").stat().st_size > 5000
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert len(read_jsonl(tmp_path / "samples.jsonl")) > 16
