"""The style of all figures, smoothing, files and labels."""

import ast
import math
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from launch.analysis import figures
from launch.analysis.figures import (
    MAX_WINDOW,
    draw_band,
    draw_base_line,
    draw_line,
    finite_points,
    legend_below,
    note_if_empty,
    panels,
    plain_label,
    save_figure,
    smoothed,
    smoothing_text,
    smoothing_window,
)
from launch.analysis.palette import Style

ROOMS = ("launch", "llm", "chem", "didactic", "benchmarks", "tools")
ROOT = Path(__file__).parents[3]
STYLE = Style("#123456", "-", "o")


@pytest.mark.parametrize("text", ["beta=0.1", "answer=$x$", r"pattern=^\d$\frac$", "price=$5", "a_b^c"])
def test_a_label_is_shown_as_it_is(text):
    figure, axes = plt.subplots()
    axes.set_title(plain_label(text))
    figure.canvas.draw()
    plt.close(figure)


def test_control_matplotlib_fails_at_a_formula_that_is_none():
    figure, axes = plt.subplots()
    axes.set_title(r"pattern=^\d$\frac$")
    with pytest.raises(ValueError, match="frac"):
        figure.canvas.draw()
    plt.close(figure)


def test_a_window_suits_the_length():
    assert [smoothing_window(count) for count in (0, 1, 2, 3, 10, 19, 20, 60, 120, 5000)] == [
        *(1, 1, 1, 1, 1, 1, 2, 6),
        *(MAX_WINDOW, MAX_WINDOW),
    ]
    assert [smoothing_text(counts) for counts in ([3], [20, 20], [3, 60], [])] == [
        *("", " (means of 2 logged steps)", " (means of up to 6 logged steps)", "")
    ]


def test_a_curve_is_a_moving_average_over_the_steps_that_have_the_metric():
    rows = [{"step": step, "x": float(step) if step % 2 else None} for step in range(400)]
    steps, means = smoothed(rows, "x")
    odd = [step for step in range(400) if step % 2]
    assert steps == odd
    windows = [odd[max(0, i - MAX_WINDOW + 1) : i + 1] for i in range(len(odd))]
    assert means == pytest.approx([sum(window) / len(window) for window in windows])
    assert smoothed(rows[:1], "x") == ([], [])  # no value at all
    assert smoothed([{"step": 0, "x": math.nan}, {"step": 1, "x": 2.0}], "x") == ([1], [2.0])


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_a_short_curve_has_all_its_points(count):
    values = [float(step**2) for step in range(count)]
    assert smoothed([{"step": step, "x": x} for step, x in enumerate(values)], "x") == (list(range(count)), values)


def test_few_points_are_shown_and_many_are_a_line(axes):
    draw_line(axes, [0], [1.0], STYLE, "$a$")
    draw_line(axes, range(50), [1.0] * 50, STYLE)
    draw_band(axes, [0, 1], np.array([1.0, np.nan]), np.zeros(2), STYLE)
    assert [line.get_marker() for line in axes.lines] == ["o", "", "o"]
    assert finite_points(axes) == 1 + 50 + 1
    draw_base_line(axes, 0.5)
    draw_base_line(axes, None)
    assert finite_points(axes) == 52  # the base is no curve
    assert axes.get_legend_handles_labels()[1] == [r"\$a\$", "base"]


def test_axes_without_a_curve_say_why(axes):
    note_if_empty(axes, "nothing was logged")
    draw_line(axes, [0], [1.0], STYLE)
    note_if_empty(axes, "control")
    assert [text.get_text() for text in axes.texts] == ["nothing was logged"]


def test_a_figure_is_written_as_png_and_svg_and_closed(tmp_path):
    for name in "ab":
        figure, grid = panels(1, 2, (2, 2))
        draw_line(grid[0, 0], [0, 1], [0, 1], STYLE, "x")
        legend_below(figure, *grid.flat)
        path = save_figure(figure, tmp_path / f"{name}.png")
        assert not plt.fignum_exists(figure.number)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.svg").read_text() == (tmp_path / "b.svg").read_text()  # the same each time
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]


def test_a_legend_has_each_label_once_in_columns_that_fit():
    figure, grid = panels(1, 2, (2, 2))
    for axes in grid.flat:
        for number in range(6):
            draw_line(axes, [0], [0], STYLE, f"a long label, number {number}")
    legend_below(figure, *grid.flat)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 6
    figure.canvas.draw()
    assert legend.get_window_extent().width <= figure.bbox.width
    plt.close(figure)


def test_there_is_one_style():
    """All rooms draw with the style that `launch.analysis.figures` sets, and with colours of the palette."""
    assert matplotlib.rcParams["axes.spines.top"] is False
    assert matplotlib.rcParams["legend.frameon"] is False
    drawing, elsewhere = [], []
    for path in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        source = path.read_text("utf-8")
        names = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
        if "launch.analysis.figures" in names:
            drawing.append(path)
        allowed = path in (Path(figures.__file__), Path(figures.__file__).with_name("palette.py"))
        if not allowed and re.search(r"matplotlib\.use|rcParams|plt\.subplots|\.savefig\(|frameon=", source):
            elsewhere.append(path)
    assert len(drawing) >= 8
    assert elsewhere == []
