"""Methods of others, each against its published formula over every group, and against a formula that must fail."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core.advantages import mean_normalised
from core.losses import policy_gradient
from core.transforms import class_diversity, class_sizes, dra, gapo, mean_dissimilarity

from .enumeration import one_token_gradient, random_logits, random_logp
from .test_objective_methods import BETA, REWARD, expected_by_tuples, gradient_of, group_loss, make

Coefficient = Callable[[list[int]], list[float]]  # a group of outcomes -> what multiplies grad log pi of each


def assert_gradient(sampled: Tensor, expected: Tensor, *wrong: Tensor) -> None:
    """The gradient is the expected one, and none of the others. Diversities are in single precision."""
    torch.testing.assert_close(sampled, expected, rtol=1e-6, atol=1e-9)
    assert not any(torch.allclose(sampled, other, rtol=1e-3, atol=1e-6) for other in wrong)


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


def test_dra_divides_by_one_plus_the_summed_similarity() -> None:
    """arXiv:2505.09655, with similarities of 0 and 1."""
    sampled, logits = sampled_by("dra")
    formula, ips, itself = (
        expected(lambda g, f=f: [float(UNEVEN[y]) / f(Counter(g)[y]) for y in g], logits)
        for f in (lambda n: 1 + (n - 1), lambda n: n / 3, lambda n: 1 + n)
    )
    assert_gradient(sampled, formula, ips, itself)


def test_dra_over_graded_similarities() -> None:
    """The similarity of a pair enters through the mean dissimilarity to the others."""
    similarity = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.0]], dtype=torch.float64)
    diversity = 1 - (similarity.sum(-1) - 1) / 2
    reward = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    adjusted = dra(reward, reward, beta=0.0, class_size=class_sizes(diversity)).reward
    by_hand = torch.tensor([1 / 1.5, 0.5 / 1.75, 2 / 1.25], dtype=torch.float64)
    torch.testing.assert_close(adjusted, by_hand)
    with pytest.raises(ValueError, match=r"class_size must be > 0, got -0\.5"):
        dra(reward, reward, beta=0.0, class_size=class_sizes(diversity + 1))


@pytest.mark.parametrize("answers", [None, 3])
def test_gapo_rewards_good_outcomes_that_are_rare_among_the_good_ones(answers: int | None) -> None:
    """arXiv:2511.12596: 1 - (f - 1/L) for the outcomes 0 to 2, which are good here, -1 for the other."""

    def formula(group: list[int], of_all: bool = False, bad: float = -1.0) -> list[float]:
        counts, good = Counter(group), [y for y in group if y < 3]
        among = len(group) if of_all else len(good)
        target = 1 / answers if answers else 0.0
        return [1 - (counts[y] / among - target) if y < 3 else bad for y in group]

    logits, ref = random_logits(4, seed=1), random_logp(4, seed=2)
    objective = make("gapo", {"answers": answers}, advantage="no_baseline")
    sampled = one_token_gradient(group_loss(objective, REWARD, ref, 0.0), logits, 3)
    wrong = expected(lambda g: formula(g, of_all=True), logits), expected(lambda g: formula(g, bad=0.0), logits)
    assert_gradient(sampled, expected(formula, logits), *wrong)


def test_gapo_keeps_truncated_completions_from_being_good() -> None:
    reward, size = torch.ones(4), torch.tensor([2.0, 2.0, 1.0, 1.0])
    whole = torch.tensor([True, True, True, False])
    changed = gapo(reward, reward, beta=0.0, threshold=1.0, class_size=size, valid=whole).reward
    torch.testing.assert_close(changed, torch.tensor([1 / 3, 1 / 3, 2 / 3, -1.0]))
    with pytest.raises(ValueError, match="answers must be >= 1, got 0"):
        gapo(reward, reward, beta=0.0, threshold=1.0, class_size=size, answers=0)


def test_the_mean_dissimilarity_of_classes_is_their_diversity() -> None:
    classes = torch.tensor([[1, 1, 2, 3], [5, 5, 5, 5]])
    valid = torch.tensor([[True, False, True, True], [True, False, False, False]])
    same = (classes.unsqueeze(-1) == classes.unsqueeze(-2)).double()
    for counted in (None, valid):
        torch.testing.assert_close(mean_dissimilarity(same, counted), class_diversity(classes, counted).double())
    assert float(mean_dissimilarity(same / 2, valid)[0, 0]) == 1.0
    assert float(mean_dissimilarity(same / 2)[0, 0]) == pytest.approx((0.5 + 1 + 1) / 3)


# --- Uniqueness-aware RL (arXiv:2601.08763) ------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_uniqueness_divides_grpo_s_advantages_by_the_size_of_the_class(strength: float) -> None:
    """A / f^strength, for advantages of either sign; the KL in the loss is not weighted."""

    def formula(group: list[int], power: float, positive_only: bool) -> list[float]:
        reward = torch.tensor([float(UNEVEN[y]) for y in group], dtype=torch.float64)
        std = reward.std(correction=0)
        advantage = (reward - reward.mean()) / std if std > 1e-9 else torch.zeros(3)
        weight = torch.tensor([Counter(group)[y] ** -power for y in group])
        return (advantage * torch.where((advantage > 0) | (not positive_only), weight, torch.ones(3))).tolist()

    options = {"advantage": "group_normalised", "placement": "loss"}
    sampled, logits = sampled_by("uniqueness", {"strength": strength}, **options)
    right, one_sign, grpo = (
        expected(lambda g, chosen=chosen: formula(g, *chosen), logits)
        for chosen in ((strength, False), (strength, True), (0.0, False))
    )
    assert_gradient(sampled, right, one_sign, grpo)
    ref = random_logp(4, seed=2)
    objective = make("uniqueness", {"strength": strength}, **options)
    with_kl = one_token_gradient(group_loss(objective, UNEVEN, ref, BETA), logits, 3)
    kl = gradient_of(lambda logp: -BETA * (logp.exp() * (logp - ref)).sum(), logits)
    assert_gradient(with_kl - sampled, kl, 2 * kl)


def test_a_method_that_compares_completions_needs_their_diversity() -> None:
    logp, mask = torch.zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool)
    for name, options in (("ips", {}), ("dra", {}), ("gapo", {"answers": 2}), ("uniqueness", {"strength": 1.0})):
        objective = make(name, options)
        assert objective.needs_diversity
        assert not objective.has_target
        with pytest.raises(ValueError, match="needs the diversity of each sample, but diversity is None"):
            objective.loss(torch.ones(1, 2), logp, logp, mask, beta=0.1)
        objective.loss(torch.ones(1, 2), logp, logp, mask, beta=0.1, diversity=torch.ones(1, 2))  # control
    assert not make().needs_diversity
