"""Weights of forward KL and alpha divergences: the cap that leaves the optimum where it is, and what is logged."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from core import divergences
from core.objective import Objective
from core.targets import forward_kl_target
from core.transforms import Transformed, mara
from core.weights import log_weight_cap, sampler_mismatch, sampler_weight

from .enumeration import ALPHA, all_groups, divergence, follow_gradient, random_logits, random_logp

REF = torch.tensor([0.55, 0.15, 0.05, 0.25], dtype=torch.float64).log()
ANCHORED = torch.tensor([0.55, 0.55, 0.55, 0.25], dtype=torch.float64).log()  # ref' of Algorithm 2, which sums to 1.9
REWARD = torch.tensor([1, 1, 1, 0], dtype=torch.float64)
FEW_BAD = torch.tensor([0.6, 0.2, 0.19, 0.01], dtype=torch.float64).log()
NEAR_UNIFORM = torch.tensor([0.34, 0.33, 0.32, 0.01], dtype=torch.float64).log()


def anchored(reward: Tensor, ref_seq_logp: Tensor, *, beta: float, valid: Tensor | None = None) -> Transformed:
    """Algorithm 2 with one anchor for all groups."""
    good = reward == 1
    return Transformed(reward, torch.where(good, REF[0].expand_as(ref_seq_logp), ref_seq_logp))


def follow(beta: float, start: Tensor = REF, *, size: int = 2, rate: float = 0.6, steps: int = 500, **options: Any):
    """The [4] probabilities that the expected gradient over all groups leads to, under forward KL."""
    objective = Objective(**{"direction": "forward", **options})

    def loss(members: Tensor, logp: Tensor) -> Tensor:
        mask = torch.ones(*members.shape, 1, dtype=torch.bool)
        return objective.loss(REWARD[members], logp[..., None], REF[members][..., None], mask, beta=beta)[0]

    return follow_gradient(loss, start, size=size, rate=rate, steps=steps)


def distance(policy: Tensor, target_logp: Tensor) -> float:
    return float((policy - target_logp.exp()).abs().sum() / 2)


# --- the bound -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beta", [0.03, 0.3, 3.0])
def test_weights_at_the_forward_optimum_are_bounded_by_the_sum_of_the_reference(beta: float, seed: int) -> None:
    """w = c + (E[R] - R)/beta, c the sum of ref, so w <= c + range/beta, and no group exceeds its own cap."""
    reward, ref = random_logits(6, seed=seed), random_logp(6, seed=seed + 10, scale=2.0)
    for shift in (0.0, math.log(7.0)):  # normalised, and as after Algorithm 2
        total = math.exp(shift)
        target = forward_kl_target(ref + shift, reward, beta)
        weight = (ref + shift - target).exp()
        mean_reward = (target.exp() * reward).sum()
        torch.testing.assert_close(weight, total + (mean_reward - reward) / beta, rtol=1e-8, atol=1e-8)
        span = float(reward.max() - reward.min())
        assert float(weight.max()) <= total + span / beta
        # Control: with c = 1 the bound of an unnormalised reference is wrong where range/beta is not large.
        assert shift == 0 or beta < 1 or float(weight.max()) > 1 + span / beta
        members, _ = all_groups(6, 3)
        cap = log_weight_cap(weight.log()[members] if shift else None, reward[members], 1 / beta, span)
        assert bool((weight.log()[members] <= cap).all())


@pytest.mark.parametrize("alpha", [-0.5, 0.4, 1.7])
def test_weights_at_the_optimum_of_an_alpha_divergence_are_below_the_cap(alpha: float) -> None:
    reward, ref, beta = random_logits(5, seed=1), random_logp(5, seed=2), 3.0  # no outcome drops out
    logits = ref.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        logp = logits.log_softmax(-1)
        value = beta * divergences.exact_alpha(logp, ref, alpha=alpha) - (logp.exp() * reward).sum()
        value.backward()
        return value

    optimiser.step(loss)
    weight = ((alpha - 1) * (logits.detach().log_softmax(-1) - ref)).exp()
    gaps = weight.unsqueeze(1) - weight
    expected = (alpha - 1) * (reward.unsqueeze(1) - reward) / beta
    torch.testing.assert_close(gaps, expected, rtol=1e-3, atol=1e-3)
    members, _ = all_groups(5, 3)
    log_weight = weight.log()[members]
    assert bool((log_weight <= log_weight_cap(log_weight, reward[members], abs(alpha - 1) / beta, 1e-9)).all())
    assert float(gaps.max()) > 0.5 * abs(alpha - 1) * float(reward.max() - reward.min()) / beta  # control: not loose


# --- the fixed point -------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("options", [{}, {"transform": anchored}], ids=["identity", "algorithm 2"])
def test_the_cap_leaves_the_target_where_it_is(options: dict, beta: float) -> None:
    ref = ANCHORED if options else REF
    target = forward_kl_target(ref, REWARD, beta)
    assert distance(follow(beta, FEW_BAD, **options), target) < 1e-4


def test_the_bound_of_a_normalised_reference_removes_the_bad_outcome_under_algorithm_2() -> None:
    """Control: c is the sum of ref', 1.9, and not 1."""
    target = forward_kl_target(ANCHORED, REWARD, 0.3)
    caps = {total: math.log(total + 1 / 0.3) for total in (1.0, 1.9)}
    assert distance(follow(0.3, transform=anchored, max_log_weight=caps[1.0]), target) > 0.04
    assert distance(follow(0.3, transform=anchored, max_log_weight=caps[1.9]), target) < 1e-4


def test_a_lower_cap_takes_mass_from_bad_outcomes_until_it_is_below_the_reference_of_the_good() -> None:
    """The good outcomes hold 1.65 of ref': their weights average to that once they have all mass."""
    policy = follow(0.3, transform=anchored, max_log_weight=math.log(2.0))
    assert policy.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-3)
    too_low = follow(0.3, transform=anchored, max_log_weight=math.log(1.1))  # control
    assert too_low[:3].tolist() == pytest.approx([0.5, 0.375, 0.125], abs=1e-2)


@pytest.mark.parametrize(("size", "beta"), [(2, 0.3), (4, 1.0)])
def test_the_cap_does_not_bind_with_one_anchor_for_each_group(size: int, beta: float) -> None:
    transform = partial(mara, threshold=1.0, direction="forward")
    options: dict[str, Any] = {"transform": transform, "size": size, "steps": 150}
    free = follow(beta, NEAR_UNIFORM, max_log_weight=None, **options)
    torch.testing.assert_close(follow(beta, NEAR_UNIFORM, **options), free, rtol=0, atol=1e-6)
    low = follow(beta, NEAR_UNIFORM, max_log_weight=0.7, **options)  # control
    assert float((low - free).abs().max()) > 1e-3


@pytest.mark.parametrize(("direction", "alpha"), [("forward", None), ("alpha", ALPHA), ("alpha", 1.7)])
@pytest.mark.parametrize("cap", [0.3, 50.0])
def test_in_the_loss_the_weight_of_the_gradient_is_that_of_the_reward(
    direction: str, alpha: float | None, cap: float
) -> None:
    policy, ref = random_logp(7, seed=4, scale=1.5).requires_grad_(), random_logp(7, seed=5)
    options = {} if alpha is None else {"alpha": alpha}
    form = divergences.DIVERGENCES[direction].form
    loss = form("loss")(policy, ref, max_log_weight=cap, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), policy)
    reward = form("reward")(policy, ref, max_log_weight=cap, **options)
    shift = 1.0 if direction == "forward" else 0.0  # f' without its constant
    torch.testing.assert_close(gradient, reward + shift)
    free = form("reward")(policy, ref, **options)
    assert torch.equal(free, reward) == (cap == 50)  # control


# --- over sequences --------------------------------------------------------------------------------------


def long_group() -> dict[str, Tensor]:
    """One group of 16 completions of 50 to 500 tokens, whose log-probabilities differ by .5 nats a token."""
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(50, 501, (1, 16, 1), generator=generator)
    mask = torch.arange(500) < length
    gap = 0.5 * torch.randn(1, 16, 500, generator=generator) + 0.5
    logp = torch.full((1, 16, 500), -2.0)
    reward = torch.arange(16.0).unsqueeze(0) % 2
    return {"reward": reward, "policy_logp": logp - gap, "ref_logp": logp, "mask": mask}


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_weights_over_long_sequences_stay_finite(placement: str) -> None:
    inputs = long_group()
    policy_logp = inputs["policy_logp"].requires_grad_()
    free = Objective(direction="forward", placement=placement, max_log_weight=None)
    with pytest.raises(ValueError, match=r"forward divergence is not finite.*: set max_log_weight=auto") as error:
        free.loss(**inputs, beta=0.03)  # control
    assert "direction=forward" not in str(error.value)
    loss, logged = Objective(direction="forward", placement=placement).loss(**inputs, beta=0.03)
    (gradient,) = torch.autograd.grad(loss, policy_logp)
    assert float(gradient.abs().max()) < 1
    assert float(logged["weight/capped_share"]) > 0.5


def test_rewards_wider_than_the_range_are_told_once_there_is_a_cap() -> None:
    reward = torch.tensor([[0.0, 3.0], [1.0, 7.0]])
    assert "objective.reward_range: the rewards of a step range over 7" in str(
        Objective(direction="forward").wide_rewards(reward)
    )
    valid = torch.tensor([[False, False], [True, False]])
    assert Objective(direction="forward").wide_rewards(reward, valid) is None
    for options in ({"reward_range": 7.0}, {"max_log_weight": None}, {"direction": "reverse"}):
        assert Objective(**{"direction": "forward", **options}).wide_rewards(reward) is None


# --- measuring the divergence ----------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "jensen_shannon", "alpha"])
@pytest.mark.parametrize("seed", range(3))
def test_the_measured_divergence_is_the_divergence(direction: str, seed: int) -> None:
    """Expectations over both sample sets, by repeating each outcome in proportion to its probability."""
    counts = [torch.randint(1, 9, (6,), generator=torch.Generator().manual_seed(seed + i)) for i in (0, 50)]
    policy, ref = (count / count.sum() for count in (count.double() for count in counts))
    samples = [torch.arange(6).repeat_interleave(count) for count in counts]
    logp = policy.log(), ref.log()
    objective = Objective(direction=direction, alpha=ALPHA if direction == "alpha" else None)
    policy_samples, reference_samples = ((logp[0][rows], logp[1][rows]) for rows in samples)
    measured = objective.measure_divergence(policy_samples, reference_samples)
    exact = divergence(policy, ref, direction)
    torch.testing.assert_close(measured[f"kl/{direction}_from_reference_nats"], exact)
    torch.testing.assert_close(measured["kl/forward_from_reference_nats"], divergence(policy, ref, "forward"))
    wrong = objective.measure_divergence(policy_samples, policy_samples)  # control
    assert not torch.allclose(wrong[f"kl/{direction}_from_reference_nats"], exact)


@pytest.mark.parametrize(
    ("direction", "saturated", "exact"),
    [("forward", 1.0, 400.0), ("jensen_shannon", math.log(2) / 2, math.log(2)), ("alpha", 1 / 0.6, 1 / 0.24)],
)
def test_once_the_policy_has_left_only_the_measured_divergence_is_right(
    direction: str, saturated: float, exact: float
) -> None:
    """Policy and reference share no typical completion: log u is 400 on samples of the one and -400 of the other."""
    own = torch.full((8,), -10.0), torch.full((8,), -410.0)
    objective = Objective(direction=direction, alpha=ALPHA if direction == "alpha" else None)
    measured = objective.measure_divergence(own, (own[1], own[0]))[objective.kl_metric(measured=True)]
    assert float(measured) == pytest.approx(exact)
    group = {"policy_logp": own[0].view(1, 8, 1), "ref_logp": own[1].view(1, 8, 1)}
    mask = torch.ones(1, 8, 1, dtype=torch.bool)
    _, logged = objective.loss(torch.arange(8.0).unsqueeze(0), mask=mask, beta=0.1, **group)
    assert float(logged[objective.kl_metric(measured=False)]) == pytest.approx(saturated)  # control
    assert float(logged["weight/mean"]) < 1e-30


def test_the_metric_to_trust_depends_on_the_direction() -> None:
    assert Objective(direction="reverse").kl_metric(measured=True) == "kl/reverse_nats"
    assert Objective(direction="forward").kl_metric(measured=True) == "kl/forward_from_reference_nats"
    assert Objective(direction="forward").kl_metric(measured=False) == "kl/forward_nats"
    fresh = Objective(direction="forward", placement="reference")
    assert fresh.kl_metric(measured=False) == "kl/forward_from_reference_nats"


# --- metrics of skipped groups ---------------------------------------------------------------------------


def test_metrics_describe_all_valid_samples_also_those_of_skipped_groups() -> None:
    keeping, skipping = (Objective(direction="reverse", skip_tied_groups=flag) for flag in (False, True))
    reward = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    logp, ref = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]), torch.tensor([[-2.0, -2.0], [-2.0, -2.0]])
    arguments = reward, logp.unsqueeze(-1), ref.unsqueeze(-1), torch.ones(2, 2, 1, dtype=torch.bool)
    logged = [objective.loss(*arguments, beta=0.1)[1] for objective in (keeping, skipping)]
    for name in ("reward/raw", "kl/reverse_nats", "policy/entropy_nats"):
        assert float(logged[1][name]) == float(logged[0][name]) != 0
    tied = (torch.ones(2, 2), *arguments[1:])
    loss, all_tied = skipping.loss(*tied, beta=0.1)
    assert float(loss) == 0
    assert float(all_tied["reward/raw"]) == 1
    assert float(all_tied["kl/reverse_nats"]) == pytest.approx(-0.5)
    assert math.isnan(float(all_tied["advantage/std"]))  # there is no advantage


# --- completions that another program sampled ------------------------------------------------------------------


def test_weights_of_another_sampler():
    policy = torch.tensor([[-1.0, -2.0, -3.0, -90.0]])
    sampler = torch.tensor([[-1.0, -2.5, -1.0, -1.0]])
    exact = torch.tensor([[1.0, math.exp(0.5), math.exp(-2.0), math.exp(-89.0)]])
    for correction, bound, expected in (
        ("truncate", None, exact),
        ("mask", None, exact),
        ("truncate", 1.2, exact.clamp(max=1.2)),
        ("mask", 1.2, torch.where(exact > 1.2, 0.0, exact)),
        ("none", 1.2, torch.ones_like(exact)),
    ):
        weight = sampler_weight(policy, sampler, correction=correction, bound=bound)
        torch.testing.assert_close(weight, expected)
        assert float(weight[0, 0]) == 1
    far = torch.tensor([[-1.0]]), torch.tensor([[-500.0]])
    assert float(sampler_weight(*far, correction="truncate", bound=3.0)) == pytest.approx(3.0)
    with pytest.raises(ValueError, match=r"the weight of a completion overflows: its log is 499, so that"):
        sampler_weight(*far, correction="truncate", bound=None)
    with pytest.raises(ValueError, match="correction must be truncate, mask or none, got 'clip'"):
        sampler_weight(*far, correction="clip", bound=None)


def test_the_mismatch_of_a_sampler_has_the_enumerated_divergences():
    """The means over the sampler's outcomes are KL(mu || pi) and the mass that a bound takes away."""
    generator = torch.Generator().manual_seed(0)
    policy, sampler = (torch.randn(6, generator=generator).double().log_softmax(-1) for _ in range(2))
    one = torch.ones(1, dtype=torch.bool)
    means: dict[str, float] = {}
    for i, chance in enumerate(sampler.exp()):
        values = policy[i][None], sampler[i][None]
        weight = sampler_weight(*values, correction="truncate", bound=1.3)
        for name, value in sampler_mismatch(values[0][:, None], values[1][:, None], one[:, None], weight).items():
            means[name] = means.get(name, 0.0) + float(chance * value)
    kl = float((sampler.exp() * (sampler - policy)).sum())
    assert means["rollout/sequence_kl_nats"] == pytest.approx(kl)
    assert means["rollout/token_kl_nats"] == pytest.approx(kl)  # of one token
    assert means["rollout/lost_mass"] == pytest.approx(float((policy.exp() - 1.3 * sampler.exp()).clamp_min(0).sum()))
    bounded = policy - sampler > math.log(1.3)
    assert 0 < means["rollout/bounded_share"] == pytest.approx(float(sampler.exp()[bounded].sum()))
    assert kl != pytest.approx(float((policy.exp() * (policy - sampler)).sum()))  # control: the other direction


def test_the_mismatch_counts_tokens_and_completions():
    policy, sampler = torch.tensor([[-1.0, -2.0], [-1.0, 5.0]]), torch.tensor([[-1.5, -2.25], [-3.0, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    weight = torch.tensor([2.0, 2.0])
    metrics = sampler_mismatch(policy, sampler, mask, weight)
    assert float(metrics["rollout/token_gap_nats"]) == pytest.approx((0.5 + 0.25 + 2) / 3)
    assert float(metrics["rollout/token_gap_max_nats"]) == 2
    assert float(metrics["rollout/sequence_gap_nats"]) == pytest.approx((0.75 + 2) / 2)
    assert float(metrics["rollout/weight_max"]) == pytest.approx(math.exp(2))
    assert float(metrics["rollout/bounded_share"]) == 1
    first = sampler_mismatch(policy, sampler, mask, weight, torch.tensor([True, False]))
    assert float(first["rollout/sequence_gap_max_nats"]) == pytest.approx(0.75)
    none = sampler_mismatch(policy, sampler, mask, weight, torch.tensor([False, False]))
    assert all(math.isnan(float(value)) for value in none.values())
