"""What all figures share: their style, how curves are smoothed and drawn, how they are saved, and text in them.

Importing this module sets matplotlib's style and its backend that needs no screen.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator

from launch.analysis.palette import BASE, COLOURS, Style
from launch.runs.atomic import replacing

STYLE: Any = {  # of matplotlib's rcParams
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "errorbar.capsize": 2.5,
    "axes.prop_cycle": cycler(color=COLOURS),
    "savefig.dpi": 144,
    "svg.hashsalt": "mara",  # the same figure is the same file
}
matplotlib.rcParams.update(STYLE)

MAX_WINDOW = 12  # steps averaged in a point of a curve
POINTS_PER_WINDOW = 10  # at least so many windows fit into a curve
FEW_POINTS = 12  # curves with at most so many points show each of them
PANEL = (4.4, 3.2)  # width and height in inches
LEGEND_KEY, LEGEND_CHARACTER = 0.6, 0.062  # inches that an entry of a legend takes, and each of its characters


def panels(rows: int, columns: int, size: tuple[float, float] = PANEL, **kwargs: Any) -> tuple[Figure, np.ndarray]:
    """A figure with rows x columns panels of a size in inches, and the array of their axes."""
    width, height = size
    return plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), layout="constrained", squeeze=False, **kwargs
    )


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG to `path` and as SVG beside it, close it and return the path of the PNG."""
    for suffix, metadata in ((".svg", {"Date": None}), (".png", None)):
        with replacing(path.with_suffix(suffix)) as file:
            figure.savefig(file, metadata=metadata)
    plt.close(figure)
    return path


def plain_label(text: str) -> str:
    """Text for a label of a figure, in which matplotlib would take what is between two dollar signs for a formula."""
    return text.replace("$", r"\$")


def smoothing_window(count: int) -> int:
    """Steps to average in each point of a curve of `count` steps: one for short runs, so that they have a curve."""
    return max(1, min(MAX_WINDOW, count // POINTS_PER_WINDOW))


def moving_means(values: Sequence[float]) -> np.ndarray:
    """The mean over the last `smoothing_window` values up to each, or over all up to it where there are fewer."""
    numbers, window = np.asarray(values, dtype=float), smoothing_window(len(values))
    first = numbers[: window - 1].cumsum() / np.arange(1, len(numbers[: window - 1]) + 1)
    full = sliding_window_view(numbers, window).mean(-1) if len(numbers) else numbers
    return np.concatenate([first, full])


def smoothed(metrics: Sequence[Mapping[str, Any]], key: str, x: str = "step") -> tuple[list[float], list[float]]:
    """A moving average of a metric over the rows that have it.

    Args:
        metrics: lines of metrics.jsonl.
        key: of the metric.
        x: key of the other axis.

    Returns:
        The x of these rows, and for each the mean of `moving_means`.
    """
    rows = [row for row in metrics if row.get(key) is not None and math.isfinite(row[key])]
    return [row[x] for row in rows], moving_means([row[key] for row in rows]).tolist()


def smoothing_text(counts: Sequence[int]) -> str:
    """What to write about the smoothing of curves with so many steps, in brackets; empty if nothing is smoothed."""
    windows = sorted({smoothing_window(count) for count in counts if count})
    if not windows or windows[-1] == 1:
        return ""
    return f" (means of {'' if len(windows) == 1 else 'up to '}{windows[-1]} logged steps)"


def draw_line(
    axes: Axes, x: Sequence[float], y: Sequence[float] | np.ndarray, style: Style, label: str = "", **kwargs: Any
) -> None:
    """Draw a curve. One with few points shows each of them, so that a run of one step has something to see."""
    marker = style.marker if len(x) <= FEW_POINTS else ""
    options = {"color": style.colour, "linestyle": style.line, "marker": marker, "markersize": 4.0, **kwargs}
    axes.plot(x, y, label=plain_label(label), **options)


def draw_band(
    axes: Axes, x: Sequence[float], mean: np.ndarray, error: np.ndarray, style: Style, label: str = "", **kwargs: Any
) -> None:
    """Draw a curve with a band of one standard error around it; without a band where the error is NaN."""
    draw_line(axes, x, mean, style, label, **kwargs)
    axes.fill_between(x, mean - error, mean + error, color=style.colour, alpha=0.18, linewidth=0)


def draw_point(axes: Axes, point: tuple[float, float], errors: tuple[float, float], style: Style, label: str) -> None:
    """Draw a point with its standard errors along both axes, those that are known."""
    x_error, y_error = (error if math.isfinite(error) and error > 0 else None for error in errors)
    x, y = point
    axes.errorbar(x, y, xerr=x_error, yerr=y_error, fmt="none", ecolor=style.colour)
    axes.plot([x], [y], style.marker, color=style.colour, markersize=7, zorder=4, label=plain_label(label))


def draw_base_line(axes: Axes, value: float | None, label: str = "base", colour: str = BASE) -> None:
    """Mark the base model's value by a dotted line."""
    if value is not None and math.isfinite(value):
        axes.axhline(value, color=colour, linestyle=":", linewidth=1.2, label=label, zorder=1)


def draw_base_point(axes: Axes, x: float | None, y: float | None) -> None:
    """Mark the base model by a cross."""
    if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
        axes.plot([x], [y], "x", color=BASE, markersize=8, markeredgewidth=2, label="base", zorder=5)


def integer_ticks(axes: Axes) -> None:
    """Put the ticks of the x axis at whole numbers, as steps are."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))


def note_if_empty(axes: Axes, text: str) -> None:
    """Write a text into axes that show no finite point."""
    if finite_points(axes) == 0:
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#666666", wrap=True)


def finite_points(axes: Axes) -> int:
    """Number of points with finite coordinates in the curves of some axes; lines across the axes do not count."""
    curves = [line for line in axes.lines if line.get_transform() == axes.transData]
    return sum(int(np.isfinite(np.array(line.get_xydata(), dtype=float)).all(1).sum()) for line in curves)


def legend_below(figure: Figure, *axes: Axes) -> None:
    """Add a legend below the figure: what has a label in any of the axes, each label once, in columns that fit."""
    entries: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        width = LEGEND_KEY + LEGEND_CHARACTER * max(map(len, entries))
        columns = max(1, min(len(entries), int(figure.get_figwidth() / width)))
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)
