"""The figures of the paper, made with the commands that a user types. All numbers are read from summary.json."""

import json
import math
import os
import subprocess
import sys

import pytest

from ..commands import ROOT, run_module


def didactic(*arguments):
    done = run_module("didactic", *arguments, status=0)
    assert done.stderr == ""
    return done.stdout


def run(folder, *arguments):
    out = didactic(*arguments, f"hydra.run.dir={folder}")
    assert (folder / "figure.png").stat().st_size > 10_000
    assert "gradient" in out
    return json.loads((folder / "summary.json").read_text())


def flexible_cells_reach_their_targets(summary):
    cells = [cell for cell in summary["cells"] if cell.get("family", "categorical") == "categorical"]
    assert cells
    assert all(cell["total_variation"] < 1e-5 for cell in cells)


@pytest.mark.slow
@pytest.mark.long
def test_figure_1(tmp_path):
    summary = run(tmp_path / "run", "experiment=figure1")
    flexible_cells_reach_their_targets(summary)
    assert set(summary["gaussian"]) == {"gaussian/reverse", "gaussian/forward"}
    for fit in summary["gaussian"].values():
        best = fit["all_minima"][0]
        assert abs(fit["mean"] - best["mean"]) < 0.01
        assert abs(fit["std"] - best["std"]) < 0.01
    forward = summary["gaussian"]["gaussian/forward"]
    assert abs(forward["mean"] - forward["moments"]["mean"]) < 0.01
    assert abs(forward["std"] - forward["moments"]["std"]) < 0.01
    shares = {cell["direction"]: cell["mode_shares"][0] for cell in summary["cells"] if cell["family"] == "gaussian"}
    assert shares["reverse"] > 0.98
    assert shares["forward"] < 0.7
    gaussian = [cell for cell in summary["cells"] if cell["family"] == "gaussian"]
    assert all(cell["total_variation"] > 0.2 for cell in gaussian)  # control: the other family cannot match


@pytest.mark.slow
@pytest.mark.long
def test_figure_2(tmp_path):
    summary = run(tmp_path / "run", "experiment=figure2")
    flexible_cells_reach_their_targets(summary)
    reverse, forward = summary["switch"]["reverse"], summary["switch"]["forward"]
    assert reverse["predicted"] == pytest.approx(0.132, abs=5e-4)
    assert reverse["seen"] == [0.1, 0.15]
    assert forward["seen"][0] < forward["predicted"] < forward["seen"][1]
    assert forward["seen"] != reverse["seen"]


@pytest.mark.slow
@pytest.mark.long
def test_figure_3(tmp_path):
    summary = run(tmp_path / "run", "experiment=figure3")
    flexible_cells_reach_their_targets(summary)
    policy = {(cell["direction"], cell["beta"]): cell["policy"] for cell in summary["cells"]}
    assert policy["reverse", 0.001] == pytest.approx([0, 0, 1], abs=1e-3)
    assert policy["reverse", 0.5] == pytest.approx([0.069, 0.419, 0.512], abs=1e-3)
    assert policy["forward", 0.5] == pytest.approx([0.125, 0.381, 0.494], abs=1e-3)


@pytest.mark.slow
@pytest.mark.long
def test_figure_4(tmp_path):
    summary = run(tmp_path / "run", "experiment=figure4")
    flexible_cells_reach_their_targets(summary)
    assert len(summary["cells"]) == 4
    for cell in summary["cells"]:
        assert cell["policy"][1] / cell["policy"][2] == pytest.approx(15, rel=1e-3)
    balanced = run(tmp_path / "mara", "experiment=figure4", "transform=mara", "objective.beta=1.0")
    assert all(cell["policy"][1] / cell["policy"][2] == pytest.approx(1, rel=1e-3) for cell in balanced["cells"])


@pytest.mark.slow
def test_figure_5(tmp_path):
    summary = run(tmp_path / "run", "experiment=figure5")
    flexible_cells_reach_their_targets(summary)
    assert len(summary["cells"]) == 16
    for cell in summary["cells"]:
        variation = cell["coefficient_of_variation"]
        first, second = cell["mode_shares"]
        if cell["transform"] == "mara":
            assert variation < 1e-4
            assert cell["exact_coefficient_of_variation"] < 1e-9
        else:
            assert variation > 0.9  # control
            assert first / second == pytest.approx(24.558, rel=1e-4)  # the reference's


@pytest.mark.slow
def test_the_ablation(tmp_path):
    summary = run(tmp_path / "run", "experiment=ablation")
    flexible_cells_reach_their_targets(summary)
    for cell in summary["cells"]:
        assert (cell["coefficient_of_variation"] < 0.1) == (cell["transform"] == "mara")
        if cell["beta_schedule"] == "adaptive":
            assert cell["kl_nats"] == pytest.approx(
                0.8, abs=0.02
            )  # the budget is met, and does not undo the collapse
        else:
            assert cell["beta_final"] == 0.1


@pytest.mark.slow
@pytest.mark.long
def test_sampled_gradients_take_the_language_models_path(tmp_path):
    options = ("experiment=figure5", "gradient=sampled", "start=uniform", "objective.beta=1.0")
    sampled = run(tmp_path / "run", *options, "steps=600")
    assert sampled["gradient"] == "sampled"
    for cell in sampled["cells"]:
        assert cell["total_variation"] < 0.15
        assert (cell["coefficient_of_variation"] < 0.5) == (cell["transform"] == "mara")
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        run(tmp_path / name, *options, "steps=60", f"seed={seed}")
    one, again, other = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other


@pytest.mark.slow
def test_sweeps(tmp_path):
    sweep = ("objective.direction=reverse,forward", "objective.beta=.1,1", "steps=300")
    out = didactic("-m", *sweep, f"hydra.sweep.dir={tmp_path}")
    summaries = [json.loads((tmp_path / str(i) / "summary.json").read_text()) for i in range(4)]
    assert all(len(summary["cells"]) == 1 for summary in summaries)
    assert len({round(summary["cells"][0]["kl_nats"], 9) for summary in summaries}) == 4
    assert "sweep" in out
    assert "objective.beta=1" in out
    first = json.loads((tmp_path / "0" / "metrics.jsonl").read_text().splitlines()[-1])
    assert first["step"] == 299
    assert math.isfinite(first["kl/reverse_nats"])


@pytest.mark.long
def test_commands_that_start_together_have_folders_of_their_own(tmp_path):
    """Two runs and two sweeps, all the same, in one second."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "didactic", "steps=3"]
    together = [
        subprocess.Popen([*command, *sweep], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        for sweep in ([], [], ["-m", "seed=0,1"], ["-m", "seed=0,1"])
    ]
    assert [process.wait(timeout=300) for process in together] == [0] * 4
    folder = tmp_path / "runs" / "didactic" / "bandit"
    assert len(list(folder.glob("*/summary.json"))) == 2
    assert len(list(folder.glob("sweep_*/*/summary.json"))) == 4
