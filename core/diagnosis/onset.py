"""When a curve begins to rise: a change point with an error bar, and a test against no change at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEVEL = 0.01  # a rise is reported if so large a one has at most this probability without any change
LEAST_RISE = 0.05  # a smaller rise is not reported, however certain
LEAST_POINTS = 6
PERMUTATIONS, RESAMPLES = 999, 200


@dataclass(frozen=True)
class Onset:
    """The rise that fits a curve best: a constant, a straight line from `start` to `end`, and a constant.

    Attributes:
        detected: whether p is at most LEVEL and the rise at least LEAST_RISE.
        p: probability of a rise that fits as well if the order of the points means nothing.
        start: where the rise begins, in steps.
        error: standard error of `start`, at least half the distance between two points.
        end: where it ends.
        before: the level before it.
        after: the level after it.
    """

    detected: bool
    p: float
    start: float
    error: float
    end: float
    before: float
    after: float


def find_onset(
    steps: Sequence[float], values: Sequence[float], weights: Sequence[float], seed: int = 0
) -> Onset | None:
    """Find where a curve begins to rise.

    All ramps that begin and end at points are fitted by weighted least squares; the best one is the estimate. p is
    the share of permutations of the points, each with its weighted residual from the mean, in which some ramp fits as
    well. So the rate of false alarms is LEVEL where the points are exchangeable, as they are if the policy does not
    change. The error of the start is the standard deviation over fits to resampled residuals, scaled for the four
    fitted numbers, and half the distance between two points, added in quadrature.

    Args:
        steps: [T] increasing. Points with a NaN value or no weight are left out.
        values: [T] a quantity that rises in a collapse.
        weights: [T] >= 0, proportional to 1 / variance.
        seed: of the permutations.

    Returns:
        The rise; None if fewer than LEAST_POINTS points are left.
    """
    rows = [row for row in zip(steps, values, weights, strict=True) if not math.isnan(row[1]) and row[2] > 0]
    if len(rows) < LEAST_POINTS:
        return None
    x, y, w = torch.tensor(rows, dtype=torch.float64).unbind(1)
    root = w.sqrt()
    mean = (w * y).sum() / w.sum()
    pairs, shapes = _ramps(x)
    centred = shapes - (shapes * w).sum(-1, keepdim=True) / w.sum()
    basis = torch.nn.functional.normalize(centred * root, dim=-1)  # [R, T]
    residual = root * (y - mean)
    best = int((basis @ residual).argmax())
    generator = torch.Generator().manual_seed(seed)
    p = _p_value(basis, residual, generator)
    before, rise, fit = _fit(y, w, shapes[best])
    starts = _resampled_starts(basis, root, fit, root * (y - fit), generator)
    spread = float(x[pairs[starts, 0]].std())
    start, end = x[pairs[best]].tolist()
    resolution = float((x[-1] - x[0]) / (len(x) - 1)) / 2
    error = math.hypot(spread, resolution)
    return Onset(p <= LEVEL and rise >= LEAST_RISE, p, start, error, end, before, before + rise)


def _ramps(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and last point of each ramp, [R, 2], and its values between 0 and 1 at all points, [R, T]."""
    pairs = torch.combinations(torch.arange(len(x)), 2)
    start, end = x[pairs].unsqueeze(-1).unbind(1)
    return pairs, ((x - start) / (end - start)).clamp(0, 1)


def _fit(y: Tensor, w: Tensor, shape: Tensor) -> tuple[float, float, Tensor]:
    """Weighted least squares of y = before + rise * shape; returns before, rise and the fitted values."""
    mean_y, mean_shape = (w * y).sum() / w.sum(), (w * shape).sum() / w.sum()
    rise = (w * (shape - mean_shape) * y).sum() / (w * (shape - mean_shape) ** 2).sum()
    before = mean_y - rise * mean_shape
    return float(before), float(rise), before + rise * shape


def _p_value(basis: Tensor, residual: Tensor, generator: torch.Generator) -> float:
    """Share of permutations of the residuals in which some ramp fits at least as well, the data among them."""
    orders = torch.rand(PERMUTATIONS, len(residual), generator=generator).argsort(-1)
    largest = (basis @ residual[orders].T).amax(0)
    reached = largest >= (basis @ residual).max() * (1 - 1e-12)
    return (1 + int(reached.sum())) / (1 + PERMUTATIONS)


def _resampled_starts(
    basis: Tensor, root: Tensor, fit: Tensor, residual: Tensor, generator: torch.Generator
) -> Tensor:
    """The ramp that fits best in each of RESAMPLES curves made of the fit and resampled residuals: [RESAMPLES]."""
    rows = torch.randint(len(fit), (RESAMPLES, len(fit)), generator=generator)
    scale = math.sqrt(len(fit) / max(len(fit) - 4, 1))
    curves = root * fit + scale * residual[rows]  # the basis is orthogonal to a constant
    return (basis @ curves.T).argmax(0)
