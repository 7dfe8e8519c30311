"""Reading a command line: flags and overrides in any order, and what is rejected before Hydra sees it."""

import sys

import pytest
from hydra._internal.utils import get_args_parser

from conf.schema.base import ConfigError
from launch.cli.command_line import check_overrides, read_command_line


@pytest.fixture
def read(monkeypatch):
    def read(*arguments):
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        read_command_line("llm")
        return sys.argv

    return read


def test_overrides_come_before_flags(read):
    arguments = ["seed=1", "--config-dir", "mine", "+a.b=2", "-m", "transform=mara,identity"]
    assert read(*arguments) == [
        "python -m llm",
        *("seed=1", "+a.b=2", "transform=mara,identity"),
        *("--config-dir", "mine", "-m"),
    ]
    assert read() == ["python -m llm"]


def test_a_flag_with_an_optional_value_takes_no_override(read):
    read("seed=1", "--info")
    assert get_args_parser().parse_args(sys.argv[1:]).overrides == ["seed=1"]
    with pytest.raises(ConfigError, match=r"--info.*invalid choice: 'seed=1'"):
        read("--info", "seed=1")


def test_a_value_that_equals_an_override_keeps_its_place(read):
    """The folder of --config-dir may look like an override."""
    assert read("--config-dir", "seed=1", "steps=2")[1:] == ["steps=2", "--config-dir", "seed=1"]


def test_an_unknown_flag_is_rejected_with_those_that_exist(read):
    with pytest.raises(ConfigError, match=r"^--no-such: unknown flag; allowed: --help, .*--multirun"):
        read("seed=1", "--no-such")


def test_a_flag_without_its_value_is_rejected(read):
    with pytest.raises(ConfigError, match=r"--config-dir.*expected one argument"):
        read("--config-dir")
    with pytest.raises(ConfigError, match=r"^--experimental-rerun: it loads a pickle; use python"):
        read("--experimental-rerun", "job.pickle")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1", "+seed=2"], r"^seed: given twice, as 1 and as 2; remove one of them$"),
        (["~seed", "seed=2"], r"^seed: given twice, as  and as 2; remove one of them$"),
        (["=1"], r"^command line: cannot parse '=1'; write KEY=VALUE, and quote a value that contains special"),
        (["writers=[wandb]"], r"^writers: was renamed to loggers$"),
        (["engine=none"], r"^engine: none was renamed to engine=torch$"),
        (["transform=[mara]"], r"^transform: must be one of .*mara.*, got \[mara\]$"),
        (["transform=1"], r"^transform: must be one of .*, got 1$"),
        (["transform=null"], r"^transform: must be one of .*, got null$"),
    ],
)
def test_what_hydra_would_accept_is_rejected(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_overrides("llm", overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1", "steps=1"],
        ["transform=mara"],
        ["transform=mara,identity"],
        ["transform={name:mara}"],
        ["~transform"],
        ["threads=null", "model.chat_template={a:1}"],  # not groups
    ],
)
def test_what_hydra_understands_passes(overrides):
    check_overrides("llm", overrides)


@pytest.mark.parametrize("override", ["hydra.run.dir=", "hydra.sweep.dir=''", "hydra.run.dir=null"])
def test_a_folder_without_a_name_is_rejected(override):
    with pytest.raises(ConfigError, match=r"^hydra\.(run|sweep)\.dir: must be a folder"):
        check_overrides("llm", [override])
    check_overrides("llm", ["hydra.run.dir=."])
