"""The figures of a run and a sweep: their curves, by their data, and that short runs have some."""

import math
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import Rectangle

from launch.analysis.figures import MAX_WINDOW, finite_points
from launch.analysis.palette import METHOD_COLOURS, Style
from llm.figures import DrawnRuns, draw_final, draw_pareto, draw_run, draw_training

from .made_up import metrics

BASE = {
    "correct": 0.8,
    "share/1": 0.7,
    "share/2": 0.1,
    "entropy_nats": 0.377,
    "reward/mean": 0.8,
    "coverage": 1.0,
}
RUN = BASE | {"share/1": 0.5, "share/2": 0.49}
OPEN = {"reward/mean": 0.5, "entropy_nats": 1.0}  # of a task without correct answers
STYLE = Style("#123456", "-", "o")


def curves(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def trajectory(axes):
    """The curve of the first row of a Pareto plot, and its labels."""
    return [list(data) for data in (axes.lines[0].get_xdata(), axes.lines[0].get_ydata())]


def test_training_curves_start_at_the_base_model(axes):
    draw_training(axes, metrics(120), BASE)
    lines = curves(axes)
    assert {"share of correct completions", 'answer "1"', 'answer "2"'} <= set(lines)
    steps, values = lines['answer "2"']
    assert (steps[0], values[0]) == (0, BASE["share/2"])
    last = range(120 - MAX_WINDOW, 120)
    assert (steps[-1], values[-1]) == (119, pytest.approx(sum(last) / MAX_WINDOW / 80))
    assert "means of 12 logged steps" in axes.get_xlabel()


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_short_run_has_curves(steps):
    """One point for the base, and one for each window; two panels, one for the answers and one for the front."""
    figure, (left, right) = plt.subplots(1, 2)
    draw_training(left, metrics(steps), BASE)
    assert finite_points(left) == 3 * (1 + steps)
    assert all(line.get_marker() == "o" for line in left.lines if line.get_linestyle() == "-")
    draw_pareto(right, [DrawnRuns("run", STYLE, [metrics(steps)])], BASE)
    assert finite_points(right) == (1 + steps) + 1 + 1  # the curve, its end and the base
    plt.close(figure)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_short_run_of_open_questions_has_curves(steps):
    rows = [
        {"step": i, "reward/raw": 1.0, "answers/entropy_nats": 0.5, "answers/top_share": 0.2} for i in range(steps)
    ]
    figure, (left, right) = plt.subplots(1, 2)
    draw_training(left, rows, OPEN)
    assert finite_points(left) == steps
    (reward,) = (axes for axes in figure.axes if axes not in (left, right))
    assert finite_points(reward) == 1 + steps
    draw_pareto(right, [DrawnRuns("run", STYLE, [rows])], OPEN)
    assert finite_points(right) == steps + 1
    plt.close(figure)


def test_a_run_without_a_correct_completion_says_so(axes):
    rows = [{"step": i, "correct": 0.0, "answers/entropy_nats": None} for i in range(5)]
    draw_pareto(axes, [DrawnRuns("run", STYLE, [rows])], {**OPEN, "correct": 0.0})
    assert finite_points(axes) == 0
    assert [text.get_text() for text in axes.texts] == ["no step has a correct completion"]


def test_the_pareto_curve_ends_in_the_last_window(axes):
    draw_pareto(axes, [DrawnRuns("MARA", STYLE, [metrics(120)])], BASE)
    entropy, correct = trajectory(axes)
    assert (entropy[0], correct[0]) == (BASE["entropy_nats"], BASE["correct"])
    last = sum(range(120 - MAX_WINDOW, 120)) / MAX_WINDOW
    assert (entropy[-1], correct[-1]) == (pytest.approx(0.1 * last), pytest.approx(last / 40))
    assert curves(axes)["base"] == ([BASE["entropy_nats"]], [BASE["correct"]])


def test_seeds_are_one_curve_with_errors_at_its_end(axes):
    shifted = [row | {"correct": row["correct"] + 0.2} for row in metrics(4)]
    draw_pareto(axes, [DrawnRuns("MARA", STYLE, [metrics(4), shifted])], BASE)
    assert trajectory(axes)[1][1:] == pytest.approx([i / 40 + 0.1 for i in range(4)])
    (bars,) = axes.containers
    (vertical,) = bars.lines[2][0].get_segments()
    middle, error = 3 / 40 + 0.1, 0.2 / math.sqrt(2) / math.sqrt(2)
    assert vertical[:, 1].tolist() == pytest.approx([middle - error, middle + error])


def test_final_bars_stack_the_shares(axes):
    draw_final(axes, [("base", [BASE]), ("run", [RUN, RUN | {"share/1": 0.3}])])
    bars = [[bar for bar in container if isinstance(bar, Rectangle)] for container in axes.containers]
    starts, widths = zip(*((bar.get_x(), bar.get_width()) for of_answer in bars for bar in of_answer), strict=True)
    assert starts == pytest.approx([0.0, 0.0, 0.7, 0.4])
    assert widths == pytest.approx([0.7, 0.4, 0.1, 0.49])
    assert axes.get_legend_handles_labels()[1] == ['answer "1"', 'answer "2"']


def test_the_figure_of_a_run_has_the_colour_of_its_method(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("transform: {name: mara}\nobjective: {direction: forward}")
    figures: list[Any] = []
    monkeypatch.setattr(plt, "close", figures.append)
    assert draw_run(tmp_path, metrics(1), BASE) == tmp_path / "figure.png"
    monkeypatch.undo()
    (figure,) = figures
    assert figure.axes[1].lines[0].get_color() == METHOD_COLOURS["mara_forward"]
    assert figure.axes[1].get_legend_handles_labels()[1] == ["MARA, forward KL", "base"]
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")
    plt.close(figure)
