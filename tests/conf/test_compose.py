"""Every experiment file of every package composes, resolves and is checked."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from conf import schema
from launch.app import register
from launch.groups import options

ROOT = Path(schema.__file__).parents[1]
CLASSES = {"didactic": schema.DidacticConfig, "llm": schema.LlmConfig}
EXPERIMENTS = [
    (path.parents[1].name, path.stem)
    for path in sorted(ROOT.glob("conf/*/experiment/*.yaml"))
    if path.stem != "shared"
]


def composed(package, *overrides):
    register(package, CLASSES[package])
    with initialize_config_module(f"conf.{package}", version_base="1.3"):
        return compose("config", overrides=list(overrides))


def test_there_are_experiments_of_every_package():
    assert {package for package, _ in EXPERIMENTS} == set(CLASSES)


@pytest.mark.parametrize(("package", "name"), EXPERIMENTS)
def test_experiment_composes(package, name):
    config = composed(package, f"experiment={name}")
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, CLASSES[package])
    first = (ROOT / "conf" / package / "experiment" / f"{name}.yaml").read_text().splitlines()[0]
    assert first == "# @package _global_"  # after any other comment Hydra ignores it


@pytest.mark.parametrize("package", CLASSES)
def test_a_misspelt_key_does_not_compose(package):
    with pytest.raises(Exception, match="bta"):
        composed(package, "objective.bta=1")


@pytest.mark.parametrize("group", ["transform", "beta_schedule", "engine", "model"])
def test_every_option_of_a_group_composes(group):
    for option in options("llm", group):
        extra = ["beta_schedule.kl_target=1"] if option == "adaptive" else []
        assert composed("llm", f"{group}={option}", *extra)


def test_help_and_checking_load_neither_torch_nor_transformers():
    code = "import sys, llm.__main__, didactic.__main__; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "[]"
    assert importlib.util.find_spec("torch") is not None  # control: it could have been loaded
