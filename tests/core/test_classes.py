"""The masses of answers: estimates that are unbiased over all groups, and what is remembered of them."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from core.classes import ClassMemory, GroupFacts, PromptClasses, StepMasses, group_mass

from .enumeration import random_logp

CLASSES = torch.tensor([0, 1, 1, 2, 2, 2, 3])  # three answers with 1, 2 and 3 spellings; the last outcome is bad
GOOD = CLASSES < 3
LABELS = ["a", "b", "b", "c", "c", "c", "d"]


def reference() -> Tensor:
    return random_logp(7, seed=1)


def exact_mass(ref_logp: Tensor) -> Tensor:
    same = CLASSES.unsqueeze(0) == CLASSES.unsqueeze(1)
    return (same * ref_logp.exp()).sum(-1)


def all_groups(size: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(7), repeat=size)))


@pytest.mark.parametrize("seed", range(3))
def test_the_mass_of_a_group_is_unbiased_whatever_the_policy(seed: int) -> None:
    ref, policy = reference(), random_logp(7, seed=10 + seed)
    members = all_groups(3)
    probability = policy[members].sum(-1).exp()
    estimate = group_mass(CLASSES[members], (ref - policy)[members], GOOD[members]).exp()
    distinct = (members.unsqueeze(-1) == torch.arange(7)).any(-2)  # control: the sum over the completions seen
    for outcome, answer in enumerate(LABELS[:6]):
        of_answer = torch.tensor([LABELS[i] == answer for i in range(7)])
        in_group = of_answer[members].any(-1)
        value = torch.where(of_answer[members], estimate, 0.0).amax(-1)  # the same for all samples of the class
        torch.testing.assert_close((probability * value).sum(), exact_mass(ref)[outcome])
        naive = (distinct * of_answer * ref.exp()).sum(-1)
        assert abs(float((probability * naive).sum() - exact_mass(ref)[outcome])) > 1e-3
        assert bool((value[~in_group] == 0).all())


def test_bad_and_uncounted_samples_do_not_count() -> None:
    classes, weight = torch.tensor([0, 0, 1, 0]), torch.tensor([0.0, math.log(3), 0.0, 5.0])
    good = torch.tensor([True, True, True, False])
    assert group_mass(classes, weight, good).exp().tolist() == pytest.approx([1, 1, 0.25, 1])
    counted = torch.tensor([True, True, False, True])
    assert group_mass(classes, weight, good & counted, counted).exp()[:2].tolist() == pytest.approx([4 / 3, 4 / 3])


def test_huge_weights_neither_overflow_nor_vanish() -> None:
    for weight in (-2000.0, 2000.0):
        mass = group_mass(torch.zeros(1, 2).long(), torch.full((1, 2), weight), torch.ones(1, 2).bool())
        assert mass.tolist() == [[weight, weight]]
    memory = PromptClasses()
    memory.add(["a"], [-2000.0], [1.0], 1)
    memory.add(["a"], [-2001.0], [1.0], 1)
    assert memory.log_mass("a") == pytest.approx(-2000 + math.log((1 + math.exp(-1)) / 2))


def facts(members: Tensor, ref: Tensor, policy: Tensor, reward: Tensor | None = None) -> GroupFacts:
    reward = GOOD.double() if reward is None else reward
    return GroupFacts(reward[members], ref[members], (ref - policy)[members], GOOD[members], None)


def labels(members: Tensor) -> list[list[str]]:
    return [[LABELS[i] for i in row] for row in members.tolist()]


def test_what_is_remembered_is_the_mean_of_the_estimates() -> None:
    ref, policy = reference(), random_logp(7, seed=5)
    memory = ClassMemory("answer", "remembered", "remembered")
    steps = [torch.tensor([[0, 1, 2, 6]]), torch.tensor([[1, 1, 3, 6]]), torch.tensor([[6, 6, 6, 6]])]
    totals = dict.fromkeys("abc", 0.0)
    for step, members in enumerate(steps, start=1):
        masses = memory.update(["p"], labels(members), facts(members, ref, policy))
        for i in members[0].tolist():
            if GOOD[i]:
                totals[LABELS[i]] += float((ref - policy)[i].exp()) / 4
        for column, i in enumerate(members[0].tolist()):
            if GOOD[i]:
                assert masses.mass_logp is not None
                assert float(masses.mass_logp[0, column].exp()) == pytest.approx(totals[LABELS[i]] / step)
        best = max(totals, key=lambda name: totals[name])
        assert float(masses.anchor.mass_logp.exp()) == pytest.approx(totals[best] / step)
    assert memory.known("p") == ["a", "b", "c"]
    assert memory.known("another prompt") == []


def test_the_mean_of_many_estimates_is_the_mass() -> None:
    """On all groups of two, each as often as the policy draws it, the remembered masses are exact."""
    ref, policy = reference(), torch.full((7,), 1 / 7).double().log()
    memory = ClassMemory("answer", "remembered", "remembered")
    members = all_groups(2)
    memory.update(["p"] * len(members), labels(members), facts(members, ref, policy))
    for outcome in range(6):
        assert math.exp(memory.prompts["p"].log_mass(LABELS[outcome])) == pytest.approx(
            float(exact_mass(ref)[outcome])
        )
    once = ClassMemory("answer", "remembered", "remembered")  # control: one group is far from it
    once.update(["p"], labels(members[:1]), facts(members[:1], ref, policy))
    assert abs(math.exp(once.prompts["p"].log_mass("a")) - float(exact_mass(ref)[0])) > 0.1


def test_the_anchor_of_sequences_is_the_likeliest_good_one_so_far() -> None:
    ref = torch.tensor([0.1, 0.3, 0.2, 0.05, 0.05, 0.2, 0.1]).double().log()
    memory = ClassMemory("sequence", "remembered", "remembered")
    anchors = []
    for members in (torch.tensor([[6, 3]]), torch.tensor([[6, 6]]), torch.tensor([[2, 0]]), torch.tensor([[4, 6]])):
        masses = memory.update(["p"], labels(members), facts(members, ref, ref))
        assert masses.mass_logp is None
        anchors.append(float(masses.anchor.mass_logp.exp()))
    assert anchors == pytest.approx([0.05, 0.05, 0.2, 0.2])
    members = torch.tensor([[6, 6]])
    none = ClassMemory("sequence", "remembered", "remembered").update(
        ["q"], labels(members), facts(members, ref, ref)
    )
    assert none.anchor.mass_logp.tolist() == [[-math.inf]]  # nothing good yet


def test_of_equal_masses_the_better_rewarded_is_the_anchor() -> None:
    memory = PromptClasses()
    memory.add(["a", "b"], [-1.0, -1.0], [0.7, 0.9], 1)
    assert memory.largest() == (0.9, -1.0)
    memory.add_sequences([-1.0, -1.0, -2.0], [0.5, 0.8, 1.0])
    assert memory.anchor == (0.8, -1.0)


def test_masses_are_counted_in_completions_of_the_reference() -> None:
    memory = ClassMemory("answer", "reference", "remembered")
    memory.count_reference("p", ["a", "b", "a"], [0.5, 1.0, 0.7], completions=8)
    members = torch.tensor([[0, 1, 3, 6]])
    ref = reference()
    masses = memory.update(["p"], labels(members), facts(members, ref, ref))
    assert masses.mass_logp.exp()[0, :3].tolist() == pytest.approx([2 / 8, 1 / 8, 1 / 9])  # "c" was not seen
    assert (float(masses.anchor.reward), float(masses.anchor.mass_logp.exp())) == pytest.approx((0.7, 2 / 8))
    again = memory.update(["p"], labels(members), facts(members, ref, ref))
    assert torch.equal(again.mass_logp, masses.mass_logp)  # groups do not change them


def test_a_group_alone_has_its_own_masses() -> None:
    ref, members = reference(), torch.tensor([[0, 1, 2, 6], [3, 3, 6, 6]])
    masses = ClassMemory("answer", "group", "group").update(["p", "p"], labels(members), facts(members, ref, ref))
    assert masses.anchor is None
    assert masses.mass_logp.exp()[0, :3].tolist() == pytest.approx([1 / 4, 2 / 4, 2 / 4])
    assert masses.mass_logp.exp()[1, :2].tolist() == pytest.approx([2 / 4, 2 / 4])


def test_the_state_continues_as_if_nothing_had_happened() -> None:
    ref, policy, members = reference(), random_logp(7, seed=5), torch.tensor([[0, 1, 2, 6], [3, 4, 6, 6]])
    for level in ("answer", "sequence"):
        memory, restored = (ClassMemory(level, "remembered", "remembered") for _ in range(2))
        memory.update(["p", "q"], labels(members), facts(members, ref, policy))
        restored.load_state_dict(memory.state_dict())
        for _ in range(2):
            results = [m.update(["q", "p"], labels(members), facts(members, ref, policy)) for m in (memory, restored)]
            torch.testing.assert_close(*results, rtol=0, atol=0)
        assert memory.state_dict() == restored.state_dict()


def test_a_step_estimates_once_for_all_its_updates() -> None:
    ref, policy, members = (
        reference(),
        random_logp(7, seed=5),
        torch.tensor([[0, 1, 2, 6], [3, 4, 6, 6], [1, 1, 5, 6]]),
    )
    memory = ClassMemory("answer", "remembered", "remembered")
    step, everything = StepMasses(memory, ["p", "q", "p"], labels(members)), facts(members, ref, policy)
    first = step(everything.rows([0, 2]), rows=[0, 2])
    step(everything.rows([1]), rows=[1])
    moved = facts(members, ref, random_logp(7, seed=6))  # the policy of a later update
    assert first.mass_logp is not None
    torch.testing.assert_close(step(moved.rows([2, 0]), rows=[2, 0]).mass_logp, first.mass_logp.flip(0))
    everywhere = step.all().mass_logp
    assert everywhere is not None
    assert torch.equal(everywhere[2], first.mass_logp[1])
    assert memory.prompts["p"].estimates == 2
    assert memory.prompts["q"].estimates == 1
