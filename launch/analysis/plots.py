"""Plots of a collected sweep: reward against diversity, and metrics over the training steps."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from conf.schema.objective import DIVERGENCE_METRICS
from launch.analysis.artifacts import curve_panels, fold_curves
from launch.analysis.figures import plain_label, save_figure
from launch.analysis.palette import COLOURS
from launch.analysis.table import Row

PARETO = (  # (diversity, reward), both better if larger; by default the first pair that the results contain
    ("distinct/mean", "reward_out/mean"),
    ("distinct/mean", "reward_in/mean"),
    ("entropy_nats", "correct"),
    ("entropy_nats", "reward"),
    ("0.8/int_div1", "0.8/yield"),
)
CURVES = ("reward/raw", "correct", "answers/entropy_nats", "entropy_nats", *DIVERGENCE_METRICS, "loss")
MAX_PANELS = 4


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal points, sorted by the first coordinate. Larger is better in both coordinates."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1]))
    front, best = [], -math.inf
    for i in order:
        if points[i][1] > best:
            front.append(i)
            best = points[i][1]
    return front[::-1]


def draw_pareto(rows: Sequence[Row], x: str, y: str, path: Path) -> Path:
    """Plot the mean of each configuration with standard errors, and the Pareto front; return the path."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    rows = [row for row in rows if not any(math.isnan(row.result(key)[0]) for key in (x, y))]
    points = [(row.result(x)[0], row.result(y)[0]) for row in rows]
    front = [points[i] for i in pareto_front(points)]
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color="0.7", linewidth=1.5, zorder=0, label="front")
    for number, (row, point) in enumerate(zip(rows, points, strict=True)):
        errors = [np.nan_to_num(row.result(key)[1]) for key in (x, y)]
        style: dict[str, Any] = {"color": colour(number), "marker": "os^Dv"[number // len(COLOURS) % 5]}
        axes.errorbar(
            *point, xerr=errors[0], yerr=errors[1], linestyle="", capsize=2, label=plain_label(row.label), **style
        )
    axes.set(
        xlabel=plain_label(x),
        ylabel=plain_label(y),
        title="Reward against diversity (mean and standard error over seeds)",
    )
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, path)


def draw_curves(rows: Sequence[Row], path: Path) -> Path:
    """Plot metrics over the steps: mean and standard error over the seeds of each configuration; return the path."""
    logged = {key for row in rows for run in row.runs for line in run.metrics for key in line}
    keys = [key for key in CURVES if key in logged][:MAX_PANELS]
    keys = keys or sorted(logged - {"step"})[:MAX_PANELS]
    columns = min(len(keys), 2)
    height = math.ceil(len(keys) / columns)
    figure, panels = plt.subplots(
        height, columns, figsize=(5.2 * columns, 3.2 * height), layout="constrained", squeeze=False
    )
    for axes, key in zip(panels.flat, keys, strict=False):
        for number, row in enumerate(rows):
            draw_band(axes, number, row.label, *metric_curve(row, key))
        axes.set(xlabel="step", title=plain_label(key))
    for axes in panels.flat[len(keys) :]:
        axes.axis("off")
    legend_below(figure, panels.flat[0])
    return save_figure(figure, path)


def draw_artifact_curves(rows: Sequence[Row], out: Path) -> list[Path]:
    """Plot the curves that packages wrote, one file for each title; return the paths."""
    pictures = []
    artifacts = [(row.label, [run.artifacts for run in row.runs]) for row in rows]
    for title, panels in curve_panels(artifacts).items():
        figure, grid = plt.subplots(
            1, len(panels), figsize=(5.2 * len(panels), 3.9), layout="constrained", squeeze=False
        )
        for axes, (name, x, lines) in zip(grid.flat, panels, strict=True):
            for number, (label, folded) in enumerate(lines):
                draw_band(axes, number, label, *folded)
            axes.set(xlabel=plain_label(x), title=plain_label(name))
        legend_below(figure, grid.flat[0])
        name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_") or "artifact"
        pictures.append(save_figure(figure, out / f"{name}.png"))
    return pictures


def draw_band(axes: Axes, number: int, label: str, x: Sequence[float], mean: np.ndarray, error: np.ndarray) -> None:
    """Draw a line with a band of one standard error, in the style of the configuration with this number."""
    style = ("-", "--", ":")[number // len(COLOURS) % 3]
    axes.plot(x, mean, color=colour(number), linestyle=style, label=plain_label(label))
    axes.fill_between(x, mean - error, mean + error, color=colour(number), alpha=0.2, linewidth=0)


def metric_curve(row: Row, key: str) -> tuple[list[float], np.ndarray, np.ndarray]:
    """The steps at which all runs of a row logged the key, the mean and its standard error (0 for one run)."""
    logged = [{line["step"]: line[key] for line in run.metrics if line.get(key) is not None} for run in row.runs]
    return fold_curves(logged)


def colour(number: int) -> str:
    """The colour of the configuration with this number; colours repeat."""
    return COLOURS[number % len(COLOURS)]


def legend_below(figure: Figure, axes: Axes) -> None:
    """Add the legend of some axes below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 2)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
