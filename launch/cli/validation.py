"""Register the schema of a command with Hydra, and check a composed configuration."""

from dataclasses import fields, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import is_dict_annotation
from omegaconf.errors import OmegaConfBaseException

from conf.schema.base import OPTIONS, ConfigError
from conf.schema.commands import COMMANDS
from conf.schema.model_values import RESOLVERS
from launch.cli.command_table import typed
from launch.cli.errors import error_message, unknown_key_message
from launch.cli.folder_name import folder_name
from launch.cli.help import key_table, option_table


def register(package: str) -> None:
    """Register a command's schema and resolvers with Hydra. They replace those of other commands."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=with_open_dictionaries(COMMANDS[package]))
    for name, section in OPTIONS.items():
        group, _, option = f"schema/{name}".rpartition("/")
        store.store(group=group, name=option, node=with_open_dictionaries(section))
    OmegaConf.register_new_resolver("typed", typed, replace=True)
    OmegaConf.register_new_resolver("option_table", lambda: option_table(package), replace=True)
    OmegaConf.register_new_resolver("key_table", lambda *, _root_: key_table(_root_), replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


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
