"""The cap on the weights ref/pi of forward KL and alpha divergences that leaves the optimum where it is."""

import math

import torch
from torch import Tensor


def log_weight_cap(
    log_weight: Tensor | None,
    reward: Tensor,
    scale: float,
    reward_range: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Return a cap on the log weights of a group that leaves the optimum of E[R] - beta D where it is: [..., 1].

    Let w = u^a be the weight, a = -1 under forward KL and alpha - 1 under an alpha divergence, so that
    f'(u) = (w - 1)/a. At the optimum R - beta f'(u) is the same for all outcomes that the policy gives. Hence
    w_i - w_j = a (R_i - R_j)/beta, whatever the reference sums to. Under forward KL, averaging over the policy gives
    w = c + (E[R] - R)/beta <= c + range/beta, where c is the sum of the reference over the policy's support.

    If the reference is normalised, c = 1, and no weight exceeds 1 + |a| range/beta. After Algorithm 2 of MARA, c is
    the sum of ref', which is not known over sequences; the smallest weight of the group takes its place. It is at
    most that of the anchor, which is ref/pi of one of the policy's own completions and therefore moderate.

    The cap is twice 1 + |a| range/beta, plus that smallest weight. The margin has two reasons. A weight at the cap
    still raises an outcome above the others of its group, so no other policy with the same support becomes a fixed
    point. And no weight is cut in a group whose anchor happens to be less likely than that of other groups.

    Args:
        log_weight: [..., G] log weights of whole sequences; None: the reference is normalised.
        reward: [..., G] after the transform, with the entropy term.
        scale: |a| / beta.
        reward_range: lower bound of the range, for groups whose rewards happen to be close.
        valid: [..., G] bool.
    """
    largest = math.log(2) + torch.log1p(reward_spread(reward, valid).clamp_min(reward_range) * scale)
    if log_weight is None:
        return largest
    counted = log_weight if valid is None else log_weight.masked_fill(~valid, torch.inf)
    smallest = counted.amin(-1, keepdim=True)
    smallest = smallest.masked_fill(smallest == torch.inf, 0.0)  # no sample is valid
    return torch.logaddexp(smallest, largest)


def reward_spread(reward: Tensor, valid: Tensor | None) -> Tensor:
    """Return the highest minus the lowest valid entry of the last axis, 0 if there is none: [..., G] -> [..., 1]."""
    valid = torch.ones_like(reward, dtype=torch.bool) if valid is None else valid
    highest = reward.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True)
    lowest = reward.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    return (highest - lowest).clamp_min(0.0)
