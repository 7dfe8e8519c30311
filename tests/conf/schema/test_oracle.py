"""The oracle's components and their transforms: which options each needs, and labels."""

import inspect
import re
from typing import Any

import pytest

from conf.schema.base import ConfigError, check_config
from conf.schema.oracle import TRANSFORMS, ComponentConfig, ComponentTransformConfig, OracleConfig

LEGAL: dict[str, dict[str, Any]] = {
    "identity": {},
    "sigmoid": {"low": 0.0, "high": 2.0, "k": 1.0},
    "reverse_sigmoid": {"low": -16.0, "high": 0.0, "k": 0.15},
    "double_sigmoid": {"low": 0.0, "high": 2.0, "k_low": 1.0, "k_high": 1.0, "divisor": 20.0},
    "double_sigmoid_reinvent4": {"low": 0.0, "high": 2.0, "k_low": 1.0, "k_high": 1.0, "divisor": 20.0},
    "step": {"edge": 4.0, "side": "below"},
    "interval": {"low": 0.0, "high": 2.0, "margin": 0.0},
    "exponential_decay": {"k": 0.5},
    "value_mapping": {"mapping": [[0.0, 1.0], [1.0, 0.25]]},
}
GIVEN: dict[str, Any] = {"side": "from", "mapping": [[1.0, 0.5]]}  # values of options that are no numbers
OPTIONS = sorted({name for options in LEGAL.values() for name in options})


def test_there_is_a_case_for_every_transform():
    assert {name: tuple(options) for name, options in LEGAL.items()} == TRANSFORMS


def test_the_options_are_the_arguments_of_the_functions():
    shaping = pytest.importorskip("chem.oracles.shaping")
    for name, options in TRANSFORMS.items():
        assert tuple(inspect.signature(shaping.SHAPES[name]).parameters) == options


@pytest.mark.parametrize("name", LEGAL)
@pytest.mark.parametrize("option", OPTIONS)
def test_exactly_the_options_of_a_transform_are_given(name, option):
    """Leave out each option that is needed, and give each one that is not."""
    options = dict(LEGAL[name])
    check_config(ComponentTransformConfig(name, **options), "t.")
    assert ComponentTransformConfig(name, **options).options() == options
    if option in options:
        del options[option]
        message = rf"^t\.{option}: must be given with name={name}, got null$"
    else:
        options[option] = GIVEN.get(option, 1.0)
        message = rf"^t\.{option}: must be null with name={name}, got {re.escape(str(options[option]))}$"
    with pytest.raises(ConfigError, match=message):
        check_config(ComponentTransformConfig(name, **options), "t.")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (ComponentTransformConfig("sigmod"), r"^t\.name: must be one of identity, sigmoid, .*, got sigmod$"),
        (
            ComponentTransformConfig("step", edge=4.0, side="above"),
            r"^t\.side: must be one of below, up_to, from, got above$",
        ),
        (
            ComponentTransformConfig("value_mapping", mapping=[[0.0, 1.5]]),
            r"^t\.mapping: must hold pairs \[value, score\], score within \[0, 1\], got \[0\.0, 1\.5\]$",
        ),
        (
            ComponentTransformConfig("value_mapping", mapping=[[0.0]]),
            r"^t\.mapping: must hold pairs .*, got \[0\.0\]$",
        ),
        (
            ComponentTransformConfig("sigmoid", low=1.0, high=1.0, k=1.0),
            r"^t\.high: must be finite and > 1 \(t\.low\), got 1\.0$",
        ),
        (ComponentTransformConfig("sigmoid", low=0.0, high=1.0, k=0.0), r"^t\.k: must be finite and > 0, got 0\.0$"),
        (ComponentTransformConfig("interval", low=0.0, high=1.0, margin=-0.1), r"^t\.margin: must be .*>= 0"),
    ],
)
def test_values_of_a_transform(transform, message):
    with pytest.raises(ConfigError, match=message):
        check_config(transform, "t.")


def test_a_label_is_the_name_unless_it_is_given():
    assert ComponentConfig("qed").label == "qed"
    assert ComponentConfig("qed", label="druglike").label == "druglike"


@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        (OracleConfig([]), r"^oracle\.components: must be a list of at least one component to aggregate, got \[\]$"),
        (
            OracleConfig([ComponentConfig("qed", penalty=True)]),
            r"^oracle\.components: must be .*, got only penalties$",
        ),
        (
            OracleConfig([ComponentConfig("qed"), ComponentConfig("qed", weight=2.0)]),
            r"^oracle\.components: each needs its own label \(label: NAME\), got qed twice$",
        ),
        (OracleConfig([ComponentConfig("qed", weight=0.0)]), r"^oracle\.components\.weight: must be finite and > 0"),
        (OracleConfig([ComponentConfig("qed")], aggregation="sum"), r"^oracle\.aggregation: must be one of product,"),
        (OracleConfig([ComponentConfig("qed")], time_limit_s=0.0), r"^oracle\.time_limit_s: must be finite and > 0"),
        (OracleConfig([ComponentConfig("qed")], max_failed_share=1.1), r"^oracle\.max_failed_share: must be"),
        (OracleConfig([ComponentConfig("qed")], workers=0), r"^oracle\.workers: must be >= 1 and <= 1024, got 0$"),
    ],
)
def test_an_oracle_that_cannot_score_is_an_error(oracle, message):
    with pytest.raises(ConfigError, match=message):
        check_config(oracle, "oracle.")
    twice = [ComponentConfig("qed"), ComponentConfig("qed", label="again")]
    check_config(OracleConfig(twice), "oracle.")  # control
