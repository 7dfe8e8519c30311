"""Exact optima of the KL-regularised objective (GX-Chen et al., 2026, arXiv:2510.20817, sections 3 and 4).

The last axis enumerates the outcomes; leading axes are batch dimensions. All computations are in float64.
"""

import math

import torch
from torch import Tensor

MAX_NEWTON_STEPS = 200  # about 20 are needed in the worst case tested


def reverse_kl_target(ref_logp: Tensor, reward: Tensor, beta: float, entropy_coef: float = 0.0) -> Tensor:
    """Optimum of E_pi[R] - beta KL(pi || ref) + entropy_coef H(pi), eq. 2.

    log G = (beta log ref + R) / (beta + entropy_coef) + constant.

    Args:
        ref_logp: [..., A] log-probabilities of the reference, nats; -inf off its support. They need not be
            normalised (after Algorithm 2 they are not): a constant offset has no effect here.
        reward: [..., A] finite.
        beta: reward units per nat, >= 0. At 0 there is no KL term, and all outcomes are allowed.
        entropy_coef: reward units per nat, >= 0; beta + entropy_coef must be > 0.

    Returns:
        [..., A] float64 log-probabilities of the optimum, -inf where it has no mass.

    Raises:
        ValueError: a value is NaN or outside its domain, shapes do not broadcast, or the support is empty.
    """
    ref_logp, reward = _as_outcomes(ref_logp, reward)
    _check_coefficient("beta", beta)
    _check_coefficient("entropy_coef", entropy_coef)
    temperature = beta + entropy_coef
    if not temperature > 0:
        raise ValueError("beta + entropy_coef must be > 0 under reverse KL; both are 0")
    if beta == 0:
        ref_logp = torch.zeros_like(ref_logp)  # every outcome is allowed, and 0 * -inf would be NaN
    # Subtract the likeliest outcome before dividing, so that large rewards over a small beta (1e3 / 1e-6) cancel.
    off_support = ref_logp == -torch.inf
    best = reward.masked_fill(off_support, -torch.inf).amax(-1, keepdim=True)
    logit = ref_logp * (beta / temperature) + (reward - best) / temperature
    pivot = logit.masked_fill(off_support, -torch.inf).argmax(-1, keepdim=True)
    ref_gap = ref_logp - ref_logp.gather(-1, pivot)
    reward_gap = reward - reward.gather(-1, pivot)
    relative = ref_gap * (beta / temperature) + reward_gap / temperature
    return relative.masked_fill(off_support, -torch.inf).log_softmax(-1)


def forward_kl_target(ref_logp: Tensor, reward: Tensor, beta: float) -> Tensor:
    """Optimum of E_pi[R] - beta KL(ref || pi): beta ref / (Lambda - R), eq. 5.

    Lambda > max R is fixed by normalisation. If the best reward is off the support of the reference and the mass
    at Lambda = max R is below 1, the outcomes with that reward share the missing mass equally (appendix B.3).

    Args:
        ref_logp: [..., A] log of the reference's mass, nats; -inf off its support. It is not normalised first: a
            reference that sums to c (after Algorithm 2) acts like a normalised one at beta * c.
        reward: [..., A] finite.
        beta: reward units per nat, > 0.

    Returns:
        [..., A] float64 log-probabilities of the optimum, -inf where it has no mass.

    Raises:
        ValueError: a value is NaN or outside its domain, shapes do not broadcast, or the support is empty.
    """
    ref_logp, reward = _as_outcomes(ref_logp, reward)
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be finite and > 0 under forward KL, got {beta}")
    log_mass = ref_logp + math.log(beta)
    supported = ref_logp > -torch.inf
    best = reward.masked_fill(~supported, -torch.inf).amax(-1, keepdim=True)
    log_gap = (best - reward).clamp_min(0.0).masked_fill(~supported, torch.inf).log()
    u = _solve_normalisation(log_mass, log_gap)
    log_target = log_mass - torch.logaddexp(u, log_gap)

    top = reward.amax(-1, keepdim=True)
    above = (top - best).clamp_min(0.0)  # > 0 if the best reward is off the support
    at_top = log_mass - torch.logaddexp(above.log(), log_gap)  # Lambda = top
    missing = 1 - at_top.exp().sum(-1, keepdim=True)
    maximiser = reward == top
    share = missing.clamp_min(0.0).log() - maximiser.sum(-1, keepdim=True).double().log()
    capped = (above > 0) & (missing > 0)
    return torch.where(capped, torch.where(maximiser, share, at_top), log_target)


def reverse_log_ratio(
    ref_logp_a: Tensor | float,
    ref_logp_b: Tensor | float,
    reward_a: Tensor | float,
    reward_b: Tensor | float,
    beta: float,
    entropy_coef: float = 0.0,
) -> Tensor:
    """log G(a)/G(b) at the optimum under reverse KL, nats, eq. 7. Mode collapse follows from this equation.

    Elementwise over broadcast arguments, whose domains are those of `reverse_kl_target`; a and b are on the support.
    """
    _check_coefficient("beta", beta)
    _check_coefficient("entropy_coef", entropy_coef)
    if not beta + entropy_coef > 0:
        raise ValueError("beta + entropy_coef must be > 0 under reverse KL; both are 0")
    ref_gap = _float64(ref_logp_a) - _float64(ref_logp_b)
    reward_gap = _float64(reward_a) - _float64(reward_b)
    return (beta * ref_gap + reward_gap) / (beta + entropy_coef)


def reverse_crossover_beta(
    ref_logp_a: Tensor | float, ref_logp_b: Tensor | float, reward_a: Tensor | float, reward_b: Tensor | float
) -> Tensor:
    """Return the beta > 0 at which two samples are equally likely under the reverse-KL optimum, eq. 10.

    It solves R(b) - R(a) = beta (log ref(a) - log ref(b)), elementwise over broadcast arguments.

    Returns:
        float64; inf where no finite beta > 0 makes them equal: one sample has both the higher reward and the higher
        reference probability, only the rewards differ, or one sample is off the support. 0 where the rewards are
        equal: the ratio is then that of the reference at every beta (remark 4.3).
    """
    ref_gap = _float64(ref_logp_a) - _float64(ref_logp_b)
    reward_gap = _float64(reward_b) - _float64(reward_a)
    ref_gap, reward_gap = torch.broadcast_tensors(ref_gap, reward_gap)
    solvable = (ref_gap * reward_gap > 0) & ref_gap.isfinite()
    crossover = torch.where(solvable, reward_gap / torch.where(solvable, ref_gap, 1.0), torch.inf)
    return torch.where(reward_gap == 0, 0.0, crossover)


def forward_crossover_beta(ref_logp: Tensor, reward: Tensor, a: int, b: int) -> Tensor:
    """Return the beta > 0 at which outcomes a and b are equally likely under the forward-KL optimum.

    They are when ref_a (Lambda - R_b) = ref_b (Lambda - R_a). This fixes Lambda and with it
    beta = 1 / sum_i ref_i / (Lambda - R_i), which, unlike under reverse KL, depends on the whole reference.

    Args:
        ref_logp: [..., A] as in `forward_kl_target`.
        reward: [..., A] as in `forward_kl_target`.
        a: index on the last axis of an outcome on the support.
        b: likewise.

    Returns:
        [...] float64; inf where no finite beta > 0 makes them equal, and 0 where the rewards are equal.

    Raises:
        ValueError: as in `forward_kl_target`, or a or b is off the support.
    """
    ref_logp, reward = _as_outcomes(ref_logp, reward)
    supported = ref_logp > -torch.inf
    for outcome in (a, b):
        if not bool(supported[..., outcome].all()):
            raise ValueError(f"outcome {outcome} must be on the support of the reference, got ref_logp = -inf")
    ref_gap = ref_logp[..., a] - ref_logp[..., b]
    reward_gap = reward[..., b] - reward[..., a]
    solvable = ref_gap * reward_gap > 0
    # Lambda - R of the outcome with the higher reward; solves ref_a (Lambda - R_b) = ref_b (Lambda - R_a).
    excess = reward_gap.abs() / torch.expm1(torch.where(solvable, ref_gap.abs(), 1.0))
    level = torch.maximum(reward[..., a], reward[..., b])
    slack = excess.unsqueeze(-1) + (level.unsqueeze(-1) - reward)  # [..., A], Lambda - R
    # Lambda exceeds every reward on the support and is at least the highest reward off it (appendix B.3).
    reachable = solvable & torch.where(supported, slack > 0, slack >= 0).all(-1)
    log_beta = -(ref_logp - slack.masked_fill(~supported | (slack <= 0), 1.0).log()).logsumexp(-1)
    crossover = torch.where(reachable, log_beta.exp(), torch.inf)
    return torch.where(reward_gap == 0, 0.0, crossover)


def _solve_normalisation(log_mass: Tensor, log_gap: Tensor) -> Tensor:
    """Return u = log(Lambda - max R) such that Z = sum_i exp(log_mass_i) / (e^u + gap_i) = 1: [..., A] -> [..., 1].

    Newton's method on 1/Z(x) with x = e^u. 1/Z is increasing and concave, so iterates that start left of the root
    stay left of it and converge without a bracket. Working in logs avoids underflow.
    """
    at_best = log_gap == -torch.inf
    floor = torch.where(at_best, log_mass, -torch.inf).logsumexp(-1, keepdim=True)
    single = torch.where(log_mass > log_gap, log_mass + torch.log1p(-(log_gap - log_mass).exp()), -torch.inf)
    u = torch.maximum(floor, single.amax(-1, keepdim=True))  # both are lower bounds of the root
    for _ in range(MAX_NEWTON_STEPS):
        log_slack = torch.logaddexp(u, log_gap)
        log_term = log_mass - log_slack
        total = log_term.exp().sum(-1, keepdim=True)  # Z, between 1 and A, since no term exceeds 1
        log_slope = (log_term - log_slack).logsumexp(-1, keepdim=True) + u  # log(-x Z')
        log_step = total.log() + (total - 1).clamp_min(0.0).log() - log_slope  # log of the Newton step divided by x
        step = torch.logaddexp(log_step, torch.zeros_like(log_step))
        u = u + step
        if bool((step <= 4e-16 * u.abs().clamp_min(1.0)).all()):
            return u
    raise RuntimeError(f"the forward-KL normalisation did not converge in {MAX_NEWTON_STEPS} steps")


def _as_outcomes(ref_logp: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
    """Check the arguments and return them broadcast, in float64."""
    ref_logp, reward = _float64(ref_logp), _float64(reward)
    if ref_logp.dim() == 0 or reward.dim() == 0:
        raise ValueError("ref_logp and reward need an axis of outcomes, got a scalar")
    if ref_logp.shape[-1] != reward.shape[-1] or ref_logp.shape[-1] == 0:
        raise ValueError(
            "ref_logp and reward must have the same number of outcomes, at least one: "
            f"ref_logp {tuple(ref_logp.shape)}, reward {tuple(reward.shape)}"
        )
    if bool((ref_logp.isnan() | (ref_logp == torch.inf)).any()):
        raise ValueError("ref_logp must be finite or -inf, got NaN or +inf")
    if not bool(reward.isfinite().all()):
        raise ValueError("reward must be finite, got NaN or infinity")
    if not bool((ref_logp > -torch.inf).any(-1).all()):
        raise ValueError("ref_logp has no outcome on its support (all -inf)")
    try:
        ref_logp, reward = torch.broadcast_tensors(ref_logp, reward)
    except RuntimeError:
        raise ValueError(
            f"shapes do not broadcast: ref_logp {tuple(ref_logp.shape)}, reward {tuple(reward.shape)}"
        ) from None
    return ref_logp, reward


def _check_coefficient(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {value}")


def _float64(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)  # dtype here, since a Python float would become float32 first
