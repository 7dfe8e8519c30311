"""Advantages: rewards of a group, KL already subtracted, less a baseline.

All take reward [..., G] and valid [..., G] bool (None: all), and return [..., G]. An invalid sample has
advantage 0 and is in no baseline or standard deviation; what its reward holds (NaN included) is ignored.
NaN where valid is an error.
"""

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


def tied_groups(reward: Tensor, valid: Tensor | None = None) -> Tensor:
    """True where all valid rewards of a group are equal, also where none is valid: [..., G] -> [..., 1] bool."""
    kept = _valid(reward, valid)
    highest = reward.masked_fill(~kept, -torch.inf).amax(-1, keepdim=True)
    lowest = reward.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
    return highest <= lowest


def _valid(reward: Tensor, valid: Tensor | None) -> Tensor:
    check_group(valid, reward=reward)
    return torch.ones_like(reward, dtype=torch.bool) if valid is None else valid


ADVANTAGES = {
    "no_baseline": no_baseline,
    "centred": centred,
    "leave_one_out": leave_one_out,
    "group_normalised": group_normalised,
}
