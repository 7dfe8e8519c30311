"""Pages of the documentation with every configuration key of a command, made from the schema and the YAML files."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import groupby
from typing import Any, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from conf.schema.base import OPTIONS, Key, key_of
from conf.schema.commands import COMMANDS
from launch.cli.compose import compose_unchecked
from launch.cli.groups import groups, options
from launch.cli.help import described_keys, meaning, option_rows, short_value

FOLDER = "configuration"
Row = tuple[str, str, str]  # key, value, meaning

INDEX = """# Configuration keys

Every key has a type, a range and a meaning, which stand once, in `conf/schema`. These pages are made from there, and
`--help` of a command prints the same. A value is set in a YAML file or as `KEY=VALUE` on the command line;
`GROUP=OPTION` sets all values of a file at once.

| command | what it does |
|---|---|
"""


def pages() -> dict[str, str]:
    """The pages, by path in the folder of the documentation."""
    commands = {command: compose_unchecked(command) for command in COMMANDS}
    lines = [f"| [{name}]({_file(name)}) | {_first_sentence(config)} |" for name, config in commands.items()]
    lines.append("| [launchers](launchers.md) | Where the jobs of a sweep run. |")
    texts = {"index.md": INDEX + "\n".join(lines) + "\n", "launchers.md": launcher_page()}
    texts |= {_file(name): command_page(name, config) for name, config in commands.items()}
    return {f"{FOLDER}/{name}": text for name, text in texts.items()}


def command_page(command: str, config: DictConfig) -> str:
    """The page of a command: what it does, the options of its groups, and its keys.

    Args:
        command: what follows `python -m`.
        config: its default configuration, with the section `hydra`.
    """
    parts = [
        f"# {command}",
        f"`mara {command.replace('.', ' ')} [GROUP=OPTION ...] [KEY=VALUE ...]`",
        config.hydra.help.header,
    ]
    for group in groups(command):
        parts += [f"## {group}=", _table(("option", "meaning"), sorted(option_rows(command, group)))]
    keys = list(key_rows(_without_hydra(config)))
    parts += [
        "## Keys",
        "Values are the defaults; `???` must be given. `NAME` is a name of yours, `[]` an entry of a list.",
    ]
    for section, rows in groupby(sorted(keys, key=_section), _section):
        parts += [f"### {section}"] if section else []
        parts.append(_table(("key", "value", "meaning"), list(rows)))
    known = {name for name, _, _ in keys}
    for group in groups(command):
        for option in options(command, group):
            if f"{group}/{option}" in OPTIONS:
                composed = _without_hydra(compose_unchecked(command, [f"{group}={option}"]))
                own = [row for row in key_rows(composed) if row[0] not in known]
                parts += [f"## Keys of {group}={option}", _table(("key", "value", "meaning"), own)] if own else []
    return _page(parts)


def launcher_page() -> str:
    """The page of the launchers, which every command has."""
    parts = [
        "# Launchers",
        "`mara PACKAGE -m hydra/launcher=NAME ...` starts each job of a sweep with that launcher.",
    ]
    parts.append(_table(("option", "meaning"), sorted(option_rows("llm", "hydra/launcher"))))
    for option in options("llm", "hydra/launcher"):
        if f"hydra/launcher/{option}" in OPTIONS:
            launcher = compose_unchecked("llm", [f"hydra/launcher={option}"]).hydra.launcher
            rows = [
                (f"hydra.launcher.{name}", *rest)
                for name, *rest in key_rows(launcher)
                if name not in ("_target_", "name")
            ]
            parts += [f"## hydra/launcher={option}", _table(("key", "value", "meaning"), rows)]
    return _page(parts)


def key_rows(config: DictConfig) -> Iterator[Row]:
    """Name, value and meaning of each key of a configuration, those of entries of lists and dictionaries included."""
    seen = {annotation: name for name, annotation in _annotations(_type(config)) if is_dataclass(annotation)}
    entries = {name: _entry(annotation) for name, annotation in _annotations(_type(config))}
    for name, value, key in described_keys(config):
        section = key.entries or entries.get(name)
        if section is None:
            yield name, short_value(value), meaning(key)
            continue
        empty, mark = ("[]", "[]") if isinstance(value, ListConfig) else ("{}", ".NAME")
        yield name, empty, meaning(key)
        yield from _entry_rows(section, f"{name}{mark}.", seen)


def _entry_rows(section: type, prefix: str, seen: dict[Any, str]) -> Iterator[Row]:
    """Rows of the keys of an entry. A section that is described elsewhere on the page, as in `seen`, is one row."""
    for name, annotation, key in _fields(section):
        inner = _first_section((annotation, *get_args(annotation)))
        if inner is None:
            yield f"{prefix}{name}", _default(section, name), meaning(key)
        elif inner in seen:
            yield f"{prefix}{name}", "null", f"the keys of {seen[inner]}"
        else:
            yield from _entry_rows(inner, f"{prefix}{name}.", seen)


def _annotations(section: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and annotation of each field, at any depth."""
    for name, annotation, _ in _fields(section):
        yield f"{prefix}{name}", annotation
        if is_dataclass(annotation):
            yield from _annotations(cast(type, annotation), f"{prefix}{name}.")


def _fields(section: type) -> Iterator[tuple[str, Any, Key]]:
    hints = get_type_hints(section)
    for described in fields(cast(Any, section)):
        yield described.name, hints[described.name], key_of(described)


def _entry(annotation: Any) -> type | None:
    """The section that a list or a dictionary holds, None if it holds none."""
    if get_origin(annotation) in (list, dict):
        return _first_section(get_args(annotation))
    return next((entry for inner in get_args(annotation) if (entry := _entry(inner))), None)


def _first_section(annotations: Iterable[Any]) -> type | None:
    return next((cast(type, item) for item in annotations if is_dataclass(item)), None)


def _default(section: type, name: str) -> str:
    config = OmegaConf.structured(section)
    return "???" if OmegaConf.is_missing(config, name) else short_value(config[name])


def _without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        config.pop("hydra")
    return config


def _type(config: DictConfig) -> type:
    return cast(type, OmegaConf.get_type(config))


def _section(row: Row) -> str:
    """The part of a key before the first dot or bracket; empty for a key of the first level."""
    return re.split(r"[.\[]", row[0])[0] if re.search(r"[.\[]", row[0]) else ""


def _page(parts: list[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _first_sentence(config: DictConfig) -> str:
    return " ".join(config.hydra.help.header.split()).partition(". ")[0].rstrip(".") + "."


def _file(command: str) -> str:
    return f"{command.replace('.', '_')}.md"


def _table(titles: tuple[str, ...], rows: list[Any]) -> str:
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for name, *rest in rows:
        cells = [f"`{name}`", *(f"`{cell}`" for cell in rest[:-1]), *rest[-1:]]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)
