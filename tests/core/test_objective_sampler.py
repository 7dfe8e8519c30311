"""Completions that another program sampled, with probabilities that are not exactly the policy's."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core.advantages import ADVANTAGES
from core.classes import make_class_memory
from core.mara import augment_reward
from core.objective import Objective, make_objective
from core.rules import Choices

from .enumeration import (
    ALPHA,
    DIRECTIONS,
    LOSS_DIRECTIONS,
    VOCABULARY,
    all_groups,
    all_sequences,
    exact_objective,
    expected_group_gradient,
    random_logits,
    token_level_divergence,
)

SEQUENCES = all_sequences()
PREFIXES = len(SEQUENCES.prefix_of)
LEGAL = [(d, p) for d in DIRECTIONS for p in ("reward", "loss") if p == "reward" or d in LOSS_DIRECTIONS]
BETA = 0.4
POLICY, SAMPLER, REF, OLD = (random_logits(PREFIXES, VOCABULARY, seed=seed, scale=0.7) for seed in (1, 2, 3, 5))
REWARD = random_logits(len(SEQUENCES.tokens), seed=4)


def expected_gradient(objective: Objective, policy: Tensor, old: Tensor | None = None, **changes: Any) -> Tensor:
    """Expected gradient over every pair of completions of the sampler."""
    members, log_orders = all_groups(len(SEQUENCES.tokens), 2)
    sampler = changes.get("sampler", SAMPLER)
    chance = log_orders + SEQUENCES.seq_logp(sampler)[members].sum(-1)
    told = SEQUENCES.token_logp(sampler)[members] if changes.get("tell", True) else None

    def loss(policy_logp: Tensor) -> Tensor:
        return objective.loss(
            REWARD[members],
            policy_logp,
            SEQUENCES.token_logp(REF)[members],
            SEQUENCES.mask[members],
            beta=BETA,
            behaviour_logp=None if old is None else SEQUENCES.token_logp(old)[members],
            sampler_logp=told,
        )[0]

    return expected_group_gradient(loss, SEQUENCES.token_logp(policy)[members], chance, policy)


def exact_gradient(policy: Tensor, direction: str, level: str = "sequence", entropy_coef: float = 0.0) -> Tensor:
    chance, ref = SEQUENCES.seq_logp(policy).exp(), SEQUENCES.seq_logp(REF).exp()
    value = exact_objective(chance, ref, REWARD, BETA if level == "sequence" else 0.0, direction, entropy_coef)
    if level == "token":
        value = value - BETA * token_level_divergence(SEQUENCES, policy, REF, direction)
    return torch.autograd.grad(-value, policy)[0]


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("level", ["sequence", "token"])
@pytest.mark.parametrize(("direction", "placement"), LEGAL)
def test_without_a_bound_the_gradient_is_that_of_the_policys_completions(
    direction: str, placement: str, level: str, updates: int
) -> None:
    policy = POLICY.clone().requires_grad_()
    objective = Objective(
        direction=direction,
        placement=placement,
        level=level,
        alpha=ALPHA if direction == "alpha" else None,
        entropy_coef=0.3,
        ratio="sequence",
        max_log_weight=None,
        sampler_correction="truncate",
    )
    old = OLD if updates == 2 else None  # the second update's ratio is that to the policy before the first
    exact = exact_gradient(policy, direction, level, 0.3)
    torch.testing.assert_close(expected_gradient(objective, policy, old), exact, rtol=1e-9, atol=1e-12)
    # Control: treat the completions as if the policy had sampled them.
    assert not torch.allclose(expected_gradient(objective, policy, old, tell=False), exact, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("correction", ["truncate", "mask"])
@pytest.mark.parametrize("bound", [1.0, 1.5, 3.0])
def test_the_bias_of_a_bound(correction: str, bound: float) -> None:
    """What the gradient lacks is E_pi[(1 - C/w)+ A grad log pi], or E_pi[1{w > C} A grad log pi] with masks."""
    policy = POLICY.clone().requires_grad_()
    options: dict[str, Any] = {"direction": "reverse", "advantage": ADVANTAGES["no_baseline"]}
    objective = Objective(**options, sampler_correction=correction, sampler_bound=bound)
    log_pi, log_mu, log_ref = (SEQUENCES.seq_logp(x) for x in (policy, SAMPLER, REF))
    weight = (log_pi - log_mu).exp().detach()
    lost = (1 - bound / weight).clamp_min(0) if correction == "truncate" else (weight > bound).double()
    advantage = (REWARD - BETA * (log_pi - log_ref)).detach()
    lacking = torch.autograd.grad(-(log_pi.exp().detach() * lost * advantage * log_pi).sum(), policy)[0]
    sampled, exact = expected_gradient(objective, policy), exact_gradient(policy, "reverse")
    torch.testing.assert_close(sampled + lacking, exact, rtol=1e-9, atol=1e-12)
    assert float(lacking.abs().max()) > 1e-3  # control: there is something to lack
    # `lost_mass` measures it: the policy's probability that is lost.
    each = [objective.loss(**whole(i), beta=BETA)[1]["rollout/lost_mass"] for i in range(len(log_mu))]
    mean = (log_mu.exp() * torch.stack(each)).sum()
    torch.testing.assert_close(mean, (log_pi.exp() * lost).sum().detach())
    largest = float(advantage.abs().max()) * float((log_pi.exp() * lost).sum().detach())
    assert float(lacking.abs().max()) <= largest  # a gradient of a log-softmax has entries within +-1


def whole(index: int) -> dict[str, Tensor]:
    """The arguments of `Objective.loss` for a group of one completion."""
    names = {"policy_logp": POLICY, "ref_logp": REF, "sampler_logp": SAMPLER}
    values = {name: SEQUENCES.token_logp(logits)[index][None, None] for name, logits in names.items()}
    return {"reward": REWARD[index][None, None], "mask": SEQUENCES.mask[index][None, None], **values}


@pytest.mark.parametrize("correction", ["truncate", "mask", "none"])
def test_at_equality_nothing_changes(correction: str) -> None:
    """Bit for bit, in loss, gradient and metrics, whatever the correction, the loss and the level."""
    members, _ = all_groups(len(SEQUENCES.tokens), 3)
    arguments = (REWARD[members], *(SEQUENCES.token_logp(x)[members] for x in (POLICY, REF)), SEQUENCES.mask[members])
    losses: list[dict[str, Any]] = [
        {},
        {"placement": "loss"},
        {"level": "token"},
        {"policy_loss": "cispo", "clip_low": 0.2, "clip_high": 0.2},
        {"policy_loss": "kl_cov", "policy_loss_options": {"share": 0.1, "coef": 1.0}},
        {"policy_loss": "flowrl", "length_normalised": True},
    ]
    for options in losses:
        plain = Objective(direction="reverse", **options)
        corrected = Objective(direction="reverse", **options, sampler_correction=correction, sampler_bound=2.0)
        results = []
        for objective, told in ((plain, None), (corrected, arguments[1])):
            leaf = arguments[1].clone().requires_grad_()
            loss, metrics = objective.loss(
                arguments[0], leaf, arguments[2], arguments[3], beta=BETA, sampler_logp=told
            )
            results.append((loss, torch.autograd.grad(loss, leaf)[0], metrics))
        (loss, gradient, metrics), (other_loss, other_gradient, other) = results
        assert torch.equal(loss, other_loss)
        assert torch.equal(gradient, other_gradient)
        assert {name: other[name] for name in metrics} == metrics
        assert {name for name in other if name not in metrics} > {"rollout/token_kl_nats", "rollout/lost_mass"}
        assert all(float(other[name]) == ("weight_" in name) for name in other if name.startswith("rollout/"))


def test_flowrl_and_cispo_are_weighted() -> None:
    """The weight multiplies each completion's term: two completions of weight 1 and 3 instead of 1 and 1."""
    mask = torch.ones(1, 2, 1, dtype=torch.bool)
    policy, sampler = torch.tensor([[[-1.0], [-1.0]]]), torch.tensor([[[-1.0], [-1.0 - math.log(3)]]])
    for options in ({"policy_loss": "cispo"}, {}, {"placement": "loss", "advantage": ADVANTAGES["no_baseline"]}):
        gradients = []
        for told in (None, sampler):
            leaf = policy.clone().requires_grad_()
            objective = Objective(direction="reverse", sampler_correction="truncate", **options)
            loss, _ = objective.loss(
                torch.tensor([[1.0, 2.0]]), leaf, policy - 0.5, mask, beta=BETA, sampler_logp=told
            )
            gradients.append(torch.autograd.grad(loss, leaf)[0].flatten())
        torch.testing.assert_close(gradients[1], gradients[0] * torch.tensor([1.0, 3.0]))
    flow = Objective(direction="reverse", policy_loss="flowrl", length_normalised=True, sampler_correction="truncate")
    reward, leaf = torch.tensor([[1.0, 0.0]]), policy.clone().requires_grad_()
    loss, _ = flow.loss(reward, leaf, policy, mask, beta=BETA, sampler_logp=sampler)
    residual = -(reward - 0.5 * reward.sum()) / BETA  # the advantage is centred by leave-one-out, times 2
    residual = 2 * residual
    log_z = -(residual[0, 0] + 3 * residual[0, 1]) / 4
    expected = BETA / 2 * ((residual[0, 0] + log_z) ** 2 + 3 * (residual[0, 1] + log_z) ** 2) / 2
    torch.testing.assert_close(loss.detach(), expected)


# --- MARA ----------------------------------------------------------------------------------------------------

ONE_REF = torch.tensor([0.55, 0.15, 0.05, 0.25], dtype=torch.float64).log()
ONE_REWARD = torch.tensor([1, 1, 1, 0], dtype=torch.float64)
MARA_BETA = 0.3
AUGMENTED = augment_reward(ONE_REWARD, ONE_REF, beta=MARA_BETA, threshold=1.0)  # with the anchor of all outcomes
TARGET = (ONE_REF + AUGMENTED / MARA_BETA).log_softmax(-1)  # uniform on the good ones
UNEVEN = torch.tensor([1.2, -0.3, -0.9, 0.2], dtype=torch.float64)  # how the sampler differs from the policy


def one_token_objective(**options: Any) -> Objective:
    """MARA with an anchor that does not depend on the group: its rewards are those of the outcomes."""
    return Objective(direction="reverse", **{"sampler_correction": "truncate", "sampler_bound": 1.1, **options})


def sampler_gradient(objective: Objective, policy: Tensor, sampler: Tensor, size: int = 2) -> Tensor:
    members, log_orders = all_groups(4, size)
    parameters = policy.detach().clone().requires_grad_()
    mask = torch.ones(*members.shape, 1, dtype=torch.bool)

    def loss(leaf: Tensor) -> Tensor:
        return objective.loss(
            AUGMENTED[members],
            leaf,
            ONE_REF[members][..., None],
            mask,
            beta=MARA_BETA,
            sampler_logp=sampler[members][..., None],
        )[0]

    logp = parameters.log_softmax(-1)[members][..., None]
    return expected_group_gradient(loss, logp, log_orders + sampler[members].sum(-1), parameters)


def settle(objective: Objective, steps: int = 400) -> Tensor:
    """Where the expected natural gradient leads, with a sampler that follows the policy but always differs."""
    policy = ONE_REF
    for _ in range(steps):
        sampler = (policy + UNEVEN).log_softmax(-1)
        step = -0.5 / MARA_BETA * sampler_gradient(objective, policy, sampler) / policy.exp().clamp_min(1e-300)
        policy = (policy + step.clamp(-0.3, 0.3)).log_softmax(-1)
    return policy


@pytest.mark.parametrize("correction", ["truncate", "mask", "none"])
@pytest.mark.parametrize("bound", [1.0, 1.5, None])
def test_maras_optimum_is_a_fixed_point_under_every_correction(correction: str, bound: float | None) -> None:
    """All advantages are 0 there, so that no weight can move it."""
    objective = one_token_objective(sampler_correction=correction, sampler_bound=bound)
    for seed in range(3):
        sampler = random_logits(4, seed=seed, scale=1.5).log_softmax(-1)
        assert float(sampler_gradient(objective, TARGET, sampler).abs().max()) < 1e-12
        assert float(sampler_gradient(objective, ONE_REF, sampler).abs().max()) > 1e-3  # control
    off = one_token_objective(sampler_correction=correction, sampler_bound=bound, advantage=ADVANTAGES["no_baseline"])
    gradient = float(sampler_gradient(off, TARGET, random_logits(4, seed=0, scale=1.5).log_softmax(-1)).abs().max())
    assert (gradient < 1e-12) == (bound is None and correction != "none")  # control: without a baseline it moves


def test_truncation_leads_to_maras_optimum_and_without_a_baseline_elsewhere() -> None:
    settled = settle(one_token_objective())
    torch.testing.assert_close(settled, TARGET, rtol=0, atol=1e-6)
    assert float((settled[:3].exp() - 1 / 3).abs().max()) < 0.01
    elsewhere = settle(one_token_objective(advantage=ADVANTAGES["no_baseline"]))  # refused by the rules
    assert float((elsewhere.exp() - TARGET.exp()).abs().max()) > 0.05
    assert one_token_objective().has_target
    assert not one_token_objective(advantage=ADVANTAGES["no_baseline"]).has_target
    assert Objective(direction="reverse", advantage=ADVANTAGES["no_baseline"]).has_target


def test_masks_have_further_fixed_points() -> None:
    """Two outcomes above the bound keep any values whose mean under the sampler is that of the others."""
    sampler = torch.tensor([0.6, 0.05, 0.05, 0.3], dtype=torch.float64).log()
    shift = torch.tensor([0, 0.1, -0.1, 0], dtype=torch.float64)  # equal weights of the sampler: the mean is 0
    policy = (TARGET + shift / MARA_BETA).log_softmax(-1)
    assert float((policy - TARGET).abs().max()) > 0.1
    masked = one_token_objective(sampler_correction="mask", sampler_bound=1.5)
    truncated = one_token_objective(sampler_correction="truncate", sampler_bound=1.5)
    assert float(sampler_gradient(masked, policy, sampler).abs().max()) < 1e-12
    assert float(sampler_gradient(truncated, policy, sampler).abs().max()) > 1e-3


@pytest.mark.parametrize("size", [2, 4])
def test_group_anchors_are_even_under_truncation(size: int) -> None:
    """MARA as configured, whose anchor is that of the group, at a beta where its own bias is small."""
    objective = make_objective(
        direction="reverse",
        transform="mara",
        threshold={"kind": "constant", "value": 1.0},
        sampler_correction="truncate",
        sampler_bound=1.1,
    )
    members, log_orders = all_groups(4, size)
    mask = torch.ones(*members.shape, 1, dtype=torch.bool)
    policy = ONE_REF
    for _ in range(150):
        sampler = (policy + UNEVEN).log_softmax(-1)
        parameters = policy.clone().requires_grad_()

        def loss(leaf: Tensor, sampler: Tensor = sampler) -> Tensor:
            told, ref = sampler[members][..., None], ONE_REF[members][..., None]
            return objective.loss(ONE_REWARD[members], leaf, ref, mask, beta=0.05, sampler_logp=told)[0]

        logp = parameters.log_softmax(-1)[members][..., None]
        gradient = expected_group_gradient(loss, logp, log_orders + sampler[members].sum(-1), parameters)
        policy = (policy + (-6 * gradient / policy.exp().clamp_min(1e-300)).clamp(-0.3, 0.3)).log_softmax(-1)
    assert float((policy[:3].exp() - 1 / 3).abs().max()) < 1e-3
    assert float((ONE_REF[:3].exp() / 0.75 - 1 / 3).abs().max()) > 0.2  # control: where it started


def test_masses_of_answers_are_estimated_with_the_samplers_probabilities() -> None:
    """The mean of ref/mu over the sampler's completions is the reference's mass; that of ref/pi is not."""
    choices = Choices(direction="reverse", transform="mara", classes="answer", mass="group", threshold=True)
    assert make_class_memory(choices) is not None
    seen: list[Tensor] = []
    objective = make_objective(
        direction="reverse",
        transform="mara",
        transform_options={"level": "answer", "mass": "group"},
        threshold={"kind": "constant", "value": 1.0},
        sampler_correction="truncate",
    )

    def masses(facts: Any) -> Any:
        seen.append(facts.log_weight)
        raise StopIteration

    policy, sampler, ref = (torch.tensor([[[x], [x - 1]]]) for x in (-1.0, -3.0, -2.0))
    arguments = torch.ones(1, 2), policy, ref, torch.ones(1, 2, 1, dtype=torch.bool)
    for told in (sampler, None):
        with pytest.raises(StopIteration):
            objective.loss(*arguments, beta=0.1, sampler_logp=told, masses=masses)
    assert seen[0].tolist() == [[1.0, 1.0]]
    assert seen[1].tolist() == [[-1.0, -1.0]]  # control: without a sampler, ref/pi


def test_an_invalid_sample_of_the_sampler_has_no_effect() -> None:
    objective = Objective(direction="reverse", sampler_correction="truncate", sampler_bound=2.0)
    mask, valid = torch.ones(1, 3, 2, dtype=torch.bool), torch.tensor([[True, False, True]])
    policy, ref, sampler = (random_logits(1, 3, 2, seed=seed) - 2 for seed in (1, 2, 3))
    reward = torch.tensor([[1.0, 9.0, 0.0]], dtype=torch.float64)
    alone = objective.loss(
        reward[:, ::2], policy[:, ::2], ref[:, ::2], mask[:, ::2], beta=0.1, sampler_logp=sampler[:, ::2]
    )
    dirty = sampler.clone()
    dirty[:, 1] = math.nan
    whole_group = objective.loss(reward, policy, ref, mask, beta=0.1, sampler_logp=dirty, valid=valid)
    torch.testing.assert_close(whole_group[0], alone[0])
    for name, value in alone[1].items():
        torch.testing.assert_close(whole_group[1][name], value, equal_nan=True, msg=name)
    with pytest.raises(ValueError, match="sampler_logp is NaN"):
        objective.loss(reward, policy, ref, mask, beta=0.1, sampler_logp=dirty)
    with pytest.raises(ValueError, match="sampler_correction must be set"):
        Objective(direction="reverse").loss(reward, policy, ref, mask, beta=0.1, sampler_logp=sampler)
