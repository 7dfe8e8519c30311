"""Reward transforms: what a method does to the rewards of a group before the KL term is applied.

Each takes (reward, ref_seq_logp, *, beta, valid=None) and returns the pair that takes their place. Some take more
of the samples, by keyword: `INPUTS` names what.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from core.mara import anchor_reference, augment_reward, check_mara_beta, select_anchor
from core.rules import Choices, check_choices
from core.sequence import check_group

Threshold = Callable[[Tensor, Tensor | None], float | Tensor]  # (reward, valid) -> threshold


class Transformed(NamedTuple):
    """reward and ref_seq_logp, [..., G]: the KL term and the advantages use these."""

    reward: Tensor
    ref_seq_logp: Tensor


def identity(reward: Tensor, ref_seq_logp: Tensor, *, beta: float, valid: Tensor | None = None) -> Transformed:
    """Vanilla KL-regularised RL."""
    return Transformed(reward, ref_seq_logp)


def mara(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    beta: float,
    threshold: float | Tensor | Threshold,
    direction: str,
    algorithm: str | int = "auto",
    level: str = "sequence",
    valid: Tensor | None = None,
) -> Transformed:
    """Mode-anchored reward augmentation.

    Args:
        reward, ref_seq_logp: [..., G], one group a row, nats.
        beta: reward units per nat, > 0: the one now in force.
        threshold: a number, a tensor that broadcasts to [..., G], or a function of (reward, valid).
        direction: of the KL term. Algorithm 2 is uniform under reverse and forward; Algorithm 1 under reverse only.
        algorithm: 1, 2 or auto (1 under reverse, 2 under forward).
        level: of the KL term; Algorithm 2 needs "sequence", since its anchor has no tokens of its own.
        valid: [..., G] bool, False for samples that cannot be good.

    Raises:
        ValueError: a value outside its domain, or a combination without a uniform optimum.
    """
    check_mara_beta(beta)
    choices = Choices(
        direction=direction, level=level, transform="mara", algorithm=str(algorithm), threshold=True, beta=beta
    )
    check_choices(choices)
    if callable(threshold):
        threshold = threshold(reward, valid)
    if choices.mara_algorithm == 1:
        augmented = augment_reward(reward, ref_seq_logp, beta=beta, threshold=threshold, valid=valid)
        return Transformed(augmented, ref_seq_logp)
    return Transformed(*anchor_reference(reward, ref_seq_logp, threshold=threshold, valid=valid))


def unlikely(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    beta: float,
    threshold: float | Tensor | Threshold,
    strength: float,
    policy_mean_logp: Tensor,
    counted: Tensor | None = None,
    valid: Tensor | None = None,
) -> Transformed:
    """Good samples get R (1 - strength rank/G), the least likely of the group having rank 0.

    Args:
        reward, ref_seq_logp: [..., G], one group a row.
        beta: not used.
        threshold: what is good, as in `mara`.
        strength: in [0, 1], the share that the likeliest sample nearly loses.
        policy_mean_logp: [..., G] mean over tokens of log pi_old, nats. Ties share the mean of their ranks.
        counted: [..., G] bool, the samples that are ranked, G of them: also those that cannot be good.
        valid: [..., G] bool, False for samples that cannot be good.

    Source: He et al. (2025), arXiv:2506.02355.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    check_group(counted, reward=reward, policy_mean_logp=policy_mean_logp)
    if callable(threshold):
        threshold = threshold(reward, valid)
    _, good = select_anchor(reward, ref_seq_logp, threshold, valid)
    ranked = torch.ones_like(good) if counted is None else counted
    mine, others = policy_mean_logp.unsqueeze(-1), policy_mean_logp.unsqueeze(-2)
    lower = ((others < mine) & ranked.unsqueeze(-2)).sum(-1)
    tied = ((others == mine) & ranked.unsqueeze(-2)).sum(-1)
    rank = lower.to(reward.dtype) + (tied - 1) / 2
    share = rank / ranked.sum(-1, keepdim=True).clamp_min(1)
    return Transformed(torch.where(good, reward * (1 - strength * share), reward), ref_seq_logp)


def darling(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    beta: float,
    diversity: Tensor,
    counted: Tensor | None = None,
    valid: Tensor | None = None,
) -> Transformed:
    """R times a sample's diversity within its group.

    Args:
        reward, ref_seq_logp: [..., G], one group a row.
        beta, valid: not used.
        diversity: [..., G] in [0, 1], e.g. `class_diversity`.
        counted: [..., G] bool; the diversity of the rest is ignored.

    Raises:
        ValueError: a diversity outside [0, 1] where it counts.

    Source: Li et al. (2025), arXiv:2509.02534.
    """
    check_group(counted, reward=reward, diversity=diversity)
    kept = torch.ones_like(reward, dtype=torch.bool) if counted is None else counted
    outside = kept & ~((diversity >= 0) & (diversity <= 1))
    if bool(outside.any()):
        raise ValueError(f"diversity must lie in [0, 1], got {float(diversity[outside][0])}")
    return Transformed(torch.where(kept, reward * diversity, reward), ref_seq_logp)


def class_diversity(classes: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of a group's other samples that are in another equivalence class: [..., G] ids -> [..., G] in [0, 1].

    valid: [..., G] bool; the rest are nobody's others. 0 where there are no others.
    """
    kept = torch.ones_like(classes, dtype=torch.bool) if valid is None else valid
    differs = (classes.unsqueeze(-1) != classes.unsqueeze(-2)) & kept.unsqueeze(-2)
    others = kept.sum(-1, keepdim=True) - kept.long()
    share = differs.sum(-1) / others.clamp_min(1)
    return share.masked_fill(~kept, 0.0)


TRANSFORMS: dict[str, Callable[..., Transformed]] = {
    "identity": identity,
    "mara": mara,
    "unlikely": unlikely,
    "darling": darling,
}
INPUTS = {  # what a transform takes beside reward, ref_seq_logp, beta and valid
    "mara": ("threshold",),
    "unlikely": ("threshold", "policy_mean_logp", "counted"),
    "darling": ("diversity", "counted"),
}
