"""Folders whose names are made from the time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from launch.cli import new_folder as new_folders
from launch.cli.new_folder import NewFolders, new_folder, remove_new_folders

from ...commands import ROOT, run_module

UNUSED = "${unless:RUN/evaluation,runs/${now:%S}}"  # as in llm.evaluate, where run=RUN decides


def hydra_config(folder):
    hydra = {"run": {"dir": folder}, "sweep": {"dir": folder, "subdir": "sub"}, "runtime": {"choices": {}}}
    hydra["overrides"] = {"hydra": [], "task": []}
    config = OmegaConf.create({"hydra": hydra})
    OmegaConf.set_struct(config, True)
    return config


@pytest.fixture(autouse=True)
def time(monkeypatch, tmp_path):
    """All processes start in the same second."""
    OmegaConf.register_new_resolver("now", lambda pattern: "10-00-00", replace=True)
    OmegaConf.register_new_resolver("unless", lambda first, second: first, replace=True)
    monkeypatch.setattr(new_folders, "_new", [])
    monkeypatch.chdir(tmp_path)


def test_simultaneous_processes_make_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(new_folder, [tmp_path / "runs" / "v1.2"] * 64))
    names = {"v1.2", *(f"v1.2_{number}" for number in range(2, 65))}
    assert {folder.name for folder in folders} == names == {path.name for path in (tmp_path / "runs").iterdir()}


def test_each_start_has_its_own_folder():
    folders = []
    for _ in range(3):
        config = hydra_config("runs/${now:%Y-%m-%d_%H-%M-%S}")
        NewFolders().on_run_start(config)
        folders.append(config.hydra.run.dir)
    assert folders == ["runs/10-00-00", "runs/10-00-00_2", "runs/10-00-00_3"]
    assert all(Path(folder).is_dir() for folder in folders)


def test_the_jobs_of_a_sweep_are_composed_with_its_folder():
    NewFolders().on_multirun_start(hydra_config("it's/sweep_${now:%S}"))
    config = hydra_config("it's/sweep_${now:%S}")
    NewFolders().on_multirun_start(config)
    assert config.hydra.sweep.dir == "it's/sweep_10-00-00_2"
    assert config.hydra.overrides.hydra == [r"hydra.sweep.dir='it\'s/sweep_10-00-00_2'"]


@pytest.mark.parametrize("folder", ["runs/mine", "runs/${now:%Y-%m-%d}", "${hydra.sweep.subdir}", UNUSED])
def test_control_a_folder_that_the_user_names_is_left(folder):
    """So that the same command resumes the run. The jobs of a sweep are composed with the one of the sweep."""
    config, expected = hydra_config(folder), hydra_config(folder)
    NewFolders().on_run_start(config)
    assert config == expected
    NewFolders().on_multirun_start(config)
    assert config.hydra.sweep.dir == str(expected.hydra.sweep.dir)
    assert config.hydra.run == expected.hydra.run
    assert list(Path().iterdir()) == []


def test_only_rank_0_makes_a_folder(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    config = hydra_config("runs/${now:%S}")
    NewFolders().on_run_start(config)
    assert not Path("runs").exists()
    assert config.hydra.run.dir == "runs/10-00-00"


def test_new_folders_that_hold_something_are_kept():
    for _ in range(2):
        NewFolders().on_run_start(hydra_config("runs/${now:%S}"))
    Path("runs/10-00-00/file").touch()
    remove_new_folders()
    assert [path.name for path in Path("runs").iterdir()] == ["10-00-00"]


def test_a_folder_that_resolves_to_nothing_is_refused_before_anything_is_written(tmp_path):
    for flags, key in (((), "run"), (("-m",), "sweep")):
        folder = f"hydra.{key}.dir=${{oc.env:NOT_SET,''}}"
        done = run_module("didactic", *flags, folder, "steps=3", folder=tmp_path, status=1, PYTHONPATH=ROOT)
        message = f"didactic: hydra.{key}.dir: must be a folder, got nothing; is a variable empty?\n"
        assert (done.stdout, done.stderr) == ("", message)
    assert list(tmp_path.iterdir()) == []
