"""Properties of molecules whose values are known."""

import math

import pytest
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import QED, rdMolDescriptors

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


@pytest.mark.parametrize(
    ("name", "smiles", "parameters", "expected"),
    [
        ("csp3", "CCO", {}, 1),
        ("csp3", "Cc1ccccc1", {}, 1 / 7),
        ("largest_ring", "CCO", {}, 0),
        ("largest_ring", "C1CC1C1CCCCCC1", {}, 7),
        ("largest_ring", "c1ccc2ccccc2c1", {}, 6),  # the smallest rings, not their perimeter
        ("rings_of_size", "C1CC1C1CCCCCC1c1ccccc1", {"low": 7}, 1),
        ("rings_of_size", "C1CC1C1CCCCCC1c1ccccc1", {"low": 3, "high": 6}, 2),
        ("stereocentres", "C[C@H](F)C(O)Cl", {}, 2),
        ("stereocentres", "C[C@H](F)C(O)Cl", {"unspecified": True}, 1),
        ("group_count", "OCC(O)C(=O)O", {"smarts": "[OX2H]"}, 3),
        ("group_count", "c1ccccc1", {"smarts": "c1ccccc1"}, 1),  # each set of atoms once
        ("group_count", "C" * 200, {"smarts": "[#6]"}, 200),
        ("alerts", "OCCl", {"catalogs": [], "smarts": {"Cl": 0.5, "O": 2, "Br": 7}}, 2.5),
    ],
)
def test_counts_by_hand(name, smiles, parameters, expected):
    assert value_of(name, smiles, **parameters) == pytest.approx(expected)


def test_soft_alerts_lower_the_score_by_a_factor_each():
    """With weights ln 2 and ln 4 the score falls to 1/2, 1/4 or 1/8 of what it was, whatever the aggregation."""
    alerts = ComponentConfig(
        "alerts",
        {"catalogs": [], "smarts": {"Cl": math.log(2), "Br": math.log(4)}},
        ComponentTransformConfig("exponential_decay", k=1.0),
        penalty=True,
    )
    config = OracleConfig([ComponentConfig("qed"), ComponentConfig("csp3"), alerts], "arithmetic")
    scorer, plain = Scorer(config), Scorer(OracleConfig(config.components[:2], "arithmetic"))
    for smiles, factor in {"CCO": 1, "CCCl": 1 / 2, "CCBr": 1 / 4, "ClCCBr": 1 / 8}.items():
        assert scorer(smiles).score == pytest.approx(factor * plain(smiles).score)


def test_similarity_of_counts():
    """By hand: radius 0 counts {CH3: 2, CH2: 1} and {CH3: 2, CH2: 3}; 3 in common of 5. Without counts they agree."""
    assert value_of("similarity", "CCC", smiles=["CCCCC"], radius=0, counts=True) == pytest.approx(3 / 5)
    assert value_of("similarity", "CCC", smiles=["CCCCC"], radius=0) == 1  # control
    # REINVENT 4's TanimotoSimilarity with use_counts and use_features: RDKit's former function.
    first, second = Chem.MolFromSmiles(ASPIRIN), Chem.MolFromSmiles("CC(=O)Nc1ccc(O)cc1")
    for counts, features in ((True, False), (True, True)):
        with rdBase.BlockLogs():
            expected = DataStructs.TanimotoSimilarity(
                *(
                    rdMolDescriptors.GetMorganFingerprint(mol, 3, useCounts=counts, useFeatures=features)
                    for mol in (first, second)
                )
            )
        options = {"smiles": [ASPIRIN], "radius": 3, "counts": counts, "features": features}
        assert value_of("similarity", "CC(=O)Nc1ccc(O)cc1", **options) == pytest.approx(expected)


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
        ("group_count", {"smarts": "[C"}, r"group_count: smarts: not a valid SMARTS pattern: \[C"),
        ("rings_of_size", {"low": 2}, r"rings_of_size: low, high: need 3 <= low <= high, .*, got 2 and None"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(name, parameters, message):
    with pytest.raises(ConfigError, match=rf"^oracle\.components: {message}"):
        make_component(ComponentConfig(name, parameters))
