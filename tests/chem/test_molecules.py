"""What a molecule is, and scaffolds that are none: through every function that receives sampled SMILES."""

import json
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chem.filters import DiversityFilter, batch_diversity
from chem.metrics import collect_molecules, run_metrics
from chem.models.corpus import filter_smiles, randomise_smiles
from chem.models.prior_report import compare_with_training
from chem.molecules import (
    MORGAN,
    canonical_form,
    canonical_forms,
    generic_scaffold,
    murcko_scaffold,
    read_molecule,
    scaffold_fingerprint,
    scaffold_from_smiles,
)
from chem.oracles import Status
from chem.oracles.compose import Scorer
from chem.report import report_run
from chem.scoring import RewardFunction
from conf.schema.chem import DiversityFilterConfig, MoleculeFilterConfig
from conf.schema.oracle import ComponentConfig, OracleConfig

from .molecules import CHANGES_ONCE, ODD_SCAFFOLDS, STRANGE, UNREADABLE


def test_a_string_whose_canonical_form_cannot_be_read_is_no_molecule():
    for smiles in UNREADABLE:
        written = Chem.MolToSmiles(Chem.MolFromSmiles(smiles))
        assert Chem.MolFromSmiles(written) is None  # control: without reading it back it would be a molecule
        assert read_molecule(smiles) == "its canonical SMILES cannot be read"
        assert canonical_form(smiles) is None
    assert canonical_forms(["OCC", "C(", "", "c1ccccc1", "C1CC"]) == ["CCO", None, None, "c1ccccc1", None]


def test_a_canonical_form_is_its_own():
    written = Chem.MolToSmiles(Chem.MolFromSmiles(CHANGES_ONCE))
    assert Chem.CanonSmiles(written) != written  # control
    assert canonical_form(CHANGES_ONCE) == canonical_form(written) == Chem.CanonSmiles(written)
    molecules = [molecule for molecule in canonical_forms(STRANGE) if molecule is not None]
    assert len(molecules) >= len(ODD_SCAFFOLDS) + 8
    assert canonical_forms(molecules) == molecules == [Chem.MolToSmiles(read_molecule(m)) for m in molecules]


@pytest.mark.timeout(60)
def test_scaffolds_are_rdkits_and_long_chains_are_fast():
    for smiles in ("C", "[Na+].[Cl-]", "CC(=O)NCC=C", "C" * 60, "CCc1ccccc1C", "C1CC1.CCO", "O=C1CCC(CC2CC2)N1"):
        assert scaffold_from_smiles(smiles) == MurckoScaffold.MurckoScaffoldSmiles(smiles)
        scaffold = scaffold_from_smiles(smiles)
        generic = MurckoScaffold.MakeScaffoldGeneric(Chem.MolFromSmiles(scaffold))
        assert generic_scaffold(scaffold) == Chem.MolToSmiles(generic)
        assert scaffold_fingerprint(scaffold) == MORGAN.GetFingerprint(Chem.MolFromSmiles(scaffold))
    assert scaffold_from_smiles("CCc1ccccc1C") == "c1ccccc1"
    assert scaffold_from_smiles("C" * 5000) == ""  # RDKit takes minutes


def test_a_scaffold_that_is_no_molecule_is_still_shared():
    """Molecules with the same one must share a bucket, or a policy escapes the diversity filter with them."""
    decorated = [canonical_form(f"{chain}ONC(=O)CSc1ccc[c-]1C") for chain in ("C", "CC", "CCC")]
    for make in (scaffold_from_smiles, lambda smiles: generic_scaffold(scaffold_from_smiles(smiles))):
        assert len({make(smiles) for smiles in decorated}) == 1
    spiro = [f"O=C(c1ccccc1)N1CCP2(CC1)(c1ccc({chain})cc1)OCCO2" for chain in ("C", "CC")]
    assert generic_scaffold(scaffold_from_smiles(spiro[0])) == generic_scaffold(scaffold_from_smiles(spiro[1]))
    assert "*" in generic_scaffold(scaffold_from_smiles(spiro[0]))
    with pytest.raises(Chem.AtomValenceException):  # control: RDKit's generic scaffold does not exist
        MurckoScaffold.MakeScaffoldGeneric(Chem.MolFromSmiles(scaffold_from_smiles(spiro[0])))


def test_a_molecule_without_a_scaffold_is_its_own(monkeypatch):
    def refuse(**arguments):
        raise ValueError("no scaffold")

    monkeypatch.setattr(MurckoScaffold, "MurckoScaffoldSmiles", refuse)
    assert murcko_scaffold(Chem.MolFromSmiles("OCc1ccccc1")) == "OCc1ccccc1"


def qed_oracle():
    return Scorer(OracleConfig([ComponentConfig("qed")]))


@pytest.mark.parametrize("name", ["none", "identical_murcko", "topological", "similarity"])
def test_a_batch_of_strange_strings_is_scored_and_filtered(name):
    scorer = qed_oracle()
    reward_function = RewardFunction(lambda smiles: [scorer(molecule) for molecule in smiles], None, None)
    diversity_filter = DiversityFilter(DiversityFilterConfig(name, "step", 1, 0.0, 0.4))
    batch = reward_function(STRANGE)
    assert [batch.canonical[row] for row in range(len(UNREADABLE))] == [None] * len(UNREADABLE)
    assert not batch.complete[: len(UNREADABLE)].any()
    assert all(result.status is Status.ok for result in batch.fresh)
    assert all(result.scaffold == scaffold_from_smiles(result.smiles) for result in batch.fresh)
    _, first = diversity_filter(batch)
    assert any(first) == (name != "none")  # the molecules without a ring share a bucket
    restored = DiversityFilter(diversity_filter.config)
    restored.load_state_dict(json.loads(json.dumps(diversity_filter.state_dict())))
    assert restored(batch)[1] == diversity_filter(batch)[1]
    penalised = [restored.penalises(molecule) for molecule in filter(None, batch.canonical)]
    assert len(penalised) == sum(molecule is not None for molecule in batch.canonical)
    assert float(batch_diversity(batch.canonical)[: len(UNREADABLE)].sum()) == 0


def test_metrics_and_reports_of_strange_strings(tmp_path):
    molecules = collect_molecules(STRANGE, [0.9] * len(STRANGE))
    row = run_metrics(molecules, [0.5])
    assert row["calls"] == row["0.5/yield"] == len(set(filter(None, canonical_forms(STRANGE))))
    assert row["0.5/int_div1"] > 0
    canonical = [molecule for molecule in canonical_forms(STRANGE) if molecule is not None]
    settings = MoleculeFilterConfig(["C", "H", "N", "O", "P", "S", "Br"], 1, 60, 100, 1, True)
    assert not set(filter_smiles(UNREADABLE, settings)[0])
    assert filter_smiles([CHANGES_ONCE], settings)[0] == [canonical_form(CHANGES_ONCE)]
    corpus = [*canonical, Chem.MolToSmiles(Chem.MolFromSmiles(UNREADABLE[0]))]  # as an earlier version wrote it
    figures, samples, training = compare_with_training(STRANGE, corpus, seed=0)
    assert figures["validity"] == sum(m is not None for m in canonical_forms(STRANGE)) / len(STRANGE)
    assert len(samples.smiles) == len(canonical) >= len(training.smiles) > 0
    assert [randomise_smiles(smiles, 0, 0) for smiles in UNREADABLE]

    rows = [{"smiles": s, "score": 0.9, "status": "ok", "values": {}, "details": {}, "step": 0} for s in canonical]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shares = dict.fromkeys(("reward/raw", "valid", "unique", "scaffolds", "repeats"), 0.5)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 0, "oracle/calls": len(canonical), **shares}) + "\n")
    threshold = {"kind": "constant", "value": 0.6}
    OmegaConf.save({"screens": [0.5], "transform": {"threshold": threshold}}, tmp_path / "config.yaml")
    run = SimpleNamespace(folder=tmp_path, finish=lambda summary: None, info=lambda line: None)
    report_run(run, calls=len(canonical), failures=0, reason="steps")
    assert (tmp_path / "molecules.png").stat().st_size > 3000


def test_a_molecule_is_read_from_its_canonical_form():
    """The order of atoms, and so a conformer and a sum of floats, does not depend on how it was spelled."""
    orders = [[atom.GetSymbol() for atom in read_molecule(smiles).GetAtoms()] for smiles in ("OCCN", "NCCO")]
    assert orders[0] == orders[1]
    assert torch.equal(*(torch.tensor([qed_oracle()(smiles).score]) for smiles in ("OCCN", "NCCO")))
