"""Properties of molecules whose values are known."""

import pytest
from rdkit import Chem
from rdkit.Chem import QED

from chem.oracles.base import Molecule
from chem.oracles.compose import make_component
from chem.oracles.properties import HYDROGEN, qed
from chem.oracles.synthesis.inventory import default_stock, read_stock
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
RHODANINE = "O=C1NC(=S)SC1=Cc1ccccc1"  # a PAINS alert


def value_of(name, molecule, /, **parameters):
    answer = make_component(ComponentConfig(name, parameters))(Molecule(Chem.MolFromSmiles(molecule)))
    assert isinstance(answer, float)
    return answer


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qed", 0.550),  # Bickerton et al. report .56 for aspirin
        ("sa_score", 1.58),
        ("weight", 9 * 12.011 + 8 * 1.008 + 4 * 15.999),
        ("logp", 1.310),
        ("tpsa", 63.60),  # 26.30 + 37.30, Ertl's contributions of an ester and an acid
        ("donors", 1),
        ("acceptors", 3),
        ("rings", 1),
        ("rotatable_bonds", 2),
        ("similarity", 1),
        ("substructure", 1),
    ],
)
def test_aspirin(name, expected):
    parameters = {"similarity": {"smiles": ["CCO", ASPIRIN]}, "substructure": {"smarts": "C(=O)[OH]"}}.get(name, {})
    assert value_of(name, ASPIRIN, **parameters) == pytest.approx(expected, abs=6e-3)


def test_qed_is_rdkits_own():
    """Bit for bit, for building blocks, odd molecules and molecules with explicit hydrogens."""
    odd = ["[U]", "[Na+].[Cl-]", "F.F.F.F", "[15NH3]", "C1" + "C" * 100 + "1", "*c1ccccc1", "[O-][N+](=O)OO", "[Si]F"]
    hydrogens = ["[H][H]", "[2H]C(C)O", "[H]c1ccccc1", "[H][N+]([H])([H])C", "[OH][H]", "[H-]"]
    smiles = [*sorted(read_stock(default_stock()).smiles)[::20], ASPIRIN, RHODANINE, *odd, *hydrogens]
    mols = [Chem.MolFromSmiles(string) for string in smiles]
    alerts = [QED.properties(mol).ALERTS for mol in mols]
    assert len(mols) > 100
    assert max(alerts) > 2
    assert 0 in alerts
    assert [qed(Chem.Mol(mol)) for mol in mols] == [QED.qed(mol) for mol in mols]
    heavy = Chem.MolFromSmiles("[2H]C([2H])([2H])C(=O)NO")  # hydrogens that RDKit keeps
    assert heavy.HasSubstructMatch(HYDROGEN)
    assert qed(heavy) == QED.qed(heavy)


def test_alerts_count_catalogues_and_patterns():
    assert value_of("alerts", ASPIRIN, catalogs=["PAINS"]) == 0
    assert value_of("alerts", RHODANINE, catalogs=["PAINS"]) == 1
    assert value_of("alerts", RHODANINE, catalogs=["PAINS"], smarts=["C=S", "Cl", "c1ccccc1"]) == 3
    assert value_of("alerts", ASPIRIN, catalogs=["BRENK"]) >= 1  # the phenol ester


def test_similarity_is_tanimoto():
    """By hand: with radius 0 the fingerprint of ethane is {CH3}, of propane {CH3, CH2}."""
    assert value_of("similarity", "CC", smiles=["CCC"], radius=0) == pytest.approx(1 / 2)
    assert value_of("similarity", "CCO", smiles=["CCC", "CCO"]) == 1
    assert value_of("substructure", "CCO", smarts="N") == 0


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("qed", {"bits": 3}, r"qed: this component takes no parameters, got bits"),
        ("alerts", {"catalogs": ["PAIN"]}, r"alerts: catalogs: each must be one of PAINS_A.*got PAIN"),
        (
            "similarity",
            {"smiles": ["C1C"]},
            r"similarity: smiles: must be SMILES of at least one molecule, got \['C1C'\]",
        ),
        ("similarity", {"smiles": []}, r"similarity: smiles: must be SMILES of at least one molecule, got \[\]"),
        ("substructure", {"smarts": "[C"}, r"substructure: smarts: not a valid SMARTS pattern: \[C"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(name, parameters, message):
    with pytest.raises(ConfigError, match=rf"^oracle\.components: {message}"):
        make_component(ComponentConfig(name, parameters))
