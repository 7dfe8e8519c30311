"""Losses whose expected gradient is that of the objective. Sums over the sequence, means over valid samples."""

import torch
from torch import Tensor

from core.sequence import check_group, masked_sum


def policy_gradient(policy_seq_logp: Tensor, advantage: Tensor, valid: Tensor | None = None) -> Tensor:
    """REINFORCE: -mean over valid samples of advantage * log pi(y).

    Args:
        policy_seq_logp: [..., G], summed over tokens, nats, with gradient.
        advantage: [..., G], detached here.
        valid: [..., G] bool; the mean is over these.

    Returns:
        Scalar; 0 (with a gradient of 0) where no sample is valid.

    Raises:
        ValueError: shapes differ, or NaN where valid.
    """
    check_group(valid, policy_seq_logp=policy_seq_logp, advantage=advantage)
    return -mean_valid(_kept(advantage, valid) * policy_seq_logp, valid)


def token_policy_gradient(
    policy_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    token_reward: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """REINFORCE per token: the sequence's advantage, discounted from its last token, plus a token's own reward.

    At gamma = 1 and without `token_reward` it equals `policy_gradient` on the summed log-probabilities. A
    smaller gamma weighs early tokens less: it is another objective, whose effective beta depends on length.

    Args:
        policy_logp: [..., G, T] per token, nats, with gradient.
        advantage: [..., G].
        mask: [..., G, T] bool, True on completion tokens including EOS.
        gamma: in (0, 1].
        token_reward: [..., G, T], e.g. -beta times a per-token KL term: not discounted, not passed to earlier
            tokens.
        valid: [..., G] bool.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], got {gamma}")
    check_group(valid, advantage=advantage)
    remaining = mask.flip(-1).cumsum(-1).flip(-1) - 1  # completion tokens after this one
    coefficient = _kept(advantage, valid).unsqueeze(-1) * gamma ** remaining.to(advantage.dtype)
    if token_reward is not None:
        coefficient = coefficient + _kept(token_reward, None if valid is None else valid.unsqueeze(-1))
    return -mean_valid(masked_sum(coefficient * policy_logp, mask), valid)


def clipped_policy_gradient(
    policy_logp: Tensor,
    behaviour_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    level: str = "token",
    valid: Tensor | None = None,
) -> Tensor:
    """PPO's clipped surrogate, for several updates on the same completions.

    -mean over valid samples of min(u A, clip(u, 1 - clip_low, 1 + clip_high) A), u = pi / behaviour: of each token,
    summed over the sequence, or of the sequence. At pi = behaviour its gradient is that of `policy_gradient` at both
    levels; away from it the sequence level is unbiased where nothing is clipped, the token level ignores what earlier
    tokens would have been.

    Args:
        policy_logp, behaviour_logp: [..., G, T] per token, nats; the first with gradient, the second of the policy
            that the completions were sampled from.
        advantage: [..., G].
        mask: [..., G, T] bool, True on completion tokens including EOS.
        clip_low, clip_high: >= 0; clip_low <= 1. clip_low = 1 with an infinite clip_high clips
            nothing.
        level: token or sequence.
        valid: [..., G] bool.

    Source: Schulman et al. (2017), arXiv:1707.06347; two clip ranges: Yu et al. (2025), arXiv:2503.14476.
    """
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be token or sequence, got {level!r}")
    if not (0 <= clip_low <= 1 and clip_high >= 0):
        raise ValueError(f"clip_low must lie in [0, 1] and clip_high be >= 0, got {clip_low} and {clip_high}")
    check_group(valid, advantage=advantage)
    kept = _kept(advantage, valid)
    log_ratio = (policy_logp - behaviour_logp.detach()).masked_fill(~mask, 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(-1)
    else:
        kept = kept.unsqueeze(-1)
    if valid is not None:
        log_ratio = log_ratio.masked_fill(~(valid if level == "sequence" else valid.unsqueeze(-1)), 0.0)
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * kept, ratio.clamp(1 - clip_low, 1 + clip_high) * kept)
    return -mean_valid(surrogate if level == "sequence" else masked_sum(surrogate, mask), valid)


def length_normalised_policy_gradient(
    policy_logp: Tensor, advantage: Tensor, mask: Tensor, valid: Tensor | None = None
) -> Tensor:
    """`policy_gradient` with each sequence's term divided by its number of tokens, as in GRPO's first form.

    It breaks the objective: a sequence of n tokens is trained as though its advantage were 1/n of itself, so
    the effective beta depends on length and neither the targets nor MARA's guarantee hold.
    """
    length = mask.sum(-1).clamp_min(1)
    return policy_gradient(masked_sum(policy_logp, mask) / length, advantage, valid)


def reinvent(
    policy_seq_logp: Tensor,
    ref_seq_logp: Tensor,
    reward: Tensor,
    *,
    sigma: float,
    valid: Tensor | None = None,
) -> Tensor:
    """REINVENT (Olivecrona et al., 2017): mean of (log ref + sigma R - log pi)^2.

    On-policy its expected gradient is 2 sigma times that of -(E[R] - KL(pi || ref) / sigma): reverse KL with
    beta = 1 / sigma. Replayed, filtered or de-duplicated samples break that equality.

    Args:
        policy_seq_logp, ref_seq_logp, reward: [..., G]; nats; the first with gradient.
        sigma: nats per unit of reward, > 0.
        valid: [..., G] bool.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")
    check_group(valid, policy_seq_logp=policy_seq_logp, ref_seq_logp=ref_seq_logp, reward=reward)
    augmented = _kept(ref_seq_logp, valid) + sigma * _kept(reward, valid)
    if valid is not None:
        policy_seq_logp = policy_seq_logp.masked_fill(~valid, 0.0)
    return mean_valid((augmented - policy_seq_logp).square(), valid)


def _kept(value: Tensor, valid: Tensor | None) -> Tensor:
    """Detached, 0 where invalid: 0 * NaN would reach the gradient."""
    return value.detach() if valid is None else value.detach().masked_fill(~valid, 0.0)


def mean_valid(value: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over valid entries."""
    if valid is None:
        return value.mean()
    return torch.where(valid, value, 0.0).sum() / valid.sum().clamp_min(1)
