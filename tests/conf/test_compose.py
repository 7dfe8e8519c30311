"""Every experiment and option of every package composes and is valid, and --help lists options and keys."""

import re
from dataclasses import MISSING, fields, is_dataclass
from typing import get_type_hints

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from conf.schema.commands import COMMANDS
from launch.cli.compose import compose as launch_compose
from launch.cli.groups import CONF, groups, options, owner
from launch.cli.help import described_keys, option_table, short_value
from launch.cli.validation import check, register
from launch.runs.run_folder import flatten

from ..core.test_objective_methods import GRPO
from ..core.test_rivals import RIVALS, WITHOUT_KL

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
    register(package)
    if package == "llm.evaluate":
        OmegaConf.register_new_resolver("evaluation_folder", lambda run, otherwise: otherwise, replace=True)
    with initialize_config_module(f"conf.{package}", version_base="1.3"):
        return compose("config", overrides=list(overrides), **keywords)


def test_every_package_has_experiments():
    assert {package for package, _ in EXPERIMENTS} == set(PACKAGES) >= {"didactic", "llm"}
    assert {path.stem for path in CONF.glob("*/experiment/*.yaml")} == {name for _, name in EXPERIMENTS}


@pytest.mark.parametrize(("package", "name"), EXPERIMENTS)
def test_an_experiment_composes(package, name):
    config = composed(package, f"experiment={name}")
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert type(check(package, config)).__name__ == PACKAGES[package]


@pytest.mark.parametrize(("package", "group", "option"), OPTIONS)
def test_an_option_composes(package, group, option):
    required = {"adaptive": ["kl_target=1"], "both": ["kl_target=1"], "linear": ["final=1"], "cosine": ["final=1"]}
    extra = [f"beta_schedule.{key}" for key in required.get(option, [])] if group == "beta_schedule" else []
    extra += ["transform.threshold.value=1"] if option == "automatic" else []
    extra += ["transform.threshold.value=1"] if group == "transform" else []
    extra += ["transform.function=my.module:name"] if option == "custom" else []
    exact = group != "transform" or option in ("identity", "mara")  # what gradient=exact, didactic's default, can run
    extra += ["gradient=sampled"] if package == "didactic" and not exact else []
    check(package, composed(package, f"{group}={option}", *extra))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_key_outside_the_schema_does_not_compose(package):
    with pytest.raises(HydraException, match=r"objective\.bta"):
        composed(package, "objective.bta=1")
    with pytest.raises(ConfigError, match=r"^objective\.bta: no such key"):
        check(package, composed(package, "+objective.bta=1"))
    with pytest.raises(ConfigError, match=r"^seed: required, cannot be removed with ~seed"):
        check(package, composed(package, "~seed"))


def test_each_experiment_belongs_to_one_package():
    assert {owner("experiment", name) for _, name in EXPERIMENTS} == set(PACKAGES)
    assert [owner("experiment", name) for package, name in EXPERIMENTS] == [package for package, _ in EXPERIMENTS]
    assert owner("experiment", "no_such") is None
    assert owner("experiment", "") is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_an_option_file_starts_with_a_description(path):
    """--help prints the first comment. `@package` must be the first line: Hydra ignores it elsewhere."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines[1:] if "@package" in line]
    if path.parent.name == "experiment":
        assert lines[0] == "# @package _global_"
    comments = [line for line in lines if line.startswith("#") and "@package" not in line]
    assert comments
    assert 15 < len(comments[0]) < 120
    assert comments[0].rstrip()[-1] not in ",:;"


def help_of(command):
    """Return the text of --help of a command, and the composed configuration that it is made from."""
    config = composed(command, return_hydra_config=True)
    return config.hydra.help.template.replace("$$", "$"), config


@pytest.mark.parametrize("package", PACKAGES)
def test_help_lists_every_option(package):
    text, _ = help_of(package)
    for group in groups(package):
        for option in options(package, group):
            assert re.search(rf"^ *{group}={re.escape(option)} +\w", text, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_gives_every_key_its_value_and_meaning(command):
    """There is an entry for each key of the composed configuration, within the width, with all its choices."""
    text, config = help_of(command)
    table = text.partition("\nKeys and")[2].splitlines()[1:]
    assert text.startswith("usage: python -m ")
    assert max(map(len, table)) <= 120
    matches = (re.match(r"  ([\w.]+)=(.*)", line) for line in table if re.match(r"  \S", line))
    entries = {match[1]: match[2] for match in matches if match}
    keys = [name for name, _, _ in described_keys(config)]
    assert list(entries) == keys
    assert len(keys) >= 6
    words = " ".join(text.split())
    for name, value, known in described_keys(config):
        assert entries[name].startswith(short_value(value))
        assert all(choice in words for choice in known.choices)
    if "objective.beta" in entries:
        assert ">= 0" in words
        assert "reward units per nat" in words


def test_the_help_follows_the_command_line():
    config = composed("llm", "transform=mara", "objective.beta=.25", return_hydra_config=True)
    table = config.hydra.help.template
    assert re.search(r"^  objective\.beta=0\.25 ", table, re.MULTILINE)
    assert re.search(r"^  transform\.algorithm=auto ", table, re.MULTILINE)
    assert "transform.algorithm" not in help_of("llm")[0]  # control


def test_a_default_is_in_one_place():
    """A key has its default in the dataclass or in the base configuration, never in both."""
    for command in COMMANDS:
        files = [CONF.joinpath(*command.split("."), "config.yaml"), *CONF.glob("shared/*.yaml")]
        in_yaml = {key for file in files for key in flatten(OmegaConf.to_container(OmegaConf.load(file)))}
        in_dataclass = {name for name, default in defaults(COMMANDS[command]) if default not in (MISSING, "???")}
        assert not in_yaml & in_dataclass, command


def defaults(section, prefix=""):
    """Yield (dotted name, default in the dataclass) for every key below a section."""
    hints = get_type_hints(section)
    for field in fields(section):
        if is_dataclass(hints[field.name]):
            yield from defaults(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.default


def test_the_error_of_an_option_without_a_dataclass_says_what_to_do(tmp_path):
    (tmp_path / "transform").mkdir()
    (tmp_path / "transform" / "power.yaml").write_text(
        "# R ** k.\ndefaults: [/schema/transform/power@_here_, _self_]\n"
    )
    with pytest.raises(
        ConfigError, match=r'transform=power: no dataclass is registered.*@option\("transform", "power"\)'
    ):
        launch_compose("llm", ["transform=power"], ["--config-dir", str(tmp_path)])


def test_the_table_of_options_is_escaped_for_the_template(monkeypatch, tmp_path):
    (tmp_path / "llm" / "price").mkdir(parents=True)
    (tmp_path / "llm" / "price" / "high.yaml").write_text("# @package _global_\n# At $CONFIG and more.\na: 1\n")
    (tmp_path / "llm" / "price" / "low.yaml").write_text("a: 1\n")
    monkeypatch.setattr("launch.cli.groups.CONF", tmp_path)
    assert option_table("llm") == "  price=high  At $$CONFIG and more.\n  price=low"


@pytest.mark.parametrize("command", [name for name in COMMANDS if "." in name])
def test_a_command_of_a_package_composes(command):
    config = composed(command, return_hydra_config=True)
    assert launch_compose(command, [], checked=False)["seed"] == 0  # as in launch.resume and launch.reproduce
    assert config.hydra.job.name == command
    assert not set(groups(command.partition(".")[0])) & {
        command.partition(".")[2]
    }  # the command is no group of its package


def test_grpo_is_the_objective_whose_gradient_is_compared_with_the_published_formula():
    arguments = {}
    for method in ("grpo", "grpo_sequence_kl"):
        config = OmegaConf.to_object(composed("llm", f"method={method}"))
        arguments[method] = config.objective_arguments()
    assert {name: arguments["grpo"][name] for name in GRPO} == GRPO
    assert arguments["grpo"]["transform"] == "identity"
    assert {name: arguments["grpo_sequence_kl"][name] for name in GRPO} != GRPO  # control


@pytest.mark.parametrize("method", RIVALS)
def test_the_file_of_a_rival_sets_what_its_formula_is_tested_with(method):
    config = OmegaConf.to_object(composed("llm", f"method={method}"))
    arguments = config.objective_arguments()
    assert {name: arguments[name] for name in RIVALS[method]} == RIVALS[method]
    assert (config.objective.beta == 0) == (method in WITHOUT_KL)
    assert (config.update.redraw > 0) == (method == "dapo")
    assert "clip_low" not in arguments or method != "cispo"
    plain = OmegaConf.to_object(composed("llm")).objective_arguments()
    assert {name: plain[name] for name in RIVALS[method]} != RIVALS[method]  # control
