"""Divergences between policy and reference: one function per divergence and place in the objective.

Let u = pi / ref and D_f = E_ref[f(u)]. Then grad D_f = E_pi[f'(u) grad log pi], which gives these functions:

- `*_reward`: f'(u), detached. Subtract it, times beta, from the reward of a policy gradient.
- `*_loss`: g(u) with u g'(u) = f'(u), differentiable. Add it, times beta, to the loss.
- `*_from_reference`: f(u), differentiable. Add it, times beta, to the loss on completions sampled from the reference,
  which need no importance weight. For whole sequences only.
- `exact_*`: the divergence itself, summed over all outcomes on the last axis.
- `*_value`: an estimate of the divergence for logging. It differs from both `*_reward` and `*_loss`.

Weights. f'(u) of the forward KL and of the alpha divergences holds a power of u, the *weight*: ref / pi under forward
KL, u^(alpha-1) otherwise. Over sequences of tokens it is the exponential of a sum, and can have any size. Functions
with such a weight take `max_log_weight`, a cap on its logarithm; `core.objective` says which cap leaves the optimum
where it is.

Level. Without `mask`, the arguments are log-probabilities of whole sequences and the divergence is between the
distributions of sequences. With `mask`, they are per token, [..., T], time last, and the divergence is sum_t D_t at
prefixes drawn from the policy, whose distribution is held fixed: the term of a token affects that token only. This is
another objective with another optimum; the paper's targets and MARA's guarantee hold per sequence.

Off-policy. With `behaviour_logp`, the log-probabilities under the policy that sampled the completions, each term is
multiplied by the detached weight pi / pi_behaviour of the sequence, or of the prefix up to and including the token.

Source: GX-Chen et al. (2026), arXiv:2510.20817; f-divergence gradients: Go et al. (2023), arXiv:2302.08215.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .extension import find_part

# --- in the reward: detached f'(u) -----------------------------------------------------------------------


def reverse_kl_reward(
    policy_logp: Tensor, ref_logp: Tensor, *, behaviour_logp: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """KL(pi || ref) in the reward: log u, nats, no gradient (f' without its constant 1).

    Args:
        policy_logp: [...] of whole sequences, or [..., T] per token with `mask`; nats.
        ref_logp: same shape, under the reference.
        behaviour_logp: same shape, under the policy that sampled the completions; None: `policy_logp`.
        mask: [..., T] bool, True on completion tokens including EOS.

    Returns:
        The same shape, 0 where mask is False. Its mean over on-policy samples is KL(pi || ref).

    Raises:
        ValueError: shapes differ, or mask is not bool.
    """
    log_u, log_weight = _log_ratio_and_weight(policy_logp.detach(), ref_logp, behaviour_logp, mask)
    return _zero_masked(log_weight.exp() * log_u, mask)


def forward_kl_reward(
    policy_logp: Tensor,
    ref_logp: Tensor,
    *,
    behaviour_logp: Tensor | None = None,
    mask: Tensor | None = None,
    max_log_weight: Tensor | float = math.inf,
) -> Tensor:
    """KL(ref || pi) in the reward: -1/u, no gradient. Other arguments as in `reverse_kl_reward`.

    `max_log_weight` caps log(1/u), or log(ref / pi_behaviour) off-policy, nats. It may be a tensor that broadcasts.

    With `behaviour_logp=ref_logp` (completions sampled from the reference) the value of a sequence is -1.
    """
    log_u, log_weight = _log_ratio_and_weight(policy_logp.detach(), ref_logp, behaviour_logp, mask)
    return _zero_masked(-_capped(log_weight - log_u, max_log_weight).exp(), mask)


def jensen_shannon_reward(
    policy_logp: Tensor, ref_logp: Tensor, *, behaviour_logp: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """JS(pi, ref) in the reward: log(2u / (1 + u)) / 2, no gradient. Arguments as in `reverse_kl_reward`.

    JS = KL(pi || m)/2 + KL(ref || m)/2 with m = (pi + ref)/2, at most log 2.
    """
    log_u, log_weight = _log_ratio_and_weight(policy_logp.detach(), ref_logp, behaviour_logp, mask)
    return _zero_masked(log_weight.exp() * (math.log(2) - softplus(-log_u)) / 2, mask)


def alpha_reward(
    policy_logp: Tensor,
    ref_logp: Tensor,
    *,
    alpha: float,
    behaviour_logp: Tensor | None = None,
    mask: Tensor | None = None,
    max_log_weight: Tensor | float = math.inf,
) -> Tensor:
    """Alpha divergence in the reward: (u^(alpha-1) - 1) / (alpha - 1), no gradient.

    D_alpha = (E_ref[u^alpha] - 1) / (alpha (alpha - 1)): it tends to the reverse KL as alpha -> 1 and to the
    forward KL as alpha -> 0, which have their own functions. `max_log_weight` caps (alpha-1) log u, nats. Other
    arguments as in `reverse_kl_reward`.
    """
    _check_alpha(alpha)
    log_u, log_weight = _log_ratio_and_weight(policy_logp.detach(), ref_logp, behaviour_logp, mask)
    power = _capped((alpha - 1) * log_u, max_log_weight)
    return _zero_masked(log_weight.exp() * torch.expm1(power) / (alpha - 1), mask)


def entropy_reward(
    policy_logp: Tensor, *, behaviour_logp: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Entropy H(pi) in the reward: -log pi, nats, no gradient. Add it, times its coefficient, to the reward."""
    zero = torch.zeros_like(policy_logp)
    return -reverse_kl_reward(policy_logp, zero, behaviour_logp=behaviour_logp, mask=mask)


# --- in the loss: differentiable g(u), u g'(u) = f'(u) ----------------------------------------------------


def reverse_kl_loss(
    policy_logp: Tensor, ref_logp: Tensor, *, behaviour_logp: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """KL(pi || ref) in the loss: k2 = (log u)^2 / 2, with gradient. Arguments as in `reverse_kl_reward`.

    Its expected gradient is that of the divergence, but its mean is not the divergence. (The expected gradient of
    log u itself, "k1", is 0.)
    """
    log_u, log_weight = _log_ratio_and_weight(policy_logp, ref_logp, behaviour_logp, mask)
    return _zero_masked(log_weight.exp() * log_u.square() / 2, mask)


def forward_kl_loss(
    policy_logp: Tensor,
    ref_logp: Tensor,
    *,
    behaviour_logp: Tensor | None = None,
    mask: Tensor | None = None,
    max_log_weight: Tensor | float = math.inf,
) -> Tensor:
    """KL(ref || pi) in the loss: 1/u + log u - 1, with gradient. Arguments as in `forward_kl_reward`.

    This is "k3": its mean is KL(pi || ref), but its expected gradient is that of KL(ref || pi). Where log(1/u) is
    above `max_log_weight`, 1/u is continued by its tangent, so that the weight in the gradient is the capped one.
    """
    log_u, log_weight = _log_ratio_and_weight(policy_logp, ref_logp, behaviour_logp, mask)
    return _zero_masked(log_weight.exp() * (_expm1_with_tangent(-log_u, max_log_weight) + log_u), mask)


def alpha_loss(
    policy_logp: Tensor,
    ref_logp: Tensor,
    *,
    alpha: float,
    behaviour_logp: Tensor | None = None,
    mask: Tensor | None = None,
    max_log_weight: Tensor | float = math.inf,
) -> Tensor:
    """Alpha divergence in the loss, with gradient. Arguments as in `alpha_reward`.

    g(u) = (u^(alpha-1) - 1) / (alpha-1)^2 - log u / (alpha-1). Where (alpha-1) log u exceeds `max_log_weight`, the
    power of u is continued by its tangent, as in `forward_kl_loss`.
    """
    _check_alpha(alpha)
    log_u, log_weight = _log_ratio_and_weight(policy_logp, ref_logp, behaviour_logp, mask)
    power = _expm1_with_tangent((alpha - 1) * log_u, max_log_weight) / (alpha - 1)
    return _zero_masked(log_weight.exp() * (power - log_u) / (alpha - 1), mask)


# --- exact, from all outcomes on the last axis ------------------------------------------------------------


def exact_reverse_kl(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    """sum_y pi (log pi - log ref), nats, with gradient: [..., A] -> [...]. inf if pi leaves the support of ref."""
    return _expectation(policy_logp, policy_logp - ref_logp)


def exact_forward_kl(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    """sum_y ref (log ref - log pi), nats, with gradient: [..., A] -> [...]. `ref_logp` may be unnormalised."""
    return _expectation(ref_logp, ref_logp - policy_logp)


def exact_jensen_shannon(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    """KL(pi || m)/2 + KL(ref || m)/2, m = (pi + ref)/2, nats, with gradient: [..., A] -> [...]."""
    both_off = _off_both_supports(policy_logp, ref_logp)
    log_sum = torch.logaddexp(policy_logp.masked_fill(both_off, 0.0), ref_logp.masked_fill(both_off, 0.0))
    mixture = log_sum - math.log(2)
    return (_expectation(policy_logp, policy_logp - mixture) + _expectation(ref_logp, ref_logp - mixture)) / 2


def exact_alpha(policy_logp: Tensor, ref_logp: Tensor, *, alpha: float) -> Tensor:
    """(sum_y pi^alpha ref^(1-alpha) - 1) / (alpha (alpha - 1)), with gradient: [..., A] -> [...]."""
    _check_alpha(alpha)
    log_power = alpha * policy_logp + (1 - alpha) * ref_logp
    log_power = log_power.masked_fill(_off_both_supports(policy_logp, ref_logp), -torch.inf)  # else inf - inf
    return torch.expm1(log_power.logsumexp(-1)) / (alpha * (alpha - 1))


# --- in the loss, on completions of the reference: f(u), whose mean is the divergence --------------------


def reverse_kl_from_reference(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    """u log u, nats, with gradient; its mean over completions of the reference is KL(pi || ref).

    Args:
        policy_logp: [...] of whole sequences sampled from the reference, nats.
        ref_logp: [...] of the same sequences under the reference, nats.
    """
    log_u = policy_logp - ref_logp.detach()
    return log_u.exp() * log_u


def forward_kl_from_reference(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    """-log u, nats, with gradient -grad log pi, so no weight can explode.

    Arguments as in `reverse_kl_from_reference`.
    """
    return ref_logp.detach() - policy_logp


def jensen_shannon_from_reference(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    """[u log(2u/(1+u)) + log(2/(1+u))]/2, nats, with gradient. Arguments as in `reverse_kl_from_reference`."""
    log_u, log_2 = policy_logp - ref_logp.detach(), math.log(2)
    return (log_u.exp() * (log_2 - softplus(-log_u)) + log_2 - softplus(log_u)) / 2


def alpha_from_reference(policy_logp: Tensor, ref_logp: Tensor, *, alpha: float) -> Tensor:
    """(u^alpha - 1) / (alpha (alpha - 1)), with gradient. Arguments as in `reverse_kl_from_reference`."""
    _check_alpha(alpha)
    return torch.expm1(alpha * (policy_logp - ref_logp.detach())) / (alpha * (alpha - 1))


# --- values, for logging ----------------------------------------------------------------------------------


def reverse_kl_value(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    """log u ("k1"), nats, no gradient; its mean over policy samples is KL(pi || ref). It may be negative."""
    return policy_logp.detach() - ref_logp.detach()


def forward_kl_value(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    """1 - (1 + log u)/u, nats, >= 0, no gradient; its mean over policy samples is KL(ref || pi).

    Once the policy has left the reference, no sample has a weight 1/u worth mentioning, and the value is 1 whatever
    the divergence is. Measure it on completions of the reference instead (`forward_kl_from_reference`).
    """
    log_u = policy_logp.detach() - ref_logp.detach()
    return 1 - (1 + log_u) * (-log_u).exp()


def jensen_shannon_value(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    """[log(2u/(1+u)) + log(2/(1+u))/u]/2, nats, no gradient; its mean over policy samples is JS(pi, ref).

    Once the policy has left the reference it is log(2)/2, half of the divergence; `from_both` measures all of it.
    """
    log_u = policy_logp.detach() - ref_logp.detach()
    log_2 = math.log(2)
    return (log_2 - softplus(-log_u) + (log_2 - softplus(log_u)) * (-log_u).exp()) / 2


def alpha_value(policy_logp: Tensor, ref_logp: Tensor, *, alpha: float) -> Tensor:
    """(u^(alpha-1) - alpha - (1-alpha)/u) / (alpha (alpha-1)), >= 0, no gradient.

    Its mean over policy samples is D_alpha. Once the policy has left the reference it is 1/(1-alpha) for alpha < 1,
    the share alpha of the divergence; `from_both` measures all of it.
    """
    _check_alpha(alpha)
    log_u = policy_logp.detach() - ref_logp.detach()
    return (((alpha - 1) * log_u).exp() - alpha - (1 - alpha) * (-log_u).exp()) / (alpha * (alpha - 1))


def from_both(
    term: "Term", policy_samples: tuple[Tensor, Tensor], reference_samples: tuple[Tensor, Tensor]
) -> Tensor:
    """D_f from samples of the policy and of the reference, with weights of at most 1: scalar, no gradient.

    D_f = E_pi[f(u)/(1+u)] + E_ref[f(u)/(1+u)], the estimate from the mixture of both (the balance heuristic).

    Args:
        term: f(u), a `*_from_reference` function.
        policy_samples: log-probabilities [...] under policy and reference of completions of the policy, nats.
        reference_samples: the same of completions of the reference.

    Source: Veach and Guibas (1995), optimally combining sampling techniques for Monte Carlo rendering.
    """
    halves = []
    for policy_logp, ref_logp in (policy_samples, reference_samples):
        log_u = (policy_logp.detach() - ref_logp.detach()).double().clamp(max=MAX_LOG_RATIO)
        halves.append((term(log_u, torch.zeros_like(log_u)) * torch.sigmoid(-log_u)).mean())
    return halves[0] + halves[1]


# --- the registry -------------------------------------------------------------------------------------------

Term = Callable[..., Tensor]
MAX_LOG_RATIO = 350.0  # of `from_both`: u^2 is still finite in float64
PLACEMENTS = ("reward", "loss", "reference", "exact")


@dataclass(frozen=True)
class Divergence:
    """The functions of one divergence, one for each place in the objective; None where it cannot be used.

    Attributes:
        name: its value is logged as `kl/NAME_nats`.
        value: estimate from samples of the policy, for logging.
        reward: detached term of the reward.
        loss: differentiable term of the loss.
        reference: differentiable term of the loss, on completions of the reference.
        exact: the divergence, from all outcomes on the last axis.
        options: keyword arguments of all these functions; they are fields of `core.objective.Objective`.
        weight_power: the power of u in f'(u), as a function of the options, if `reward` and `loss` hold it as a
            weight and take `max_log_weight`; None if there is nothing to cap.
    """

    name: str
    value: Term
    reward: Term | None = None
    loss: Term | None = None
    reference: Term | None = None
    exact: Term | None = None
    options: tuple[str, ...] = ()
    weight_power: Callable[..., float] | None = None

    def form(self, placement: str) -> Term:
        """Return the function for a place in the objective: reward, loss, reference or exact.

        Raises:
            ValueError: there is no such place, or the divergence cannot be used there.
        """
        if placement not in PLACEMENTS:
            raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, got {placement!r}")
        term: Term | None = getattr(self, placement)
        if term is None:
            available = [place for place in PLACEMENTS if getattr(self, place) is not None]
            raise ValueError(f"the divergence {self.name} has no {placement} form; use {' or '.join(available)}")
        return term


def f_divergence(
    name: str,
    f: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    *,
    surrogate: Callable[[Tensor], Tensor] | None = None,
    exact: Term | None = None,
) -> Divergence:
    """The divergence D = E_ref[f(u)], u = pi / ref, from functions of log u.

    Args:
        name: in the name of its metric, `kl/NAME_nats`.
        f: log u -> f(u), convex with f(1) = 0 and, for a value that is nonnegative at each sample, f'(1) = 0.
        derivative: log u -> f'(u), used in the reward.
        surrogate: log u -> g(u) with u g'(u) = f'(u), used in the loss; None: the divergence has no loss form.
        exact: (policy_logp, ref_logp), all outcomes on the last axis -> D. None: E_ref[f(u)], which is correct if
            every outcome has a positive probability under the reference.

    Returns:
        A record whose functions take the arguments of `reverse_kl_reward` and its like.
    """

    def reward(
        policy_logp: Tensor, ref_logp: Tensor, *, behaviour_logp: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        log_u, log_weight = _log_ratio_and_weight(policy_logp.detach(), ref_logp, behaviour_logp, mask)
        return _zero_masked(log_weight.exp() * derivative(log_u), mask)

    def loss(
        policy_logp: Tensor, ref_logp: Tensor, *, behaviour_logp: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        assert surrogate is not None
        log_u, log_weight = _log_ratio_and_weight(policy_logp, ref_logp, behaviour_logp, mask)
        return _zero_masked(log_weight.exp() * surrogate(log_u), mask)

    def value(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
        log_u = policy_logp.detach() - ref_logp.detach()
        return (-log_u).exp() * f(log_u)

    def on_reference(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
        return f(policy_logp - ref_logp.detach())

    def expectation(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
        return _expectation(ref_logp, f(policy_logp - ref_logp))

    return Divergence(
        name,
        value=value,
        reward=reward,
        loss=None if surrogate is None else loss,
        reference=on_reference,
        exact=exact or expectation,
    )


DIVERGENCES: dict[str, Divergence] = {
    "reverse": Divergence(
        "reverse",
        value=reverse_kl_value,
        reward=reverse_kl_reward,
        loss=reverse_kl_loss,
        reference=reverse_kl_from_reference,
        exact=exact_reverse_kl,
    ),
    "forward": Divergence(
        "forward",
        value=forward_kl_value,
        reward=forward_kl_reward,
        loss=forward_kl_loss,
        reference=forward_kl_from_reference,
        exact=exact_forward_kl,
        weight_power=lambda: -1.0,
    ),
    "jensen_shannon": Divergence(
        "jensen_shannon",
        value=jensen_shannon_value,
        reward=jensen_shannon_reward,
        reference=jensen_shannon_from_reference,
        exact=exact_jensen_shannon,
    ),
    "alpha": Divergence(
        "alpha",
        value=alpha_value,
        reward=alpha_reward,
        loss=alpha_loss,
        reference=alpha_from_reference,
        exact=exact_alpha,
        options=("alpha",),
        weight_power=lambda alpha: alpha - 1,
    ),
}


def find_divergence(name: str, options: Mapping[str, Any] | None = None) -> Divergence:
    """Return a built-in divergence by name, or a user's own by import path.

    Args:
        name: a key of `DIVERGENCES`, or the import path package.module:name of a `Divergence` or of a callable that
            returns one.
        options: fields of the dataclass that the import path names.

    Raises:
        ValueError: the name or path is unknown, or does not give a `Divergence`.
    """
    divergence = find_part("direction", name, DIVERGENCES, options)
    if callable(divergence):  # a function, or an instance of a dataclass with options
        try:
            divergence = divergence()
        except TypeError as error:
            raise ValueError(f"direction: {name} cannot be called without arguments ({error})") from error
    if not isinstance(divergence, Divergence):
        raise ValueError(
            f"direction: {name} must be or return a core.divergences.Divergence, got {type(divergence).__name__}"
        )
    return divergence


# --- shared pieces ------------------------------------------------------------------------------------------


def _log_ratio_and_weight(
    policy_logp: Tensor, ref_logp: Tensor, behaviour_logp: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return log u and the detached log importance weight, both 0 where mask is False.

    With `mask`, the weight is that of the prefix up to and including the token.
    """
    others = {"ref_logp": ref_logp, "behaviour_logp": behaviour_logp, "mask": mask}
    for name, tensor in others.items():
        if tensor is not None and tensor.shape != policy_logp.shape:
            raise ValueError(
                f"shapes must match: policy_logp {tuple(policy_logp.shape)}, {name} {tuple(tensor.shape)}"
            )
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, got {mask.dtype}")
    log_u = _zero_masked(policy_logp - ref_logp.detach(), mask)
    if behaviour_logp is None:
        return log_u, torch.zeros_like(log_u)
    log_weight = _zero_masked(policy_logp.detach() - behaviour_logp.detach(), mask)
    return log_u, log_weight if mask is None else log_weight.cumsum(-1)


def _capped(log_weight: Tensor, largest: Tensor | float) -> Tensor:
    """Cap log weights, except infinite ones: those are of outcomes off a support, and an error."""
    return torch.where(log_weight == torch.inf, log_weight, log_weight.clamp(max=largest))


def _expm1_with_tangent(exponent: Tensor, largest: Tensor | float) -> Tensor:
    """exp(x) - 1 up to x = largest, and its tangent at that point above."""
    capped = _capped(exponent, largest)
    excess = (exponent - largest).clamp_min(0.0)
    return torch.expm1(capped) + torch.where(excess > 0, capped.exp() * excess, 0.0)


def _zero_masked(value: Tensor, mask: Tensor | None) -> Tensor:
    return value if mask is None else value.masked_fill(~mask, 0.0)  # not value * mask: 0 * inf is NaN


def _expectation(weight_logp: Tensor, value: Tensor) -> Tensor:
    """Sum exp(weight_logp) * value over the last axis; where the weight is 0, so are the term and its gradient."""
    empty = weight_logp == -torch.inf
    return (weight_logp.masked_fill(empty, 0.0).exp() * value.masked_fill(empty, 0.0)).sum(-1)


def _off_both_supports(policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
    return (policy_logp == -torch.inf) & (ref_logp == -torch.inf)


def _check_alpha(alpha: float) -> None:
    if alpha in (0, 1) or not math.isfinite(alpha):
        alternative = "forward_kl_*" if alpha == 0 else "reverse_kl_*" if alpha == 1 else "a finite alpha"
        raise ValueError(f"alpha must be finite and neither 0 nor 1, got {alpha}; use {alternative}")
