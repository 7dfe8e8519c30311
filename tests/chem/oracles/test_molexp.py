"""MolExp: the nearest of several targets."""

import random

import pytest
from rdkit import Chem

from chem.oracles.base import Molecule
from chem.oracles.molexp import SIMILARITIES, TARGETS, MolExp, edit_distance
from conf.schema.base import ConfigError


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("task", TARGETS)
def test_all_targets_are_maxima_of_one_height(task, similarity):
    oracle = MolExp(task, similarity)
    for number, smiles in enumerate(TARGETS[task]):
        answer = oracle(Molecule(Chem.MolFromSmiles(smiles)))
        assert answer.value == answer.details[number] == 1
        assert sorted(answer.details)[-2] < 0.7  # the others are far away
    assert oracle(Molecule(Chem.MolFromSmiles("CCO"))).value < 0.3


def test_the_similarities_differ():
    molecule = Molecule(Chem.MolFromSmiles("CN1CCN(CCCN2c3ccccc3Sc3ccccc32)CC1"))
    assert MolExp("AP", "levenshtein")(molecule).value == pytest.approx(1 - 4 / 38)  # (Cl) and the order of the ring
    assert MolExp("AP")(molecule).value != pytest.approx(1 - 4 / 38, abs=1e-3)


def test_other_tasks_and_similarities_are_refused():
    with pytest.raises(ConfigError, match="task: must be one of A2A, AP, BACE1, EGFR, got D2"):
        MolExp("D2")
    with pytest.raises(ConfigError, match="similarity: must be fingerprint or levenshtein, got shape"):
        MolExp("AP", "shape")


def by_table(first, second):
    """Wagner and Fischer's table."""
    row = list(range(len(second) + 1))
    for i, one in enumerate(first):
        above, row = row, [i + 1]
        for j, other in enumerate(second):
            row.append(min(above[j] + (one != other), above[j + 1] + 1, row[j] + 1))
    return row[-1]


def test_edit_distances():
    assert edit_distance("kitten", "sitting") == 3
    generator = random.Random(0)
    texts = ["".join(generator.choices("CNO(", k=generator.randrange(12))) for _ in range(60)]
    assert all(edit_distance(a, b) == by_table(a, b) for a in texts for b in texts)
