"""Importance weights: the cap on ref/pi that leaves the optimum where it is, and pi/mu of a sampler's completions."""

import math

import torch
from torch import Tensor

from .sequence import masked_sum
from .stats import mean_or_nan

ROUNDING = 1e-5  # of a weight in float32


def log_weight_cap(
    log_weight: Tensor | None,
    reward: Tensor,
    scale: float,
    reward_range: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Return a cap on the log weights of a group that leaves the optimum of E[R] - beta D where it is: [..., 1].

    Let w = u^a be the weight, a = -1 under forward KL and alpha - 1 under an alpha divergence, so that
    f'(u) = (w - 1)/a. At the optimum R - beta f'(u) is the same for all outcomes that the policy gives. Hence
    w_i - w_j = a (R_i - R_j)/beta, whatever the reference sums to. Under forward KL, averaging over the policy gives
    w = c + (E[R] - R)/beta <= c + range/beta, where c is the sum of the reference over the policy's support.

    If the reference is normalised, c = 1, and no weight exceeds 1 + |a| range/beta. After Algorithm 2 of MARA, c is
    the sum of ref', which is not known over sequences; the smallest weight of the group takes its place. It is at
    most that of the anchor, which is ref/pi of one of the policy's own completions and therefore moderate.

    The cap is twice 1 + |a| range/beta, plus that smallest weight. The margin has two reasons. A weight at the cap
    still raises an outcome above the others of its group, so no other policy with the same support becomes a fixed
    point. And no weight is cut in a group whose anchor happens to be less likely than that of other groups.

    Args:
        log_weight: [..., G] log weights of whole sequences; None: the reference is normalised.
        reward: [..., G] after the transform, with the entropy term.
        scale: |a| / beta.
        reward_range: lower bound of the range, for groups whose rewards happen to be close.
        valid: [..., G] bool.
    """
    largest = math.log(2) + torch.log1p(reward_spread(reward, valid).clamp_min(reward_range) * scale)
    if log_weight is None:
        return largest
    counted = log_weight if valid is None else log_weight.masked_fill(~valid, torch.inf)
    smallest = counted.amin(-1, keepdim=True)
    smallest = smallest.masked_fill(smallest == torch.inf, 0.0)  # no sample is valid
    return torch.logaddexp(smallest, largest)


def reward_spread(reward: Tensor, valid: Tensor | None) -> Tensor:
    """Return the highest minus the lowest valid entry of the last axis, 0 if there is none: [..., G] -> [..., 1]."""
    valid = torch.ones_like(reward, dtype=torch.bool) if valid is None else valid
    highest = reward.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True)
    lowest = reward.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    return (highest - lowest).clamp_min(0.0)


# --- completions that another program sampled -------------------------------------------------------------------


def sampler_weight(
    policy_seq_logp: Tensor, sampler_seq_logp: Tensor, *, correction: str, bound: float | None
) -> Tensor:
    """Weights of completions that a sampler mu drew in place of the policy pi: w = pi / mu of the whole completion.

    With w itself the expected gradient is that of completions of the policy. A bound C limits its variance. The
    expected gradient then lacks E_pi[(1 - C/w)+ A grad log pi] with truncation, and E_pi[1{w > C} A grad log pi] with
    masks. Where all advantages A are 0 it lacks nothing: an optimum with the KL term in the reward, before a
    baseline, stays where it is. Truncation keeps it the only fixed point. Masks do not, because a completion whose
    weight is above the bound has no gradient at all.

    Args:
        policy_seq_logp: [..., G] under the policy, summed over tokens, nats.
        sampler_seq_logp: [..., G] the same completions under the sampler.
        correction: truncate, min(w, bound); mask, w where it is at most the bound, otherwise 0; none, 1.
        bound: the largest weight, > 0; None: there is none.

    Returns:
        [..., G] without gradient; 1 where policy and sampler agree and the bound is at least 1.

    Raises:
        ValueError: the correction is unknown, or a weight without a bound overflows.

    Source: truncation, Ionides (2008), doi:10.1198/106186008X320456; masks, of tokens, Ling Team (2025),
    arXiv:2510.18855.
    """
    log_weight = (policy_seq_logp - sampler_seq_logp).detach()
    if correction == "none":
        return torch.ones_like(log_weight)
    log_bound = math.inf if bound is None else math.log(bound)
    if correction == "truncate":
        weight = log_weight.clamp(max=log_bound).exp()
    elif correction == "mask":
        weight = log_weight.masked_fill(log_weight > log_bound, -torch.inf).exp()
    else:
        raise ValueError(f"correction must be truncate, mask or none, got {correction!r}")
    if bool((weight == torch.inf).any()):
        raise ValueError(
            f"the weight of a completion overflows: its log is {float(log_weight.max()):.4g}, so that the sampler "
            "does not have the policy's weights; check the sampler, or set a bound"
        )
    return weight


@torch.no_grad()
def sampler_mismatch(
    policy_logp: Tensor, sampler_logp: Tensor, mask: Tensor, weight: Tensor, valid: Tensor | None = None
) -> dict[str, Tensor]:
    """How far a sampler mu is from the policy pi on completions that mu drew: gaps, KL(mu || pi) and weights.

    The KL is the mean of w - 1 - log w with w = pi / mu, per token and per completion: unbiased and at least 0
    (Schulman's k3). The KL per token is that at prefixes drawn from the sampler.

    Args:
        policy_logp: [..., G, T] under the policy, nats.
        sampler_logp: [..., G, T] under the sampler.
        mask: [..., G, T] bool, True on completion tokens.
        weight: [..., G] of `sampler_weight`.
        valid: [..., G] bool, completions that count; None: all.

    Returns:
        By metric: `gap` is |log pi - log mu|. `lost_mass` is the mean of w less `weight`, an estimate of the policy's
        probability that the bound takes away. A metric that no completion defines is NaN.
    """
    counted = mask if valid is None else mask & valid.unsqueeze(-1)
    difference = (policy_logp - sampler_logp).double().masked_fill(~counted, 0.0)
    total = (masked_sum(policy_logp, counted) - masked_sum(sampler_logp, counted)).double()
    sequences = counted.any(-1)

    def largest(values: Tensor, where: Tensor) -> Tensor:
        return torch.where(where.any(), values.abs().amax(), torch.nan)

    ratio = total.exp()
    return {
        "rollout/token_gap_nats": mean_or_nan(difference.abs(), counted),
        "rollout/token_gap_max_nats": largest(difference, counted),
        "rollout/token_kl_nats": mean_or_nan(difference.expm1() - difference, counted),
        "rollout/sequence_gap_nats": mean_or_nan(total.abs(), sequences),
        "rollout/sequence_gap_max_nats": largest(total, sequences),
        "rollout/sequence_kl_nats": mean_or_nan(total.expm1() - total, sequences),
        "rollout/weight_mean": mean_or_nan(weight.double(), sequences),
        "rollout/weight_max": torch.where(sequences.any(), torch.where(sequences, ratio, 0.0).amax(), torch.nan),
        "rollout/bounded_share": mean_or_nan((weight.double() < ratio * (1 - ROUNDING)).double(), sequences),
        "rollout/lost_mass": mean_or_nan((ratio - weight.double()).clamp_min(0.0), sequences),
    }
