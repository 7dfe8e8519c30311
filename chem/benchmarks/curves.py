"""Curves over oracle calls, drawn from the records of a benchmark."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chem.benchmarks.records import Cell
from chem.benchmarks.suites import CURVE_SPACING
from launch.analysis.figures import draw_band, legend_below, note_if_empty, panels, save_figure
from launch.analysis.palette import styles
from launch.analysis.uncertainty import standard_errors

MOST_COLUMNS = 4


def mean_curve(
    results: Mapping[Cell, Mapping[str, Any]], method: str, task: str
) -> tuple[list[int], np.ndarray, np.ndarray] | None:
    """A method's curve on a task: oracle calls, the mean over seeds, its standard error (NaN with one seed).

    None if no run has finished. Runs of different budgets are compared up to the smallest.
    """
    curves = [row["curve"] for cell, row in results.items() if (cell.method, cell.task) == (method, task)]
    if not curves:
        return None
    length = min(map(len, curves))
    values = np.array([curve[:length] for curve in curves], dtype=float)
    error = standard_errors(values) if len(values) > 1 else np.full(length, math.nan)
    return [CURVE_SPACING * (point + 1) for point in range(length)], values.mean(0), error


def draw_progress(
    path: Path, results: Mapping[Cell, Mapping[str, Any]], methods: Sequence[str], tasks: Sequence[str], label: str
) -> None:
    """Draw a panel for each task: the mean curve of each method, with a band of one standard error over seeds.

    Args:
        path: of the PNG file.
        results: the record of each finished run.
        methods: one curve each.
        tasks: one panel each.
        label: of the vertical axis.
    """
    columns = min(len(tasks), MOST_COLUMNS)
    figure, axes = panels(math.ceil(len(tasks) / columns), columns)
    for panel, task in zip(axes.flat, tasks, strict=False):
        for method, style in zip(methods, styles(methods), strict=True):
            curve = mean_curve(results, method, task)
            if curve is not None:
                draw_band(panel, *curve, style, method)
        panel.set(title=task, xlabel="oracle calls", ylabel=label)
        note_if_empty(panel, "no run has finished")
    for panel in axes.flat[len(tasks) :]:
        panel.axis("off")
    legend_below(figure, *axes.flat)
    save_figure(figure, path)
