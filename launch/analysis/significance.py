"""Is one configuration better than another, over seeds: Welch's t-test, one-sided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING

from scipy.special import stdtr

from conf.schema.base import ConfigError

if TYPE_CHECKING:
    from launch.collect import Row


@dataclass(frozen=True)
class Comparison:
    """A result of one configuration against that of another.

    difference: of the means. t, degrees: Welch's statistic and its degrees of freedom. greater, less: probability
    of a t so large, or so small, if the two means were equal.
    """

    key: str
    label: str
    difference: float
    t: float
    degrees: float
    greater: float
    less: float


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """t and degrees of freedom of mean(a) - mean(b) where the variances may differ; NaN where neither varies.

    Source: Welch (1947), with Satterthwaite's degrees of freedom.
    """
    of_a, of_b = (variance(some) / len(some) for some in (a, b))
    if of_a + of_b == 0:
        return math.nan, math.nan
    degrees = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    return (fmean(a) - fmean(b)) / math.sqrt(of_a + of_b), degrees


def compare(rows: "Sequence[Row]", base: "Row", keys: Sequence[str]) -> list[Comparison]:
    """Every other row against `base`; a result that not all runs of both have, or of fewer than two, is left out."""
    found = []
    for key in keys:
        theirs = base.values(key)
        for row in rows:
            ours = row.values(key)
            whole = len(ours) == len(row.runs) and len(theirs) == len(base.runs)
            if row is base or not whole or min(len(ours), len(theirs)) < 2:
                continue
            t, degrees = welch(ours, theirs)
            difference = fmean(ours) - fmean(theirs)
            sides = float(stdtr(degrees, -t)), float(stdtr(degrees, t))
            found.append(Comparison(key, row.label, difference, t, degrees, *sides))
    return found


def find_base(rows: "Sequence[Row]", text: str) -> "Row":
    """The one row whose label is the text, or else that has the text in its label or in what was typed for it."""
    exact = [row for row in rows if row.label == text]
    holding = [row for row in rows if any(text in some for some in (row.label, *row.runs[0].overrides))]
    found = exact or holding
    if len(found) != 1:
        labels = "; ".join(row.label for row in rows)
        raise ConfigError(f"--against: must be a part of the label of one row ({labels}), got {text}")
    return found[0]
