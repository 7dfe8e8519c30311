"""The launcher that Hydra finds, with and without hydra-submitit-launcher."""

import importlib
import sys

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

import hydra_plugins.mara


@pytest.fixture(params=["with submitit", "without submitit"])
def plugin(request, monkeypatch):
    """The module as it is imported on a machine with or without hydra-submitit-launcher."""
    if request.param == "without submitit":
        monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_submitit_launcher.submitit_launcher", None)
    else:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher.submitit_launcher")
    yield importlib.reload(hydra_plugins.mara)
    monkeypatch.undo()
    importlib.reload(hydra_plugins.mara)


def test_hydra_finds_the_launcher(plugin):
    names = [found.__name__ for found in Plugins.instance().discover(Launcher)]
    assert "ClusterLauncher" in names


def test_the_launcher_hands_on_what_hydra_gives_it(plugin, monkeypatch):
    calls = []

    def launch(*arguments):
        calls.append(arguments)
        return ["result"]

    monkeypatch.setattr("launch.cluster.launcher.launch", launch)
    launcher = plugin.ClusterLauncher(cluster="local", timeout_min=3)
    config, context, task = object(), object(), object()
    launcher.setup(hydra_context=context, task_function=task, config=config)
    assert (launcher.config, launcher.hydra_context, launcher.task_function) == (config, context, task)
    assert launcher.launch([["seed=1"]], 4) == ["result"]
    ((launched, params, overrides, first),) = calls
    assert launched is launcher
    assert {"cluster": "local", "timeout_min": 3}.items() <= dict(params).items()
    assert (overrides, first) == ([["seed=1"]], 4)
