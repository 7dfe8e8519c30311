"""`own_run`: what a configuration of ours says, and that the diagnosis can use it."""

import pytest

from core.diagnosis.advice import advice
from core.diagnosis.analysis import diagnose
from core.diagnosis.own_run import own_run
from core.diagnosis.report import make_report
from core.diagnosis.samples import Sample


def config(name="mara", kind="constant", value=0.8, **objective):
    of_objective = {"beta": 0.03, "direction": "reverse", "level": "sequence", **objective}
    of_threshold = {"transform.threshold.kind": kind, "transform.threshold.value": value}
    return {f"objective.{key}": of_objective[key] for key in of_objective} | {"transform.name": name} | of_threshold


def test_everything_is_in_the_configuration():
    run, notes = own_run(config(direction="forward"), noun="molecule")
    assert (run.beta, run.threshold, run.uses_mara, run.noun, notes) == (0.03, 0.8, True, "molecule", [])
    assert (run.kl.gradient, run.direction, run.kl.as_named) == ("forward KL of sequences", "forward", True)
    run, _ = own_run(config("identity", "quantile", 0.9, level="token"), beta=0.1)
    assert (run.beta, run.threshold, run.uses_mara, run.direction) == (0.1, None, False, "reverse")
    assert run.kl.gradient == "reverse KL of tokens"
    assert own_run({}, threshold=0.5)[0].kl is None


def test_what_the_optimum_leaves_out_is_noted():
    run, notes = own_run(config("unlikely"))
    assert (run.beta, notes) == (
        0.03,
        ["transform=unlikely: the optimum is that of the rewards before this transform."],
    )
    _, (note,) = own_run(config() | {"beta_schedule.name": "cosine"})
    assert note.startswith("beta_schedule=cosine: the optimum is that of objective.beta=0.03, where")
    assert own_run(config() | {"beta_schedule.name": "cosine"}, beta=0.1)[1] == []
    run, (note,) = own_run(config(direction="alpha"))
    assert run.beta is None
    assert note.startswith("objective.direction=alpha: only the optimum")
    assert own_run(config(direction="alpha"), beta=0.1)[0].beta == 0.1


@pytest.mark.parametrize("direction", ["reverse", "forward", "alpha"])
@pytest.mark.parametrize("beta", [0.0, 0.03])
@pytest.mark.parametrize("trainer", ["", "chem"])
def test_every_run_is_diagnosed(direction, beta, trainer):
    """Under forward KL it once ended in a KeyError, and its optimum was that of reverse KL."""
    samples = [
        Sample(step, "p", answer, answer, float(answer != "c"), -1.0, -1.0) for step in range(40) for answer in "aabc"
    ]
    run, _ = own_run(config("identity", direction=direction, beta=beta), trainer=trainer)
    diagnosis = diagnose(samples, run)
    (text,) = [section.paragraphs[0] for section in make_report(diagnosis).sections if section.name == "kl"]
    assert f"objective.direction={direction}" in text
    if beta:
        assert f"the gradient of the {direction} KL of sequences, as its name says (docs/mara.md)" in text
    assert ("Add a KL term" in [change.what for change in advice(diagnosis)]) == (beta == 0 and direction != "alpha")


def test_a_configuration_without_an_objective_is_no_error():
    run, _ = own_run({"seed": 0}, trainer="chem")
    report = make_report(diagnose([Sample(0, "p", answer, answer, 1.0) for answer in "aab"], run))
    assert any("KL settings are not known" in section.paragraphs[0] for section in report.sections)
