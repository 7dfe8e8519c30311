"""Welch's t-test against its formula, and what is compared with what."""

import math
from pathlib import Path
from statistics import fmean, variance

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import ttest_ind

from conf.schema.base import ConfigError
from launch.analysis.significance import compare, find_baseline, untested
from launch.analysis.table import CollectedRun, Row


def row(name, key, values):
    results = [{} if value is None else {key: value} for value in values]
    runs = [CollectedRun(Path(name), "chem", [], "finished", results=result) for result in results]
    return Row({"method": name}, runs)


def welch_by_hand(a, b):
    """t, degrees of freedom (Satterthwaite's) and p (greater) of mean(a) - mean(b), by numerical integration."""
    of_a, of_b = (variance(values) / len(values) for values in (a, b))
    t = (fmean(a) - fmean(b)) / math.sqrt(of_a + of_b)
    degrees = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    scale = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    tail, _ = quad(lambda x: scale * (1 + x * x / degrees) ** (-(degrees + 1) / 2), t, math.inf)
    return t, degrees, tail


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("counts", [(5, 5), (2, 7), (3, 2)])
def test_it_is_welchs_formula(seed, counts):
    random = np.random.default_rng(seed)
    a, b = (random.normal(place, scale, n).tolist() for place, scale, n in zip((0, 1), (1, 3), counts, strict=True))
    base, other = row("a", "yield", a), row("b", "yield", b)
    (test,) = compare([base, other], base, ["yield"])
    t, degrees, greater = welch_by_hand(b, a)
    assert (test.t, test.degrees) == pytest.approx((t, degrees), rel=1e-12)
    assert (test.greater, test.less) == pytest.approx((greater, 1 - greater), rel=1e-6)
    pooled = ttest_ind(b, a, equal_var=True, alternative="greater")  # control: Student's is another test
    assert counts[0] != counts[1] or test.greater != pytest.approx(pooled.pvalue, rel=1e-6)
    assert counts[0] == counts[1] or test.t != pytest.approx(pooled.statistic, rel=1e-6)


def test_only_what_all_runs_have_is_compared():
    base = row("reinvent", "OB100", [900, 1000, 1100])
    rows = [base, row("mara", "OB100", [800, 700, None]), row("other", "OB100", [800, 700, 600])]
    assert [test.label for test in compare(rows, base, ["OB100"])] == ["method=other"]
    assert compare(rows, rows[1], ["OB100"]) == []  # a base that has not reached it
    assert compare([base, row("one", "OB100", [1.0])], base, ["OB100"]) == []
    (test,) = compare([base := row("a", "x", [1.0, 1.0]), row("b", "x", [2.0, 2.0])], base, ["x"])
    assert test.difference == 1
    assert all(math.isnan(n) for n in (test.t, test.degrees, test.greater, test.less))


def test_the_row_to_compare_with_is_named_by_a_part_of_its_label():
    rows = [row(name, "x", [1.0]) for name in ("mara", "mara_0.8", "reinvent")]
    assert find_baseline(rows, "reinv") is rows[2]
    assert find_baseline(rows, "mara_") is rows[1]
    assert find_baseline(rows, "method=mara") is rows[0]  # a whole label wins
    rows[1].runs[0].overrides.append("experiment=task/cell")
    assert find_baseline(rows, "task/cell") is rows[1]
    for text, count in (("method", 3), ("nothing", 0)):
        with pytest.raises(
            ConfigError, match=rf"--against: {text} matches {count} rows, must match one; the rows are method=mara; "
        ):
            find_baseline(rows, text)


def test_results_without_a_variance_are_named():
    rows = [
        row("plain", "yield", [13.0, 13.0]),
        row("mara", "yield", [13.0, 13.0]),
        row("other", "yield", [1.0, 2.0]),
    ]
    reason = "yield: all seeds of both rows have one value each in method=mara"
    assert untested(rows, rows[0], ["yield"]) == [reason]
    assert [math.isnan(test.greater) for test in compare(rows, rows[0], ["yield"])] == [True, False]
    assert untested(rows[1:], rows[2], ["yield"]) == []  # control: the base varies


@pytest.mark.filterwarnings("error")  # scipy's about nearly identical numbers
def test_a_row_without_a_variance_is_tested_silently():
    base, other = row("a", "x", [0.5, 0.75, 1.0]), row("b", "x", [0.75, 0.75, 0.75])
    (test,) = compare([base, other], base, ["x"])
    assert (test.t, test.degrees) == (0, 2)
    same_but_for_rounding = row("c", "x", [0.1 + 0.2, 0.3, 0.3])
    (test,) = compare([same_but_for_rounding, row("d", "x", [0.6, 0.6])], same_but_for_rounding, ["x"])
    assert math.isnan(test.greater)
    assert untested([base, same_but_for_rounding], base, ["x"]) == []
