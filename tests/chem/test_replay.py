"""Replay memory and augmented memory."""

import pytest
import torch
from rdkit import Chem

from chem.models.tokenizer import Tokenizer, split_tokens
from chem.replay import ReplayMemory, augmented_rows, concat_padded, replayed_rows
from conf.schema.chem import ReplayConfig

from .batches import make_batch


def make_memory(**settings):
    tokenizer = Tokenizer.from_tokens([*split_tokens("CNOc1(=)ccc2"), "F"])
    options = {"size": 3, "sample": 2, "augmentations": 1, "purge": False}
    return ReplayMemory(ReplayConfig(**options | settings), tokenizer)


def test_the_memory_holds_the_best_molecules_as_they_were_sampled():
    memory = make_memory()
    memory.add(["OCC", "C", "C(", "CCF"], make_batch(["OCC", "C", "C(", "CCF"], [0.5, 0.2, 0.0, 0.9]), [False] * 4)
    memory.add(["CCC", "CN", "CCO"], make_batch(["CCC", "CN", "CCO"], [0.7, 0.95, 0.5]), [False, True, False])
    assert memory.entries == {
        "CCF": ("CCF", pytest.approx(0.9)),
        "CCC": ("CCC", pytest.approx(0.7)),
        "CCO": ("OCC", 0.5),
    }
    drawn = [tuple(sorted(smiles for smiles, _ in memory.draw(0, step))) for step in range(20)]
    assert all(len(set(pair)) == 2 for pair in drawn)
    assert len(set(drawn)) == 3
    restored = make_memory()
    restored.load_state_dict(memory.state_dict())
    assert restored.draw(0, 7) == memory.draw(0, 7)
    assert restored.entries == memory.entries
    memory.purge(lambda smiles: smiles == "CCC")
    assert list(memory.entries) == ["CCF", "CCO"]


def test_rows_that_do_not_count_are_not_remembered():
    memory = make_memory()
    batch = make_batch(["CC", "CCC", "CCO"], [0.5, 0.6, 0.0])
    memory.add(["CC", "CCC", "CCO"], batch._replace(valid=torch.tensor([True, False, True])), [False] * 3)
    assert list(memory.entries) == ["CC"]


def test_augmented_rows_are_other_smiles_of_the_same_molecules():
    memory = make_memory()
    smiles = ["CC(=O)Nc1ccccc1", "C(", "CCO", "CN"]
    batch = make_batch(smiles, [0.5, 0.0, 0.4, 0.3])
    batch = batch._replace(valid=torch.tensor([True, True, True, False]))
    memory.add(smiles, batch, [False] * 4)
    rows = augmented_rows(smiles, batch, memory, max_tokens=40, seed=0, step=3, number=0)
    randomised = memory.tokenizer.decode(rows.tokens)
    assert [Chem.CanonSmiles(row) for row in randomised] == ["CC(=O)Nc1ccccc1", "CCO"] * 2
    assert rows.reward.tolist() == pytest.approx([0.5, 0.4, 0.5, 0.4])
    other = augmented_rows(smiles, batch, memory, max_tokens=40, seed=0, step=3, number=1)
    assert memory.tokenizer.decode(other.tokens) != randomised
    # Control: no randomised SMILES of these molecules has so few tokens, so the sampled ones are kept.
    short = augmented_rows(smiles, batch, memory, max_tokens=2, seed=0, step=3, number=0)
    assert memory.tokenizer.decode(short.tokens) == ["CC(=O)Nc1ccccc1", "CCO"] * 2


def test_rows_of_different_width_are_concatenated():
    tokenizer = make_memory().tokenizer
    long, short, empty = (
        replayed_rows([(smiles, 0.4) for smiles in group], tokenizer) for group in (["c1ccccc1"], ["CCO"], [])
    )
    assert tokenizer.decode(concat_padded(long.tokens, short.tokens)) == ["c1ccccc1", "CCO"]
    assert concat_padded(long.mask, short.mask).sum(-1)[-1] == 4 == concat_padded(short.mask, long.mask).sum(-1)[0]
    assert torch.equal(concat_padded(long.tokens, empty.tokens), long.tokens)
    assert len(empty.reward) == 0
    assert bool(long.valid.all() and long.complete.all())
