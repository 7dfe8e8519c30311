"""Tables and figures: cells, columns that depend on the task, and the curves by their data."""

import json
import math
from typing import Any

import matplotlib.pyplot as plt
import pytest

from llm.evaluation.metrics import SubjectMetrics, average_over_prompts
from llm.report import (
    SMOOTHING,
    answer_table,
    available_metrics,
    draw_evaluation,
    draw_final,
    draw_pareto,
    draw_training,
    evaluation_table,
    report_run,
    smoothed,
)

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


def test_a_curve_is_a_moving_average_over_the_steps_that_have_the_metric():
    rows = [{"step": step, "x": float(step) if step % 2 else None} for step in range(60)]
    steps, means = smoothed(rows, "x")
    odd = [step for step in range(60) if step % 2]
    assert steps == odd[SMOOTHING - 1 :]
    assert means == pytest.approx([sum(odd[i : i + SMOOTHING]) / SMOOTHING for i in range(len(steps))])
    assert smoothed(rows[:10], "x") == ([], [])


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def metrics(steps=40):
    return [
        {"step": i, "correct": i / 40, "share/1": 0.5, "share/2": i / 80, "answers/entropy_nats": 0.1 * i}
        for i in range(steps)
    ]


def curves(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_training_curves_start_at_the_base_model(axes):
    draw_training(axes, metrics(), BASE)
    lines = curves(axes)
    assert {"correct", "answer 1", "answer 2"} <= set(lines)
    steps, values = lines["answer 2"]
    assert (steps[0], values[0]) == (0, BASE["share/2"])
    assert (steps[-1], values[-1]) == (39, pytest.approx(sum(range(28, 40)) / 12 / 80))


def test_the_pareto_curve_ends_in_the_last_window(axes):
    draw_pareto(axes, [("mara", metrics())], BASE)
    entropy, correct = curves(axes)["mara"]
    assert (entropy[0], correct[0]) == (BASE["entropy_nats"], BASE["correct"])
    last = sum(range(28, 40)) / 12
    assert (entropy[-1], correct[-1]) == (pytest.approx(0.1 * last), pytest.approx(last / 40))
    assert curves(axes)["base"] == ([BASE["entropy_nats"]], [BASE["correct"]])


def test_final_bars_stack_the_shares(axes):
    draw_final(axes, [("base", BASE), ("run", RUN)])
    starts, widths = zip(*((bar.get_x(), bar.get_width()) for bars in axes.containers for bar in bars), strict=True)
    assert starts == pytest.approx([0.0, 0.0, 0.7, 0.5])
    assert widths == pytest.approx([0.7, 0.5, 0.1, 0.49])


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
    run = FakeRun()
    trained = {key: value for key, value in RUN.items() if "log_ratio" not in key}
    report_run(run, BASE, trained, {"train": {"records": 3}})
    assert run.summary["base"] == BASE
    assert run.summary["data"] == {"train": {"records": 3}}
    assert run.summary["observed_log_ratio"] == 2.0
    assert run.summary["predicted_log_ratio"] is None
    assert (tmp_path / "figure.png").stat().st_size > 5000
