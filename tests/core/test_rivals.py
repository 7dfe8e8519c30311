"""Methods of others, each against its published formula over every group, and against a formula that must fail."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core.advantages import mean_normalised
from core.losses import policy_gradient

from .enumeration import one_token_gradient, random_logits, random_logp
from .test_objective_methods import BETA, REWARD, close, expected_by_tuples, gradient_of, group_loss, make

Coefficient = Callable[[list[int]], list[float]]  # a group of outcomes -> what multiplies grad log pi of each


def assert_gradient(sampled: Tensor, expected: Tensor, *wrong: Tensor) -> None:
    """The gradient is the expected one, and none of the others."""
    torch.testing.assert_close(sampled, expected, rtol=1e-9, atol=1e-12)
    assert not any(close(sampled, other) for other in wrong)


# --- MaxRL (arXiv:2602.02710) ----------------------------------------------------------------------------------


def truncated_log_likelihood(terms: int) -> Callable[[Tensor], Tensor]:
    """sum_{k <= terms} pass@k / k: the Maclaurin series of log P(reward 1), up to a constant."""

    def value(logp: Tensor) -> Tensor:
        fails = 1 - (logp.exp() * REWARD).sum()
        return torch.stack([(1 - fails**k) / k for k in range(1, terms + 1)]).sum()

    return value


@pytest.mark.parametrize("size", [2, 3, 5])
def test_maxrl_follows_the_first_terms_of_the_log_likelihood(size: int) -> None:
    logits = random_logits(4, seed=1)
    sampled = one_token_gradient(lambda y, logp: policy_gradient(logp, mean_normalised(REWARD[y])), logits, size)
    formula = [gradient_of(truncated_log_likelihood(terms), logits) for terms in (size - 1, size, 1)]
    assert_gradient(sampled, formula[0], formula[1], *formula[2:] if size > 2 else ())


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_maxrl_adds_the_gradient_of_the_kl_at_both_placements(placement: str) -> None:
    logits, ref = random_logits(4, seed=1), random_logp(4, seed=2)
    objective = make(advantage="mean_normalised", placement=placement)
    sampled, alone = (one_token_gradient(group_loss(objective, REWARD, ref, b), logits, 3) for b in (BETA, 0.0))
    kl = gradient_of(lambda logp: -BETA * (logp.exp() * (logp - ref)).sum(), logits)
    assert_gradient(sampled, alone + kl, alone + 2 * kl, alone)


def test_maxrl_needs_rewards_that_have_a_scale() -> None:
    assert mean_normalised(torch.tensor([[2.0, 0.0], [0.0, 0.0]])).tolist() == [[1.0, -1.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match="rewards must be >= 0 for the division by their mean, got -1"):
        mean_normalised(torch.tensor([1.0, -1.0]))
    ignored = torch.tensor([True, False])
    assert mean_normalised(torch.tensor([1.0, -1.0]), ignored).tolist() == [0.0, 0.0]


# --- rewards that depend on how often an outcome occurs in its group -----------------------------------------------

UNEVEN = torch.tensor([1.0, 0.7, 0.4, 0.0], dtype=torch.float64)


def expected(coefficient: Coefficient, logits: Tensor) -> Tensor:
    return expected_by_tuples(coefficient, logits, 3)


def sampled_by(transform: str, options: dict[str, Any] | None = None, **more: Any) -> tuple[Tensor, Tensor]:
    """The expected gradient of a transform without a KL term, in groups of 3, and the logits."""
    logits, ref = random_logits(4, seed=1), random_logp(4, seed=2)
    objective = make(transform, options, **{"advantage": "no_baseline", **more})
    return one_token_gradient(group_loss(objective, UNEVEN, ref, 0.0), logits, 3), logits


def test_ips_divides_by_the_share_of_the_group() -> None:
    """arXiv:2601.21669: R(y) / (count of y / G)."""
    sampled, logits = sampled_by("ips")
    formula, share, half = (
        expected(lambda g, f=f: [f(float(UNEVEN[y]), Counter(g)[y] / 3) for y in g], logits)
        for f in (lambda r, p: r / p, lambda r, p: r * (1 - p), lambda r, p: r / p**0.5)
    )
    assert_gradient(sampled, formula, share, half)


def test_ips_without_a_baseline_weighs_outcomes_by_their_reward_alone_in_large_groups() -> None:
    """The published claim: dL/dlog pi(y) is R(y) P(y in the group), so that the pull does not grow with pi(y)."""
    sampled, logits = sampled_by("ips")
    p = logits.softmax(-1)
    seen = 1 - (1 - p) ** 3
    pull = -(UNEVEN * seen - p * (UNEVEN * seen).sum())
    assert_gradient(sampled, pull, -(UNEVEN * p - p * (UNEVEN * p).sum()))
