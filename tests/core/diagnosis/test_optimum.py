"""Ratios at the optimum against targets over all completions, on runs whose policy is known exactly."""

import math

import pytest
import torch

from core.diagnosis.optimum import (
    FIRST,
    SCORED,
    WEIGHTED,
    ReferenceMass,
    compare_pair,
    effective_numbers,
    equal_rewards,
    implied_beta,
    reference_mass,
)
from core.diagnosis.samples import Sample, make_bins
from core.mara import augment_reward
from core.targets import forward_kl_target, reverse_kl_target

from .tabular import tabular_run

REF = (0.5, 0.02, 0.08, 0.4)
REWARD = (1.0, 1.0, 0.9, 0.0)
BETA = 0.05


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def mass_of(*, ref=REF, scored=True, answers=None, path=lambda step: (0.5, 0.02, 0.08, 0.4), rewards=REWARD):
    run = tabular_run(path, 10, rewards, ref, answers=answers, scored=scored)
    return reference_mass(make_bins(run), "p", 1)


def pair_of(mass, a, b, counts=(90, 1), beta=BETA, threshold=1.0, direction="reverse"):
    return compare_pair(mass, "p", (a, b), counts, beta, threshold, direction)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_a_pair_is_where_the_target_has_it(direction):
    mass = mass_of()
    assert mass.source == SCORED
    target = {"reverse": reverse_kl_target, "forward": forward_kl_target}[direction](
        f64(REF).log(), f64(REWARD), BETA
    )
    for a, b in ((0, 1), (0, 2), (1, 2)):
        pair = pair_of(mass, f"a{a}", f"a{b}", direction=direction)
        assert pair.optimum == pytest.approx(float(target[a] - target[b]), abs=1e-9)
        assert pair.excess == pytest.approx(math.log(90) - pair.optimum)
        assert pair.ref_gap == pytest.approx(math.log(REF[a] / REF[b]))
        assert pair.ref_error == 0


def test_equal_rewards_keep_the_ratio_of_the_reference_at_any_beta_and_mara_does_not():
    mass = mass_of()
    for beta in (None, 0, 1e-3, 0.1, 10.0):
        pair = pair_of(mass, "a0", "a1", beta=beta)
        assert pair.equal
        assert pair.optimum == pytest.approx(math.log(25), abs=1e-9)
        assert pair.mara == pytest.approx(0, abs=1e-9)
        assert pair.tie_beta == 0
    unequal = [pair_of(mass, "a0", "a2", beta=beta).optimum for beta in (0.05, 0.5)]
    assert abs(unequal[0] - unequal[1]) > 1  # control: unequal rewards depend on beta
    assert pair_of(mass, "a0", "a2", beta=None).optimum is None
    assert pair_of(mass, "a0", "a2").mara is None  # one of them is not good
    assert pair_of(mass, "a0", "a2", threshold=0.9).mara == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_at_the_tie_beta_both_are_equally_likely(direction):
    ref, rewards = (0.02, 0.3, 0.68), (1.0, 0.75, 0.0)
    mass = mass_of(ref=ref, rewards=rewards, path=lambda step: (0.3, 0.3, 0.4))
    tie = pair_of(mass, "a0", "a1", direction=direction).tie_beta
    assert 0 < tie < math.inf
    assert pair_of(mass, "a0", "a1", beta=tie, direction=direction).optimum == pytest.approx(0, abs=1e-6)
    assert pair_of(mass, "a0", "a1", beta=tie / 2, direction=direction).optimum > 0.1  # control
    assert pair_of(mass, "a0", "a1", beta=2 * tie, direction=direction).optimum < -0.1
    backwards = mass_of(ref=(0.3, 0.02, 0.68), rewards=rewards, path=lambda step: (0.3, 0.3, 0.4))
    assert pair_of(backwards, "a0", "a1", direction=direction).tie_beta == math.inf


def test_answers_with_several_spellings_have_the_mass_of_all():
    """Importance weights of samples of a policy that has moved give the reference's masses exactly."""
    ref, answers, rewards = (0.3, 0.1, 0.05, 0.15, 0.4), ("x", "x", "y", "y", "bad"), (1.0, 1.0, 1.0, 1.0, 0.0)
    path = lambda step: (0.2, 0.2, 0.1, 0.1, 0.4)  # noqa: E731
    mass = mass_of(ref=ref, answers=answers, rewards=rewards, path=path)
    assert mass.source == WEIGHTED
    masses = dict(zip(mass.answers, mass.log_mass().exp().tolist(), strict=True))
    assert masses == pytest.approx({"x": 0.4, "y": 0.2, "bad": 0.4})
    pair = pair_of(mass, "x", "y")
    assert pair.optimum == pytest.approx(math.log(2), abs=1e-9)
    assert pair.mara == pytest.approx(0, abs=1e-9)
    # Control: without MARA over answers, by sequence, x and y have a share for each spelling, whatever their masses.
    logp = f64(ref).log()
    by_sequence = reverse_kl_target(logp, augment_reward(f64(rewards), logp, beta=BETA, threshold=1.0), BETA).exp()
    assert float(by_sequence[0] + by_sequence[1]) == pytest.approx(float(by_sequence[2] + by_sequence[3]))
    lower = mass_of(ref=ref, answers=answers, rewards=rewards, path=path, scored=False)
    assert lower.source == SCORED
    assert float(lower.log_mass()[0].exp()) == pytest.approx(0.4)


def test_weights_are_taken_from_steps_in_which_the_policy_is_near():
    ref, answers = (0.3, 0.1, 0.6), ("x", "x", "bad")
    far = tabular_run(lambda step: (0.0, 1.0, 0.0), 5, (1.0, 1.0, 0.0), ref, answers=answers, start=5)
    near = tabular_run(lambda step: (0.3, 0.1, 0.6), 5, (1.0, 1.0, 0.0), ref, answers=answers)
    mass = reference_mass(make_bins(near + far), "p", 1)
    assert float(mass.log_mass()[mass.answers.index("x")].exp()) == pytest.approx(0.4 * 5 / 10 + 0.05, abs=0.06)


def test_without_log_probabilities_the_first_steps_stand_for_the_reference():
    paths = ((0.5, 0.02, 0.08, 0.4), (0.9, 0.0, 0.1, 0.0))
    run = tabular_run(lambda step: paths[step > 0], 10, REWARD)
    mass = reference_mass(make_bins(run), "p", 1)
    assert mass.source == FIRST
    pair = pair_of(mass, "a0", "a1")
    assert pair.ref_gap == pytest.approx(math.log(25))
    assert pair.ref_error == pytest.approx(math.sqrt(1 / 50 + 1 / 2))
    assert reference_mass(make_bins(run), "other", 1) is None


def test_an_answer_that_is_gone_has_no_finite_ratio():
    pair = pair_of(mass_of(), "a0", "a1", counts=(64, 0))
    assert pair.now == math.inf
    assert math.isnan(pair.now_error)


def test_the_implied_beta_is_that_of_a_run_at_its_optimum():
    target = reverse_kl_target(f64(REF).log(), f64(REWARD), 0.4).exp()
    run = tabular_run(lambda step: (0.25, 0.25, 0.25, 0.25), 4, REWARD, REF)
    moved = [
        type(s)(s.step, s.prompt, s.answer, s.text, s.reward, math.log(float(target[int(s.answer[1])])), s.ref_logp)
        for s in run
    ]
    beta, error = implied_beta(moved) or (0.0, 1.0)
    assert beta == pytest.approx(0.4, rel=1e-9)
    assert error < 1e-9
    beta, error = implied_beta(run) or (0.0, 1.0)  # control: a uniform policy is no optimum
    assert abs(beta - 0.4) > 0.1 or error > 0.01
    assert implied_beta([type(s)(s.step, s.prompt, s.answer, s.text, s.reward) for s in run]) is None


def test_rewards_that_differ_by_rounding_are_equal():
    assert equal_rewards(0.7, 0.69999999)
    assert not equal_rewards(0.7, 0.699)


def entropy(shares):
    return -sum(p / sum(shares) * math.log(p / sum(shares)) for p in shares if p)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_effective_numbers_are_those_of_the_targets_over_good_answers(direction):
    """a0, a1 and a2 are good from .9 on; the shares are counted out. Control: with all answers they are others."""
    mass, counts = mass_of(), {"a0": 6, "a1": 2, "a3": 100}
    found = effective_numbers(mass, counts, BETA, 0.9, direction)
    target = {"reverse": reverse_kl_target, "forward": forward_kl_target}[direction](
        f64(REF).log(), f64(REWARD), BETA
    )
    optimum = target.exp().tolist()
    assert found.good == 3
    assert found.reference == pytest.approx(math.exp(entropy(REF[:3])))
    assert found.optimum == pytest.approx(math.exp(entropy(optimum[:3])))
    assert found.now == pytest.approx(math.exp(entropy([6, 2])))
    assert found.reference != pytest.approx(math.exp(entropy(REF)))
    if direction == "reverse":  # the three are equally likely, whatever their rewards
        assert found.mara == pytest.approx(3)


def test_effective_numbers_where_something_is_not_known():
    mass, counts = mass_of(), {"a3": 100}
    unequal = effective_numbers(mass, counts, None, 0.9)
    assert (unequal.optimum, unequal.mara) == (None, None)  # of unequal rewards: beta is needed
    assert math.isnan(unequal.now)
    equal = effective_numbers(mass, None, None, 1.0)  # a0 and a1
    assert equal.optimum == equal.reference == pytest.approx(math.exp(entropy(REF[:2])))
    assert (equal.mara, equal.now) == (2, None)
    assert effective_numbers(mass, counts, 0.0, 1.0).optimum is None  # no KL: no ratio is the optimum
    assert effective_numbers(mass, counts, BETA, 1.1) is None


def test_masses_of_answers_with_many_spellings():
    """Against the sum of each answer's own completions; an answer that has none left is -inf."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(5, (200,), generator=generator)
    value = 300 * torch.randn(200, generator=generator, dtype=torch.float64)
    mass = ReferenceMass(
        tuple("abcdef"), index, value, torch.rand(200, generator=generator, dtype=torch.float64), SCORED
    )
    summed = mass.by_answer(value.masked_fill(index == 2, -torch.inf))
    expected = [float(value[index == answer].logsumexp(0)) for answer in (0, 1, 3, 4)]
    assert summed[[0, 1, 3, 4]].tolist() == pytest.approx(expected)
    assert summed[[2, 5]].tolist() == [-math.inf, -math.inf]
    shares = (value - mass.log_mass()[index]).exp()
    by_hand = [float((shares * mass.reward)[index == answer].sum()) for answer in range(5)]
    assert mass.mean_reward()[:5].tolist() == pytest.approx(by_hand)


def test_completions_that_are_listed_once_are_no_samples():
    """Two answers with two texts each: their masses are those of the texts. Control: as samples they are weighted."""
    logp = {"a1": 0.3, "a2": 0.1, "b1": 0.2, "b2": 0.05}
    samples = [Sample(0, "p", text[0], text, 1.0, -1.0, math.log(share)) for text, share in logp.items()]
    mass = reference_mass(make_bins(samples), "p", 1, lists_once=True)
    assert mass is not None
    assert mass.source == SCORED
    assert mass.log_mass().exp().tolist() == pytest.approx([0.4, 0.25])
    weighted = reference_mass(make_bins(samples), "p", 1)
    assert weighted is not None
    assert weighted.source == WEIGHTED
