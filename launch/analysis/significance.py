"""One-sided Welch t-tests between configurations, over their seeds."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.stats import ttest_ind

from conf.schema.base import ConfigError
from launch.analysis.table import Row

ROUNDING = 1e-12  # of means over the same numbers of prompts, relative


@dataclass(frozen=True)
class Comparison:
    """A result of one configuration compared with that of another.

    key: of the result. label: of the configuration. difference: of the means. t, degrees: Welch's statistic and its
    degrees of freedom. greater, less: p-values of the alternatives that the mean is greater, or less. The last four
    are NaN if neither configuration varies over its seeds.
    """

    key: str
    label: str
    difference: float
    t: float
    degrees: float
    greater: float
    less: float


def compare(rows: Sequence[Row], base: Row, keys: Sequence[str]) -> list[Comparison]:
    """Compare every other row with `base`.

    A result is left out unless all runs of both rows have it, and both rows have at least two runs.
    """
    comparisons = []
    for key in keys:
        base_values = base.values(key)
        for row in rows:
            values = row.values(key)
            complete = len(values) == len(row.runs) and len(base_values) == len(base.runs)
            if row is not base and complete and min(len(values), len(base_values)) >= 2:
                comparisons.append(welch_test(key, row.label, values, base_values))
    return comparisons


def untested(rows: Sequence[Row], base: Row, keys: Sequence[str]) -> list[str]:
    """Why there is no p for some rows and results, one line for each reason."""
    others = [row for row in rows if row is not base]
    if not others:
        return ["there is no other row to test"]
    if len(base.runs) < 2:
        return [f"{base.label} has one seed; a t-test needs at least two seeds of both rows"]
    single = [row.label for row in others if len(row.runs) < 2]
    reasons = [f"one seed, where a t-test needs at least two: {'; '.join(single)}"] if single else []
    for key in keys:
        missing = [row.label for row in rows if len(row.values(key)) < len(row.runs)]
        if missing:
            reasons.append(f"{key}: not every seed has it in {'; '.join(missing)}")
        equal = [row.label for row in others if is_constant(row.values(key)) and is_constant(base.values(key))]
        if equal and not missing:
            reasons.append(f"{key}: all seeds of both rows have one value each in {'; '.join(equal)}")
    return reasons


def welch_test(key: str, label: str, values: Sequence[float], base_values: Sequence[float]) -> Comparison:
    """Welch's t-test of mean(values) - mean(base_values). The variances may differ."""
    difference = fmean(values) - fmean(base_values)
    if is_constant(values) and is_constant(base_values):
        return Comparison(key, label, difference, *[math.nan] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # if one of the two is constant; the test is valid, the other one varies
        greater, less = (
            ttest_ind(values, base_values, equal_var=False, alternative=side) for side in ("greater", "less")
        )
    statistics = (greater.statistic, greater.df, greater.pvalue, less.pvalue)
    return Comparison(key, label, difference, *map(float, statistics))


def is_constant(values: Sequence[float]) -> bool:
    """Whether values are the same up to rounding; not if there are none."""
    return bool(values) and max(values) - min(values) <= ROUNDING * max(map(abs, values))


def find_baseline(rows: Sequence[Row], text: str) -> Row:
    """Find the row whose label is the text, otherwise the one row that has it in its label or in an override.

    Raises:
        ConfigError: no row or several rows match.
    """
    exact = [row for row in rows if row.label == text]
    containing = [row for row in rows if any(text in name for name in (row.label, *row.runs[0].overrides))]
    matches = exact or containing
    if len(matches) != 1:
        labels = "; ".join(row.label for row in rows)
        raise ConfigError(f"--against: {text} matches {len(matches)} rows, must match one; the rows are {labels}")
    return matches[0]
