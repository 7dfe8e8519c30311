"""From strings to rewards: budget, cache, duplicates, diversity filters, memory."""

import math
import threading

import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

from chem.filters import MORGAN, PENALTIES, DiversityFilter, batch_diversity
from chem.models.tokenizer import Tokenizer, split
from chem.oracles import Result, Status
from chem.replay import ReplayMemory, augmented, rows_of, stack
from chem.scoring import Batch, Cache, Scoring, canonical_forms, murcko, treat_duplicates
from conf.schema.chem import DiversityFilterConfig, ReplayConfig


@pytest.mark.timeout(60)
def test_scaffolds_are_rdkits_and_those_of_long_chains_are_found_at_once():
    for smiles in ("C", "[Na+].[Cl-]", "CC(=O)NCC=C", "C" * 60, "CCc1ccccc1C", "C1CC1.CCO", "O=C1CCC(CC2CC2)N1"):
        assert murcko(smiles) == MurckoScaffoldSmiles(smiles)
    assert murcko("CCc1ccccc1C") == "c1ccccc1"
    assert murcko("C" * 5000) == ""  # RDKit takes minutes


class Counting:
    """An oracle that gives carbon's share of the string and notes what it was asked; N fails."""

    def __init__(self):
        self.asked = []

    def __call__(self, smiles):
        self.asked += smiles
        return [
            Result(one, Status.failed, None, message="no")
            if "N" in one
            else Result(one, Status.ok, one.count("C") / 10)
            for one in smiles
        ]


def batch_of(smiles, rewards):
    every = torch.ones(len(smiles), dtype=torch.bool)
    canonical = canonical_forms(smiles)
    scaffolds = [one if one is None else murcko(one) for one in canonical]
    return Batch(canonical, torch.tensor(rewards), every, every, scaffolds, [])


def test_a_batch_is_scored_once_a_molecule():
    oracle = Counting()
    scoring = Scoring(oracle, None, None)
    batch = scoring(["OCC", "CCO", "C(", "", "CCN", "c1ccccc1"])
    assert oracle.asked == ["CCO", "CCN", "c1ccccc1"]
    assert batch.canonical == ["CCO", "CCO", None, None, "CCN", "c1ccccc1"]
    torch.testing.assert_close(batch.reward, torch.tensor([0.2, 0.2, 0.0, 0.0, 0.0, 0.0]))
    assert batch.valid.tolist() == [True, True, True, True, False, True]  # a failure does not count
    assert batch.complete.tolist() == [True, True, False, False, True, True]  # no molecule is never good
    assert scoring.calls == 3
    assert scoring.failures == 1
    assert batch.scaffolds == ["", "", None, None, "", "c1ccccc1"]  # the oracle told none
    again = scoring(["CCO", "CCN", "CCC"])
    assert oracle.asked[3:] == ["CCN", "CCC"]
    assert scoring.calls == 4
    assert [result.smiles for result in again.fresh] == ["CCC"]


def test_scaffolds_are_the_oracles_where_it_tells_them():
    def telling(smiles):
        return [Result(one, Status.ok, 0.5, scaffold="told" if "N" in one else None) for one in smiles]

    assert Scoring(telling, None, None)(["Nc1ccccc1", "Cc1ccccc1", "CCC"]).scaffolds == ["told", "c1ccccc1", ""]


def test_the_budget_counts_distinct_canonical_molecules(tmp_path):
    for cache in (None, Cache(tmp_path / "a.sqlite", "key"), Cache(tmp_path / "a.sqlite", "key")):
        oracle = Counting()
        scoring = Scoring(oracle, cache, 3)
        scoring(["C", "CC", "C"])
        assert not scoring.spent
        batch = scoring(["CCC", "CCCC", "CC"])
        assert batch.valid.tolist() == [True, False, True]
        assert scoring.spent
        assert scoring.calls == 3
    assert oracle.asked == []
    assert scoring.cached == 3


def test_the_cache_is_by_oracle_and_never_keeps_failures(tmp_path):
    path = tmp_path / "a" / "b.sqlite"
    first, second = Cache(path, "one"), Cache(path, "two")
    first.put(
        [Result("C", Status.ok, 0.5, {"qed": 0.5}), Result("N", Status.failed, None), Result("O", Status.ok, 0.1)]
    )
    first.put([Result("T", Status.timed_out, None)])
    assert first.get(["C", "N", "T"]) == {"C": Result("C", Status.ok, 0.5, {"qed": 0.5})}
    assert second.get(["C", "O"]) == {}

    def write(number):
        Cache(path, "two").put([Result("C" * (number + i + 1), Status.ok, 0.1) for i in range(50)])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(second.get(["C" * n for n in range(1, 60)])) == 53


def test_a_scoring_goes_on_from_its_state():
    first = Scoring(Counting(), None, 5)
    first(["C", "CCN", "CC"])
    second = Scoring(Counting(), None, 5)
    second.load_state_dict(first.state_dict())
    assert second.scores == first.scores
    assert second.calls == 3
    assert second.failures == 1
    assert second(["CC"]).reward.tolist() == first(["CC"]).reward.tolist()
    assert second.oracle.asked == []


def test_duplicates():
    batch = batch_of(["CCO", "C(", "OCC", "CC", "C("], [0.5, 0.0, 0.5, 0.2, 0.0])
    keep, drop, zero = (treat_duplicates(batch, treatment) for treatment in ("keep", "drop", "zero"))
    assert keep == batch
    assert drop.valid.tolist() == [True, True, False, True, True]
    assert torch.equal(drop.reward, batch.reward)
    assert zero.reward.tolist() == pytest.approx([0.5, 0, 0, 0.2, 0])
    assert bool(zero.valid.all())
    assert zero.complete.tolist() == [True, True, False, True, True]  # invalid strings are no duplicates


def diversity(name, penalty="step", size=2, min_score=0.5):
    return DiversityFilter(DiversityFilterConfig(name, penalty, size, min_score, 0.5))


SAME = ["Cc1ccccc1", "CCc1ccccc1", "CCCc1ccccc1", "CCCCc1ccccc1"]  # one Murcko scaffold, benzene
PYRIDINE = "CCc1ccncc1"  # the same rings, another atom


def test_a_full_bucket_takes_the_reward_and_the_chance_to_be_good():
    filtering = diversity("identical_murcko")
    batch, filtered = filtering(batch_of([*SAME, PYRIDINE, "CCO"], [0.9, 0.8, 0.7, 0.4, 0.9, 0.9]))
    assert filtered == [False, False, True, False, False, False]  # the fourth is below min_score
    assert batch.reward.tolist() == pytest.approx([0.9, 0.8, 0.0, 0.4, 0.9, 0.9])
    assert batch.complete.tolist() == [not out for out in filtered]
    batch, filtered = filtering(batch_of([SAME[0], PYRIDINE], [0.9, 0.9]))
    assert filtered == [True, False]  # two others share its bucket by now; the pyridine has its own to itself
    assert filtering.penalises(SAME[0])
    assert not filtering.penalises(PYRIDINE)
    again = diversity("identical_murcko")
    again.load_state_dict(filtering.state_dict())
    assert again.buckets == filtering.buckets

    none, filtered = diversity("none")(batch_of(SAME, [0.9] * 4))  # control
    assert not any(filtered)
    assert none.reward.tolist() == pytest.approx([0.9] * 4)


def test_topological_scaffolds_and_similar_ones_share_buckets():
    rows = [SAME[0], PYRIDINE, SAME[1], "C1CCCCC1"]
    _, filtered = diversity("topological")(batch_of(rows, [0.9] * 4))
    assert filtered == [False, False, True, True]
    _, filtered = diversity("identical_murcko")(batch_of(rows, [0.9] * 4))
    assert filtered == [False] * 4
    close = ["c1ccc(Cc2ccccc2)cc1", "c1ccc(CCc2ccccc2)cc1", "c1ccc(CCCc2ccccc2)cc1", "C1CNCCN1"]
    similar = diversity("similarity")
    _, filtered = similar(batch_of(close, [0.9] * 4))
    assert filtered == [False, False, True, False]
    again = diversity("similarity")
    again.load_state_dict(similar.state_dict())
    assert again(batch_of(close[:1], [0.9]))[1] == similar(batch_of(close[:1], [0.9]))[1] == [True]


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
    batch, filtered = diversity("identical_murcko", penalty, size=4)(batch_of(smiles, [0.8] * 5))
    assert batch.reward.tolist() == pytest.approx([0.8 * expected(n / 4) for n in range(5)], abs=1e-6)
    assert filtered == [expected(n / 4) < 1 for n in range(5)]
    assert not filtered[0]
    assert PENALTIES[penalty](0) == 1


def memory(**settings):
    tokenizer = Tokenizer.of([*split("CNOc1(=)ccc2"), "F"])
    return ReplayMemory(
        ReplayConfig(**{"size": 3, "sample": 2, "augmentations": 1, "purge": False} | settings), tokenizer
    )


def test_the_memory_holds_the_best_as_they_were_sampled():
    best = memory()
    best.add(["OCC", "C", "C(", "CCF"], batch_of(["OCC", "C", "C(", "CCF"], [0.5, 0.2, 0.0, 0.9]), [False] * 4)
    best.add(["CCC", "CN", "CCO"], batch_of(["CCC", "CN", "CCO"], [0.7, 0.95, 0.5]), [False, True, False])
    assert best.entries == {
        "CCF": ("CCF", pytest.approx(0.9)),
        "CCC": ("CCC", pytest.approx(0.7)),
        "CCO": ("OCC", 0.5),
    }
    drawn = [tuple(sorted(smiles for smiles, _ in best.draw(0, step))) for step in range(20)]
    assert all(len(set(some)) == 2 for some in drawn)
    assert len(set(drawn)) == 3
    again = memory()
    again.load_state_dict(best.state_dict())
    assert again.draw(0, 7) == best.draw(0, 7)
    assert again.entries == best.entries
    best.purge(lambda smiles: smiles == "CCC")
    assert list(best.entries) == ["CCF", "CCO"]


def test_rows_join_and_spellings_are_of_the_same_molecules():
    best = memory()
    smiles = ["CC(=O)Nc1ccccc1", "C(", "CCO", "CN"]
    batch = batch_of(smiles, [0.5, 0.0, 0.4, 0.3])
    batch = batch._replace(valid=torch.tensor([True, True, True, False]))
    best.add(smiles, batch, [False] * 4)
    rows = augmented(smiles, batch, best, longest=40, seed=0, step=3, number=0)
    spelled = best.tokenizer.decode(rows.tokens)
    assert [Chem.CanonSmiles(one) for one in spelled] == ["CC(=O)Nc1ccccc1", "CCO"] * 2
    assert rows.reward.tolist() == pytest.approx([0.5, 0.4, 0.5, 0.4])
    other = augmented(smiles, batch, best, longest=40, seed=0, step=3, number=1)
    assert best.tokenizer.decode(other.tokens) != spelled
    short = rows_of([("CCO", 0.4)], best.tokenizer)
    assert best.tokenizer.decode(stack(rows.tokens, short.tokens)) == [*spelled, "CCO"]
    assert stack(rows.mask, short.mask).sum(-1)[-1] == 4 == stack(short.mask, rows.mask).sum(-1)[0]
    none = rows_of([], best.tokenizer)
    assert torch.equal(stack(rows.tokens, none.tokens), rows.tokens)
    assert len(none.reward) == 0
    assert murcko("CCO") == ""
    assert murcko(PYRIDINE) == "c1ccncc1"


def test_diversity_is_the_mean_distance_to_the_others():
    smiles = ["CCO", None, "CCO", "c1ccccc1C"]
    found = batch_diversity(smiles)
    pair = [MORGAN.GetFingerprint(Chem.MolFromSmiles(smiles[row])) for row in (0, 3)]
    far = 1 - DataStructs.TanimotoSimilarity(*pair)
    assert found.tolist() == pytest.approx([far / 2, 0.0, far / 2, far])
    assert far > 0.5
