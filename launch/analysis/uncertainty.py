"""Standard errors of means, and means with their errors as text."""

import math
from collections.abc import Sequence

import numpy as np

MOST_DECIMALS = 3  # of a number of at least 0.01; smaller ones get as many as show three digits
SMALL = 1e-4  # a number below it is written with an exponent


def standard_error(values: Sequence[float]) -> float:
    """Standard error of a mean of n values: s / sqrt(n), s with n - 1. NaN for fewer than two values."""
    return float(standard_errors(np.asarray(values, dtype=float))) if len(values) > 1 else math.nan


def standard_errors(values: np.ndarray) -> np.ndarray:
    """`standard_error` over the first axis, which has at least two entries."""
    return np.asarray(values.std(0, ddof=1) / math.sqrt(len(values)))


def format_mean(value: float | None, error: float | None = None) -> str:
    """A mean with its standard error, both with the same number of decimals; None and NaN stand for none.

    The error has two digits, unless that is more decimals than `MOST_DECIMALS`: 0.905 ± 0.003, 105 ± 34.
    """
    if value is None or math.isnan(value):
        return "-"
    known = error is not None and not math.isnan(error)
    if 0 < max(abs(value), error if known and error is not None else 0.0) < SMALL:
        return f"{value:.1e} ± {error:.1e}" if known else f"{value:.1e}"
    if error is None or not known:
        return f"{value:.{decimals(value, value, 4)}f}"
    places = decimals(value, error, 2)
    return f"{value:.{places}f} ± {error:.{places}f}"


def decimals(value: float, scale: float, digits: int) -> int:
    """The number of decimals that shows `digits` digits of `scale`, at most those that a value of this size gets."""
    most = max(MOST_DECIMALS, 2 - _exponent(value)) if value and _exponent(value) < -2 else MOST_DECIMALS
    return max(0, min(most, digits - 1 - _exponent(scale))) if scale else most


def _exponent(number: float) -> int:
    return math.floor(math.log10(abs(number))) if number and math.isfinite(number) else 0
