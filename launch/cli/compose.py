"""A package's configuration as its command line would compose it, without starting the package."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from conf.schema.base import ConfigError
from conf.schema.commands import COMMANDS
from launch.cli.errors import explain
from launch.cli.validation import check, register
from launch.runs.run_folder import read_config, read_record

LAUNCHER_KEYS = ("nodes", "tasks_per_node", "gpus_per_node", "mem_gb")  # those that say what a rank has


def compose(
    package: str, overrides: Sequence[str], flags: Sequence[str] = (), checked: bool = True
) -> Mapping[str, Any]:
    """The resolved configuration, as config.yaml has it; not to be changed, for it is remembered.

    Args:
        flags: --config-dir FOLDER, where there is one.
        checked: whether it must be one that can be run with.

    Raises:
        ConfigError: it cannot be composed, or cannot be run with.
    """
    return _compose(package, tuple(overrides), tuple(flags), checked)


@lru_cache(maxsize=4096)
def _compose(package: str, overrides: tuple[str, ...], flags: tuple[str, ...], checked: bool) -> Mapping[str, Any]:
    config = _composed(package, overrides, flags)
    if checked:
        check(package, config)
    try:
        container: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
        return container
    except Exception as error:
        raise ConfigError(explain(error, package)) from error


def recorded(folder: Path) -> Any:
    """The typed configuration that a run folder records; what the record's command does not say is from its file.

    Raises:
        ConfigError: it is no run folder, or holds a configuration that this code cannot run with.
    """
    record = read_record(folder)
    package, command = str(record["package"]), [str(word) for word in record["command"][3:]]
    flags = command[:2] if command[:1] == ["--config-dir"] else []
    config = OmegaConf.merge(_composed(package, command[len(flags) :], flags), read_config(folder))
    return check(package, cast(DictConfig, config))


def _composed(
    package: str, overrides: Sequence[str], flags: Sequence[str] = (), with_hydra: bool = False
) -> DictConfig:
    if package not in COMMANDS:
        raise ConfigError(f"package: must be one of {', '.join(COMMANDS)}, got {package}")
    register(package)  # each time: all packages call their schema run_schema
    extra = [f"file://{path}" for flag, path in zip(flags[::2], flags[1::2], strict=True) if flag == "--config-dir"]
    search = [f"hydra.searchpath=[pkg://conf.shared,{','.join(extra)}]"] if extra else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(f"conf.{package}", version_base="1.3", job_name=package.rpartition(".")[2]):
            return hydra_compose("config", overrides=[*overrides, *search], return_hydra_config=with_hydra)
    except Exception as error:
        raise ConfigError(explain(error, package)) from error


def compose_typed(package: str, overrides: Sequence[str]) -> tuple[Any, Mapping[str, Any]]:
    """The typed configuration of a run, and its launcher's keys.

    Raises:
        ConfigError: it cannot be composed, or cannot be run with.
    """
    config = _composed(package, overrides, with_hydra=True)
    launcher = {key: config.hydra.launcher.get(key) for key in LAUNCHER_KEYS}
    with open_dict(config):
        del config["hydra"]
    return check(package, config), {key: value for key, value in launcher.items() if value is not None}
