"""Tables: cells and columns that depend on the task; the summary of a run; the figure of an evaluation."""

import json
import math
from typing import Any

import matplotlib.pyplot as plt

from llm.evaluation.metrics import SubjectMetrics, average_over_prompts
from llm.report import answer_table, available_metrics, draw_evaluation, evaluation_table, report_run

from .made_up import metrics

BASE = {
    "correct": 0.8,
    "share/1": 0.7,
    "share/2": 0.1,
    "entropy_nats": 0.377,
    "entropy_nats/se": 0.02,
    "reward/mean": 0.8,
    "reward/se": 0.01,
    "coverage": 1.0,
    "sequences": {"<answer>1</answer>": 0.7, "<answer>2</answer>": 0.1},
    "completions": 100,
}
RUN = BASE | {"share/1": 0.5, "share/2": 0.49, "observed_log_ratio": 0.02, "predicted_log_ratio": -0.0}


def cells(table):
    """Column heading -> cells."""
    return {str(column.header).replace("\n", ""): list(column.cells) for column in table.columns}


def test_columns_are_those_of_a_task_with_listed_answers():
    columns = cells(answer_table([("base", BASE), ("run", RUN)]))
    assert list(columns) == ["model", "correct", '"1"', '"2"', "by sequence", "entropy, nats", "log-ratio (eq. 7)"]
    assert columns["model"] == ["base", "run"]
    assert columns['"2"'] == ["0.100", "0.490"]
    assert columns["by sequence"] == ["0.70 0.10", "0.70 0.10"]
    assert columns["entropy, nats"] == ["0.377 ± 0.020"] * 2
    assert columns["log-ratio (eq. 7)"] == ["- (-)", "0.02 (0.00)"]  # without a negative zero


def test_columns_without_correctness_are_rewards_and_further_prompts():
    base = {"reward/mean": 1.5, "reward/se": None, "brief/mean": -2.0, "brief/se": 0.5, "entropy_nats": None}
    base |= {f"held_out/{key}": value for key, value in base.items()} | {"held_out/completions": 4, "completions": 8}
    columns = cells(answer_table([("base", base)]))
    assert columns["reward"] == ["1.500"]
    assert columns["brief"] == ["-2.00 ± 0.50"]
    assert columns["entropy, nats"] == ["-"]
    assert columns["held_out/reward"] == ["1.500"]
    assert "correct" not in columns
    assert "by sequence" not in columns


def subjects():
    rows = {"p": {"distinct": 2.0, "utility": 1.0, "ead": math.nan}, "q": {"distinct": 4.0, "utility": math.nan}}
    rows["q"]["ead"] = math.nan
    return [SubjectMetrics(name, rows, average_over_prompts(list(rows.values()))) for name in ("a", "b")]


def test_the_evaluation_table_counts_prompts_and_skips_undefined_metrics():
    first, second = subjects()
    assert available_metrics([first, second]) == ["distinct", "utility"]
    difference: dict[str, float | None] = {"distinct/mean": 0.5, "distinct/se": 0.1, "distinct/prompts": 2}
    difference |= {"utility/mean": None, "utility/se": None, "utility/prompts": 0}
    columns = cells(evaluation_table([first, second], difference))
    assert list(columns) == ["metric", "a", "b", "difference"]
    assert columns["metric"] == ["distinct", "utility"]
    assert columns["a"][0] == "3.0 ± 1.0"
    assert columns["a"][1] == "1.000 (of 1)"
    assert columns["difference"] == ["0.50 ± 0.10", "-"]
    assert evaluation_table([first], None).title == "Mean ± standard error over 2 prompts"


def test_a_panel_shows_every_prompt_and_the_mean(tmp_path, monkeypatch):
    figures: list[Any] = []
    monkeypatch.setattr(plt, "close", figures.append)
    draw_evaluation(subjects(), tmp_path / "figure.png")
    monkeypatch.undo()
    distinct, utility = figures[0].axes
    assert [list(line.get_ydata()) for line in distinct.lines if line.get_marker() == "."] == [[2, 4], [2, 4]]
    assert [list(line.get_ydata()) for line in utility.lines if line.get_marker() == "o"] == [[1], [1]]
    assert (tmp_path / "figure.png").stat().st_size > 5000
    plt.close(figures[0])


def test_the_summary_holds_base_data_and_the_last_known_ratios(tmp_path):
    class FakeRun:
        folder = tmp_path

        def finish(self, summary):
            self.summary = summary

    rows = [{"step": i, "collapse/observed_log_ratio": value} for i, value in enumerate((1.0, 2.0, None))]
    lines = [json.dumps(row | metrics(3)[row["step"]]) + "\n" for row in rows]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    (tmp_path / "config.yaml").write_text("transform: {name: mara}")
    run = FakeRun()
    trained = {key: value for key, value in RUN.items() if "log_ratio" not in key}
    report_run(run, BASE, trained, {"train": {"records": 3}})
    assert run.summary["base"] == BASE
    assert run.summary["data"] == {"train": {"records": 3}}
    assert run.summary["observed_log_ratio"] == 2.0
    assert run.summary["predicted_log_ratio"] is None
    assert (tmp_path / "figure.png").stat().st_size > 5000
