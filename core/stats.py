"""Statistics that results are reported with."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def entropy(probability: Tensor) -> Tensor:
    """-sum p log p over the last axis, nats, float64; counts are normalised first, all-zero counts have entropy 0."""
    probability = probability.double()  # its tiny is 0 in float32
    probability = probability / probability.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.special.entr(probability).sum(-1)


def effective_modes(probability: Tensor) -> Tensor:
    """exp(entropy): the number of equally likely outcomes with the same entropy."""
    return entropy(probability).exp()


def mode_coverage(probability: Tensor, min_share: float = 0.5) -> Tensor:
    """Share of the modes (last axis) that hold at least `min_share` of an equal share of their total."""
    equal = probability.sum(-1, keepdim=True) / probability.shape[-1]
    return ((probability >= min_share * equal) & (probability > 0)).double().mean(-1)


def coefficient_of_variation(value: Tensor) -> Tensor:
    """Population standard deviation over mean, on the last axis."""
    return value.std(-1, correction=0) / value.mean(-1)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the sum of |p - q| over the last axis."""
    return (p - q).abs().sum(-1) / 2


def effective_sample_size(log_weight: Tensor, valid: Tensor | None = None) -> Tensor:
    """(sum w)^2 / sum w^2 over the last axis, in log space; 0 where nothing is valid."""
    if valid is not None:
        log_weight = log_weight.masked_fill(~valid, -torch.inf)
    size = (2 * log_weight.logsumexp(-1) - (2 * log_weight).logsumexp(-1)).exp()
    return size.nan_to_num(nan=0.0)


def bootstrap_standard_error(
    values: Tensor,
    statistic: Callable[[Tensor], Tensor] = lambda sample: sample.mean(1),
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> float:
    """Standard deviation of a statistic over resamples of the rows, drawn with replacement.

    Args:
        values: [N, ...], one row an independent observation.
        statistic: [resamples, N, ...] -> [resamples].

    Returns:
        nan where there is no observation.

    Source: Efron (1979).
    """
    if len(values) == 0:
        return math.nan
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(values), (resamples, len(values)), generator=generator)
    return float(statistic(values[rows]).double().std())


def pareto_front(points: Tensor) -> Tensor:
    """[N, K] points, each axis better when larger -> [N] bool: no other is as good everywhere and better once."""
    at_least = (points[None, :] >= points[:, None]).all(-1)  # [i, j]: j is at least as good as i
    better = (points[None, :] > points[:, None]).any(-1)
    return ~(at_least & better).any(1)
