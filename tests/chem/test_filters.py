"""Diversity filters: buckets, penalties, and the diversity of a batch."""

import math

import pytest
from rdkit import Chem, DataStructs

from chem.filters import MORGAN, PENALTIES, DiversityFilter, batch_diversity
from conf.schema.chem import PENALTIES as PENALTY_NAMES
from conf.schema.chem import DiversityFilterConfig

from .batches import make_batch

SAME_SCAFFOLD = ["Cc1ccccc1", "CCc1ccccc1", "CCCc1ccccc1", "CCCCc1ccccc1"]  # benzene
PYRIDINE = "CCc1ccncc1"  # the same ring, another atom


def make_filter(name, penalty="step", size=2, min_score=0.5):
    return DiversityFilter(DiversityFilterConfig(name, penalty, size, min_score, 0.5))


def test_every_penalty_of_the_schema_is_there():
    assert set(PENALTIES) == set(PENALTY_NAMES)


def test_a_full_bucket_takes_the_reward_and_the_chance_to_be_good():
    diversity_filter = make_filter("identical_murcko")
    batch, filtered = diversity_filter(make_batch([*SAME_SCAFFOLD, PYRIDINE, "CCO"], [0.9, 0.8, 0.7, 0.4, 0.9, 0.9]))
    assert filtered == [False, False, True, False, False, False]  # the fourth is below min_score
    assert batch.reward.tolist() == pytest.approx([0.9, 0.8, 0.0, 0.4, 0.9, 0.9])
    assert batch.complete.tolist() == [not is_filtered for is_filtered in filtered]
    batch, filtered = diversity_filter(make_batch([SAME_SCAFFOLD[0], PYRIDINE], [0.9, 0.9]))
    assert filtered == [True, False]  # its bucket has two others by now; the pyridine is alone in its bucket
    assert diversity_filter.penalises(SAME_SCAFFOLD[0])
    assert not diversity_filter.penalises(PYRIDINE)
    restored = make_filter("identical_murcko")
    restored.load_state_dict(diversity_filter.state_dict())
    assert restored.buckets == diversity_filter.buckets

    unfiltered, filtered = make_filter("none")(make_batch(SAME_SCAFFOLD, [0.9] * 4))  # control
    assert not any(filtered)
    assert unfiltered.reward.tolist() == pytest.approx([0.9] * 4)


@pytest.mark.parametrize("score", [0.7, 0.9, 0.95])
def test_a_score_of_exactly_min_score_enters_a_bucket(score):
    """In the float32 rewards of a batch, .7 is .69999999."""
    diversity_filter = make_filter("identical_murcko", min_score=score)
    diversity_filter(make_batch([SAME_SCAFFOLD[0], PYRIDINE], [score, score - 1e-6]))
    assert [list(bucket) for bucket in diversity_filter.buckets.values()] == [[SAME_SCAFFOLD[0]]]


def test_topological_and_similar_scaffolds_share_buckets():
    smiles = [SAME_SCAFFOLD[0], PYRIDINE, SAME_SCAFFOLD[1], "C1CCCCC1"]
    _, filtered = make_filter("topological")(make_batch(smiles, [0.9] * 4))
    assert filtered == [False, False, True, True]
    _, filtered = make_filter("identical_murcko")(make_batch(smiles, [0.9] * 4))
    assert filtered == [False] * 4
    close = ["c1ccc(Cc2ccccc2)cc1", "c1ccc(CCc2ccccc2)cc1", "c1ccc(CCCc2ccccc2)cc1", "C1CNCCN1"]
    similar = make_filter("similarity")
    _, filtered = similar(make_batch(close, [0.9] * 4))
    assert filtered == [False, False, True, False]
    restored = make_filter("similarity")
    restored.load_state_dict(similar.state_dict())
    assert restored(make_batch(close[:1], [0.9]))[1] == similar(make_batch(close[:1], [0.9]))[1] == [True]


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        ("step", lambda x: float(x < 1)),
        ("linear", lambda x: max(0.0, 1 - x)),
        ("sigmoid", lambda x: (1 + math.exp(-1 / 0.15)) / (1 + math.exp((2 * x - 1) / 0.15))),
        ("tanh", lambda x: 1 - math.tanh(3 * x)),
    ],
)
def test_penalties(penalty, expected):
    smiles = [f"{'C' * n}c1ccccc1" for n in range(1, 6)]
    batch, filtered = make_filter("identical_murcko", penalty, size=4)(make_batch(smiles, [0.8] * 5))
    assert batch.reward.tolist() == pytest.approx([0.8 * expected(n / 4) for n in range(5)], abs=1e-6)
    assert filtered == [expected(n / 4) < 1 for n in range(5)]
    assert not filtered[0]
    assert PENALTIES[penalty](0) == 1


def test_batch_diversity_is_the_mean_distance_to_the_other_molecules():
    smiles = ["CCO", None, "CCO", "c1ccccc1C"]
    diversity = batch_diversity(smiles)
    fingerprints = [MORGAN.GetFingerprint(Chem.MolFromSmiles(smiles[row])) for row in (0, 3)]
    distance = 1 - DataStructs.TanimotoSimilarity(*fingerprints)
    assert diversity.tolist() == pytest.approx([distance / 2, 0.0, distance / 2, distance])
    assert distance > 0.5
