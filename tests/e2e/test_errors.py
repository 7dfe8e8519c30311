"""Mistakes on a command line: one line on standard error that names the key, what is allowed, what was found."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def type_command(*arguments, package="llm", **environment):
    return subprocess.run(
        [sys.executable, "-m", package, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


MISTAKES = [  # arguments, what the line must hold
    (["objective.bta=1"], ["objective.bta", "beta, direction", "did you mean objective.beta"]),
    (["objective.beta=x"], ["objective.beta", "a number", "found x"]),
    (["objective.beta="], ["objective.beta", "a number", "found ''"]),
    (["objective.beta=[1,2]"], ["objective.beta", "a number", "found [1, 2]"]),
    (["objective.beta=null"], ["objective.beta", "a number", "found null"]),
    (["objective.beta=-1"], ["objective.beta", ">= 0", "found -1"]),
    (["objective.beta=nan"], ["objective.beta", "finite", "found nan"]),
    (["objective.beta=.1", "objective.beta=.2"], ["objective.beta", "once", ".1 and .2"]),
    (["objective.direction=side"], ["objective.direction", "reverse, forward", "found side"]),
    (["objective=3"], ["objective", "a mapping of beta", "found 3"]),
    (["transform=foo"], ["transform", "identity, mara", "found foo"]),
    (["experiment=figure5"], ["experiment", "one_two", "found figure5", "python -m didactic"]),
    (["experiment="], ["experiment", "one_two", "found ''"]),
    (["foo=1"], ["foo", "objective", "found foo"]),
    (["+a.b=1"], ["a: no such key", "found a"]),
    (["~seed"], ["seed", "must be given"]),
    (["seed=1.5"], ["seed", "whole number", "found 1.5"]),
    (["seed=-1"], ["seed", ">= 0", "found -1"]),
    (["steps=0"], ["steps", ">= 1", "found 0"]),
    (["group_size=1"], ["group_size", ">= 2", "found 1"]),
    (["transform=mara", "transform.threshold.value=null"], ["transform.threshold.value", "found null"]),
    (
        ["transform=mara", "transform.threshold.kind=quantile", "transform.threshold.value=90"],
        ["transform.threshold.value", "<= 1", "found 90"],
    ),
    (["transform=mara", "objective.gamma=.5"], ["objective.gamma", "must be 1", "found 0.5"]),
    (["transform=mara", "objective.length_normalised=true"], ["objective.length_normalised", "false", "found true"]),
    (["transform=mara", "objective.beta=0"], ["objective.beta", "> 0", "transform=identity", "found 0"]),
    (["transform=mara", "objective.direction=jensen_shannon"], ["objective.direction", "found jensen_shannon"]),
    (
        ["transform=mara", "advantage=group_normalised", "objective.placement=loss"],
        ["advantage", "placement=reward", "found placement=loss"],
    ),
    (["task.name=no_such"], ["task.name", "package.module:Class", "found no_such"]),
    (["model.name_or_path=no/such/folder"], ["model.name_or_path", "folder or hub name", "found no/such/folder"]),
    (["x"], ["KEY=VALUE", "found 'x'"]),
    (["--no-such-flag"], ["--no-such-flag", "--multirun"]),
    (["hydra.foo=1"], ["hydra.foo", "found foo"]),
    (["hydra.run.dir=/dev/null/run"], ["hydra.run.dir", "found /dev/null/run"]),
]


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES, ids=lambda value: " ".join(value))
def test_a_mistake_is_one_line(tmp_path, arguments, parts):
    folder = [] if any("hydra.run.dir" in a for a in arguments) else [f"hydra.run.dir={tmp_path / 'run'}"]
    done = type_command(*arguments, *folder)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("llm: ")
    assert [part for part in parts if part not in line] == [], line


def test_an_experiment_of_one_package_is_named_by_the_other():
    done = type_command("experiment=one_two", package="didactic")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "python -m llm" in line and "figure5" in line


def test_the_traceback_comes_on_request(tmp_path):
    done = type_command("objective.beta=-1", f"hydra.run.dir={tmp_path / 'run'}", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("llm: objective.beta")


def test_a_sweep_with_a_bad_job_starts_none(tmp_path):
    done = type_command("-m", "objective.beta=.1,-1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "objective.beta" in line and "no job was started" in line
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("package", ["llm", "didactic"])
def test_help_teaches_and_answers_at_once(package):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = type_command("--help", package=package)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2
    words = ("transform=mara", "beta_schedule=adaptive", "objective.beta", "-m ", "--cfg job", "HYDRA_FULL_ERROR=1")
    assert [word for word in words if word not in done.stdout] == []


def test_the_composed_configuration_is_shown_without_running(tmp_path):
    done = type_command("transform=mara", "objective.beta=.25", "--cfg", "job", "--resolve")
    assert done.returncode == 0 and "beta: 0.25" in done.stdout and "name: mara" in done.stdout
