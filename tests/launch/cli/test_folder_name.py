"""What the folders of runs and sweeps are called."""

import pytest
from omegaconf import OmegaConf

from launch.cli.folder_name import common_name, folder_name, path_name, typed_values
from launch.cli.new_folder import NewFolders
from launch.cli.validation import register

KEYS = ("experiment", "oracle", "oracle.components", "task.name")
CHOICES = {"experiment": "qed", "oracle": "default"}


def name(*overrides, config_name="config", choices=CHOICES, **config):
    hydra = {"overrides": {"task": list(overrides)}, "job": {"config_name": config_name}}
    hydra["runtime"] = {"choices": choices}
    return folder_name(*KEYS, _root_=OmegaConf.create({"hydra": hydra, **config}))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "qed"),
        (("seed=1", "objective.beta=.1"), "qed"),
        (("experiment=synth/mara_0.8",), "synth/mara_0.8"),
        (("oracle=mine",), "mine"),
        (("+oracle=mine",), "mine"),
        (("experiment=synth/mara_0.8", "oracle=mine"), "synth/mara_0.8+mine"),
        (("task.name=my_task:FirstWord",), "my_task.FirstWord"),
        (('oracle.components=[{name: "m:C", parameters: {a: 1}}, {name: qed}]',), "m.C+qed"),
        (("~experiment",), "default"),
        (("experiment=synth/reinvent,synth/mara_0.8", "seed=0,1"), "synth"),
        (("experiment=choice(bandit,figure5/reverse)",), "bandit+figure5"),
        (("experiment=glob(figure5/*)",), "figure5"),
        (("experiment=glob(*)",), "all"),
        (("oracle=a,b", "experiment=c"), "c+a+b"),
        (("task.name='a:B','../c:D'",), "a.B+c.D"),
    ],
)
def test_a_folder_is_called_what_the_command_line_says(overrides, expected):
    assert name(*overrides) == expected


def test_a_main_configuration_file_of_ones_own_names_the_folder():
    assert name(config_name="mine.yaml") == "mine"
    assert name("oracle=synth", config_name="mine") == "synth"
    assert name(config_name="config.yaml") == "qed"  # control


def test_without_an_experiment_the_configuration_names_the_folder():
    assert name(choices={}, task={"name": "my:Task"}) == "my.Task"
    assert name(choices={}, oracle={"components": [{"name": "qed"}]}) == "qed"
    assert name(choices={}) == "unnamed"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a"], "a"),
        (["a", "a"], "a"),
        (["synth/reinvent", "synth/mara_0.8"], "synth"),
        (["a/b/c", "a/b/d"], "a/b"),
        (["synth", "synth/mara_0.8"], "synth"),
        (["bandit", "figure5/reverse", "figure5/forward"], "bandit+figure5"),
        ([f"e{number}/x" for number in range(20)], "e0+e1+e2+17_more"),
    ],
)
def test_a_sweep_has_one_name(names, expected):
    assert common_name(names) == expected


@pytest.mark.parametrize("text", ["../../etc", "/etc", "a:b", "a b%j$(x)", "..", "", "a//b", "é\n"])
def test_a_name_stays_in_the_folder_and_is_safe(text):
    named = path_name(text)
    assert named
    assert not named.startswith("/")
    assert ".." not in named.split("/")
    assert not {*":%$ ()\n"} & {*named}


def test_only_the_given_keys_are_read():
    assert typed_values(["seed=1,2", "experiment=a"], ["experiment"]) == {"experiment": ["a"]}


@pytest.mark.parametrize("template", ["runs/${hydra.runtime.choices.experiment}", "runs/${folder_name:experiment}"])
def test_the_jobs_of_a_sweep_over_experiments_share_a_folder(template, tmp_path, monkeypatch):
    """The jobs are composed from the overrides, so that these must hold the folder, whatever its template is."""
    monkeypatch.chdir(tmp_path)
    register("didactic")
    hydra = {"sweep": {"dir": template}, "overrides": {"hydra": [], "task": ["experiment=s/a,s/b"]}}
    hydra |= {"runtime": {"choices": {"experiment": "default"}}, "job": {"config_name": "config"}}
    config = OmegaConf.create({"hydra": hydra})
    NewFolders().on_multirun_start(config)
    assert config.hydra.overrides.hydra == ["hydra.sweep.dir='runs/s'"]
    assert config.hydra.sweep.dir == "runs/s"
    assert config.hydra.runtime.choices.experiment == "default"  # only the folder is decided
