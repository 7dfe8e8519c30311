"""Components composed into one oracle."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rdkit import Chem

from chem.oracles.base import Molecule, Result, Status, TimedOut, Value
from chem.oracles.batch_program import BatchProgram
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

    def make(label="own", weight=1.0, penalty=False, **parameters):
        return ComponentConfig("own_components:Own", parameters, weight=weight, penalty=penalty, label=label)

    return make


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


@pytest.mark.parametrize(
    ("value", "details"),
    [
        (np.float32(0.5), None),
        (np.float64(0.5), {"array": np.arange(3), "set": {"b", "a"}, 1: (np.int64(2), np.bool_(True))}),
        (torch.tensor(0.5), {"tensor": torch.ones(2), "path": Path("a")}),
    ],
)
def test_values_and_details_become_plain_json(own, value, details):
    result = Scorer(OracleConfig([own(value=value, details=details)]))("CCO")
    assert type(result.values["own"]) is float
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result
    expected = {"array": [0, 1, 2], "set": ["a", "b"], "1": [2, True], "tensor": [1.0, 1.0], "path": "a"}
    plain = result.details.get("own", {})
    assert plain == {name: expected[name] for name in plain}
    assert len(plain) == len(details or {})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"details": {"a": [1, math.nan]}}, "own: ValueError: details['a'][1] must be finite, got nan"),
        (
            {"details": {"a": object()}},
            "own: ValueError: details['a'] must be JSON (numbers, text, lists and dicts), got object",
        ),
        ({"details": b"a"}, "own: ValueError: details must be JSON (numbers, text, lists and dicts), got bytes"),
        ({"value": None}, "own: TypeError: float() argument must be a string or a real number, not 'NoneType'"),
        ({"value": np.float32("nan")}, "own: ValueError: the value must be finite, got nan"),
    ],
)
def test_what_is_no_json_fails_its_molecule(own, parameters, message):
    result = Scorer(OracleConfig([own(**parameters)]))("CCO")
    assert (result.status, result.message) == (Status.failed, message)


def test_identities_and_preflights_are_plain(own, monkeypatch):
    scorer = Scorer(OracleConfig([own()]))
    component: Any = scorer.components[0].component
    component.identity = lambda: {"weights": np.arange(2), "level": np.float32(0.5)}
    component.preflight = lambda: np.array(["two", "values"])
    assert json.loads(json.dumps(scorer.identity()))["components"][0]["depends_on"] == {
        "weights": [0, 1],
        "level": 0.5,
    }
    assert scorer.preflight() == ["own: ['two' 'values']"]
    component.identity = lambda: {"model": object()}
    with pytest.raises(
        ConfigError,
        match=r"^oracle\.components: the identity of own: ValueError: identity\(\)\['model'\] must be JSON",
    ):
        scorer.identity()


@pytest.mark.parametrize("aggregation", ["product", "geometric", "arithmetic"])
def test_a_penalty_multiplies_the_aggregated_score(own, aggregation):
    parts = [own("a", value=0.4), own("b", value=0.9, weight=3.0)]
    penalty = own("p", value=0.5, weight=2.0, penalty=True)
    plain = Scorer(OracleConfig(parts, aggregation))("CCO").score
    for order in ([*parts, penalty], [penalty, *parts]):
        assert Scorer(OracleConfig(order, aggregation))("CCO").score == pytest.approx(plain * 0.25)
    stopped = Scorer(OracleConfig([own("p", value=0.0, penalty=True), *parts], aggregation))("CCO")
    assert (stopped.score, stopped.values) == (0, {"p": 0})  # the others are not asked
    assert Scorer(OracleConfig([*parts, own("p", value=1.0, penalty=True)], aggregation))("CCO").score == plain
    assert "penalty" in Scorer(OracleConfig([*parts, penalty])).identity()["components"][2]
    assert "penalty" not in Scorer(OracleConfig(parts)).identity()["components"][0]  # as before there were penalties


class Lengths:
    """Scores a batch; raises for one with a nitrogen, and times out for one with an oxygen."""

    unit_range = False

    def __init__(self):
        self.sizes: list[int] = []

    def score_batch(self, molecules):
        self.sizes.append(len(molecules))
        if any("O" in molecule.smiles for molecule in molecules):
            raise TimedOut("too slow")
        if any("N" in molecule.smiles for molecule in molecules):
            raise RuntimeError("no nitrogen")
        return [
            KeyError("fluorine") if "F" in molecule.smiles else Value(len(molecule.smiles) / 10, {"n": 1})
            for molecule in molecules
        ]


def test_a_failing_batch_is_halved():
    scorer = Scorer(OracleConfig([ComponentConfig("qed")]))
    component: Any = Lengths()
    scorer.components[0].component = component
    carbons = ["C" * n for n in range(1, 7)]
    results = {result.smiles: result for result in scorer.score_batch([*carbons, "CN", "CO", "CF", "C1CC"])}
    assert [results[smiles].score for smiles in carbons] == [n / 10 for n in range(1, 7)]
    assert {results[smiles].status for smiles in carbons} == {Status.ok}
    assert results["C"].details == {"qed": {"n": 1}}
    assert {smiles: (results[smiles].status, results[smiles].message) for smiles in ("CN", "CO", "CF", "C1CC")} == {
        "CN": (Status.failed, "qed: RuntimeError: no nitrogen"),
        "CO": (Status.timed_out, "qed: too slow"),
        "CF": (Status.failed, "qed: KeyError: 'fluorine'"),
        "C1CC": (Status.invalid, "not a molecule"),
    }
    assert component.sizes == [9, 4, 5, 2, 3, 1, 2, 1, 1]  # without the invalid one
    component.score_batch = lambda molecules: [Value(0.5)]
    assert "returned 1 values for 2 molecules" not in scorer("CC").message
    assert [result.score for result in scorer.score_batch(["CC", "CCC"])] == [0.5, 0.5]  # each half has one


def test_what_a_score_of_zero_makes_superfluous_is_not_in_the_batch():
    config = OracleConfig([NO_DONORS, ComponentConfig("qed")])
    scorer = Scorer(config)
    component: Any = Lengths()
    scorer.components[1].component = component
    results = scorer.score_batch(["CO", "CCC", "CN"])  # the first and the last have donors
    assert [result.score for result in results] == [0, 0.3, 0]
    assert component.sizes == [1]


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


@pytest.mark.parametrize("component", [Property, Alerts, Similarity, Substructure, ExternalProgram, BatchProgram])
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
