"""`launch.submit`: the sbatch script it shows, what it starts, and its error messages."""

import os
import signal
import subprocess
import sys

import pytest

from launch import submit
from launch.cli.groups import options

from ..commands import run_module

START = [sys.executable, "-P", "-m", "llm"]


def run_submit(tmp_path, *arguments):
    return run_module("launch.submit", *arguments, f"hydra.sweep.dir={tmp_path / 'sweep'}")


@pytest.mark.parametrize("launcher", [name for name in options("llm", "hydra/launcher") if name.startswith("slurm")])
def test_a_dry_run_shows_the_script_and_leaves_nothing(tmp_path, launcher):
    overrides = ["seed=0,1,2", "hydra.launcher.partition=gpu", "hydra.launcher.setup=['module load cuda']"]
    overrides += {"slurm_node8": ["engine=zero2"], "slurm_multinode": ["engine=zero3"]}.get(launcher, [])
    done = run_submit(tmp_path, "--dry-run", "--launcher", launcher, "llm", *overrides)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    script = done.stdout
    expected = [
        "--array=0-2%3",
        "--partition=gpu",
        "--requeue",
        "--signal=USR2@120",
        "--time=240",
        "--open-mode=append",
    ]
    expected += {
        "slurm": ["--ntasks-per-node=1", "--nodes=1"],
        "slurm_1gpu": ["--gpus-per-node=1", "--cpus-per-task=8", "--mem=65536MB"],
        "slurm_node8": ["--gpus-per-node=8", "--ntasks-per-node=8"],
        "slurm_multinode": ["--nodes=2", "--gpus-per-node=8", "--ntasks-per-node=8"],
    }[launcher]
    assert [line for line in expected if f"#SBATCH {line}\n" not in script] == []
    assert "\nmodule load cuda\n" in script
    assert "--kill-on-bad-exit=1" in script
    assert f"\ncd {tmp_path}/sweep/.code || exit\n" in script
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "llm", "hydra.launcher.timeout_min=0"], "llm: hydra.launcher.timeout_min: must be >= 1"),
        (["--dry-run", "llm", "hydra.launcher.partitoin=a"], "partitoin: no such key"),
        (["--dry-run", "llm", "objective.beta=-1"], "llm: objective.beta: must be finite and >= 0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    done = run_submit(tmp_path, *arguments)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "launch.submit: package: must be one of didactic, llm, "),
        (["--launcher", "moon", "llm"], "launch.submit: --launcher: must be one of local, slurm"),
    ],
)
def test_a_wrong_package_or_launcher_is_named(arguments, message):
    with pytest.raises(SystemExit) as stop:
        submit.main(arguments)
    assert str(stop.value.code).startswith(message)


def test_it_starts_the_package_and_does_not_wait(monkeypatch):
    commands = []

    def run(command, env):
        assert env["MARA_MODULES"] == os.getcwd()
        commands.append(command)
        return subprocess.CompletedProcess(command, 5)

    monkeypatch.setattr(submit.subprocess, "run", run)
    overrides = ["seed=0,1", "steps=2"]
    assert submit.main(["llm", *overrides]) == 5
    assert submit.main(["--dry-run", "llm", *overrides]) == 5
    start = [*START, "-m", "hydra/launcher=slurm", *overrides]
    assert commands == [[*start, "hydra.launcher.wait=false"], [*start, "hydra.launcher.dry_run=true"]]


def test_configuration_files_of_ones_own_are_passed_on(tmp_path, monkeypatch):
    commands = []

    def run(command, env):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(submit.subprocess, "run", run)
    own = tmp_path / "hydra" / "launcher" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [slurm]\n")
    flags = ["--config-dir", str(tmp_path), "--config-name", "mycfg"]
    assert submit.main(["llm", "seed=0", *flags, "--launcher", "mine"]) == 0
    rest = ["-m", "hydra/launcher=mine", "seed=0", "hydra.launcher.wait=false"]
    assert commands == [[*START, "--config-name", "mycfg", "--config-dir", str(tmp_path), *rest]]
    with pytest.raises(SystemExit, match=r"--launcher: must be one of local, slurm"):
        submit.main(["llm", "--launcher", "mine"])  # control


def test_local_jobs_are_started_in_the_background(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = "import os, sys; print(os.getsid(0) == os.getpid(), flush=True); print('error', file=sys.stderr); "
    script += "import time; time.sleep(0.3); print('sweep folder: x/y', flush=True); time.sleep(30)"
    assert submit.start_in_background([sys.executable, "-c", script]) == 0
    out = capsys.readouterr().out
    (log,) = (tmp_path / "runs").glob("local_*.log")
    ending = "sweep folder: x/y\nnext: python -m launch.watch x/y\nnext: python -m launch.status x/y\n"
    assert out.endswith(f"; its output is in {log}\n{ending}")
    # it leads a session of its own, so it outlives the terminal
    assert log.read_text() == "True\nerror\nsweep folder: x/y\n"
    number = int(out.split()[2].rstrip(";"))
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)


def test_what_refuses_to_start_is_not_said_to_have_started(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = "import sys; sys.exit('didactic: seed: must be a whole number, got x')"
    assert submit.start_in_background([sys.executable, "-c", script]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "didactic: seed: must be a whole number, got x\n"
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_log_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    with pytest.raises(
        SystemExit, match=r"^launch\.submit: .*runs: cannot be written: (File exists|Not a directory)"
    ):
        submit.main(["--launcher", "local", "didactic", "seed=0,1"])
