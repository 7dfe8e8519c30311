"""Components composed into one oracle."""

import sys
from typing import Any

import pytest
from rdkit import Chem

from chem.oracles.base import Molecule, Status, TimedOut, Value
from chem.oracles.compose import Scorer, code_version, error_text, make_component
from chem.oracles.external_program import ExternalProgram
from chem.oracles.properties import Alerts, Property, Similarity, Substructure
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, ComponentTransformConfig, OracleConfig

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
NO_DONORS = ComponentConfig("donors", transform=ComponentTransformConfig("step", edge=1.0, side="below"))
OWN_COMPONENTS = """
from chem.oracles import TimedOut, Value

class Own:
    def __init__(self, value=0.5, details=None, error=None):
        self.value, self.details, self.error = value, details, error

    def __call__(self, molecule):
        if self.error == "time":
            raise TimedOut("too slow")
        if self.error:
            raise RuntimeError(self.error)
        return Value(self.value, self.details)

    def preflight(self):
        if self.error == "preflight":
            raise OSError("no licence")
        return f"answers {self.value}"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_components.py").write_text(OWN_COMPONENTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_components", raising=False)
    return lambda label="own", **parameters: ComponentConfig("own_components:Own", parameters, label=label)


def qed(smiles):
    return make_component(ComponentConfig("qed"))(Molecule(Chem.MolFromSmiles(smiles)))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (
            "qedd",
            {},
            r"name must be one of qed, .*docking.*package\.module:name for a component of your own, got qedd$",
        ),
        ("command", {}, r"command was renamed to external_program$"),
        ("substructure", {"pattern": "C"}, r"substructure cannot be created: TypeError"),
        (
            "no_such_module:Thing",
            {},
            r"no_such_module:Thing: name: no_such_module:Thing cannot be imported .*No module",
        ),
        ("chem.oracles:Thing", {}, r"chem\.oracles:Thing: name: chem\.oracles:Thing cannot be imported .*attribute"),
    ],
)
def test_a_component_that_cannot_be_created_is_refused(name, parameters, message):
    with pytest.raises(ConfigError, match=rf"^oracle\.components: {message}"):
        make_component(ComponentConfig(name, parameters))


def test_a_property_beyond_one_needs_a_transform():
    message = r"^oracle\.components: values of weight are not within \[0, 1\]; give it a transform: sigmoid, reverse_"
    with pytest.raises(ConfigError, match=message):
        Scorer(OracleConfig([ComponentConfig("weight")]))
    shape = ComponentTransformConfig("interval", low=100.0, high=200.0, margin=0.0)
    assert Scorer(OracleConfig([ComponentConfig("weight", transform=shape)]))(ASPIRIN).score == 1


def test_a_product_is_composed_and_stops_at_zero():
    scorer = Scorer(OracleConfig([NO_DONORS, ComponentConfig("qed")]))
    aspirin, benzene = scorer(ASPIRIN), scorer("c1ccccc1")
    assert (aspirin.score, aspirin.values) == (0, {"donors": 1})  # QED cannot change it and is skipped
    assert (aspirin.scaffold, scorer("CCO").scaffold, scorer("C(").scaffold) == ("c1ccccc1", "", None)
    assert benzene.score == benzene.values["qed"] == qed("c1ccccc1")

    config = OracleConfig([NO_DONORS, ComponentConfig("qed", weight=3.0)], "arithmetic")
    assert Scorer(config)(ASPIRIN).score == pytest.approx(0.75 * qed(ASPIRIN))


def test_an_invalid_string_has_score_zero_and_a_reason():
    result = Scorer(OracleConfig([ComponentConfig("qed")]))("C1CC")
    assert (result.status, result.score, result.message) == (Status.invalid, 0, "not a molecule")


def test_details_are_kept_by_component(own):
    scorer = Scorer(OracleConfig([own("a", details={"pose": 1}), own("b", value=0.25), ComponentConfig("qed")]))
    result = scorer("CCO")
    assert result.details == {"a": {"pose": 1}}
    assert result.scores == {"a": 0.5, "b": 0.25, "qed": qed("CCO")}
    assert result.score == pytest.approx(0.5 * 0.25 * qed("CCO"))
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("parameters", "status", "message"),
    [
        ({"error": "time"}, Status.timed_out, "own: too slow"),
        ({"error": "a\n b"}, Status.failed, "own: RuntimeError: a b"),
        ({"value": float("inf")}, Status.failed, "own: ValueError: the value must be finite, got inf"),
        (
            {"value": 1.5},
            Status.failed,
            "own: ValueError: the score must be in [0, 1], got 1.5: give the component a transform",
        ),
    ],
)
def test_an_error_in_a_component_becomes_a_result(own, parameters, status, message):
    result = Scorer(OracleConfig([ComponentConfig("qed"), own(**parameters)]))("CCO")
    assert (result.status, result.score, result.message) == (status, None, message)
    assert result.values["qed"] == qed("CCO")  # what was known before


def test_preflights_are_labelled(own):
    assert Scorer(OracleConfig([own("a"), ComponentConfig("qed"), own("b", value=1)])).preflight() == [
        "a: answers 0.5",
        "b: answers 1",
    ]
    with pytest.raises(ConfigError, match=r"^oracle\.components: the preflight of own failed: OSError: no licence$"):
        Scorer(OracleConfig([own(error="preflight")])).preflight()


def test_identities_of_different_oracles_differ(own, tmp_path):
    def identity(aggregation="product", **changes):
        config = OracleConfig([ComponentConfig("similarity", {"smiles": [ASPIRIN], **changes})], aggregation)
        return Scorer(config).identity()

    assert identity() == identity()
    assert identity() != identity(radius=3)
    assert identity() != identity("geometric")
    component = make_component(own())
    before = code_version(type(component))
    (tmp_path / "own_components.py").write_text(OWN_COMPONENTS + "# changed")
    assert code_version(type(component)) != before  # other code may give other scores


@pytest.mark.parametrize("component", [Property, Alerts, Similarity, Substructure, ExternalProgram])
def test_a_built_in_components_identity_is_its_version_and_not_its_file(component: Any):
    assert code_version(component) == component.version

    class Changed(component):
        pass

    assert code_version(Changed) != component.version  # it may compute other values


def test_error_texts_are_one_short_line():
    assert error_text(ValueError("a\n  b")) == "ValueError: a b"
    assert error_text(TimedOut()) == "TimedOut"
    assert len(error_text(ValueError("x" * 1000))) < 520
    assert Value(1.0).details is None
