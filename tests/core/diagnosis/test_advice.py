"""What to change: in the order of its effect, as settings that the trainers have."""

import re

import pytest

from core.diagnosis import advice as module
from core.diagnosis.advice import advice
from core.diagnosis.analysis import Run, diagnose
from core.diagnosis.trainer_kl import kl_fact

from .tabular import tabular_run
from .test_analysis import REF, REWARD, collapsing, lost


def changes(run, **options):
    options = {"beta": 0.05, "threshold": 1.0, **options}
    return advice(diagnose(run, Run(**options)))


def names(found):
    return [change.what for change in found]


MARA, DRIFT = "Change the objective: mode-anchored rewards (MARA)", "Reduce the drift"


def test_the_larger_effect_comes_first():
    gaps = tabular_run(collapsing, 100, REWARD, REF)
    assert names(changes(gaps)) == [MARA, DRIFT]  # 3.2 nats are of the optimum, 0.5 of drift
    even = tabular_run(lambda step: (0.49, 0.01, 0.0, 0.5), 100, REWARD, (0.3, 0.1, 0.1, 0.5))
    first = changes(even)
    assert names(first) == [DRIFT, MARA]  # 2.8 nats of drift, 1.1 of the optimum
    assert [change.nats for change in first] == sorted((change.nats for change in first), reverse=True)


def test_a_run_with_mara_or_at_an_even_optimum_gets_no_mara():
    assert MARA not in names(changes(tabular_run(collapsing, 100, REWARD, REF), uses_mara=True))
    even = tabular_run(lambda step: (0.4, 0.4, 0.0, 0.2), 40, REWARD, (0.4, 0.4, 0.1, 0.1))
    assert changes(even) == []


def test_a_kl_that_does_nothing_or_is_missing_comes_first():
    run = tabular_run(collapsing, 100, REWARD, REF)
    nothing = kl_fact("verl", {"use_kl_loss": "true", "kl_loss_type": "k1"})
    assert names(changes(run, trainer="verl", kl=nothing))[0] == "Use a KL term that has a gradient"
    assert names(changes(run, trainer="trl", beta=0.0, kl=kl_fact("trl", {})))[0] == "Add a KL term"
    forward = kl_fact("verl", {"use_kl_loss": "true"})
    assert names(changes(run, trainer="verl", kl=forward))[-1] == "Use the KL that the name says"
    right = kl_fact("verl", {"use_kl_in_reward": "true", "adv_estimator": "rloo"})
    assert names(changes(run, trainer="verl", kl=right)) == [MARA, DRIFT]  # control


def test_a_collapse_without_a_known_optimum_still_gets_advice():
    found = changes(tabular_run(lost, 80, (1.0, 1.0, 1.0, 0.0)), from_reference=False)
    assert names(found) == [MARA]
    still = changes(tabular_run(lambda step: lost(0), 80, (1.0, 1.0, 1.0, 0.0)), from_reference=False)
    assert still == []  # control


def test_a_small_beta_is_raised_to_the_tie():
    run = tabular_run(lambda step: (0.04, 0.9, 0.01, 0.05), 40, (0.9, 1.0, 0.0, 0.0), REF)
    change = next(change for change in changes(run, beta=0.001, trainer="trl") if "Raise beta" in change.what)
    assert change.settings == "beta=0.0311"
    above = changes(run, beta=0.05, trainer="trl")
    assert not any("Raise beta" in change.what for change in above)  # control


@pytest.mark.slow
def test_the_settings_exist_in_trl():
    trl = pytest.importorskip("trl", reason="needs the extra trl")
    words = " ".join((module.REVERSE_KL["trl"], module.BETA["trl"], module.LESS_NOISE["trl"]))
    fields = set(trl.GRPOConfig.__dataclass_fields__)
    settings = set(re.findall(r"\b([a-z]+(?:_[a-z]+)+|beta)\b", words)) - {"dr_grpo"}
    assert settings
    assert settings <= fields
