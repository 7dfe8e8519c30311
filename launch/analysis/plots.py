"""Plots of a collected sweep: reward against diversity, and metrics over the training steps."""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conf.schema.objective import DIVERGENCE_METRICS
from launch.analysis.artifacts import curve_panels, fold_curves
from launch.analysis.base_model import BaseModel
from launch.analysis.figures import (
    PANEL,
    draw_band,
    draw_base_line,
    draw_base_point,
    draw_point,
    integer_ticks,
    legend_below,
    moving_means,
    panels,
    plain_label,
    save_figure,
    smoothing_text,
)
from launch.analysis.labels import configuration_labels, metric_label
from launch.analysis.metric_columns import Column
from launch.analysis.palette import GREY, Style, method_name, styles
from launch.analysis.pareto import on_the_front
from launch.analysis.table import Row

PARETO = (  # (diversity, reward), both better if larger; by default the first pair that the results contain
    ("distinct/mean", "reward_out/mean"),
    ("distinct/mean", "reward_in/mean"),
    ("entropy_nats", "correct"),
    ("entropy_nats", "reward"),
    ("entropy_nats", "reward/mean"),
    ("0.8/int_div1", "0.8/yield"),
)
CURVES = ("reward/raw", "correct", "answers/entropy_nats", "entropy_nats", *DIVERGENCE_METRICS, "loss")
BASE_OF_CURVE = {"reward/raw": "reward/mean", "correct": "correct"}  # the result that a curve begins at
MAX_PANELS = 4


def row_labels(rows: Sequence[Row]) -> list[str]:
    """What each configuration is called in figures and in the report."""
    return configuration_labels([row.varying for row in rows])


def row_styles(rows: Sequence[Row]) -> list[Style]:
    """How each configuration is drawn."""
    return styles([method_name(row.runs[0].config, row.runs[0].overrides) for row in rows])


def draw_pareto(rows: Sequence[Row], x: str, y: str, path: Path, base: BaseModel | None = None) -> Path:
    """Plot the mean of each configuration with standard errors, the Pareto front and the base; return the path."""
    figure, grid = panels(1, 1, (7.0, 4.4))
    axes = grid[0, 0]
    drawn = [
        (row, label, style)
        for row, label, style in zip(rows, row_labels(rows), row_styles(rows), strict=True)
        if not any(math.isnan(row.result(key)[0]) for key in (x, y))
    ]
    points = [(row.result(x)[0], row.result(y)[0]) for row, *_ in drawn]
    front = sorted(set(itertools.compress(points, on_the_front(points))))
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1.2, zorder=0, label="front")
    for (row, label, style), point in zip(drawn, points, strict=True):
        draw_point(axes, point, (row.result(x)[1], row.result(y)[1]), style, label)
    if base is not None and base.shared:
        draw_base_point(axes, base.result(x)[0], base.result(y)[0])
    axes.set(xlabel=plain_label(metric_label(x)), ylabel=plain_label(metric_label(y)))
    axes.set_title("Reward against diversity (mean and standard error over seeds)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, path)


def draw_curves(rows: Sequence[Row], path: Path, base: BaseModel | None = None) -> Path:
    """Plot metrics over the steps: mean and standard error over the seeds of each configuration; return the path."""
    logged = {key for row in rows for run in row.runs for key in run.metrics.columns}
    keys = [key for key in CURVES if key in logged][:MAX_PANELS]
    keys = keys or sorted(logged)[:MAX_PANELS]
    columns = min(len(keys), 2)
    figure, grid = panels(math.ceil(len(keys) / columns), columns)
    labels, drawn = row_labels(rows), row_styles(rows)
    steps = [run.metrics.lines for row in rows for run in row.runs]
    for axes, key in zip(grid.flat, keys, strict=False):
        for row, label, style in zip(rows, labels, drawn, strict=True):
            draw_band(axes, *metric_curve(row, key), style, label)
        if base is not None and base.shared and key in BASE_OF_CURVE:
            draw_base_line(axes, base.result(BASE_OF_CURVE[key])[0])
        axes.set(xlabel=f"step{smoothing_text(steps)}", title=plain_label(metric_label(key)))
        integer_ticks(axes)
    for axes in grid.flat[len(keys) :]:
        axes.axis("off")
    legend_below(figure, *grid.flat)
    return save_figure(figure, path)


def draw_artifact_curves(rows: Sequence[Row], out: Path) -> list[Path]:
    """Plot the curves that packages wrote, one file for each title; return the paths."""
    pictures = []
    artifacts = [(str(number), [run.artifacts for run in row.runs]) for number, row in enumerate(rows)]
    labels, drawn = row_labels(rows), row_styles(rows)
    for title, columns in curve_panels(artifacts).items():
        figure, grid = panels(1, len(columns), (PANEL[0], 3.6))
        for axes, (name, x, lines) in zip(grid.flat, columns, strict=True):
            for number, folded in lines:
                xs, mean, error = folded
                draw_band(axes, xs, mean, error, drawn[int(number)], labels[int(number)])
            axes.set(xlabel=plain_label(x), title=plain_label(name))
        legend_below(figure, *grid.flat)
        name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_") or "artifact"
        pictures.append(save_figure(figure, out / f"{name}.png"))
    return pictures


def metric_curve(row: Row, key: str) -> tuple[list[float], np.ndarray, np.ndarray]:
    """A metric over the steps that all runs of a row logged it at, smoothed in each run.

    Returns:
        The steps, the mean over the runs and its standard error, which is 0 for one run.
    """
    columns = [run.metrics.columns.get(key, Column()) for run in row.runs]
    return fold_curves([dict(zip(c.steps, moving_means(c.values).tolist(), strict=True)) for c in columns])
