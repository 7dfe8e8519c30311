"""The Pareto front of points in which larger is better."""

from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is at least as good as `b` in every coordinate and better in one."""
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))


def on_the_front(points: Sequence[Point]) -> list[bool]:
    """Whether no other point dominates each point. Equal points are on the front together."""
    return [not any(dominates(other, point) for other in points) for point in points]
