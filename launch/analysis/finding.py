"""One sentence about a sweep: which configuration has the highest reward and diversity, and whether that is certain.

Certain is what two-sided Welch t-tests over the seeds find at LEVEL, with Bonferroni's correction for all pairs of
configurations and all tested results: the configuration with the highest mean is chosen after looking at the data, so
every pair counts. If all configurations had the same distributions, a sweep would be told a difference with a
probability of about LEVEL at most.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from launch.analysis.labels import metric_label
from launch.analysis.significance import welch_test
from launch.analysis.table import Row
from launch.analysis.uncertainty import format_mean

LEVEL = 0.05
MAX_NAMES = 3  # configurations that a sentence names; of more it gives the number
NO_RESULT = "No result of reward and diversity was found; --pareto DIVERSITY,REWARD names them."


class Ranking(NamedTuple):
    """Which configurations have the highest mean of a result.

    Attributes:
        key: of the result.
        best: index of the configuration with the highest mean.
        equal: indices of the others with the same mean.
        tied: indices of the others that the tests do not distinguish from it.
        p: the largest corrected p-value of the others that they do distinguish; NaN if there are none.
        tested: whether all configurations could be tested.
    """

    key: str
    best: int
    equal: list[int]
    tied: list[int]
    p: float
    tested: bool


def find(rows: Sequence[Row], labels: Sequence[str], axes: Sequence[str]) -> str:
    """The sentence.

    Args:
        rows: the configurations.
        labels: what they are called.
        axes: the results (diversity, reward), larger is better in both; empty if there are none.
    """
    if not rows:
        return "No run has finished."
    keys = [key for key in reversed(axes) if all(row.values(key) for row in rows)]
    if not keys:
        return NO_RESULT
    if len(rows) == 1:
        return _describe(rows[0], labels[0], keys)
    rankings = [rank(rows, key, len(keys)) for key in keys]
    if not all(ranking.tested for ranking in rankings):
        return _untested(rows, labels, rankings)
    return _tested(rows, labels, rankings)


def rank(rows: Sequence[Row], key: str, results: int = 1) -> Ranking:
    """Compare every configuration with the one that has the highest mean.

    Args:
        rows: at least two configurations.
        key: of a result that all of them have.
        results: how many results are tested, for the correction.
    """
    means = [row.result(key)[0] for row in rows]
    best = max(range(len(rows)), key=means.__getitem__)
    comparisons = results * len(rows) * (len(rows) - 1) / 2
    others = {number: _p_value(rows[best], row, key) for number, row in enumerate(rows) if number != best}
    corrected = {number: min(1.0, p * comparisons) for number, p in others.items()}
    distinct = [p for p in corrected.values() if p < LEVEL]
    tied = [number for number, p in corrected.items() if not p < LEVEL]
    equal = [number for number in others if math.isclose(means[number], means[best], rel_tol=1e-12)]
    return Ranking(key, best, equal, tied, max(distinct, default=math.nan), not any(map(math.isnan, others.values())))


def _p_value(one: Row, other: Row, key: str) -> float:
    """Two-sided; NaN without two seeds that have the result on each side, or if neither varies."""
    values, others = one.values(key), other.values(key)
    if min(len(values), len(others)) < 2 or len(values) < len(one.runs) or len(others) < len(other.runs):
        return math.nan
    test = welch_test(key, "", values, others)
    return 2 * min(test.greater, test.less)


def _describe(row: Row, label: str, keys: Sequence[str]) -> str:
    parts = [f"{_name(key)} {_number(row, key)}" for key in keys]
    name = "The only configuration" if label == "all runs" else f"The only configuration, {label},"
    return f"{name} has {' and '.join(parts)}; there is nothing to compare it with."


def _untested(rows: Sequence[Row], labels: Sequence[str], rankings: Sequence[Ranking]) -> str:
    parts = _highest(rows, labels, rankings)
    if any(len(row.values(ranking.key)) < 2 for ranking in rankings for row in rows):
        reason = "with fewer than two seeds for some configurations this cannot be tested and may be chance"
    else:
        reason = "this was not tested, since some seeds lack the result or do not differ at all"
    return f"In these runs {parts}; {reason}."


def _tested(rows: Sequence[Row], labels: Sequence[str], rankings: Sequence[Ranking]) -> str:
    clear = [ranking for ranking in rankings if not ranking.tied]
    if len(clear) == len(rankings):
        return f"{_capital(_highest(rows, labels, rankings))}, {_certainty(clear, len(rows))}."
    level = [ranking for ranking in rankings if ranking.tied and len(rows) == 2]
    parts = [_clause(rows, labels, ranking) for ranking in rankings if ranking not in level]
    if level:
        parts.append(f"no significant difference in {' or '.join(_range(rows, ranking) for ranking in level)}")
    return f"{_capital('; '.join(parts))}."


def _range(rows: Sequence[Row], ranking: Ranking) -> str:
    """A result with its lowest and highest mean."""
    means = [row.result(ranking.key)[0] for row in rows]
    return f"{_name(ranking.key)} (means {min(means):.3g} to {max(means):.3g}{_unit(ranking.key)})"


def _clause(rows: Sequence[Row], labels: Sequence[str], ranking: Ranking) -> str:
    """What the tests say about one result."""
    if not ranking.tied:
        return f"{_highest(rows, labels, [ranking])}, {_certainty([ranking], len(rows))}"
    best = f"{_best_names(labels, ranking)} ({_number(rows[ranking.best], ranking.key)})"
    tied = [labels[number] for number in ranking.tied if number not in ranking.equal]
    if not tied:
        return (
            f"{_name(ranking.key)} is {'the same' if len(ranking.equal) == len(rows) - 1 else 'highest'} for {best}"
        )
    others = len(rows) - 1 - len(ranking.equal)
    names = f"{len(tied)} of {others} others" if len(tied) > MAX_NAMES else _enumerate(tied)
    than = "any other" if len(tied) == others else names
    return f"{_name(ranking.key)} is highest for {best}, but not significantly higher than for {than}"


def _best_names(labels: Sequence[str], ranking: Ranking) -> str:
    """The configurations with the highest mean."""
    if ranking.equal and len(ranking.equal) == len(labels) - 1:
        return "both configurations" if len(labels) == 2 else "all configurations"
    return " and ".join(labels[number] for number in (ranking.best, *ranking.equal))


def _highest(rows: Sequence[Row], labels: Sequence[str], rankings: Sequence[Ranking]) -> str:
    """Which configuration has the highest means, as in `MARA has the highest reward (0.9) and diversity (1.2)`."""
    by_names: dict[str, list[str]] = {}
    for ranking in rankings:
        value = f"{_name(ranking.key)} ({_number(rows[ranking.best], ranking.key)})"
        names = f"{_best_names(labels, ranking)} {'share' if ranking.equal else 'has'}"
        by_names.setdefault(names, []).append(value)
    return " and ".join(f"{names} the highest {' and '.join(values)}" for names, values in by_names.items())


def _certainty(rankings: Sequence[Ranking], count: int) -> str:
    p = max(ranking.p for ranking in rankings)
    than = "the other" if count == 2 else "every other configuration"
    return f"significantly higher than {than}, p {f'= {p:.2g}' if p >= 0.001 else '< 0.001'}"


def _number(row: Row, key: str) -> str:
    return f"{format_mean(*row.result(key))}{_unit(key)}"


def _name(key: str) -> str:
    """The name of a result without its unit."""
    return metric_label(key).removesuffix(" (nats)")


def _unit(key: str) -> str:
    return " nats" if metric_label(key).endswith(" (nats)") else ""


def _enumerate(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{'; '.join(names[:-1])} or {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
