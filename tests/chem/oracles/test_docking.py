"""Docking in ClpP: the bound ligand is found again, energies repeat, and a molecule that cannot be docked fails."""

import re

import pytest
from rdkit import Chem

pytest.importorskip("vina", reason="needs the extra docking")
pytest.importorskip("meeko", reason="needs the extra docking")
from chem.files import find_file
from chem.oracles import Molecule, Oracle, Status
from chem.oracles.conformers import embed_conformer
from chem.oracles.docking import Docking, centroid, ligand_pdbqt
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, ComponentTransformConfig, OracleConfig

SHAPE = ComponentTransformConfig("reverse_sigmoid", low=-16.0, high=0.0, k=0.15)


def test_docking_in_clpp(clpp):
    """The box is around the ligand; a large ligand binds better than a small one; energies repeat."""
    smiles = ["CC(=O)Nc1ccccc1", "C.C", "c1ccccc1", "C1CC"]
    component = ComponentConfig("docking", clpp, SHAPE)
    with Oracle(OracleConfig([component], workers=1, time_limit_s=200.0)) as oracle:
        note = oracle.notes[0]
        assert oracle.identity["components"][0]["depends_on"]["centre"] == pytest.approx(
            [-29.5, 72.55, 15.1], abs=0.05
        )
        results = oracle(smiles)
        repeated = oracle(smiles[2::-2])
    energy = float(note.split(" docks at ")[1].split()[0])
    assert -13 < energy < -8
    assert float(note.split("its centre ")[1].split()[0]) < 2
    assert [result.status for result in results] == [Status.ok, Status.failed, Status.ok, Status.invalid]
    assert "several fragments" in results[1].message
    assert energy < results[0].values["docking"] < results[2].values["docking"] < 0
    assert [result.values for result in repeated] == [results[2].values, results[0].values]
    assert 0.5 > results[0].score > results[2].score > 0.15


def test_a_box_elsewhere_is_refused(clpp):
    parameters = clpp | {"ligand": None, "ligand_smiles": None, "centre": [-29.5, 72.55, 15.1], "size": 8}
    assert "no ligand was given" in Docking(**parameters).preflight()
    with pytest.raises(ConfigError, match="ligand_smiles: must be the molecule of clpp_7uvu_ligand"):
        Docking(**clpp | {"ligand_smiles": "CCOC"})


def test_a_ligand_is_prepared_with_a_seed():
    mol = Chem.MolFromSmiles("N#Cc1cccc(CN2CCc3ncn(Cc4ccc(Cl)cc4)c(=O)c3C2)c1")
    text = ligand_pdbqt(mol, 1)
    assert text.count("BRANCH") == 2 * 2 * 2
    assert text == ligand_pdbqt(mol, 1)
    assert text != ligand_pdbqt(mol, 2)
    with pytest.raises(ValueError, match=r"^the molecule has several fragments; only one can be docked$"):
        ligand_pdbqt(Chem.MolFromSmiles("C.C"), 1)


def atom_types(pdbqt):
    return [line[77:].strip() for line in pdbqt.splitlines() if line.startswith("ATOM")]


@pytest.mark.parametrize(("smiles", "ring_size"), [("O=C(c1ccccc1)N1CCCCCC1", 7), ("O=C1CCCCCCCCCCCN1", 13)])
def test_rings_are_rigid_unless_they_are_to_be_opened(smiles, ring_size):
    """A rigid ring is one fragment of the torsion tree; an opened one has glue atoms, which other programs refuse."""
    mol = Chem.MolFromSmiles(smiles)
    for options in ({}, {"flexible_ring_size": ring_size + 1}):
        rigid = ligand_pdbqt(mol, 1, **options)
        assert not {"CG0", "G0"} & set(atom_types(rigid))
        fragments = re.split(r"ROOT|BRANCH", rigid)
        assert max(len(atom_types(fragment)) for fragment in fragments) >= ring_size
    opened = atom_types(ligand_pdbqt(mol, 1, ring_size))  # control
    assert opened.count("CG0") == opened.count("G0") == 2


@pytest.mark.long
def test_a_rigid_azepane_amide_binds_more_strongly(clpp):
    """With the option it docks as before: some 2 kcal/mol too weak. An exhaustiveness of 8 takes half a minute."""
    smiles, energies = "O=C(c1ccccc1)N1CCCCCC1", []
    for ring_size in (None, 7):
        docking = Docking(**clpp | {"exhaustiveness": 8, "flexible_ring_size": ring_size})
        energies.append(docking(Molecule(Chem.MolFromSmiles(smiles))).value)
    assert energies == pytest.approx([-5.74, -3.98], abs=0.3)


def test_a_receptor_without_polar_hydrogens_is_refused(clpp, tmp_path):
    lines = find_file("receptor", clpp["receptor"]).read_text().splitlines(keepends=True)
    bare = tmp_path / "bare.pdbqt"
    bare.write_text("".join(line for line in lines if line[77:].strip() != "HD"))
    with pytest.raises(ConfigError, match=r"^receptor: bare\.pdbqt has no polar hydrogens"):
        Docking(**clpp | {"receptor": str(bare)})


def test_the_centroid_is_of_the_heavy_atoms():
    mol = embed_conformer(Chem.MolFromSmiles("CCO"), 1)
    heavy = mol.GetConformer().GetPositions()[:3]
    assert centroid(Chem.RemoveHs(mol)) == pytest.approx(heavy.mean(0).tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"receptor": "none.pdbqt"}, r"^receptor: there is no file none\.pdbqt"),
        ({}, "^centre: give either centre or ligand, got neither$"),
        ({"centre": [1.0], "ligand": "l.pdb"}, "^centre: give either centre or ligand, got both$"),
        ({"ligand": "l.pdb"}, "^ligand_smiles: must be given with ligand, whose PDB file has no bond orders$"),
        (
            {"centre": [1.0, 2.0]},
            r"^centre, size: need three coordinates and three positive edges, got \[1\.0, 2\.0\] and",
        ),
        (
            {"centre": [1.0, 2.0, 3.0], "exhaustiveness": 0},
            "^exhaustiveness, seed, poses: must be >= 1, >= 1 and >= 0, got 0, 1, 0$",
        ),
        (
            {"centre": [1.0, 2.0, 3.0], "flexible_ring_size": 6},
            "^flexible_ring_size: must be >= 7, or null for rigid rings, got 6$",
        ),
    ],
)
def test_a_mistake_is_refused(options, message, tmp_path):
    (tmp_path / "r.pdbqt").write_text("")
    with pytest.raises(ConfigError, match=message):
        Docking(**{"receptor": str(tmp_path / "r.pdbqt"), **options})
