"""The area under the curve of PMO, by hand and by another formula."""

import random

import pytest

from chem.benchmarks.auc import top_auc, top_mean


def test_the_best_are_averaged():
    assert top_mean([0.1, 0.9, 0.5, 0.7], 2) == pytest.approx(0.8)
    assert top_mean([0.1, 0.9], 10) == pytest.approx(0.5)
    assert top_mean([], 10) == 0


def test_by_hand():
    """Points at 2 and 4 calls and the last at 5, then the last value up to the budget of 8.

    Best of two: (.2 + .4)/2 = .3 at 2, (.4 + .8)/2 = .6 at 4 and (1 + .8)/2 = .9 at 5.
    """
    scores = [0.2, 0.4, 0.8, 0.1, 1.0]
    area = 2 * (0 + 0.3) / 2 + 2 * (0.3 + 0.6) / 2 + 1 * (0.6 + 0.9) / 2 + 3 * 0.9
    assert top_auc(scores, 2, budget=8, spacing=2) == pytest.approx(area / 8)


def test_the_last_point_lies_at_the_budget_once():
    assert top_auc([0.5] * 4, 1, budget=4, spacing=2) == pytest.approx((2 * 0.25 + 2 * 0.5) / 4)


def test_nothing_counts_beyond_the_budget():
    assert top_auc([0.5] * 4 + [1.0], 1, budget=4, spacing=2) == top_auc([0.5] * 4, 1, budget=4, spacing=2)


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250, 999, 1000])
def test_the_sum_of_trapezia_call_by_call(count):
    """The same area from the value of the curve in the middle of every call."""
    scores = [random.Random(count).random() for _ in range(count)]
    points = {0: 0.0, count: top_mean(scores, 10)}
    points |= {call: top_mean(scores[:call], 10) for call in range(100, count, 100)}
    calls = sorted(points)

    def value(place):
        left = max(call for call in calls if call <= place)
        right = min(call for call in calls if call > place)
        return points[left] + (points[right] - points[left]) * (place - left) / (right - left)

    area = sum(value(call + 0.5) for call in range(count)) + (1000 - count) * points[count]
    assert top_auc(scores, 10, budget=1000) == pytest.approx(area / 1000)
    assert top_auc(scores, 10, budget=1000) != pytest.approx(
        sum(value(call + 0.5) for call in range(count)) / 1000
    ) or (count == 1000)  # a control: without the rest of the budget
