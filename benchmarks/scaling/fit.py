"""The exponent with which a cost grows, from costs at several sizes."""

import math
from collections.abc import Sequence

LARGEST = 4  # sizes that are fitted: at smaller ones what does not grow dominates


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost over log size, by least squares, at the `LARGEST` largest sizes.

    NaN with fewer than two sizes, or where a cost is not positive.
    """
    pairs = sorted(zip(sizes, costs, strict=True))[-LARGEST:]
    if len(pairs) < 2 or any(cost <= 0 for _, cost in pairs):
        return math.nan
    x, y = ([math.log(pair[i]) for pair in pairs] for i in (0, 1))
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - x_mean) ** 2 for a in x)
