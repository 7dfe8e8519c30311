"""Checking a configuration."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from conf.schema.didactic import DidacticConfig
from launch.cli.validation import check, register


def composed(*overrides, package="didactic", **keywords):
    register(package)
    with initialize_config_module(f"conf.{package}", version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides), **keywords)


def test_a_good_configuration_becomes_its_dataclass():
    config = check("didactic", composed("seed=3"))
    assert isinstance(config, DidacticConfig)
    assert config.seed == 3


def test_keys_that_were_added_or_removed_are_rejected():
    with pytest.raises(ConfigError, match=r"^objective\.bta: no such key"):
        check("didactic", composed("+objective.bta=1"))
    with pytest.raises(ConfigError, match=r"^seed: required, cannot be removed with ~seed$"):
        check("didactic", composed("~seed"))


def test_a_value_that_is_missing_or_not_allowed_is_rejected():
    with pytest.raises(ConfigError, match=r"^beta_schedule\.kl_target: no value given; must be a number$"):
        check("didactic", composed("beta_schedule=adaptive"))
    with pytest.raises(ConfigError, match=r"^seed: must be >= 0, got -1$"):
        check("didactic", composed("seed=-1"))


@pytest.mark.parametrize(
    ("package", "override", "value"),
    [
        ("didactic", "objective.direction_options.order=2", {"order": 2}),
        ("didactic", "objective.direction_options={order: 2}", {"order": 2}),
        ("llm", "model.chat_template.thinking=false", {"thinking": False}),
    ],
)
def test_dictionaries_accept_new_entries(package, override, value):
    key = override.partition("=")[0].removesuffix(".order").removesuffix(".thinking")
    assert OmegaConf.select(composed(override, package=package), key) == value


def test_entries_of_a_typed_dictionary_are_still_checked():
    config = check("llm", composed("reward.parts.brief.function=a:b", package="llm"))
    assert config.reward.parts["brief"].function == "a:b"
    with pytest.raises(
        ConfigError, match=r"^reward.parts.brief.functoin: no such key; allowed: function, model, weight"
    ):
        check("llm", composed("reward.parts.brief.functoin=a:b", package="llm"))


def test_control_other_sections_accept_no_new_keys():
    with pytest.raises(HydraException, match=r"Could not override 'objective.order'"):
        composed("objective.order=2")
