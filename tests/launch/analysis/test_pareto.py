"""The Pareto front, against one found by sorting."""

import random

import pytest

from launch.analysis.pareto import on_the_front


def front_by_sorting(points):
    """The points that are better in the second coordinate than all that are at least as good in the first."""
    front, best = set(), -float("inf")
    for x, y in sorted(points, reverse=True):
        if y > best:
            front.add((x, y))
            best = y
    return front


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_nothing_dominates(seed):
    draw = random.Random(seed)
    points = [(draw.randrange(6), draw.randrange(6)) for _ in range(20)]
    marked = {point for point, chosen in zip(points, on_the_front(points), strict=True) if chosen}
    assert marked == front_by_sorting(points)
    assert marked != front_by_sorting([(-x, -y) for x, y in points])  # control


def test_equal_points_and_more_coordinates():
    assert on_the_front([(1, 1), (1, 1), (0, 1)]) == [True, True, False]
    assert on_the_front([(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0.5)]) == [True, True, True, False]
    assert on_the_front([]) == []
