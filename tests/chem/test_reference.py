"""MARA's classes of molecules, and what is measured once on molecules of the prior."""

import math

import pytest
import torch

from chem.models.prior import SHIPPED, load_prior
from chem.molecules import canonical_forms
from chem.reference import PROMPT, PriorStatistics, molecule_labels
from chem.scoring import ScoredBatch
from core.classes import make_class_memory
from core.mara import quantile_threshold
from core.objective import make_objective
from launch.cli.compose import compose_typed

TOLUENE, BENZOIC = "Cc1ccccc1", "OC(=O)c1ccccc1"


def chem_config(*overrides, transform="mara"):
    return compose_typed("chem", [f"transform={transform}", *overrides])[0]


class LengthScore:
    """Scores a valid SMILES by its length, and counts its calls."""

    calls = 0

    def __call__(self, smiles):
        self.calls += 1
        canonical = canonical_forms(smiles)
        valid = torch.tensor([molecule is not None for molecule in canonical])
        reward = torch.tensor([min(len(molecule or "") / 60, 1) for molecule in canonical])
        return ScoredBatch(canonical, reward, torch.ones_like(valid), valid, [None] * len(smiles), [])


@pytest.mark.parametrize(
    ("overrides", "labels"),
    [
        ((), ["OCC", "C(C)O", "Cc1ccccc1", "OC(=O)c1ccccc1", "C("]),
        (("transform.level=answer",), ["CCO", "CCO", "Cc1ccccc1", "O=C(O)c1ccccc1", ""]),
        (("transform.level=answer", "transform.equivalence=scaffold"), ["", "", "c1ccccc1", "c1ccccc1", ""]),
    ],
)
def test_the_class_of_a_molecule(overrides, labels):
    assert molecule_labels(["OCC", "C(C)O", TOLUENE, BENZOIC, "C("], chem_config(*overrides)) == labels


def test_a_molecule_is_counted_whatever_its_spelling():
    assert molecule_labels(["OCC", "C(C)O", "C("], chem_config(transform="historical_exploration")) == ["CCO"] * 2 + [
        ""
    ]


def test_the_threshold_is_the_quantile_of_molecules_of_the_prior():
    config = chem_config(
        "transform.threshold.kind=reference_quantile",
        "transform.threshold.value=.9",
        "transform.reference_samples=32",
    )
    statistics, score, prior = PriorStatistics(config, None), LengthScore(), load_prior(SHIPPED)
    objective = make_objective(
        transform="mara", threshold={"kind": "reference_quantile", "value": 0.9}, direction="reverse"
    )
    with pytest.raises(ValueError, match=r"must be set by Objective\.with_thresholds"):
        objective.good(torch.zeros(1, 2), torch.zeros(1, 2))
    statistics.measure(prior, score)
    threshold = statistics.threshold
    assert 0 < threshold <= 1
    good = statistics.with_threshold(objective).good(torch.tensor([[threshold, threshold - 0.01]]), torch.zeros(1, 2))
    assert good.tolist() == [[True, False]]
    restored = PriorStatistics(config, None)
    restored.load_state_dict(statistics.state_dict())
    restored.measure(prior, score)
    assert score.calls == 1  # measured once
    assert restored.threshold == threshold
    again = PriorStatistics(config, None)
    again.measure(prior, score)
    assert again.threshold == threshold  # the same molecules in every run of the seed


def test_masses_are_counted_in_molecules_of_the_prior():
    config = chem_config(
        "transform.level=answer", "transform.mass=reference", "transform.reference_samples=16",
        "transform.threshold.value=.1",
    )  # fmt: skip
    memory = make_class_memory(config.choices())
    statistics = PriorStatistics(config, memory)
    statistics.measure(load_prior(SHIPPED), LengthScore())
    classes = memory.prompts[PROMPT]
    assert classes.estimates == 16
    assert 0 < sum(map(math.exp, classes.log_sums.values())) <= 16
    assert len(memory.known(PROMPT)) > 5


def test_nothing_is_measured_without_need():
    statistics, score = PriorStatistics(chem_config(), None), LengthScore()
    statistics.measure(load_prior(SHIPPED), score)
    assert score.calls == 0
    assert statistics.with_threshold("objective") == "objective"
    assert make_class_memory(chem_config().choices()) is None
    assert make_class_memory(chem_config("loss=reinvent", "advantage=no_baseline").choices()).anchor == "remembered"
    assert quantile_threshold(torch.tensor([[0.0, 1.0]]), 1.0).tolist() == [[1.0]]
