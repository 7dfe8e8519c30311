"""Transform a raw value to a score in [0, 1], and aggregate the scores of several components."""

import math
from collections.abc import Callable, Sequence

Shape = Callable[[float], float]


def logistic10(exponent: float) -> float:
    """1 / (1 + 10^-exponent). Exponents below -300 are treated as -300, since the power would overflow."""
    return 1 / (1 + 10.0 ** min(-exponent, 300.0))


def identity() -> Shape:
    """The value itself, which must be in [0, 1]."""
    return lambda value: value


def sigmoid(low: float, high: float, k: float) -> Shape:
    """Rising: 1 / (1 + 10^(-10 k (x - (low + high)/2) / (high - low))), 1/2 halfway between low and high.

    Source: REINVENT's sigmoid transformation (Blaschke et al., 2020, doi:10.1021/acs.jcim.0c00915).
    """
    middle, width = (low + high) / 2, high - low
    return lambda value: logistic10(10 * k * (value - middle) / width)


def reverse_sigmoid(low: float, high: float, k: float) -> Shape:
    """Falling: 1 / (1 + 10^(10 k (x - (low + high)/2) / (high - low))), for values such as docking energies."""
    return sigmoid(low, high, -k)


def double_sigmoid(low: float, high: float, k_low: float, k_high: float, divisor: float) -> Shape:
    """A sigmoid that rises at low minus one that rises at high: near 1 between them, 0 outside.

    k_low and k_high are the slopes per `divisor`. Negative differences, which come from rounding, become 0.

    Source: REINVENT 2's double sigmoid transformation (Blaschke et al., 2020, doi:10.1021/acs.jcim.0c00915).
    """
    return lambda value: max(
        logistic10(k_low * (value - low) / divisor) - logistic10(k_high * (value - high) / divisor), 0.0
    )


def double_sigmoid_reinvent4(low: float, high: float, k_low: float, k_high: float, divisor: float) -> Shape:
    """A sigmoid that rises at low, up to halfway between low and high; from there, one that falls at high.

    It is 1/2 at low and at high, whereas the difference of the two (`double_sigmoid`) is lower where they overlap.

    Source: REINVENT 4's double_sigmoid (Loeffler et al., 2024, doi:10.1186/s13321-024-00812-5), whose coef_si,
    coef_se and coef_div are k_low, k_high and divisor.
    """
    middle = (low + high) / 2

    def score(value: float) -> float:
        if value < middle:
            return logistic10(k_low * (value - low) / divisor)
        return logistic10(-k_high * (value - high) / divisor)

    return score


def step(edge: float, side: str) -> Shape:
    """1 on one side of the edge, else 0. side: `below` (x < edge), `up_to` (x <= edge) or `from` (x >= edge)."""
    if side == "below":
        return lambda value: float(value < edge)
    if side == "up_to":
        return lambda value: float(value <= edge)
    return lambda value: float(value >= edge)


def interval(low: float, high: float, margin: float) -> Shape:
    """1 for low <= x <= high, falling linearly to 0 over `margin` on both sides."""

    def score(value: float) -> float:
        outside = max(low - value, value - high, 0.0)
        if outside == 0:
            return 1.0
        return max(1 - outside / margin, 0.0) if margin else 0.0

    return score


def exponential_decay(k: float) -> Shape:
    """exp(-k x), and 1 for negative x: a count of alerts lowers the score by a factor each.

    Source: REINVENT 4's exponential_decay.
    """
    return lambda value: math.exp(-k * max(value, 0.0))


def value_mapping(mapping: Sequence[Sequence[float]]) -> Shape:
    """The score of the pair [value, score] that has the value. A value without a pair raises ValueError.

    Source: REINVENT 4's value_mapping.
    """
    scores = {float(value): float(score) for value, score in mapping}

    def score(value: float) -> float:
        if value not in scores:
            raise ValueError(f"value_mapping: has no score for {value:g}; add it to transform.mapping")
        return scores[value]

    return score


SHAPES: dict[str, Callable[..., Shape]] = {
    "identity": identity,
    "sigmoid": sigmoid,
    "reverse_sigmoid": reverse_sigmoid,
    "double_sigmoid": double_sigmoid,
    "double_sigmoid_reinvent4": double_sigmoid_reinvent4,
    "step": step,
    "interval": interval,
    "exponential_decay": exponential_decay,
    "value_mapping": value_mapping,
}


def product(scores: Sequence[float], weights: Sequence[float]) -> float:
    """prod s_i^w_i."""
    return math.prod(score**weight for score, weight in zip(scores, weights, strict=True))


def geometric(scores: Sequence[float], weights: Sequence[float]) -> float:
    """(prod s_i^w_i)^(1 / sum w_i)."""
    return product(scores, weights) ** (1 / sum(weights))


def arithmetic(scores: Sequence[float], weights: Sequence[float]) -> float:
    """sum w_i s_i / sum w_i."""
    return sum(score * weight for score, weight in zip(scores, weights, strict=True)) / sum(weights)


AGGREGATIONS: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "product": product,
    "geometric": geometric,
    "arithmetic": arithmetic,
}
