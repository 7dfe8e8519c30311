"""What a cluster's jobs are made of, where no cluster is needed: settings, the script, the snapshot, ports."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from conf.schema.base import ConfigError
from conf.schema.launchers import SlurmLauncherConfig
from launch.cli.groups import CONF, options
from launch.cluster import job as cluster_job
from launch.cluster.snapshot import take_snapshot
from launch.cluster.sweep import read_sweep
from launch.engines import distributed
from launch.runs.run_folder import run_state

ROOT = Path(__file__).parents[2]
GOOD = {"array_parallelism": 4, "timeout_min": 10, "signal_delay_s": 60, "on_failure": "continue"}


def settings(**changes):
    return SlurmLauncherConfig(**{**GOOD, **changes})


@pytest.mark.parametrize(
    ("refused", "key", "legal"),
    [
        ({"timeout_min": 0}, "timeout_min", {"timeout_min": 2}),
        ({"timeout_min": 1}, "signal_delay_s", {"timeout_min": 1, "signal_delay_s": 59}),
        ({"tasks_per_node": 3, "gpus_per_node": 2}, "tasks_per_node", {"tasks_per_node": 2, "gpus_per_node": 2}),
        ({"array_parallelism": 0}, "array_parallelism", {"array_parallelism": 1}),
        ({"nodes": 0}, "nodes", {"nodes": 2}),
        ({"gpus_per_node": 0}, "gpus_per_node", {"gpus_per_node": None}),
        ({"mem_gb": 0.0}, "mem_gb", {"mem_gb": 0.5}),
        ({"cpus_per_task": 0}, "cpus_per_task", {"cpus_per_task": 1}),
        ({"on_failure": "retry"}, "on_failure", {"on_failure": "retry:3"}),
        ({"on_failure": "retry:0"}, "on_failure", {"on_failure": "stop"}),
        (
            {"additional_parameters": {"time": 3}},
            "additional_parameters",
            {"additional_parameters": {"mail-type": "END"}},
        ),
    ],
)
def test_settings_that_would_hang_or_be_ignored(refused, key, legal):
    with pytest.raises(ConfigError, match=rf"^hydra\.launcher\.{key}: must .*got"):
        settings(**refused)
    settings(**legal)


def submit(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.submit", *arguments, f"hydra.sweep.dir={tmp_path / 'sweep'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("launcher", [name for name in options("llm", "hydra/launcher") if name.startswith("slurm")])
def test_a_dry_run_shows_the_script_and_leaves_nothing(tmp_path, launcher):
    overrides = ["seed=0,1,2", "hydra.launcher.partition=gpu", "hydra.launcher.setup=['module load cuda']"]
    overrides += {"slurm_node8": ["engine=zero2"], "slurm_multinode": ["engine=zero3"]}.get(launcher, [])
    done = submit(tmp_path, "--dry-run", "--launcher", launcher, "llm", *overrides)
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
    assert f'cd "{tmp_path}/sweep/.code"' in script
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "launch.submit: package: must be one of didactic, llm, "),
        (["--launcher", "moon", "llm"], "launch.submit: --launcher: must be one of local, slurm"),
        (["--dry-run", "llm", "hydra.launcher.timeout_min=0"], "llm: hydra.launcher.timeout_min: must be >= 1"),
        (["--dry-run", "llm", "hydra.launcher.partitoin=a"], "partitoin: no such key"),
        (["--dry-run", "llm", "objective.beta=-1"], "llm: objective.beta: must be finite and >= 0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    done = submit(tmp_path, *arguments)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_has_untracked_source_and_knows_its_commit(tmp_path):
    home = tmp_path / "home"
    for room in ("core", "launch", "hydra_plugins"):
        shutil.copytree(ROOT / room, home / room, ignore=shutil.ignore_patterns("__pycache__"))
    (home / "core" / "mine.py").write_text("VALUE = 1\n")
    (home / "runs").mkdir()
    code = take_snapshot(tmp_path / "sweep" / ".code", home) if (tmp_path / "sweep").mkdir() is None else None
    assert (code / "core" / "mine.py").read_text() == "VALUE = 1\n"
    assert not (code / "runs").exists()
    assert (code / "hydra_plugins" / "mara" / "__init__.py").exists()
    assert set(json.loads((code / "code.json").read_text())) >= {"commit", "dirty", "untracked"}
    (home / "core" / "mine.py").write_text("VALUE = 2\n")
    assert (take_snapshot(code, home) / "core" / "mine.py").read_text() == "VALUE = 1\n"  # a sweep has one


def test_a_job_that_gets_nowhere_is_not_requeued_for_ever(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(cluster_job.subprocess, "run", lambda command, **_: calls.append(command))
    task = cluster_job.JobTask("didactic", (), str(tmp_path), 0, str(tmp_path / "0"), "continue", str(tmp_path))
    job = types.SimpleNamespace(job_id="7_0", cluster="slurm", global_rank=0)
    for step in (0, 0, 4, 4, 9):  # two fruitless ones are never in a row
        (tmp_path / "0" / "checkpoints" / f"step_{step:08}").mkdir(parents=True, exist_ok=True)
        task._requeue(job)
    task._requeue(job)
    assert calls == [["scontrol", "requeue", "7_0"]] * 6
    with pytest.raises(cluster_job.JobFailed, match=r"told to leave 3 times at step 9 and came no further"):
        task._requeue(job)
    assert len(calls) == 6


def test_ranks_with_nothing_to_share_are_refused(monkeypatch):
    from launch.engines.factory import make_engine

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    with pytest.raises(ConfigError, match=r"^hydra\.launcher\.tasks_per_node: must be 1 .* got 2 ranks"):
        make_engine("torch", None, None, 1)


def test_ports_of_jobs_and_of_restarts_differ():
    ports = {cluster_job.port(str(job), str(restart)) for job in range(100) for restart in range(3)}
    assert len(ports) > 290
    assert all(20000 <= port < 32000 for port in ports)
    assert cluster_job.port("7", "0") == cluster_job.port("7", "0")


def test_ranks_come_from_torchruns_variables(monkeypatch):
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.current() == (0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ConfigError, match="RANK: must be from 0 to WORLD_SIZE - 1, got 3 of 1"):
        distributed.current()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert distributed.current() == (3, 4, 0)
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(ConfigError, match="LOCAL_RANK: must be a whole number"):
        distributed.current()


def test_every_launcher_has_a_file():
    assert {path.stem for path in (CONF / "shared" / "hydra" / "launcher").glob("*.yaml")} == {
        *("local", "slurm", "slurm_1gpu", "slurm_node8", "slurm_multinode")
    }


@pytest.mark.slow
def test_a_sweep_of_local_processes(tmp_path):
    """Two at a time, one of which fails; the same lines as in this process."""
    sweep = tmp_path / "sweep"
    common = ["experiment=bandit", "gradient=sampled", "steps=10", "log_every=1", "samples=16"]
    launcher = ["hydra/launcher=local", "hydra.launcher.array_parallelism=2", "hydra.launcher.on_failure=retry:1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "didactic", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )

    (sweep / "1").mkdir(parents=True)
    (sweep / "1" / "metrics.jsonl").mkdir()  # nothing can be written there
    done = command("-m", *common, *launcher, "seed=0,1,2", f"hydra.sweep.dir={sweep}")
    assert done.returncode == 1
    assert "[1] failed, trying again" in done.stdout
    assert "job 1 (" in done.stderr
    assert "metrics.jsonl" in done.stderr
    assert [run_state(sweep / job.folder) for job in read_sweep(sweep).jobs] == ["finished", "failed", "finished"]
    assert command(*common, "seed=2", f"hydra.run.dir={tmp_path / 'here'}").returncode == 0
    assert (sweep / "2" / "metrics.jsonl").read_bytes() == (tmp_path / "here" / "metrics.jsonl").read_bytes()
