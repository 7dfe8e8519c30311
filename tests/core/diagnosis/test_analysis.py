"""The diagnosis of runs whose policy is known exactly."""

import math

import pytest

from core.diagnosis.analysis import Run, diagnose
from core.diagnosis.samples import Sample
from core.diagnosis.trainer_kl import kl_fact

from .tabular import tabular_run

REF = (0.5, 0.02, 0.08, 0.4)
REWARD = (1.0, 1.0, 0.9, 0.0)


def collapsing(step):
    """From the reference to 40 to 1 between the good answers, from step 40 to 60."""
    moved = min(max((step - 40) // 2, 0), 10)
    return (0.5 + 0.03 * moved, 0.02, 0.08, 0.4 - 0.03 * moved)


def lost(step):
    """The rarer of two good answers vanishes between steps 40 and 50."""
    rare = 0.3 - 0.03 * min(max(step - 40, 0), 10)
    return (0.7 - rare, rare, 0.0, 0.3)


def test_a_run_is_compared_with_the_optimum_of_its_objective():
    run = Run(beta=0.05, threshold=1.0)
    diagnosis = diagnose(tabular_run(collapsing, 100, REWARD, REF), run)
    good = next(pair for pair in diagnosis.pairs if pair.b == "a1")
    assert good.optimum == pytest.approx(math.log(25))
    assert good.now == pytest.approx(math.log(40))
    assert good.excess == pytest.approx(math.log(40 / 25))
    assert good.mara == pytest.approx(0)
    assert diagnosis.ends("good") == pytest.approx((0.52, 0.82))
    assert [pair.b for pair in diagnosis.pairs] == ["a1"]  # no beta ties the others with it
    assert diagnosis.implied is not None
    assert diagnosis.counts == {
        "samples": 10000,
        "prompts": 1,
        "reward": 10000,
        "policy_logp": 10000,
        "ref_logp": 10000,
    }


def test_a_worse_answer_that_is_likelier_has_a_tie_beta():
    rewards = (0.9, 1.0, 0.0, 0.0)
    diagnosis = diagnose(tabular_run(lambda step: (0.4, 0.5, 0.05, 0.05), 20, rewards, REF), Run(beta=0.01))
    pair = next(pair for pair in diagnosis.pairs if pair.b == "a0")
    assert pair.tie_beta == pytest.approx(0.1 / math.log(25))


def test_the_onset_is_that_of_the_policy():
    diagnosis = diagnose(tabular_run(lost, 80, (1.0, 1.0, 1.0, 0.0)), Run())
    onset = diagnosis.onset
    assert onset.detected
    assert 40 - 2 * onset.error <= onset.start <= 45  # from 4 to 3, the agreement rises slowly at first
    assert onset.after == pytest.approx(1.0, abs=0.01)
    still = diagnose(tabular_run(lambda step: lost(0), 80, (1.0, 1.0, 1.0, 0.0)), Run())
    assert not still.onset.detected  # control


def test_the_direction_is_that_of_the_gradient():
    forward = Run(beta=0.05, kl=kl_fact("verl", {"use_kl_loss": "true"}))
    assert forward.direction == "forward"
    assert Run().direction == "reverse"


def test_prompts_that_are_seen_once_are_not_compared():
    samples = [Sample(step, f"p{step}", f"a{i % 2}", f"a{i % 2}", 1.0) for step in range(40) for i in range(8)]
    diagnosis = diagnose(samples, Run(beta=0.1))
    assert all(prompt.mass is None for prompt in diagnosis.prompts)
    assert diagnosis.pairs == []
    assert diagnosis.ends("agreement") == pytest.approx((3 / 7, 3 / 7))


def test_first_steps_are_not_taken_for_the_reference_where_they_are_not():
    run = tabular_run(collapsing, 100, REWARD)
    assert diagnose(run, Run(threshold=1.0)).pairs
    assert not diagnose(run, Run(threshold=1.0, from_reference=False)).pairs


def test_without_rewards_there_is_diversity_only():
    run = [Sample(s.step, s.prompt, s.answer, s.text) for s in tabular_run(lost, 80, (1.0, 1.0, 1.0, 0.0))]
    diagnosis = diagnose(run, Run(beta=0.1, threshold=1.0))
    assert diagnosis.threshold is None
    assert diagnosis.pairs == []
    assert not math.isnan(diagnosis.ends("agreement")[1])
    assert math.isnan(diagnosis.ends("pass@1")[0])
