"""Properties of molecules whose values are known, and components refused where they are misused."""

import pytest
from rdkit import Chem
from rdkit.Chem import QED

from chem.oracles.base import Molecule
from chem.oracles.compose import Scorer, make_component
from chem.oracles.properties import HYDROGEN, qed
from chem.oracles.synthesis.inventory import default_stock, read_stock
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, ComponentTransformConfig, OracleConfig

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
    """To the last bit, on leaves of the stock, on odd molecules, and where hydrogens are written out."""
    odd = ["[U]", "[Na+].[Cl-]", "F.F.F.F", "[15NH3]", "C1" + "C" * 100 + "1", "*c1ccccc1", "[O-][N+](=O)OO", "[Si]F"]
    hydrogens = ["[H][H]", "[2H]C(C)O", "[H]c1ccccc1", "[H][N+]([H])([H])C", "[OH][H]", "[H-]"]
    smiles = [*sorted(read_stock(default_stock()))[::20], ASPIRIN, RHODANINE, *odd, *hydrogens]
    mols = [Chem.MolFromSmiles(one) for one in smiles]
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
        ("qedd", {}, r"name must be one of qed, .*docking.*package.module:name.*got qedd"),
        ("qed", {"bits": 3}, r"qed: parameters: this component has none, got bits"),
        ("alerts", {"catalogs": ["PAIN"]}, r"alerts.catalogs: must be among PAINS_A.*got PAIN"),
        ("similarity", {"smiles": ["C1C"]}, r"similarity.smiles: must be SMILES"),
        ("substructure", {"smarts": "[C"}, r"substructure.smarts: must be SMARTS, got \[C"),
        ("substructure", {"pattern": "C"}, r"substructure cannot be made: TypeError"),
        ("no_such_module:Thing", {}, r"cannot be made: ModuleNotFoundError"),
        ("chem.oracles:Thing", {}, r"cannot be made: AttributeError"),
    ],
)
def test_a_component_that_cannot_be_made_is_refused(name, parameters, message):
    with pytest.raises(ConfigError, match=message):
        make_component(ComponentConfig(name, parameters))


def test_a_property_beyond_one_needs_a_transform():
    with pytest.raises(ConfigError, match=r"weight is not within .* must have a transform"):
        Scorer(OracleConfig([ComponentConfig("weight")]))
    shape = ComponentTransformConfig("interval", low=100.0, high=200.0, margin=0.0)
    assert Scorer(OracleConfig([ComponentConfig("weight", transform=shape)]))(ASPIRIN).score == 1


def test_a_product_is_composed_and_stops_at_zero():
    donors = ComponentConfig("donors", transform=ComponentTransformConfig("step", edge=1.0, side="below"))
    scorer = Scorer(OracleConfig([donors, ComponentConfig("qed")]))
    aspirin, benzene = scorer(ASPIRIN), scorer("c1ccccc1")
    assert (aspirin.score, aspirin.values) == (0, {"donors": 1})  # QED cannot change it and is not asked
    assert (aspirin.scaffold, scorer("CCO").scaffold, scorer("C(").scaffold) == ("c1ccccc1", "", None)
    assert benzene.score == benzene.values["qed"] == value_of("qed", "c1ccccc1")

    config = OracleConfig([donors, ComponentConfig("qed", weight=3.0)], "arithmetic")
    assert Scorer(config)(ASPIRIN).score == pytest.approx(0.75 * value_of("qed", ASPIRIN))


def test_identity_tells_two_oracles_apart():
    def identity(**changes):
        return Scorer(OracleConfig([ComponentConfig("similarity", {"smiles": [ASPIRIN], **changes})])).identity()

    assert identity() == identity()
    assert identity() != identity(radius=3)
