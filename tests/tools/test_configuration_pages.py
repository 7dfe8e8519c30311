"""The pages of the documentation that list configuration keys."""

import re
from dataclasses import fields, is_dataclass
from functools import cache
from typing import get_args, get_type_hints

import pytest

from conf.schema.base import OPTIONS, key_of
from conf.schema.commands import COMMANDS
from launch.cli.groups import groups, options
from tools import configuration_pages

ROW = re.compile(r"^\| `([^`]+)` \| `([^`]*)` \| (.*) \|$", re.MULTILINE)


@cache
def pages():
    return configuration_pages.pages()


def page(command):
    return pages()[f"configuration/{command.replace('.', '_')}.md"]


def leaves(section, prefix=""):
    """Every key below a section and its meaning, by the types alone; entries of lists and dictionaries included."""
    hints = get_type_hints(section)
    for described in fields(section):
        annotation, key = hints[described.name], key_of(described)
        inner = [item for item in (annotation, key.entries, *get_args(annotation)) if is_dataclass(item)]
        inner += [entry for item in get_args(annotation) for entry in get_args(item) if is_dataclass(entry)]
        for item in inner:
            yield from leaves(item, f"{prefix}{described.name}.")
        if not inner:
            yield f"{prefix}{described.name}", key.help


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_has_every_key_of_the_schema_with_its_meaning(command):
    rows = {
        re.sub(r"\[\]|\.NAME", "", name): text.replace("\\|", "|") for name, _, text in ROW.findall(page(command))
    }
    shared = {name for name in rows if rows[name].startswith("the keys of ")}  # described elsewhere on the page
    for name, meaning in leaves(COMMANDS[command]):
        if not any(name.startswith(f"{prefix}.") for prefix in shared):
            text = meaning.removesuffix("NAME")  # set by transform=NAME, or =OPTION
            assert text in rows.get(name, ""), name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_has_the_keys_of_every_option(command):
    text = page(command)
    for group in groups(command):
        for option in options(command, group):
            assert f"`{group}={option}`" in text
            for name, _ in leaves(OPTIONS.get(f"{group}/{option}", ())) if f"{group}/{option}" in OPTIONS else ():
                assert f"`{group}.{name}`" in text


def test_values_are_those_of_the_composed_configuration():
    values = {name: value for name, value, _ in ROW.findall(page("llm"))}
    assert values["objective.beta"] == "0.03"
    assert values["transform.anchor"] == "auto"  # of transform=mara, which is not the default
    assert values["beta_schedule.final"] == "???"
    assert values["reward.parts.NAME.weight"] == "1.0"
    launchers = {name: value for name, value, _ in ROW.findall(pages()["configuration/launchers.md"])}
    assert launchers["hydra.launcher.array_parallelism"] == "256"  # of the last, slurm
    assert "hydra.launcher._target_" not in launchers


def test_an_entry_of_a_list_has_its_keys_once():
    names = [name for name, _, _ in ROW.findall(page("chem").partition("## Keys of")[0])]
    assert "oracle.components[].transform.low" in names
    assert "stages[].oracle" in names
    assert not any(name.startswith("stages[].oracle.") for name in names)
    assert len(names) == len(set(names))


def test_control_a_missing_key_is_noticed():
    missing = page("llm").replace("`objective.beta`", "`objective.gone`")
    rows = {name for name, _, _ in ROW.findall(missing)}
    assert not {name for name, _ in leaves(COMMANDS["llm"])} <= {re.sub(r"\.NAME", "", name) for name in rows}
