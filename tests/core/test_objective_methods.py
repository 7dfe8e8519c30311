"""Each method of the comparison in a training step, over every group of outcomes."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from core.objective import Objective, make_objective
from core.transforms import class_diversity, mara

from .enumeration import (
    VOCABULARY,
    all_groups,
    all_sequences,
    expected_group_gradient,
    follow_gradient,
    one_token_gradient,
    random_logits,
    random_logp,
)

GOOD = {"kind": "constant", "value": 0.5}
REWARD = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
BETA, NAN = 0.4, math.nan


def make(transform: str = "identity", options: dict | None = None, **more: Any) -> Objective:
    defaults = {"advantage": "leave_one_out", "direction": "reverse"}
    return make_objective(transform=transform, transform_options=options, threshold=GOOD, **{**defaults, **more})


def group_loss(
    objective: Objective, reward: Tensor, ref: Tensor, beta: float, sampled: Tensor | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """For `one_token_gradient`: completions of one token, each sampled that often in earlier steps."""

    def loss(members: Tensor, policy_logp: Tensor) -> Tensor:
        return objective.loss(
            reward[members],
            policy_logp.unsqueeze(-1),
            ref[members].unsqueeze(-1),
            torch.ones(*members.shape, 1, dtype=torch.bool),
            beta=beta,
            diversity=class_diversity(members),
            answer_count=None if sampled is None else sampled[members],
        )[0]

    return loss


def gradient_of(value: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Gradient of minus a function of the log-probabilities."""
    parameters = logits.clone().requires_grad_()
    return torch.autograd.grad(-value(parameters.log_softmax(-1)), parameters)[0]


def expected_by_tuples(coefficient: Callable[[list[int]], list[float]], logits: Tensor, size: int) -> Tensor:
    """Gradient of -E[mean of coefficient * log pi], in loops over all ordered groups."""
    logp = logits.log_softmax(-1)
    total = torch.zeros_like(logits)
    for group in itertools.product(range(len(logits)), repeat=size):
        chance = float(logp[list(group)].sum().exp())
        for y, c in zip(group, coefficient(list(group)), strict=True):
            score = torch.eye(len(logits), dtype=logits.dtype)[y] - logits.softmax(-1)
            total = total - chance * c * score / size
    return total


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-12)


# --- best of k and pass@k beside the KL term and the entropy -----------------------------------------------


@pytest.mark.parametrize("placement", ["reward", "loss"])
@pytest.mark.parametrize(("k", "size"), [(None, 3), (2, 3), (3, 3)])
def test_best_of_k_adds_the_gradients_of_the_kl_and_the_entropy(placement: str, k: int | None, size: int) -> None:
    """The gradient is that of E[max of k]/k - beta KL + eta H at both placements."""
    logits, ref, reward = random_logits(4, seed=1), random_logp(4, seed=2), random_logits(4, seed=3)
    draws = torch.tensor(list(itertools.product(range(4), repeat=k or size)))

    def value(beta: float, entropy_coef: float) -> Callable[[Tensor], Tensor]:
        def of(logp: Tensor) -> Tensor:
            best = (logp[draws].sum(-1).exp() * reward[draws].amax(-1)).sum() / (k or size)
            return best - beta * (logp.exp() * (logp - ref)).sum() - entropy_coef * (logp.exp() * logp).sum()

        return of

    objective = make(advantage="max_at_k", advantage_k=k, placement=placement, entropy_coef=0.2)
    sampled = one_token_gradient(group_loss(objective, reward, ref, BETA), logits, size)
    torch.testing.assert_close(sampled, gradient_of(value(BETA, 0.2), logits), rtol=1e-9, atol=1e-12)
    for wrong in (value(2 * BETA, 0.2), value(BETA, 0.0)):  # controls
        assert not close(sampled, gradient_of(wrong, logits))
    # Control: the best of k rewards that contain the KL term is another objective.
    inside = Objective(direction="reverse", advantage=objective.advantage, entropy_coef=0.2)
    assert not close(one_token_gradient(group_loss(inside, reward, ref, BETA), logits, size), sampled)


def pass_at_k_by_subsets(good: list[bool], k: int) -> list[float]:
    subsets = list(itertools.combinations(range(len(good)), k))
    passed = {subset: float(any(good[i] for i in subset)) for subset in subsets}
    mean = sum(passed.values()) / len(subsets)
    std = math.sqrt(mean * (1 - mean))
    having = [[passed[s] for s in subsets if i in s] for i in range(len(good))]
    return [(sum(passes) / len(passes) - mean) / std if std else 0.0 for passes in having]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_depends_on_which_samples_are_good_and_not_on_their_rewards(k: int) -> None:
    logits, ref = random_logits(4, seed=1), random_logp(4, seed=2)
    reward = torch.tensor([0.5, 9.0, 0.4, -3.0], dtype=torch.float64)
    objective = make(advantage="pass_at_k", advantage_k=k)
    alone = one_token_gradient(group_loss(objective, reward, ref, 0.0), logits, 4)
    expected = expected_by_tuples(lambda y: pass_at_k_by_subsets([i < 2 for i in y], k), logits, 4)
    torch.testing.assert_close(alone, expected, rtol=1e-9, atol=1e-12)
    both = one_token_gradient(group_loss(objective, reward, ref, BETA), logits, 4)
    kl = gradient_of(lambda logp: -BETA * (logp.exp() * (logp - ref)).sum(), logits)
    torch.testing.assert_close(both - alone, kl, rtol=1e-9, atol=1e-12)
    other = expected_by_tuples(lambda y: pass_at_k_by_subsets([i < 3 for i in y], k), logits, 4)
    assert not close(alone, other)  # control: another threshold


def test_a_truncated_completion_is_never_good_for_pass_at_k_and_the_bonuses() -> None:
    reward, logp = torch.ones(1, 4), torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    complete = torch.tensor([[True, True, False, False]])
    mask = torch.ones(1, 4, 1, dtype=torch.bool)
    for options in (
        {"advantage": "pass_at_k", "advantage_k": 1},
        {"transform": "ucpo", "options": {"coef": 1.0}},
        {"transform": "differential_smoothing", "options": {"correct_coef": 1.0, "wrong_coef": 0.0}},
    ):
        leaf = logp.unsqueeze(-1).clone().requires_grad_()
        objective = make(**options)
        truncated = objective.loss(reward, leaf, leaf.detach(), mask, beta=0.0, complete=complete)[0]
        gradient = torch.autograd.grad(truncated, leaf)[0]
        assert bool((gradient[0, :2] != 0).any())
        good, not_good = (-gradient[0, [0]].mean(), -gradient[0, [2]].mean())
        if options.get("advantage"):
            assert good > 0 > not_good
        else:
            assert float(not_good) == 0
        whole = torch.autograd.grad(objective.loss(reward, leaf, leaf.detach(), mask, beta=0.0)[0], leaf)[0]
        assert not torch.allclose(whole, gradient)  # control


# --- bonuses -------------------------------------------------------------------------------------------------


def test_differential_smoothing_is_an_entropy_among_good_outcomes() -> None:
    logits, ref = random_logits(4, seed=1), random_logp(4, seed=2)
    coefficients = {"correct_coef": 0.3, "wrong_coef": 0.1}

    def value(correct: float, wrong: float) -> Callable[[Tensor], Tensor]:
        def of(logp: Tensor) -> Tensor:
            each = logp.exp() * (logp - 1)
            kl = (logp.exp() * (logp - ref)).sum()
            return (logp.exp() * REWARD).sum() - BETA * kl - correct * each[:3].sum() + wrong * each[3]

        return of

    objective = make("differential_smoothing", coefficients)
    sampled = one_token_gradient(group_loss(objective, REWARD, ref, BETA), logits, 3)
    torch.testing.assert_close(sampled, gradient_of(value(0.3, 0.1), logits), rtol=1e-9, atol=1e-12)
    for wrong in (value(0.3, 0.0), value(0.1, 0.3), value(0.0, 0.0)):  # controls
        assert not close(sampled, gradient_of(wrong, logits))


def ucpo_by_hand(group: list[int], logp: Tensor, coef: float) -> list[float]:
    good = [y for y in group if REWARD[y] > 0]
    total = sum(math.exp(logp[y]) for y in good)
    q = {y: math.exp(logp[y]) / total for y in good}
    entropy = -sum(q[y] * math.log(q[y]) for y in good)
    return [coef * (-math.log(q[y]) - entropy) if y in q else 0.0 for y in group]


def test_ucpo_over_every_group() -> None:
    logits, ref = random_logits(4, seed=1), random_logp(4, seed=2)
    objective, vanilla = make("ucpo", {"coef": 0.3}), make()
    sampled, plain = (one_token_gradient(group_loss(o, REWARD, ref, BETA), logits, 3) for o in (objective, vanilla))
    logp = logits.log_softmax(-1)
    expected = expected_by_tuples(lambda group: ucpo_by_hand(group, logp, 0.3), logits, 3)
    torch.testing.assert_close(sampled - plain, expected, rtol=1e-9, atol=1e-12)
    assert float(expected.abs().max()) > 1e-3  # control: the bonus is not zero
    even = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)  # equally likely good outcomes
    bonus, none = (one_token_gradient(group_loss(o, REWARD, ref, 0.0), even, 3) for o in (objective, vanilla))
    torch.testing.assert_close(bonus, none, atol=1e-14, rtol=0)


# --- reward transforms -----------------------------------------------------------------------------------------


def unlikely_by_hand(group: list[int], mean_logp: list[float], strength: float) -> list[float]:
    """The ranks of tied samples are averaged over all their orders."""
    rewards = [float(REWARD[y]) for y in group]
    orders = [
        order
        for order in itertools.permutations(range(len(group)))
        if all(mean_logp[group[a]] <= mean_logp[group[b]] for a, b in itertools.pairwise(order))
    ]
    ranks = [sum(order.index(i) for order in orders) / len(orders) for i in range(len(group))]
    return [r * (1 - strength * rank / len(group)) for r, rank in zip(rewards, ranks, strict=True)]


def test_unlikely_over_every_group() -> None:
    logits, ref = random_logits(4, seed=1), random_logp(4, seed=2)
    objective = make("unlikely", {"strength": 0.5}, advantage="no_baseline")
    sampled = one_token_gradient(group_loss(objective, REWARD, ref, 0.0), logits, 3)
    mean_logp = logits.log_softmax(-1).tolist()
    expected = expected_by_tuples(lambda group: unlikely_by_hand(group, mean_logp, 0.5), logits, 3)
    torch.testing.assert_close(sampled, expected, rtol=1e-9, atol=1e-12)
    other = expected_by_tuples(lambda group: unlikely_by_hand(group, [-x for x in mean_logp], 0.5), logits, 3)
    assert not close(sampled, other)  # control: the likeliest first


def test_unlikely_ranks_by_the_mean_over_tokens_in_a_step() -> None:
    """Two tokens of -1 each are as likely as one token of -1 by their mean, but not by their sum."""
    policy = torch.tensor([[[-1.0, -1.0], [-1.5, 0.0]]], requires_grad=True)
    mask = torch.tensor([[[True, True], [True, False]]])
    objective = make("unlikely", {"strength": 1.0}, advantage="no_baseline")
    loss, logged = objective.loss(torch.ones(1, 2), policy, policy.detach(), mask, beta=0.0)
    assert float(logged["reward/augmented"]) == pytest.approx((0.5 + 1) / 2)  # the second, of mean -1.5, has rank 0
    assert torch.autograd.grad(loss, policy)[0].tolist() == [[[-0.25, -0.25], [-0.5, 0.0]]]


def test_darling_over_every_group() -> None:
    """Without a baseline: E[R(y) * probability that another draw is another outcome]."""
    logits, ref = random_logits(4, seed=1), random_logp(4, seed=2)
    objective = make("darling", advantage="no_baseline")
    sampled = one_token_gradient(group_loss(objective, REWARD, ref, 0.0), logits, 3)
    p = logits.softmax(-1)
    detached = gradient_of(lambda logp: (logp.exp() * REWARD * (1 - p)).sum(), logits)
    torch.testing.assert_close(sampled, detached, rtol=1e-9, atol=1e-12)
    plain = gradient_of(lambda logp: (logp.exp() * REWARD).sum(), logits)
    assert not close(sampled, plain)  # control


def test_darling_needs_the_diversity_of_each_sample() -> None:
    logp, mask = torch.zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool)
    objective = make("darling")
    with pytest.raises(ValueError, match="needs the diversity of each sample, but diversity is None"):
        objective.loss(torch.ones(1, 2), logp, logp, mask, beta=0.1)
    objective.loss(torch.ones(1, 2), logp, logp, mask, beta=0.1, diversity=torch.ones(1, 2))  # control


# --- invalid samples -----------------------------------------------------------------------------------------

METHODS = {
    "max_at_k": {"advantage": "max_at_k"},
    "mean_normalised": {"advantage": "mean_normalised"},
    "pass_at_k": {"advantage": "pass_at_k", "advantage_k": 2},
    "unlikely": {"transform": "unlikely", "options": {"strength": 0.3}},
    "differential_smoothing": {
        "transform": "differential_smoothing",
        "options": {"correct_coef": 0.3, "wrong_coef": 0.1},
    },
    "ucpo": {"transform": "ucpo", "options": {"coef": 0.3}},
    "darling": {"transform": "darling"},
}


@pytest.mark.parametrize("garbage", [2.0, NAN, math.inf, -math.inf])
@pytest.mark.parametrize("name", METHODS)
def test_an_invalid_sample_has_no_effect(name: str, garbage: float) -> None:
    objective = make(**METHODS[name])
    reward = torch.tensor([[1.0, 0.0, 9.0, 0.6, 0.2], [0.0, 1.0, 9.0, 0.1, 1.0]], dtype=torch.float64)
    policy, ref = -random_logits(2, 5, 3, seed=1).abs(), -random_logits(2, 5, 3, seed=2).abs()
    mask = torch.ones(2, 5, 3, dtype=torch.bool)
    valid = torch.tensor([True, True, False, True, True]).expand(2, 5)
    diversity = class_diversity(torch.tensor([[1, 1, 2, 3, 4], [1, 2, 3, 1, 2]]), valid).double()

    def run(rows: Tensor, **more: Tensor) -> tuple[Tensor, Tensor, dict]:
        leaf = policy[:, rows].clone().requires_grad_()
        more = {key: value[:, rows] for key, value in more.items()}
        loss, logged = objective.loss(
            reward[:, rows], leaf, ref[:, rows], mask[:, rows], beta=0.3, diversity=diversity[:, rows], **more
        )
        return loss.detach(), torch.autograd.grad(loss, leaf)[0], logged

    loss, gradient, logged = run(valid[0])
    reward, policy, ref = reward.clone(), policy.clone(), ref.clone()
    for tensor in (reward, policy, ref, diversity):
        tensor[:, 2] = garbage
    dirty_loss, dirty_gradient, dirty_log = run(torch.ones(5, dtype=torch.bool), valid=valid)
    torch.testing.assert_close(dirty_loss, loss, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(dirty_gradient[:, valid[0]], gradient, rtol=1e-12, atol=1e-13)
    assert bool((dirty_gradient[:, 2] == 0).all())
    for key, value in logged.items():
        torch.testing.assert_close(dirty_log[key], value, rtol=1e-12, atol=1e-13, msg=key)


# --- Algorithm 2 and the placement of the KL -------------------------------------------------------------------


def test_algorithm_two_needs_a_baseline_over_rewards_that_include_the_kl() -> None:
    """With the KL in the loss, the KL term of a sample depends on how often it is its own anchor."""
    ref = torch.tensor([0.55, 0.15, 0.05, 0.25], dtype=torch.float64).log()

    def shares(direction: str, algorithm: int, placement: str) -> Tensor:
        objective = make("mara", {"algorithm": 1 if direction == "reverse" else 2}, direction=direction)
        transform = partial(mara, direction=direction, algorithm=algorithm)
        objective = replace(objective, transform=transform, transform_inputs=("threshold",), placement=placement)
        loss = group_loss(objective, REWARD, ref, 0.03)
        good = follow_gradient(loss, ref, size=2, rate=10.0, steps=700)[:3]
        return good / good.sum()

    for direction, algorithm in (("reverse", 1), ("reverse", 2), ("forward", 2)):
        assert float((shares(direction, algorithm, "reward") - 1 / 3).abs().max()) < 2e-3
        skewed = float((shares(direction, algorithm, "loss") - 1 / 3).abs().max())
        assert skewed < 1e-6 if algorithm == 1 else skewed > 0.1
    make("mara", {"algorithm": 1}, placement="loss")
    for direction in ("reverse", "forward"):
        with pytest.raises(ValueError, match="anchor: must be auto or remembered with MARA's Algorithm 2"):
            make("mara", {"algorithm": 2, "anchor": "group"}, direction=direction, placement="loss")


@pytest.mark.parametrize("direction", ["reverse", "forward", "jensen_shannon", "alpha"])
def test_a_divergence_that_is_infinite_is_an_error_and_not_nan(direction: str) -> None:
    alpha = 2.0 if direction == "alpha" else None
    objective = Objective(direction=direction, alpha=alpha)
    policy, ref = torch.full((1, 3, 1), -1.0), torch.tensor([[[-1.0], [-math.inf], [-2.0]]])
    arguments = torch.tensor([[1.0, 0.0, 0.5]]), policy.requires_grad_(), ref, torch.ones(1, 3, 1, dtype=torch.bool)
    if direction in ("reverse", "alpha"):
        with pytest.raises(ValueError, match=rf"{direction} divergence is not finite at \[0, 1\].*not valid"):
            objective.loss(*arguments, beta=0.1)
    else:
        loss, _ = objective.loss(*arguments, beta=0.1)
        assert bool(torch.autograd.grad(loss, policy)[0].isfinite().all())
    valid = torch.tensor([[True, False, True]])
    assert bool(objective.loss(*arguments, beta=0.1, valid=valid)[0].isfinite())  # control


def test_alpha_belongs_to_its_direction() -> None:
    for options in ({"direction": "alpha"}, {"direction": "reverse", "alpha": 0.5}):
        with pytest.raises(
            ValueError, match=r"alpha: (must be a finite number .*|is only used) with direction=alpha"
        ):
            Objective(**options)
    with pytest.raises(
        ValueError, match=r"alpha: must be a finite number other than 0 and 1 .*got 1\.0; .*instead of 1 use"
    ):
        Objective(direction="alpha", alpha=1.0)
    Objective(direction="alpha", alpha=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": "pass_at_k"}, "advantage_k: must be given with advantage=pass_at_k"),
        (
            {"advantage_k": 3},
            "advantage_k: is only used with advantage=max_at_k or pass_at_k.*got 3 with advantage=leave_one_out",
        ),
        (
            {"advantage": "pass_at_k", "advantage_k": 2, "threshold": None},
            "threshold: must be given with advantage=pass_at_k",
        ),
        (
            {"transform": "ucpo", "transform_options": {"coef": 0.1}, "threshold": None},
            "threshold: must be given with transform=ucpo",
        ),
        (
            {"transform": "unlikely", "transform_options": {"strength": 0.1}, "threshold": None},
            "threshold: must be given with transform=unlikely",
        ),
        (
            {"transform": "darling", "advantage": "group_normalised"},
            "cannot be group_normalised.*without division.*use advantage=centred or leave_one_out",
        ),
        ({"transform": "darling", "advantage": "pass_at_k", "advantage_k": 2}, "which samples are good"),
        (
            {"transform": "mara", "advantage": "max_at_k"},
            "that of the expected reward; use advantage=leave_one_out",
        ),
    ],
)
def test_a_combination_of_a_method_is_rejected_with_an_alternative(options: dict, message: str) -> None:
    defaults = {"transform": "identity", "threshold": GOOD, "advantage": "leave_one_out"}
    with pytest.raises(ValueError, match=message):
        make_objective(**{**defaults, "direction": "reverse", **options})


def test_has_target_is_true_where_the_optimum_is_known() -> None:
    assert make().has_target
    assert make("mara").has_target
    assert make(advantage="group_normalised").has_target
    assert not any(make(**options).has_target for options in METHODS.values())


def test_the_two_ways_of_enumerating_agree() -> None:
    """`expected_by_tuples` and `all_groups` agree on the same coefficients."""
    logits = random_logits(4, seed=5)
    members, log_orders = all_groups(4, 3)
    parameters = logits.clone().requires_grad_()
    logp = parameters.log_softmax(-1)
    chance = log_orders + logp[members].sum(-1)
    merged = expected_group_gradient(
        lambda leaf: -(members.double() * leaf).mean(), logp[members], chance, parameters
    )
    torch.testing.assert_close(merged, expected_by_tuples(lambda y: [float(i) for i in y], logits, 3))
    assert not close(merged, expected_by_tuples(lambda y: [float(i > 0) for i in y], logits, 3))


# --- GRPO as published --------------------------------------------------------------------------------------

SEQUENCES = all_sequences()
GRPO: dict[str, Any] = {  # method=grpo; tests/conf/test_compose.py compares the file with it
    "advantage": "group_normalised_sample_std",
    "direction": "forward",
    "level": "token",
    "placement": "loss",
    "length_normalised": True,
    "clip_low": 0.2,
    "clip_high": 0.2,
    "ratio": "token",
}


def published_grpo(
    policy: Tensor, sampling: Tensor, ref: Tensor, reward: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """Equations 3 and 4 of arXiv:2402.03300 for one group, [G, T] log-probabilities: what is maximised."""
    tied = len(set(reward.tolist())) == 1
    advantage = torch.zeros_like(reward) if tied else (reward - reward.mean()) / reward.std(correction=1)
    total = torch.zeros((), dtype=policy.dtype)
    for i in range(len(reward)):
        terms = torch.zeros((), dtype=policy.dtype)
        for t in range(int(mask[i].sum())):
            ratio = (policy[i, t] - sampling[i, t]).exp()
            clipped = ratio.clamp(0.8, 1.2)
            k3 = (ref[i, t] - policy[i, t]).exp() - (ref[i, t] - policy[i, t]) - 1
            terms = terms + torch.min(ratio * advantage[i], clipped * advantage[i]) - beta * k3
        total = total + terms / mask[i].sum()
    return total / len(reward)


def grpo_gradients(
    objective: Objective, size: int, beta: float, sampling: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Expected gradients over all groups: of `Objective.loss`, and by autograd of minus the published formula."""
    rows = len(SEQUENCES.prefix_of)
    policy, ref = (random_logits(rows, VOCABULARY, seed=seed, scale=0.7) for seed in (1, 2))
    policy.requires_grad_()
    reward = random_logits(len(SEQUENCES.tokens), seed=3)
    members, log_orders = all_groups(len(SEQUENCES.tokens), size)
    behaviour = policy.detach() if sampling is None else sampling
    logp, ref_logp, old_logp = (SEQUENCES.token_logp(logits)[members] for logits in (policy, ref, behaviour))
    log_chance = log_orders + SEQUENCES.seq_logp(behaviour)[members].sum(-1)
    mask = SEQUENCES.mask[members]

    def loss(leaf: Tensor) -> Tensor:
        tell = None if sampling is None else old_logp
        return objective.loss(reward[members], leaf, ref_logp, mask, beta=beta, behaviour_logp=tell)[0]

    each = [
        published_grpo(logp[i], old_logp[i], ref_logp[i], reward[members[i]], mask[i], beta)
        for i in range(len(members))
    ]
    value = (log_chance.exp().detach() * torch.stack(each)).sum()
    published = torch.autograd.grad(-value, policy, retain_graph=True)[0]
    return expected_group_gradient(loss, logp, log_chance, policy), published


@pytest.mark.parametrize("size", [2, 3])
def test_grpo_has_the_gradient_of_the_published_formula(size: int) -> None:
    ours, published = grpo_gradients(make(**GRPO), size, beta=0.3)
    assert close(ours, published)


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": "group_normalised"},  # the population's standard deviation
        {"direction": "reverse"},  # k2 of each token
        {"level": "sequence"},
        {"length_normalised": False},
        {"advantage": "group_normalised", "direction": "reverse", "level": "sequence", "length_normalised": False},
    ],
)
def test_each_part_of_grpo_matters(changes: dict) -> None:
    """Controls; the last one is method=grpo_sequence_kl."""
    other, published = grpo_gradients(make(**GRPO | changes), 2, beta=0.3)
    assert not torch.allclose(other, published, rtol=1e-2)


def test_grpo_clips_as_published_and_weights_the_kl_of_later_updates() -> None:
    """Off-policy the published KL term has no importance weight, and so another expectation."""
    sampling = random_logits(len(SEQUENCES.prefix_of), VOCABULARY, seed=4, scale=0.7)
    ours, published = grpo_gradients(make(**GRPO), 2, beta=0.0, sampling=sampling)
    assert close(ours, published)
    unclipped, _ = grpo_gradients(make(**GRPO | {"clip_low": 1.0, "clip_high": math.inf}), 2, 0.0, sampling)
    assert not torch.allclose(unclipped, published, rtol=1e-2)  # control
    ours, published = grpo_gradients(make(**GRPO), 2, beta=0.3, sampling=sampling)
    assert not torch.allclose(ours, published, rtol=1e-2)
