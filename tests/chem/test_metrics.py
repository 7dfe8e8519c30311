"""Each metric against a second computation: by hand, by numpy over all pairs, by brute force over all subsets."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from chem import metrics
from core.mara import select_anchor

from .molecules import MOLECULES, distances


def test_internal_diversity_counts_the_diagonal():
    expected = distances(MOLECULES).mean()
    assert metrics.int_div1(metrics.fingerprints(MOLECULES)) == pytest.approx(expected, abs=1e-12)
    rows = len(MOLECULES)
    assert abs(expected - distances(MOLECULES).sum() / rows / (rows - 1)) > 0.01  # control: without the diagonal
    assert metrics.int_div1(metrics.fingerprints(["CCO"])) == 0
    assert metrics.int_div1([]) is None


@pytest.mark.parametrize("start", range(5))
def test_circles_are_apart_and_as_many_as_can_be(start):
    """Brute force over all subsets of ten molecules; greedy is a lower bound, one short in one of these orders."""
    smiles = (MOLECULES * 2)[start : start + 10]
    apart = distances(smiles) > 0.75
    chosen = metrics.circles(metrics.fingerprints(smiles))
    assert chosen[0] == 0
    assert all(apart[a, b] for a, b in combinations(chosen, 2))
    largest = max(
        size
        for size in range(1, 11)
        if any(all(apart[a, b] for a, b in combinations(rows, 2)) for rows in combinations(range(10), size))
    )
    assert len(chosen) == largest - (start == 2)
    assert largest < 10  # control: not simply all of them
    for row in set(range(10)) - set(chosen):  # nothing could be added
        assert not all(apart[row, other] for other in chosen if other < row)


def test_circles_follow_the_order_of_generation():
    """A chain whose middle is near an end: greedy keeps both ends if they come first, and the middle if not."""
    ends, middle = ("CCCCCCO", "c1ccccc1CCCCN"), "CCCCCCCN"
    prints = dict(zip([*ends, middle], metrics.fingerprints([*ends, middle]), strict=True))
    near = distances([*ends, middle]) <= 0.75
    counts = [len(metrics.circles([prints[s] for s in order])) for order in ((*ends, middle), (middle, *ends))]
    assert near[0, 2]
    assert not near[0, 1]
    assert counts[0] == 2
    assert counts[1] == (1 if near[1, 2] else 2)


def test_a_run_by_hand():
    smiles = ["CCO", "OCC", "C1CC", "c1ccccc1", "CC(=O)Nc1ccccc1", "c1ccccc1", "CCN", "CCCl", "CCN", ""]
    score = [0.9, 0.1, 0.0, 0.8, 0.79, 0.2, None, 0.85, 0.95, 0.0]
    molecules = metrics.collect_molecules(smiles, score)
    assert molecules.smiles == ["CCO", "c1ccccc1", "CC(=O)Nc1ccccc1", "CCN", "CCCl"]
    assert molecules.score.tolist() == [0.9, 0.8, 0.79, 0.95, 0.85]  # the first; CCN's was missing at first
    row = metrics.run_metrics(molecules, [0.8, 0.99], known={"CCO", "CCC"})
    assert (row["generated"], row["calls"], row["unscored"]) == (10, 5, 0)
    assert (row["validity"], row["uniqueness"], row["novelty"]) == (0.8, 5 / 8, 4 / 5)
    assert row["scaffolds"] == 2  # benzene's and the empty one
    assert (row["0.8/yield"], row["0.8/OB1"], row["0.8/OB10"]) == (4, 1, None)
    assert row["0.8/scaffolds"] == 2
    assert (row["0.99/yield"], row["0.99/OB1"], row["0.99/int_div1"], row["0.99/circles"]) == (0, None, None, None)


def test_oracle_burden_and_yield_agree():
    good = np.random.default_rng(0).random(500) < 0.3
    curve = metrics.yield_curve(good)
    for n in (1, 10, 100):
        calls = metrics.oracle_burden(good, n)
        assert calls is not None
        assert curve[calls - 1] == n == good[:calls].sum()
        assert curve[calls - 2] == n - 1 or calls == 1
    assert metrics.oracle_burden(good, int(good.sum()) + 1) is None
    assert curve[-1] == good.sum()


def test_molecules_without_a_score_are_never_good():
    molecules = metrics.collect_molecules(["CCO", "CC"], [None, 0.5])
    assert math.isnan(molecules.score[0])
    assert molecules.good(-math.inf).tolist() == [False, True]


def test_an_empty_run_has_no_shares():
    row = metrics.run_metrics(metrics.collect_molecules([], []), [0.5], known=set())
    assert (row["calls"], row["validity"], row["uniqueness"], row["novelty"]) == (0, None, None, None)
    assert (row["0.5/yield"], row["0.5/OB1"], row["0.5/circles"]) == (0, None, None)


@pytest.mark.parametrize("screen", [0.7, 0.8, 0.9, 0.95])
def test_a_score_is_good_at_a_screen_where_its_float32_reward_is_good(screen):
    """The same comparison as in training, whether a score was written from float64 or from a float32 tensor."""
    held = torch.tensor(screen).item()
    scores = np.array([screen, held, screen - 1e-6, math.nan])
    molecules = metrics.ScoredMolecules(["C", "CC", "CCC", "CCCC"], scores, 4, 4)
    assert molecules.good(screen).tolist() == [True, True, False, False]
    reward = torch.tensor(scores[:3]).float()
    assert molecules.good(screen)[:3].tolist() == select_anchor(reward, torch.zeros(3), screen)[1].tolist()
    assert screen == 0.8 or not held >= screen  # control: a plain comparison calls the second bad
