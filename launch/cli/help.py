"""The tables of `--help`: the options of each group, and the keys with their values and meanings."""

import json
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from conf.schema.base import Key, key_of, yaml_text
from launch.cli.command_table import as_typed
from launch.cli.groups import groups, option_files

MAX_VALUE = 40  # characters of a value
COLUMN = 36  # where meanings start
NO_BREAK = "\u00a0"  # marks spaces at which a line is not wrapped
WIDTHS = (80, 120)  # minimum and maximum width of the table


def option_table(package: str) -> str:
    """One line for each option: `group=option`, and the first comment line of the option's file."""
    rows = [row for group in groups(package) for row in option_rows(package, group)]
    width = max((len(name) for name, _ in rows), default=0)
    return shown("\n".join(f"  {name:<{width}}  {text}".rstrip() for name, text in rows))


def option_rows(package: str, group: str) -> list[tuple[str, str]]:
    """`group=option` and its description, for each option of a group."""
    return [(f"{group}={path.stem}", description(path)) for path in sorted(option_files(package, group))]


def description(path: Path) -> str:
    """The first comment line of a YAML file that is not an @package directive; empty if there is none."""
    lines = [line.removeprefix("#").strip() for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith("@package")), "")


def key_table(config: DictConfig) -> str:
    """Every key of a composed configuration with its value, its meaning and its allowed values."""
    terminal = shutil.get_terminal_size(fallback=(WIDTHS[1], 24)).columns
    width = min(max(terminal, WIDTHS[0]), WIDTHS[1]) - COLUMN
    lines: list[str] = []
    for name, value, key in described_keys(config):
        entry = f"  {name}={short_value(value)}"
        wrapped = textwrap.wrap(meaning(key), width, break_long_words=False, break_on_hyphens=False) or [""]
        if len(entry) > COLUMN - 2:  # the meaning starts on the next line
            lines.append(entry)
            entry = ""
        lines.append(f"{entry:<{COLUMN}}{wrapped[0]}".rstrip())
        lines += [f"{'':<{COLUMN}}{line}" for line in wrapped[1:]]
    return shown("\n".join(lines).replace(NO_BREAK, " "))


def described_keys(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any, Key]]:
    """Yield (dotted name, node or value, description) of each key, in the order of the dataclasses."""
    section: Any = OmegaConf.get_type(config)
    for described in fields(section):
        name = f"{prefix}{described.name}"
        missing = OmegaConf.is_missing(config, described.name)
        value = "???" if missing else config.get(described.name)
        if isinstance(value, DictConfig) and is_dataclass(OmegaConf.get_type(value)):
            yield from described_keys(value, f"{name}.")
        else:
            key = key_of(described)
            yield name, value, key if key.help else Key(f"set by {prefix[:-1]}=OPTION")


def meaning(key: Key) -> str:
    """The help text of a key, followed by its allowed values unless the help text already names each of them."""
    allowed = key.allowed()
    if not key.choices:
        allowed = allowed.replace(" ", NO_BREAK)
    if key.choices and all(choice in key.help for choice in key.choices):
        return key.help
    return f"{key.help} ({allowed})" if allowed else key.help


def short_value(value: Any) -> str:
    """A value on one line, cut to MAX_VALUE characters."""
    if isinstance(value, DictConfig | ListConfig):
        value = json.dumps(OmegaConf.to_container(value)).replace('"', "")
    text = " ".join(yaml_text(value).split())
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def shown(text: str) -> str:
    """A text with commands as the user types them, and with the dollar signs escaped that Hydra would substitute."""
    return as_typed(text).replace("$", "$$")
