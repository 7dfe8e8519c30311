"""Configurations that must be rejected, each beside a legal one that differs as little as possible.

Options of groups are composed by Hydra, once for each choice; the values of keys are then merged, which is quicker.
"""

import re
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from conf.schema.base import ConfigError
from launch.cli.groups import groups
from launch.cli.validation import check, register


@cache
def _composed(command: str, options: tuple[str, ...]) -> DictConfig:
    register(command)
    with initialize_config_module(f"conf.{command}", version_base="1.3"):
        config = compose("config", overrides=list(options))
    OmegaConf.set_struct(config, False)  # as +KEY=VALUE does for dictionaries; keys of the schema stay checked
    return config


def make_config(command: str, overrides: str = "") -> Any:
    """Return the typed configuration of a command for overrides that are separated by spaces."""
    options: list[str] = []
    values: list[str] = []
    for override in overrides.split():
        (options if override.partition("=")[0] in groups(command) else values).append(override.removeprefix("+"))
    config = OmegaConf.merge(_composed(command, tuple(options)), OmegaConf.from_dotlist(values))
    assert isinstance(config, DictConfig)
    return check(command, config)


def rejection(command: str, overrides: str) -> str:
    """Return the message of the error that the overrides are."""
    with pytest.raises(ConfigError) as error:
        make_config(command, overrides)
    return str(error.value)


def assert_rejected(command: str, rejected: str, key: str, legal: str) -> None:
    """Check that the overrides `rejected` are an error about `key` and that `legal` are not."""
    message = rejection(command, rejected)
    assert message.startswith(f"{key}: ")
    assert "\n" not in message
    assert re.search(r"got |set it to |must be given|no value given; must be |use |allowed: ", message), (
        message
    )  # the value, or what to do
    make_config(command, legal)
