"""Conformers are seeded, and a receptor has polar hydrogens."""

import pytest
from rdkit import Chem

from chem.oracles.conformers import check_polar_hydrogens, check_ring_size, embed_conformer, read_bound_ligand
from conf.schema.base import ConfigError

ATOM = "ATOM      1  N   LEU A   1     -23.116  51.856  14.804  0.00  0.00    +0.386 {:2}\n"


def test_conformers_are_seeded_and_have_hydrogens():
    mol = Chem.MolFromSmiles("N#Cc1cccc(CN2CCc3ncn(Cc4ccc(Cl)cc4)c(=O)c3C2)c1")
    first, same, other = (embed_conformer(mol, seed).GetConformer().GetPositions() for seed in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).any()
    assert len(first) == Chem.AddHs(mol).GetNumAtoms()
    with pytest.raises(ValueError, match=r"^no conformer was found$"):
        embed_conformer(Chem.MolFromSmiles("C1#CC#C1"), 1)


@pytest.mark.parametrize(
    ("types", "allowed"),
    [("N C OA", False), ("N C HD", True), ("OA HS", True), ("C A", True), ("C H O", False), ("ZN", True)],
)
def test_a_receptor_with_donors_has_polar_hydrogens(types, allowed, tmp_path):
    path = tmp_path / "receptor.pdbqt"
    path.write_text("REMARK\n" + "".join(ATOM.format(atom_type) for atom_type in types.split()))
    if allowed:
        check_polar_hydrogens("receptor", path)
    else:
        with pytest.raises(
            ConfigError, match=r"^receptor: receptor\.pdbqt has no polar hydrogens \(atom type HD\), so"
        ):
            check_polar_hydrogens("receptor", path)


def test_small_rings_cannot_be_opened():
    for size in (None, 7, 12):
        check_ring_size(size)
    with pytest.raises(ConfigError, match=r"^flexible_ring_size: must be >= 7, or null for rigid rings, got 6$"):
        check_ring_size(6)


def test_bond_orders_come_from_the_template(tmp_path):
    flat = Chem.MolFromSmiles("c1ccccc1C=O")
    path = tmp_path / "ligand.pdb"
    path.write_text(Chem.MolToPDBBlock(Chem.RemoveHs(embed_conformer(flat, 1)), flavor=8))  # single bonds only
    assert Chem.MolToSmiles(read_bound_ligand(path, "O=Cc1ccccc1")) == "O=Cc1ccccc1"
    assert "=" not in Chem.MolToSmiles(Chem.MolFromPDBFile(str(path)))  # control: the file has none
    with pytest.raises(ConfigError, match="ligand_smiles: must be the molecule"):
        read_bound_ligand(path, "CCCCO")
    with pytest.raises(ConfigError, match=r"^ligand_smiles: not a SMILES: C1CC$"):
        read_bound_ligand(path, "C1CC")
