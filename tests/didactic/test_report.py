"""The report of a run and of a sweep, from policies that are exact optima."""

import json
from types import SimpleNamespace

import pytest
import torch

from didactic.outcomes import Outcome
from didactic.report import cell_table, report_run, report_sweep, summarise, switch_text
from didactic.train import make_policies

from .grids import make_grid, trained_perfectly


def report(tmp_path, *overrides):
    config, cells = make_grid(*overrides)
    summaries: list[dict] = []
    run = SimpleNamespace(folder=tmp_path, finish=summaries.append)
    policies = make_policies(cells, cells[0].problem)
    betas = [[cell.config.objective.beta for cell in cells]]
    report_run(run, config, cells[0].problem, trained_perfectly(cells), policies, betas)
    assert (tmp_path / "figure.png").exists()
    (summary,) = summaries
    return summary


def test_the_numbers_of_a_cell_written_out():
    _, (cell,) = make_grid("experiment=figure4", "objective.direction=reverse", "objective.beta=.3", "transform=mara")
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    row = summarise(Outcome(cell, policy.log(), 0.25))
    target, good = cell.target(0.25), cell.good()
    assert row["policy"] == row["mode_shares"] == pytest.approx([0.5, 0.3, 0.2])
    assert row["exact_policy"] == pytest.approx(target.tolist())
    assert (row["beta"], row["beta_final"]) == (0.3, 0.25)
    assert row["reward"] == pytest.approx(float((policy * cell.problem.reward).sum()))
    assert row["kl_nats"] == pytest.approx(float((policy * (policy.log() - cell.problem.ref_logp)).sum()))
    assert row["entropy_nats"] == pytest.approx(-float((policy * policy.log()).sum()))
    assert row["total_variation"] == pytest.approx(float((policy - target).abs().sum()) / 2)
    chosen = policy[good]
    assert row["good_share"] == pytest.approx(float(chosen.sum()))
    assert row["coefficient_of_variation"] == pytest.approx(float(chosen.std(correction=0) / chosen.mean()))


def test_a_policy_over_many_outcomes_is_not_listed():
    _, cells = make_grid("experiment=bandit")
    row = summarise(trained_perfectly(cells)[0])
    assert "policy" not in row
    assert len(row["mode_shares"]) == 2


def test_the_report_of_a_run(tmp_path, capsys):
    summary = report(tmp_path, "experiment=figure4", "objective.beta=[.1,.5]")
    assert (summary["problem"], summary["gradient"], len(summary["cells"])) == ("table", "exact", 4)
    assert all(cell["total_variation"] < 1e-12 for cell in summary["cells"])
    assert "switch" not in summary
    assert "table, exact gradient" in capsys.readouterr().out


def test_a_switch_is_reported(tmp_path, capsys):
    summary = report(tmp_path, "experiment=figure2", "objective.beta=[.1,.2]", "objective.direction=reverse")
    assert summary["switch"]["reverse"]["seen"] == [0.1, 0.2]
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "reverse: the favoured mode switches at beta 0.1316 (exact); the trained policies switch between" in printed
    )
    assert "between 0.1 and 0.2" in printed
    unknown = switch_text("alpha", {"predicted": None, "seen": None})
    assert unknown.endswith("switches at an unknown beta; the trained policies do not switch exactly once")


def test_gaussians_are_reported(tmp_path, capsys):
    summary = report(tmp_path, "experiment=figure1")
    assert set(summary["gaussian"]) == {"gaussian/reverse", "gaussian/forward"}
    assert "the nearest minimum by quadrature has mean" in " ".join(capsys.readouterr().out.split())


def test_the_table_shows_what_varies():
    _, cells = make_grid("experiment=figure4", "objective.direction=reverse", "objective.beta=[.1,.5]")
    rows = [("", summarise(outcome)) for outcome in trained_perfectly(cells)]
    table = cell_table("title", rows)
    headers = [str(column.header) for column in table.columns]
    assert headers[:3] == ["direction", "transform", "beta"]
    assert "family" not in headers
    assert "run" not in headers
    assert list(table.columns[2].cells) == ["0.1", "0.5"]
    named = cell_table("title", [("a", rows[0][1]), ("b", {**rows[1][1], "beta_final": 0.3})])
    assert list(named.columns[0].cells) == ["a", "b"]
    assert list(named.columns[4].cells) == ["0.1", "0.3"]  # beta_final differs from beta


def test_a_sweep_is_one_table_of_all_cells(tmp_path, capsys):
    _, cells = make_grid("experiment=figure4", "objective.direction=reverse", "objective.beta=[.1,.5]")
    for number, outcome in enumerate(trained_perfectly(cells)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "summary.json").write_text(json.dumps({"cells": [summarise(outcome)]}))
    report_sweep([tmp_path / "0", tmp_path / "1"], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "sweep, 2 runs" in lines[0]
    first_column = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert [name for name in first_column if name] == ["0", "1"]  # a narrow terminal wraps the rows
