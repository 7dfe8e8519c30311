"""A real sweep of `didactic`, by the commands that a user types."""

import shutil

import pandas as pd
import pytest

from launch.runs import run_folder
from launch.runs.run_folder import read_jsonl

from ..commands import run_module


@pytest.mark.slow
def test_the_commands_on_a_real_sweep(tmp_path):
    """Sweep, lose two runs, see it, resume it, collect it: the lost runs come back as they were."""
    folder = tmp_path / "sweep"
    axes = ["experiment=bandit", "objective.direction=reverse,forward", "seed=0,1", "steps=20", "log_every=1"]
    sampled = ["gradient=sampled", "samples=16", f"hydra.sweep.dir={folder}"]
    done = run_module("didactic", "-m", *axes, *sampled)
    assert done.returncode == 0, done.stderr
    lines = {n: read_jsonl(folder / str(n) / "metrics.jsonl") for n in range(4)}
    shutil.rmtree(folder / "1")
    (folder / "2" / "run.json").write_text((folder / "2" / "run.json").read_text().replace('"finished"', '"failed"'))
    seen = run_module("launch.status", str(folder))
    assert seen.returncode == 1
    assert "1 missing" in seen.stdout
    assert "1 failed" in seen.stdout
    again = run_module("launch.resume", str(folder))
    assert again.returncode == 0, again.stdout + again.stderr
    assert {n: read_jsonl(folder / str(n) / "metrics.jsonl") for n in range(4)} == lines
    assert [run_folder.run_state(folder / str(n)) for n in range(4)] == ["finished"] * 4
    collected = run_module("launch.collect", str(folder), "--out", str(tmp_path / "out"))
    assert collected.returncode == 0
    assert "4 of 4 runs finished" in collected.stdout
    written = pd.read_csv(tmp_path / "out" / "table.csv")
    assert written["objective.direction"].tolist() == ["reverse", "forward"]
    assert written["n"].tolist() == [2, 2]
    assert all((tmp_path / "out" / name).exists() for name in ("pareto.png", "curves.png", "report.html"))
