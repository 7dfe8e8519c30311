"""How beta and the entropy coefficient change over a run."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .targets import reverse_crossover_beta


class StepStatistics(NamedTuple):
    """Statistics of a finished step, from which a schedule computes the beta of the next step.

    Attributes:
        progress: in [0, 1], the position of the next step in the run: 0 for the first step, 1 for the last.
        kl: the objective's divergence, nats; None if it is not known, e.g. because no sample was valid.
        reward: [..., G] raw rewards.
        ref_seq_logp: [..., G] log-probabilities of the completions under the reference, nats.
        good: [..., G] bool, good samples, repetitions of an earlier one excluded; None without a threshold.
    """

    progress: float
    kl: float | None
    reward: Tensor
    ref_seq_logp: Tensor
    good: Tensor | None


Schedule = Callable[[float, StepStatistics], float]  # current beta -> beta of the next step


def linear(start: float, final: float, progress: float) -> float:
    """Interpolate linearly from start at progress = 0 to final at progress = 1."""
    return start + (final - start) * min(max(progress, 0.0), 1.0)


def cosine(start: float, final: float, progress: float) -> float:
    """Go from start to final along half a cosine, which is flat at both ends."""
    return final + (start - final) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def run_progress(step: int, steps: int) -> float:
    """Return `progress` of a step, which is counted from 0: 0 at the first step, 1 at the last."""
    return step / max(steps - 1, 1)


def budget_progress(spent: int, budget: int, per_step: int) -> float:
    """Return `progress` of a step in a run that ends once a budget is spent: 0 at the first step, 1 at the last.

    Args:
        spent: what the earlier steps have spent.
        budget: the run ends after the step that spends the last of it.
        per_step: the most that one step can spend. With less than this left, the step may be the last, and its
            progress is 1.
    """
    return min(spent / max(budget - per_step, 1), 1.0)


def known(value: Tensor | float | None) -> float | None:
    """A statistic as a number; None if it is not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def adaptive_beta(beta: float, kl: float, kl_target: float) -> float:
    """Return the beta of the next step, which steers the KL to a target.

    It is beta * (1 + .1 clip(KL / KL_target - 1, -.2, .2)).

    Args:
        beta: reward units per nat, > 0.
        kl: measured in this step, nats.
        kl_target: nats, > 0.

    Source: Ziegler et al. (2019), arXiv:1909.08593, section 2.2.
    """
    if not kl_target > 0:
        raise ValueError(f"kl_target must be > 0 nats, got {kl_target}")
    if not math.isfinite(kl):
        raise ValueError(f"kl must be finite, got {kl}")
    return beta * (1 + 0.1 * min(max(kl / kl_target - 1, -0.2), 0.2))


def tie_betas(reward: Tensor, ref_seq_logp: Tensor, good: Tensor) -> Tensor:
    """Return the beta at which each pair of a group's good samples ties: [..., G] -> [pairs].

    It is that of `reverse_crossover_beta`, and 0 for equal rewards. Left out are pairs that tie at no beta, because
    one sample has both the higher reward and the higher reference probability, and pairs whose reference
    log-probabilities differ by less than 1e-4 nats.
    """
    ref_a, ref_b = ref_seq_logp.unsqueeze(-1), ref_seq_logp.unsqueeze(-2)
    ties = reverse_crossover_beta(ref_a, ref_b, reward.unsqueeze(-1), reward.unsqueeze(-2))
    usable = good.unsqueeze(-1) & good.unsqueeze(-2) & ((ref_a - ref_b).abs() > 1e-4) & ties.isfinite()
    return ties[usable & torch.ones(usable.shape[-2:], dtype=torch.bool, device=usable.device).triu(1)]


def automatic_beta(
    beta: float, reward: Tensor, ref_seq_logp: Tensor, good: Tensor, *, quantile: float, low: float, high: float
) -> float:
    """Return the beta of the next step: a quantile of `tie_betas` over the batch, clipped to [low, high].

    Args:
        beta: reward units per nat; returned unchanged if the batch has no pair of good samples that ties.
        reward: [..., G], one group per row; pairs are formed within a group.
        ref_seq_logp: [..., G], nats.
        good: [..., G] bool, False for repetitions of a sample, which would count again.
        quantile: in [0, 1], linearly interpolated.
        low: lower bound, > 0.
        high: upper bound, finite, >= low.
    """
    if not (0 <= quantile <= 1 and 0 < low <= high < math.inf):
        raise ValueError(f"quantile must lie in [0, 1] and 0 < low <= high < inf, got {quantile}, {low} and {high}")
    ties = tie_betas(reward.double(), ref_seq_logp.double(), good).sort().values
    if not len(ties):
        return beta
    position = quantile * (len(ties) - 1)
    lower, upper = float(ties[math.floor(position)]), float(ties[math.ceil(position)])
    return min(max(lower + (position - math.floor(position)) * (upper - lower), low), high)


def make_schedule(name: str, start: float, options: dict[str, Any]) -> Schedule:
    """Return a schedule by name.

    Args:
        name: constant, linear, cosine, adaptive or automatic.
        start: beta of the first step.
        options: final (linear, cosine); kl_target (adaptive); quantile, low and high (automatic).

    Raises:
        ValueError: the name is unknown; when the schedule is called: automatic without a threshold.
    """
    curves = {"linear": linear, "cosine": cosine}
    if name == "constant":
        return lambda beta, statistics: beta
    if name in curves:
        curve = partial(curves[name], start, **options)
        return lambda beta, statistics: curve(progress=statistics.progress)
    if name == "adaptive":
        return lambda beta, statistics: (
            beta if statistics.kl is None else adaptive_beta(beta, statistics.kl, **options)
        )
    if name == "automatic":
        return partial(_automatic, options)
    raise ValueError(f"schedule must be constant, linear, cosine, adaptive or automatic, got {name!r}")


def _automatic(options: dict[str, Any], beta: float, statistics: StepStatistics) -> float:
    if statistics.good is None:
        raise ValueError("an automatic beta needs a threshold, because it is computed from pairs of good samples")
    return automatic_beta(beta, statistics.reward, statistics.ref_seq_logp, statistics.good, **options)
