"""Losses whose expected gradient is minus that of the objective: sums over tokens, means over valid samples."""

import torch
from torch import Tensor

from core.sequence import check_group, masked_sum


def policy_gradient(policy_seq_logp: Tensor, advantage: Tensor, valid: Tensor | None = None) -> Tensor:
    """REINFORCE: -advantage * log pi(y), averaged over the valid samples.

    Args:
        policy_seq_logp: [..., G], summed over tokens, nats, with gradient.
        advantage: [..., G]; no gradient flows through it.
        valid: [..., G] bool; None: all samples are valid.

    Returns:
        Scalar; 0, with gradient 0, if no sample is valid.

    Raises:
        ValueError: shapes differ, or a valid entry is NaN.
    """
    check_group(valid, policy_seq_logp=policy_seq_logp, advantage=advantage)
    return -mean_valid(_detach_valid(advantage, valid) * policy_seq_logp, valid)


def token_policy_gradient(
    policy_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    token_reward: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """REINFORCE per token: the sequence's advantage, discounted from the last token, plus each token's own reward.

    At gamma = 1 and without `token_reward` it equals `policy_gradient` of the summed log-probabilities. A smaller
    gamma gives early tokens less weight: this is another objective, whose effective beta depends on the length.

    Args:
        policy_logp: [..., G, T] per token, nats, with gradient.
        advantage: [..., G].
        mask: [..., G, T] bool, True on completion tokens including EOS.
        gamma: in (0, 1].
        token_reward: [..., G, T], e.g. -beta times a per-token KL term. It is not discounted and affects no earlier
            token.
        valid: [..., G] bool.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], got {gamma}")
    check_group(valid, advantage=advantage)
    remaining = mask.flip(-1).cumsum(-1).flip(-1) - 1  # completion tokens after each token
    coefficient = _detach_valid(advantage, valid).unsqueeze(-1) * gamma ** remaining.to(advantage.dtype)
    if token_reward is not None:
        coefficient = coefficient + _detach_valid(token_reward, None if valid is None else valid.unsqueeze(-1))
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

    -min(u A, clip(u, 1 - clip_low, 1 + clip_high) A), averaged over the valid samples. The ratio u = pi / behaviour
    is that of the whole sequence, or of each token; the terms of the tokens are summed. At pi = behaviour the
    gradient is that of `policy_gradient` at both levels. Elsewhere the sequence level is unbiased where nothing is
    clipped; the token level is biased, because it ignores the ratios of earlier tokens. Where the clipped term is the
    smaller one the gradient is 0, however far apart the policies are.

    Args:
        policy_logp: [..., G, T] per token, nats, with gradient.
        behaviour_logp: [..., G, T] the same tokens under the policy that sampled them.
        advantage: [..., G].
        mask: [..., G, T] bool, True on completion tokens including EOS.
        clip_low: in [0, 1]; 1 does not clip.
        clip_high: >= 0; infinity does not clip.
        level: token or sequence.
        valid: [..., G] bool.

    Raises:
        ValueError: an option is outside its domain, a valid entry is NaN, or a ratio that is not clipped overflows.

    Source: Schulman et al. (2017), arXiv:1707.06347; two clip ranges: Yu et al. (2025), arXiv:2503.14476.
    """
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be token or sequence, got {level!r}")
    if not (0 <= clip_low <= 1 and clip_high >= 0):
        raise ValueError(f"clip_low must lie in [0, 1] and clip_high must be >= 0, got {clip_low} and {clip_high}")
    check_group(valid, advantage=advantage)
    advantage = _detach_valid(advantage, valid)
    log_ratio = (policy_logp - behaviour_logp.detach()).masked_fill(~mask, 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(-1)
    else:
        advantage = advantage.unsqueeze(-1)
    if valid is not None:
        log_ratio = log_ratio.masked_fill(~(valid if level == "sequence" else valid.unsqueeze(-1)), 0.0)
    advantage = advantage.expand_as(log_ratio)
    ratio = log_ratio.detach().exp()
    too_high, too_low = (advantage > 0) & (ratio > 1 + clip_high), (advantage < 0) & (ratio < 1 - clip_low)
    bound = torch.ones_like(ratio).masked_fill(too_high, 1 + clip_high).masked_fill(too_low, 1 - clip_low)
    constant = too_high | too_low | (advantage == 0)
    _check_ratios(ratio.masked_fill(constant, 1.0), log_ratio)
    # The exponential of a constant term is not taken: its gradient would be 0 * inf.
    surrogate = torch.where(constant, bound, log_ratio.masked_fill(constant, 0.0).exp()) * advantage
    return -mean_valid(surrogate if level == "sequence" else masked_sum(surrogate, mask), valid)


def _check_ratios(ratio: Tensor, log_ratio: Tensor) -> None:
    """Raise ValueError if a ratio has overflowed."""
    overflows = ratio == torch.inf
    if bool(overflows.any()):
        where = overflows.nonzero()[0].tolist()
        raise ValueError(
            f"the ratio of the policy to the one that sampled overflows at {where}, where its log is "
            f"{float(log_ratio.detach()[tuple(where)]):.4g} and no clipping applies; use fewer updates per batch, a "
            "lower learning rate or ratio=token"
        )


def length_normalised_policy_gradient(
    policy_logp: Tensor, advantage: Tensor, mask: Tensor, valid: Tensor | None = None
) -> Tensor:
    """`policy_gradient` with the term of each sequence divided by its number of tokens, as in the first form of GRPO.

    This changes the objective: a sequence of n tokens is trained with 1/n of its advantage. The effective beta then
    depends on the length, and neither the targets nor MARA's guarantee hold.
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

    On-policy, its expected gradient is 2 sigma times that of -(E[R] - KL(pi || ref) / sigma): reverse KL with
    beta = 1 / sigma. This does not hold for replayed, filtered or de-duplicated samples.

    Args:
        policy_seq_logp: [..., G], nats, with gradient.
        ref_seq_logp: [..., G], nats.
        reward: [..., G].
        sigma: nats per unit of reward, > 0.
        valid: [..., G] bool.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")
    check_group(valid, policy_seq_logp=policy_seq_logp, ref_seq_logp=ref_seq_logp, reward=reward)
    augmented = _detach_valid(ref_seq_logp, valid) + sigma * _detach_valid(reward, valid)
    if valid is not None:
        policy_seq_logp = policy_seq_logp.masked_fill(~valid, 0.0)
    return mean_valid((augmented - policy_seq_logp).square(), valid)


def _detach_valid(value: Tensor, valid: Tensor | None) -> Tensor:
    """Detach a tensor and set its invalid entries to 0: 0 * NaN would reach the gradient."""
    return value.detach() if valid is None else value.detach().masked_fill(~valid, 0.0)


def mean_valid(value: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the valid entries; 0 if there are none."""
    if valid is None:
        return value.mean()
    return torch.where(valid, value, 0.0).sum() / valid.sum().clamp_min(1)
