"""A mistake in one line: the key, what is allowed and what was found, from what Hydra and OmegaConf raise.

The exceptions' own attributes are used wherever there are any. Nothing here loads torch.
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

from conf.schema.base import ConfigError, Key, key_of, show
from conf.schema.renames import renamed_key, renamed_option
from launch.cli.groups import groups, options, owner
from launch.runs.run_folder import unusable_folder

KINDS = {FloatNode: "a number", IntegerNode: "a whole number", BooleanNode: "true or false", StringNode: "text"}


def explain(error: BaseException, package: str) -> str:
    """One line about an exception raised while a package's command line was read, composed or checked."""
    return one_line(_explain(error, package))


def one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _explain(error: BaseException, package: str) -> str:
    file = None
    for cause in _causes(error):
        if isinstance(cause, ConfigError):
            return str(cause)
        if isinstance(cause, OverrideParseException):
            return not_an_override(cause.override)
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return _no_such_option(cause)
        if isinstance(cause, MarkedYAMLError):
            mark = cause.problem_mark
            place = f"{mark.name}, line {mark.line + 1}" if mark else "a configuration file"
            return f"{place}: must be valid YAML, got: {cause.problem}"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return _about_key(cause, package, file) + (f" (in {file}.yaml)" if file else "")
        wrapped = re.match(r"In '(.+)': \w+ raised while composing", str(cause))
        file = wrapped[1] if wrapped else file
    if isinstance(error, OSError) and error.filename:
        return unusable_folder(error)
    several = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '([^=]+)=(.*)'", str(error))
    if several:
        return f"{several[1]}: must be one value (add -m to sweep over several), got {several[2]}"
    if isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        # Without Hydra's links and its search path
        return "\n".join(line for line in str(error).splitlines() if "://" not in line)
    return f"{type(error).__name__}: {error}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and what led to it, as a traceback would show them."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _about_key(error: OmegaConfBaseException, package: str, file: str | None) -> str:
    key, node = error.full_key or "", error.child_node
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        if file is not None and key == file.rpartition("/")[0]:
            return f"{key}: no such key: the file's first line must be '# @package _global_'"
        return no_such_key(key, error.parent_node, package)
    if isinstance(error, MissingMandatoryValue):
        group = key.removesuffix(".name")
        if group in groups(package):
            return f"{group}: must be one of {', '.join(options(package, group))}, got nothing"
        return f"{key}: must be given, {_kind(node)}, got ???"
    if isinstance(error, InterpolationResolutionError):
        return f"{key}: must refer to a value that exists, got {node._value() if node else '?'} ({_first(error)})"
    if isinstance(error, ConfigTypeError):  # of a deletion
        return f"{key}: must be given, got ~{key}"
    return f"{key}: must be {_kind(node)}, got {show(error.value)}"


def no_such_key(key: str, parent: DictConfig, package: str) -> str:
    """For a key that `parent`, the node it was sought in, does not have."""
    kind, (above, _, name) = OmegaConf.get_type(parent), key.rpartition(".")
    allowed = [f.name for f in fields(kind)] if is_dataclass(kind) else [str(k) for k in parent]
    root = OmegaConf.to_container(parent._get_root(), throw_on_missing=False)
    if not above:
        allowed += [group for group in groups(package) if group not in allowed]
    elsewhere = [other for other in _keys(root) if other.rpartition(".")[2] == name and other != key]
    if renamed_key(key) != key:
        return f"{key}: was renamed to {renamed_key(key)}"
    close = elsewhere[:2] or [f"{above}.{other}".lstrip(".") for other in get_close_matches(name, allowed, 2)]
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    if not is_dataclass(kind):
        return f"{key}: no such key{hint}; to add one write +{key}=VALUE, got {name}"
    return f"{key}: no such key{hint}; allowed: {', '.join(allowed)}; got {name}"


def not_an_override(text: str) -> str:
    """For an argument that Hydra's grammar refuses."""
    key = text.partition("=")[0] or "command line"
    return f"{key}: must be written KEY=VALUE, with special characters of the value in quotes, got {text!r}"


def _no_such_option(error: MissingConfigException) -> str:
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
    other = owner(group, option)
    hint = f", which belongs to python -m {other}" if other else ""
    return f"{group}: must be one of {', '.join(error.options)}, got {show(option)}{hint}"


def _kind(node: Node | None) -> str:
    """What a node takes, in words."""
    choices = _described(node).choices
    if choices:
        kind = f"one of {_described(node).allowed()}"
    elif isinstance(node, DictConfig):
        node_type = OmegaConf.get_type(node)
        names = f" of {', '.join(f.name for f in fields(node_type))}" if is_dataclass(node_type) else ""
        kind = f"a mapping{names}"
    elif isinstance(node, ListConfig):
        kind = "a list"
    else:
        kind = KINDS.get(type(node), "another value")  # type: ignore[arg-type]
    return f"{kind} or null" if node is not None and node._is_optional() else kind


def _described(node: Node | None) -> Key:
    """What the schema says of a node's key."""
    parent = None if node is None else node._get_parent()
    section = OmegaConf.get_type(parent) if isinstance(parent, DictConfig) else None
    known = {f.name: key_of(f) for f in fields(section)} if is_dataclass(section) else {}
    return known.get(str(node._key()), Key("")) if node is not None else Key("")


def _keys(tree: Any, prefix: str = "") -> Iterator[str]:
    """The full keys of a nested mapping, Hydra's own left out."""
    for name, value in tree.items() if isinstance(tree, dict) else ():
        if f"{prefix}{name}" != "hydra":
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]
