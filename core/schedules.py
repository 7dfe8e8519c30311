"""How beta and the entropy coefficient change over a run."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Observed(NamedTuple):
    """What a step has shown by its end, for the next one's beta.

    done: in [0, 1], the next step's place in the run: 0 for the first, 1 for the last.
    kl: nats, the objective's divergence.
    reward, ref_seq_logp: [..., G] raw rewards and log-probabilities of the completions under the reference.
    good: [..., G] bool; None without a threshold.
    """

    done: float
    kl: float
    reward: Tensor
    ref_seq_logp: Tensor
    good: Tensor | None


Schedule = Callable[[float, Observed], float]  # beta now -> beta of the next step


def linear(start: float, final: float, done: float) -> float:
    """From start at done = 0 to final at done = 1."""
    return start + (final - start) * min(max(done, 0.0), 1.0)


def cosine(start: float, final: float, done: float) -> float:
    """From start to final along half a cosine, level at both ends."""
    return final + (start - final) * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2


def progress(step: int, steps: int) -> float:
    """`done` of a step, counted from 0: 1 at the last one."""
    return step / max(steps - 1, 1)


def adaptive_beta(beta: float, kl: float, kl_target: float) -> float:
    """beta for the next step, held near a KL budget: beta * (1 + .1 clip(KL / KL_target - 1, -.2, .2)).

    Args:
        beta: reward units per nat, > 0.
        kl: measured this step, nats.
        kl_target: nats, > 0.

    Source: Ziegler et al. (2019), arXiv:1909.08593, section 2.2.
    """
    if not kl_target > 0:
        raise ValueError(f"kl_target must be > 0 nats, got {kl_target}")
    if not math.isfinite(kl):
        raise ValueError(f"kl must be finite, got {kl}")
    return beta * (1 + 0.1 * min(max(kl / kl_target - 1, -0.2), 0.2))


def tie_betas(reward: Tensor, ref_seq_logp: Tensor, good: Tensor) -> Tensor:
    """The beta at which each pair of a group's good samples ties, |dR| / |d log ref|: [..., G] -> [pairs].

    Pairs that the reference finds equally likely, to 1e-4 nats, tie at no beta or at all, and are left out.
    """
    apart_reward = (reward.unsqueeze(-1) - reward.unsqueeze(-2)).abs()
    apart_logp = (ref_seq_logp.unsqueeze(-1) - ref_seq_logp.unsqueeze(-2)).abs()
    both = good.unsqueeze(-1) & good.unsqueeze(-2) & (apart_logp > 1e-4) & apart_logp.isfinite()
    pairs = both & torch.ones(both.shape[-2:], dtype=torch.bool, device=both.device).triu(1)
    return apart_reward[pairs] / apart_logp[pairs]


def automatic_beta(
    beta: float, reward: Tensor, ref_seq_logp: Tensor, good: Tensor, *, quantile: float, low: float, high: float
) -> float:
    """beta for the next step: the quantile of `tie_betas` over a batch, within [low, high]; unchanged without a pair.

    Args:
        beta: reward units per nat.
        reward, ref_seq_logp, good: [..., G], one group a row: pairs are of the same group.
        quantile: in [0, 1], linearly interpolated.
        low, high: 0 < low <= high < inf.
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
    """A schedule by name: constant; linear, cosine (final); adaptive (kl_target); automatic (quantile, low, high).

    Args:
        start: beta of the first step.

    Raises:
        ValueError: an unknown name; when called, automatic without a threshold.
    """
    curves = {"linear": linear, "cosine": cosine}
    if name == "constant":
        return lambda beta, observed: beta
    if name in curves:
        curve = partial(curves[name], start, **options)
        return lambda beta, observed: curve(done=observed.done)
    if name == "adaptive":
        return lambda beta, observed: adaptive_beta(beta, observed.kl, **options)
    if name == "automatic":
        return partial(_automatic, options)
    raise ValueError(f"schedule must be constant, linear, cosine, adaptive or automatic, got {name!r}")


def _automatic(options: dict[str, Any], beta: float, observed: Observed) -> float:
    if observed.good is None:
        raise ValueError("an automatic beta needs a threshold: it is of pairs of good samples")
    return automatic_beta(beta, observed.reward, observed.ref_seq_logp, observed.good, **options)
