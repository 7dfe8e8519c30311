"""Renamed keys and options, and new keys: how the configurations of older runs and commands are read."""

from collections.abc import Mapping
from typing import Any

KEYS = {"objective.mask_tied": "objective.skip_tied_groups", "writers": "loggers"}  # old -> new
OPTIONS = {("engine", "none"): "torch"}  # (group, old) -> new
ADDED: dict[str, Any] = {  # new keys, with the value that leaves a run as it was before
    "objective.direction_options": {},
    "advantage_options": {},
    "objective.reward_range": 1.0,
    "objective.token_mean": False,
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

ADDED_BESIDE: dict[str, dict[str, Any]] = {  # the same for configurations that have a certain key
    "model.name_or_path": {"model.stop.tokens": [], "model.stop.strings": []},
    "replay.size": {"agent": None, "stages": [], "stop.max_score": None, "replay.seeds": None, "stop.min_steps": 1},
    "replay.purge": {
        "replay.genetic.offspring": 0,
        "replay.genetic.mutation": 0.01,
        "replay.genetic.pressure": 0.01,
    },
    "update.epochs": {
        "rollout.name": "local",
        "update.loss": "policy_gradient",
        "update.redraw": 0,
        "update.covariance.share": 0.0002,
        "update.covariance.low": 1.0,
        "update.covariance.high": 5.0,
        "update.covariance.coef": 1.0,
        "update.match.coef": 0.0,
        "update.match.temperature": 0.1,
    },
    "score_thresholds": {"stop.tokens": [], "stop.strings": []},  # of llm.evaluate
}

ADDED_TO_ITEMS: dict[str, dict[str, Any]] = {  # the same for each item of a list, by the key of the list
    "oracle.components": {"penalty": False, "transform.mapping": None},
    "stages": {"min_steps": None},
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
    _add_beside(tree)
    _add_to_items(tree)
    for group, options in ADDED_TO_OPTIONS.items():
        section = tree.get(group)
        if isinstance(section, dict):
            tree[group] = options.get(section.get("name", ""), {}) | section
    objective = tree.get("objective")
    if isinstance(objective, dict) and "steps" in tree:
        exact = "problem" in tree
        tree["objective"] = _with_cap(objective, exact, exact and tree.get("gradient") == "exact")
    return tree


def upgraded_flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration with dotted keys, with its current keys."""
    flat = {renamed_key(key): _with_added_items(renamed_key(key), value) for key, value in config.items()}
    for known, new in ADDED_BESIDE.items():
        flat = {**new, **flat} if known in flat else flat
    if "objective.beta" not in flat or "steps" not in flat:
        return flat
    added = {
        f"{group}.{name}": value
        for group, options in ADDED_TO_OPTIONS.items()
        for name, value in options.get(flat.get(f"{group}.name", ""), {}).items()
    }
    flat = {**ADDED, **added, **flat}
    prefix = "objective."
    objective = {key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)}
    exact = "problem.name" in flat
    objective = _with_cap(objective, exact, exact and flat.get("gradient") == "exact")
    return {**flat, **{f"{prefix}{name}": value for name, value in objective.items()}}


def _with_cap(objective: dict[str, Any], exact_divergence: bool, exact_gradient: bool) -> dict[str, Any]:
    """Add `kl_samples` to an objective of before the weights were capped by default.

    Where neither it nor the cap has an effect, both have their present defaults, so that the command that started the
    run can continue it.
    """
    if "kl_samples" in objective or "beta" not in objective:
        return objective
    reverse = objective.get("direction") == "reverse"
    unused_cap = objective.get("max_log_weight") is None and (reverse or exact_gradient)
    cap = {"max_log_weight": "auto"} if unused_cap else {}
    return {**objective, **cap, "kl_samples": None if reverse or exact_divergence else 0}


def _add_to_items(tree: dict[str, Any]) -> None:
    for key in ADDED_TO_ITEMS:
        section, name = _section(tree, key)
        if section is not None and name in section:
            section[name] = _with_added_items(key, section[name])


def _with_added_items(key: str, items: Any) -> Any:
    """Return the list at a dotted key with the new keys of its items; another value as it is."""
    if key not in ADDED_TO_ITEMS or not isinstance(items, list):
        return items
    items = [_copy(item) for item in items]
    for item in items:
        for name, value in ADDED_TO_ITEMS[key].items():
            section, last = _section(item, name) if isinstance(item, dict) else (None, name)
            if section is not None:
                section.setdefault(last, value)
    return items


def _copy(tree: Any) -> Any:
    return {name: _copy(item) for name, item in tree.items()} if isinstance(tree, Mapping) else tree


def _add_beside(tree: dict[str, Any]) -> None:
    for known, added in ADDED_BESIDE.items():
        section, name = _section(tree, known)
        if section is not None and name in section:
            for key, value in added.items():
                _set_default(tree, key, value)


def _set_default(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key that the tree does not have, with the mappings around it."""
    *sections, name = key.split(".")
    for part in sections:
        tree = tree.setdefault(part, {})
    tree.setdefault(name, value)


def _section(tree: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """Return the mapping that holds a dotted key (None if there is none) and the last part of the key."""
    *sections, name = key.split(".")
    for part in sections:
        tree = tree.get(part)  # type: ignore[assignment]
        if not isinstance(tree, dict):
            return None, name
    return tree, name
