"""The middle of a training step: its expected gradient, invalid samples, metrics, and rejected combinations."""

import contextlib
import itertools
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from core.advantages import ADVANTAGES
from core.classes import Masses
from core.divergences import DIVERGENCES
from core.mara import Anchor, anchor_reference, augment_reward
from core.objective import Objective, make_objective, make_threshold
from core.targets import forward_kl_target, reverse_kl_target
from core.transforms import Transformed, mara

from .enumeration import (
    ALPHA,
    DIRECTIONS,
    LENGTH,
    LOSS_DIRECTIONS,
    VOCABULARY,
    all_groups,
    all_sequences,
    exact_objective,
    expected_group_gradient,
    random_logits,
    random_logp,
    token_level_divergence,
)

INF, NAN = math.inf, math.nan
SEQUENCES = all_sequences()
LEGAL = [(d, p) for d in DIRECTIONS for p in ("reward", "loss") if p == "reward" or d in LOSS_DIRECTIONS]


def conditionals(seed: int) -> Tensor:
    return random_logits(len(SEQUENCES.prefix_of), VOCABULARY, seed=seed)


def sampled_gradient(
    objective: Objective, policy: Tensor, ref: Tensor, reward: Tensor, beta: float, off_policy: bool = False
) -> Tensor:
    """Expected gradient over every group of two completions, with garbage wherever the mask is False.

    With `off_policy`, the loss is told that an earlier policy, with the same probabilities, has sampled them.
    """
    members, log_orders = all_groups(len(SEQUENCES.tokens), 2)
    mask = SEQUENCES.mask[members]
    log_chance = log_orders + SEQUENCES.seq_logp(policy)[members].sum(-1)
    ref_logp = torch.where(mask, SEQUENCES.token_logp(ref)[members], -INF)

    def loss(policy_logp: Tensor) -> Tensor:
        with_nan = torch.where(mask, policy_logp, NAN)
        behaviour_logp = with_nan.detach() if off_policy else None
        return objective.loss(reward[members], with_nan, ref_logp, mask, beta=beta, behaviour_logp=behaviour_logp)[0]

    return expected_group_gradient(loss, SEQUENCES.token_logp(policy)[members], log_chance, policy)


def exact_gradient(
    policy: Tensor, ref: Tensor, reward: Tensor, beta: float, direction: str, level: str, entropy_coef: float
) -> Tensor:
    chance, ref_chance = SEQUENCES.seq_logp(policy).exp(), SEQUENCES.seq_logp(ref).exp()
    if level == "sequence":
        value = exact_objective(chance, ref_chance, reward, beta, direction, entropy_coef)
    else:
        value = exact_objective(chance, ref_chance, reward, 0.0, direction, entropy_coef)
        value = value - beta * token_level_divergence(SEQUENCES, policy, ref, direction)
    return torch.autograd.grad(-value, policy)[0]


# --- the expected gradient -------------------------------------------------------------------------------


@pytest.mark.parametrize("entropy_coef", [0.0, 0.3])
@pytest.mark.parametrize("advantage", ["leave_one_out", "no_baseline"])
@pytest.mark.parametrize("level", ["sequence", "token"])
@pytest.mark.parametrize(("direction", "placement"), LEGAL)
def test_expected_gradient_is_that_of_the_exact_objective(
    direction: str, placement: str, level: str, advantage: str, entropy_coef: float
) -> None:
    policy, ref = conditionals(1).requires_grad_(), conditionals(2)
    reward, beta = random_logits(len(SEQUENCES.tokens), seed=3), 0.4
    alpha = ALPHA if direction == "alpha" else None
    objective = Objective(
        direction=direction,
        placement=placement,
        level=level,
        advantage=ADVANTAGES[advantage],
        entropy_coef=entropy_coef,
        alpha=alpha,
        max_log_weight=None,  # the gradient of the objective itself, away from its optimum
    )
    sampled = sampled_gradient(objective, policy, ref, reward, beta)
    exact = exact_gradient(policy, ref, reward, beta, direction, level, entropy_coef)
    torch.testing.assert_close(sampled, exact, rtol=1e-9, atol=1e-12)

    # Controls: with another beta, level, direction or entropy coefficient the gradient is another one.
    other_level = "token" if level == "sequence" else "sequence"
    other_direction = "forward" if direction == "reverse" else "reverse"
    for wrong in (
        exact_gradient(policy, ref, reward, 2 * beta, direction, level, entropy_coef),
        exact_gradient(policy, ref, reward, beta, direction, other_level, entropy_coef),
        exact_gradient(policy, ref, reward, beta, other_direction, level, entropy_coef),
        exact_gradient(policy, ref, reward, beta, direction, level, entropy_coef + 0.2),
    ):
        assert not torch.allclose(sampled, wrong, rtol=1e-3, atol=1e-4)


def test_reward_to_go_has_the_gradient_of_the_sequence_level_with_less_variance() -> None:
    """The terms of earlier tokens, which no token can change, are left out of its return."""
    policy, ref = conditionals(1).requires_grad_(), conditionals(2)
    reward, beta = random_logits(15, seed=3), 0.4
    exact = exact_gradient(policy, ref, reward, beta, "reverse", "sequence", 0.0)
    to_go = Objective(direction="reverse", level="reward_to_go")
    torch.testing.assert_close(sampled_gradient(to_go, policy, ref, reward, beta), exact, rtol=1e-9, atol=1e-12)
    myopic = Objective(direction="reverse", level="token")  # control: only the term of the token itself
    assert not torch.allclose(sampled_gradient(myopic, policy, ref, reward, beta), exact, rtol=1e-3, atol=1e-4)

    def second_moment(level: str) -> float:
        """E |gradient|^2 with one sample and no reward, so that the KL term alone is compared."""
        objective = Objective(direction="reverse", level=level, advantage=ADVANTAGES["no_baseline"])
        total = 0.0
        for i, chance in enumerate(SEQUENCES.seq_logp(policy).exp().tolist()):
            logp, ref_logp = (SEQUENCES.token_logp(logits)[i].reshape(1, 1, -1) for logits in (policy, ref))
            loss = objective.loss(
                torch.zeros(1, 1).double(), logp, ref_logp, SEQUENCES.mask[i].reshape(1, 1, -1), beta=1
            )
            total += chance * float(torch.autograd.grad(loss[0], policy)[0].square().sum())
        return total

    assert second_moment("reward_to_go") < 0.95 * second_moment("sequence")


@pytest.mark.parametrize(("beta", "expected"), [(0.03, (0.3310, 0.0071)), (0.3, (0.3169, 0.0493))])
def test_mara_on_completions_of_the_reference_has_the_target_of_algorithm_two(beta: float, expected: tuple) -> None:
    """A good completion of the reference counts ref'/ref times: the mean over the reference is D(pi, ref')."""
    ref = torch.tensor([0.55, 0.15, 0.05, 0.25]).double().log()
    reward = torch.tensor([1.0, 1.0, 1.0, 0.0]).double()
    anchor = Anchor(torch.ones(()).double(), ref[0])
    objective = make(direction="forward", placement="reference", transform_options={"anchor": "remembered"})
    policy = random_logp(4, seed=3).requires_grad_()

    def expected_loss(**given: Any) -> Tensor:
        total = torch.zeros(()).double()
        for y, chance in enumerate(ref.exp()):
            rewards = {name: value[y].reshape(1, 1) for name, value in given.items()}
            masses = {"masses": lambda facts: Masses(None, anchor)} if given else {}
            mask = torch.ones(1, 1, 1, dtype=torch.bool)
            logp, ref_logp = (value[y].reshape(1, 1, 1) for value in (policy, ref))
            loss, logged = objective.reference_loss(logp, ref_logp, mask, beta=beta, **rewards, **masses)
            assert float(logged["kl/forward_from_reference_nats"]) == pytest.approx(float((ref - policy).detach()[y]))
            total = total + chance * loss
        return total

    anchored = torch.tensor([0.55, 0.55, 0.55, 0.25]).double()
    exact = beta * (anchored * (anchored.log() - policy)).sum()
    torch.testing.assert_close(expected_loss(reward=reward), exact)
    assert abs(float((expected_loss() - exact).detach())) > 1e-3  # control: the reference itself
    target = forward_kl_target(anchored.log(), reward, beta).exp()
    assert target.tolist() == pytest.approx([*[expected[0]] * 3, expected[1]], abs=6e-5)
    # At the target the gradient of E[R] - beta D(pi, ref') is the same for every outcome; `exact` is its second part.
    logits = target.log().requires_grad_()
    logp = logits.log_softmax(-1)
    value = (logp.exp() * reward).sum() - beta * (anchored * (anchored.log() - logp)).sum()
    assert float(torch.autograd.grad(value, logits)[0].abs().max()) < 1e-9


@pytest.mark.parametrize("placement", ["reward", "loss"])
@pytest.mark.parametrize("level", ["sequence", "token"])
def test_centring_multiplies_the_gradient_of_the_reward_by_n_minus_1_over_n(level: str, placement: str) -> None:
    """If the KL is not in the centred reward, the effective beta is therefore n/(n-1) times the given one."""
    policy, ref, reward, beta = conditionals(1).requires_grad_(), conditionals(2), random_logits(15, seed=3), 0.4
    objective = Objective(direction="reverse", placement=placement, level=level, advantage=ADVANTAGES["centred"])
    effective = beta if (placement, level) == ("reward", "sequence") else 2 * beta
    exact = exact_gradient(policy, ref, reward, effective, "reverse", level, 0.0) / 2
    sampled = sampled_gradient(objective, policy, ref, reward, beta)
    torch.testing.assert_close(sampled, exact, rtol=1e-9, atol=1e-12)
    wrong = exact_gradient(policy, ref, reward, 3 * beta - effective, "reverse", level, 0.0) / 2
    assert not torch.allclose(sampled, wrong, rtol=1e-3)  # control


def test_the_cap_on_forward_weights_reaches_the_loss() -> None:
    policy, ref = conditionals(1).requires_grad_(), conditionals(2)
    reward, beta = random_logits(15, seed=3), 0.4
    exact = exact_gradient(policy, ref, reward, beta, "forward", "sequence", 0.0)
    for cap, unbiased in ((50.0, True), (0.5, False)):
        objective = Objective(direction="forward", max_log_weight=cap)
        sampled = sampled_gradient(objective, policy, ref, reward, beta)
        assert torch.allclose(sampled, exact, rtol=1e-9, atol=1e-12) == unbiased


# --- sequences of several lengths: under which options MARA is uniform -----------------------------------

GOOD = torch.tensor([(s[0] == 1) for s in SEQUENCES.tokens.tolist()])  # completions of one, two and three tokens
GOOD[SEQUENCES.tokens.tolist().index([0, 0, 0])] = True


def conditionals_of(chance: Tensor) -> Tensor:
    """Return the [P, V] logits of the table whose completions have these probabilities."""
    mass = torch.zeros(len(SEQUENCES.prefix_of), VOCABULARY, dtype=torch.float64)
    for row, tokens, mask, p in zip(SEQUENCES.row, SEQUENCES.tokens, SEQUENCES.mask, chance, strict=True):
        mass.index_put_((row[mask], tokens[mask]), p, accumulate=True)
    return (mass / mass.sum(-1, keepdim=True).clamp_min(1e-300)).clamp_min(1e-300).log()


def share_of_good(objective: Objective, ref: Tensor, beta: float, steps: int) -> Tensor:
    """Follow the expected natural gradient from the uniform policy, with one anchor for all outcomes."""
    policy = torch.zeros(len(SEQUENCES.prefix_of), VOCABULARY, dtype=torch.float64)
    reward = GOOD.double()
    for _ in range(steps):
        policy = policy.detach().requires_grad_()
        gradient = sampled_gradient(objective, policy, ref, reward, beta)
        reached = SEQUENCES.prefix_probability(policy.detach()).unsqueeze(-1)
        step = -0.5 / beta * gradient / (reached * policy.detach().softmax(-1)).clamp_min(1e-200)
        policy = (policy.detach() + step.clamp(-0.5, 0.5)).log_softmax(-1)
    return SEQUENCES.seq_logp(policy.detach()).exp()[GOOD]


def anchored_over_all(ref: Tensor) -> Any:
    best = float(SEQUENCES.seq_logp(ref)[GOOD].max())

    def transform(reward: Tensor, ref_seq_logp: Tensor, *, beta: float, valid: Tensor | None = None) -> Transformed:
        return Transformed(torch.where(reward >= 1, 1 + beta * (best - ref_seq_logp), reward), ref_seq_logp)

    return transform


@pytest.mark.parametrize(
    ("options", "uniform"),
    [
        ({}, True),
        ({"placement": "loss"}, True),
        ({"placement": "loss", "gamma": 0.7}, False),
        ({"placement": "loss", "length_normalised": True}, False),
        ({"level": "token"}, False),
        ({"level": "reward_to_go"}, True),
    ],
)
def test_mara_is_uniform_over_completions_of_any_length_for_sequence_sums_only(options: dict, uniform: bool) -> None:
    """A discount or a division by length scales the reward of some completions, but not their KL term."""
    ref, beta = conditionals(2), 0.2
    assert sorted(SEQUENCES.mask[GOOD].sum(-1).unique().tolist()) == [1, 2, 3]
    objective = Objective(direction="reverse", transform=anchored_over_all(ref), **options)
    shares = share_of_good(objective, ref, beta, steps=150)
    spread = float((shares / shares.mean() - 1).abs().max())
    assert float(shares.sum()) > 0.7
    assert spread < 1e-4 if uniform else spread > 0.1


@pytest.mark.parametrize("weights", [{"gamma": 0.7}, {"length_normalised": True}])
def test_with_the_kl_in_the_reward_before_the_baseline_the_target_stays_a_fixed_point(weights: dict) -> None:
    """The shaped reward of every completion is then the same, so all advantages are 0, whatever their weights."""
    ref, beta = conditionals(2), 0.2
    ref_seq_logp = SEQUENCES.seq_logp(ref)
    augmented = augment_reward(GOOD.double(), ref_seq_logp, beta=beta, threshold=1.0)
    target = conditionals_of((ref_seq_logp + augmented / beta).softmax(-1)).requires_grad_()

    def largest(**options: Any) -> float:
        objective = Objective(**{"direction": "reverse", "transform": anchored_over_all(ref), **weights, **options})
        return float(sampled_gradient(objective, target, ref, GOOD.double(), beta).abs().max())

    assert largest() < 1e-12
    # Controls: it is no fixed point without a baseline, with the KL in the loss, or without MARA.
    assert largest(advantage=ADVANTAGES["no_baseline"]) > 1e-2
    assert largest(placement="loss") > 1e-3
    assert largest(transform=Objective.transform) > 1e-3


# --- has_target ------------------------------------------------------------------------------------------

REWARD = random_logits(15, seed=3).round()  # with ties
SWITCHES: tuple[dict[str, Any], ...] = (
    {},
    {"gamma": 0.7},
    {"length_normalised": True},
    {"skip_tied_groups": True},
    {"entropy_coef": 0.2},
    {"clip_low": 0.1, "clip_high": 0.1},
)


def legal_objectives() -> Iterator[tuple[Objective, dict[str, Any]]]:
    """Every objective that the rules allow, with each switch, for reverse and forward KL."""
    for direction, placement, level, advantage, switch in itertools.product(
        ("reverse", "forward"), ("reward", "loss", "reference"), ("sequence", "token"), ADVANTAGES, SWITCHES
    ):
        entropy_in_forward = direction == "forward" and "entropy_coef" in switch  # without a closed form
        if advantage in ("pass_at_k", "mean_normalised") or entropy_in_forward:
            continue
        options = {"direction": direction, "placement": placement, "level": level, "advantage": advantage, **switch}
        with contextlib.suppress(ValueError):
            yield make_objective(transform="identity", **options), options


def target_of(objective: Objective, ref: Tensor, beta: float) -> Tensor:
    if objective.direction == "forward":
        return forward_kl_target(SEQUENCES.seq_logp(ref), REWARD, beta)
    return reverse_kl_target(SEQUENCES.seq_logp(ref), REWARD, beta, objective.entropy_coef)


def rounded_advantage(name: str, reward: Tensor, valid: Tensor | None) -> Tensor:
    return ADVANTAGES[name]((reward * 1e9).round() / 1e9, valid)


def expected_gradient(objective: Objective, policy: Tensor, ref: Tensor, beta: float) -> Tensor:
    """Of `loss` and `reference_loss` together; where a ratio is clipped, of the first update of a batch."""
    for name in ("group_normalised", "group_normalised_sample_std"):
        if objective.advantage is ADVANTAGES[name]:  # rewards that differ by rounding only are tied
            objective = replace(objective, advantage=partial(rounded_advantage, name))
    clipped = objective.clip_high < INF
    gradient = sampled_gradient(objective, policy, ref, REWARD, beta, off_policy=clipped)
    if objective.placement == "reference":
        leaf = SEQUENCES.token_logp(policy)
        chance = SEQUENCES.seq_logp(ref).exp()
        total = policy.new_zeros(())
        for i, p in enumerate(chance):
            rows = slice(i, i + 1)
            ref_logp = SEQUENCES.token_logp(ref)[rows]
            total = total + p * objective.reference_loss(leaf[rows], ref_logp, SEQUENCES.mask[rows], beta=beta)[0]
        gradient = gradient + torch.autograd.grad(total, policy)[0]
    return gradient


def test_has_target_is_true_exactly_where_the_target_is_a_fixed_point() -> None:
    """At the target, the expected gradient over every group of two completions is 0 if and only if it says so."""
    ref, beta, seen = conditionals(2), 0.4, []
    for objective, options in legal_objectives():
        if options["advantage"] == "batch_normalised":  # its baseline is that of several prompts; here is one
            continue
        policy = conditionals_of(target_of(objective, ref, beta).exp()).requires_grad_()
        largest = float(expected_gradient(objective, policy, ref, beta).abs().max())
        assert largest < 1e-9 or largest > 1e-4, (options, largest)
        assert objective.has_target == (largest < 1e-9), (options, largest)
        seen.append((options, objective.has_target))
    assert len(seen) > 200
    true_for = [options for options, has_target in seen if has_target]
    assert {options["placement"] for options in true_for} == {"reward", "loss", "reference"}
    assert not any(options["level"] == "token" for options in true_for)
    # Control: what it said before, only that the advantage is of the shaped reward, is wrong for many of them.
    assert sum(not has_target and options["advantage"] != "max_at_k" for options, has_target in seen) > 100


def test_the_target_is_a_fixed_point_of_an_advantage_of_your_own_with_any_baseline() -> None:
    ref, beta = conditionals(2), 0.4
    for advantage, has_target in (
        (lambda reward, valid: reward - reward.amin(-1, keepdim=True), True),
        (lambda reward, valid: reward.exp() - reward.exp().mean(-1, keepdim=True), True),
        (lambda reward, valid: reward.exp(), False),  # control
    ):
        objective = Objective(direction="reverse", advantage=advantage, gamma=0.7)
        policy = conditionals_of(target_of(objective, ref, beta).exp()).requires_grad_()
        largest = float(expected_gradient(objective, policy, ref, beta).abs().max())
        assert objective.has_target == has_target == (largest < 1e-9)
        assert not replace(objective, placement="loss").has_target


@pytest.mark.parametrize(
    "options", [{}, {"gamma": 0.7}, {"length_normalised": True}, {"skip_tied_groups": True}, {"placement": "loss"}]
)
def test_training_settles_at_the_target_where_it_says_so(options: dict[str, Any]) -> None:
    """From a policy far away, by the expected natural gradient. Without a baseline some of them settle elsewhere."""
    ref, beta = conditionals(2), 0.4
    for advantage in ("leave_one_out", "no_baseline"):
        objective = Objective(direction="reverse", advantage=ADVANTAGES[advantage], **options)
        policy = conditionals(9)
        for _ in range(120):
            policy = policy.detach().requires_grad_()
            gradient = sampled_gradient(objective, policy, ref, REWARD, beta)
            reached = SEQUENCES.prefix_probability(policy.detach()).unsqueeze(-1)
            step = -0.5 / beta * gradient / (reached * policy.detach().softmax(-1)).clamp_min(1e-200)
            policy = (policy.detach() + step.clamp(-0.5, 0.5)).log_softmax(-1)
        settled = SEQUENCES.seq_logp(policy.detach()).exp()
        distance = float((settled - target_of(objective, ref, beta).exp()).abs().sum() / 2)
        assert distance < 1e-3 if objective.has_target else distance > 1e-2
        assert objective.has_target or advantage == "no_baseline"


# --- valid, complete, ties -------------------------------------------------------------------------------

OBJECTIVES = {
    f"{d}-{p}-{level}-{t}": Objective(
        direction=d,
        placement=p,
        level=level,
        alpha=ALPHA if d == "alpha" else None,
        entropy_coef=0.1,
        transform=partial(mara, threshold=0.5, direction=d, level=level) if t == "mara" else Objective.transform,
        threshold=make_threshold("constant", 0.5) if t == "mara" else None,
    )
    for (d, p), level, t in itertools.product(LEGAL, ("sequence", "token"), ("identity", "mara"))
    if t == "identity" or d == "reverse" or (d == "forward" and level == "sequence")
}


def batch(seed: int = 0) -> dict[str, Tensor]:
    """Two groups of five completions of up to three tokens."""
    mask = torch.arange(LENGTH) < 1 + torch.arange(10).reshape(2, 5, 1) % LENGTH
    return {
        "reward": torch.tensor([[1.0, 0.0, 1.0, 0.6, 0.2], [0.0, 1.0, 0.9, 0.1, 1.0]]).double(),
        "policy_logp": -random_logits(2, 5, LENGTH, seed=seed).abs(),
        "ref_logp": -random_logits(2, 5, LENGTH, seed=seed + 1).abs(),
        "mask": mask,
    }


def loss_and_gradient(objective: Objective, inputs: dict[str, Tensor], **options: Tensor):
    policy_logp = inputs["policy_logp"].clone().requires_grad_()
    loss, logged = objective.loss(**{**inputs, "policy_logp": policy_logp}, beta=0.3, **options)
    return loss.detach(), torch.autograd.grad(loss, policy_logp)[0], logged


@pytest.mark.parametrize("garbage", [2.0, NAN, INF, -INF])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_invalid_sample_has_no_effect(name: str, garbage: float) -> None:
    """Loss, gradient and every metric equal those of the group without it, whatever its values are."""
    inputs = batch()
    valid = torch.tensor([True, True, False, True, True]).expand(2, 5)
    without = {key: value[:, valid[0]] for key, value in inputs.items()}
    expected, expected_gradient, expected_log = loss_and_gradient(OBJECTIVES[name], without)
    dirty = dict(inputs)
    dirty["reward"] = inputs["reward"].masked_fill(~valid, garbage)
    for key in ("policy_logp", "ref_logp"):
        dirty[key] = inputs[key].masked_fill(~valid.unsqueeze(-1), garbage)
    loss, gradient, logged = loss_and_gradient(OBJECTIVES[name], dirty, valid=valid)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient[:, valid[0]], expected_gradient, rtol=1e-12, atol=1e-13)
    assert bool((gradient[:, ~valid[0]] == 0).all())
    assert logged.keys() == expected_log.keys()
    for key, value in logged.items():
        torch.testing.assert_close(value, expected_log[key], rtol=1e-12, atol=1e-13, msg=key)
    everything, _, _ = loss_and_gradient(OBJECTIVES[name], inputs)  # control
    assert not torch.allclose(everything, expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_groups_with_no_or_one_valid_sample_do_not_affect_other_groups(name: str) -> None:
    objective, inputs = OBJECTIVES[name], batch()
    valid = torch.tensor([[True] * 5, [False] * 5])
    alone = {key: value[:1] for key, value in inputs.items()}
    expected, expected_gradient, _ = loss_and_gradient(objective, alone)
    loss, gradient, _ = loss_and_gradient(objective, inputs, valid=valid)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[:1], expected_gradient)
    assert bool((gradient[1] == 0).all())

    valid = torch.tensor([[True, False, False, False, False]] * 2)
    _, gradient, _ = loss_and_gradient(objective, inputs, valid=valid)
    assert bool((gradient[:, 1:] == 0).all())
    assert bool(gradient.isfinite().all())
    in_baseline = (objective.placement, objective.level) == ("reward", "sequence")
    assert (
        bool((gradient == 0).all()) == in_baseline
    )  # a single sample has no advantage, but a KL term outside it remains

    none = torch.zeros(2, 5, dtype=torch.bool)
    loss, gradient, logged = loss_and_gradient(objective, inputs, valid=none)
    assert float(loss) == 0
    assert bool((gradient == 0).all())
    counts = {"mara/unchanged_groups", "mara/tied_groups"}
    assert all(bool(value.isnan()) for name, value in logged.items() if name not in counts)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("key", ["reward", "policy_logp", "ref_logp"])
def test_nan_in_a_valid_entry_is_an_error_that_names_it(name: str, key: str) -> None:
    inputs = batch()
    inputs[key] = inputs[key].clone()
    inputs[key][1, 2] = NAN
    with pytest.raises(ValueError, match=rf"{key} is NaN at \[1, 2\]"):
        loss_and_gradient(OBJECTIVES[name], inputs)
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, 2] = False
    loss_and_gradient(OBJECTIVES[name], inputs, valid=valid)  # control: marked as invalid


def test_shapes_are_checked() -> None:
    inputs = batch()
    for key, value in (("reward", inputs["reward"][:, :4]), ("mask", inputs["mask"][:1])):
        with pytest.raises(ValueError, match="shapes must match"):
            loss_and_gradient(OBJECTIVES["reverse-reward-sequence-mara"], {**inputs, key: value})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_tied_rewards_leave_the_kl_term(name: str) -> None:
    inputs = batch()
    for tied in (0.0, 1.0):  # none good, all good
        inputs["reward"] = torch.full((2, 5), tied).double()
        _, gradient, _ = loss_and_gradient(OBJECTIVES[name], inputs)
        assert float(gradient.abs().max()) > 1e-3
    if OBJECTIVES[name].placement == "reward" and OBJECTIVES[name].level == "sequence":
        without_entropy = Objective(direction="reverse")
        at_reference = {**inputs, "ref_logp": inputs["policy_logp"]}
        assert float(loss_and_gradient(without_entropy, at_reference)[1].abs().max()) == 0  # control: no KL there


def test_groups_with_tied_raw_rewards_can_be_skipped() -> None:
    inputs = batch()
    inputs["reward"] = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    options: dict[str, Any] = {
        "transform": "mara",  # its rewards differ even where the raw rewards are equal
        "threshold": {"kind": "constant", "value": 1.0},
        "advantage": "leave_one_out",
        "direction": "reverse",
    }
    keeping, skipping = (make_objective(**options, skip_tied_groups=flag) for flag in (False, True))
    inputs = {name: value[:2, :4] for name, value in inputs.items()}
    with_tied, without_tied = (loss_and_gradient(objective, inputs)[1] for objective in (keeping, skipping))
    assert with_tied[0].abs().max() > 1e-3  # by default the KL term moves a tied group
    assert without_tied[0].abs().max() == 0
    torch.testing.assert_close(without_tied[1], 2 * with_tied[1])  # the mean is over one group instead of two
    valid = torch.tensor([[True] * 4, [True, False, True, False]])
    all_tied = loss_and_gradient(skipping, inputs, valid=valid)[1]
    assert all_tied.abs().max() == 0  # the valid samples of both groups are tied


def test_tied_anchors_give_the_same_gradient_in_any_order() -> None:
    inputs = batch()
    inputs["ref_logp"] = torch.full((2, 5, LENGTH), -1.0).double()
    inputs["mask"] = torch.ones(2, 5, LENGTH, dtype=torch.bool)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = {key: value[:, order] for key, value in inputs.items()}
    for name in ("reverse-reward-sequence-mara", "forward-reward-sequence-mara"):
        _, gradient, _ = loss_and_gradient(OBJECTIVES[name], inputs)
        _, moved, _ = loss_and_gradient(OBJECTIVES[name], shuffled)
        torch.testing.assert_close(moved, gradient[:, order])
        assert not torch.allclose(moved, gradient)  # control


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_the_kl_term_uses_the_anchored_reference(placement: str) -> None:
    """Algorithm 2 by hand: good completions have R(z) in the reward and ref(z) in the KL term."""
    inputs, beta = batch(), 0.3
    ref = torch.where(inputs["mask"], inputs["ref_logp"], 0.0).sum(-1)
    policy = torch.where(inputs["mask"], inputs["policy_logp"], 0.0).sum(-1)
    reward, anchored = anchor_reference(inputs["reward"], ref, threshold=0.5)
    objective = Objective(
        direction="forward",
        placement=placement,
        transform=partial(mara, threshold=0.5, direction="forward"),
        max_log_weight=None,
    )
    _, gradient, _ = loss_and_gradient(objective, inputs)

    def by_hand(ref: Tensor) -> Tensor:
        inverse = (ref - policy).exp()  # 1/u
        shaped = reward + beta * inverse if placement == "reward" else reward
        advantage = (shaped - shaped.mean(-1, keepdim=True)) * 5 / 4
        coefficient = -advantage if placement == "reward" else -advantage + beta * (1 - inverse)
        return torch.where(inputs["mask"], coefficient.unsqueeze(-1) / 10, 0.0)

    torch.testing.assert_close(gradient, by_hand(anchored))
    assert not torch.allclose(gradient, by_hand(ref))  # control


def test_truncated_completions_keep_their_reward_count_in_the_baseline_and_are_never_good() -> None:
    objective = OBJECTIVES["reverse-reward-sequence-mara"]
    inputs = batch()
    complete = torch.ones(2, 5, dtype=torch.bool)
    complete[0, 2] = complete[1, 4] = False
    _, gradient, logged = loss_and_gradient(objective, inputs, complete=complete)

    # By hand: Algorithm 1 over the complete samples, leave-one-out over all.
    ref = torch.where(inputs["mask"], inputs["ref_logp"], 0.0).sum(-1)
    policy = torch.where(inputs["mask"], inputs["policy_logp"], 0.0).sum(-1)
    augmented = augment_reward(inputs["reward"], ref, beta=0.3, threshold=0.5, valid=complete)
    assert torch.equal(augmented[~complete], inputs["reward"][~complete])
    shaped = augmented - 0.3 * (policy - ref) - 0.1 * policy
    advantage = (shaped - shaped.mean(-1, keepdim=True)) * 5 / 4
    expected = torch.where(inputs["mask"], -advantage.unsqueeze(-1) / 10, 0.0)
    torch.testing.assert_close(gradient, expected)
    good = (inputs["reward"] >= 0.5) & complete
    assert float(logged["mara/good_share"]) == pytest.approx(float(good.double().mean()))

    # Controls: dropping them (valid) and treating them as complete both give another gradient.
    _, dropped, _ = loss_and_gradient(objective, inputs, valid=complete)
    _, as_complete, _ = loss_and_gradient(objective, inputs)
    assert not torch.allclose(dropped, gradient)
    assert not torch.allclose(as_complete, gradient)
    assert bool((dropped[~complete] == 0).all())
    assert bool((gradient[~complete][:, 0] != 0).all())
    # Both at once: invalid samples count nowhere, truncated ones count in the baseline.
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[:, 0] = False
    _, both, _ = loss_and_gradient(objective, inputs, complete=complete, valid=valid)
    rest = {key: value[:, 1:] for key, value in inputs.items()}
    _, expected, _ = loss_and_gradient(objective, rest, complete=complete[:, 1:])
    torch.testing.assert_close(both[:, 1:], expected)


# --- metrics ---------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_batch() -> None:
    inputs = batch()
    policy, ref = (torch.where(inputs["mask"], inputs[key], 0.0).sum(-1) for key in ("policy_logp", "ref_logp"))
    _, _, logged = loss_and_gradient(OBJECTIVES["reverse-reward-sequence-mara"], inputs)
    augmented = augment_reward(inputs["reward"], ref, beta=0.3, threshold=0.5)
    expected = {
        "reward/raw": inputs["reward"].mean(),
        "reward/augmented": augmented.mean(),
        "kl/reverse_nats": (policy - ref).mean(),
        "policy/entropy_nats": -policy.mean(),
        "mara/good_share": (inputs["reward"] >= 0.5).double().mean(),
    }
    for key, value in expected.items():
        torch.testing.assert_close(logged[key], value, msg=key)
    assert float(logged["reward/augmented"]) > float(logged["reward/raw"])  # control: they differ
    assert all(value.dim() == 0 and not value.requires_grad for value in logged.values())
    _, _, vanilla = loss_and_gradient(OBJECTIVES["reverse-reward-sequence-identity"], inputs)
    assert "mara/good_share" not in vanilla
    assert float(vanilla["reward/augmented"]) == float(vanilla["reward/raw"])


def test_forward_weights_are_logged() -> None:
    inputs = batch()
    policy, ref = (torch.where(inputs["mask"], inputs[key], 0.0).sum(-1) for key in ("policy_logp", "ref_logp"))
    _, _, logged = loss_and_gradient(Objective(direction="forward", max_log_weight=0.5), inputs)
    weight = (ref - policy).exp()
    size = (weight.sum(-1).square() / weight.square().sum(-1)).mean()
    torch.testing.assert_close(logged["weight/effective_sample_size"], size)
    torch.testing.assert_close(logged["weight/max"], weight.max())
    torch.testing.assert_close(logged["weight/capped_share"], (ref - policy > 0.5).double().mean())
    assert 0 < float(logged["weight/capped_share"]) < 1
    torch.testing.assert_close(logged["weight/mean"], weight.mean())
    _, _, free = loss_and_gradient(Objective(direction="forward", max_log_weight=None), inputs)
    assert float(free["weight/capped_share"]) == 0  # control


def test_groups_that_mara_leaves_unchanged_are_counted() -> None:
    objective = make_objective(
        transform="mara",
        threshold={"kind": "quantile", "value": 0.5},
        advantage="leave_one_out",
        direction="reverse",
    )
    inputs = batch()
    _, _, logged = loss_and_gradient(objective, inputs)
    assert int(logged["mara/tied_groups"]) == int(logged["mara/unchanged_groups"]) == 0  # control
    inputs["reward"][1] = 0.7
    _, _, logged = loss_and_gradient(objective, inputs)
    assert int(logged["mara/tied_groups"]) == int(logged["mara/unchanged_groups"]) == 1


# --- make_objective: parts by name, rejected combinations ------------------------------------------------

CONSTANT = {"kind": "constant", "value": 0.5}


def make(**options: Any) -> Objective:
    defaults = {
        "transform": "mara",
        "threshold": CONSTANT,
        "advantage": "leave_one_out",
        "direction": "reverse",
    }
    return make_objective(**{**defaults, **options})


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_make_objective_combines_the_named_parts(direction: str) -> None:
    inputs = batch()
    by_name = make(direction=direction, entropy_coef=0.1, transform_options={"anchor": "group"})
    by_hand = OBJECTIVES[f"{direction}-reward-sequence-mara"]
    torch.testing.assert_close(loss_and_gradient(by_name, inputs), loss_and_gradient(by_hand, inputs))
    other = make(direction=direction, advantage="centred", transform_options={"anchor": "group"})  # control
    assert not torch.allclose(loss_and_gradient(other, inputs)[1], loss_and_gradient(by_hand, inputs)[1])
    vanilla = make(transform="identity", threshold=None, direction=direction)
    assert vanilla.threshold is None


def test_thresholds_by_kind() -> None:
    reward = torch.tensor([[0.0, 1.0, 2.0]])
    assert make_threshold("constant", 0.8)(reward, None) == 0.8
    assert make_threshold("quantile", 0.75)(reward, None).tolist() == [[1.5]]
    assert make_threshold("quantile", 0.75, floor=1.7)(reward, None).tolist() == [[pytest.approx(1.7)]]
    with pytest.raises(ValueError, match="constant, quantile or reference_quantile, got 'rank'"):
        make_threshold("rank", 0.8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_normalised": True}, "length_normalised: must be false.*effective beta depend on length"),
        ({"gamma": 0.99}, r"gamma: must be 1.* got 0\.99: .*effective beta depend on length"),
        (
            {"advantage": "group_normalised", "placement": "loss"},
            "rarest good.*use placement=reward.*or advantage=leave_one_out; got placement=loss and level=sequence",
        ),
        (
            {"advantage": "group_normalised", "level": "token"},
            "rarest good.*use placement=reward and level=sequence.* got placement=reward and level=token",
        ),
        ({"direction": "forward", "level": "token"}, "level: must be sequence"),
        ({"transform_options": {"algorithm": 2}, "level": "token"}, "level: must be sequence"),
        ({"direction": "jensen_shannon", "transform_options": {"algorithm": 1}}, "algorithm: must be auto or 2"),
        ({"placement": "exact"}, "placement: must be one of reward, loss, reference, got exact"),
        ({"placement": "k3"}, "placement: must be one of"),
        ({"transform": "identity", "direction": "sideways"}, "direction: must be one of"),
        ({"level": "word"}, "level: must be one of sequence, token, reward_to_go, got word"),
        ({"transform": "maar"}, "transform: must be one of .*mara.*darling.*, got 'maar'"),
        ({"advantage": "gae"}, "advantage: must be one of .* got gae"),
        (
            {"transform": "identity", "length_normalised": True, "level": "token"},
            "use placement=loss or level=sequence",
        ),
        ({"transform": "identity", "direction": "jensen_shannon", "placement": "loss"}, "use placement=reward"),
    ],
)
def test_a_combination_that_breaks_the_mathematics_is_rejected_with_an_alternative(
    options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"advantage": "group_normalised"},
        {"placement": "loss"},
        {"direction": "forward"},
        {"transform": "identity", "length_normalised": True},
        {"transform": "identity", "gamma": 0.9},
        {"transform": "identity", "advantage": "group_normalised", "placement": "loss"},
        {"transform": "identity", "length_normalised": True, "level": "token", "placement": "loss"},
    ],
)
def test_the_alternatives_are_accepted(options: dict) -> None:
    make(**options)


def test_mara_without_a_kl_term_is_an_error() -> None:
    inputs = batch()
    with pytest.raises(ValueError, match=r"finite beta > 0, got 0.*use identity"):
        make().loss(**inputs, beta=0.0)
    make(transform="identity", threshold=None).loss(**inputs, beta=0.0)  # control


def test_probabilities_of_all_completions_and_of_all_groups_sum_to_one() -> None:
    """This checks the helpers that every enumeration relies on."""
    policy = conditionals(1)
    assert abs(float(SEQUENCES.seq_logp(policy).exp().sum()) - 1) < 1e-14
    for size in (1, 2, 5):
        members, log_orders = all_groups(4, size)
        logp = random_logp(4, seed=1)
        assert abs(float((log_orders + logp[members].sum(-1)).exp().sum()) - 1) < 1e-13
    # Multisets weighted with their number of orders give the same expectation as ordered groups.
    ordered = torch.tensor(list(itertools.product(range(4), repeat=3)))
    members, log_orders = all_groups(4, 3)
    first = float((logp[ordered].sum(-1).exp() * (ordered == 2).sum(-1)).sum())
    second = float(((log_orders + logp[members].sum(-1)).exp() * (members == 2).sum(-1)).sum())
    assert abs(first - second) < 1e-13
    assert abs(first - 3 * float(logp[2].exp())) < 1e-13
    assert abs(float(logp[members].sum(-1).exp().sum()) - 1) > 0.1  # control: without the orders
    back = conditionals_of(SEQUENCES.seq_logp(policy).exp())
    torch.testing.assert_close(back.log_softmax(-1), policy.log_softmax(-1))


# --- parts of a user's own ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnMara:
    """MARA under reverse KL, with a share of its correction."""

    strength: float = 1.0
    inputs: ClassVar[tuple[str, ...]] = ("threshold",)

    def __call__(
        self, reward: Tensor, ref_seq_logp: Tensor, *, beta: float, threshold: Any, valid: Any = None
    ) -> Any:
        low = threshold(reward, valid)
        reward = augment_reward(reward, ref_seq_logp, beta=self.strength * beta, threshold=low, valid=valid)
        return Transformed(reward, ref_seq_logp)


@dataclass(frozen=True)
class OwnBaseline:
    share: float

    def __call__(self, reward: Tensor, valid: Tensor | None = None) -> Tensor:
        return reward - self.share * reward.mean(-1, keepdim=True)


class UnknownInput(OwnMara):
    inputs: ClassVar[tuple[str, ...]] = ("threshold", "weather")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own")
    parts = {"OwnMara": OwnMara, "OwnBaseline": OwnBaseline, "UnknownInput": UnknownInput}
    vars(module).update(parts, reverse=DIVERGENCES["reverse"])
    monkeypatch.setitem(sys.modules, "own", module)


def gradient_of(**options: Any) -> Tensor:
    return loss_and_gradient(make(**options), batch())[1]


def test_parts_by_import_path_are_the_built_in_ones_that_they_copy(own: None) -> None:
    parts: dict[str, Any] = {"transform": "own:OwnMara", "transform_options": {}, "advantage": "own:OwnBaseline"}
    parts["advantage_options"] = {"share": 1.0}
    built_in = gradient_of(transform="mara", advantage="centred")
    torch.testing.assert_close(gradient_of(**parts), built_in)
    # Controls: other options give another gradient.
    for change in ({"transform_options": {"strength": 0.5}}, {"advantage_options": {"share": 0.5}}):
        assert not torch.allclose(gradient_of(**parts | change), built_in)
    with_divergence = gradient_of(transform="identity", direction="own:reverse")
    torch.testing.assert_close(with_divergence, gradient_of(transform="identity"))
    assert not torch.allclose(with_divergence, gradient_of(transform="identity", direction="forward"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"transform": "own:UnknownInput"},
            "transform: own:UnknownInput has the input weather;",
        ),
        (
            {"transform": "own:OwnMara", "threshold": None},
            "threshold: must be given with transform=own:O",
        ),
        ({"advantage": "own:OwnBaseline"}, "advantage: option share of OwnBaseline must be given"),
        (
            {"direction": "own:OwnBaseline", "transform": "identity"},
            "direction: option share of OwnBaseline must",
        ),
        (
            {"direction": "own:OwnMara", "transform": "identity"},
            "direction: own:OwnMara cannot be called",
        ),
        ({"direction": "own:reverse"}, "direction: must be one of reverse, forward, jensen_shannon, alpha with"),
    ],
)
def test_a_part_that_does_not_fit_is_an_error_that_names_the_key(own: None, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**options)
