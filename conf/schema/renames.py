"""Renamed keys and options, and new keys: how the configurations of older runs and commands are read."""

from collections.abc import Mapping
from typing import Any

KEYS = {"objective.mask_tied": "objective.skip_tied_groups", "writers": "loggers"}  # old -> new
OPTIONS = {("engine", "none"): "torch"}  # (group, old) -> new
ADDED: dict[str, Any] = {  # new keys, with the value that leaves a run as it was before
    "objective.direction_options": {},
    "advantage_options": {},
    "transform.reference_samples": 64,
}
ADDED_TO_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {  # the same for the keys of one option of a group
    "transform": {
        "mara": {
            "level": "sequence",
            "mass": "remembered",
            "anchor": "group",
            "equivalence": "answer",
            "embedder": None,
            "embedding_threshold": 0.8,
            "classifier": None,
            "classifier_tokenizer": None,
            "classifier_threshold": 0.102,
        }
    }
}


def renamed_key(key: str) -> str:
    """Return the current name of a key."""
    return KEYS.get(key, key)


def renamed_option(group: str, option: str) -> str:
    """Return the current name of an option of a group."""
    return OPTIONS.get((group, option), option)


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration, nested, with its current keys."""
    tree = _copy(config)
    for old, new in KEYS.items():
        section, name = _section(tree, old)
        if section is not None and name in section:
            value = section.pop(name)
            target, last = _section(tree, new)
            if target is not None:
                target[last] = value
    for key, value in ADDED.items():
        section, name = _section(tree, key)
        if section is not None and "steps" in tree and "objective" in tree:  # a RunConfig
            section.setdefault(name, value)
    for group, options in ADDED_TO_OPTIONS.items():
        section = tree.get(group)
        if isinstance(section, dict):
            tree[group] = options.get(section.get("name", ""), {}) | section
    return tree


def upgraded_flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration with dotted keys, with its current keys."""
    flat = {renamed_key(key): value for key, value in config.items()}
    if "objective.beta" not in flat or "steps" not in flat:
        return flat
    added = {
        f"{group}.{name}": value
        for group, options in ADDED_TO_OPTIONS.items()
        for name, value in options.get(flat.get(f"{group}.name", ""), {}).items()
    }
    return {**ADDED, **added, **flat}


def _copy(tree: Any) -> Any:
    return {name: _copy(item) for name, item in tree.items()} if isinstance(tree, Mapping) else tree


def _section(tree: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """Return the mapping that holds a dotted key (None if there is none) and the last part of the key."""
    *sections, name = key.split(".")
    for part in sections:
        tree = tree.get(part)  # type: ignore[assignment]
        if not isinstance(tree, dict):
            return None, name
    return tree, name
