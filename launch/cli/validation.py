"""Check a composed configuration, and every job of a sweep before the first one starts."""

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import is_dict_annotation
from omegaconf.errors import OmegaConfBaseException

from conf.schema.base import OPTIONS, ConfigError
from conf.schema.commands import COMMANDS
from conf.schema.model_values import RESOLVERS
from launch.cli.errors import error_message, unknown_key_message
from launch.cli.help import key_table, option_table
from launch.cli.recorded_command import config_flags, recorded_cwd
from launch.cluster.sweep import Sweep, SweepJob, check_inside, remove_empty_sweep, write_sweep


def register(package: str) -> None:
    """Register a command's schema, resolvers and sweep check with Hydra. They replace those of other commands."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=with_open_dictionaries(COMMANDS[package]))
    for name, section in OPTIONS.items():
        group, _, option = f"schema/{name}".rpartition("/")
        store.store(group=group, name=option, node=with_open_dictionaries(section))
    OmegaConf.register_new_resolver("option_table", lambda: option_table(package), replace=True)
    OmegaConf.register_new_resolver("key_table", lambda *, _root_: key_table(_root_), replace=True)
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)

    # Hydra's own check composes every job but does not validate it.
    def check_batch(self: Sweeper, batch: Sequence[Sequence[str]]) -> None:
        check_sweep(package, self, batch)

    Sweeper.validate_batch_is_legal = check_batch  # type: ignore[method-assign]


def with_open_dictionaries(schema: type) -> DictConfig:
    """The schema as a configuration whose keys of type dict[str, ...] accept new entries without Hydra's `+`."""
    config = OmegaConf.structured(schema)
    _open_dictionaries(config)
    return config


def _open_dictionaries(node: DictConfig) -> bool:
    """Open the dictionaries in a node, at any depth. Returns whether there are any."""
    opened = False
    for key in list(node):
        child = node._get_node(key)
        if not isinstance(child, DictConfig) or child._is_none():
            continue
        if is_dict_annotation(child._metadata.ref_type):
            child._set_flag("struct", False)
            opened = True
        elif is_dataclass(child._metadata.ref_type):
            section = OmegaConf.structured(child._metadata.ref_type) if child._is_missing() else child
            if _open_dictionaries(section):
                node[key] = section
                opened = True
    return opened


def check(package: str, config: DictConfig) -> Any:
    """Convert a configuration to its dataclasses, which check it.

    Raises:
        ConfigError: a key is missing or unknown, or a value is not allowed.
    """
    try:
        check_keys(package, config)
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(error_message(error, package)) from error


def check_keys(package: str, node: DictConfig, prefix: str = "") -> None:
    """Check that a typed node has exactly the keys of its dataclass: +KEY=VALUE can add keys, and ~KEY remove them.

    Raises:
        ConfigError: a key is missing or unknown.
    """
    node_type = OmegaConf.get_type(node)
    if not is_dataclass(node_type):
        return
    allowed = [f.name for f in fields(node_type)]
    for key in map(str, node):
        if key not in allowed:
            raise ConfigError(unknown_key_message(f"{prefix}{key}", node, package))
    for key in allowed:
        if key not in node and not OmegaConf.is_missing(node, key):
            raise ConfigError(f"{prefix}{key}: required, cannot be removed with ~{prefix}{key}")
        child = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(child, DictConfig):
            check_keys(package, child, f"{prefix}{key}.")


def check_sweep(package: str, sweeper: Sweeper, jobs: Sequence[Sequence[str]]) -> None:
    """Compose and check every job of a sweep, then write sweep.json if the launcher does not.

    Raises:
        ConfigError: the error of the first job that cannot run.
    """
    planned: list[SweepJob] = []
    assert sweeper.config is not None
    assert sweeper.hydra_context is not None
    for number, overrides in enumerate(jobs):
        try:
            config = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = str(number), number
                subdir = str(config.hydra.sweep.subdir)
                HydraConfig.instance().set_config(config)
                del config["hydra"]
            check(package, config)
            planned.append(SweepJob(number, list(filter_overrides(overrides)), subdir))
            check_inside(Path(sweeper.config.hydra.sweep.dir), planned[-1])
        except (ConfigError, HydraException, OmegaConfBaseException) as error:
            remove_empty_sweep(Path(sweeper.config.hydra.sweep.dir))
            job = f"job {number} of {len(jobs)}, {' '.join(overrides)}"
            raise ConfigError(f"{error_message(error, package)} (in {job}; no job was started)") from error
    try:
        OmegaConf.to_object(sweeper.config.hydra.launcher)  # checks the launcher's settings
    except (ConfigError, OmegaConfBaseException):
        remove_empty_sweep(Path(sweeper.config.hydra.sweep.dir))
        raise
    if "BasicLauncher" in sweeper.config.hydra.launcher._target_:  # our launchers write sweep.json themselves
        command = ["python", "-m", package, *sys.argv[1:]]
        flags = config_flags(sweeper.config, package)
        sweep = Sweep(package, command, "basic", planned, cwd=recorded_cwd(), flags=flags)
        write_sweep(Path(sweeper.config.hydra.sweep.dir), sweep)
