"""What Hydra's launcher does with the jobs of a sweep: the settings it accepts, the plan, and what it reports."""

import types

import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from conf.schema.launchers import LocalLauncherConfig, SlurmLauncherConfig
from launch.cli.app import Outcomes
from launch.cluster import launcher
from launch.cluster.job import JobFailed
from launch.cluster.launcher import read_settings, report_outcomes
from launch.cluster.sweep import PlannedSweep, Sweep, SweepJob, SweepLock, read_sweep

GOOD = {"cluster": "slurm", "array_parallelism": 4, "timeout_min": 10, "signal_delay_s": 60, "on_failure": "continue"}
LOCAL = {"array_parallelism": 2, "timeout_min": 10, "on_failure": "continue"}


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
        read_settings({**GOOD, **refused})
    read_settings({**GOOD, **legal})


def test_the_settings_are_of_the_launcher_that_is_named():
    assert isinstance(read_settings(GOOD), SlurmLauncherConfig)
    local = read_settings(LOCAL)
    assert isinstance(local, LocalLauncherConfig)
    assert not isinstance(local, SlurmLauncherConfig)


@pytest.fixture
def hydra_launcher(tmp_path, monkeypatch):
    """What `launch` uses of Hydra's launcher, for two jobs into tmp_path/sweep, which has a job of another sweep."""
    monkeypatch.chdir(tmp_path)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "sweep")}}})
    jobs = [SweepJob(number, [f"seed={number}"], f"{number}_seed{number}") for number in range(3)]
    plan = PlannedSweep(Sweep("llm", [], "local", jobs), jobs[1:], SweepLock(tmp_path / "sweep"))
    yield types.SimpleNamespace(config=config, plan=plan, task_function=types.SimpleNamespace())
    plan.lock.release()


OVERRIDES = [["seed=1"], ["seed=2"]]


def is_locked(folder):
    try:
        SweepLock(folder).release()
    except ConfigError:
        return True
    return False


def test_local_jobs_are_recorded_run_and_reported(hydra_launcher, tmp_path, monkeypatch, capsys):
    outcomes = Outcomes("llm", full_error=False)
    hydra_launcher.task_function.outcomes = outcomes

    def run_locally(folder, sweep, jobs, settings):
        assert [job.number for job in read_sweep(folder).jobs] == [0, 1, 2]
        assert [job.number for job in jobs] == [1, 2]
        return {2: "Boom\nhere"}

    monkeypatch.setattr(launcher, "run_locally", run_locally)
    returns = launcher.launch(hydra_launcher, LOCAL, OVERRIDES, 0)
    assert len(returns) == 2
    assert outcomes.finished == [tmp_path / "sweep" / "1_seed1"]
    assert outcomes.failures == 1
    printed = capsys.readouterr()
    assert printed.out == "sweep folder: sweep\n"
    assert printed.err == "llm: job 2 (seed=2): Boom; here\n"
    assert is_locked(tmp_path / "sweep")  # until the process ends


@pytest.mark.parametrize("wait", [True, False])
def test_slurm_jobs_are_submitted_and_waited_for_if_asked(hydra_launcher, tmp_path, monkeypatch, capsys, wait):
    hydra_launcher.task_function.outcomes = Outcomes("llm", full_error=False)
    locked, waited = [], []

    def submit_jobs(folder, sweep, jobs, settings):
        locked.append(is_locked(folder))
        assert [job.number for job in sweep.jobs] == [0, 1, 2]
        for job in jobs:
            job.id = f"7_{job.number}"
        return ["handles"]

    def wait_for_jobs(folder, sweep, handles):
        waited.append(([job.number for job in sweep.jobs], handles, is_locked(folder)))
        return {}

    monkeypatch.setattr(launcher, "submit_jobs", submit_jobs)
    monkeypatch.setattr(launcher, "wait_for_jobs", wait_for_jobs)
    returns = launcher.launch(hydra_launcher, {**GOOD, "wait": wait}, OVERRIDES, 0)
    following = [] if wait else [f"next: python -m launch.{name} sweep" for name in ("watch", "status")]
    submitted = ["submitted 2 jobs to SLURM: 7_1, 7_2", "sweep folder: sweep"]
    assert capsys.readouterr().out.splitlines() == [*submitted, *following]
    assert (len(returns), waited) == ((2, [([1, 2], ["handles"], False)]) if wait else (0, []))
    assert locked == [True]


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("local", ["saved: the checkpoints of the jobs that ran, in s", "next: python -m launch.resume s"]),
        ("slurm", ["the submitted jobs go on", "next: python -m launch.watch s"]),
    ],
)
def test_an_interruption_says_what_is_saved_or_goes_on(tmp_path, monkeypatch, kind, lines):
    monkeypatch.chdir(tmp_path)
    settings = read_settings(LOCAL if kind == "local" else GOOD)
    assert launcher.interruption_notes(tmp_path / "s", settings) == lines


def test_the_sweep_is_locked_until_the_last_batch_is_submitted(hydra_launcher, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "submit_jobs", lambda folder, sweep, jobs, settings: [])
    launcher.launch(hydra_launcher, {**GOOD, "wait": False}, OVERRIDES[:1], 0)
    assert is_locked(tmp_path / "sweep")
    launcher.launch(hydra_launcher, {**GOOD, "wait": False}, OVERRIDES[1:], 1)
    assert not is_locked(tmp_path / "sweep")


def test_a_dry_run_leaves_no_folder(hydra_launcher, tmp_path, capsys):
    (tmp_path / "sweep" / ".sweep.lock").unlink()  # a dry run takes no lock
    assert launcher.launch(hydra_launcher, {**LOCAL, "dry_run": True}, OVERRIDES, 0) == []
    assert capsys.readouterr().out == "nothing to submit\n"
    assert not (tmp_path / "sweep").exists()


def test_jobs_that_cannot_be_started_leave_no_folder(hydra_launcher, tmp_path):
    folder = tmp_path / "100%job"
    folder.mkdir()
    (folder / "multirun.yaml").touch()
    hydra_launcher.config.hydra.sweep.dir = str(folder)
    for settings in (LOCAL, {**GOOD, "dry_run": True}):
        with pytest.raises(ConfigError, match=r"^hydra\.sweep\.dir: .*use a path without"):
            launcher.launch(hydra_launcher, settings, OVERRIDES, 0)
    assert not folder.exists()


def test_without_a_command_line_a_failure_is_raised(tmp_path):
    sweep = Sweep("llm", [], "local", [SweepJob(0, [], "0"), SweepJob(1, [], "1")])
    with pytest.raises(JobFailed, match=r"^the reason$"):
        report_outcomes(tmp_path, sweep, {1: "the reason"}, None)
    assert len(report_outcomes(tmp_path, sweep, {}, None)) == 2
