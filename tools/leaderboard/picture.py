"""The picture of a task's leaderboard: quality against coverage and entropy, every point with its name."""

import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from launch.analysis.figures import draw_base_point, draw_point, panels, save_figure
from launch.analysis.labels import METHODS, metric_label
from launch.analysis.palette import ALIASES, BASE, GREY, styles
from launch.runs.atomic import replacing
from tools.leaderboard.board import DIVERSITY, QUALITY, Line

SIZE = (6.4, 5.6)  # of a panel, inches
ANGLES, DISTANCES = (
    24,
    (9, 13, 18, 24, 32, 42, 54, 68, 84, 102, 124, 150),
)  # of a label from its point; pixels at 72 dpi
POINT = 4.0  # half the width that a point takes, in the same pixels


def draw_board(lines: Sequence[Line], path: Path) -> Path:
    """Draw a task's lines with their standard errors, fronts and base into a PNG, and return its path."""
    figure, grid = panels(1, len(DIVERSITY), SIZE)
    drawn = [line for line in lines if line.row is not None]
    shown = dict(zip(map(id, drawn), styles([ALIASES.get(m, m) for m in map(method_of, drawn)]), strict=True))
    for axes, key in zip(grid.flat, DIVERSITY, strict=True):
        front = sorted((line.means[key], line.means[QUALITY]) for line in lines if key in line.fronts)
        axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1.0, zorder=0)
        for line in drawn:
            errors = (line.errors[key], line.errors[QUALITY])
            draw_point(axes, (line.means[key], line.means[QUALITY]), errors, shown[id(line)], "")
        for line in lines:
            if line.row is None:
                draw_base_point(axes, line.means[key], line.means[QUALITY])
        axes.set(xlabel=metric_label(key), ylabel=metric_label(QUALITY))
        axes.margins(0.12)
    figure.canvas.draw()  # the layout is final, so that labels can be measured
    for axes, key in zip(grid.flat, DIVERSITY, strict=True):
        names = [(name_of(line), BASE if line.row is None else shown[id(line)].colour) for line in lines]
        points = [(line.means[key], line.means[QUALITY]) for line in lines]
        place_labels(axes, points, names, [(line.errors[key], line.errors[QUALITY]) for line in lines])
    with tempfile.TemporaryDirectory() as folder, replacing(path) as new:
        shutil.copyfile(save_figure(figure, Path(folder) / path.name), new)
    return path


def method_of(line: Line) -> str:
    """The method of a line that is not the base."""
    assert line.row is not None
    return line.row.method


def name_of(line: Line) -> str:
    """What a line is called in the picture: the method, and the settings that differ from its files."""
    if line.row is None:
        return "base"
    return ", ".join([METHODS.get(line.row.method, line.row.method), *line.note])


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[tuple[str, str]],
    errors: Sequence[tuple[float, float]] = (),
) -> list[Text]:
    """Write a name beside each point, none over another one, a point or its errors; a line joins those further off.

    Args:
        axes: whose limits and layout are final.
        points: in data coordinates.
        names: the text and the colour of each.
        errors: of each point along both axes, NaN where there is none; none at all if empty.

    Returns:
        The labels, in the order of the points.
    """
    scale = axes.figure.dpi / 72
    at = axes.transData.transform(points)
    taken = [Bbox.from_extents(*(point - POINT * scale), *(point + POINT * scale)) for point in at]
    taken += [
        Bbox(axes.transData.transform([(x - dx, y - dy), (x + dx, y + dy)]))
        for (x, y), both in zip(points, errors, strict=False)
        for dx, dy in ((both[0], 0.0), (0.0, both[1]))
        if dx + dy > 0  # not so for NaN
    ]
    taken = [box.padded(scale) for box in taken]  # a bar has no area of its own
    inside = axes.get_window_extent()
    axes.autoscale(False)  # labels and lines leave the limits as they are
    labels: dict[int, Text] = {}
    crowded = sorted(range(len(points)), key=lambda i: -sum(np.hypot(*(at - at[i]).T) < 60 * scale))
    for i in crowded:
        text, colour = names[i]
        label = axes.text(0, 0, text, color=colour, fontsize=7, ha="center", va="center", zorder=6)
        width, height = label.get_window_extent().size
        box = free_place(at[i], (width, height), taken, inside, scale)
        taken.append(box)
        x, y = axes.transData.inverted().transform(np.mean([box.min, box.max], axis=0))
        label.set_position((float(x), float(y)))
        join(axes, at[i], box, colour, scale)
        labels[i] = label
    return [labels[i] for i in range(len(points))]


def free_place(
    point: np.ndarray, size: tuple[float, float], taken: Sequence[Bbox], inside: Bbox, scale: float
) -> Bbox:
    """The nearest box of a size around a point that covers nothing, or else the one that covers least."""
    half = np.array(size) / 2
    best, least = None, math.inf
    for distance in DISTANCES:
        for step in range(ANGLES):
            angle = 2 * math.pi * step / ANGLES
            direction = np.array([math.cos(angle), math.sin(angle)])
            centre = point + direction * (distance * scale + half[0] * abs(direction[0]))
            box = Bbox.from_extents(*(centre - half), *(centre + half))
            covered = sum(overlap(box, other) for other in taken) + size[0] * size[1] - overlap(box, inside)
            if covered < least - 1e-9:
                best, least = box, covered
            if covered <= 1e-9:
                return box
    assert best is not None
    return best


def overlap(a: Bbox, b: Bbox) -> float:
    """The area that two boxes share."""
    shared = Bbox.intersection(a, b)
    return 0.0 if shared is None else float(shared.width * shared.height)


def join(axes: Axes, point: np.ndarray, box: Bbox, colour: str, scale: float) -> None:
    """Draw a thin line from a point to its label, unless it is right beside it."""
    end = np.clip(point, box.min, box.max)
    if np.hypot(*(end - point)) > 1.5 * DISTANCES[0] * scale:
        (x, y) = axes.transData.inverted().transform([point, end]).T
        axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.6, zorder=1)
