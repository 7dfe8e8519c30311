"""Command lines of files and KEY=VALUE words, for commands that are not composed by Hydra."""

import difflib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.cli.command_table import ArgumentParser
from launch.runs.run_folder import one_line_errors, user_path


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


def run_on_files(
    module: str,
    description: str | None,
    work: Callable[[list[Path], dict[str, str]], Any],
    arguments: Sequence[str] | None,
    *,
    words: str,
    needed: str,
) -> int:
    """Run a command on the files and keys of its command line, and return the exit status.

    Args:
        module: what the command is typed as after `python -m`.
        description: of its help.
        work: is called with the files, at least one, and the values by key.
        arguments: the command line; None: that of the process.
        words: what may be given besides keys.
        needed: what one file must be, for the error when there is none.
    """
    parser = ArgumentParser(module, description)
    parser.add_argument("words", nargs="+", metavar="FILE|KEY=VALUE", help=f"{words}, and keys as above")
    args = parser.parse_args(arguments)
    with one_line_errors(module):
        paths, values = split_words(args.words)
        if not paths:
            raise ConfigError(f"FILE: must be given: {needed}; see --help")
        work(paths, values)
        return 0
    return 1


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
