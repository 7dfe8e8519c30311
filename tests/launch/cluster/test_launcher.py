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
from launch.cluster.sweep import Sweep, SweepJob

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


class Loader:
    """Composes a job's configuration: its folder is made of its number and its overrides."""

    def load_sweep_config(self, config, overrides):
        job = OmegaConf.create(OmegaConf.to_container(config))
        job.hydra.sweep = {
            "dir": config.hydra.sweep.dir,
            "subdir": "${hydra.job.num}_" + overrides[0].replace("=", ""),
        }
        return job


@pytest.fixture
def hydra_launcher(tmp_path):
    """What `launch` uses of Hydra's launcher, for a sweep into tmp_path/sweep."""
    source = {"path": str(tmp_path / "mine"), "schema": "file", "provider": "command-line"}
    others = {"path": "conf.llm", "schema": "pkg", "provider": "main"}
    hydra = {"job": {"name": "llm", "num": 0, "id": "0"}, "sweep": {"dir": str(tmp_path / "sweep"), "subdir": "x"}}
    config = OmegaConf.create({"hydra": {**hydra, "runtime": {"config_sources": [others, source]}}})
    context = types.SimpleNamespace(config_loader=Loader())
    return types.SimpleNamespace(config=config, hydra_context=context, task_function=types.SimpleNamespace())


OVERRIDES = [["seed=0", "hydra.sweep.dir=x"], ["seed=1", "hydra.sweep.dir=x"]]


def test_the_plan_is_the_record_of_the_sweep(hydra_launcher, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["python -m llm", "-m", "seed=0,1"])
    monkeypatch.chdir(tmp_path)
    settings = read_settings(LOCAL)
    sweep = launcher.plan_sweep(hydra_launcher, settings, OVERRIDES, 4)
    assert sweep.jobs == [SweepJob(4, ["seed=0"], "4_seed0"), SweepJob(5, ["seed=1"], "5_seed1")]
    assert (sweep.package, sweep.launcher, sweep.cwd) == ("llm", "local", str(tmp_path))
    assert sweep.command == ["python", "-m", "llm", "-m", "seed=0,1"]
    assert sweep.flags == ["--config-dir", str(tmp_path / "mine")]
    assert sweep.settings["array_parallelism"] == 2


def test_local_jobs_are_run_and_reported(hydra_launcher, tmp_path, monkeypatch, capsys):
    outcomes = Outcomes("llm", full_error=False)
    hydra_launcher.task_function.outcomes = outcomes
    monkeypatch.setattr(launcher, "run_locally", lambda folder, sweep, jobs, settings: {1: "Traceback\nBoom"})
    returns = launcher.launch(hydra_launcher, LOCAL, OVERRIDES, 0)
    assert len(returns) == 2
    assert outcomes.finished == [tmp_path / "sweep" / "0_seed0"]
    assert outcomes.failures == 1
    assert capsys.readouterr().err == "llm: job 1 (seed=1): Traceback; Boom\n"


@pytest.mark.parametrize("wait", [True, False])
def test_slurm_jobs_are_submitted_and_waited_for_if_asked(hydra_launcher, tmp_path, monkeypatch, capsys, wait):
    hydra_launcher.task_function.outcomes = Outcomes("llm", full_error=False)

    def submit_jobs(folder, sweep, jobs, settings):
        for job in jobs:
            job.id = f"7_{job.number}"
        return ["handles"]

    def wait_for_jobs(folder, sweep, handles):
        waited.append(handles)
        return {}

    waited: list[list[str]] = []
    monkeypatch.setattr(launcher, "submit_jobs", submit_jobs)
    monkeypatch.setattr(launcher, "wait_for_jobs", wait_for_jobs)
    monkeypatch.chdir(tmp_path)
    returns = launcher.launch(hydra_launcher, {**GOOD, "wait": wait}, OVERRIDES, 0)
    assert capsys.readouterr().out == "submitted 2 jobs to SLURM: 7_0, 7_1\nsweep folder: sweep\n"
    assert (len(returns), waited) == ((2, [["handles"]]) if wait else (0, []))


def test_a_dry_run_leaves_no_folder(hydra_launcher, tmp_path, capsys):
    (tmp_path / "sweep").mkdir()  # Hydra creates it
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
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_line_a_failure_is_raised(tmp_path):
    sweep = Sweep("llm", [], "local", [SweepJob(0, [], "0"), SweepJob(1, [], "1")])
    with pytest.raises(JobFailed, match=r"^the reason$"):
        report_outcomes(tmp_path, sweep, {1: "the reason"}, None)
    assert len(report_outcomes(tmp_path, sweep, {}, None)) == 2
