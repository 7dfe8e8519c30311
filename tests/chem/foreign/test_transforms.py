"""Transforms of REINVENT 4 and Saturn: the converted function has the values of theirs."""

import math

import numpy as np
import pytest

from chem.foreign.ledger import Ledger, NoCounterpart, Section
from chem.foreign.transforms import convert_transform, reinvent_double_sigmoid, saturn_double_sigmoid, shape_of
from conf.schema.oracle import ComponentTransformConfig

VALUES = [-20.0, -3.0, 0.0, 0.5, 1.0, 2.0, 2.999, 3.0, 3.001, 5.0, 7.0, 100.0]


def converted(double_sigmoid=reinvent_double_sigmoid, **parameters):
    section = Section(Ledger(), parameters)
    options = convert_transform(section, parameters["type"], double_sigmoid)
    ComponentTransformConfig(**options).check("transform.")  # what `python -m chem` checks
    assert {row.status for row in section.ledger.rows.values()} <= {"converted", "same"}
    assert [key for key, _ in section.leaves()] == [key for key, _ in section.leaves() if key in section.ledger.rows]
    return options, shape_of(options)


def expit10(h):
    return 1 / (1 + 10.0 ** np.clip(-np.asarray(h), -300, 300))


def sigmoid(x, low, high, k):
    middle = (high + low) / 2
    return float(10 * k * (x - middle) > 0) if high == low else expit10(10 * k * (x - middle) / (high - low))


@pytest.mark.parametrize(("low", "high", "k"), [(1, 7, 0.5), (0, 3, -0.2), (7, 1, 0.5), (3, 3, 0.5), (3, 3, -1)])
def test_sigmoids(low, high, k):
    rising = converted(type="sigmoid", low=low, high=high, k=k)[1]
    falling = converted(type="reverse_sigmoid", low=low, high=high, k=k)[1]
    for x in VALUES:
        assert rising(x) == pytest.approx(sigmoid(x, low, high, k), abs=1e-12)
        assert falling(x) == pytest.approx(1 - sigmoid(x, low, high, k), abs=1e-12)


def test_reinvents_double_sigmoid_takes_its_defaults_and_is_not_that_of_reinvent_2():
    assert converted(type="double_sigmoid", low=0, high=1)[0]["divisor"] == 100
    given = {"low": 0.0, "high": 1.0, "coef_div": 5.0, "coef_si": 1.0, "coef_se": 2.0}
    ours = converted(type="double_sigmoid", **given)[1]
    for x in VALUES:
        theirs = expit10(x / 5) if x < 0.5 else 1 - expit10(2 * (x - 1) / 5)
        assert ours(x) == pytest.approx(theirs, abs=1e-12)
    saturn = converted(saturn_double_sigmoid, type="double_sigmoid", **given)[1]
    difference = expit10(2 * 0.5 / 5) - expit10((0.5 - 1) / 5)  # coef_se at low, coef_si at high
    assert saturn(0.5) == pytest.approx(difference) != ours(0.5)


def test_steps():
    for kind, theirs in {
        "step": lambda x: 0.5 <= x <= 3,
        "left_step": lambda x: x <= 0.5,
        "Right-Step": lambda x: x >= 3,
    }.items():
        ours = converted(type=kind, low=0.5, high=3)[1]
        assert [ours(x) for x in VALUES] == [float(theirs(x)) for x in VALUES]
    assert [converted(type="step", low=3, high=3)[1](x) for x in (2.999, 3.0, 3.001)] == [0, 1, 0]


def test_decay_and_mapping():
    decay = converted(type="exponential_decay", k=0.7)[1]
    assert [decay(x) for x in (-1.0, 0.0, 2.0)] == [1, 1, pytest.approx(math.exp(-1.4))]
    assert converted(type="value_mapping", mapping={"0": 0.2, "1": 1.0})[1](1.0) == 1.0


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "tent", "low": 0},
        {"type": "sigmoid", "low": 0, "high": 1},
        {"type": "sigmoid", "low": 0, "high": 1, "k": 0},
        {"type": "sigmoid", "low": "0", "high": 1, "k": 1},
        {"type": "double_sigmoid", "low": 1, "high": 0},
        {"type": "value_mapping", "mapping": {"No MMP": 0}},
        {"type": "value_mapping", "mapping": {"1": 2}},
        {"type": "step", "low": 1, "high": 0},
        {"type": "exponential_decay", "k": -1},
    ],
)
def test_what_has_no_counterpart_is_refused(parameters):
    with pytest.raises(NoCounterpart):
        convert_transform(Section(Ledger(), parameters), parameters["type"], reinvent_double_sigmoid)
