"""Every experiment file of every package composes, resolves and is checked, and --help tells what there is."""

import re
from enum import Enum
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from conf import schema
from conf.schema import ConfigError
from launch.cli.app import check, register
from launch.cli.compose import compose as launch_compose
from launch.cli.groups import groups, option_table, options, owner
from launch.runs.run_folder import flatten

CONF = Path(schema.__file__).parent
PACKAGES = {path.parent.name: path.parent.name.capitalize() + "Config" for path in sorted(CONF.glob("*/config.yaml"))}
EXPERIMENTS = [(package, name) for package in PACKAGES for name in options(package, "experiment")]
OPTIONS = [
    (package, group, option)
    for package in PACKAGES
    for group in groups(package)
    if group != "experiment"
    for option in options(package, group)
]
FILES = sorted(path for path in CONF.glob("*/*/*.yaml") if path.parent.name != "hydra")


def composed(package, *overrides, **keywords):
    register(package, getattr(schema, PACKAGES[package]))
    with initialize_config_module(f"conf.{package}", version_base="1.3"):
        return compose("config", overrides=list(overrides), **keywords)


def test_there_are_experiments_of_every_package():
    assert {package for package, _ in EXPERIMENTS} == set(PACKAGES) >= {"didactic", "llm"}
    assert {path.stem for path in CONF.glob("*/experiment/*.yaml")} == {name for _, name in EXPERIMENTS}


@pytest.mark.parametrize(("package", "name"), EXPERIMENTS)
def test_an_experiment_composes(package, name):
    config = composed(package, f"experiment={name}")
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert type(check(package, config)).__name__ == PACKAGES[package]


@pytest.mark.parametrize(("package", "group", "option"), OPTIONS)
def test_an_option_composes(package, group, option):
    needed = {"adaptive": ["kl_target=1"], "both": ["kl_target=1"], "linear": ["final=1"], "cosine": ["final=1"]}
    extra = [f"beta_schedule.{key}" for key in needed.get(option, [])] if group == "beta_schedule" else []
    extra += ["transform.threshold.value=1"] if option == "automatic" else []
    extra += ["transform.threshold.value=1"] if group == "transform" else []
    sampled = option in ("unlikely", "differential_smoothing", "ucpo", "darling")
    extra += ["gradient=sampled"] if package == "didactic" and sampled else []
    check(package, composed(package, f"{group}={option}", *extra))


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_not_in_the_schema_does_not_compose(package):
    with pytest.raises(HydraException, match=r"objective\.bta"):
        composed(package, "objective.bta=1")
    with pytest.raises(ConfigError, match=r"^objective\.bta: no such key"):
        check(package, composed(package, "+objective.bta=1"))
    with pytest.raises(ConfigError, match=r"^seed: must be given"):
        check(package, composed(package, "~seed"))


def test_experiments_have_one_owner():
    assert {owner("experiment", name) for _, name in EXPERIMENTS} == set(PACKAGES)
    assert [owner("experiment", name) for package, name in EXPERIMENTS] == [package for package, _ in EXPERIMENTS]
    assert owner("experiment", "no_such") is None and owner("experiment", "") is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_an_option_file_says_what_it_is(path):
    """In its first line of comment, for --help. `@package` is the first line or none: elsewhere Hydra ignores it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines[1:] if "@package" in line]
    if path.parent.name == "experiment":
        assert lines[0] == "# @package _global_"
    comments = [line for line in lines if line.startswith("#") and "@package" not in line]
    assert comments and 15 < len(comments[0]) < 120 and comments[0].rstrip()[-1] not in ",:;"


@pytest.mark.parametrize("package", PACKAGES)
def test_help_lists_every_option_and_true_keys(package):
    config = composed(package, return_hydra_config=True)
    text = config.hydra.help.template
    for group in groups(package):
        for option in options(package, group):
            assert re.search(rf"^ *{group}={re.escape(option)} +\w", text, re.MULTILINE)
    keys = text.partition("\nKeys")[2].partition("\nAll keys")[0].splitlines()[1:]
    lines = [re.match(r" *(\w[\w.]*(?:, \w[\w.]*)*)  +(.*)", line) for line in keys if line.strip()]
    assert len(lines) >= 10
    for names, meaning in (line.groups() for line in lines):
        for name in names.split(", "):
            node = OmegaConf.select(config, name, throw_on_resolution_failure=True, default=config)
            assert node is not config, f"{name} is in --help and in no configuration"
            if isinstance(node, Enum):  # every choice is explained
                assert [choice for choice in type(node).__members__ if not re.search(rf"\b{choice}\b", meaning)] == []


def test_the_table_of_options_survives_a_template(monkeypatch, tmp_path):
    (tmp_path / "llm" / "price").mkdir(parents=True)
    (tmp_path / "llm" / "price" / "high.yaml").write_text("# @package _global_\n# At $CONFIG and more.\na: 1\n")
    (tmp_path / "llm" / "price" / "low.yaml").write_text("a: 1\n")
    monkeypatch.setattr("launch.cli.groups.CONF", tmp_path)
    assert option_table("llm") == "  price=high  At $$CONFIG and more.\n  price=low"


@pytest.mark.parametrize("command", [name for name in schema.RUN_CONFIGS if "." in name])
def test_a_further_command_composes_and_its_help_names_true_keys(command):
    register(command, schema.RUN_CONFIGS[command])
    with initialize_config_module(f"conf.{command}", version_base="1.3"):
        config = compose("config", return_hydra_config=True)
    text = config.hydra.help.template
    assert launch_compose(command, [], checked=False)["seed"] == 0  # as launch.resume and launch.reproduce do
    assert text.startswith(f"python -m {command} ") and config.hydra.job.name == command
    keys = re.findall(r"^ {2,8}(\w[\w.]*(?:, \w[\w.]*)*) {2,}\S", text, re.MULTILINE)
    named = {name for names in keys for name in names.split(", ")}
    assert len(named) >= 3
    known = flatten(OmegaConf.to_container(config))  # also what must be given
    assert [name for name in named if not any(f"{key}.".startswith(f"{name}.") for key in known)] == []
    assert not set(groups(command.partition(".")[0])) & {command.partition(".")[2]}  # no group of the package's
