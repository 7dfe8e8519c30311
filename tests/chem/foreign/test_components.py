"""Components of REINVENT 4 as ours: their values, on molecules."""

import sys

import pytest
from omegaconf import OmegaConf
from rdkit import Chem
from rdkit.Chem import Descriptors, rdMolDescriptors

from chem.foreign.components import REINVENT, SATURN, find_converter, make_component, make_oracle
from chem.foreign.ledger import Ledger, NoCounterpart, Section
from chem.oracles.compose import Scorer
from conf.schema.base import ConfigError
from conf.schema.oracle import OracleConfig

MOLECULES = ["CC#CC(=O)Nc1ccc(O)cc1", "C1CCCCC1N", "OC(=O)[C@H](N)CCSC(F)(F)F", "c1ccc2ccccc2c1"]
RDKIT = dict(Descriptors.descList)
PHYSCHEM = {
    "HBondAcceptors": RDKIT["NumHAcceptors"],
    "HBondDonors": RDKIT["NumHDonors"],
    "NumRotBond": RDKIT["NumRotatableBonds"],
    "NumRings": RDKIT["RingCount"],
    "NumAromaticRings": RDKIT["NumAromaticRings"],
    "NumAliphaticRings": RDKIT["NumAliphaticRings"],
    "NumHeavyAtoms": RDKIT["HeavyAtomCount"],
    "NumHeteroAtoms": RDKIT["NumHeteroatoms"],
    "NumAtomStereoCenters": rdMolDescriptors.CalcNumAtomStereoCenters,
    "MolecularWeight": RDKIT["MolWt"],
    "SlogP": RDKIT["MolLogP"],
    "TPSA": RDKIT["TPSA"],
    "Csp3": RDKIT["FractionCSP3"],
    "Qed": RDKIT["qed"],
    "numsp": lambda mol: sum(str(atom.GetHybridization()) == "SP" for atom in mol.GetAtoms()),
    "num_sp2": lambda mol: sum(str(atom.GetHybridization()) == "SP2" for atom in mol.GetAtoms()),
    "numsp3": lambda mol: sum(str(atom.GetHybridization()) == "SP3" for atom in mol.GetAtoms()),
}


def match(name, known=REINVENT, **parameters):
    return find_converter(known, name)(Section(Ledger(), parameters))


def scorer(*components, aggregation="geometric"):
    oracle = make_oracle(list(components), aggregation, None)
    return Scorer(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(OracleConfig), oracle)))


def test_physicochemical_components_have_reinvents_values():
    wide = {"name": "interval", "low": -1000.0, "high": 1000.0, "margin": 0.0}
    components = [make_component(match(name), wide, 1.0, name) for name in PHYSCHEM]
    for result in scorer(*components).score_batch(MOLECULES):
        mol = Chem.MolFromSmiles(result.smiles)
        assert result.values == pytest.approx({name: function(mol) for name, function in PHYSCHEM.items()})


def test_filters_and_penalties_multiply_and_weights_are_normalised():
    alerts = make_component(match("custom_alerts", smarts=["C#C", "C(("]), None, 0.8, "alerts")
    ring = make_component(match("MatchingSubstructure", smarts="c1ccccc1"), None, 5.0, "ring")
    qed = make_component(match("QED"), None, 0.5, "qed")
    csp3 = make_component(match("Csp3"), None, 1.5, "csp3")
    assert "weight" not in ring
    for aggregation, mean in (
        ("geometric", lambda a, b: (a**0.5 * b**1.5) ** 0.5),
        ("arithmetic", lambda a, b: (0.5 * a + 1.5 * b) / 2),
    ):
        results = scorer(ring, qed, csp3, alerts, aggregation=aggregation).score_batch(MOLECULES[:3])
        for result in results:
            mol = Chem.MolFromSmiles(result.smiles)
            wanted = 0.0 if "C#C" in result.smiles else mean(RDKIT["qed"](mol), RDKIT["FractionCSP3"](mol)) / 2
            assert result.score == pytest.approx(wanted)


def test_only_penalties_are_their_product():
    ring = make_component(match("MatchingSubstructure", smarts="c1ccccc1"), None, 1.0, "ring")
    alerts = make_component(match("custom_alerts", smarts=["C#C"]), None, 1.0, "alerts")
    assert [result.score for result in scorer(ring, alerts).score_batch(MOLECULES)] == [0, 0.5, 0.5, 1]


def test_parameters():
    wide = {"name": "step", "edge": 2, "side": "from"}
    given = {"smiles": ["CCO"], "radius": 3, "use_counts": True, "use_features": True}
    assert match("TanimotoDistance", **given).parameters == {
        "smiles": ["CCO"], "radius": 3, "counts": True, "features": True
    }  # fmt: skip
    assert match("TanimotoSimilarity", **{**given, "use_counts": False}).parameters["bits"] == 2**16
    assert match("RDKitDescriptors", descriptor="balabanj").parameters == {"name": "BalabanJ"}
    count = scorer(make_component(match("GroupCount", smarts="[F,Cl]"), wide, 1.0, "halogens"))
    assert [result.values["halogens"] for result in count.score_batch(MOLECULES)] == [0, 0, 3, 0]


def test_a_program_gets_smiles_and_its_predictions_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["import json, sys", "lengths = [len(line.strip()) / 100 for line in sys.stdin]"]
    lines += ["print(json.dumps({'version': 1, 'payload': {'predictions': lengths}}))"]
    (tmp_path / "predict.py").write_text("\n".join(lines))
    found = match("ExternalProcess", executable=sys.executable, args="predict.py")
    results = scorer(make_component(found, {"name": "identity"}, 1.0, "length")).score_batch(["CCO", "CCCCCC"])
    assert [result.score for result in results] == [0.03, 0.06]


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("DockStream", {}, "docking"),
        ("qptuna", {}, "ONNX"),
        ("Nonsense", {}, "unknown"),
        ("MatchingSubstructure", {"smarts": "C", "use_chirality": True}, "use_chirality"),
        ("custom_alerts", {"smarts": ["C(("]}, "no pattern"),
        ("RDKitDescriptors", {"descriptor": "nope"}, "no descriptor"),
        ("ExternalProcess", {"executable": "a", "property": "b"}, "property"),
    ],
)
def test_what_has_no_counterpart_says_so(name, parameters, reason):
    with pytest.raises(NoCounterpart, match=reason):
        match(name, **parameters)


def test_a_value_outside_the_unit_range_needs_a_transform():
    with pytest.raises(NoCounterpart, match="has no transform"):
        make_component(match("SAScore"), None, 1.0, "sa")
    with pytest.raises(NoCounterpart, match="alerts with a transform"):
        make_component(match("custom_alerts", smarts=["C"]), {"name": "identity"}, 1.0, "alerts")
    with pytest.raises(ConfigError, match="nothing to convert"):
        make_oracle([], "geometric", None)


def test_saturns_patterns_have_weights():
    alerts = make_component(match("smarts_alerts", SATURN, smarts=["C#C"]), None, 2.0, "alerts")
    ring = make_component(match("matching_substructure", SATURN, smarts=["c1ccccc1"]), None, 1.0, "ring")
    qed = make_component(match("qed", SATURN), None, 1.0, "qed")
    result = scorer(alerts, ring, qed).score_batch(["C1CCCCC1N"])[0]
    assert result.score == pytest.approx((1 * 0.5 * RDKIT["qed"](Chem.MolFromSmiles("C1CCCCC1N"))) ** 0.25)


def test_labels_differ():
    oracle = make_oracle([{"name": "qed", "label": "a"} for _ in "123"], "product", 2)
    assert oracle["workers"] == 2
    assert [component["label"] for component in oracle["components"]] == ["a", "a (2)", "a (3)"]
