"""What a package puts into a run's folder `report` for `launch.collect` to show, in forms that any package can write.

NAME.gallery.json   {"title", "items": [{"name", "value", "caption", "svg"}]}: pictures, the larger value the better.
                    Of each configuration the best items of all its seeds are shown, one of each name.
NAME.curves.json    {"title", "x", "series": {label: [[x, ...], [y, ...]]}}: curves, folded over the seeds of each
                    configuration at the x that all of them have.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conf.schema.base import ConfigError

SHOWN = 12  # items of a gallery, for each configuration


@dataclass(frozen=True)
class Item:
    """One picture of a gallery."""

    name: str
    value: float
    caption: str
    svg: str


@dataclass(frozen=True)
class Curves:
    """Curves over one x; each of them y by x."""

    x: str
    series: dict[str, dict[float, float]]


@dataclass(frozen=True)
class Artifacts:
    """All of one run, by title."""

    galleries: dict[str, list[Item]] = field(default_factory=dict)
    curves: dict[str, Curves] = field(default_factory=dict)


def read_artifacts(folder: Path) -> Artifacts:
    """Of a run's folder `report`; nothing where there is none. Raises ConfigError where a file cannot be read."""
    found = Artifacts()
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text("utf-8"))
            if path.name.endswith(".gallery.json"):
                items = [
                    Item(one["name"], float(one["value"]), one["caption"], one["svg"]) for one in content["items"]
                ]
                found.galleries[content["title"]] = items
            elif path.name.endswith(".curves.json"):
                series = {name: points(*xy) for name, xy in content["series"].items()}
                found.curves[content["title"]] = Curves(content["x"], series)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path}: must be a gallery or curves of launch.analysis.artifacts, got {error!r}"
            ) from None
    return found


def points(x: Sequence[float], y: Sequence[float]) -> dict[float, float]:
    return {float(a): float(b) for a, b in zip(x, y, strict=True)}


def fold_curves(series: Sequence[Mapping[float, float]]) -> tuple[list[float], np.ndarray, np.ndarray]:
    """The x that every curve has; the mean there, and its standard error over the curves (0 for one)."""
    shared = sorted(set.intersection(*(set(some) for some in series)))
    values = np.array([[some[x] for x in shared] for some in series], dtype=float).reshape(len(series), len(shared))
    return shared, values.mean(0), values.std(0) / math.sqrt(len(series))


def best_items(galleries: Sequence[Sequence[Item]]) -> list[Item]:
    """The items of the largest values, the first of each name."""
    distinct: dict[str, Item] = {}
    for item in sorted((item for items in galleries for item in items), key=lambda item: -item.value):
        distinct.setdefault(item.name, item)
    return list(distinct.values())[:SHOWN]


def curve_panels(rows: Sequence[tuple[str, Sequence[Artifacts]]]) -> dict[str, list[tuple[str, str, Any]]]:
    """For each title its panels: (series, x, [(label, (x, mean, error))])."""
    found: dict[str, list[tuple[str, str, Any]]] = {}
    titles = dict.fromkeys(title for _, runs in rows for run in runs for title in run.curves)
    for title in titles:
        having = [(label, [run.curves[title] for run in runs if title in run.curves]) for label, runs in rows]
        x = next(some.x for _, curves in having for some in curves)
        names = dict.fromkeys(name for _, curves in having for some in curves for name in some.series)
        found[title] = []
        for name in names:
            lines = [
                (label, [some.series[name] for some in curves if name in some.series]) for label, curves in having
            ]
            found[title].append((name, x, [(label, fold_curves(series)) for label, series in lines if series]))
    return found
