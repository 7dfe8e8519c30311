"""Jobs as processes of this machine: their order, retries and failures, and a real sweep."""

import os
import signal
import types

import pytest

from conf.schema.launchers import LocalLauncherConfig
from launch.cluster import local
from launch.cluster.sweep import Sweep, SweepJob, read_sweep
from launch.runs.run_folder import run_state

from ...commands import run_module


@pytest.fixture
def executor(monkeypatch, tmp_path):
    """Stands for submitit's executor. `failures` says how often each job fails before it finishes."""
    state = types.SimpleNamespace(failures={}, running=[], most=0, started=[], cancelled=[], paths=[])

    class Handle:
        def __init__(self, number):
            self.number, self.polls = number, 0
            close = types.SimpleNamespace(close=lambda: state.cancelled.append(number))
            self.controller = types.SimpleNamespace(stdin=close)
            state.running.append(number)
            state.most = max(state.most, len(state.running))

        def done(self):
            self.polls += 1
            if self.polls == 2:
                state.running.remove(self.number)
            return self.polls >= 2

    class Executor:
        def __init__(self, folder):
            self.parameters = {}

        def update_parameters(self, **parameters):
            state.parameters = parameters

        def submit(self, task):
            state.started.append(task.number)
            state.paths.append((os.getcwd(), os.environ["PYTHONPATH"].split(os.pathsep)[0]))
            return Handle(task.number)

    def job_failure(run, handle):
        state.failures[handle.number] = state.failures.get(handle.number, 0) - 1
        return "the reason" if state.failures[handle.number] >= 0 else None

    monkeypatch.setattr(local, "import_submitit", lambda: types.SimpleNamespace(LocalExecutor=Executor))
    monkeypatch.setattr(local, "take_snapshot", lambda folder: folder.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(local, "job_failure", job_failure)
    monkeypatch.setattr(local.time, "sleep", lambda seconds: None)
    return state


def run(tmp_path, on_failure, parallel=2, count=4):
    settings = LocalLauncherConfig(array_parallelism=parallel, timeout_min=5, on_failure=on_failure)
    jobs = [SweepJob(number, [f"seed={number}"], str(number)) for number in range(count)]
    sweep = Sweep("llm", [], "local", jobs, on_failure=on_failure)
    return local.run_locally(tmp_path / "sweep", sweep, jobs, settings)


def test_no_more_jobs_than_allowed_run_at_a_time(executor, tmp_path, capsys):
    before = os.environ.get("PYTHONPATH")
    assert run(tmp_path, "continue") == {}
    assert executor.most == 2
    assert executor.started == [0, 1, 2, 3]
    code = str(tmp_path / "sweep" / ".code")
    assert set(executor.paths) == {(code, code)}
    assert (os.environ.get("PYTHONPATH"), os.getcwd() == code) == (before, False)
    assert executor.parameters == {"tasks_per_node": 1, "timeout_min": 5}
    assert "[0] finished: seed=0" in capsys.readouterr().out


def test_a_failed_job_is_tried_again_after_the_others(executor, tmp_path, capsys):
    executor.failures = {0: 2}
    assert run(tmp_path, "retry:2", parallel=1, count=2) == {}
    assert executor.started == [0, 1, 0, 0]
    assert capsys.readouterr().out.count("[0] failed, trying again: seed=0") == 2


def test_a_job_that_fails_too_often_has_failed(executor, tmp_path):
    executor.failures = {0: 2}
    assert run(tmp_path, "retry:1", parallel=1, count=2) == {0: "the reason"}
    assert run(tmp_path, "continue", count=1) == {}


def test_stop_starts_no_further_job(executor, tmp_path):
    executor.failures = {0: 1}
    failures = run(tmp_path, "stop", parallel=1)
    assert failures == {0: "the reason"} | dict.fromkeys((1, 2, 3), "not started: an earlier job failed")
    assert executor.started == [0]


def test_an_interruption_stops_what_is_running_and_waits_for_it(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(local.signals, "pending", lambda: signal.SIGTERM if executor.running else None)
    monkeypatch.setattr(local, "stop_jobs", lambda handles: executor.cancelled.extend(h.number for h in handles))
    with pytest.raises(KeyboardInterrupt) as interruption:
        run(tmp_path, "continue")
    assert interruption.value.args == (signal.SIGTERM,)
    assert executor.cancelled == [0, 1]


@pytest.mark.slow
def test_a_sweep_of_local_processes(tmp_path):
    """Two at a time, one of which fails; the same lines as in this process."""
    sweep = tmp_path / "sweep"
    common = ["experiment=bandit", "gradient=sampled", "steps=10", "log_every=1", "samples=16"]
    launcher = ["hydra/launcher=local", "hydra.launcher.array_parallelism=2", "hydra.launcher.on_failure=retry:1"]

    def command(*arguments, module="didactic"):
        return run_module(module, *arguments, OMP_NUM_THREADS="1")

    (sweep / "1").mkdir(parents=True)
    (sweep / "1" / "metrics.jsonl").mkdir()  # nothing can be written there
    done = command("-m", *common, *launcher, "seed=0,1,2", f"hydra.sweep.dir={sweep}")
    assert done.returncode == 1
    assert "[1] failed, trying again" in done.stdout
    (line,) = done.stderr.splitlines()  # the reason, without the frames of submitit
    assert line.startswith("didactic: job 1 (")
    assert f"{sweep / '1' / 'metrics.jsonl'}: cannot be written: Is a directory" in line
    assert "submission.py" not in line
    assert "; log: " in line
    assert [run_state(sweep / job.folder) for job in read_sweep(sweep).jobs] == ["finished", "failed", "finished"]
    resumed = command(sweep, module="launch.resume")
    assert resumed.returncode == 1
    assert resumed.stderr.startswith(f"launch.resume: job 1: {sweep / '1' / 'metrics.jsonl'}: cannot be written")
    assert command(*common, "seed=2", f"hydra.run.dir={tmp_path / 'here'}").returncode == 0
    assert (sweep / "2" / "metrics.jsonl").read_bytes() == (tmp_path / "here" / "metrics.jsonl").read_bytes()
