"""Advantages for trainers: their expected gradient over all groups is the objective's, and what is remembered."""

import json
from dataclasses import replace

import pytest
import torch

from core.classes import StepMasses, make_class_memory
from core.integrations.estimator import MaraEstimator, MaraSettings, prompt_key
from core.targets import reverse_kl_target

from ..enumeration import all_groups, random_logp

REWARD = torch.tensor([1.0, 1.0, 1.0, 0.2], dtype=torch.float64)
LABELS = ("a", "b", "b", "c")
REF = torch.tensor([0.5, 0.1, 0.1, 0.3], dtype=torch.float64).log()
BETA, G = 0.1, 4
SETTINGS = MaraSettings(beta=BETA, threshold=0.9)


def expected_gradient(settings, policy_logp, estimator=None):
    """[A] gradient of the expected loss with respect to the outcomes' logits, over all groups of G."""
    members, log_orders = all_groups(len(REF), G)
    chance = (log_orders + policy_logp[members].sum(-1)).exp()
    estimator = MaraEstimator(settings) if estimator is None else estimator
    advantage, _ = estimator.advantages(
        REWARD[members],
        policy_logp[members],
        REF[members],
        prompts=["x"] * len(members),
        labels=[[LABELS[i] for i in row] for row in members.tolist()],
        rows=G * len(members),
    )
    return to_logits(-chance[:, None] * advantage / G, members, policy_logp)


def to_logits(coefficient, members, policy_logp):
    """[A] gradient of sum coefficient log pi(outcome) with respect to the logits."""
    weight = torch.zeros_like(policy_logp).index_add(0, members.flatten(), coefficient.flatten())
    return weight - policy_logp.exp() * weight.sum()


@pytest.mark.parametrize("level", ["sequence", "answer"])
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_gradient_is_that_of_the_objective(direction, level):
    settings = replace(SETTINGS, direction=direction, level=level, mass="group", anchor="group")
    policy = random_logp(4, seed=0)
    memory = make_class_memory(settings.choices())
    members, log_orders = all_groups(4, G)
    labels = [[LABELS[i] for i in row] for row in members.tolist()]
    leaf = policy[members].unsqueeze(-1).requires_grad_()
    loss, _ = settings.objective().loss(
        REWARD[members],
        leaf,
        REF[members].unsqueeze(-1),
        torch.ones_like(leaf, dtype=torch.bool),
        beta=BETA,
        masses=None if memory is None else StepMasses(memory, ["x"] * len(members), labels),
    )
    (gradient,) = torch.autograd.grad(loss, leaf)
    chance = (log_orders + policy[members].sum(-1)).exp()
    expected = to_logits(chance[:, None] * gradient.squeeze(-1) * len(members), members, policy)
    torch.testing.assert_close(expected_gradient(settings, policy), expected)
    assert not torch.allclose(expected_gradient(replace(settings, beta=2 * BETA), policy), expected)  # control


@pytest.mark.parametrize("level", ["sequence", "answer"])
def test_the_optimum_of_mara_is_a_fixed_point_and_that_without_it_is_not(level):
    """Reverse KL; at answer level the masses are the reference's own."""
    settings = replace(SETTINGS, level=level, mass="reference")
    estimator = MaraEstimator(settings)
    mass = REF
    if level == "answer":
        estimator.add_reference("x", [1.0] * 7 + [0.2] * 3, [True] * 10, [*"aaaaabbccc"])
        mass = torch.tensor([0.5, 0.2, 0.2, 1.0], dtype=torch.float64).log()
    augmented = torch.where(REWARD > 0.9, 1.0 + BETA * (REF[0] - mass), REWARD)
    target = reverse_kl_target(REF, augmented, BETA)
    shares = target[:3].exp() / target[:3].exp().sum()
    uniform = {"sequence": [1 / 3, 1 / 3, 1 / 3], "answer": [0.5, 0.25, 0.25]}[level]
    torch.testing.assert_close(shares, torch.tensor(uniform, dtype=torch.float64))
    vanilla = reverse_kl_target(REF, REWARD, BETA)
    good = slice(0, 3)
    slopes = [(expected_gradient(settings, policy, estimator) / policy.exp())[good] for policy in (target, vanilla)]
    assert (slopes[0] - slopes[0].mean()).abs().max() < 1e-2  # no good outcome gains on another
    assert (slopes[1] - slopes[1].mean()).abs().max() > 3e-2  # control


def test_thresholds_and_counts_come_from_complete_completions_of_the_reference():
    settings = MaraSettings(beta=BETA, reference_quantile=0.5, level="answer", mass="reference")
    estimator = MaraEstimator(settings)
    assert estimator.missing(["p", "q", "p"]) == ["p", "q"]
    estimator.add_reference("p", [0.0, 1.0, 2.0, 9.0, float("nan")], [True, True, True, False, True], [*"abcde"])
    assert estimator.missing(["p", "q"]) == ["q"]
    assert estimator.thresholds == {"p": 1.0}  # the median of 0, 1, 2
    assert estimator.memory.prompts["p"].rewards == {"b": 1.0, "c": 2.0}
    assert estimator.memory.prompts["p"].estimates == 5


def test_evaluation_leaves_the_memory_as_it_is_and_the_state_can_be_json():
    settings = MaraSettings(beta=BETA, threshold=0.9, level="answer", direction="forward")
    estimator, members = MaraEstimator(settings), torch.tensor([[0, 1, 2, 3]])
    arguments = [REWARD[members], REF[members], REF[members]]
    keywords = {"prompts": ["p"], "labels": [list(LABELS)], "rows": 4}
    estimator.advantages(*arguments, **keywords, training=False)
    assert estimator.memory.prompts == {}
    estimator.advantages(*arguments, **keywords)
    state = json.loads(json.dumps(estimator.state_dict()))
    other = MaraEstimator(settings)
    assert other.state_dict() != state  # control
    other.load_state_dict(state)
    assert other.state_dict() == estimator.state_dict()


def test_a_prompt_has_one_name():
    chat = [{"role": "user", "content": "hi"}]
    assert prompt_key(chat) == prompt_key([{"content": "hi", "role": "user"}])
    assert len({prompt_key(value) for value in (chat, "hi", [1, 2], [12])}) == 4
