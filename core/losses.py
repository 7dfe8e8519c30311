"""Losses whose expected gradient is minus that of the objective: sums over tokens, means over valid samples."""

import math

import torch
from torch import Tensor

from .sequence import check_group, masked_sum


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
    gradient is that of `policy_gradient` at both levels. With level=geometric_mean, u is the geometric mean of the
    ratios of the tokens, as in GSPO, and the gradient is divided by the length. Elsewhere the sequence level is
    unbiased where nothing is clipped; the token level is biased, because it ignores the ratios of earlier tokens.
    Where the clipped term is the smaller one the gradient is 0, however far apart the policies are.

    Args:
        policy_logp: [..., G, T] per token, nats, with gradient.
        behaviour_logp: [..., G, T] the same tokens under the policy that sampled them.
        advantage: [..., G].
        mask: [..., G, T] bool, True on completion tokens including EOS.
        clip_low: in [0, 1]; 1 does not clip.
        clip_high: >= 0; infinity does not clip.
        level: token, sequence or geometric_mean.
        valid: [..., G] bool.

    Raises:
        ValueError: an option is outside its domain, a valid entry is NaN, or a ratio that is not clipped overflows.

    Source: Schulman et al. (2017), arXiv:1707.06347; two clip ranges: Yu et al. (2025), arXiv:2503.14476; geometric
    mean: Zheng et al. (2025), arXiv:2507.18071.
    """
    if level not in ("token", "sequence", "geometric_mean"):
        raise ValueError(f"level must be token, sequence or geometric_mean, got {level!r}")
    if not (0 <= clip_low <= 1 and clip_high >= 0):
        raise ValueError(f"clip_low must lie in [0, 1] and clip_high must be >= 0, got {clip_low} and {clip_high}")
    check_group(valid, advantage=advantage)
    advantage = _detach_valid(advantage, valid)
    log_ratio = _token_log_ratio(policy_logp, behaviour_logp, mask, valid)
    if level == "token":
        advantage = advantage.unsqueeze(-1)
    else:
        log_ratio = log_ratio.sum(-1)
    if level == "geometric_mean":
        log_ratio = log_ratio / mask.sum(-1).clamp_min(1)
    advantage = advantage.expand_as(log_ratio)
    ratio = log_ratio.detach().exp()
    too_high, too_low = _clipped(ratio, advantage, clip_low, clip_high)
    bound = torch.ones_like(ratio).masked_fill(too_high, 1 + clip_high).masked_fill(too_low, 1 - clip_low)
    constant = too_high | too_low | (advantage == 0)
    _check_ratios(ratio.masked_fill(constant, 1.0), log_ratio)
    # The exponential of a constant term is not taken: its gradient would be 0 * inf.
    surrogate = torch.where(constant, bound, log_ratio.masked_fill(constant, 0.0).exp()) * advantage
    return -mean_valid(masked_sum(surrogate, mask) if level == "token" else surrogate, valid)


def cispo(
    policy_logp: Tensor,
    behaviour_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    valid: Tensor | None = None,
) -> Tensor:
    """CISPO: -clip(u) A log pi summed over tokens, averaged over the valid samples; no gradient flows through u.

    u = pi / behaviour of each token. A clipped token keeps its gradient, with the clipped ratio as its weight.

    Args:
        policy_logp: [..., G, T] per token, nats, with gradient.
        behaviour_logp: [..., G, T] the same tokens under the policy that sampled them.
        advantage: [..., G].
        mask: [..., G, T] bool.
        clip_low: in [0, 1]; 1 does not clip.
        clip_high: >= 0; infinity does not clip.
        valid: [..., G] bool.

    Raises:
        ValueError: a ratio that is not clipped overflows.

    Source: MiniMax (2025), arXiv:2506.13585. It divides by the number of tokens of the batch.
    """
    check_group(valid, advantage=advantage)
    advantage = _detach_valid(advantage, valid).unsqueeze(-1)
    log_ratio = _token_log_ratio(policy_logp, behaviour_logp, mask, valid).detach()
    weight = log_ratio.exp().clamp(1 - clip_low, 1 + clip_high)
    _check_ratios(weight, log_ratio)
    return -mean_valid(masked_sum(weight * advantage * policy_logp, mask), valid)


def covariance(policy_logp: Tensor, advantage: Tensor, counted: Tensor) -> Tensor:
    """(A - mean A) (log pi - mean log pi) of each token; the means are over all counted tokens of the batch.

    Args:
        policy_logp: [..., G, T], nats.
        advantage: [..., G].
        counted: [..., G, T] bool.

    Returns:
        [..., G, T] without gradient; 0 where nothing is counted.

    Source: Cui et al. (2025), arXiv:2505.22617.
    """
    logp = policy_logp.detach()
    advantage = advantage.detach().unsqueeze(-1).expand_as(logp)
    number = counted.sum().clamp_min(1)
    a, b = (value - torch.where(counted, value, 0.0).sum() / number for value in (advantage, logp))
    return (a * b).masked_fill(~counted, 0.0)


def clip_cov(
    policy_logp: Tensor,
    behaviour_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    share: float,
    low: float,
    high: float,
    generator: torch.Generator,
    valid: Tensor | None = None,
) -> Tensor:
    """Clip-Cov: `clipped_policy_gradient` of tokens, without some tokens whose covariance is large.

    A share of all tokens, at least one, is chosen at random among those whose `covariance` lies between `low` and
    `high` and which are not clipped. Their gradient is 0.

    Args:
        policy_logp: [..., G, T] per token, nats, with gradient.
        behaviour_logp: [..., G, T] the same tokens under the policy that sampled them.
        advantage: [..., G].
        mask: [..., G, T] bool.
        clip_low: as in `clipped_policy_gradient`.
        clip_high: likewise.
        share: of the tokens that lose their gradient, in (0, 1].
        low: bound of the covariance, reward units times nats.
        high: likewise.
        generator: of the choice, on the CPU.
        valid: [..., G] bool.

    Source: Cui et al. (2025), arXiv:2505.22617.
    """
    check_group(valid, advantage=advantage)
    advantage = _detach_valid(advantage, valid)
    counted = mask if valid is None else mask & valid.unsqueeze(-1)
    ratio = _token_log_ratio(policy_logp, behaviour_logp, mask, valid).detach().exp()
    too_high, too_low = _clipped(ratio, advantage.unsqueeze(-1), clip_low, clip_high)
    value = covariance(policy_logp, advantage, counted)
    candidates = (counted & ~too_high & ~too_low & (value > low) & (value < high)).nonzero()
    number = min(max(int(share * int(counted.sum())), 1), len(candidates))
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[:number].to(candidates.device)]
    kept = mask.index_put(tuple(chosen.unbind(-1)), torch.zeros((), dtype=torch.bool, device=mask.device))
    return clipped_policy_gradient(
        policy_logp, behaviour_logp, advantage, kept, clip_low=clip_low, clip_high=clip_high, valid=valid
    )


def kl_cov(
    policy_logp: Tensor,
    behaviour_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    share: float,
    coef: float,
    valid: Tensor | None = None,
) -> Tensor:
    """KL-Cov: -u A summed over tokens, plus coef |log u| for the share of all tokens with the largest `covariance`.

    u = pi / behaviour of each token, not clipped. At pi = behaviour the penalty has no gradient.

    Args:
        policy_logp: [..., G, T] per token, nats, with gradient.
        behaviour_logp: [..., G, T] the same tokens under the policy that sampled them.
        advantage: [..., G].
        mask: [..., G, T] bool.
        share: of the tokens with a penalty, in (0, 1]; at least one token has it.
        coef: reward units per nat, >= 0.
        valid: [..., G] bool.

    Source: Cui et al. (2025), arXiv:2505.22617. The paper calls the penalty a KL; |log u| is that of its code.
    """
    check_group(valid, advantage=advantage)
    advantage = _detach_valid(advantage, valid)
    counted = mask if valid is None else mask & valid.unsqueeze(-1)
    value = covariance(policy_logp, advantage, counted).masked_fill(~counted, -torch.inf).flatten()
    number = min(max(int(share * int(counted.sum())), 1), int(counted.sum()))
    penalised = torch.zeros_like(counted).flatten().index_fill(0, value.topk(number).indices, True)
    log_ratio = _token_log_ratio(policy_logp, behaviour_logp, mask, valid)
    penalty = masked_sum(log_ratio.abs(), penalised.view_as(counted))
    surrogate = clipped_policy_gradient(
        policy_logp, behaviour_logp, advantage, mask, clip_low=1.0, clip_high=math.inf, valid=valid
    )
    return surrogate + coef * mean_valid(penalty, valid)


def flowrl(
    policy_logp: Tensor,
    ref_logp: Tensor,
    reward: Tensor,
    mask: Tensor,
    *,
    beta: float,
    weight: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """FlowRL: beta/2 times the mean of w (log Z + log pi / |y| - R / beta - log ref / |y|)^2.

    log Z is what minimises the sum over the group, so that it needs no network. On-policy the gradient is that of the
    rewards R - beta (log pi - log ref) / |y|, centred in the group and divided by the length |y|.

    Args:
        policy_logp: [..., G, T] per token, nats, with gradient.
        ref_logp: [..., G, T] per token, nats.
        reward: [..., G], as normalised by the method.
        mask: [..., G, T] bool.
        beta: reward units per nat of the mean token, > 0. The published coefficient of the reward is 1 / beta.
        weight: [..., G] importance weights w; None: 1.
        valid: [..., G] bool.

    Source: Zhu et al. (2025), arXiv:2509.15207, where a network of the prompt learns log Z.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    check_group(valid, reward=reward)
    length = mask.sum(-1).clamp_min(1)
    log_ratio = (masked_sum(policy_logp, mask) - masked_sum(ref_logp.detach(), mask)) / length
    residual = log_ratio - _detach_valid(reward, valid) / beta
    counted = torch.ones_like(residual) if weight is None else weight.detach()
    if valid is not None:
        counted, residual = counted.masked_fill(~valid, 0.0), residual.masked_fill(~valid, 0.0)
    total = counted.sum(-1, keepdim=True).clamp_min(torch.finfo(counted.dtype).tiny)
    log_z = -(counted * residual).sum(-1, keepdim=True) / total
    return beta / 2 * mean_valid(counted * (residual + log_z.detach()).square(), valid)


def distribution_matching(
    policy_logp: Tensor, reward: Tensor, mask: Tensor, *, temperature: float, valid: Tensor | None = None
) -> Tensor:
    """DMPO's term: the mean of (q - p)^2 over a group, averaged over the groups with a valid sample.

    q is the softmax over the group's samples of their mean log-probability per token, p that of reward / temperature.

    Args:
        policy_logp: [..., G, T] per token, nats, with gradient.
        reward: [..., G].
        mask: [..., G, T] bool.
        temperature: reward units, > 0.
        valid: [..., G] bool.

    Source: Li et al. (2026), arXiv:2605.19461.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    check_group(valid, reward=reward)
    valid = torch.ones_like(reward, dtype=torch.bool) if valid is None else valid
    any_valid = valid.any(-1, keepdim=True)
    mean_logp = masked_sum(policy_logp, mask) / mask.sum(-1).clamp_min(1)
    q, p = (
        value.masked_fill(~valid & any_valid, -torch.inf).masked_fill(~any_valid, 0.0).softmax(-1)
        for value in (mean_logp, _detach_valid(reward, valid) / temperature)
    )
    error = torch.where(valid, (q - p).square(), 0.0).sum(-1) / valid.sum(-1).clamp_min(1)
    return mean_valid(error, any_valid.squeeze(-1))


def _token_log_ratio(policy_logp: Tensor, behaviour_logp: Tensor, mask: Tensor, valid: Tensor | None) -> Tensor:
    """log(pi / behaviour) of each token, [..., G, T]; 0 where nothing is counted."""
    counted = mask if valid is None else mask & valid.unsqueeze(-1)
    return (policy_logp - behaviour_logp.detach()).masked_fill(~counted, 0.0)


def _clipped(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """Where the clipped term is the smaller one: the ratio is above its range, and where it is below."""
    return (advantage > 0) & (ratio > 1 + clip_high), (advantage < 0) & (ratio < 1 - clip_low)


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
