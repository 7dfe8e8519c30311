"""The curves of a diagnosis are its numbers."""

import pytest

from core.diagnosis.analysis import Run, diagnose
from core.diagnosis.curves import make_panels

from .tabular import tabular_run
from .test_analysis import lost


def test_the_panels_have_the_course_the_onset_and_the_shares():
    diagnosis = diagnose(tabular_run(lost, 80, (1.0, 1.0, 1.0, 0.0)), Run(), {"kl": [(1, 0.0), (2, 0.5)]})
    panels = make_panels(diagnosis)
    titles = [panel.title for panel in panels["course"]]
    assert titles == [
        "reward",
        "agreement of good answers",
        "diversity of answers",
        "pass@k",
        "the trainer's own log",
    ]
    agreement = panels["course"][1]
    assert agreement.onset == (diagnosis.onset.start, diagnosis.onset.error)
    assert [curve.dashed for curve in agreement.curves] == [False, True]
    assert panels["course"][-1].curves[0].y == [0.0, 0.5]
    shares = panels["answers"][0].curves
    assert shares[0].y[0] == pytest.approx(0.4)
    assert [curve.label for curve in shares] == ["'a0'", "'a3'", "'a1'"]


def test_what_is_not_known_is_not_drawn():
    still = diagnose(tabular_run(lambda step: (1.0,), 10, (None,)), Run())
    panels = make_panels(still)
    assert [panel.title for panel in panels["course"]] == ["agreement of good answers", "diversity of answers"]
    assert panels["course"][0].onset is None
