"""The commands: each has its files, and each of their keys is described."""

from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
from omegaconf import OmegaConf

from conf.schema.base import OPTIONS, key_of
from conf.schema.commands import COMMANDS
from launch.cli.groups import CONF


def sections(section, seen=()):
    """A dataclass of the schema and all those below it."""
    yield section
    for hint in get_type_hints(section).values():
        for kind in (hint, *getattr(hint, "__args__", ())):
            if is_dataclass(kind) and kind not in seen:
                yield from sections(kind, (*seen, section))


SECTIONS = sorted(
    {kind for command in COMMANDS.values() for kind in sections(command)} | set(OPTIONS.values()),
    key=lambda kind: str(kind),
)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_has_a_meaning(section):
    for field in fields(section):
        if field.name not in ("_target_", "name"):
            assert len(key_of(field).help) > 5, f"{section.__name__}.{field.name}"


@pytest.mark.parametrize("section", SECTIONS)
def test_help_is_a_phrase_that_stands_alone(section):
    """It is printed after the key, so it starts neither with a preposition that needs the key nor with a capital."""
    for field in fields(section):
        help = key_of(field).help
        assert not help.startswith(("of ", "... ", "its ", "also ")), f"{section.__name__}.{field.name}: {help}"
        assert not help.removesuffix("...").endswith((".", ",", ";", ":")), f"{section.__name__}.{field.name}: {help}"
        assert "  " not in help


def test_every_command_has_its_file_and_every_file_its_command():
    files = {".".join(path.parent.relative_to(CONF).parts) for path in CONF.rglob("config.yaml")}
    assert files == set(COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if "." in name])
def test_the_file_of_a_further_command_has_its_name(command):
    """Hydra would otherwise take the name of the module, which a run folder then has."""
    config = OmegaConf.load(CONF.joinpath(*command.split("."), "config.yaml"))
    assert config.hydra.job.name == command


def test_every_option_has_a_file_that_includes_it():
    for name, section in OPTIONS.items():
        group, _, option = name.rpartition("/")
        files = list(CONF.rglob(f"{group}/{option}.yaml"))
        assert len(files) == 1, f"{section.__name__} needs conf/shared/{group}/{option}.yaml with its default values"
        assert f"/schema/{name}@_here_" in files[0].read_text(encoding="utf-8"), f"{files[0]} must include {name}"
