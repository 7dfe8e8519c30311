"""Objective, transforms, thresholds and beta schedules: each rule beside a legal neighbour, and their options."""

from dataclasses import fields

import pytest

from conf.schema.base import OPTIONS, ConfigError, check_config
from conf.schema.objective import (
    DIVERGENCE_METRICS,
    AutomaticBetaConfig,
    BetaScheduleConfig,
    ConstantBetaConfig,
    CustomTransformConfig,
    DarlingConfig,
    DifferentialSmoothingConfig,
    IdentityConfig,
    LinearBetaConfig,
    MaraConfig,
    ThresholdConfig,
    TransformConfig,
    UcpoConfig,
    UnlikelyConfig,
)
from core.advantages import BONUSES, BY_CLASS
from core.divergences import DIVERGENCES
from core.objective import Objective
from core.schedules import make_schedule
from core.transforms import TRANSFORMS

from .legality import assert_rejected

GOOD = "transform.threshold.value=1"
QUANTILE = "transform.threshold.kind=quantile"
PASS_AT_K = "advantage=pass_at_k advantage_k=1"
AUTOMATIC = f"beta_schedule=automatic {GOOD}"
CASES = [  # rejected overrides, the key that the message names, legal overrides
    ("objective.beta=-.1", "objective.beta", "objective.beta=0"),
    ("objective.beta=nan", "objective.beta", "objective.beta=1e-9"),
    ("objective.beta=inf", "objective.beta", "objective.beta=1e9"),
    ("objective.direction=forward objective.beta=0", "objective.beta", "objective.direction=forward"),
    ("objective.entropy_coef=-1", "objective.entropy_coef", "objective.entropy_coef=1"),
    ("objective.gamma=0", "objective.gamma", "objective.gamma=.1"),
    ("objective.gamma=1.1", "objective.gamma", "objective.gamma=1"),
    ("objective.direction=alpha", "objective.alpha", "objective.direction=alpha objective.alpha=.5"),
    ("objective.alpha=.5", "objective.alpha", ""),
    ("objective.direction=alpha objective.alpha=1", "objective.alpha", "objective.direction=alpha objective.alpha=2"),
    (
        "objective.direction=alpha objective.alpha=0",
        "objective.alpha",
        "objective.direction=alpha objective.alpha=-1",
    ),
    (
        "objective.max_log_weight=2",
        "objective.max_log_weight",
        "objective.max_log_weight=2 objective.direction=forward",
    ),
    ("objective.max_log_weight=none", "objective.max_log_weight", "objective.max_log_weight=null"),
    ("objective.max_log_weight=true", "objective.max_log_weight", "objective.max_log_weight=auto"),
    (
        "objective.direction=forward objective.max_log_weight=-1",
        "objective.max_log_weight",
        "objective.direction=forward objective.max_log_weight=0",
    ),
    ("objective.reward_range=0", "objective.reward_range", "objective.reward_range=40"),
    ("objective.kl_samples=-1", "objective.kl_samples", "objective.kl_samples=0"),
    (
        "beta_schedule=adaptive beta_schedule.kl_target=1 objective.direction=forward objective.kl_samples=0",
        "objective.kl_samples",
        "beta_schedule=adaptive beta_schedule.kl_target=1 objective.direction=forward",
    ),
    (
        "beta_schedule=adaptive beta_schedule.kl_target=1 objective.direction=jensen_shannon objective.kl_samples=0",
        "objective.kl_samples",
        "beta_schedule=adaptive beta_schedule.kl_target=1 objective.kl_samples=0",
    ),
    (
        "objective.direction=jensen_shannon objective.placement=loss",
        "objective.placement",
        "objective.direction=jensen_shannon",
    ),
    (
        "objective.length_normalised=true objective.level=token",
        "objective.length_normalised",
        "objective.length_normalised=true objective.level=token objective.placement=loss",
    ),
    ("objective.direction=sideways", "objective.direction", "objective.direction=my.module:name"),
    ("objective.level=word", "objective.level", "objective.level=token"),
    ("objective.placement=exact", "objective.placement", "objective.placement=reference"),
    (f"{QUANTILE} transform.threshold.value=1.5", "transform.threshold.value", "transform.threshold.value=1.5"),
    ("transform.threshold.floor=.1", "transform.threshold.floor", f"{QUANTILE} transform.threshold.floor=.1"),
    ("transform.threshold.value=inf", "transform.threshold.value", "transform.threshold.value=-5"),
    (
        f"{QUANTILE} transform.threshold.value=null transform.threshold.floor=.1",
        "transform.threshold.floor",
        f"{QUANTILE} transform.threshold.value=null",
    ),
    (
        f"{QUANTILE} transform.threshold.value=.9 transform.threshold.floor=nan",
        "transform.threshold.floor",
        f"{QUANTILE} transform.threshold.value=.9 transform.threshold.floor=-1",
    ),
    ("transform.threshold.kind=mean", "transform.threshold.kind", "transform.threshold.kind=constant"),
    ("transform.name=mara", "transform.name", "transform.name=identity"),
    ("beta_schedule.name=adaptive", "beta_schedule.name", "beta_schedule=adaptive beta_schedule.kl_target=1"),
    (f"{PASS_AT_K} transform.threshold.value=null", "transform.threshold.value", "transform.threshold.value=null"),
    (
        "beta_schedule=linear beta_schedule.final=-1",
        "beta_schedule.final",
        "beta_schedule=linear beta_schedule.final=0",
    ),
    (
        "beta_schedule=cosine beta_schedule.final=1 beta_schedule.name=linear",
        "beta_schedule.name",
        "beta_schedule=cosine beta_schedule.final=1",
    ),
    (
        "objective.direction=forward beta_schedule=linear beta_schedule.final=0",
        "beta_schedule.final",
        "beta_schedule=linear beta_schedule.final=0",
    ),
    (
        "transform=mara beta_schedule=cosine beta_schedule.final=0",
        "beta_schedule.final",
        "transform=mara beta_schedule=cosine beta_schedule.final=.1",
    ),
    ("transform=mara objective.beta=0", "objective.beta", "objective.beta=0"),
    (
        "beta_schedule=adaptive beta_schedule.kl_target=1 objective.beta=0",
        "objective.beta",
        "beta_schedule=adaptive beta_schedule.kl_target=1",
    ),
    (
        "beta_schedule=adaptive beta_schedule.kl_target=0",
        "beta_schedule.kl_target",
        "beta_schedule=adaptive beta_schedule.kl_target=1",
    ),
    (f"{AUTOMATIC} beta_schedule.quantile=1.5", "beta_schedule.quantile", f"{AUTOMATIC} beta_schedule.quantile=1"),
    (f"{AUTOMATIC} beta_schedule.low=0", "beta_schedule.low", f"{AUTOMATIC} beta_schedule.low=1e-9"),
    (f"{AUTOMATIC} beta_schedule.high=1e-4", "beta_schedule.high", f"{AUTOMATIC} beta_schedule.high=.1"),
    (
        "beta_schedule=automatic transform.threshold.value=null",
        "transform.threshold.value",
        "beta_schedule=automatic",
    ),
    ("objective.placement=reference objective.level=token", "objective.level", "objective.placement=reference"),
    ("transform=unlikely transform.strength=1.5", "transform.strength", "transform=unlikely transform.strength=1"),
    (
        "transform=unlikely transform.threshold.value=null",
        "transform.threshold.value",
        "transform=darling transform.threshold.value=null",
    ),
    ("transform=ucpo transform.coef=-.1", "transform.coef", "transform=ucpo transform.coef=0"),
    ("transform=darling transform.equivalence=x", "transform.equivalence", "transform=darling"),
    (
        "transform=differential_smoothing transform.correct_coef=-1",
        "transform.correct_coef",
        "transform=differential_smoothing transform.correct_coef=1",
    ),
    (
        "transform=differential_smoothing transform.wrong_coef=-1",
        "transform.wrong_coef",
        "transform=differential_smoothing transform.wrong_coef=1",
    ),
    ("transform=mara transform.algorithm=3", "transform.algorithm", "transform=mara transform.algorithm=2"),
    ("transform=mara transform.threshold.value=null", "transform.threshold.value", f"transform=mara {GOOD}"),
]


@pytest.mark.parametrize(("rejected", "key", "legal"), CASES)
def test_a_rule_rejects_and_its_neighbour_is_legal(rejected, key, legal):
    assert_rejected("llm", rejected, key, legal)


THRESHOLD = ThresholdConfig(kind="constant", value=1.0, floor=None)


def test_sections_may_be_made_by_code():
    assert IdentityConfig(threshold=THRESHOLD).options() == {}
    choices = {"algorithm": "2", "level": "answer", "mass": "group", "anchor": "remembered"}
    assert MaraConfig(threshold=THRESHOLD, **choices).options() == choices
    assert THRESHOLD.options() == {"kind": "constant", "value": 1.0, "floor": None}


def test_options_are_the_keyword_arguments_in_core():
    smoothing = DifferentialSmoothingConfig(threshold=THRESHOLD, correct_coef=0.1, wrong_coef=0.2)
    assert smoothing.options() == {"correct_coef": 0.1, "wrong_coef": 0.2}
    assert UcpoConfig(threshold=THRESHOLD, coef=0.3).options() == {"coef": 0.3}
    assert UnlikelyConfig(threshold=THRESHOLD, strength=0.3).options() == {"strength": 0.3}
    custom = CustomTransformConfig(threshold=THRESHOLD, function="a:b", arguments={"power": 2})
    assert custom.options() == {"function": "a:b", "arguments": {"power": 2}}
    assert "equivalence" in {field.name for field in fields(DarlingConfig)}
    darling = DarlingConfig(threshold=THRESHOLD, equivalence="answer", embedder=None, **DARLING)
    assert darling.options() == {}  # the package computes the diversity


DARLING = {
    "embedding_threshold": 0.8,
    "classifier": None,
    "classifier_tokenizer": None,
    "classifier_threshold": 0.1,
}


@pytest.mark.parametrize(
    ("threshold", "options"),
    [
        (ThresholdConfig("quantile", 0.9, None), {"kind": "quantile", "value": 0.9, "floor": None}),
        (ThresholdConfig("quantile", 0.9, 0.0), {"kind": "quantile", "value": 0.9, "floor": 0.0}),
        (ThresholdConfig("constant", 0.0, None), {"kind": "constant", "value": 0.0, "floor": None}),  # 0 is a value
        (ThresholdConfig("constant", None, None), None),
    ],
)
def test_a_threshold_without_a_value_has_no_options(threshold, options):
    check_config(threshold, "threshold.")
    assert threshold.options() == options


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (
            ThresholdConfig("quantile", None, 0.1),
            r"^threshold\.floor: must be null without threshold\.value, got 0\.1$",
        ),
        (
            ThresholdConfig("constant", 1.0, 0.1),
            r"^threshold\.floor: is only used with kind=quantile or reference_quantile; set it to null, got 0\.1$",
        ),
        (
            ThresholdConfig("quantile", 90.0, None),
            r"^threshold\.value: must be finite and >= 0 and <= 1 with kind=quantile, got 90\.0$",
        ),
    ],
)
def test_a_threshold_that_means_nothing_is_rejected(threshold, message):
    with pytest.raises(ConfigError, match=message):
        check_config(threshold, "threshold.")


def test_a_name_is_changed_by_choosing_the_option():
    section = IdentityConfig(threshold=THRESHOLD, name="mara")
    with pytest.raises(
        ConfigError,
        match=r"^transform\.name: must be identity here, got mara; choose another option with transform=NAME$",
    ):
        check_config(section, "transform.")
    with pytest.raises(ConfigError, match=r"choose another option with beta_schedule=NAME$"):
        check_config(ConstantBetaConfig(name="linear"), "beta_schedule.")
    check_config(IdentityConfig(threshold=THRESHOLD), "transform.")  # control


def test_every_transform_and_bonus_of_core_is_an_option():
    options = {name.removeprefix("transform/") for name in OPTIONS if name.startswith("transform/")}
    assert (
        options - {"custom", "both"} == TRANSFORMS.keys() | BONUSES.keys() | BY_CLASS.keys()
    )  # both belongs to the didactic package
    for name in options:
        section = OPTIONS[f"transform/{name}"]
        assert issubclass(section, TransformConfig)
        assert section.name == name


def test_every_schedule_of_core_is_an_option():
    options = {name.removeprefix("beta_schedule/") for name in OPTIONS if name.startswith("beta_schedule/")}
    with pytest.raises(ValueError, match=r"schedule must be .*, got 'none'") as error:
        make_schedule("none", 1.0, {})
    names = set(
        str(error.value).removeprefix("schedule must be ").split(", got")[0].replace(" or ", ", ").split(", ")
    )
    assert options - {"both"} == names
    assert all(issubclass(OPTIONS[f"beta_schedule/{name}"], BetaScheduleConfig) for name in options)
    assert LinearBetaConfig(final=0.1).options() == {"final": 0.1}
    assert ConstantBetaConfig().options() == {}
    automatic = AutomaticBetaConfig(quantile=0.5, low=0.1, high=0.2).options()
    assert automatic == {"quantile": 0.5, "low": 0.1, "high": 0.2}
    make_schedule("automatic", 1.0, automatic)


def test_the_metrics_are_those_of_the_built_in_divergences():
    alpha = {"alpha": {"alpha": 0.5}}
    objectives = [Objective(direction=name, **alpha.get(name, {})) for name in DIVERGENCES]
    assert tuple(objective.kl_metric(measured=True) for objective in objectives) == DIVERGENCE_METRICS
