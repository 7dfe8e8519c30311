"""What the folder of a run or a sweep is called: the experiment, and the oracle or task that was named beside it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from omegaconf import DictConfig, OmegaConf

from launch.cli.recorded_command import unresolved

MAX_NAMES = 3  # in the name of a sweep that has more, the others are counted


def folder_name(*keys: str, _root_: DictConfig) -> str:
    """The name that the command line gives a run or a sweep: the resolver `folder_name` of the configuration files.

    It consists of the values of the keys that are typed, `common_name` of them where the key is swept. If none is
    typed, it is the name of the user's main configuration file, or else the value of the first key that has one.

    Args:
        keys: groups or keys of the configuration that say what a run is about.
        _root_: the configuration with the key `hydra`.
    """
    typed = typed_values(unresolved(_root_.hydra.overrides.task), keys)
    names = [common_name(names) for key in keys if (names := typed.get(key))]
    config_name = str(_root_.hydra.job.get("config_name") or "config").removesuffix(".yaml")
    if not names and config_name != "config":
        names = [path_name(config_name)]
    return "+".join(names or next(_composed_names(keys, typed, _root_), ["unnamed"]))


def _composed_names(keys: Sequence[str], typed: dict[str, list[str]], root: DictConfig) -> Iterator[list[str]]:
    for key in keys:
        if key not in typed:  # one that is typed as null
            value = root.hydra.runtime.choices.get(key) or OmegaConf.select(root, key, throw_on_missing=False)
            names = value_names(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
            if names:
                yield names


def typed_values(overrides: Sequence[str], keys: Sequence[str]) -> dict[str, list[str]]:
    """The names of the values that overrides give to some keys, by key; no name for null."""
    names: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in keys:
            names[key] = [] if override.is_delete() else [name for name in override_names(override) if name]
    return names


def override_names(override: Override) -> list[str]:
    """The name of each value of an override, which may be swept; a pattern is named by its fixed beginning."""
    if not override.is_sweep_override():
        return value_names(override.value())
    value: Any = override._value
    if isinstance(value, Glob):
        return [path_name(pattern.partition("*")[0].rstrip("/") or "all") for pattern in value.include]
    if isinstance(value, ChoiceSweep):
        return value_names([Override._convert_value(item) for item in value.list])
    return value_names(list(override.sweep_string_iterator())) if override.is_discrete_sweep() else []


def value_names(value: Any) -> list[str]:
    """The names in a value: text itself, and the `name` of each part of a list or mapping."""
    if isinstance(value, list):
        return [name for item in value for name in value_names(item)]
    if isinstance(value, dict):
        return value_names(value["name"]) if "name" in value else []
    return [] if value in (None, "", "???") else [path_name(str(value))]


def path_name(text: str) -> str:
    """Text as a relative path that every file system and launcher accepts: `my_task.FirstWord` for my_task:FirstWord.

    Slashes separate folders, as in the names of experiments.
    """
    parts = [re.sub(r"[^\w.+=,-]", "_", part.replace(":", ".")).strip(".") for part in text.split("/")]
    return "/".join(part for part in parts if part) or "unnamed"


def common_name(names: Sequence[str]) -> str:
    """One name for several: the folder that they share, or else the folders that they are in, joined by `+`.

    synth/reinvent, synth/mara_0.8  ->  synth
    bandit, figure5/reverse_0.01    ->  bandit+figure5
    """
    distinct = list(dict.fromkeys(names))
    if len(distinct) == 1:
        return distinct[0]
    paths = [PurePosixPath(name).parts for name in distinct]
    shared = [column[0] for column in _equal_columns(paths)]
    if shared:
        return "/".join(shared)
    first = list(dict.fromkeys(parts[0] for parts in paths))
    more = [f"{len(first) - MAX_NAMES}_more"] if len(first) > MAX_NAMES else []
    return "+".join([*first[:MAX_NAMES], *more])


def _equal_columns(paths: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    for column in zip(*paths, strict=False):
        if len({*column}) > 1:
            return
        yield column
