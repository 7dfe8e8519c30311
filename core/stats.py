"""Statistics for reports: entropy, coverage, effective sample size, standard errors, pass@k, Pareto front."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def entropy(probability: Tensor) -> Tensor:
    """-sum p log p over the last axis, nats, float64. Counts are normalised first; all-zero counts have entropy 0."""
    probability = probability.double()  # the tiny below is 0 in float32
    probability = probability / probability.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.special.entr(probability).sum(-1)


def effective_modes(probability: Tensor) -> Tensor:
    """exp(entropy), the number of equally likely outcomes that have the same entropy."""
    return entropy(probability).exp()


def mode_coverage(probability: Tensor, min_share: float = 0.5) -> Tensor:
    """Share of the modes (last axis) whose probability is at least `min_share` times the mean over all modes."""
    equal = probability.sum(-1, keepdim=True) / probability.shape[-1]
    return ((probability >= min_share * equal) & (probability > 0)).double().mean(-1)


def coefficient_of_variation(value: Tensor) -> Tensor:
    """Population standard deviation divided by the mean, over the last axis."""
    return value.std(-1, correction=0) / value.mean(-1)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the sum of |p - q| over the last axis."""
    return (p - q).abs().sum(-1) / 2


def effective_sample_size(log_weight: Tensor, valid: Tensor | None = None) -> Tensor:
    """(sum w)^2 / sum w^2 over the last axis, computed in log space; 0 if no entry is valid."""
    if valid is not None:
        log_weight = log_weight.masked_fill(~valid, -torch.inf)
    size = (2 * log_weight.logsumexp(-1) - (2 * log_weight).logsumexp(-1)).exp()
    return size.nan_to_num(nan=0.0)


def mean_or_nan(value: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the valid entries, for a report; NaN if there are none, since no number would be true."""
    return value.mean() if valid is None else value[valid.expand_as(value)].mean()


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of observations [N]: s / sqrt(N), s with N - 1; NaN for fewer than two."""
    return float(values.double().std(correction=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def bootstrap_standard_error(
    values: Tensor, statistic: Callable[[Tensor], Tensor], *, resamples: int = 1000, seed: int = 0
) -> float:
    """Standard error of a statistic that has no formula, from resamples of the rows, drawn with replacement.

    The standard deviation over the resamples is multiplied by sqrt(N / (N - 1)). That of the mean is then the
    `standard_error`; without the factor it is that of the population deviation, 29% too small for N = 2.

    Args:
        values: [N, ...], one independent observation per row.
        statistic: [resamples, N, ...] -> [resamples].
        resamples: number of resamples.
        seed: of the resampling.

    Returns:
        The standard error; NaN for fewer than two observations.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, sections 2.2 and 5.3.
    """
    count = len(values)
    if count < 2:
        return math.nan
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(count, (resamples, count), generator=generator)
    return float(statistic(values[rows]).double().std()) * math.sqrt(count / (count - 1))


def pass_at_k(total: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the probability that k of n completions include one of the c correct ones.

    NaN if k > n.

    Source: Chen et al. (2021), arXiv:2107.03374.
    """
    if k > total:
        return math.nan
    return 1 - math.comb(total - correct, k) / math.comb(total, k)
