"""Compose the configuration of a package as its command line would, without starting the package."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from conf.schema.base import ConfigError
from conf.schema.commands import COMMANDS
from launch.cli.errors import error_message
from launch.cli.recorded_command import flag_values, read_command
from launch.cli.validation import check, register
from launch.runs.run_folder import read_config, read_record

LAUNCHER_KEYS = ("nodes", "tasks_per_node", "gpus_per_node", "mem_gb")  # the resources of a rank


def compose(
    package: str, overrides: Sequence[str], flags: Sequence[str] = (), checked: bool = True
) -> Mapping[str, Any]:
    """The resolved configuration, as in config.yaml. Do not modify it: the result is cached.

    Args:
        package: what follows `python -m`.
        overrides: KEY=VALUE, as on the command line.
        flags: `--config-path`, `--config-name` and `--config-dir` with their values, if given.
        checked: whether to check that the package can run with it.

    Raises:
        ConfigError: the configuration cannot be composed, or the check failed.
    """
    return _compose_cached(package, tuple(overrides), tuple(flags), checked)


def forget_composed() -> None:
    """Drop the cached configurations, as in a new process."""
    _compose_cached.cache_clear()


@lru_cache(maxsize=4096)
def _compose_cached(
    package: str, overrides: tuple[str, ...], flags: tuple[str, ...], checked: bool
) -> Mapping[str, Any]:
    config = _compose(package, overrides, flags)
    if checked:
        check(package, config)
    try:
        container: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
        return container
    except Exception as error:
        raise ConfigError(error_message(error, package)) from error


def read_recorded_config(folder: Path) -> Any:
    """The typed configuration of the run in a folder: its recorded command, overridden by its config.yaml.

    Raises:
        ConfigError: the folder holds no run, or this code cannot run with the run's configuration.
    """
    command = read_command(read_record(folder))
    package = command.package
    composed = _compose(package, command.overrides, command.flags)
    try:
        config = OmegaConf.merge(composed, read_config(folder))
    except OmegaConfBaseException as error:
        raise ConfigError(error_message(error, package)) from error
    return check(package, cast(DictConfig, config))


def compose_unchecked(package: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration with its section `hydra`, not resolved, and not checked.

    Raises:
        ConfigError: the configuration cannot be composed.
    """
    return _compose(package, overrides, with_hydra=True)


def _compose(
    package: str, overrides: Sequence[str], flags: Sequence[str] = (), with_hydra: bool = False
) -> DictConfig:
    if package not in COMMANDS:
        raise ConfigError(f"package: must be one of {', '.join(COMMANDS)}, got {package}")
    register(package)  # needed each time: the schemas of all packages are registered under the name run_schema
    given = flag_values(flags)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(f"conf.{package}", version_base="1.3"):
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2(package.rpartition(".")[2], search_path(package, given))
            name = given.get("--config-name", "config")
            return hydra_compose(name, overrides=list(overrides), return_hydra_config=with_hydra)
    except Exception as error:
        raise ConfigError(error_message(error, package)) from error


def search_path(package: str, flags: Mapping[str, str]) -> ConfigSearchPath:
    """Where Hydra looks for a command's configuration files, as with these flags on its command line.

    Raises:
        ConfigError: the folder of --config-dir does not exist.
    """
    path = create_automatic_config_search_path(None, package, flags.get("--config-path", f"pkg://conf.{package}"))
    if "--config-dir" in flags:
        folder = os.path.abspath(flags["--config-dir"])
        if not os.path.isdir(folder):
            raise ConfigError(f"--config-dir: {folder} not found")
        path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    return path


def compose_typed(package: str, overrides: Sequence[str]) -> tuple[Any, Mapping[str, Any]]:
    """The typed configuration of a run, and those of its launcher's LAUNCHER_KEYS that are set.

    Raises:
        ConfigError: the configuration cannot be composed, or the package cannot run with it.
    """
    config = _compose(package, overrides, with_hydra=True)
    launcher = {key: config.hydra.launcher.get(key) for key in LAUNCHER_KEYS}
    with open_dict(config):
        del config["hydra"]
    return check(package, config), {key: value for key, value in launcher.items() if value is not None}
