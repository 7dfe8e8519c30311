"""Methods of others, each against its published formula over every group, and against a formula that must fail."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core.advantages import (
    batch_exploration,
    batch_normalised,
    group_normalised,
    historical_exploration,
    mean_normalised,
)
from core.losses import policy_gradient
from core.transforms import class_diversity, class_sizes, dra, gapo, mean_dissimilarity

from .enumeration import follow_gradient, one_token_gradient, random_logits, random_logp
from .test_objective_methods import BETA, REWARD, expected_by_tuples, gradient_of, group_loss, make

Coefficient = Callable[[list[int]], list[float]]  # a group of outcomes -> what multiplies grad log pi of each


GRPO = {"placement": "loss", "level": "sequence", "length_normalised": False, "token_mean": False}
NO_KL = {
    "placement": "loss",
    "token_mean": True,
    "length_normalised": False,
    "advantage": "group_normalised_sample_std",
}
RIVALS: dict[str, dict[str, Any]] = {  # what the files of the methods set; tests/conf/test_compose.py compares them
    "maxrl": {"transform": "identity", "advantage": "mean_normalised", **GRPO},
    "ips_grpo": {"transform": "ips", "advantage": "group_normalised", **GRPO},
    "dra_grpo": {"transform": "dra", "advantage": "group_normalised", **GRPO},
    "uniqueness": {"transform": "uniqueness", "advantage": "group_normalised", **GRPO},
    "obe_batch": {"transform": "batch_exploration", "advantage": "group_normalised", **GRPO},
    "obe_historical": {"transform": "historical_exploration", "advantage": "group_normalised", **GRPO},
    "gapo": {"transform": "gapo", "advantage": "group_normalised", **GRPO},
    "flowrl": {"advantage": "group_normalised", "policy_loss": "flowrl", "length_normalised": True},
    "dmpo": {"match_coef": 1.0, "match_temperature": 0.1, "clip_high": 0.2},  # the rest is that of grpo
    "dr_grpo": {"advantage": "centred", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2, **GRPO},
    "dapo": {**NO_KL, "policy_loss": "policy_gradient", "clip_low": 0.2, "clip_high": 0.28, "ratio": "token"},
    "gspo": {**NO_KL, "ratio": "geometric_mean", "token_mean": False, "length_normalised": True},
    "cispo": {**NO_KL, "policy_loss": "cispo", "clip_high": 4.0},
    "reinforce_plus_plus": {"advantage": "batch_normalised", "placement": "reward", "level": "sequence"},
    "clip_cov": {**NO_KL, "policy_loss": "clip_cov", "clip_low": 0.2, "clip_high": 0.2},
    "kl_cov": {**NO_KL, "policy_loss": "kl_cov", "policy_loss_options": {"share": 0.0002, "coef": 1.0}},
}
WITHOUT_KL = ("dr_grpo", "dapo", "gspo", "cispo", "clip_cov", "kl_cov")


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
        expected(lambda g, f=f: [f(float(UNEVEN[y]), Counter(g)[y] / 3) for y in g], logits)  # type: ignore[misc]
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
        expected(lambda g, f=f: [float(UNEVEN[y]) / f(Counter(g)[y]) for y in g], logits)  # type: ignore[misc]
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


def grpo_advantages(group: list[int]) -> Tensor:
    """Rewards less their mean, over their standard deviation; 0 where they are equal."""
    reward = torch.tensor([float(UNEVEN[y]) for y in group], dtype=torch.float64)
    std = reward.std(correction=0)
    return (reward - reward.mean()) / std if std > 1e-9 else torch.zeros(3)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_uniqueness_divides_grpo_s_advantages_by_the_size_of_the_class(strength: float) -> None:
    """A / f^strength, for advantages of either sign; the KL in the loss is not weighted."""

    def formula(group: list[int], power: float, positive_only: bool) -> list[float]:
        advantage = grpo_advantages(group)
        weight = torch.tensor([Counter(group)[y] ** -power for y in group])
        return (advantage * torch.where((advantage > 0) | (not positive_only), weight, torch.ones(3))).tolist()

    options = {"advantage": "group_normalised", "placement": "loss"}
    sampled, logits = sampled_by("uniqueness", {"strength": strength}, **options)
    right, one_sign, grpo = (
        expected(lambda g, chosen=chosen: formula(g, *chosen), logits)  # type: ignore[misc]
        for chosen in ((strength, False), (strength, True), (0.0, False))
    )
    assert_gradient(sampled, right, one_sign, grpo)
    ref = random_logp(4, seed=2)
    objective = make("uniqueness", {"strength": strength}, **options)
    with_kl = one_token_gradient(group_loss(objective, UNEVEN, ref, BETA), logits, 3)
    kl = gradient_of(lambda logp: -BETA * (logp.exp() * (logp - ref)).sum(), logits)
    assert_gradient(with_kl - sampled, kl, 2 * kl)


# --- Outcome-based exploration in a batch (arXiv:2509.06941) -------------------------------------------------------


def test_batch_exploration_lowers_the_probability_that_two_samples_agree() -> None:
    """Its expected gradient is that of -coef (n - 1) / (2 n) sum pi^2, added to that of the advantage alone."""
    coef, n = 0.7, 3
    options = {"advantage": "leave_one_out", "placement": "loss"}
    sampled, logits = sampled_by("batch_exploration", {"coef": coef}, **options)

    def value(factor: float) -> Callable[[Tensor], Tensor]:
        return lambda logp: (logp.exp() * UNEVEN).sum() - factor * (2 * logp).exp().sum()

    right = gradient_of(value(coef * (n - 1) / (2 * n)), logits)
    doubled, of_itself, none = (gradient_of(value(f), logits) for f in (coef * (n - 1) / n, coef / 2, 0.0))
    assert_gradient(sampled, right, doubled, of_itself, none)


def test_batch_exploration_counts_the_others_of_the_group_with_the_same_answer() -> None:
    """A - coef / n sum_{j != i} 1{a_j = a_i}, for GRPO's A; samples that are not valid neither count nor change."""

    def formula(group: list[int], coef: float) -> list[float]:
        return [
            float(a) - coef / 3 * (Counter(group)[y] - 1) for a, y in zip(grpo_advantages(group), group, strict=True)
        ]

    options = {"advantage": "group_normalised", "placement": "loss"}
    sampled, logits = sampled_by("batch_exploration", {"coef": 0.2}, **options)
    right, reward_units, grpo = (expected(lambda g, c=c: formula(g, c), logits) for c in (0.2, 0.6, 0.0))  # type: ignore[misc]
    assert_gradient(sampled, right, reward_units, grpo)
    valid = torch.tensor([[True, True, True, False]])
    size = torch.tensor([[2.0, 2.0, 1.0, 1.0]])
    changed = batch_exploration(torch.zeros(1, 4), size, valid, coef=0.3)
    torch.testing.assert_close(changed, torch.tensor([[-0.1, -0.1, 0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"coef must be >= 0, got -0\.3"):
        batch_exploration(torch.zeros(1, 4), size, coef=-0.3)


# --- Outcome-based exploration over a run (arXiv:2509.06941) -------------------------------------------------------

SAMPLED = torch.tensor([0.0, 1.0, 9.0, 400.0], dtype=torch.float64)  # how often each outcome was sampled before
NOVELTY = torch.tensor([1.0, 1.0, 1 / 3, 0.05], dtype=torch.float64)  # min(1, 1 / sqrt(N))


def explored_by(
    options: dict[str, Any], sampled: Tensor, ref: Tensor, beta: float, **more: Any
) -> Callable[[Tensor, Tensor], Tensor]:
    """For `one_token_gradient`: the loss with the bonus, where outcomes were sampled that often in earlier steps."""
    objective = make("historical_exploration", options, **{"placement": "loss", **more})
    return group_loss(objective, UNEVEN, ref, beta, sampled)


@pytest.mark.parametrize(("baseline", "share"), [(0.0, 1.0), (0.5, 1.0), ("mean", 2 / 3)])
def test_the_historical_bonus_adds_the_gradient_of_its_mean(baseline: float | str, share: float) -> None:
    """A number as baseline changes no expected gradient, and the mean of the group's n bonuses leaves (n - 1)/n."""
    coef, logits, ref = 0.7, random_logits(4, seed=1), random_logp(4, seed=2)
    sampled = one_token_gradient(explored_by({"coef": coef, "baseline": baseline}, SAMPLED, ref, 0.0), logits, 3)

    def of(bonus: Tensor, factor: float) -> Tensor:
        return gradient_of(lambda logp: (logp.exp() * (UNEVEN + factor * bonus)).sum(), logits)

    other_share = of(NOVELTY, coef * (5 / 3 - share))
    assert_gradient(
        sampled, of(NOVELTY, coef * share), other_share, of(NOVELTY.square(), coef * share), of(NOVELTY, 0)
    )


@pytest.mark.parametrize("baseline", [0.5, "mean"])
def test_historical_exploration_adds_to_grpo_s_advantages(baseline: float | str) -> None:
    """A + coef (b - b0), UCB-Con, or A + coef (b - mean of the group's b), UCB-Mean."""

    def formula(group: list[int], coef: float, centre: bool) -> list[float]:
        bonus = NOVELTY[group]
        bonus = bonus - (bonus.mean() if centre else 0.5)
        return (grpo_advantages(group) + coef * bonus).tolist()

    logits, ref = random_logits(4, seed=1), random_logp(4, seed=2)
    loss = explored_by({"coef": 0.2, "baseline": baseline}, SAMPLED, ref, 0.0, advantage="group_normalised")
    choices = ((0.2, baseline == "mean"), (0.2, baseline != "mean"), (-0.2, False), (0.0, False))
    right, *wrong = (expected(lambda g, c=c: formula(g, *c), logits) for c in choices)  # type: ignore[misc]
    assert_gradient(one_token_gradient(loss, logits, 3), right, *wrong)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    valid = torch.tensor([[True, True, True, False]])
    changed = historical_exploration(zero, SAMPLED.unsqueeze(0), valid, coef=0.3, baseline=baseline)
    centre = 7 / 9 if baseline == "mean" else 0.5
    by_hand = torch.tensor([[0.3 * (1 - centre), 0.3 * (1 - centre), 0.3 * (1 / 3 - centre), 0.0]])
    torch.testing.assert_close(changed, by_hand.double())
    with pytest.raises(ValueError, match=r"coef must be >= 0, got -0\.3"):
        historical_exploration(zero, zero, coef=-0.3, baseline=baseline)


def test_the_optimum_with_the_historical_bonus_goes_to_the_one_without_as_counts_grow() -> None:
    """At fixed counts it is ref exp((R + coef b) / beta): the gradient vanishes there, and not without b."""
    ref, options = random_logp(4, seed=2), {"coef": 0.7, "baseline": 0.5}
    for sampled, bonus in ((SAMPLED, NOVELTY), (SAMPLED + 1e12, torch.zeros(4))):
        loss = explored_by(options, sampled, ref, BETA)
        optimum = ref + (UNEVEN + 0.7 * bonus) / BETA
        assert float(one_token_gradient(loss, optimum, 3).abs().max()) < 1e-6
        if bonus.any():
            assert float(one_token_gradient(loss, ref + UNEVEN / BETA, 3).abs().max()) > 1e-2


@pytest.mark.parametrize(("coef", "low", "high"), [(0.2, 0.5, 2.0), (0.0, 14.9, 15.1)])
def test_without_a_kl_the_historical_bonus_evens_out_equal_rewards(coef: float, low: float, high: float) -> None:
    """Its sum over the steps has no bound, so that 15 : 1 becomes a swing around 1 : 1. Without it 15 : 1 stays."""
    reward, ref = torch.ones(2, dtype=torch.float64), torch.tensor([15 / 16, 1 / 16], dtype=torch.float64).log()
    objective = make("historical_exploration", {"coef": coef, "baseline": 0.5}, placement="loss")
    policy, sampled = ref, torch.zeros(2, dtype=torch.float64)
    loss = group_loss(objective, reward, ref, 0.0, sampled)
    for _ in range(600):
        policy = follow_gradient(loss, policy, size=3, rate=1.0, steps=1).log()
        sampled += 3 * policy.exp()
    for ratio in (float((policy[0] - policy[1]).exp()), float(sampled[0] / sampled[1])):
        assert low < ratio < high


def test_historical_exploration_needs_the_counts_of_answers() -> None:
    logp, mask = torch.zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool)
    objective = make("historical_exploration", {"coef": 0.2, "baseline": "mean"})
    assert objective.needs_answer_count
    assert not objective.needs_diversity
    assert not objective.has_target
    with pytest.raises(ValueError, match="needs the earlier samples of each answer, but answer_count is None"):
        objective.loss(torch.ones(1, 2), logp, logp, mask, beta=0.1)
    objective.loss(torch.ones(1, 2), logp, logp, mask, beta=0.1, answer_count=torch.ones(1, 2))  # control
    assert not make().needs_answer_count


def test_a_method_that_compares_completions_needs_their_diversity() -> None:
    logp, mask = torch.zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool)
    methods: dict[str, dict[str, Any]] = {"ips": {}, "dra": {}, "gapo": {"answers": 2}}
    methods |= {"uniqueness": {"strength": 1.0}, "batch_exploration": {"coef": 0.2}}
    for name, options in methods.items():
        objective = make(name, options)
        assert objective.needs_diversity
        assert not objective.has_target
        with pytest.raises(ValueError, match="needs the diversity of each sample, but diversity is None"):
            objective.loss(torch.ones(1, 2), logp, logp, mask, beta=0.1)
        objective.loss(torch.ones(1, 2), logp, logp, mask, beta=0.1, diversity=torch.ones(1, 2))  # control
    assert not make().needs_diversity


# --- losses of several updates, on random groups of completions of different lengths -------------------------------

MASK = torch.tensor([[[1, 1, 1], [1, 0, 0], [1, 1, 0]], [[1, 1, 0], [1, 1, 1], [1, 0, 0]]], dtype=torch.bool)
ROWS = [(g, i, int(MASK[g, i].sum())) for g in range(2) for i in range(3)]  # group, sample, length
OLD = -random_logits(2, 3, 3, seed=1).abs()
NEW = (OLD + 0.3 * random_logits(2, 3, 3, seed=2)).clamp_max(-0.01)
REF = -random_logits(2, 3, 3, seed=3).abs()
ADVANTAGE = random_logits(2, 3, seed=4)
Formula = Callable[[Tensor], Tensor]  # [2, 3, 3] log-probabilities -> what is minimised, in loops over samples


def assert_same_loss(loss: Formula, formula: Formula, *wrong: Formula) -> None:
    """Value and gradient of a loss are those of a formula; the gradient is none of the others'."""

    def gradient(function: Formula) -> Tensor:
        leaf = NEW.clone().requires_grad_()
        return torch.autograd.grad(function(leaf), leaf)[0]

    torch.testing.assert_close(loss(NEW), formula(NEW))
    torch.testing.assert_close(gradient(loss), gradient(formula))
    assert not any(torch.allclose(gradient(loss), gradient(other), rtol=1e-3, atol=1e-6) for other in wrong)


def clipped(ratio: Tensor, advantage: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def update_loss(reward: Tensor = ADVANTAGE, **options: Any) -> Formula:
    """The loss of an update on completions of an earlier policy, with rewards taken as advantages."""
    defaults = {"advantage": "no_baseline", "placement": "loss", "clip_low": 0.2, "clip_high": 0.2}
    objective = make(**{**defaults, **options})
    generator = torch.Generator().manual_seed(0)
    return lambda logp: objective.loss(
        reward, logp, REF, MASK, beta=0.0, behaviour_logp=OLD, generator=generator.manual_seed(0)
    )[0]


def test_gspo_clips_the_geometric_mean_of_the_ratios() -> None:
    """arXiv:2507.18071, equations 5 and 7: the mean of min(s A, clip(s) A), s = (pi/pi_old)^(1/|y|)."""

    def formula(power: Callable[[int], float], bound: float = 0.2) -> Formula:
        def value(logp: Tensor) -> Tensor:
            terms = []
            for g, i, n in ROWS:
                ratio = ((logp - OLD)[g, i, :n].sum() * power(n)).exp()
                terms.append(clipped(ratio, ADVANTAGE[g, i], bound, bound))
            return -torch.stack(terms).mean()

        return value

    gspo = {"ratio": "geometric_mean", "length_normalised": True}
    assert_same_loss(update_loss(**gspo), formula(lambda n: 1 / n), formula(lambda n: 1.0))
    tight = update_loss(**gspo, clip_low=0.02, clip_high=0.02)
    assert_same_loss(tight, formula(lambda n: 1 / n, 0.02), formula(lambda n: 1 / n))


def test_gspo_on_the_policy_s_own_completions_divides_by_the_length() -> None:
    objective = make(advantage="no_baseline", placement="loss", ratio="geometric_mean", length_normalised=True)
    first = objective.loss(ADVANTAGE, NEW, REF, MASK, beta=0.0)
    again = objective.loss(ADVANTAGE, NEW.clone().requires_grad_(), REF, MASK, beta=0.0, behaviour_logp=NEW)

    def gradient(**more: Tensor) -> Tensor:
        leaf = NEW.clone().requires_grad_()
        return torch.autograd.grad(objective.loss(ADVANTAGE, leaf, REF, MASK, beta=0.0, **more)[0], leaf)[0]

    torch.testing.assert_close(gradient(), gradient(behaviour_logp=NEW))
    assert float(again[1]["update/clipped_share"]) == 0
    assert "update/clipped_share" not in first[1]


def test_cispo_weighs_each_token_by_its_clipped_ratio() -> None:
    """arXiv:2506.13585: -sg(clip(u)) A log pi, summed over the batch's tokens and divided by their number."""

    def formula(detached: bool = True, high: float = 0.28) -> Formula:
        def value(logp: Tensor) -> Tensor:
            total = logp.new_zeros(())
            for g, i, n in ROWS:
                for t in range(n):
                    ratio = (logp - OLD)[g, i, t].exp().clamp(1 - 0.2, 1 + high)
                    weight = ratio.detach() if detached else ratio
                    total = total - weight * ADVANTAGE[g, i] * logp[g, i, t]
            return total / int(MASK.sum())

        return value

    loss = update_loss(policy_loss="cispo", token_mean=True, clip_high=0.28)
    assert_same_loss(loss, formula(), formula(detached=False), formula(high=0.1))


def test_dapo_is_a_mean_over_the_tokens_of_the_batch_with_two_clip_ranges() -> None:
    """arXiv:2503.14476, equation 8."""

    def formula(per_completion: bool = False, high: float = 0.28) -> Formula:
        def value(logp: Tensor) -> Tensor:
            total = logp.new_zeros(())
            for g, i, n in ROWS:
                ratio = (logp - OLD)[g, i, :n].exp()
                term = clipped(ratio, ADVANTAGE[g, i].expand(n), 0.2, high).sum()
                total = total - term / (n * len(ROWS) if per_completion else int(MASK.sum()))
            return total

        return value

    loss = update_loss(token_mean=True, clip_high=0.28)
    assert_same_loss(loss, formula(), formula(per_completion=True), formula(high=0.1))


def test_dr_grpo_divides_by_neither_the_deviation_nor_the_length() -> None:
    """arXiv:2503.20783: R - mean, clipped ratios of tokens, summed over each completion."""

    def formula(per_completion: bool = False, std: bool = False) -> Formula:
        def value(logp: Tensor) -> Tensor:
            total = logp.new_zeros(())
            for g, i, n in ROWS:
                advantage = ADVANTAGE[g, i] - ADVANTAGE[g].mean()
                advantage = advantage / ADVANTAGE[g].std() if std else advantage
                term = clipped((logp - OLD)[g, i, :n].exp(), advantage.expand(n)).sum()
                total = total - term / (len(ROWS) * (n if per_completion else 1))
            return total

        return value

    loss = update_loss(advantage="centred")
    assert_same_loss(loss, formula(), formula(per_completion=True), formula(std=True))


def test_reinforce_plus_plus_normalises_over_all_groups() -> None:
    """arXiv:2501.03262: (R - mean) / std over the batch, the reverse KL in R; not over each group."""
    kl = torch.stack([(NEW - REF)[g, i, :n].sum() for g, i, n in ROWS]).view(2, 3)
    shaped = ADVANTAGE - BETA * kl
    objective = make(advantage="batch_normalised", placement="reward")

    def formula(values: Tensor) -> Formula:
        return lambda logp: -(torch.where(MASK, logp, 0.0).sum(-1) * values).mean()

    over_batch = (shaped - shaped.mean()) / shaped.std(correction=0)
    over_group = (shaped - shaped.mean(-1, keepdim=True)) / shaped.std(-1, correction=0, keepdim=True)
    raw = (ADVANTAGE - ADVANTAGE.mean()) / ADVANTAGE.std(correction=0)
    assert_same_loss(
        lambda logp: objective.loss(ADVANTAGE, logp, REF, MASK, beta=BETA)[0],
        formula(over_batch),
        formula(over_group),
        formula(raw),
    )
    one = batch_normalised(ADVANTAGE[:1])
    torch.testing.assert_close(one, group_normalised(ADVANTAGE[:1]))


def covariances(logp: Tensor) -> dict[tuple[int, int, int], float]:
    """(A - mean A)(log pi - mean log pi) of each token, in loops (arXiv:2505.22617)."""
    tokens = [(g, i, t) for g, i, n in ROWS for t in range(n)]
    mean_a = sum(float(ADVANTAGE[g, i]) for g, i, _ in tokens) / len(tokens)
    mean_l = sum(float(logp[token]) for token in tokens) / len(tokens)
    return {(g, i, t): (float(ADVANTAGE[g, i]) - mean_a) * (float(logp[g, i, t]) - mean_l) for g, i, t in tokens}


def without_tokens(tokens: set[tuple[int, int, int]]) -> Formula:
    """The sum of clipped terms of the other tokens, averaged over completions."""

    def value(logp: Tensor) -> Tensor:
        total = logp.new_zeros(())
        for g, i, n in ROWS:
            for t in set(range(n)) - {t for h, j, t in tokens if (h, j) == (g, i)}:
                total = total - clipped((logp - OLD)[g, i, t].exp(), ADVANTAGE[g, i]) / len(ROWS)
        return total

    return value


def test_clip_cov_takes_the_gradient_of_tokens_within_the_bounds() -> None:
    """All of the tokens between the bounds are chosen where the share is 1; one of them where it is small."""
    values = covariances(NEW)
    low, high = sorted(values.values())[len(values) // 3], max(values.values()) + 1
    inside = {token for token, value in values.items() if low < value < high}
    ratio = (NEW - OLD).exp()
    not_clipped = {
        (g, i, t) for g, i, t in inside if not (ratio[g, i, t] > 1.2 if ADVANTAGE[g, i] > 0 else ratio[g, i, t] < 0.8)
    }
    options = {"policy_loss": "clip_cov", "policy_loss_options": {"share": 1.0, "low": low, "high": high}}
    assert len(not_clipped) > 2
    wrong = {token for token, value in values.items() if value <= low}
    assert_same_loss_up_to_a_constant(
        update_loss(**options), without_tokens(not_clipped), without_tokens(set()), without_tokens(wrong)
    )
    few = update_loss(**{**options, "policy_loss_options": {"share": 1e-3, "low": low, "high": high}})
    leaf = NEW.clone().requires_grad_()
    gradient = torch.autograd.grad(few(leaf), leaf)[0]
    all_tokens = torch.autograd.grad(without_tokens(set())(leaf), leaf)[0]
    chosen = ((gradient == 0) & (all_tokens != 0)).nonzero().tolist()
    assert len(chosen) == 1
    assert tuple(chosen[0]) in not_clipped


def assert_same_loss_up_to_a_constant(loss: Formula, formula: Formula, *wrong: Formula) -> None:
    assert_same_loss(lambda logp: loss(logp) - loss(NEW), lambda logp: formula(logp) - formula(NEW), *wrong)


def test_clip_cov_needs_a_generator() -> None:
    objective = make(policy_loss="clip_cov", policy_loss_options={"share": 0.1, "low": 0.0, "high": 1.0})
    with pytest.raises(ValueError, match="chooses tokens at random, but generator is None"):
        objective.loss(ADVANTAGE, NEW, REF, MASK, beta=0.0)


@pytest.mark.parametrize("share", [1e-3, 0.34, 1.0])
def test_kl_cov_holds_the_tokens_of_largest_covariance(share: float) -> None:
    values = covariances(NEW)
    order = sorted(values, key=lambda token: -values[token])
    number = max(1, int(share * len(order)))

    def formula(tokens: list[tuple[int, int, int]], coef: float = 0.7) -> Formula:
        def value(logp: Tensor) -> Tensor:
            total = logp.new_zeros(())
            for token in order:
                log_ratio = (logp - OLD)[token]
                penalty = coef * log_ratio.abs() if token in tokens else 0.0
                total = total + (penalty - log_ratio.exp() * ADVANTAGE[token[:2]]) / len(ROWS)
            return total

        return value

    loss = update_loss(policy_loss="kl_cov", policy_loss_options={"share": share, "coef": 0.7})
    wrong = [formula(order[:number], 0.2), *([formula(order[-number:])] if share < 1 else [])]
    assert_same_loss(loss, formula(order[:number]), *wrong)


def test_flowrl_is_the_squared_flow_balance_with_the_best_log_z() -> None:
    """arXiv:2509.15207: w (log Z + log pi/|y| - R/beta - log ref/|y|)^2, R normalised in the group, w clipped."""
    beta = 0.3

    def formula(scale: float = 1 / beta, normalise: bool = True, low: float = 0.2) -> Formula:
        def value(logp: Tensor) -> Tensor:
            total = logp.new_zeros(())
            for g in range(2):
                rewards = ADVANTAGE[g]
                if normalise:
                    rewards = (rewards - rewards.mean()) / rewards.std(correction=0)
                residual, weight = [], []
                for _, i, n in ROWS[3 * g : 3 * g + 3]:
                    ratio = (logp - OLD)[g, i, :n].sum().exp().detach()
                    weight.append(ratio.clamp(1 - low, 1.2))
                    residual.append((logp - REF)[g, i, :n].sum() / n - scale * rewards[i])
                w, r = torch.stack(weight), torch.stack(residual)
                log_z = -(w * r).sum() / w.sum()
                total = total + (w * (r + log_z) ** 2).sum() / 6
            return beta / 2 * total

        return value

    objective = make(
        advantage="group_normalised", policy_loss="flowrl", length_normalised=True, clip_low=0.2, clip_high=0.2
    )
    assert not objective.has_target
    assert_same_loss(
        lambda logp: objective.loss(ADVANTAGE, logp, REF, MASK, beta=beta, behaviour_logp=OLD)[0],
        formula(),
        formula(scale=15.0),
        formula(normalise=False),
        formula(low=0.0),
    )


def test_flowrl_has_the_gradient_of_normalised_rewards_less_the_kl_per_token() -> None:
    objective = make(advantage="group_normalised", policy_loss="flowrl", length_normalised=True)
    length = MASK.sum(-1)
    ratio = torch.where(MASK, NEW - REF, 0.0).sum(-1) / length
    shaped = group_normalised(ADVANTAGE) - BETA * ratio
    values = (shaped - shaped.mean(-1, keepdim=True)) / length

    def gradient(function: Formula) -> Tensor:
        leaf = NEW.clone().requires_grad_()
        return torch.autograd.grad(function(leaf), leaf)[0]

    flow = gradient(lambda logp: objective.loss(ADVANTAGE, logp, REF, MASK, beta=BETA)[0])
    policy = gradient(lambda logp: -(torch.where(MASK, logp, 0.0).sum(-1) * values).mean())
    torch.testing.assert_close(flow, policy)
    assert not torch.allclose(flow, gradient(lambda logp: -(torch.where(MASK, logp, 0.0).sum(-1) * shaped).mean()))


def test_dmpo_adds_the_squared_difference_of_two_softmaxes() -> None:
    """arXiv:2605.19461, equations 5 to 9: q from mean log-probabilities per token, p from R / temperature."""
    temperature, coef = 0.5, 0.7

    def formula(per_token: bool = True, scale: float = 1 / temperature, times: float = coef) -> Formula:
        def value(logp: Tensor) -> Tensor:
            total = update_loss()(logp)
            for g in range(2):
                scores = torch.stack([logp[g, i, :n].sum() / (n if per_token else 1) for h, i, n in ROWS if h == g])
                error = (scores.softmax(0) - (scale * ADVANTAGE[g]).softmax(0)) ** 2
                total = total + times * error.mean() / 2
            return total

        return value

    loss = update_loss(match_coef=coef, match_temperature=temperature)
    assert_same_loss(loss, formula(), formula(per_token=False), formula(scale=1.0), formula(times=0.1))


LOSS_OPTIONS: dict[str, dict[str, Any]] = {
    "gspo": {"ratio": "geometric_mean", "length_normalised": True},
    "cispo": {"policy_loss": "cispo", "token_mean": True},
    "clip_cov": {"policy_loss": "clip_cov", "policy_loss_options": {"share": 1.0, "low": 0.0, "high": 9.0}},
    "kl_cov": {"policy_loss": "kl_cov", "policy_loss_options": {"share": 0.5, "coef": 1.0}},
    "flowrl": {"policy_loss": "flowrl", "placement": "reward", "length_normalised": True},
    "dmpo": {"match_coef": 1.0, "match_temperature": 0.5},
    "reinforce++": {"advantage": "batch_normalised"},
}


@pytest.mark.parametrize("garbage", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", LOSS_OPTIONS)
def test_an_invalid_completion_has_no_effect_on_a_loss(name: str, garbage: float) -> None:
    objective = make(**{"advantage": "group_normalised", "placement": "loss", **LOSS_OPTIONS[name]})
    valid = torch.tensor([[True, True, False], [True, True, True]])

    def gradient(reward: Tensor, logp: Tensor, rows: Tensor | None, **more: Any) -> Tensor:
        leaf = logp.clone().requires_grad_()
        generator = torch.Generator().manual_seed(0)
        chosen = [leaf, REF, MASK] if rows is None else [value[:, rows] for value in (leaf, REF, MASK)]
        old = OLD if rows is None else OLD[:, rows]
        loss, _ = objective.loss(reward, *chosen, beta=BETA, behaviour_logp=old, generator=generator, **more)
        return torch.autograd.grad(loss, leaf)[0]

    dirty_reward, dirty_logp = ADVANTAGE.clone(), NEW.clone()
    dirty_reward[0, 2], dirty_logp[0, 2] = garbage, garbage
    clean = gradient(ADVANTAGE, NEW, None, valid=valid)
    torch.testing.assert_close(gradient(dirty_reward, dirty_logp, None, valid=valid), clean)
    assert bool((clean[0, 2] == 0).all())
    assert bool((clean[0, :2] != 0).any())
    assert not torch.allclose(gradient(ADVANTAGE, NEW, None), clean)  # control: it counts if it is valid
