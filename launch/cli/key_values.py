"""Command lines of files and KEY=VALUE words, for commands that are not composed by Hydra."""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

from conf.schema.base import ConfigError
from launch.runs.run_folder import user_path


def split_words(words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Divide words into paths and values by key. A word with = is a path if there is a file of that name.

    Raises:
        ConfigError: a key is given twice.
    """
    paths: list[Path] = []
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or user_path(word).exists():
            paths.append(user_path(word))
        elif key in values:
            raise ConfigError(f"{key}: given twice, as {values[key]} and as {value}; remove one of them")
        else:
            values[key] = value
    return paths, values


def check_keys(values: Collection[str], allowed: Sequence[str]) -> None:
    """Raise ConfigError for a key that is not allowed."""
    for key in values:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 2)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            raise ConfigError(f"{key}: no such key{hint}; allowed: {', '.join(allowed)}")


def number_of(values: dict[str, str], key: str, low: float | None = None) -> float | None:
    """The number that a key has; None without the key.

    Raises:
        ConfigError: it is no finite number, or below `low`.
    """
    if key not in values:
        return None
    try:
        number = float(values[key])
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf") or (low is not None and number < low):
        bound = "" if low is None else f" >= {low:g}"
        raise ConfigError(f"{key}: must be a finite number{bound}, got {values[key]}")
    return number


def truth_of(values: dict[str, str], key: str, default: bool) -> bool:
    """Whether a key is true. Raises ConfigError if it is neither true nor false."""
    text = values.get(key, str(default)).lower()
    if text not in ("true", "false"):
        raise ConfigError(f"{key}: must be true or false, got {values[key]}")
    return text == "true"
