"""Curves over training, against enumeration of all draws."""

import itertools
import math
from collections import Counter

import pytest

from core.diagnosis.samples import (
    Sample,
    agreement,
    answer_shares,
    common_group_size,
    default_threshold,
    expected_distinct,
    make_bins,
    measure_bin,
)

from .tabular import tabular_run

POOL = "aaabbc"


def test_agreement_and_distinct_are_means_over_all_draws():
    counts = Counter(POOL).values()
    pairs = list(itertools.combinations(POOL, 2))
    assert agreement(counts) == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    for draws in (1, 2, 4):
        sets = [len(set(draw)) for draw in itertools.combinations(POOL, draws)]
        assert expected_distinct(counts, draws) == pytest.approx(sum(sets) / len(sets))
    assert agreement(counts) != pytest.approx(sum((n / 6) ** 2 for n in counts))  # control: the biased estimate
    assert math.isnan(agreement([1]))
    assert math.isnan(expected_distinct([2], 3))


def test_a_bin_of_a_known_policy():
    run = tabular_run(lambda step: (0.5, 0.3, 0.2), 2, (1.0, 1.0, 0.0))
    point = measure_bin(make_bins(run)[0], 1.0, 4, (1, 2))
    n, good = 100, 80  # of a step; the bin has one step or both, which are alike
    bins = make_bins(run)
    assert [part.first for part in bins] == [0, 1]
    assert point.values["good"] == pytest.approx(good / n)
    assert point.values["reward"] == pytest.approx(0.8)
    assert point.values["agreement"] == pytest.approx((50 * 49 + 30 * 29) / (80 * 79))
    assert point.values["entropy_nats"] == pytest.approx(-(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(3 / 8)))
    assert point.values["pass@2"] == pytest.approx(1 - (20 * 19) / (100 * 99))
    assert point.good_samples == 80
    everything = measure_bin(bins[0], None, 4, (1,))  # control: without rewards the bad answer counts too
    assert everything.values["agreement"] < point.values["agreement"]
    assert math.isnan(everything.values["pass@1"])


def test_bins_hold_every_sample_once_and_few_samples_make_few_bins():
    run = tabular_run(lambda step: (0.5, 0.5), 97, (1.0, 0.0), per_step=2)
    bins = make_bins(run)
    assert len(bins) == 194 // 8
    assert [sample for part in bins for sample in part.samples] == run
    assert all(a.last + 1 == b.first for a, b in itertools.pairwise(bins))
    assert len(make_bins(run * 10)) == 40
    assert common_group_size(bins) >= 6


def test_the_threshold_is_the_best_reward_if_many_have_it():
    tied = make_bins(tabular_run(lambda step: (0.5, 0.5), 20, (1.0, 0.0)))
    assert (default_threshold(tied) or [None])[0] == 1.0
    graded = [Sample(step, "p", "a", "a", step + i / 100) for step in range(200) for i in range(100)]
    threshold, rule = default_threshold(make_bins(graded)) or (0.0, "none")
    first = make_bins(graded)[0]
    above = sum(sample.reward >= threshold for sample in first.samples) / len(first.samples)
    assert 0.09 <= above <= 0.11  # of the first steps, where the policy has not moved
    assert "0.9 quantile" in rule
    assert default_threshold(make_bins([Sample(0, "p", "a", "a")])) is None


def test_the_threshold_is_never_the_lowest_reward():
    """Of a sparse reward, as a product with a route is: nothing in the first steps, then one in twenty."""
    rewards = [0.0] * 400 + [0.0 if i % 20 else i / 1000 for i in range(1, 1000)]
    samples = [Sample(number // 10, "p", "a", "a", reward) for number, reward in enumerate(rewards)]
    threshold, rule = default_threshold(make_bins(samples)) or (0.0, "none")
    assert 0 < threshold < 1
    assert "above 0 in the first steps that have any" in rule
    first = [reward for part in make_bins(samples) for reward in (s.reward for s in part.samples) if reward][:2]
    assert min(first) <= threshold <= max(first)


def test_shares_of_a_known_path():
    shares = ((0.6, 0.3, 0.1), (0.9, 0.1, 0.0))
    run = tabular_run(lambda step: shares[step >= 10], 20, (1.0, 1.0, 0.0))
    rows = answer_shares(make_bins(run), "p", 2)
    assert [row.answer for row in rows] == ["a0", "a1", "a2"]
    assert [row.first / row.first_total for row in rows] == pytest.approx(shares[0])
    assert [row.last / row.last_total for row in rows] == pytest.approx(shares[1])
    assert rows[0].course == pytest.approx([0.6] * 10 + [0.9] * 10)
    assert [row.spellings for row in rows] == [1, 1, 1]
    assert answer_shares(make_bins(run), "other", 2) == []
