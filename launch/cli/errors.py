"""Turn what Hydra and OmegaConf raise into one line: the key, what is wrong with it, and what is allowed.

The attributes of the exceptions are used where there are any, their text otherwise. Nothing here imports torch.
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import (
    BooleanNode,
    DictConfig,
    FloatNode,
    IntegerNode,
    ListConfig,
    Node,
    OmegaConf,
    StringNode,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import MarkedYAMLError

from conf.schema.base import ConfigError, Key, key_of, yaml_text
from conf.schema.renames import renamed_key, renamed_option
from launch.cli.groups import groups, options, owner
from launch.runs.atomic import disk_full
from launch.runs.run_folder import unusable_folder_message

TYPES = {FloatNode: "a number", IntegerNode: "a whole number", BooleanNode: "true or false", StringNode: "text"}


def error_message(error: BaseException, package: str) -> str:
    """One line about an exception that was raised while a command line was read, composed or checked."""
    return one_line(_message(error, package))


def one_line(text: str) -> str:
    """The lines of a text that are not blank, joined by semicolons."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _message(error: BaseException, package: str) -> str:
    file = None  # the configuration file that Hydra was composing
    for cause in _causes(error):
        if isinstance(cause, ConfigError):
            return str(cause)
        if isinstance(cause, OverrideParseException):
            return invalid_override_message(cause.override)
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return _unknown_option_message(cause)
        if isinstance(cause, MarkedYAMLError):
            mark = cause.problem_mark
            place = f"{mark.name}, line {mark.line + 1}" if mark else "a configuration file"
            return f"{place}: invalid YAML: {cause.problem}"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return _key_message(cause, package, file) + (f" (in {file}.yaml)" if file else "")
        composing = re.match(r"In '(.+)': \w+ raised while composing", str(cause))
        file = composing[1] if composing else file
    if isinstance(error, OSError) and (error.filename or disk_full(error)):
        return unusable_folder_message(error)
    several = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '([^=]+)=(.*)'", str(error))
    if several:
        return f"{several[1]}: expected one value, got {several[2]}; add -m to sweep over several values"
    if isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        # without the lines in which Hydra lists links and its search path
        return "\n".join(line for line in str(error).splitlines() if "://" not in line)
    return f"{type(error).__name__}: {error}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception and then the ones that led to it, the same ones that a traceback shows."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _key_message(error: OmegaConfBaseException, package: str, file: str | None) -> str:
    key, node = error.full_key or "", error.child_node
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        if file is not None and key == file.rpartition("/")[0]:
            return f"{key}: no such key; the first line of the file must be '# @package _global_'"
        return unknown_key_message(key, error.parent_node, package)
    if isinstance(error, MissingMandatoryValue):
        group = key.removesuffix(".name")
        if group in groups(package):
            return f"{group}: no option chosen; use one of {', '.join(options(package, group))}"
        return f"{key}: no value given; must be {_expected_value(node)}"
    if isinstance(error, InterpolationResolutionError):
        return f"{key}: cannot resolve {node._value() if node else '?'}: {_first_line(error)}"
    if isinstance(error, ConfigTypeError):  # ~KEY
        return f"{key}: required, cannot be removed with ~{key}"
    return f"{key}: must be {_expected_value(node)}, got {yaml_text(error.value)}"


def unknown_key_message(key: str, parent: DictConfig, package: str) -> str:
    """The message for a dotted key whose last part is not a key of the node `parent`."""
    parent_type, (section, _, name) = OmegaConf.get_type(parent), key.rpartition(".")
    allowed = [f.name for f in fields(parent_type)] if is_dataclass(parent_type) else [str(k) for k in parent]
    if not section:
        allowed += [group for group in groups(package) if group not in allowed]
    if renamed_key(key) != key:
        return f"{key}: was renamed to {renamed_key(key)}"
    root = OmegaConf.to_container(parent._get_root(), throw_on_missing=False)
    same_name = [other for other in _dotted_keys(root) if other.rpartition(".")[2] == name and other != key]
    similar = [f"{section}.{other}".lstrip(".") for other in get_close_matches(name, allowed, 2)]
    suggestions = same_name[:2] or similar
    hint = f" (did you mean {' or '.join(suggestions)}?)" if suggestions else ""
    if not is_dataclass(parent_type):
        return f"{key}: no such key{hint}; to add it, write +{key}=VALUE"
    return f"{key}: no such key{hint}; allowed: {', '.join(allowed)}"


def invalid_override_message(text: str) -> str:
    """The message for an argument that does not follow Hydra's override grammar."""
    key = text.partition("=")[0] or "command line"
    return f"{key}: cannot parse {text!r}; write KEY=VALUE, and quote a value that contains special characters"


def _unknown_option_message(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).lstrip("/").rpartition("/")
    if group.startswith("schema/"):
        group = group.removeprefix("schema/")
        return (
            f"{group}={option}: no dataclass is registered for this option; decorate one in conf/schema with "
            f'@option("{group}", "{option}")'
        )
    if error.options is None:
        return f"configuration file: {error.missing_cfg_file} is not on the search path"
    if renamed_option(group, option) != option:
        return f"{group}: {option} was renamed to {group}={renamed_option(group, option)}"
    package = owner(group, option)
    hint = f", which belongs to python -m {package}" if package else ""
    return f"{group}: must be one of {', '.join(error.options)}, got {yaml_text(option)}{hint}"


def _expected_value(node: Node | None) -> str:
    """The values that a node accepts, in words."""
    description = _key_description(node)
    if description.choices:
        expected = f"one of {description.allowed()}"
    elif isinstance(node, DictConfig):
        node_type = OmegaConf.get_type(node)
        names = f" of {', '.join(f.name for f in fields(node_type))}" if is_dataclass(node_type) else ""
        expected = f"a mapping{names}"
    elif isinstance(node, ListConfig):
        expected = "a list"
    else:
        expected = TYPES.get(type(node), "another value")  # type: ignore[arg-type]
    return f"{expected} or null" if node is not None and node._is_optional() else expected


def _key_description(node: Node | None) -> Key:
    """The schema's description of a node's key, an empty one if there is none."""
    parent = None if node is None else node._get_parent()
    section = OmegaConf.get_type(parent) if isinstance(parent, DictConfig) else None
    descriptions = {f.name: key_of(f) for f in fields(section)} if is_dataclass(section) else {}
    return descriptions.get(str(node._key()), Key("")) if node is not None else Key("")


def _dotted_keys(tree: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a nested mapping, without those under `hydra`."""
    for name, value in tree.items() if isinstance(tree, dict) else ():
        if f"{prefix}{name}" != "hydra":
            yield f"{prefix}{name}"
            yield from _dotted_keys(value, f"{prefix}{name}.")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
