"""How beta changes over a run."""

import math


def adaptive_beta(beta: float, kl: float, kl_target: float) -> float:
    """beta for the next step, held near a KL budget: beta * (1 + .1 clip(KL / KL_target - 1, -.2, .2)).

    Args:
        beta: reward units per nat, > 0.
        kl: measured this step, nats.
        kl_target: nats, > 0.

    Source: Ziegler et al. (2019), arXiv:1909.08593, section 2.2.
    """
    if not kl_target > 0:
        raise ValueError(f"kl_target must be > 0 nats, got {kl_target}")
    if not math.isfinite(kl):
        raise ValueError(f"kl must be finite, got {kl}")
    return beta * (1 + 0.1 * min(max(kl / kl_target - 1, -0.2), 0.2))
