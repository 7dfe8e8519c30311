"""Updates on completions of an earlier policy, and divergences on completions of the reference."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core.advantages import ADVANTAGES
from core.divergences import DIVERGENCES
from core.objective import Objective, make_objective
from core.transforms import class_diversity

from .enumeration import (
    ALPHA,
    DIRECTIONS,
    LOSS_DIRECTIONS,
    VOCABULARY,
    all_groups,
    all_sequences,
    divergence,
    exact_objective,
    expected_group_gradient,
    random_logits,
    token_level_divergence,
)

SEQUENCES = all_sequences()
PREFIXES = len(SEQUENCES.prefix_of)
LEGAL = [(d, p) for d in DIRECTIONS for p in ("reward", "loss") if p == "reward" or d in LOSS_DIRECTIONS]
BETA = 0.4


def off_policy_gradient(
    objective: Objective, policy: Tensor, behaviour: Tensor, ref: Tensor, reward: Tensor, tell: bool = True
) -> Tensor:
    """Expected gradient over every pair of completions of `behaviour`; `tell` the loss that they are."""
    members, log_orders = all_groups(len(SEQUENCES.tokens), 2)
    mask = SEQUENCES.mask[members]
    log_chance = log_orders + SEQUENCES.seq_logp(behaviour)[members].sum(-1)
    old = SEQUENCES.token_logp(behaviour)[members] if tell else None

    def loss(policy_logp: Tensor) -> Tensor:
        ref_logp = SEQUENCES.token_logp(ref)[members]
        return objective.loss(reward[members], policy_logp, ref_logp, mask, beta=BETA, behaviour_logp=old)[0]

    return expected_group_gradient(loss, SEQUENCES.token_logp(policy)[members], log_chance, policy)


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    policy, behaviour, ref = (random_logits(PREFIXES, VOCABULARY, seed=seed, scale=0.7) for seed in (1, 2, 3))
    return policy.requires_grad_(), behaviour, ref, random_logits(len(SEQUENCES.tokens), seed=4)


@pytest.mark.parametrize("advantage", ["leave_one_out", "no_baseline"])
@pytest.mark.parametrize("level", ["sequence", "token"])
@pytest.mark.parametrize(("direction", "placement"), LEGAL)
def test_without_clipping_the_gradient_is_that_of_the_current_policys_objective(
    direction: str, placement: str, level: str, advantage: str
) -> None:
    policy, behaviour, ref, reward = problem()
    objective = Objective(
        direction=direction,
        placement=placement,
        level=level,
        alpha=ALPHA if direction == "alpha" else None,
        advantage=ADVANTAGES[advantage],
        entropy_coef=0.3,
        ratio="sequence",
        max_log_weight=None,
    )
    chance, ref_chance = SEQUENCES.seq_logp(policy).exp(), SEQUENCES.seq_logp(ref).exp()
    value = exact_objective(chance, ref_chance, reward, BETA if level == "sequence" else 0.0, direction, 0.3)
    if level == "token":
        value = value - BETA * token_level_divergence(SEQUENCES, policy, ref, direction)
    exact = torch.autograd.grad(-value, policy)[0]
    sampled = off_policy_gradient(objective, policy, behaviour, ref, reward)
    torch.testing.assert_close(sampled, exact, rtol=1e-9, atol=1e-12)
    # Control: treat the completions as if the policy had sampled them.
    unweighted = off_policy_gradient(objective, policy, behaviour, ref, reward, tell=False)
    assert not torch.allclose(unweighted, exact, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("changes", [{"ratio": "token"}, {"ratio": "sequence", "clip_low": 0.1, "clip_high": 0.1}])
def test_token_ratios_and_clipping_are_approximations(changes: dict) -> None:
    policy, behaviour, ref, reward = problem()
    chance, ref_chance = SEQUENCES.seq_logp(policy).exp(), SEQUENCES.seq_logp(ref).exp()
    value = exact_objective(chance, ref_chance, reward, BETA, "reverse")
    exact = torch.autograd.grad(-value, policy)[0]
    biased = off_policy_gradient(Objective(direction="reverse", **changes), policy, behaviour, ref, reward)
    assert not torch.allclose(biased, exact, rtol=1e-2, atol=1e-3)
    on_policy = off_policy_gradient(Objective(direction="reverse", **changes), policy, policy.detach(), ref, reward)
    torch.testing.assert_close(on_policy, exact, rtol=1e-9, atol=1e-12)  # the first update is exact


@pytest.mark.parametrize("level", ["sequence", "token"])
@pytest.mark.parametrize("length_normalised", [False, True])
def test_the_first_update_is_that_of_the_on_policy_loss(level: str, length_normalised: bool) -> None:
    policy, _, ref, reward = problem()
    placement = "loss" if length_normalised else "reward"
    for ratio, name in itertools.product(("token", "sequence"), ("leave_one_out", "max_at_k", "group_normalised")):
        objective = make_objective(
            transform="identity",
            advantage=name,
            **{"direction": "reverse", "level": level, "placement": placement, "ratio": ratio},
            **{"clip_low": 0.2, "clip_high": 0.3, "length_normalised": length_normalised},
        )
        first = off_policy_gradient(objective, policy, policy.detach(), ref, reward)
        plain = off_policy_gradient(objective, policy, policy.detach(), ref, reward, tell=False)
        torch.testing.assert_close(first, plain, rtol=1e-9, atol=1e-12)


def coupling(transform: str, size: int, direction: str = "reverse", **options: Any) -> tuple[float, float]:
    """How far the off-policy gradient is from the on-policy one of the current policy, and the size of the latter.

    Three good completions of one token, of probability .55, .15 and .05 under the reference, and a bad one; beta .1.
    """
    ref = torch.tensor([0.55, 0.15, 0.05, 0.25], dtype=torch.float64).log()
    reward = torch.tensor([1, 1, 1, 0], dtype=torch.float64)
    policy = (ref + random_logits(4, seed=0, scale=0.7)).requires_grad_()
    behaviour = (ref + random_logits(4, seed=5, scale=0.7)).log_softmax(-1)
    objective = make_objective(
        direction=direction,
        transform=transform,
        transform_options=options,
        threshold={"kind": "constant", "value": 1.0},
        ratio="sequence",
        max_log_weight=None,
    )
    members, log_orders = all_groups(4, size)
    mask = torch.ones(*members.shape, 1, dtype=torch.bool)

    def gradient(sampling: Tensor, tell: bool) -> Tensor:
        def loss(leaf: Tensor) -> Tensor:
            return objective.loss(
                reward[members],
                leaf,
                ref[members].unsqueeze(-1),
                mask,
                beta=0.1,
                diversity=class_diversity(members).double(),
                behaviour_logp=sampling[members].unsqueeze(-1) if tell else None,
            )[0]

        logp = policy.log_softmax(-1)[members].unsqueeze(-1)
        return expected_group_gradient(loss, logp, log_orders + sampling[members].sum(-1), policy)

    on_policy = gradient(policy.detach().log_softmax(-1), tell=False)
    off_policy = gradient(behaviour, tell=True)
    return float((off_policy - on_policy).abs().max()), float(on_policy.abs().max())


@pytest.mark.parametrize(
    ("transform", "options", "at_2", "at_4"),
    [
        ("mara", {"direction": "reverse", "algorithm": "auto"}, 0.0024, 0.0012),
        ("mara", {"direction": "forward", "algorithm": "auto", "anchor": "group"}, 0.052, 0.020),
        ("unlikely", {"strength": 0.25}, 0.017, 0.015),
        ("darling", {}, 0.0, 0.042),  # two different completions are as diverse as can be
    ],
)
def test_transforms_that_compare_samples_are_approximations_off_policy(
    transform: str, options: dict, at_2: float, at_4: float
) -> None:
    """A sample's reward depends on others, which the behaviour policy sampled; docs/methods.md has the figures."""
    for size, expected in ((2, at_2), (4, at_4)):
        difference, gradient = coupling(transform, size, **options)
        assert 0.06 < gradient < 0.16
        assert difference == pytest.approx(expected, rel=0.05, abs=1e-12)
        direction = options.get("direction", "reverse")
        assert coupling("identity", size, direction)[0] < 1e-15  # control: the reward of a sample is its own


def test_bonuses_use_the_policy_that_sampled() -> None:
    """The bonus of differential smoothing depends on log pi_old and does not change with the policy."""
    objective = make_objective(
        transform="differential_smoothing",
        transform_options={"correct_coef": 1.0, "wrong_coef": 0.0},
        threshold={"kind": "constant", "value": 0.5},
        advantage="no_baseline",
        direction="reverse",
        ratio="sequence",
    )
    new, old = torch.tensor([[[-1.0], [-2.0]]]), torch.tensor([[[-1.5], [-1.0]]])
    leaf = new.clone().requires_grad_()
    loss, _ = objective.loss(
        torch.tensor([[1.0, 0.0]]), leaf, old, torch.ones(1, 2, 1, dtype=torch.bool), beta=0.0, behaviour_logp=old
    )
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert float(gradient[0, 0, 0]) == pytest.approx(-math.exp(0.5) * (1.0 + 1.5) / 2)  # ratio * (R - log pi_old) / 2
    assert float(gradient[0, 1, 0]) == 0


def test_a_discount_off_policy_is_an_error() -> None:
    logp, mask = torch.zeros(1, 2, 1, requires_grad=True), torch.ones(1, 2, 1, dtype=torch.bool)
    objective = Objective(direction="reverse", gamma=0.9)
    objective.loss(torch.ones(1, 2), logp, logp.detach(), mask, beta=0.1)
    with pytest.raises(ValueError, match=r"gamma must be 1 with completions of an earlier policy, got 0\.9"):
        objective.loss(torch.ones(1, 2), logp, logp.detach(), mask, beta=0.1, behaviour_logp=logp.detach())


@pytest.mark.parametrize("garbage", [2.0, math.nan, -math.inf])
def test_an_invalid_sample_has_no_effect(garbage: float) -> None:
    reward, mask = torch.tensor([[1.0, 0.0, 0.5]]), torch.ones(1, 3, 2, dtype=torch.bool)
    policy, old, ref = (-random_logits(1, 3, 2, seed=seed).abs().float() for seed in (1, 2, 3))
    valid = torch.tensor([[True, False, True]])
    for options in ({}, {"placement": "loss"}, {"level": "token"}):
        objective = Objective(direction="reverse", clip_low=0.2, clip_high=0.2, **options)
        rows = valid[0]
        alone = objective.loss(
            reward[:, rows], policy[:, rows], ref[:, rows], mask[:, rows], beta=0.3, behaviour_logp=old[:, rows]
        )[0]
        leaf, dirty_ref, dirty_old = (x.clone() for x in (policy, ref, old))
        for x in (leaf, dirty_ref, dirty_old):
            x[:, 1] = garbage
        leaf.requires_grad_()
        loss, _ = objective.loss(reward, leaf, dirty_ref, mask, beta=0.3, behaviour_logp=dirty_old, valid=valid)
        torch.testing.assert_close(loss, alone)
        assert bool(torch.autograd.grad(loss, leaf)[0].isfinite().all())


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"direction": "forward", "level": "token", "max_log_weight": None}, "set max_log_weight=auto"),
        ({"direction": "forward", "placement": "loss"}, "use placement=reward, fewer updates per batch"),
        ({"direction": "reverse", "placement": "loss"}, "use placement=reward, fewer updates per batch"),
        ({"direction": "reverse", "level": "token"}, "fewer updates per batch"),
    ],
)
def test_a_weight_that_overflows_is_an_error_that_says_what_to_do(options: dict[str, Any], advice: str) -> None:
    """log ref = -1 and log pi_behaviour = -200, so that neither is off the support, and both ratios are e^199."""
    objective = Objective(ratio="sequence", clip_low=0.2, clip_high=0.2, **options)
    reward, mask = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, 1, dtype=torch.bool)
    policy, ref, old = (torch.tensor([[[x], [-1.5]]]) for x in (-1.0, -2.0, -200.0))
    with pytest.raises(ValueError, match=rf"divergence is not finite at \[0, 0\].* too .*{advice}"):
        objective.loss(reward, policy.requires_grad_(), ref, mask, beta=0.3, behaviour_logp=old)
    loss, _ = objective.loss(reward, policy, ref, mask, beta=0.3, behaviour_logp=ref)  # control
    assert bool(torch.autograd.grad(loss, policy)[0].isfinite().all())


def test_a_clipped_update_with_the_kl_in_the_reward_is_finite_however_far_the_policy_is() -> None:
    objective = Objective(direction="reverse", ratio="sequence", clip_low=0.2, clip_high=0.2)
    mask = torch.ones(1, 2, 1, dtype=torch.bool)
    policy = torch.tensor([[[-1.0], [-1.5]]], requires_grad=True)
    old = torch.tensor([[[-200.0], [-1.5]]])
    for reward, overflows in (([[9.0, 0.0]], False), ([[-9.0, 0.0]], True)):
        arguments = torch.tensor(reward), policy, policy.detach(), mask
        if overflows:  # at a negative advantage nothing bounds the ratio
            with pytest.raises(ValueError, match="ratio of the policy to the one that sampled overflows"):
                objective.loss(*arguments, beta=0.3, behaviour_logp=old)
            continue
        loss, metrics = objective.loss(*arguments, beta=0.3, behaviour_logp=old)
        gradient = torch.autograd.grad(loss, policy)[0]
        assert gradient[0, 0] == 0 != gradient[0, 1]
        assert bool(gradient.isfinite().all())
        assert bool(loss.isfinite())
        assert float(metrics["update/clipped_share"]) == 0.5


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_completion_of_the_reference_that_the_policy_left_or_prefers_by_far(direction: str) -> None:
    """u log u and its like overflow at u = e^199, with an error that names the way out; -log u never does."""
    alpha = ALPHA if direction == "alpha" else None
    objective = Objective(direction=direction, placement="reference", alpha=alpha)
    near, far = (torch.tensor([[x]]) for x in (-1.0, -400.0))
    mask = torch.ones(1, 1, dtype=torch.bool)
    for policy, ref in ((near, far), (far, near)):
        leaf = policy.clone().requires_grad_()
        if ref is far and direction != "forward":
            with pytest.raises(
                ValueError,
                match=r"not finite at \[0\].*use direction=forward, whose term on completions of the",
            ):
                objective.reference_loss(leaf, ref, mask, beta=BETA)
            continue
        loss, _ = objective.reference_loss(leaf, ref, mask, beta=BETA)
        assert bool(loss.isfinite())
        assert bool(torch.autograd.grad(loss, leaf)[0].isfinite().all())


# --- completions of the reference ------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_reference_loss_has_the_value_and_gradient_of_the_divergence(direction: str) -> None:
    policy, _, ref, _ = problem()
    alpha = ALPHA if direction == "alpha" else None
    objective = Objective(direction=direction, placement="reference", alpha=alpha)
    ref_logp, ref_chance = SEQUENCES.token_logp(ref), SEQUENCES.seq_logp(ref).exp()
    each = [
        objective.reference_loss(SEQUENCES.token_logp(policy)[i], ref_logp[i], SEQUENCES.mask[i], beta=BETA)
        for i in range(len(SEQUENCES.tokens))
    ]
    total = sum(chance * loss for chance, (loss, _) in zip(ref_chance, each, strict=True))
    exact = divergence(SEQUENCES.seq_logp(policy).exp(), ref_chance, direction)
    gradients = [torch.autograd.grad(x, policy, retain_graph=True)[0] for x in (total, BETA * exact)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    logged = sum(c * m[f"kl/{direction}_from_reference_nats"] for c, (_, m) in zip(ref_chance, each, strict=True))
    torch.testing.assert_close(logged, exact.detach())
    other = "forward" if direction == "reverse" else "reverse"  # control
    wrong = torch.autograd.grad(BETA * divergence(SEQUENCES.seq_logp(policy).exp(), ref_chance, other), policy)[0]
    assert not torch.allclose(gradients[0], wrong, rtol=1e-2)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_loss_and_reference_loss_together_have_the_gradient_of_the_objective(direction: str) -> None:
    """The policy's completions give the reward and the entropy, those of the reference give the divergence."""
    policy, _, ref, reward = problem()
    alpha = ALPHA if direction == "alpha" else None
    objective = Objective(direction=direction, placement="reference", alpha=alpha, entropy_coef=0.3)
    on_policy = off_policy_gradient(objective, policy, policy.detach(), ref, reward, tell=False)
    chance, ref_chance = SEQUENCES.seq_logp(policy).exp(), SEQUENCES.seq_logp(ref).exp()
    terms = objective.reference_loss(
        SEQUENCES.token_logp(policy).unsqueeze(1),
        SEQUENCES.token_logp(ref).unsqueeze(1),
        SEQUENCES.mask.unsqueeze(1),
        beta=BETA,
    )
    assert terms[0].dim() == 0
    options = {"alpha": alpha} if alpha else {}
    each = DIVERGENCES[direction].form("reference")(SEQUENCES.seq_logp(policy), SEQUENCES.seq_logp(ref), **options)
    reference = torch.autograd.grad(BETA * (ref_chance * each).sum(), policy)[0]
    value = exact_objective(chance, ref_chance, reward, BETA, direction, 0.3)
    torch.testing.assert_close(on_policy + reference, torch.autograd.grad(-value, policy)[0], rtol=1e-9, atol=1e-12)
    assert float(reference.abs().max()) > 1e-3  # control


def test_placement_reference_needs_the_sequence_level_and_for_mara_the_forward_kl() -> None:
    defaults: dict[str, Any] = {
        "threshold": {"kind": "constant", "value": 0.5},
        "advantage": "leave_one_out",
        "direction": "forward",
        "placement": "reference",
    }
    make_objective(transform="identity", **defaults)
    with pytest.raises(ValueError, match="level: must be sequence with placement=reference"):
        make_objective(transform="identity", level="token", **defaults)
    with pytest.raises(
        ValueError, match=r"placement: cannot be reference with transform=mara unless direction=forward"
    ):
        make_objective(transform="mara", **{**defaults, "direction": "reverse"})
    make_objective(transform="mara", **defaults)
    with pytest.raises(ValueError, match="placement must be reference, got 'reward'"):
        Objective(direction="forward").reference_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), beta=1)
