"""Advantages: rewards of a group, KL already subtracted, less a baseline.

All take reward [..., G] and valid [..., G] bool (None: all), and return [..., G]. An invalid sample has
advantage 0 and is in no baseline or standard deviation; what its reward holds (NaN included) is ignored.
NaN where valid is an error.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from core.sequence import check_group


def no_baseline(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """REINFORCE (Williams, 1992): the reward itself."""
    return reward.masked_fill(~_valid(reward, valid), 0.0)


def centred(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """Less the group's mean: (n-1)/n of `leave_one_out`. GRPO without its standard deviation."""
    kept = _valid(reward, valid)
    reward = reward.masked_fill(~kept, 0.0)
    mean = reward.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp_min(1)
    return (reward - mean).masked_fill(~kept, 0.0)


def leave_one_out(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """RLOO (Kool et al., 2019; Ahmadian et al., 2024): less the mean of the others; 0 for a lone valid sample."""
    count = _valid(reward, valid).sum(-1, keepdim=True)
    return centred(reward, valid) * count / (count - 1).clamp_min(1)


def group_normalised(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """GRPO (Shao et al., 2024): centred, over the group's standard deviation; 0 where all are tied.

    The reward must already hold the KL term. Normalising first and adding the KL to the loss changes the
    effective beta with the spread of the rewards; with MARA it collapses onto the rarest good sample.
    """
    kept = _valid(reward, valid)
    advantage = centred(reward, valid)
    std = (advantage.square().sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp_min(1)).sqrt()
    scale = reward.masked_fill(~kept, 0.0).abs().amax(-1, keepdim=True)
    tied = std <= 4 * torch.finfo(reward.dtype).eps * scale  # rounding of equal rewards is not a spread
    return (advantage / std.masked_fill(tied, 1.0)).masked_fill(tied, 0.0)


def max_at_k(reward: Tensor, valid: Tensor | None = None, *, k: int | None = None) -> Tensor:
    """Best of k: over all k-subsets with a sample, the mean of their maximum less their maximum without it.

    With `policy_gradient` its expected gradient is 1/k of that of E[max of k draws], whatever the group's size
    n >= k. At k = n the best sample has r_(1) - r_(2) and the others 0.

    Args:
        k: >= 2, or None for each group's number of valid samples. A group with fewer has advantage 0.

    Source: the U-statistic of the maximum with a leave-one-out baseline (Walder and Karkhanis, 2025,
    arXiv:2505.15201); k = n: Best-of-N training.
    """
    if k is not None and k < 2:
        raise ValueError(f"k must be >= 2, got {k}")
    kept = _valid(reward, valid)
    ordered, order = reward.masked_fill(~kept, -torch.inf).sort(-1, descending=True)
    ordered = ordered.masked_fill(ordered == -torch.inf, 0.0)
    count = kept.sum(-1, keepdim=True)  # n
    place = torch.arange(reward.shape[-1], device=reward.device)
    if k is None:
        second, subsets, few = (place == 1).to(reward).expand_as(reward), torch.ones_like(reward[..., :1]), count < 2
    else:  # subsets in which a sample is the second best: the k - 2 others are among the valid ones after it
        second, subsets = _choose(count - 1 - place, k - 2, reward), _choose(count - 1, k - 1, reward)
        few = count < k
    after = second.flip(-1).cumsum(-1).flip(-1) - second  # over the samples below
    weighted = second * ordered
    rest = weighted.flip(-1).cumsum(-1).flip(-1) - weighted
    gain = (ordered * after - rest) / subsets.clamp_min(1.0)
    return torch.zeros_like(reward).scatter(-1, order, gain).masked_fill(~kept | few, 0.0)


def pass_at_k(reward: Tensor, valid: Tensor | None = None, *, k: int, threshold: float) -> Tensor:
    """Pass@k training: a sample's mean, over the k-subsets with it, of whether they hold a correct one, standardised.

    Args:
        k: >= 1. A group with fewer valid samples, or in which all subsets agree, has advantage 0.
        threshold: rewards at and above are correct.

    Source: Chen et al. (2025), arXiv:2508.10751.
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    kept = _valid(reward, valid)
    correct = kept & (reward >= threshold)
    n, c = kept.sum(-1, keepdim=True), correct.sum(-1, keepdim=True)
    rho = 1 - _choose(n - c, k, reward) / _choose(n, k, reward).clamp_min(1.0)
    spread = (rho * (1 - rho)).sqrt()
    without = _choose(n - c - 1, k - 1, reward) / _choose(n - 1, k - 1, reward).clamp_min(1.0)
    advantage = torch.where(correct, 1 - rho, 1 - rho - without) / spread.masked_fill(spread == 0, 1.0)
    return advantage.masked_fill(~kept | (spread == 0) | (n < k), 0.0)


def _choose(n: Tensor, k: int, like: Tensor) -> Tensor:
    """Binomial coefficients as floats; 0 where n < k or n < 0."""
    result = torch.ones(n.shape, dtype=like.dtype, device=like.device)
    for i in range(k):
        result = result * (n - i).clamp_min(0) / (i + 1)
    return result.masked_fill(n < 0, 0.0)


def tied_groups(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """True where all valid rewards of a group are equal, also where none is valid: [..., G] -> [..., 1] bool."""
    kept = _valid(reward, valid)
    highest = reward.masked_fill(~kept, -torch.inf).amax(-1, keepdim=True)
    lowest = reward.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
    return highest <= lowest


def _valid(reward: Tensor, valid: Tensor | None) -> Tensor:
    check_group(valid, reward=reward)
    return torch.ones_like(reward, dtype=torch.bool) if valid is None else valid


# --- added to the advantages: policy_seq_logp and good [..., G] -> [..., G] ----------------------------------


def differential_smoothing(
    policy_seq_logp: Tensor,
    good: Tensor,
    valid: Tensor | None = None,
    *,
    correct_coef: float,
    wrong_coef: float,
) -> Tensor:
    """-correct_coef log pi_old(y) where y is good, +wrong_coef log pi_old(y) where it is not; 0 where invalid.

    With an unbiased advantage the expected gradient is that of E[R] - correct_coef sum_good pi (log pi - 1)
    + wrong_coef sum_bad pi (log pi - 1): an entropy bonus among good completions only.

    Args:
        policy_seq_logp: [..., G] under the policy that drew them, nats.
        good: [..., G] bool.
        correct_coef, wrong_coef: reward units per nat, >= 0.

    Source: differential smoothing, arXiv:2511.19942.
    """
    kept = _valid(policy_seq_logp, valid)
    bonus = torch.where(good, -correct_coef * policy_seq_logp, wrong_coef * policy_seq_logp)
    return bonus.detach().masked_fill(~kept, 0.0)


def ucpo(policy_seq_logp: Tensor, good: Tensor, valid: Tensor | None = None, *, coef: float) -> Tensor:
    """coef (-log q - H(q)) with q the softmax of log pi_old over a group's good samples; 0 elsewhere.

    Its q-weighted sum is 0, and it vanishes where all good samples of the group are equally likely.

    Args: as in `differential_smoothing`; coef in reward units per nat, >= 0.

    Source: UCPO, arXiv:2605.00365.
    """
    good = good & _valid(policy_seq_logp, valid)
    log_q = policy_seq_logp.detach().masked_fill(~good, -torch.inf)
    log_q = log_q - log_q.logsumexp(-1, keepdim=True)
    surprise = (-log_q).masked_fill(~good, 0.0)  # also where a group has no good sample: inf - inf
    entropy = (log_q.masked_fill(~good, 0.0).exp() * surprise).sum(-1, keepdim=True)
    return coef * (surprise - entropy).masked_fill(~good, 0.0)


ADVANTAGES: dict[str, Callable[..., Tensor]] = {
    "no_baseline": no_baseline,
    "centred": centred,
    "leave_one_out": leave_one_out,
    "group_normalised": group_normalised,
    "max_at_k": max_at_k,
    "pass_at_k": pass_at_k,
}
BONUSES: dict[str, Callable[..., Tensor]] = {"differential_smoothing": differential_smoothing, "ucpo": ucpo}
