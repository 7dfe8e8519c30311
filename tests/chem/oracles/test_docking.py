"""Docking in ClpP: the bound ligand finds its place, energies repeat, and what cannot be docked fails alone."""

import pytest
from rdkit import Chem

pytest.importorskip("vina", reason="needs the extra docking")
pytest.importorskip("meeko", reason="needs the extra docking")
from chem.oracles import Oracle, Status
from chem.oracles.base import Molecule
from chem.oracles.docking import Docking, bound_ligand, conformer, ligand_pdbqt
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, ComponentTransformConfig, OracleConfig

SHAPE = ComponentTransformConfig("reverse_sigmoid", low=-16.0, high=0.0, k=0.15)


def test_docking_in_clpp(clpp):
    """The box is the ligand's; a large ligand binds better than a small one; energies repeat."""
    smiles = ["CC(=O)Nc1ccccc1", "C.C", "c1ccccc1", "C1CC"]
    part = ComponentConfig("docking", clpp, SHAPE)
    with Oracle(OracleConfig([part], workers=1, time_limit_s=200.0)) as oracle:
        note = oracle.notes[0]
        assert oracle.identity["components"][0]["depends_on"]["centre"] == pytest.approx(
            [-29.5, 72.55, 15.1], abs=0.05
        )
        results = oracle(smiles)
        again = oracle(smiles[2::-2])
    energy = float(note.split(" docks at ")[1].split()[0])
    assert -13 < energy < -8
    assert float(note.split("its centre ")[1].split()[0]) < 2
    assert [result.status for result in results] == [Status.ok, Status.failed, Status.ok, Status.invalid]
    assert "one fragment" in results[1].message
    assert energy < results[0].values["docking"] < results[2].values["docking"] < 0
    assert [result.values for result in again] == [results[2].values, results[0].values]
    assert 0.5 > results[0].score > results[2].score > 0.15


def test_a_box_elsewhere_is_refused(clpp):
    parameters = clpp | {"ligand": None, "ligand_smiles": None, "centre": [-29.5, 72.55, 15.1], "size": 8}
    assert "no ligand was given" in Docking(**parameters).preflight()
    with pytest.raises(ConfigError, match="ligand_smiles: must be the molecule of clpp_7uvu_ligand"):
        Docking(**clpp | {"ligand_smiles": "CCOC"})


def test_conformers_are_seeded_and_whole():
    mol = Chem.MolFromSmiles("N#Cc1cccc(CN2CCc3ncn(Cc4ccc(Cl)cc4)c(=O)c3C2)c1")
    one, same, other = (conformer(mol, seed).GetConformer().GetPositions() for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
    assert len(one) == Chem.AddHs(mol).GetNumAtoms()
    text = ligand_pdbqt(mol, 1)
    assert text.count("BRANCH") == 2 * 2 * 2
    assert text == ligand_pdbqt(mol, 1)
    seeds = {Molecule(Chem.MolFromSmiles(s)).seed for s in ("OCC", "CCO", "C(O)C")}
    assert len(seeds) == 1
    assert Molecule(Chem.MolFromSmiles("CCO"), run_seed=1).seed not in seeds


def test_bond_orders_come_from_the_template(tmp_path):
    flat = Chem.MolFromSmiles("c1ccccc1C=O")
    path = tmp_path / "ligand.pdb"
    path.write_text(Chem.MolToPDBBlock(Chem.RemoveHs(conformer(flat, 1)), flavor=8))  # single bonds only
    assert Chem.MolToSmiles(bound_ligand(path, "O=Cc1ccccc1")) == "O=Cc1ccccc1"
    assert "=" not in Chem.MolToSmiles(Chem.MolFromPDBFile(str(path)))  # control: the file does not tell
    with pytest.raises(ConfigError, match="ligand_smiles: must be the molecule"):
        bound_ligand(path, "CCCCO")
    with pytest.raises(ConfigError, match="ligand_smiles: must be SMILES"):
        bound_ligand(path, "C1CC")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"receptor": "none.pdbqt"}, "receptor: must be a file"),
        ({}, "centre: must be given without ligand"),
        ({"ligand": "l.pdb"}, "ligand_smiles: must be given with ligand"),
        ({"centre": [1.0, 2.0]}, "must be three lengths"),
        ({"centre": [1.0, 2.0, 3.0], "exhaustiveness": 0}, "exhaustiveness, seed, poses"),
    ],
)
def test_a_mistake_is_refused(options, message, tmp_path):
    (tmp_path / "r.pdbqt").write_text("")
    with pytest.raises(ConfigError, match=message):
        Docking(**{"receptor": str(tmp_path / "r.pdbqt"), **options})
