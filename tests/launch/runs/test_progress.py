"""The progress of a loop: lines in a log, a bar on a terminal."""

import io

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from launch.runs import progress
from launch.runs.progress import StepProgress
from launch.runs.run import Run

CHECKPOINT = {"every_seconds": 60.0, "every_steps": None, "keep": 0, "best": None, "best_mode": "max"}
CONFIG = OmegaConf.create({"seed": 3, "resume": "auto", "checkpoint": CHECKPOINT, "loggers": []})


@pytest.mark.parametrize(("total", "shown"), [(1, [1]), (3, [1, 2, 3]), (7, [2, 4, 6, 7]), (100, [25, 50, 75, 100])])
def test_a_log_has_a_line_a_quarter(tmp_path, capsys, total, shown):
    with Run(tmp_path, "llm", CONFIG, []) as run:
        for step in run.steps(total, show=("x", "missing")):
            run.log({"x": step / 2, "y": 0.0})
    expected = [f"step {n}/{total}  x {(n - 1) / 2:.3f}" for n in shown]
    assert capsys.readouterr().out.splitlines() == expected


def test_a_resumed_run_counts_from_where_it_was():
    lines: list[str] = []
    with StepProgress(8, 5, {"loss": "loss/total"}, lines.append, visible=True) as shown:
        for done in (6, 7, 8):
            shown.advance(done, {"loss/total": done / 4})
    assert lines == ["step 6/8  loss 1.500", "step 8/8  loss 2.000"]


def test_a_budget_that_is_further_than_the_steps_is_what_is_shown(monkeypatch):
    """A run of at most 1,000 steps ends in its tenth step, when its budget is spent."""
    lines: list[str] = []
    with StepProgress(1000, 0, (), lines.append, False, ("calls", 90)) as shown:
        for done in range(1, 11):
            shown.advance(done, {"calls": min(10 * done, 90)})
    assert [line.strip() for line in lines] == [
        f"step {done}/1000, {10 * done}/90 of the budget" for done in (3, 5, 7, 9)
    ]
    lines.clear()
    with StepProgress(8, 0, (), lines.append, False, ("calls", 90)) as shown:
        for done in range(1, 9):
            shown.advance(done, {"calls": done})  # control: the steps are further
    assert [line.strip() for line in lines] == [f"step {n}/8, {n}/90 of the budget" for n in (2, 4, 6, 8)]
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=True, width=100))
    with StepProgress(1000, 0, (), lines.append, True, ("calls", 90)) as shown:
        shown.advance(1, {"calls": 90})
    assert "90/90" in file.getvalue()
    with StepProgress(1000, 0, (), lines.append, True) as shown:
        shown.advance(1, {"calls": 90})
    assert "1/1000" in file.getvalue()  # control: without a budget


@pytest.mark.parametrize(("visible", "bar"), [(True, True), (False, False)])
def test_a_terminal_has_a_bar_and_no_lines(monkeypatch, visible, bar):
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=True, width=100))
    lines: list[str] = []
    with StepProgress(4, 0, ["x"], lines.append, visible) as shown:
        for done in range(1, 5):
            shown.advance(done, {"x": 0.5})
    assert ("4/4" in file.getvalue() and "x 0.500" in file.getvalue()) == bar
    assert (lines == []) == bar  # `lines` of another rank go nowhere, since its `info` does not print


def test_names_of_metrics_are_not_markup(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=True, width=100))
    with StepProgress(1, 0, ["reward[/x]", "[red]"], lambda line: None, True) as shown:
        shown.advance(1, {"reward[/x]": 0.5, "[red]": 0.25})
    assert "reward[/x] 0.500  [red] 0.250" in file.getvalue()
