"""Neutral forms and salts."""

import pytest
from rdkit import Chem

pytest.importorskip("syntheseus", reason="needs the extra synthesis")
from chem.oracles.synthesis.neutral import neutral_form, neutral_smiles, strip_salt


@pytest.mark.parametrize(
    ("smiles", "neutral"),
    [
        ("Cc1ccc(C[NH2+]C2C[C@H](CO)CC2(C)C)cc1", "Cc1ccc(CNC2C[C@H](CO)CC2(C)C)cc1"),
        ("C[N@@H+]1CC[C@H](O)C1", "CN1CC[C@H](O)C1"),  # the nitrogen is no stereocentre any more
        ("[NH3+]CC(=O)[O-]", "NCC(=O)O"),  # a zwitterion
        ("c1nn[n-]n1", "c1nn[nH]n1"),
        ("CC(=[NH2+])N", "CC(=N)N"),
        ("C[N-]S(C)(=O)=O", "CNS(C)(=O)=O"),
        ("[NH3+]CC[N+](C)(C)CC(=O)[O-]", "C[N+](C)(CCN)CC(=O)[O-]"),  # one charge of each sign is left
    ],
)
def test_protons_balance_charges(smiles, neutral):
    mol = Chem.MolFromSmiles(smiles)
    assert Chem.MolToSmiles(neutral_form(mol)) == neutral == neutral_smiles(Chem.CanonSmiles(smiles))
    assert Chem.MolToSmiles(mol) == Chem.CanonSmiles(smiles) != neutral  # the input is not modified


@pytest.mark.parametrize(
    "smiles",
    ["C[N+](C)(C)C", "C[n+]1ccccc1", "C[N+](C)(C)CC(=O)[O-]", "O=[N+]([O-])c1ccccc1", "C[N+](C)(C)[O-]",
     "[O-][n+]1ccccc1", "CN=[N+]=[N-]", "[C-]#[N+]CC", "F[B-](F)(F)c1ccccc1", "CCO", "C/C=C/[C@H](N)O",
     "CONC(=O)CSc1ccc[c-]1C"],
)  # fmt: skip
def test_what_no_proton_balances_stays(smiles):
    """The last one has a neutral form that RDKit cannot read."""
    assert neutral_smiles(Chem.CanonSmiles(smiles)) == Chem.CanonSmiles(smiles)


@pytest.mark.parametrize(
    ("salt", "parent"),
    [
        ("NCC.Cl", "CCN"),
        ("OC(=O)C(=O)O.NCC", "CCN"),
        ("OC(=O)C(F)(F)F", "O=C(O)C(F)(F)F"),  # nothing but what is a counter-ion elsewhere
        ("CCN.CCN.OS(=O)(=O)O", "CCN"),
        ("CC(=O)[O-].[Na+]", "CC(=O)[O-]"),
        ("CCCO.CCCCCN", "CCCCCN.CCCO"),  # which one is meant?
    ],
)
def test_counter_ions_are_stripped(salt, parent):
    assert Chem.MolToSmiles(strip_salt(Chem.MolFromSmiles(salt))) == parent
