"""Figures of a diagnosis: curves over training steps, the onset of a collapse, shares of answers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes

from launch.analysis.figures import draw_band, draw_line, integer_ticks, panels, plain_label, save_figure
from launch.analysis.palette import BLUE, GREY, ORANGE, Style, category_colours

COLUMNS = 2
PANEL = (4.8, 3.1)  # inches
MAX_LABEL, MAX_TITLE = 34, 48  # characters
ONSET = "#A40E26"


class Curve(Protocol):
    """A line: label, x and y, the standard error of each y or nothing, and whether it is dashed."""

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def x(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def y(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def error(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def dashed(self) -> bool: ...  # noqa: D102


class Panel(Protocol):
    """Axes: title, curves, and (step, standard error) where something begins, or None."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def curves(self) -> Sequence[Curve]: ...  # noqa: D102
    @property
    def onset(self) -> tuple[float, float] | None: ...  # noqa: D102


def draw_panels(content: Sequence[Panel], path: Path, x_label: str) -> Path:
    """Draw panels side by side, write PNG and SVG, and return the path of the PNG."""
    columns = min(COLUMNS, len(content))
    figure, grid = panels(math.ceil(len(content) / columns), columns, PANEL)
    for axes, panel in zip(grid.flat, content, strict=False):
        _draw_panel(axes, panel, x_label)
    for axes in grid.flat[len(content) :]:
        axes.set_visible(False)
    return save_figure(figure, path)


def _draw_panel(axes: Axes, panel: Panel, x_label: str) -> None:
    solid = [curve for curve in panel.curves if not curve.dashed]
    colours = [BLUE, ORANGE] if len(solid) <= 2 else category_colours(len(solid))
    for curve, colour in zip(solid, colours, strict=False):
        style = Style(colour, "-", "o")
        error = np.array(curve.error, dtype=float)
        if len(error) and np.isfinite(error).any():
            draw_band(axes, curve.x, np.array(curve.y, dtype=float), error, style, _label(curve))
        else:
            draw_line(axes, curve.x, curve.y, style, _label(curve))
    for curve in panel.curves:
        if curve.dashed:
            draw_line(axes, curve.x, curve.y, Style(GREY, "--", ""), _label(curve))
    if panel.onset is not None:
        start, spread = panel.onset
        axes.axvspan(start - spread, start + spread, color=ONSET, alpha=0.12, linewidth=0)
        axes.axvline(start, color=ONSET, linewidth=1.2, label=f"begins at {start:.0f} ± {spread:.0f}")
    axes.set(xlabel=x_label, title=plain_label(_shortened(panel.title, MAX_TITLE)))
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    integer_ticks(axes)
    axes.legend(loc="best")


def _label(curve: Curve) -> str:
    return _shortened(curve.label, MAX_LABEL)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
