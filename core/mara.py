"""Mode-anchored reward augmentation, MARA (GX-Chen et al., 2026, arXiv:2510.20817, section 5).

A sample is *good* if its reward reaches the threshold, it is valid and it lies on the reference's support. A
sample that counts in baselines but is never good, such as a truncated completion, is passed as invalid here and
as valid to the advantages.

Good samples fall into *classes* that are to become equally likely. In the paper each sequence is a class of its
own, whose *mass* is its probability under the reference. A class may also be an answer, of which the reference
knows many spellings; its mass is the reference's probability of all its good sequences (`core.classes`). The
*anchor* z is the good class with the largest mass. The good samples of class c get the reward R(z) and, in the KL
term, the reference probability ref(y) mass(z) / mass(c). The optimum is then uniform over the good classes and
proportional to the reference inside each, under every strictly convex f-divergence: R(z) - beta f'(pi / ref') is
constant over the good samples only if pi / ref' is.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sequence import check_group


class Anchor(NamedTuple):
    """The anchor of each group, or of each sample; the tensors broadcast to [..., G].

    Attributes:
        reward: the reward R(z) of the anchor.
        mass_logp: the log mass of its class, nats; -inf where there is no good sample to choose it from.
    """

    reward: Tensor
    mass_logp: Tensor


FindAnchor = Callable[[Tensor, Tensor, Tensor], Anchor]  # (reward, mass_logp, good), [..., G] each -> anchor


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
    reward: Tensor,
    ref_seq_logp: Tensor,
    threshold: float | Tensor,
    valid: Tensor | None = None,
    mass_logp: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the good samples of each group and the index of its anchor.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G] under the reference, summed over tokens, nats.
        threshold: a float, or a tensor that broadcasts to [..., G] (see `quantile_threshold`).
        valid: [..., G] bool, False for samples that cannot be good.
        mass_logp: [..., G] log mass of each good sample's class, nats; None: `ref_seq_logp`, each sequence is a
            class.

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
    return _likeliest(reward, ref_seq_logp if mass_logp is None else mass_logp, good), good


def group_anchor(reward: Tensor, mass_logp: Tensor, good: Tensor) -> Anchor:
    """Anchor each group, [..., G], by its own good sample of the class with the largest mass."""
    index = _likeliest(reward, mass_logp, good)
    mass = mass_logp.gather(-1, index).masked_fill(~good.any(-1, keepdim=True), -torch.inf)
    return Anchor(reward.gather(-1, index), mass)


def cross_fitted_anchor(reward: Tensor, mass_logp: Tensor, good: Tensor) -> Anchor:
    """Anchor each half of a group by the other half, so that no sample has a part in its own anchor.

    The advantages must then be those within halves. In expectation the good samples have shares proportional to
    ref^p0 at the fixed point, p0 being the chance that the other half has no good sample: with G = 4 it is P(bad)^2.

    Raises:
        ValueError: G is odd.
    """
    if reward.shape[-1] % 2:
        raise ValueError(f"anchor=cross_fitted needs groups of even size, got {reward.shape[-1]}")
    halves = [value.unflatten(-1, (2, -1)) for value in (reward, mass_logp, good)]
    anchor = group_anchor(*halves)  # [..., 2, 1], one for each half
    other = [value.flip(-2).expand_as(halves[0]).flatten(-2) for value in anchor]
    return Anchor(*other)


def augment_reward(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    beta: float,
    threshold: float | Tensor,
    valid: Tensor | None = None,
    mass_logp: Tensor | None = None,
    find_anchor: FindAnchor = group_anchor,
) -> Tensor:
    """Algorithm 1: good samples get R(z) + beta (log mass(z) - log mass(c)); the others keep their reward.

    Over sequences the gap is log ref(z) - log ref(y), and the optimum under reverse KL is the same for all good
    samples, ref(z) exp(R(z)/beta) up to normalisation. Under forward KL it is not uniform: use `anchor_reference`.

    Args:
        reward: [..., G], one group per row.
        ref_seq_logp: [..., G] under the reference, nats.
        beta: reward units per nat, > 0; must be the coefficient of the KL term in the objective.
        threshold: as in `select_anchor`.
        valid: as in `select_anchor`.
        mass_logp: as in `select_anchor`.
        find_anchor: how the anchor is chosen.

    Returns:
        [..., G] rewards; samples without an anchor are unchanged.

    Raises:
        ValueError: as in `select_anchor`, or beta is not finite and > 0.
    """
    check_mara_beta(beta)
    anchored, anchor, gap = _anchored(reward, ref_seq_logp, threshold, valid, mass_logp, find_anchor)
    return torch.where(anchored, anchor.reward + beta * gap, reward)


def anchor_reference(
    reward: Tensor,
    ref_seq_logp: Tensor,
    *,
    threshold: float | Tensor,
    valid: Tensor | None = None,
    mass_logp: Tensor | None = None,
    find_anchor: FindAnchor = group_anchor,
) -> tuple[Tensor, Tensor]:
    """Algorithm 2: good samples get R(z) as reward and log ref(y) + log mass(z) - log mass(c) under the reference.

    Over sequences the latter is log ref(z). The optimum is uniform over the good classes under every strictly convex
    f-divergence. Under reverse KL the gradient is that of Algorithm 1 (appendix B.8). The KL term must use the
    returned log-probabilities of whole sequences. The arguments are those of `augment_reward`.

    Returns:
        reward: [..., G]; samples without an anchor are unchanged.
        ref_seq_logp: [..., G], likewise. It is no longer normalised.
    """
    anchored, anchor, gap = _anchored(reward, ref_seq_logp, threshold, valid, mass_logp, find_anchor)
    anchored_logp = (
        anchor.mass_logp if mass_logp is None else ref_seq_logp + gap
    )  # the former is exact over sequences
    return torch.where(anchored, anchor.reward, reward), torch.where(anchored, anchored_logp, ref_seq_logp)


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


def reference_quantile(reward: Tensor, ref_logp: Tensor, q: float, floor: float | None = None) -> Tensor:
    """Return the q-quantile of the reward under the reference, from all outcomes: the lowest r with P(R <= r) >= q.

    Unlike a quantile of a group's own rewards it does not follow the policy, so the target of MARA exists. It is what
    `quantile_threshold` of many completions of the reference converges to.

    Args:
        reward: [A] of all outcomes.
        ref_logp: [A] nats.
        q: in [0, 1].
        floor: lower bound; None: no bound.

    Returns:
        [1]. As in `quantile_threshold`, inf if every outcome would be good.
    """
    order = reward.argsort()
    cumulative = ref_logp[order].exp().cumsum(-1)
    index = (cumulative < q * cumulative[-1] - 1e-12).sum().clamp_max(len(reward) - 1)
    threshold = reward[order][index].reshape(1)
    if floor is not None:
        threshold = threshold.clamp_min(floor)
    return threshold.masked_fill(threshold <= reward.min(), torch.inf)


def check_mara_beta(beta: float) -> None:
    """Raise ValueError unless beta is finite and > 0; without a KL term MARA has no target."""
    if not 0 < beta < math.inf:
        raise ValueError(
            f"MARA needs a finite beta > 0, got {beta}; to train without a KL term, use identity (MARA only "
            "compensates for the KL term)"
        )


def _likeliest(reward: Tensor, mass_logp: Tensor, good: Tensor) -> Tensor:
    """[..., 1] index of the good sample with the largest mass; of equals the best rewarded, then the first."""
    mass_logp = mass_logp.masked_fill(~good, -torch.inf)
    likeliest = good & (mass_logp == mass_logp.amax(-1, keepdim=True))
    return reward.masked_fill(~likeliest, -torch.inf).argmax(-1, keepdim=True)


def _anchored(
    reward: Tensor,
    ref_seq_logp: Tensor,
    threshold: float | Tensor,
    valid: Tensor | None,
    mass_logp: Tensor | None,
    find_anchor: FindAnchor,
) -> tuple[Tensor, Anchor, Tensor]:
    """Return which samples are good and have an anchor, the anchor, and log mass(z) - log mass(c), [..., G]."""
    good = select_anchor(reward, ref_seq_logp, threshold, valid)[1]
    mass_logp = ref_seq_logp if mass_logp is None else mass_logp
    anchor = find_anchor(reward, mass_logp, good)
    anchored = good & (anchor.mass_logp > -torch.inf)
    return anchored, anchor, anchor.mass_logp - mass_logp
