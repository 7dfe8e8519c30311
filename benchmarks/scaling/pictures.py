"""A picture for each thing that grows: CPU seconds and memory over its size, both axes logarithmic."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.scaling.axes import AXES
from benchmarks.scaling.fit import exponent
from benchmarks.scaling.records import costs
from launch.analysis.figures import draw_line, legend_below, panels, save_figure
from launch.analysis.palette import COLOURS, Style

COSTS = {"cpu_seconds": "CPU seconds", "peak_mb": "peak memory, MiB"}
LINES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D")


def draw_pictures(records: Mapping[tuple[str, int], Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw scaling_NAME.png for each group of axes with at least two sizes, and return the paths."""
    groups: dict[str, list[str]] = {}
    for name, axis in AXES.items():
        if len(costs(records, name, "cpu_seconds")[0]) > 1:
            groups.setdefault(axis.picture, []).append(name)
    return [draw_picture(records, names, folder / f"scaling_{group}.png") for group, names in groups.items()]


def draw_picture(records: Mapping[tuple[str, int], Mapping[str, Any]], names: list[str], path: Path) -> Path:
    figure, (row,) = panels(1, len(COSTS))
    for axes, (key, title) in zip(row, COSTS.items(), strict=True):
        for index, name in enumerate(names):
            sizes, values = costs(records, name, key)
            style = Style(COLOURS[index], LINES[index % 4], MARKERS[index % 4])
            draw_line(axes, sizes, values, style, AXES[name].work)
            slope = exponent(sizes, values)
            text = "" if math.isnan(slope) else f"{slope + 0:.2f}".replace("-0.00", "0.00")
            axes.annotate(text, (sizes[-1], values[-1]), xytext=(5, -3), textcoords="offset points", fontsize=8.5)
        axes.set(xscale="log", yscale="log", xlabel=AXES[names[0]].label, ylabel=title)
        axes.margins(x=0.12)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,), numticks=8))
            axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axis.set_minor_formatter(NullFormatter())
    legend_below(figure, *row)
    return save_figure(figure, path)
