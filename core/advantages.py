"""Advantages: the rewards of a group minus a baseline.

Each function takes reward [..., G], from which the KL term is already subtracted, and valid [..., G] bool (None: all
samples are valid), and returns advantages [..., G]. An invalid sample has advantage 0 and enters no baseline and no
standard deviation; its reward is ignored and may be NaN. NaN in the reward of a valid sample is an error.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .mara import reaches
from .rules import MEAN
from .sequence import check_group


def no_baseline(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """REINFORCE (Williams, 1992): the reward itself."""
    return reward.masked_fill(~_checked_valid(reward, valid), 0.0)


def centred(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """GRPO without its standard deviation: reward minus the group's mean, (n-1)/n times `leave_one_out`."""
    valid = _checked_valid(reward, valid)
    reward = reward.masked_fill(~valid, 0.0)
    mean = reward.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp_min(1)
    return (reward - mean).masked_fill(~valid, 0.0)


def leave_one_out(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """RLOO (Kool et al., 2019; Ahmadian et al., 2024): reward minus the mean of the group's other samples.

    The advantage of a group's only valid sample is 0.
    """
    count = _checked_valid(reward, valid).sum(-1, keepdim=True)
    return centred(reward, valid) * count / (count - 1).clamp_min(1)


def group_normalised(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """`centred` divided by the group's population standard deviation (that of n); 0 if all rewards are equal.

    The reward must already contain the KL term. If the KL is added to the loss instead, the effective beta depends on
    the spread of the rewards, and with MARA the policy collapses onto the rarest good sample.
    """
    valid = _checked_valid(reward, valid)
    advantage = centred(reward, valid)
    std = (advantage.square().sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp_min(1)).sqrt()
    scale = reward.masked_fill(~valid, 0.0).abs().amax(-1, keepdim=True)
    tied = std <= 4 * torch.finfo(reward.dtype).eps * scale  # a std this small is rounding of equal rewards
    return (advantage / std.masked_fill(tied, 1.0)).masked_fill(tied, 0.0)


def group_normalised_sample_std(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """GRPO (Shao et al., 2024): `centred` divided by the group's sample standard deviation (that of n - 1).

    It is sqrt((n-1)/n) times `group_normalised`. The paper writes std without saying which; n - 1 is that of
    torch.std, and so of TRL and verl. These add a small constant to it, which is left out here.
    """
    count = _checked_valid(reward, valid).sum(-1, keepdim=True).to(reward.dtype)
    return group_normalised(reward, valid) * ((count - 1).clamp_min(0) / count.clamp_min(1)).sqrt()


def batch_normalised(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """REINFORCE++ (Hu et al., 2025): reward minus the mean of all groups, divided by their standard deviation.

    The baseline is that of the batch and not of the prompt. With one group it is `group_normalised`. The deviation is
    that of n; the paper does not say which. 0 if all rewards are equal.

    Source: arXiv:2501.03262.
    """
    valid = _checked_valid(reward, valid)
    return group_normalised(reward.flatten(), valid.flatten()).view_as(reward)


def mean_normalised(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """MaxRL: `centred` divided by the group's mean reward; 0 in a group without reward.

    For rewards of 0 and 1 and n samples, the expected gradient is that of sum_{k<n} pass@k / k, the first terms of
    log P(reward 1).

    Raises:
        ValueError: the reward of a valid sample is negative. The mean is then no scale.

    Source: Tajwar et al. (2026), arXiv:2602.02710.
    """
    valid = _checked_valid(reward, valid)
    negative = valid & (reward < 0)
    if bool(negative.any()):
        raise ValueError(
            f"rewards must be >= 0 for the division by their mean, got {float(reward[negative][0]):.4g}; use another "
            "advantage or add a constant to the reward"
        )
    mean = reward.masked_fill(~valid, 0.0).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp_min(1)
    return centred(reward, valid) / mean.masked_fill(mean == 0, 1.0)


def max_at_k(reward: Tensor, valid: Tensor | None = None, *, k: int | None = None) -> Tensor:
    """Best of k: how much a sample raises the maximum of a k-subset, averaged over the k-subsets that contain it.

    With `policy_gradient`, the expected gradient is 1/k of the gradient of E[max of k draws], for every group size
    n >= k. At k = n the best sample has advantage r_(1) - r_(2) and the others have 0.

    Args:
        reward: [..., G].
        valid: [..., G] bool.
        k: >= 2, or None for the number of valid samples of each group. A smaller group has advantage 0.

    Source: the U-statistic of the maximum with a leave-one-out baseline (Walder and Karkhanis, 2025,
    arXiv:2505.15201); at k = n this is Best-of-N training.
    """
    if k is not None and k < 2:
        raise ValueError(f"k must be >= 2, got {k}")
    valid = _checked_valid(reward, valid)
    ordered, order = reward.masked_fill(~valid, -torch.inf).sort(-1, descending=True)
    ordered = ordered.masked_fill(ordered == -torch.inf, 0.0).double()
    n = valid.sum(-1, keepdim=True)
    rank = torch.arange(reward.shape[-1], device=reward.device).expand_as(reward)
    # The best of a subset raises its maximum from the reward of the runner-up to its own: by the steps from rank m to
    # m + 1, summed over the m that it does not rank below and that all its k - 1 companions rank below.
    if k is None:
        companions_below, too_small = (rank == 0).double(), n < 2
    else:
        companions_below, too_small = _share_without(n - 1, rank, k - 1), n < k
    steps = torch.cat([ordered[..., :-1] - ordered[..., 1:], torch.zeros_like(ordered[..., :1])], -1)
    gain = (companions_below * steps).flip(-1).cumsum(-1).flip(-1).to(reward.dtype)  # sums from each rank to the last
    return torch.zeros_like(reward).scatter(-1, order, gain).masked_fill(~valid | too_small, 0.0)


def pass_at_k(reward: Tensor, valid: Tensor | None = None, *, k: int, threshold: float) -> Tensor:
    """Pass@k training: how often the k-subsets that contain a sample pass, standardised over all k-subsets.

    A subset passes if it contains a correct sample. With n samples, c of them correct, a share
    rho = 1 - C(n-c, k) / C(n, k) of the subsets passes, with standard deviation s = sqrt(rho (1 - rho)). A correct
    sample has advantage (1 - rho) / s, any other one (1 - rho - C(n-c-1, k-1) / C(n-1, k-1)) / s.

    Args:
        reward: [..., G].
        valid: [..., G] bool.
        k: >= 1. A group with fewer valid samples, or in which all subsets or none pass, has advantage 0.
        threshold: samples with at least this reward are correct.

    Source: Chen et al. (2025), arXiv:2508.10751.
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    valid = _checked_valid(reward, valid)
    correct = valid & reaches(reward, threshold)
    n, c = valid.sum(-1, keepdim=True), correct.sum(-1, keepdim=True)
    fails = _share_without(n, c, k)  # 1 - rho
    tied = (fails == 0) | (c == 0)
    advantage = (fails / (1 - fails).masked_fill(tied, 1.0)).sqrt()  # (1 - rho) / s
    # C(n-c-1, k-1) / C(n-1, k-1) = (1 - rho) n / (n - c), so the other numerator is -(1 - rho) c / (n - c).
    advantage = torch.where(correct, advantage, -advantage * c / (n - c).clamp_min(1))
    return advantage.to(reward.dtype).masked_fill(~valid | tied | (n < k), 0.0)


def _share_without(n: Tensor, c: Tensor, k: int) -> Tensor:
    """C(n - c, k) / C(n, k) in float64: the share of the k-subsets of n samples without any of c of them.

    A product of k factors of at most 1, because C(256, 64) is too large for float32. Meaningless where n < k.
    """
    share = torch.ones(torch.broadcast_shapes(n.shape, c.shape), dtype=torch.float64, device=n.device)
    for i in range(k):
        share = share * (n - c - i).clamp_min(0) / (n - i).clamp_min(1)
    return share


def tied_groups(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """True where all valid rewards of a group are equal or none is valid: [..., G] -> [..., 1] bool."""
    valid = _checked_valid(reward, valid)
    highest = reward.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True)
    lowest = reward.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    return highest <= lowest


def subtracts_baseline(advantage: Callable[..., Tensor]) -> bool:
    """Whether an advantage is 0 for all samples of a group with equal rewards."""
    return not bool(advantage(torch.full((1, 4), 0.5), None).any())


def _checked_valid(reward: Tensor, valid: Tensor | None) -> Tensor:
    """Check the group and return `valid`, all True if it is None."""
    check_group(valid, reward=reward)
    return torch.ones_like(reward, dtype=torch.bool) if valid is None else valid


# --- bonuses, which are added to the advantages: policy_seq_logp and good [..., G] -> [..., G] ---------------


def differential_smoothing(
    policy_seq_logp: Tensor,
    good: Tensor,
    valid: Tensor | None = None,
    *,
    correct_coef: float,
    wrong_coef: float,
) -> Tensor:
    """-correct_coef log pi_old(y) for good samples, +wrong_coef log pi_old(y) for the others, 0 for invalid ones.

    With an unbiased advantage, the expected gradient is the gradient of E[R] - correct_coef sum_good pi (log pi - 1)
    + wrong_coef sum_bad pi (log pi - 1). The entropy bonus thus applies to good completions only.

    Args:
        policy_seq_logp: [..., G] under the policy that sampled the completions, nats.
        good: [..., G] bool.
        valid: [..., G] bool.
        correct_coef: reward units per nat, >= 0.
        wrong_coef: reward units per nat, >= 0.

    Source: differential smoothing, arXiv:2511.19942.
    """
    valid = _checked_valid(policy_seq_logp, valid)
    bonus = torch.where(good, -correct_coef * policy_seq_logp, wrong_coef * policy_seq_logp)
    return bonus.detach().masked_fill(~valid, 0.0)


def ucpo(policy_seq_logp: Tensor, good: Tensor, valid: Tensor | None = None, *, coef: float) -> Tensor:
    """coef (-log q - H(q)), where q is the softmax of log pi_old over a group's good samples; 0 for the others.

    The q-weighted sum of the bonus is 0, and the bonus is 0 if all good samples of the group are equally likely.

    Args:
        policy_seq_logp: [..., G] under the policy that sampled the completions, nats.
        good: [..., G] bool.
        valid: [..., G] bool.
        coef: reward units per nat, >= 0.

    Source: UCPO, arXiv:2605.00365.
    """
    good = good & _checked_valid(policy_seq_logp, valid)
    log_q = policy_seq_logp.detach().masked_fill(~good, -torch.inf)
    log_q = log_q - log_q.logsumexp(-1, keepdim=True)
    surprise = (-log_q).masked_fill(~good, 0.0)  # log_q is inf - inf in a group without good samples
    entropy = (log_q.masked_fill(~good, 0.0).exp() * surprise).sum(-1, keepdim=True)
    return coef * (surprise - entropy).masked_fill(~good, 0.0)


# --- by class: advantage, a number of samples in each sample's class, and valid [..., G] -> [..., G] advantages -----


def uniqueness(advantage: Tensor, class_size: Tensor, valid: Tensor | None = None, *, strength: float) -> Tensor:
    """Uniqueness-aware RL: divide by class_size^strength, larger the more samples of the group are in the class.

    Negative advantages are divided as well: a wrong sample that is alone in its class is pushed down more.

    Args:
        advantage: [..., G].
        class_size: [..., G] >= 1, from `core.transforms.class_sizes`.
        valid: not used.
        strength: in [0, 1]; 0 changes nothing, 1 divides by the size.

    Source: Hu et al. (2026), arXiv:2601.08763. Its classes are strategies that a language model tells apart.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    return advantage * class_size**-strength


def batch_exploration(advantage: Tensor, class_size: Tensor, valid: Tensor | None = None, *, coef: float) -> Tensor:
    """Outcome-based exploration in a batch: subtract coef (class_size - 1) / n, for the n valid samples of the group.

    With independent samples and an advantage of its own expected gradient, the penalty adds the gradient of
    -coef (n - 1) / (2 n) sum_C pi(C)^2 over the classes C: of the probability that two samples have the same answer.

    Args:
        advantage: [..., G].
        class_size: [..., G] >= 1, from `core.transforms.class_sizes`.
        valid: [..., G] bool; other samples keep their advantage.
        coef: >= 0, in units of the advantage.

    Source: Song, Kempe and Munos (2025), arXiv:2509.06941.
    """
    _check_coef(coef)
    valid = _checked_valid(advantage, valid)
    count = valid.sum(-1, keepdim=True).clamp_min(1)
    return torch.where(valid, advantage - coef * (class_size - 1) / count, advantage)


def historical_exploration(
    advantage: Tensor, answer_count: Tensor, valid: Tensor | None = None, *, coef: float, baseline: float | str
) -> Tensor:
    """Outcome-based exploration over a run: add coef (b - baseline), with the bonus b = min(1, 1 / sqrt(N)).

    N is how often the sample's answer was sampled in earlier steps; it does not depend on the group. With independent
    samples, a number as baseline adds the gradient of coef E[b] to the expected gradient, whatever the number is, and
    the mean adds (n - 1)/n of it, for n valid samples.

    Args:
        advantage: [..., G].
        answer_count: [..., G] N, >= 0, from `core.answer_counts.AnswerCounts`; a new answer has b = 1.
        valid: [..., G] bool; other samples keep their advantage and do not count in the mean.
        coef: >= 0, in units of the advantage.
        baseline: a number in [0, 1], or "mean": that of the group's bonuses.

    Source: Song, Kempe and Munos (2025), arXiv:2509.06941: UCB-Con with a number, UCB-Mean with the mean.
    """
    _check_coef(coef)
    valid = _checked_valid(advantage, valid)
    bonus = answer_count.clamp_min(1).rsqrt().to(advantage.dtype)
    if baseline == MEAN:
        explored = centred(bonus, valid)
    else:
        explored = bonus - float(baseline)
    return torch.where(valid, advantage + coef * explored, advantage)


def _check_coef(coef: float) -> None:
    if coef < 0:
        raise ValueError(f"coef must be >= 0, got {coef}")


# Advantages whose expected policy gradient is exactly that of the expected reward.
UNBIASED = (no_baseline, leave_one_out)

ADVANTAGES: dict[str, Callable[..., Tensor]] = {
    "no_baseline": no_baseline,
    "centred": centred,
    "leave_one_out": leave_one_out,
    "group_normalised": group_normalised,
    "group_normalised_sample_std": group_normalised_sample_std,
    "batch_normalised": batch_normalised,
    "mean_normalised": mean_normalised,
    "max_at_k": max_at_k,
    "pass_at_k": pass_at_k,
}
BONUSES: dict[str, Callable[..., Tensor]] = {"differential_smoothing": differential_smoothing, "ucpo": ucpo}
BY_CLASS: dict[str, Callable[..., Tensor]] = {
    "uniqueness": uniqueness,
    "batch_exploration": batch_exploration,
    "historical_exploration": historical_exploration,
}
