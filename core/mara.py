"""Mode-anchored reward augmentation (MARA; GX-Chen et al., 2026, arXiv:2510.20817, section 5).

A sample is *good* if its reward reaches the threshold, it is valid and it lies on the reference's support. The
*anchor* z of a group is its good sample with the highest probability under the reference. A sample that counts in
baselines but is never good, such as a truncated completion, is passed as invalid here and as valid to the advantages.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from core.sequence import check_group


def reaches(value: Tensor | Sequence[float] | float, threshold: Tensor | float) -> Tensor:
    """Whether rewards or scores are at least a threshold: the only such comparison, for tensors and for lists.

    A reward of exactly .7 is .69999999 once it has been held in float32, so it is compared with a threshold of .7 in
    float32, from a list of Python floats too. The comparison is in the lower precision of the two, in which a Python
    float counts as float32. Hence two float64 tensors are compared in float64.

    Args:
        value: [...] rewards.
        threshold: a float, or a tensor that broadcasts to [...].

    Returns:
        [...] bool; False for NaN.
    """
    value, threshold = _same_precision(value, threshold)
    return value >= threshold


def exceeds(value: Tensor | Sequence[float] | float, threshold: Tensor | float) -> Tensor:
    """Whether rewards or scores are above a threshold, compared as in `reaches`."""
    value, threshold = _same_precision(value, threshold)
    return value > threshold


def _same_precision(value: Tensor | Sequence[float] | float, threshold: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return both as tensors in the lower precision of the two; what is not a floating-point tensor is float32."""
    tensors = [
        x if isinstance(x, Tensor) and x.is_floating_point() else torch.as_tensor(x, dtype=torch.float32)
        for x in (value, threshold)
    ]
    dtype = min((x.dtype for x in tensors), key=lambda dtype: torch.finfo(dtype).bits)
    value, threshold = (x.to(dtype=dtype, device=tensors[0].device) for x in tensors)
    return value, threshold


def select_anchor(
    reward: Tensor, ref_seq_logp: Tensor, threshold: float | Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the good samples of each group and the index of its anchor.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G] under the reference, summed over tokens, nats.
        threshold: a float, or a tensor that broadcasts to [..., G] (see `quantile_threshold`).
        valid: [..., G] bool, False for samples that cannot be good.

    Returns:
        anchor: [..., 1] long. Of equally likely good samples, the one with the highest reward, then the first.
            Meaningless in a group without good samples.
        good: [..., G] bool.

    Raises:
        ValueError: shapes differ, valid is not bool, or a valid entry is NaN.
    """
    check_group(valid, reward=reward, ref_seq_logp=ref_seq_logp)
    good = reaches(reward, threshold) & (ref_seq_logp > -torch.inf)
    if valid is not None:
        good &= valid
    logp = ref_seq_logp.masked_fill(~good, -torch.inf)
    likeliest = good & (logp == logp.amax(-1, keepdim=True))
    return reward.masked_fill(~likeliest, -torch.inf).argmax(-1, keepdim=True), good


def augment_reward(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    beta: float,
    threshold: float | Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """Algorithm 1: good samples get R(z) + beta (log ref(z) - log ref(y)); the others keep their reward.

    The optimum under reverse KL is the same for all good samples, ref(z) exp(R(z)/beta) up to normalisation. Under
    forward KL it is not uniform: use `anchor_reference`.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G] under the reference, nats.
        beta: reward units per nat, > 0; must be the coefficient of the KL term in the objective.
        threshold: as in `select_anchor`.
        valid: as in `select_anchor`.

    Returns:
        [..., G] rewards; a group without good samples is unchanged.

    Raises:
        ValueError: as in `select_anchor`, or beta is not finite and > 0.
    """
    check_mara_beta(beta)
    anchor, good = select_anchor(reward, ref_seq_logp, threshold, valid)
    gap = ref_seq_logp.gather(-1, anchor) - ref_seq_logp
    return torch.where(good, reward.gather(-1, anchor) + beta * gap, reward)


def anchor_reference(
    reward: Tensor, ref_seq_logp: Tensor, *, threshold: float | Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Algorithm 2: good samples get R(z) as reward and log ref(z) as log-probability under the reference.

    The optimum is uniform over the good samples under reverse and forward KL. Under reverse KL the gradient is that
    of Algorithm 1 (appendix B.8). The KL term must use the returned log-probabilities of whole sequences. The
    arguments are those of `select_anchor`.

    Returns:
        reward: [..., G]; a group without good samples is unchanged.
        ref_seq_logp: [..., G], likewise. It is no longer normalised.
    """
    anchor, good = select_anchor(reward, ref_seq_logp, threshold, valid)
    return (
        torch.where(good, reward.gather(-1, anchor), reward),
        torch.where(good, ref_seq_logp.gather(-1, anchor), ref_seq_logp),
    )


def quantile_threshold(reward: Tensor, q: float, floor: float | None = None, valid: Tensor | None = None) -> Tensor:
    """Return the q-quantile of each group's valid rewards, linearly interpolated, or `floor` if that is higher.

    Args:
        reward: [..., G].
        q: in [0, 1].
        floor: lower bound of the threshold; None: no bound.
        valid: [..., G] bool; other samples are ignored.

    Returns:
        [..., 1]. A threshold at or below the group's lowest reward would make every sample good. It is replaced by
        inf, which leaves the group unchanged; count such groups with `isinf`.

    Raises:
        ValueError: q lies outside [0, 1], shapes differ, or a valid entry is NaN.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must lie in [0, 1], got {q}")
    check_group(valid, reward=reward)
    valid = torch.ones_like(reward, dtype=torch.bool) if valid is None else valid
    ordered = reward.masked_fill(~valid, torch.inf).sort(-1).values
    count = valid.sum(-1, keepdim=True)
    position = q * (count - 1).clamp_min(0).double()  # in float32, .6 * 25 is above 15
    nearest = position.round()
    position = torch.where((position - nearest).abs() < 1e-9, nearest, position)  # in float64, .07 * 100 is above 7
    lower, upper = ordered.gather(-1, position.floor().long()), ordered.gather(-1, position.ceil().long())
    fraction = (position - position.floor()).to(reward.dtype)
    threshold = torch.where(fraction > 0, lower + fraction * (upper - lower), lower)
    if floor is not None:
        threshold = threshold.clamp_min(floor)
    return threshold.masked_fill((count == 0) | (threshold <= ordered[..., :1]), torch.inf)


def check_mara_beta(beta: float) -> None:
    """Raise ValueError unless beta is finite and > 0; without a KL term MARA has no target."""
    if not 0 < beta < math.inf:
        raise ValueError(
            f"MARA needs a finite beta > 0, got {beta}; to train without a KL term, use identity (MARA only "
            "compensates for the KL term)"
        )
