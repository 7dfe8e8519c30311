"""The files in a run's folder `report` that `launch.collect` shows. Any package can write them.

NAME.gallery.json   {"title", "items": [{"name", "value", "caption", "svg"}]}: pictures, a larger value is better. For
                    each configuration the best items over all its seeds are shown, one for each name.
NAME.curves.json    {"title", "x", "series": {label: [[x, ...], [y, ...]]}}: curves, averaged over the seeds of each
                    configuration at the x values that all seeds have.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conf.schema.base import ConfigError
from launch.analysis.uncertainty import standard_errors

MAX_ITEMS = 12  # shown for each configuration


@dataclass(frozen=True)
class Item:
    """One picture of a gallery."""

    name: str
    value: float
    caption: str
    svg: str


@dataclass(frozen=True)
class Curves:
    """Curves over a common x axis.

    x: the label of the axis. series: for each curve's label, y by x.
    """

    x: str
    series: dict[str, dict[float, float]]


@dataclass(frozen=True)
class Artifacts:
    """The galleries and curves of one run, by title."""

    galleries: dict[str, list[Item]] = field(default_factory=dict)
    curves: dict[str, Curves] = field(default_factory=dict)


def read_artifacts(folder: Path) -> Artifacts:
    """Read the artifacts in a run's folder `report`; empty if it does not exist.

    Raises:
        ConfigError: a file cannot be read or has another format.
    """
    artifacts = Artifacts()
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text("utf-8"))
            if path.name.endswith(".gallery.json"):
                artifacts.galleries[content["title"]] = [
                    Item(item["name"], float(item["value"]), item["caption"], item["svg"])
                    for item in content["items"]
                ]
            elif path.name.endswith(".curves.json"):
                series = {label: _y_by_x(*xy) for label, xy in content["series"].items()}
                artifacts.curves[content["title"]] = Curves(content["x"], series)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path}: not a gallery or curves file in the format of launch.analysis.artifacts: {error!r}"
            ) from None
    return artifacts


def _y_by_x(x: Sequence[float], y: Sequence[float]) -> dict[float, float]:
    return {float(a): float(b) for a, b in zip(x, y, strict=True)}


def fold_curves(series: Sequence[Mapping[float, float]]) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Average curves over the x values that all of them have.

    Args:
        series: curves as y by x.

    Returns:
        The x values, the mean over the curves and its standard error (with n - 1), which is 0 for one curve.
    """
    xs = sorted(set.intersection(*map(set, series)))
    values = np.array([[curve[x] for x in xs] for curve in series], dtype=float).reshape(len(series), len(xs))
    return xs, values.mean(0), standard_errors(values) if len(series) > 1 else np.zeros(len(xs))


def best_items(galleries: Sequence[Sequence[Item]]) -> list[Item]:
    """The MAX_ITEMS items with the largest values, one for each name."""
    distinct: dict[str, Item] = {}
    for item in sorted((item for items in galleries for item in items), key=lambda item: -item.value):
        distinct.setdefault(item.name, item)
    return list(distinct.values())[:MAX_ITEMS]


def curve_panels(rows: Sequence[tuple[str, Sequence[Artifacts]]]) -> dict[str, list[tuple[str, str, Any]]]:
    """Group the curves of all configurations into panels, one for each series.

    Args:
        rows: (label of the configuration, artifacts of its runs).

    Returns:
        For each title the panels (label of the series, label of the x axis, [(label of the configuration, result of
        `fold_curves`)]).
    """
    panels: dict[str, list[tuple[str, str, Any]]] = {}
    titles = dict.fromkeys(title for _, runs in rows for run in runs for title in run.curves)
    for title in titles:
        of_rows = [(label, [run.curves[title] for run in runs if title in run.curves]) for label, runs in rows]
        x = next(curves.x for _, of_runs in of_rows for curves in of_runs)
        names = dict.fromkeys(name for _, of_runs in of_rows for curves in of_runs for name in curves.series)
        panels[title] = []
        for name in names:
            lines = [
                (label, [curves.series[name] for curves in of_runs if name in curves.series])
                for label, of_runs in of_rows
            ]
            panels[title].append((name, x, [(label, fold_curves(series)) for label, series in lines if series]))
    return panels
