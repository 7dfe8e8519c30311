"""Shapes and aggregations against their formulas, written a second time, and the values the paper's task needs."""

import math

import pytest

from chem.oracles import shaping
from conf.schema.base import ConfigError, check_config
from conf.schema.oracle import TRANSFORMS, ComponentConfig, ComponentTransformConfig, OracleConfig


def test_every_shape_of_the_schema_is_there():
    assert set(TRANSFORMS) == set(shaping.SHAPES)


@pytest.mark.parametrize("value", [-20.0, -16.0, -9.3, -8.0, 0.0, 3.0])
def test_the_papers_docking_shape(value):
    """Reverse sigmoid, low -16, high 0, k 0.15, through tanh."""
    exponent = math.log(10) * 0.15 * 10 * (value + 8) / 16
    expected = (1 - math.tanh(exponent / 2)) / 2
    shape = shaping.reverse_sigmoid(low=-16, high=0, k=0.15)
    assert shape(value) == pytest.approx(expected, rel=1e-12)

    rising = shaping.sigmoid(low=-16, high=0, k=0.15)
    assert rising(value) == pytest.approx(1 - expected, rel=1e-12)
    assert value == -8 or abs(rising(value) - expected) > 0.01  # control: the other direction


def test_sigmoids_do_not_overflow_and_stay_in_range():
    for shape in (
        shaping.sigmoid(0, 1, 5),
        shaping.reverse_sigmoid(0, 1, 5),
        shaping.double_sigmoid(0, 1, 9, 9, 0.1),
        shaping.double_sigmoid_reinvent4(0, 1, 9, 9, 0.1),
        shaping.exponential_decay(2.0),
    ):
        assert all(0 <= shape(value) <= 1 for value in (-1e9, -1.0, 0.5, 2.0, 1e9))


def test_double_sigmoid_is_high_between():
    shape = shaping.double_sigmoid(low=200, high=500, k_low=20, k_high=20, divisor=500)
    assert shape(350) > 0.99
    for edge in (200, 500):
        assert shape(edge) == pytest.approx(0.5, abs=1e-3)
    for value in (0.0, 190.0, 430.0, 700.0):
        rise = [1 / (1 + math.exp(-math.log(10) * 20 * (value - middle) / 500)) for middle in (200, 500)]
        assert shape(value) == pytest.approx(rise[0] - rise[1], abs=1e-12)


def reinvent4_double_sigmoid(value, low, high, k_low, k_high, divisor):
    """REINVENT 4's formula, with the natural exponential: 1 / (1 + e^-(ln 10 k (x - low))) below the centre, ..."""
    if value < (high - low) / 2 + low:
        return 1 / (1 + math.exp(-math.log(10) * k_low / divisor * (value - low)))
    return 1 - 1 / (1 + math.exp(-math.log(10) * k_high / divisor * (value - high)))


def test_double_sigmoid_of_reinvent_4_does_not_subtract():
    """At the edges it is 1/2 where REINVENT 2's is not, since its two sigmoids overlap."""
    numbers = {"low": 0.0, "high": 1.0, "k_low": 1.0, "k_high": 1.0, "divisor": 5.0}
    four, two = shaping.double_sigmoid_reinvent4(**numbers), shaping.double_sigmoid(**numbers)
    for value in (-3.0, 0.0, 0.3, 0.4999, 0.5, 0.7, 1.0, 4.0):
        assert four(value) == pytest.approx(reinvent4_double_sigmoid(value, **numbers), rel=1e-12)
    assert four(0.0) == four(1.0) == 0.5
    # By hand at the centre: 1 / (1 + 10^-0.1), and twice that minus 1.
    assert four(0.5) == pytest.approx(0.55731, abs=1e-5)
    assert two(0.5) == pytest.approx(0.11462, abs=1e-5)  # control


def test_decay_and_mapping():
    decay, mapping = shaping.exponential_decay(math.log(2)), shaping.value_mapping([[0, 1.0], [1.0, 0.25], [-2, 0.0]])
    assert [decay(x) for x in (-1.0, 0.0, 1.0, 3.0)] == pytest.approx([1, 1, 0.5, 0.125])
    assert [mapping(x) for x in (0.0, 1, -2.0)] == [1, 0.25, 0]
    with pytest.raises(ValueError, match=r"^value_mapping: has no score for 3; add it to transform\.mapping$"):
        mapping(3.0)


def test_step_and_interval():
    below, up_to, from_ = (shaping.step(4, side) for side in ("below", "up_to", "from"))
    assert [below(n) for n in (3, 4, 5)] == [1, 0, 0]
    assert [up_to(n) for n in (3, 4, 5)] == [1, 1, 0]
    assert [from_(n) for n in (3, 4, 5)] == [0, 1, 1]
    hard, soft = shaping.interval(1, 3, margin=0), shaping.interval(1, 3, margin=2)
    assert [hard(x) for x in (0.9, 1, 2, 3, 3.1)] == [0, 1, 1, 1, 0]
    assert [soft(x) for x in (-1.5, -1, 0, 1, 3, 4, 5, 6)] == [0, 0, 0.5, 1, 1, 0.5, 0, 0]


def test_aggregations():
    scores, weights = [0.25, 0.81], [2.0, 1.0]
    assert shaping.product(scores, weights) == pytest.approx(0.25 * 0.25 * 0.81)
    assert shaping.geometric(scores, weights) == pytest.approx(math.exp((2 * math.log(0.25) + math.log(0.81)) / 3))
    assert shaping.arithmetic(scores, weights) == pytest.approx((0.25 + 0.25 + 0.81) / 3)
    assert shaping.geometric([0.3, 0.3], weights) == pytest.approx(0.3)
    assert shaping.product([0.0, 1.0], weights) == shaping.geometric([0.0, 1.0], weights) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ComponentTransformConfig("sigmod"), r"transform.name: must be one of .*double_sigmoid.*got sigmod"),
        (
            lambda: ComponentTransformConfig("sigmoid", low=0.0, high=1.0),
            r"transform.k: must be given with name=sigmoid, got null",
        ),
        (
            lambda: ComponentTransformConfig("step", edge=4.0, side="below", k=1.0),
            r"transform.k: must be null .*got 1.0",
        ),
        (
            lambda: ComponentTransformConfig("step", edge=4.0, side="above"),
            r"transform.side: must be one of below, up_to, from",
        ),
        (
            lambda: ComponentTransformConfig("sigmoid", low=1.0, high=1.0, k=1.0),
            r"transform.high: must be .*> 1 \(.*low\), got 1.0",
        ),
        (
            lambda: ComponentTransformConfig("sigmoid", low=0.0, high=1.0, k=-1.0),
            r"transform.k: must be .*> 0, got -1.0",
        ),
        (lambda: OracleConfig(components=[]), r"oracle.components: must be a list of at least one"),
        (lambda: OracleConfig(components=[ComponentConfig("qed")] * 2), r"each needs its own label.*got qed twice"),
        (lambda: ComponentConfig("qed", weight=0.0), r"oracle.components.weight: must be .*> 0"),
    ],
)
def test_a_mistake_is_refused_in_one_line(make, message):
    section = make()
    prefix = {OracleConfig: "oracle.", ComponentConfig: "oracle.components."}.get(type(section), "transform.")
    with pytest.raises(ConfigError, match=message):
        check_config(section, prefix)
