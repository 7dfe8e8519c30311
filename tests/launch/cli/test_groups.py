"""The groups and options of a command, in a folder of configurations that is made here, and in ours."""

import pytest

from conf.schema.commands import COMMANDS
from launch.cli import groups
from launch.cli.groups import CONF


@pytest.fixture
def conf(tmp_path, monkeypatch):
    files = ["shared/engine/a.yaml", "shared/hydra/launcher/local.yaml", "llm/config.yaml", "llm/model/m.yaml"]
    files += ["llm/engine/b.yaml", "llm/evaluate/config.yaml", "llm/evaluate/judge/j.yaml", "chem/oracle/o.yaml"]
    files += ["llm/model/note.txt"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(groups, "CONF", tmp_path)
    return tmp_path


def test_a_package_has_the_shared_groups_and_a_further_command_has_not(conf):
    assert groups.groups("llm") == ["engine", "model"]  # evaluate is a command
    assert groups.groups("llm.evaluate") == ["judge"]
    assert groups.groups("chem") == ["engine", "oracle"]


def test_the_options_of_a_group_are_its_files(conf):
    assert groups.options("llm", "engine") == ["a", "b"]
    assert groups.options("chem", "engine") == ["a"]
    assert groups.options("llm", "model") == ["m"]
    assert groups.options("llm.evaluate", "engine") == []
    assert groups.options("llm", "no_such") == []
    assert groups.options("llm.evaluate", "hydra/launcher") == ["local"]  # every command has Hydra's groups
    assert groups.option_files("llm", "engine") == [conf / "llm/engine/b.yaml", conf / "shared/engine/a.yaml"]


def test_the_owner_of_an_option(conf, monkeypatch):
    assert groups.owner("oracle", "o") == "chem"
    monkeypatch.setitem(groups.BORROWED, "llm.evaluate", {"oracle": "chem"})
    assert "oracle" in groups.groups("llm.evaluate")
    assert groups.options("llm.evaluate", "oracle") == groups.options("chem", "oracle") == ["o"]
    assert groups.owner("engine", "a") == "shared"
    assert groups.owner("oracle", "no_such") is None
    assert groups.owner("oracle", "") is None


def test_every_launcher_has_a_file():
    assert {path.stem for path in (CONF / "shared" / "hydra" / "launcher").glob("*.yaml")} == {
        *("local", "slurm", "slurm_1gpu", "slurm_node8", "slurm_multinode")
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_configuration(command):
    assert CONF.joinpath(*command.split("."), "config.yaml").is_file()
