"""Schedules of beta, each against its formula."""

import itertools
import math

import pytest
import torch

from core.schedules import (
    StepStatistics,
    adaptive_beta,
    automatic_beta,
    budget_progress,
    known,
    make_schedule,
    run_progress,
    tie_betas,
)
from core.targets import reverse_kl_target, reverse_log_ratio


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(1.0, 1.0), (1.1, 1.01), (0.9, 0.99), (1.2, 1.02), (0.8, 0.98), (50.0, 1.02), (0.0, 0.98), (-3.0, 0.98)],
)
def test_beta_follows_the_target_and_changes_by_at_most_two_percent(kl, factor):
    assert adaptive_beta(0.3, kl, 1.0) == pytest.approx(0.3 * factor)
    assert adaptive_beta(0.3, 7 * kl, 7.0) == pytest.approx(0.3 * factor)  # only the ratio counts


@pytest.mark.parametrize(
    ("kl", "target", "message"),
    [
        (1.0, 0.0, r"kl_target must be > 0 nats, got 0\.0"),
        (1.0, -1.0, r"kl_target must be > 0 nats, got -1\.0"),
        (math.nan, 1.0, "kl must be finite, got nan"),
        (math.inf, 1.0, "kl must be finite, got inf"),
    ],
)
def test_a_kl_or_target_outside_its_domain_is_an_error(kl, target, message):
    with pytest.raises(ValueError, match=message):
        adaptive_beta(0.3, kl, target)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_scheduled_beta_goes_from_its_start_to_its_final_value(name):
    schedule = make_schedule(name, 0.4, {"final": 0.1})
    steps, beta, betas = 11, 0.4, [0.4]
    for step in range(steps - 1):
        beta = schedule(beta, statistics(progress=run_progress(step + 1, steps)))
        betas.append(beta)
    assert betas[0] == 0.4
    assert betas[-1] == pytest.approx(0.1)
    assert betas == sorted(betas, reverse=True)
    assert betas[5] == pytest.approx(0.25)
    middle = 0.4 - 0.3 * 2 / 10 if name == "linear" else 0.25 + 0.15 * math.cos(math.pi * 2 / 10)
    assert betas[2] == pytest.approx(middle)
    assert run_progress(0, 1) == 0
    constant = make_schedule("constant", 0.4, {})
    assert constant(0.4, statistics(progress=1.0)) == 0.4
    with pytest.raises(ValueError, match="got 'quadratic'"):
        make_schedule("quadratic", 0.4, {})


def statistics(**changes):
    zeros = torch.zeros(1, 2)
    return StepStatistics(
        **{"progress": 0.0, "kl": 1.0, "reward": zeros, "ref_seq_logp": zeros, "good": None, **changes}
    )


REWARD = torch.tensor([[1.0, 0.9, 0.2, 0.7], [1.0, 1.0, 0.8, 0.0]])
REF = torch.tensor([[-5.0, -2.0, -0.5, -1.0], [-1.0, -3.0, -3.0, -0.1]])
GOOD = REWARD >= 0.7


def by_hand(never_tying=False):
    """|dR| / |d log ref| of every pair of good samples of a group that ties at some beta, or of every pair."""
    ties = []
    for rewards, refs, goods in zip(REWARD.tolist(), REF.tolist(), GOOD.tolist(), strict=True):
        for i, j in itertools.combinations(range(4), 2):
            reward_gap, ref_gap = rewards[i] - rewards[j], refs[i] - refs[j]
            if goods[i] and goods[j] and ref_gap and (never_tying or reward_gap * ref_gap <= 0):
                ties.append(abs(reward_gap) / abs(ref_gap))
    return sorted(ties)


@pytest.mark.parametrize("q", [0.0, 0.3, 0.5, 1.0])
def test_automatic_beta_is_the_quantile_over_pairs_of_good_samples(q):
    ties = by_hand()
    assert (len(ties), len(by_hand(never_tying=True))) == (4, 5)
    wide = {"quantile": q, "low": 1e-9, "high": 1e9}
    expected = max(float(torch.tensor(ties, dtype=torch.float64).quantile(q)), 1e-9)
    assert automatic_beta(0.3, REWARD, REF, GOOD, **wide) == pytest.approx(expected, rel=1e-5)
    all_pairs = automatic_beta(0.3, REWARD, REF, torch.ones_like(GOOD), **wide)
    assert q == 0 or all_pairs != pytest.approx(expected, rel=1e-3)  # control: pairs with bad samples
    assert automatic_beta(0.3, REWARD, REF, GOOD, quantile=q, low=5.0, high=6.0) == 5
    assert automatic_beta(0.3, REWARD, REF, GOOD, quantile=1.0, low=1e-3, high=2e-3) == 2e-3


def test_a_pair_that_ties_at_no_beta_is_left_out():
    """Of rewards .75 and 1, at log ref -6 and -4, the second is likelier at every beta, as enumerating shows."""
    reward, ref = torch.tensor([0.75, 1.0]), torch.tensor([-6.0, -4.0])
    for beta in (1e-3, 0.125, 1.0, 1e3):
        target = reverse_kl_target(ref, reward, beta)
        assert target[1] > target[0]
    assert tie_betas(reward, ref, torch.ones(2, dtype=torch.bool)).tolist() == []
    assert automatic_beta(0.7, reward, ref, torch.ones(2).bool(), quantile=0.5, low=0.01, high=1.0) == 0.7
    assert tie_betas(reward, ref.flip(0), torch.ones(2).bool()).tolist() == [0.125]  # control: this pair ties
    generator = torch.Generator().manual_seed(0)
    reward, ref = (torch.randn(6, generator=generator).double() for _ in range(2))
    ties = tie_betas(reward, ref, torch.ones(6).bool()).tolist()
    crossing = []  # enumerated: pairs whose order at a tiny beta is not the one at a large beta
    for i, j in itertools.combinations(range(6), 2):
        small, large = (reverse_kl_target(ref, reward, beta) for beta in (1e-4, 1e4))
        if (small[i] > small[j]) != (large[i] > large[j]):
            crossing.append((i, j))
    assert 0 < len(ties) == len(crossing) < 15
    for beta, (i, j) in zip(ties, crossing, strict=True):
        target = reverse_kl_target(ref, reward, beta)
        assert float(target[i] - target[j]) == pytest.approx(0, abs=1e-9)


def test_automatic_beta_is_where_the_targets_of_a_pair_tie():
    reward, ref = torch.tensor([[1.0, 0.75]]), torch.tensor([[-5.95, -4.05]])
    good = torch.tensor([[True, True]])
    beta = automatic_beta(1.0, reward, ref, good, quantile=0.5, low=1e-6, high=10)
    assert beta == pytest.approx(0.1316, abs=1e-4)  # the paper's Figure 2
    assert float(reverse_log_ratio(ref[0, 0], ref[0, 1], reward[0, 0], reward[0, 1], beta)) == pytest.approx(
        0, abs=1e-5
    )


def test_without_a_pair_of_good_samples_automatic_beta_does_not_change():
    options = {"quantile": 0.5, "low": 0.1, "high": 0.2}
    one_good = torch.tensor([[False, True, False, False]] * 2)
    assert automatic_beta(0.7, REWARD, REF, one_good, **options) == 0.7
    assert automatic_beta(0.7, REWARD, torch.zeros_like(REF), GOOD, **options) == 0.7
    schedule = make_schedule("automatic", 0.7, options)
    assert schedule(0.7, statistics(reward=REWARD, ref_seq_logp=REF, good=GOOD)) == 0.1
    with pytest.raises(ValueError, match="needs a threshold"):
        schedule(0.7, statistics())
    for wrong in ({"quantile": 1.5}, {"low": 0.0}, {"low": 0.3}, {"high": math.inf}):
        with pytest.raises(ValueError, match="quantile must lie"):
            automatic_beta(0.7, REWARD, REF, GOOD, **{**options, **wrong})


def test_the_adaptive_schedule_is_adaptive_beta():
    schedule = make_schedule("adaptive", 0.3, {"kl_target": 2.0})
    assert schedule(0.5, statistics(kl=known(torch.tensor(math.nan)))) == 0.5  # nothing was measured
    assert known(torch.tensor(3.0)) == 3.0
    assert schedule(0.5, statistics(kl=3.0)) == adaptive_beta(0.5, 3.0, 2.0) == pytest.approx(0.51)


def test_budget_progress_is_1_in_every_step_that_may_be_the_last() -> None:
    for spends in ([10, 10, 10], [3, 10, 9, 8], [10, 0, 0, 10, 9, 1], [30]):
        budget, per_step = 30, max(spends)
        spent = [sum(spends[:step]) for step in range(len(spends))]
        progress = [budget_progress(value, budget, per_step) for value in spent]
        assert progress == sorted(progress)
        assert progress[0] == 0
        assert progress[-1] == float(len(spends) > 1)
        assert all(p < 1 or budget - s <= per_step for p, s in zip(progress, spent, strict=True))
        assert spent[-1] / budget < 1  # control: the plain share does not reach 1
