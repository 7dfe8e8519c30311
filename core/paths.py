"""Policies between the reference and the optimum, by the exact policy gradient on enumerated outcomes.

The optimum does not say what a run passes through. The gradient of a logit has the policy's probability as a factor,
so that of two outcomes with the same advantage the likelier one gains on the other, and policies on the way can be
narrower than both ends.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def policy_gradient_path(
    ref_logp: Tensor,
    reward: Tensor | Callable[[float], Tensor],
    betas: Sequence[float],
    *,
    entropy_coef: float = 0.0,
    step: float = 0.1,
) -> Tensor:
    """Ascend E_pi[R] - beta KL(pi || ref) + entropy_coef H(pi) from pi = ref, with a logit for each outcome.

    The gradient is exact: pi (A - E_pi[A]), where A = R - beta log(pi / ref) - entropy_coef log pi. Each step is
    scaled so that the logit that moves most moves by `step`. This changes how long the path takes and, for small
    steps, not which policies are on it.

    Args:
        ref_logp: [A] log-probabilities of the reference, nats; -inf off its support, where the policy stays.
        reward: [A] finite; or a function of beta that returns it, since MARA's reward depends on beta.
        betas: beta of each step, reward units per nat, > 0.
        entropy_coef: reward units per nat, >= 0.
        step: nats.

    Returns:
        [len(betas) + 1, A] float64 log-probabilities, those of the reference first.

    Raises:
        ValueError: a beta is not positive.
    """
    if not all(beta > 0 for beta in betas):
        raise ValueError(f"betas must be > 0, got {min(betas)}")
    on_support = ref_logp > -torch.inf
    ref = ref_logp[on_support].double().log_softmax(-1)
    path = torch.full((len(betas) + 1, len(ref_logp)), -torch.inf, dtype=torch.float64)
    path[0, on_support] = logp = ref
    for row, beta in enumerate(betas, start=1):
        current = (reward(beta) if callable(reward) else reward)[on_support].double()
        advantage = current + beta * (ref - logp) - entropy_coef * logp
        policy = logp.exp()
        gradient = policy * (advantage - policy @ advantage)
        largest = gradient.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        logp = (logp + step * gradient / largest).log_softmax(-1)
        path[row, on_support] = logp
    return path
