"""Mode-anchored reward augmentation (MARA; GX-Chen et al., 2026, arXiv:2510.20817, section 5).

A sample is *good* when its reward reaches the threshold, it is valid and it lies on the reference's support.
The *anchor* of a group is the good sample that the reference finds likeliest. Samples that count in baselines
but must never be good (truncated completions) are passed with valid=False here and True to the advantages.
"""

import math

import torch
from torch import Tensor

from core.sequence import check_group


def select_anchor(
    reward: Tensor, ref_seq_logp: Tensor, threshold: float | Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The good samples of each group and the index of its anchor.

    Args:
        reward, ref_seq_logp: [..., G], one group a row; log-probabilities summed over tokens, nats.
        threshold: a float, or a tensor that broadcasts to [..., G] (see `quantile_threshold`).
        valid: [..., G] bool, False for samples that cannot be good.

    Returns:
        anchor: [..., 1] long; of equally likely good samples the best rewarded, then the first. Meaningless
            in a group with no good sample.
        good: [..., G] bool.

    Raises:
        ValueError: shapes differ, valid is not bool, or NaN where valid.
    """
    check_group(valid, reward=reward, ref_seq_logp=ref_seq_logp)
    good = (reward >= threshold) & (ref_seq_logp > -torch.inf)
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
    """Algorithm 1: good samples get R(z) + beta (log ref(z) - log ref(y)); the rest keep their reward.

    The optimum under reverse KL is constant, ref(z) exp(R(z)/beta), over the good samples. Under forward KL
    it is not: use `anchor_reference`.

    Args:
        beta: reward units per nat, > 0, the coefficient of the objective it is used with.
        Others as in `select_anchor`.

    Returns:
        [..., G] rewards; a group with no good sample is unchanged.

    Raises:
        ValueError: as in `select_anchor`, or beta is not finite and > 0 (without a KL term nothing is to be
            undone, and no target is defined).
    """
    check_mara_beta(beta)
    anchor, good = select_anchor(reward, ref_seq_logp, threshold, valid)
    gap = ref_seq_logp.gather(-1, anchor) - ref_seq_logp
    return torch.where(good, reward.gather(-1, anchor) + beta * gap, reward)


def anchor_reference(
    reward: Tensor, ref_seq_logp: Tensor, *, threshold: float | Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Algorithm 2: good samples get R(z) and log ref(z), in the reward and in the KL term.

    Its optimum is uniform over the good samples under either KL; under reverse KL it has Algorithm 1's gradient
    (appendix B.8). The KL term must take the returned log-probabilities, summed over the sequence.

    Args: as in `select_anchor`.

    Returns:
        reward, ref_seq_logp: [..., G]; a group with no good sample is unchanged. The second is no longer
        normalised.
    """
    anchor, good = select_anchor(reward, ref_seq_logp, threshold, valid)
    return (
        torch.where(good, reward.gather(-1, anchor), reward),
        torch.where(good, ref_seq_logp.gather(-1, anchor), ref_seq_logp),
    )


def quantile_threshold(reward: Tensor, q: float, floor: float | None = None, valid: Tensor | None = None) -> Tensor:
    """The q-quantile of each group's valid rewards, linearly interpolated, and at least `floor`.

    Args:
        reward: [..., G].
        q: in [0, 1].
        floor: no threshold below it; None for none.
        valid: [..., G] bool; the rest are left out.

    Returns:
        [..., 1]. A threshold that does not exceed the group's lowest reward would make every sample good
        and so say nothing: it is inf there, which leaves the group unchanged; count them with `isinf`.

    Raises:
        ValueError: q outside [0, 1], shapes differ, or NaN where valid.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must lie in [0, 1], got {q}")
    check_group(valid, reward=reward)
    kept = torch.ones_like(reward, dtype=torch.bool) if valid is None else valid
    ordered = reward.masked_fill(~kept, torch.inf).sort(-1).values
    count = kept.sum(-1, keepdim=True)
    position = q * (count - 1).clamp_min(0).to(reward.dtype)
    lower, upper = ordered.gather(-1, position.floor().long()), ordered.gather(-1, position.ceil().long())
    fraction = position - position.floor()
    threshold = torch.where(fraction > 0, lower + fraction * (upper - lower), lower)
    if floor is not None:
        threshold = threshold.clamp_min(floor)
    return threshold.masked_fill((count == 0) | (threshold <= ordered[..., :1]), torch.inf)


def check_mara_beta(beta: float) -> None:
    if not 0 < beta < math.inf:
        raise ValueError(
            f"MARA needs a finite beta > 0, got {beta}: it undoes the pull of the KL term; use identity without one"
        )
