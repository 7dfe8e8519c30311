"""Reward transforms: what a method does to the rewards of a group before the KL term is applied.

Each takes (reward, ref_seq_logp, *, beta, valid=None) and returns the pair that takes their place.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from core.mara import anchor_reference, augment_reward, check_mara_beta

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
    if callable(threshold):
        threshold = threshold(reward, valid)
    if mara_algorithm(direction, algorithm, level) == 1:
        augmented = augment_reward(reward, ref_seq_logp, beta=beta, threshold=threshold, valid=valid)
        return Transformed(augmented, ref_seq_logp)
    return Transformed(*anchor_reference(reward, ref_seq_logp, threshold=threshold, valid=valid))


def mara_algorithm(direction: str, algorithm: str | int = "auto", level: str = "sequence") -> int:
    """1 or 2, resolved; raises ValueError for an unknown name, a direction or a level that the algorithm lacks."""
    algorithm = {"1": 1, "2": 2}.get(str(algorithm), algorithm)
    if direction not in ("reverse", "forward"):
        raise ValueError(f"MARA is defined for reverse and forward KL, got direction={direction!r}")
    if algorithm == "auto":
        algorithm = 1 if direction == "reverse" else 2
    if algorithm not in (1, 2):
        raise ValueError(f"algorithm must be auto, 1 or 2, got {algorithm!r}")
    if algorithm == 2 and level != "sequence":
        raise ValueError("MARA's Algorithm 2 replaces whole-sequence log-probabilities: it needs level=sequence")
    return int(algorithm)
