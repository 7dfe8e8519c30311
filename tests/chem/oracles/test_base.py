"""Molecules, results and scaffolds."""

import json

import pytest
from rdkit import Chem

from chem.oracles.base import MAX_ATOMS, Molecule, Result, Status, parse_molecule


def molecule(smiles, run_seed=0):
    return Molecule(Chem.MolFromSmiles(smiles), run_seed)


def test_a_result_survives_json():
    full = Result("CCO", Status.ok, 0.5, {"qed": 0.4}, {"qed": 0.5}, {"route": {"smiles": "C"}}, "", "", 0.1)
    for result in (full, Result("N", Status.timed_out, None, message="no answer")):
        assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize(
    ("status", "failure"),
    [(Status.ok, False), (Status.invalid, False), (Status.failed, True), (Status.timed_out, True)],
)
def test_only_the_oracles_own_failures_are_failures(status, failure):
    assert Result("C", status, None).failure == failure


def test_a_seed_depends_only_on_the_molecule_and_the_oracles_seed():
    seeds = {molecule(smiles).seed for smiles in ("OCC", "CCO", "C(O)C")}
    assert len(seeds) == 1
    assert molecule("OCC").smiles == "CCO"
    assert molecule("CCO", run_seed=1).seed not in seeds
    assert molecule("CCN").seed not in seeds
    assert all(0 <= molecule("C" * n).seed < 2**31 for n in range(1, 50))


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("", "empty, or not printable ASCII"),
        ("C\n", "empty, or not printable ASCII"),
        ("é", "empty, or not printable ASCII"),
        ("C(", "not a molecule"),
        ("C" * (MAX_ATOMS + 1), "251 heavy atoms, the limit is 250"),
    ],
)
def test_a_string_that_is_not_a_molecule_has_a_reason(smiles, reason):
    assert parse_molecule(smiles) == reason


def test_molecules_are_parsed():
    for smiles in ("CCO", "C" * MAX_ATOMS):
        assert Chem.MolToSmiles(parse_molecule(smiles)) == smiles
