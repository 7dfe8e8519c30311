"""A real sweep of `didactic`, by the commands that a user types."""

import shutil

import pandas as pd
import pytest

from launch.runs import run_folder
from launch.runs.run_folder import read_jsonl

from ..commands import ROOT, run_module


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


FIGURES = "experiment=figure5/reverse_0.01_mara_uniform,figure5/forward_0.01_mara_uniform"
SWEEPS = {  # a sweep over experiments (or the oracles of a command) and its folder
    "didactic": ([FIGURES, "seed=0,1", "steps=5"], "runs/didactic/figure5"),
    "didactic, local": ([FIGURES, "seed=0,1", "steps=5", "hydra/launcher=local"], "runs/didactic/figure5"),
    "didactic, own folder": (
        [FIGURES, "seed=0,1", "steps=5", "hydra.sweep.dir=own/${hydra.runtime.choices.experiment}"],
        "own",
    ),
    "llm": (
        [
            *("experiment=one_two/reverse_identity_0.01,one_two/reverse_mara_0.01", "seed=0,1"),
            *("steps=1", "group_size=4", "evaluation_completions=4"),
        ],
        "runs/llm/one_two",
    ),
    "chem": (
        [
            *("experiment=synth_fast/reinvent,synth_fast/mara_0.8", "seed=0,1", "budget=100"),
            *("steps=1", "batch_size=8", "oracle.workers=1", "cache=null"),
        ],
        "runs/chem/synth_fast",
    ),
    "chem.score": (["oracle=qed,all_amide_fast", "seed=0,1", "file=some.csv", "cache=null"], "runs/chem.score"),
}


LONG = ("llm", "chem", "chem.score", "didactic, local")  # what the others do not show of a sweep is little


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.long] if case in LONG else []) for case in SWEEPS]
)
def test_a_sweep_over_experiments_is_in_one_folder(case, tmp_path):
    """Table 2 is made by such a sweep. Its status, what is resumed and what is collected are all of its runs."""
    overrides, parent = SWEEPS[case]
    package = case.partition(",")[0]
    (tmp_path / "some.csv").write_text("smiles\nCCO\nc1ccccc1O\n")
    here = {"folder": tmp_path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run_module(package, "-m", *overrides, status=0, **here)
    (record,) = tmp_path.rglob("sweep.json")
    folder = record.parent
    assert str(folder.relative_to(tmp_path)).startswith(parent)
    assert {path.parent.parent for path in tmp_path.rglob("run.json")} == {folder}
    shown = run_module("launch.status", folder, status=0, **here).stdout.splitlines()
    assert shown[-2] == "4 finished"
    assert shown[-1].startswith("next: python -m launch.collect ")
    shutil.rmtree(folder / "2")
    seen = run_module("launch.resume", folder, status=0, **here).stdout
    assert [line.partition(":")[0] for line in seen.splitlines() if line.startswith("[")][:4] == [
        *("[0] finished", "[1] finished", "[2] missing, will run", "[3] finished"),
    ]
    assert run_folder.run_state(folder / "2") == "finished"
    collected = run_module("launch.collect", folder, status=0, **here).stdout
    assert "4 of 4 runs finished" in collected
    assert pd.read_csv(folder / "collected" / "table.csv")["n"].tolist() == [2, 2]
