"""Names in words for keys of metrics and for settings."""

import re
from pathlib import Path

import pytest

from conf.schema.objective import DIVERGENCE_METRICS
from launch.analysis.labels import (
    METHODS,
    TRANSFORMS,
    configuration_labels,
    experiment_label,
    method_label,
    metric_label,
    override_label,
)

CONF = Path(__file__).parents[3] / "conf"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("reward/raw", "reward"),
        ("kl/reverse_nats", "reverse KL (nats)"),
        ("distinct/mean", "distinct completions"),
        ("reward_out/mean", "reward, out of distribution"),
        ("share/2", 'answer "2"'),
        ("0.8/yield", "yield at 0.8"),
        ("0.85/OB10", "calls to the 10th at 0.85"),
        ("base.correct", "base: share of correct completions"),
        ("held_out/reward/mean", "held out: reward"),
        ("coverage/season", "coverage of the right answers: season"),
        ("entropy_nats/odd", "entropy of the answers (nats): odd"),
        ("pass@8", "pass@8"),
        ("my_own/metric", "my_own/metric"),
        ("my_own", "my_own"),
    ],
)
def test_a_metric_has_a_name_or_keeps_its_key(key, name):
    assert metric_label(key) == name


def test_the_divergences_have_names():
    assert [key for key in DIVERGENCE_METRICS if metric_label(key) == key] == []


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("transform", "identity", "vanilla"),
        ("transform.name", "mara", "MARA"),
        ("objective.direction", "forward", "forward KL"),
        ("objective.beta", 0.1, "beta 0.1"),
        ("method", "mara_answers_forward", "MARA over answers, forward KL"),
        ("method", "mine", "mine"),
        ("transform", "custom", "transform custom"),
        ("optimizer.lr", "1e-4", "learning rate 1e-4"),
        ("a.b.some_key", 3, "some key 3"),
        ("experiment", "synth/mara_0.8", "synth: MARA 0.8"),
        ("experiment", "one_of_many", "one of many"),
    ],
)
def test_a_setting_has_a_name(key, value, name):
    assert override_label(key, value) == name


def test_a_label_begins_with_the_method_and_leaves_out_what_is_not_set():
    settings = [
        {"objective.direction": "reverse", "transform.name": "identity", "transform.algorithm": "-"},
        {"objective.direction": "forward", "transform.name": "mara", "transform.algorithm": "auto"},
        {},
    ]
    assert configuration_labels(settings) == [
        "vanilla, reverse KL",
        "MARA, forward KL, algorithm auto",
        "all runs",
    ]


def test_a_common_folder_of_experiments_is_left_out():
    names = ("synth/reinvent", "synth/mara_0.8")
    assert configuration_labels([{"experiment": name} for name in names]) == ["REINVENT", "MARA 0.8"]
    other = [{"experiment": name} for name in ("synth/reinvent", "all_amide/reinvent")]
    assert configuration_labels(other) == ["synth: REINVENT", "all amide: REINVENT"]


def test_labels_that_would_be_equal_are_the_settings():
    settings = [{"transform": "mara"}, {"transform.name": "mara"}]
    assert configuration_labels(settings) == ["transform=mara", "transform.name=mara"]


def test_every_method_and_transform_has_a_name():
    methods = {path.stem for path in (CONF / "llm" / "method").glob("*.yaml")}
    transforms = {path.stem for path in (CONF / "shared" / "transform").glob("*.yaml")}
    assert methods - set(METHODS) == set()
    assert transforms - set(TRANSFORMS) == {"custom"}
    assert all(re.search(r"[a-z]", name, re.I) for name in METHODS.values())


def test_a_method_without_a_name_of_its_own():
    assert method_label("vanilla_forward") == "vanilla, forward KL"
    assert method_label("mara_jensen_shannon") == "MARA, Jensen-Shannon"
    assert method_label("package.module:mine") == "package.module:mine"
    assert experiment_label("mara") == "MARA"
