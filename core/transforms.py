"""Reward transforms: how a method changes the rewards of a group before the KL term is applied.

Each takes (reward, ref_seq_logp, *, beta, valid=None) and returns the rewards and reference log-probabilities to use
instead. `INPUTS` lists the further keyword arguments that some of them take.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .classes import Masses
from .mara import (
    Anchor,
    anchor_reference,
    augment_reward,
    check_mara_beta,
    cross_fitted_anchor,
    group_anchor,
    select_anchor,
)
from .rules import Choices, check_choices
from .sequence import check_group

Threshold = Callable[[Tensor, Tensor | None], float | Tensor]  # (reward, valid) -> threshold


class Transformed(NamedTuple):
    """The reward and ref_seq_logp, [..., G], that the advantages and the KL term use."""

    reward: Tensor
    ref_seq_logp: Tensor


def identity(reward: Tensor, ref_seq_logp: Tensor, *, beta: float, valid: Tensor | None = None) -> Transformed:
    """Plain KL-regularised RL: return the inputs unchanged."""
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
    anchor: str = "group",
    masses: Masses | None = None,
    valid: Tensor | None = None,
) -> Transformed:
    """Mode-anchored reward augmentation, by Algorithm 1 or 2 (`core.mara`), over sequences or answers.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G] under the reference, nats.
        beta: the current coefficient of the KL term, reward units per nat, > 0.
        threshold: a number, a tensor that broadcasts to [..., G], or a function of (reward, valid).
        direction: of the KL term. The optimum of Algorithm 2 is uniform under every strictly convex f-divergence,
            that of Algorithm 1 under reverse KL only.
        algorithm: 1, 2 or auto (1 under reverse KL, else 2).
        level: of the KL term. Algorithm 2 needs "sequence": the anchor has no per-token log-probabilities.
        anchor: group or cross_fitted; not used where `masses` has an anchor.
        masses: of the classes; None: each sequence is a class of its own, and each group has its own anchor.
        valid: [..., G] bool, False for samples that cannot be good.

    Raises:
        ValueError: a value is outside its domain, or the combination has no uniform optimum.
    """
    check_mara_beta(beta)
    choices = Choices(
        direction=direction,
        alpha=0.5 if direction == "alpha" else None,
        level=level,
        transform="mara",
        algorithm=str(algorithm),
        threshold=True,
        beta=beta,
    )
    check_choices(choices)
    if callable(threshold):
        threshold = threshold(reward, valid)
    mass_logp, fixed = masses or (None, None)
    find_anchor = cross_fitted_anchor if anchor == "cross_fitted" else group_anchor
    if fixed is not None:
        find_anchor = partial(_fixed_anchor, fixed)
    classes: dict[str, Any] = {
        "threshold": threshold,
        "valid": valid,
        "mass_logp": mass_logp,
        "find_anchor": find_anchor,
    }
    if choices.mara_algorithm == 1:
        return Transformed(augment_reward(reward, ref_seq_logp, beta=beta, **classes), ref_seq_logp)
    return Transformed(*anchor_reference(reward, ref_seq_logp, **classes))


def _fixed_anchor(anchor: Anchor, reward: Tensor, mass_logp: Tensor, good: Tensor) -> Anchor:
    return anchor


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
    """Good samples get R (1 - strength rank/G), where the least likely sample of the group has rank 0.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G] under the reference, nats.
        beta: not used.
        threshold: lowest good reward, as in `mara`.
        strength: in [0, 1]; the likeliest of G samples loses the share strength (G-1)/G of its reward.
        policy_mean_logp: [..., G] mean over tokens of log pi_old, nats. Tied samples share the mean of their ranks.
        counted: [..., G] bool, the G samples that are ranked, including those that cannot be good.
        valid: [..., G] bool, False for samples that cannot be good.

    Source: He et al. (2025), arXiv:2506.02355.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    check_group(counted, reward=reward, policy_mean_logp=policy_mean_logp)
    good = _good_samples(reward, ref_seq_logp, threshold, valid)
    ranked = torch.ones_like(good) if counted is None else counted
    logp, other_logp = policy_mean_logp.unsqueeze(-1), policy_mean_logp.unsqueeze(-2)
    lower = ((other_logp < logp) & ranked.unsqueeze(-2)).sum(-1)
    tied = ((other_logp == logp) & ranked.unsqueeze(-2)).sum(-1)
    rank = lower.to(reward.dtype) + (tied - 1) / 2
    share = rank / ranked.sum(-1, keepdim=True).clamp_min(1)
    return Transformed(torch.where(good, reward * (1 - strength * share), reward), ref_seq_logp)


def _good_samples(
    reward: Tensor, ref_seq_logp: Tensor, threshold: float | Tensor | Threshold, valid: Tensor | None
) -> Tensor:
    """[..., G] bool, with a threshold as in `mara`."""
    return select_anchor(reward, ref_seq_logp, threshold(reward, valid) if callable(threshold) else threshold, valid)[
        1
    ]


def darling(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    beta: float,
    diversity: Tensor,
    counted: Tensor | None = None,
    valid: Tensor | None = None,
) -> Transformed:
    """Multiply the reward of each sample by its diversity within the group.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G], returned unchanged.
        beta: not used.
        diversity: [..., G] in [0, 1], e.g. `class_diversity`.
        counted: [..., G] bool; other samples keep their reward.
        valid: not used.

    Raises:
        ValueError: the diversity of a counted sample lies outside [0, 1].

    Source: Li et al. (2025), arXiv:2509.02534.
    """
    check_group(counted, reward=reward, diversity=diversity)
    counted = torch.ones_like(reward, dtype=torch.bool) if counted is None else counted
    outside = counted & ~((diversity >= 0) & (diversity <= 1))
    if bool(outside.any()):
        raise ValueError(f"diversity must lie in [0, 1], got {float(diversity[outside][0])}")
    return Transformed(torch.where(counted, reward * diversity, reward), ref_seq_logp)


def ips(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    beta: float,
    class_size: Tensor,
    counted: Tensor | None = None,
    valid: Tensor | None = None,
) -> Transformed:
    """IPS-GRPO: divide the reward of each sample by the share of the group that is in its class.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G], returned unchanged.
        beta: not used.
        class_size: [..., G] from `class_sizes`, >= 1.
        counted: [..., G] bool, the samples that a share is taken of; others keep their reward.
        valid: not used.

    Source: Sinha et al. (2026), arXiv:2601.21669. Its floor of the share is left out: no share is below 1 / G.
    """
    counted, class_size = _checked_class_size(reward, class_size, counted)
    count = counted.sum(-1, keepdim=True)
    return Transformed(torch.where(counted, reward * count / class_size, reward), ref_seq_logp)


def dra(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    beta: float,
    class_size: Tensor,
    counted: Tensor | None = None,
    valid: Tensor | None = None,
) -> Transformed:
    """DRA-GRPO: divide the reward of each sample by 1 plus its summed similarity to the others of the group.

    The sum is the graph-cut mutual information of the sample and the rest. With similarities of 0 and 1 this is `ips`
    divided by the size of the group, and with `group_normalised` the same method.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G], returned unchanged.
        beta: not used.
        class_size: [..., G], 1 plus the summed similarities, > 0.
        counted: [..., G] bool; other samples keep their reward.
        valid: not used.

    Source: Chen et al. (2025), arXiv:2505.09655.
    """
    counted, class_size = _checked_class_size(reward, class_size, counted)
    return Transformed(torch.where(counted, reward / class_size, reward), ref_seq_logp)


def gapo(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    beta: float,
    threshold: float | Tensor | Threshold,
    class_size: Tensor,
    answers: int | None = None,
    counted: Tensor | None = None,
    valid: Tensor | None = None,
) -> Transformed:
    """GAPO's frequency-aware reward: 1 - (f - 1/answers) for good samples, -1 for the others.

    f is the share of the group's good samples that are in the sample's class.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G], returned unchanged.
        beta: not used.
        threshold: lowest good reward, as in `mara`.
        class_size: [..., G] from `class_sizes`; the samples of a good sample's class must all be good.
        answers: number of good answers that there are; None: many, 1/answers is 0. It changes no difference between
            good samples.
        counted: [..., G] bool, the samples that have a class; others keep their reward.
        valid: [..., G] bool, False for samples that cannot be good.

    Source: Anschel et al. (2025), EMNLP main 1649, arXiv:2511.12596.
    """
    if answers is not None and answers < 1:
        raise ValueError(f"answers must be >= 1, got {answers}")
    counted, class_size = _checked_class_size(reward, class_size, counted)
    good = _good_samples(reward, ref_seq_logp, threshold, valid)
    good = good & counted
    share = class_size / good.sum(-1, keepdim=True).clamp_min(1)
    target = 0.0 if answers is None else 1 / answers
    changed = torch.where(good, 1 - (share - target), -torch.ones_like(reward))
    return Transformed(torch.where(counted, changed, reward), ref_seq_logp)


def class_sizes(diversity: Tensor, counted: Tensor | None = None) -> Tensor:
    """Number of a group's samples in each sample's class, itself included, from their diversity.

    With a diversity of 1 minus the mean similarity to the others, it is 1 plus the summed similarity.

    Args:
        diversity: [..., G], e.g. `class_diversity`.
        counted: [..., G] bool, the samples that the diversity is taken of; None: all.

    Returns:
        [..., G]; 1 for other samples.
    """
    counted = torch.ones_like(diversity, dtype=torch.bool) if counted is None else counted
    others = counted.sum(-1, keepdim=True) - 1
    return (1 + others * (1 - diversity)).masked_fill(~counted, 1.0)


def _checked_class_size(reward: Tensor, class_size: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check the group and return `counted`, all True if it is None, and the sizes, 1 where nothing is counted."""
    check_group(counted, reward=reward, class_size=class_size)
    counted = torch.ones_like(reward, dtype=torch.bool) if counted is None else counted
    too_small = counted & ~(class_size > 0)
    if bool(too_small.any()):
        raise ValueError(f"class_size must be > 0, got {float(class_size[too_small][0]):.4g}")
    return counted, class_size.masked_fill(~counted, 1.0)


def class_diversity(classes: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of a group's other valid samples that are in another equivalence class, in [0, 1].

    Args:
        classes: [..., G] ids of the equivalence classes.
        valid: [..., G] bool.

    Returns:
        [..., G]; 0 for an invalid sample and for the only valid sample of a group.
    """
    valid = torch.ones_like(classes, dtype=torch.bool) if valid is None else valid
    differs = (classes.unsqueeze(-1) != classes.unsqueeze(-2)) & valid.unsqueeze(-2)
    others = valid.sum(-1, keepdim=True) - valid.long()
    share = differs.sum(-1) / others.clamp_min(1)
    return share.masked_fill(~valid, 0.0)


def mean_dissimilarity(similarity: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 minus the mean similarity of each sample to a group's other valid samples.

    Args:
        similarity: [..., G, G], of each pair; the diagonal is ignored.
        valid: [..., G] bool.

    Returns:
        [..., G]; 0 for an invalid sample and for the only valid sample of a group.
    """
    size = similarity.shape[-1]
    valid = torch.ones(similarity.shape[:-1], dtype=torch.bool, device=similarity.device) if valid is None else valid
    others = valid.unsqueeze(-2) & ~torch.eye(size, dtype=torch.bool, device=similarity.device)
    total = (1 - similarity).masked_fill(~others, 0.0).sum(-1)
    return (total / others.sum(-1).clamp_min(1)).masked_fill(~valid, 0.0)


TRANSFORMS: dict[str, Callable[..., Transformed]] = {
    "identity": identity,
    "mara": mara,
    "unlikely": unlikely,
    "darling": darling,
    "ips": ips,
    "dra": dra,
    "gapo": gapo,
}
INPUT_NAMES = {"threshold", "policy_mean_logp", "counted", "diversity", "class_size", "masses"}
INPUTS = {  # keyword arguments of a transform besides beta and valid
    "mara": ("threshold",),
    "unlikely": ("threshold", "policy_mean_logp", "counted"),
    "darling": ("diversity", "counted"),
    "ips": ("class_size", "counted"),
    "dra": ("class_size", "counted"),
    "gapo": ("threshold", "class_size", "counted"),
}
