"""A job of a sweep, without a cluster: what it runs, when it is requeued, and why it failed."""

import json
import os
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest

from conf.schema.base import ConfigError
from launch.cluster import job as cluster_job
from launch.cluster.job import JobFailed, JobTask
from launch.cluster.sweep import Sweep, SweepJob, write_sweep

from ..made_up import write_run


class Environment:
    """Stands for submitit's JobEnvironment in the first rank of one."""

    global_rank, num_tasks, hostnames, raw_job_id, job_id, cluster = 0, 1, ["node"], "7", "7_0", "slurm"

    @staticmethod
    def _usr_sig():
        return 12


@pytest.fixture
def environment(monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit, "JobEnvironment", Environment)
    for name in ("MARA_CWD", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "before")  # restored after the test
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return monkeypatch


@pytest.fixture
def commands(monkeypatch):
    """The commands that are run instead of SLURM's."""
    commands: list[list[str]] = []
    monkeypatch.setattr(cluster_job.subprocess, "run", lambda command, **_: commands.append(command))
    return commands


def make(tmp_path, monkeypatch, code, on_failure="continue"):
    """A task whose package is a module with this code."""
    (tmp_path / "made_up_job.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    folder = str(tmp_path / "0")
    return JobTask(
        "made_up_job", ("a=1",), str(tmp_path), 0, folder, on_failure, "/typed/here", ("--config-dir", "x")
    )


def test_a_job_runs_its_command(tmp_path, environment):
    write_run(tmp_path / "0", {"seed": 0})
    code = "import json, os, sys; json.dump([sys.argv[1:], os.environ['MARA_CWD']], open(sys.argv[3][2:], 'w'))"
    task = replace(make(tmp_path, environment, code), overrides=(f"a={tmp_path / 'seen.json'}",))
    assert task() == "finished"
    argv, cwd = json.loads((tmp_path / "seen.json").read_text())
    assert argv == ["--config-dir", "x", task.overrides[0], f"hydra.run.dir='{tmp_path / '0'}'"]
    assert cwd == "/typed/here"
    assert sys.path[-1] == "/typed/here"  # also if its name contains a colon
    assert os.environ["MASTER_ADDR"] == "before"  # one rank needs no address


def test_ranks_meet_at_the_first_node(tmp_path, environment):
    write_run(tmp_path / "0", {"seed": 0})
    environment.setattr(Environment, "num_tasks", 2)
    environment.setenv("SLURM_RESTART_COUNT", "3")
    assert make(tmp_path, environment, "")() == "finished"
    assert os.environ["MASTER_ADDR"] == "node"
    assert os.environ["MASTER_PORT"] == str(cluster_job.rendezvous_port("7", "3"))


def test_a_rank_that_fails_raises_with_its_message(tmp_path, environment, commands):
    from launch.cli import app

    environment.setattr(app, "last_error", "seed: wrong")
    task = make(tmp_path, environment, "import sys; sys.exit(1)")
    with pytest.raises(JobFailed, match=r"^seed: wrong$"):
        task()
    environment.setattr(Environment, "num_tasks", 2)
    with pytest.raises(JobFailed, match=r"^rank 0 of 2: seed: wrong$"):
        task()
    assert commands == []  # on_failure=continue leaves the other jobs alone


@pytest.mark.parametrize(("number", "requeues"), [(12, 1), (15, 0)])
def test_only_the_signal_of_a_time_limit_requeues(tmp_path, environment, commands, number, requeues):
    task = make(tmp_path, environment, f"import sys; sys.exit(128 + {number})")
    with pytest.raises(SystemExit) as stop:
        task()
    assert stop.value.code == 0
    assert commands == [["scontrol", "requeue", "7_0"]] * requeues
    environment.setattr(Environment, "global_rank", 1)
    with pytest.raises(SystemExit):
        task()
    assert len(commands) == requeues  # rank 0 alone requeues


def test_a_job_that_makes_no_progress_is_not_requeued_for_ever(tmp_path, commands):
    task = JobTask("didactic", (), str(tmp_path), 0, str(tmp_path / "0"), "continue", str(tmp_path))
    job = types.SimpleNamespace(job_id="7_0", cluster="slurm", global_rank=0)
    for step in (0, 0, 4, 4, 9):  # there are never two requeues without a step in a row
        (tmp_path / "0" / "checkpoints" / f"step_{step:08}").mkdir(parents=True, exist_ok=True)
        task._requeue(job)
    task._requeue(job)
    assert commands == [["scontrol", "requeue", "7_0"]] * 6
    with pytest.raises(JobFailed, match=r"stopped 3 times at step 9 without completing another step"):
        task._requeue(job)
    assert len(commands) == 6


def test_the_first_failure_of_a_sweep_that_stops_cancels_the_others(tmp_path, commands, monkeypatch):
    jobs = [SweepJob(number, [], str(number), f"7_{number}") for number in range(3)]
    jobs.append(SweepJob(3, [], "3"))  # not submitted
    write_sweep(tmp_path, Sweep("didactic", [], "slurm", jobs))
    task = JobTask("didactic", (), str(tmp_path), 0, str(tmp_path / "0"), "stop", "")
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    for _ in range(2):  # the second is another rank of the same job
        task._handle_failure(Environment())
    assert commands == [["scancel", "7_1", "7_2"]]
    assert naps == [60]


def test_a_failed_job_is_retried_as_often_as_it_may(tmp_path, commands, monkeypatch):
    task = JobTask("didactic", (), str(tmp_path), 0, str(tmp_path / "0"), "retry:2", "")
    for attempt in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(attempt))
        if attempt < 2:
            with pytest.raises(SystemExit):
                task._handle_failure(Environment())
        else:
            task._handle_failure(Environment())
    assert commands == [["scontrol", "requeue", "7_0"]] * 2


def test_no_other_cluster_is_told_of_a_failure(tmp_path, commands):
    job = types.SimpleNamespace(cluster="local", job_id="1")
    JobTask("didactic", (), str(tmp_path), 0, "", "stop", "")._handle_failure(job)
    assert commands == []
    assert list(tmp_path.iterdir()) == []


def test_a_task_is_its_sweeps_job():
    sweep = Sweep("llm", [], "local", [], on_failure="retry:1", cwd="/here", flags=["--config-dir", "/c"])
    task = cluster_job.make_task(Path("/sweep"), sweep, SweepJob(3, ["seed=1"], "sub/3"))
    assert task == JobTask(
        "llm", ("seed=1",), "/sweep", 3, "/sweep/sub/3", "retry:1", "/here", ("--config-dir", "/c")
    )


@pytest.mark.parametrize("name", ["100%job", "%t", "%A_%a"])
def test_a_folder_that_submitit_would_rename_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"^hydra\.sweep\.dir: .*: submitit replaces %j, %t, %a and %A; use a path"):
        cluster_job.check_folder(tmp_path / name)
    cluster_job.check_folder(tmp_path / "50% é")


class Handle:
    """Stands for submitit's handle of a job whose ranks ended with the given outcomes, None for no result."""

    def __init__(self, folder, outcomes):
        self.folder, self.outcomes, self.num_tasks = folder, outcomes, len(outcomes)
        self.paths = types.SimpleNamespace(stderr=folder / "log.err")

    def task(self, number):
        path = self.folder / f"{number}.pkl"
        outcome = self.outcomes[number]
        if outcome is not None:
            path.touch()
            os.utime(path, (0, 100 - number))  # the last rank ended first
        paths = types.SimpleNamespace(result_pickle=path)
        return types.SimpleNamespace(paths=paths, _get_outcome_and_result=lambda: outcome)


def test_the_rank_that_failed_first_is_the_reason(tmp_path):
    write_run(tmp_path / "run", {}, state="failed", error="ValueError: in rank 0")
    run, log = tmp_path / "run", f"; log: {tmp_path / 'log.err'}"
    frames = "Traceback (most recent call last):\n  File submission.py\nlaunch.cluster.job.JobFailed: "
    both = Handle(tmp_path, [("error", "because of rank 1"), ("error", f"{frames}rank 1 of 3: seed: wrong\n"), None])
    assert cluster_job.job_failure(run, both) == f"rank 1 of 3: seed: wrong{log}"
    killed = Handle(tmp_path / "killed", [None, None])
    (tmp_path / "killed").mkdir()
    assert cluster_job.job_failure(run, killed) == f"ValueError: in rank 0; log: {tmp_path / 'killed' / 'log.err'}"
    (run / "run.json").write_text("{")
    assert str(cluster_job.job_failure(run, killed)).startswith(f"{run / 'run.json'}: not the record of a run")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("finished", None),
        ("preempted", "the job was cancelled or killed (state of the run: preempted); log: "),
        ("running", "the job was cancelled or killed (state of the run: dead); log: "),
        (None, "the job was cancelled or killed (state of the run: not started); log: "),
    ],
)
def test_a_job_without_an_exception_is_judged_by_its_run(tmp_path, state, reason):
    if state is not None:
        write_run(tmp_path / "run", {}, state=state)
    failure = cluster_job.job_failure(tmp_path / "run", Handle(tmp_path, [("success", "finished")]))
    assert failure == (None if reason is None else f"{reason}{tmp_path / 'log.err'}")


@pytest.mark.parametrize(("on_failure", "limit"), [("continue", 0), ("stop", 0), ("retry:1", 1), ("retry:12", 12)])
def test_how_often_a_job_is_tried_again(on_failure, limit):
    assert cluster_job.retry_limit(on_failure) == limit


def test_ports_of_jobs_and_of_restarts_differ():
    ports = {cluster_job.rendezvous_port(str(job), str(restart)) for job in range(100) for restart in range(3)}
    assert len(ports) > 290
    assert all(20000 <= port < 32000 for port in ports)
    assert cluster_job.rendezvous_port("7", "0") == cluster_job.rendezvous_port("7", "0")


def test_submitit_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(
        ConfigError, match=r"^hydra/launcher: submitit is not installed \(extra slurm\): pip install -e "
    ):
        cluster_job.import_submitit()
