"""Errors on a command line: one line on standard error with the key, what is wrong and what is allowed."""

import json
import logging
import os
import runpy
import signal
import subprocess
import sys

import pytest

from ..commands import ROOT

EXPERIMENTS = {  # files of a user's own, for --config-dir
    "syntax": "# @package _global_\nsteps: [1, 2\nseed: 3\n",
    "misspelt": "# @package _global_\nobjective: {bta: 1}\n",
    "no_package": "steps: 3\n",
    "option": "# @package _global_\ndefaults: [override /transform: foo]\n",
    "group": "# @package _global_\ndefaults: [override /transfrm: mara]\n",
    "interpolation": "# @package _global_\nsteps: ${objective.bta}\n",
    "good": "# @package _global_\ntask: {name: one_two}\n",
}
MISTAKES = [  # a command line, and what its error message must contain
    # keys
    (
        "objective.bta=1",
        [
            "objective.bta: no such key",
            "mean objective.beta?",
            "allowed: beta, direction, direction_options, level",
        ],
    ),
    ("beta=1", ["beta: no such key", "mean objective.beta?"]),
    ("experimnt=one_two", ["experimnt: no such key", "mean experiment?"]),
    ("foo=1", ["foo: no such key", "allowed: seed", "objective, transform"]),
    ("+foo=1", ["foo: no such key", "allowed: seed"]),
    ("+a.b=1", ["a: no such key", "allowed: seed"]),
    ("transform.threshold={value:1,foo:2}", ["transform.threshold.foo: no such key", "allowed: kind, value, floor"]),
    ("transform.algorithm=1", ["transform.algorithm: no such key", "allowed: name, threshold"]),
    ("~seed", ["seed: required, cannot be removed with ~seed"]),
    ("~transform.threshold", ["transform.threshold: required, cannot be removed with ~transform.threshold"]),
    ("~transform", ["transform: no option chosen", "identity, ips, mara, ucpo, uniqueness, unlikely"]),
    ("hydra.foo=1", ["hydra.foo: no such key", "allowed:", "job_logging"]),
    # types
    ("objective.beta=x", ["objective.beta: must be a number", "got x"]),
    ("objective.beta=", ["objective.beta: must be a number", "got ''"]),
    ("objective.beta=[1,2]", ["objective.beta: must be a number", "got [1, 2]"]),
    ("objective.beta=null", ["objective.beta: must be a number", "got null"]),
    ("objective.max_log_weight=x", ["objective.max_log_weight: must be auto, a number or null", "got x"]),
    ("objective.length_normalised=maybe", ["objective.length_normalised: must be true or false", "got maybe"]),
    ("objective.direction=side", ["objective.direction: must be one of reverse, forward", "got side"]),
    ("objective=3", ["objective: must be a mapping of beta, direction", "got 3"]),
    ("seed=1.5", ["seed: must be a whole number", "got 1.5"]),
    # values
    ("objective.beta=-1", ["objective.beta: must be finite and >= 0", "got -1"]),
    ("objective.beta=nan", ["objective.beta: must be finite", "got nan"]),
    ("seed=-1", ["seed: must be >= 0", "got -1"]),
    ("steps=0", ["steps: must be >= 1", "got 0"]),
    ("group_size=1", ["group_size: must be >= 2", "got 1"]),
    ("steps=${foo}", ["steps: cannot resolve ${foo}: Interpolation key 'foo' not found"]),
    ("beta_schedule=adaptive", ["beta_schedule.kl_target: no value given; must be a number"]),
    ("transform.name=mara", ["transform.name: must be identity", "transform=NAME", "got mara"]),
    # options of groups
    ("transform=foo", ["identity, ips, mara, ucpo, uniqueness, unlikely", "got foo"]),
    ("transform=[mara,identity]", ["identity, ips, mara, ucpo, uniqueness, unlikely", "got [mara,identity]"]),
    ("transform=mara_schema", ["identity, ips, mara, ucpo, uniqueness, unlikely", "got mara_schema"]),
    ("hydra/launcher=no_such", ["hydra/launcher: must be one of basic", "got no_such"]),
    ("experiment=", ["experiment: must be one of", "one_two", "got ''"]),
    ("experiment=null", ["experiment: must be one of", "one_two", "got null"]),
    ("experiment=figure5", ["experiment: must be one of", "one_two", "got figure5", "to python -m didactic"]),
    # combinations
    (
        "transform=mara transform.threshold.value=null",
        [
            "transform.threshold.value: must be given with transform=mara",
            "set it to the lowest reward that counts as good",
        ],
    ),
    (
        "transform=mara transform.threshold.kind=quantile transform.threshold.value=90",
        ["transform.threshold.value: must be", ">= 0 and <= 1 with kind=quantile", "got 90"],
    ),
    ("transform=mara objective.gamma=.5", ["objective.gamma: must be 1 with transform=mara", "got 0.5"]),
    (
        "transform=mara objective.length_normalised=true",
        ["objective.length_normalised: must be false with transform=mara"],
    ),
    ("transform=mara objective.beta=0", ["objective.beta: must be > 0", "transform=identity", "got 0"]),
    (
        "transform=mara objective.direction=jensen_shannon transform.algorithm=1",
        ["transform.algorithm: must be auto or 2 with direction=jensen_shannon", "got 1"],
    ),
    (
        "transform=mara advantage=group_normalised objective.placement=loss",
        ["advantage:", "use placement=reward", "got placement=loss"],
    ),
    # command lines
    ("x", ["x: cannot parse 'x'; write KEY=VALUE"]),
    ("=1", ["command line: cannot parse '=1'; write KEY=VALUE"]),
    ("objective.beta=${x", ["objective.beta: cannot parse 'objective.beta=${x'; write KEY=VALUE"]),
    ("objective.beta=.1 objective.beta=.2", ["objective.beta: given twice, as .1 and as .2"]),
    ("objective.beta=.1,.2", ["objective.beta: expected one value, got .1,.2; add -m"]),
    ("+objective.beta=1", ["objective.beta", "remove + prefix"]),
    ("--no-such-flag", ["--no-such-flag: unknown flag", "--multirun"]),
    ("--cfg jobs", ["--cfg", "'job'", "'jobs'"]),
    ("--config-dir no/such/folder", ["no/such/folder", "not found"]),
    ("--config-name no_such", ["no_such is not on the search path"]),
    ("hydra.run.dir=/dev/null/run", ["hydra.run.dir", "cannot write a run to /dev/null/run: Not a directory"]),
    # files
    (
        "--config-dir CONF experiment=syntax",
        ["CONF/experiment/syntax.yaml, line 3: invalid YAML: expected ','"],
    ),
    ("--config-dir CONF experiment=misspelt", ["objective.bta: no such key", "(in experiment/misspelt.yaml)"]),
    (
        "--config-dir CONF experiment=no_package",
        ["first line of the file must be '# @package _global_'", "experiment/no_package.yaml"],
    ),
    ("--config-dir CONF experiment=option", ["identity, ips, mara, ucpo, uniqueness, unlikely", "got foo"]),
    ("--config-dir CONF experiment=group", ["experiment/group", "transfrm"]),
    ("--config-dir CONF experiment=interpolation", ["steps: cannot resolve ${objective.bta}"]),
    ("--config-dir CONF experiment=no_such", ["experiment: must be one of", "good", "one_two", "got no_such"]),
    ("experiment=good --config-dir CONF steps=0", ["steps: must be >= 1", "got 0"]),  # in any order
    # sweeps
    ("-m objective.beta=.1,-1", ["objective.beta: must be finite and >= 0", "got -1", "job 1 of 2"]),
    (
        "seed=1 -m transform=identity,foo",
        ["identity, ips, mara, ucpo, uniqueness, unlikely", "got foo", "job 1 of 2"],
    ),
    (
        "-m transform=mara objective.direction=reverse,forward objective.level=sequence,token",
        ["objective.level: must be sequence", "got token", "job 3 of 4"],
    ),
]


@pytest.fixture
def configurations(tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    for name, text in EXPERIMENTS.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder.parent


@pytest.fixture
def type_here(monkeypatch, capfd, tmp_path):
    """Run `python -m PACKAGE ...` in this process, which is faster than a process for each of many mistakes."""
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)

    def run(*arguments, package="llm"):
        monkeypatch.setattr(sys, "argv", ["python", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(package, run_name="__main__")
        return stop.value.code, *capfd.readouterr()

    yield run
    signal.signal(signal.SIGTERM, handler)
    root.handlers[:] = handlers
    root.setLevel(level)


def type_command(*arguments, package="llm", cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, "-m", package, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line(type_here, configurations, tmp_path, arguments, parts):
    status, out, error = type_here(*arguments.replace("CONF", str(configurations)).split())
    assert status == 1, error
    (line,) = error.splitlines()
    assert line.startswith("llm: ")
    assert [part for part in parts if part.replace("CONF", str(configurations)) not in line] == [], line
    assert "://" not in line
    assert "full_key" not in line
    assert out == ""
    assert not list(tmp_path.rglob("run.json"))
    assert not list((tmp_path / "runs").glob("*/*/*"))  # an empty folder is not left, either


def test_an_empty_argument_is_a_mistake(type_here):
    status, _, error = type_here("")
    assert status == 1
    assert error == (
        "llm: command line: cannot parse ''; write KEY=VALUE, and quote a value that contains special characters\n"
    )


def test_an_experiment_of_one_package_is_named_by_the_other(type_here):
    status, _, error = type_here("experiment=one_two", package="didactic")
    assert status == 1
    (line,) = error.splitlines()
    assert "python -m llm" in line
    assert "figure5" in line


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("task.name=no_such", ["task.name: must be a module of llm.tasks or package.module:Class, got no_such"]),
        ("model.name_or_path=no/such/folder", ["model.name_or_path", "folder or hub name", "got no/such/folder"]),
    ],
)
def test_a_mistake_that_only_loading_finds(type_here, tmp_path, argument, parts):
    status, _, error = type_here(argument, f"hydra.run.dir={tmp_path / 'run'}")
    assert status == 1
    (line,) = error.splitlines()
    assert line.startswith("llm: ")
    assert [part for part in parts if part not in line] == []
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_a_folder_that_holds_a_broken_run_is_left_alone(type_here, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    status, _, error = type_here(f"hydra.run.dir={tmp_path}")
    assert status == 1
    assert "run.json: not the record of a run" in error
    assert error.count("\n") == 1
    assert (tmp_path / "run.json").read_text() == "{}"
    assert not (tmp_path / "config.yaml").exists()


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    done = type_command("objective.beta=-1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "llm: objective.beta: must be finite and >= 0, got -1.0\n"


def test_the_traceback_comes_on_request(tmp_path):
    done = type_command("objective.beta=-1", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "llm: objective.beta: must be finite and >= 0, got -1.0"


@pytest.mark.parametrize("package", ["llm", "didactic"])
def test_help_teaches(package):
    done = type_command("--help", package=package)
    assert done.returncode == 0
    assert done.stderr == ""
    words = ("transform=mara", "beta_schedule=adaptive", "objective.beta", "-m ", "--cfg job", "HYDRA_FULL_ERROR=1")
    assert [word for word in words if word not in done.stdout] == []


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("llm", ["-m", "objective.beta=.1,-1"]),
        ("didactic", ["objective.beta=-1"]),
        ("llm", ["--help"]),
        ("didactic", ["--help"]),
    ],
)
def test_what_does_not_run_loads_no_torch(tmp_path, package, arguments):
    done = type_command(*arguments, package=package, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    imported = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "hydra" in imported
    assert not {"torch", "transformers", "numpy", "matplotlib"} & imported


def test_the_composed_configuration_is_shown_without_running(tmp_path):
    done = type_command("transform=mara", "objective.beta=.25", "--cfg", "job", "--resolve", cwd=tmp_path)
    assert done.returncode == 0
    assert "beta: 0.25" in done.stdout
    assert "name: mara" in done.stdout
    assert not list(tmp_path.iterdir())
