"""Is one configuration better than another, over seeds: Welch's t-test, one-sided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.stats import ttest_ind

from conf.schema.base import ConfigError
from launch.analysis.table import Row


@dataclass(frozen=True)
class Comparison:
    """A result of one configuration against that of another.

    difference: of the means. t, degrees: Welch's statistic and its degrees of freedom. greater, less: probability
    of a t so large, or so small, if the two means were equal. NaN, all of these, where neither varies.
    """

    key: str
    label: str
    difference: float
    t: float
    degrees: float
    greater: float
    less: float


def compare(rows: Sequence[Row], base: Row, keys: Sequence[str]) -> list[Comparison]:
    """Every other row against `base`; a result that not all runs of both have, or of fewer than two, is left out."""
    comparisons = []
    for key in keys:
        theirs = base.values(key)
        for row in rows:
            ours = row.values(key)
            complete = len(ours) == len(row.runs) and len(theirs) == len(base.runs)
            if row is not base and complete and min(len(ours), len(theirs)) >= 2:
                comparisons.append(welch(key, row.label, ours, theirs))
    return comparisons


def welch(key: str, label: str, ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Welch's t-test of mean(ours) - mean(theirs), where the variances may differ."""
    difference = fmean(ours) - fmean(theirs)
    if len({*ours}) == len({*theirs}) == 1:
        return Comparison(key, label, difference, *[math.nan] * 4)
    greater, less = (ttest_ind(ours, theirs, equal_var=False, alternative=side) for side in ("greater", "less"))
    numbers = (greater.statistic, greater.df, greater.pvalue, less.pvalue)
    return Comparison(key, label, difference, *map(float, numbers))


def find_base(rows: Sequence[Row], text: str) -> Row:
    """The one row whose label is the text, or else that has the text in its label or in what was typed for it."""
    exact = [row for row in rows if row.label == text]
    containing = [row for row in rows if any(text in name for name in (row.label, *row.runs[0].overrides))]
    matches = exact or containing
    if len(matches) != 1:
        labels = "; ".join(row.label for row in rows)
        raise ConfigError(f"--against: must be a part of the label of exactly one row ({labels}), got {text}")
    return matches[0]
