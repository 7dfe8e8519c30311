"""From SMILES to rewards: budget, cache, duplicates, scaffolds."""

import sqlite3
import threading

import pytest
import torch

from chem.oracles import Result, Status
from chem.scoring import (
    Cache,
    RewardFunction,
    batch_scaffolds,
    treat_duplicates,
)
from conf.schema.base import ConfigError

from .batches import make_batch


class CarbonShare:
    """An oracle that scores a tenth per carbon and records its calls; molecules with nitrogen fail."""

    def __init__(self):
        self.calls = []

    def __call__(self, smiles):
        self.calls += smiles
        return [
            Result(molecule, Status.failed, None, message="no")
            if "N" in molecule
            else Result(molecule, Status.ok, molecule.count("C") / 10)
            for molecule in smiles
        ]


def test_a_failure_that_is_retried_with_success_is_recorded():
    answers = [Result("CCN", Status.failed, None, message="no"), Result("CCN", Status.ok, 0.5)]
    reward_function = RewardFunction(lambda smiles: [answers.pop(0)], None, None)
    first, second, third = (reward_function(["CCN"]) for _ in range(3))
    assert [result.status for result in first.fresh] == [Status.failed]
    assert (second.fresh, [result.score for result in second.retried]) == ([], [0.5])
    assert (third.fresh, third.retried, third.reward.tolist()) == ([], [], [0.5])
    assert (reward_function.calls, reward_function.failures) == (1, 1)


def test_the_calls_of_earlier_stages_count_in_the_budget():
    reward_function = RewardFunction(CarbonShare(), None, 3)
    reward_function(["C", "CC"])
    reward_function.begin_stage()
    batch = reward_function(["C", "CCC"])  # asked again, as by another oracle
    assert batch.valid.tolist() == [True, False]
    assert (reward_function.calls, reward_function.spent) == (3, True)
    restored = RewardFunction(CarbonShare(), None, 3)
    restored.load_state_dict(reward_function.state_dict())
    assert (restored.calls, restored.scores) == (3, {"C": 0.1})
    restored.load_state_dict({"scores": [["C", 0.1]], "failures": 0})  # of an older version
    assert restored.calls == 1


def test_a_batch_asks_the_oracle_once_per_molecule():
    oracle = CarbonShare()
    reward_function = RewardFunction(oracle, None, None)
    batch = reward_function(["OCC", "CCO", "C(", "", "CCN", "c1ccccc1"])
    assert oracle.calls == ["CCO", "CCN", "c1ccccc1"]
    assert batch.canonical == ["CCO", "CCO", None, None, "CCN", "c1ccccc1"]
    torch.testing.assert_close(batch.reward, torch.tensor([0.2, 0.2, 0.0, 0.0, 0.0, 0.0]))
    assert batch.valid.tolist() == [True, True, True, True, False, True]  # a failure does not count
    assert batch.complete.tolist() == [True, True, False, False, True, True]  # an invalid string is never good
    assert reward_function.calls == 3
    assert reward_function.failures == 1
    assert batch.scaffolds == ["", "", None, None, "", "c1ccccc1"]  # the oracle gave none
    second = reward_function(["CCO", "CCN", "CCC"])
    assert oracle.calls[3:] == ["CCN", "CCC"]
    assert reward_function.calls == 4
    assert [result.smiles for result in second.fresh] == ["CCC"]


def test_scaffolds_of_the_oracle_are_used_where_it_gives_them():
    def oracle(smiles):
        return [Result(s, Status.ok, 0.5, scaffold="given" if "N" in s else None) for s in smiles]

    smiles = ["Nc1ccccc1", "Cc1ccccc1", "CCC"]
    assert RewardFunction(oracle, None, None)(smiles).scaffolds == ["given", "c1ccccc1", ""]
    assert batch_scaffolds([None, "Cc1ccccc1"], [Result("Cc1ccccc1", Status.ok, 0.5, scaffold="")]) == [None, ""]


def test_the_budget_counts_distinct_canonical_molecules(tmp_path):
    for cache in (None, Cache(tmp_path / "a.sqlite", "key"), Cache(tmp_path / "a.sqlite", "key")):
        oracle = CarbonShare()
        reward_function = RewardFunction(oracle, cache, 3)
        reward_function(["C", "CC", "C"])
        assert not reward_function.spent
        batch = reward_function(["CCC", "CCCC", "CC"])
        assert batch.valid.tolist() == [True, False, True]
        assert reward_function.spent
        assert reward_function.calls == 3
    assert oracle.calls == []
    assert reward_function.cached == 3


def test_the_cache_is_per_oracle_and_never_stores_failures(tmp_path):
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


def test_a_cache_on_a_full_disk_is_one_line(tmp_path, monkeypatch):
    cache = Cache(tmp_path / "a.sqlite", "key")
    connect = cache._connect

    def full():
        connection = connect()
        connection.execute("PRAGMA max_page_count = 1")  # raises as a full disk does
        return connection

    monkeypatch.setattr(cache, "_connect", full)
    results = [Result("C" * (number + 1), Status.ok, 0.1) for number in range(200)]
    with pytest.raises(ConfigError, match=r"cache: cannot use .*a\.sqlite .*\(database or disk is full\)"):
        cache.put(results)
    monkeypatch.undo()
    cache.put(results)
    assert len(cache.get([result.smiles for result in results])) == 200


def test_a_cache_file_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "text.sqlite").write_text("not a database" * 100)
    with pytest.raises(ConfigError, match=r"^cache: cannot use .*text\.sqlite as a cache of oracle results \("):
        Cache(tmp_path / "text.sqlite", "key")
    with sqlite3.connect(tmp_path / "empty.sqlite"):
        Cache(tmp_path / "empty.sqlite", "key")  # control: an empty database can be used


def test_a_reward_function_continues_from_its_state():
    first = RewardFunction(CarbonShare(), None, 5)
    first(["C", "CCN", "CC"])
    second = RewardFunction(CarbonShare(), None, 5)
    second.load_state_dict(first.state_dict())
    assert second.scores == first.scores
    assert second.calls == 3
    assert second.failures == 1
    assert second(["CC"]).reward.tolist() == first(["CC"]).reward.tolist()
    assert second.oracle.calls == []  # type: ignore[attr-defined]


def test_duplicates():
    batch = make_batch(["CCO", "C(", "OCC", "CC", "C("], [0.5, 0.0, 0.5, 0.2, 0.0])
    keep, drop, zero = (treat_duplicates(batch, treatment) for treatment in ("keep", "drop", "zero"))
    assert keep == batch
    assert drop.valid.tolist() == [True, True, False, True, True]
    assert torch.equal(drop.reward, batch.reward)
    assert zero.reward.tolist() == pytest.approx([0.5, 0, 0, 0.2, 0])
    assert bool(zero.valid.all())
    assert zero.complete.tolist() == [True, True, False, True, True]  # invalid strings are not duplicates
