"""The progress of a loop: lines in a log, a bar on a terminal."""

import io
import threading

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from rich.text import Text

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
    narrow = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=narrow, force_terminal=True, width=60))
    with StepProgress(1000, 0, ["a very long name", "another long name"], print, True, ("calls", 10_000)) as shown:
        shown.advance(1, {"calls": 8400, "a very long name": 0.5, "another long name": 0.5})
    assert "8400/10000" in narrow.getvalue()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=True, width=100))
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


def terminal(monkeypatch):
    """A console on a terminal of 60 columns; returns what it shows."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, markup=False, emoji=False, highlight=False)
    monkeypatch.setattr(progress, "console", console)
    return out


def test_a_part_is_shown_on_a_terminal_and_disappears(monkeypatch):
    out = terminal(monkeypatch)
    with progress.working("outer"):
        assert "outer ... 0 s" in out.getvalue()
        with progress.working("inner [b]"):
            progress._live.refresh()
            assert "inner [b] ... 0 s" in out.getvalue()
        with progress.paused():
            assert progress._live is None
            assert out.getvalue().rstrip("\n").endswith("\x1b[2K")  # the line is erased
        assert progress._live is not None
    assert (progress._live, progress._parts) == (None, [])


def test_a_part_ends_with_an_error_too(monkeypatch):
    terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), progress.working("outer"), progress.working("inner"):
        raise KeyboardInterrupt
    assert (progress._live, progress._parts) == (None, [])


def test_a_log_names_a_part_that_takes_long_once(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)
    with progress.working("outer"), progress.working("slow"):
        threading.Event().wait(0.3)
    with progress.working("quick"):
        pass
    with progress.working("a loop"), progress.paused():  # whatever shows the progress then says it
        threading.Event().wait(0.2)
    assert capsys.readouterr().out == "slow ...\n"


def test_items_are_the_same_with_and_without_a_bar(monkeypatch, capsys):
    assert list(progress.tracked(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().out == ""
    out = terminal(monkeypatch)
    with progress.working("outer"):
        assert list(progress.tracked(iter("ab"), "letters [b]")) == ["a", "b"]
        assert progress._live is not None
    assert "letters [b]" in out.getvalue()


def test_counts_are_shown_without_decimals(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=True, width=100))
    with StepProgress(4, 0, ["calls", "loss"], print, True) as shown:
        shown.advance(1, {"calls": 1185, "loss": 0.5})
    assert "calls 1,185  loss 0.500" in Text.from_ansi(file.getvalue()).plain
