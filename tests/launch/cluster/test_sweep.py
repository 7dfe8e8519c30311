"""sweep.json, folders without one, and the states of jobs."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conf.schema.base import ConfigError
from launch.cluster import sweep as sweeps
from launch.cluster.sweep import (
    Sweep,
    SweepJob,
    SweepLock,
    check_inside,
    job_states,
    read_sweep,
    remove_empty_sweep,
    write_sweep,
)

from ..made_up import write_run


def test_what_slurm_has_is_queued_or_starting(sweep):
    content = read_sweep(sweep)
    for job in content.jobs:
        job.id = f"7_{job.number}"
    queue = {"7_0": "PENDING", "7_4": "RUNNING", "7_2": "PENDING", "7_5": "CANCELLED"}
    states = job_states(sweep, content.jobs, queue)
    assert states == ["finished", "finished", "queued", "finished", "starting", "dead"]


def test_a_record_comes_back(tmp_path):
    jobs = [SweepJob(0, ["seed=0"], "0", "7_0"), SweepJob(1, ["seed=1"], "sub/1")]
    written = Sweep("llm", ["python"], "slurm", jobs, "stop", {"name": "x"}, "/here", ["--config-dir", "/c"])
    write_sweep(tmp_path / "new" / "sweep", written)
    assert read_sweep(tmp_path / "new" / "sweep") == written
    content = json.loads((tmp_path / "new" / "sweep" / "sweep.json").read_text())
    assert content["created"].endswith("+00:00")


@pytest.mark.parametrize("content", ["[]", "{", '{"jobs": [{"nonsense": 1}]}', '{"jobs": []}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ConfigError, match=r"sweep\.json: not the record of a sweep: "):
        read_sweep(tmp_path)


def test_a_folder_of_runs_is_a_sweep_and_a_run_is_one_of_itself(tmp_path):
    for name in ("b", "a"):
        write_run(tmp_path / name, {}, command=["python", "-m", "llm", f"seed={name}"])
    (tmp_path / "notes").mkdir()
    assert read_sweep(tmp_path).jobs == [SweepJob(0, ["seed=a"], "a"), SweepJob(1, ["seed=b"], "b")]
    alone = read_sweep(tmp_path / "b")
    assert alone.jobs == [SweepJob(0, ["seed=b"], ".")]
    assert (alone.package, alone.launcher) == ("llm", "basic")
    write_run(tmp_path / "c", {}, package="chem")
    with pytest.raises(ConfigError, match=r"must hold runs of one package, not of several \(chem, llm\)"):
        read_sweep(tmp_path)


def test_a_folder_without_a_run_is_no_sweep(tmp_path):
    with pytest.raises(ConfigError, match=r"not a sweep or a run, it has neither sweep\.json nor run\.json"):
        read_sweep(tmp_path)


@pytest.mark.parametrize(
    ("in_queue", "state", "expected"),
    [
        ("PENDING", None, "queued"),
        ("PENDING", "preempted", "queued"),  # requeued
        ("PENDING", "finished", "finished"),
        ("RUNNING", None, "starting"),
        ("RUNNING", "preempted", "preempted"),
        ("COMPLETED", None, "missing"),
        (None, None, "missing"),
        (None, "failed", "failed"),
        ("TIMEOUT", "running", "dead"),  # no process holds the lock
    ],
)
def test_the_state_of_a_job(tmp_path, in_queue, state, expected):
    if state is not None:
        write_run(tmp_path / "0", {}, state=state)
    queue = {} if in_queue is None else {"7_0": in_queue}
    assert job_states(tmp_path, [SweepJob(0, [], "0", "7_0")], queue) == [expected]


def test_the_folder_of_a_refused_sweep_is_removed_unless_it_holds_more(tmp_path):
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "multirun.yaml").touch()
    (tmp_path / "full" / "mine").touch()
    for name in ("empty", "full", "nowhere"):
        remove_empty_sweep(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


@pytest.mark.parametrize("folder", ["../x", "/", "0/../../x", "link/0"])
def test_a_job_stays_in_the_folder_of_its_sweep(tmp_path, folder):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "link").symlink_to(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^hydra\.sweep\.subdir: the folder of job 3, .*, is outside the sweep folder"
    ):
        check_inside(sweep, SweepJob(3, [], folder))
    for inside in ("0", "a=1,b=../x/0", ".", "0/../1"):
        check_inside(sweep, SweepJob(3, [], inside))


HOLD = """
import sys, time
from pathlib import Path
from launch.cluster.sweep import SweepLock
lock = SweepLock(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_sweep_dies_with_its_process(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "sweep")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        process.stdout.readline()
        message = f"sweep: process {process.pid} on .* is starting the jobs of this sweep; wait until it has ended"
        with pytest.raises(ConfigError, match=message):
            SweepLock(tmp_path / "sweep")
        process.kill()
    with SweepLock(tmp_path / "sweep"), pytest.raises(ConfigError, match=f"process {os.getpid()} on "):
        SweepLock(tmp_path / "sweep")
    SweepLock(tmp_path / "sweep").release()  # it was released


def test_a_file_system_without_locks_locks_nothing(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with SweepLock(tmp_path), SweepLock(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"^hydra\.run\.dir .*cannot write a run to .*file.*; choose another folder"
    ):
        SweepLock(tmp_path / "file" / "sweep")


@pytest.mark.parametrize(
    "change",
    [
        {"jobs": [{"number": "0", "overrides": [], "folder": "0"}]},
        {"jobs": [{"number": 0, "overrides": "seed=1", "folder": "0"}]},
        {"jobs": [{"number": 0, "overrides": [1], "folder": "0"}]},
        {"jobs": [{"number": 0, "overrides": [], "folder": ["0"]}]},
        {"jobs": [{"number": 0, "overrides": [], "folder": str(n)} for n in range(2)]},
        {"jobs": 3},
        {"package": None},
        {"flags": "--config-dir"},
        {"settings": []},
    ],
)
def test_a_record_with_values_of_other_types_is_named(tmp_path, change):
    write_sweep(tmp_path, Sweep("llm", [], "basic", [SweepJob(0, [], "0")]))
    read_sweep(tmp_path)  # control
    content = json.loads((tmp_path / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ConfigError, match=r"sweep\.json: not the record of a sweep: "):
        read_sweep(tmp_path)


def test_what_resuming_repairs_is_not_unreadable(tmp_path):
    """A crash can leave zeros at the end of metrics.jsonl; a run that goes on cuts them off."""
    write_run(tmp_path / "0", {}, state="failed")
    write_run(tmp_path / "1", {}, state="finished")
    for number in "01":
        (tmp_path / number / "metrics.jsonl").write_bytes(bytes(100) + b"\n")
    jobs = [SweepJob(number, [], str(number)) for number in range(2)]
    assert job_states(tmp_path, jobs, {}) == ["failed", "unreadable"]


def test_the_queue_is_what_squeue_prints(monkeypatch):
    def squeue(command, **_):
        assert command[0] == "squeue"
        return subprocess.CompletedProcess(command, 0, "7_0 RUNNING\n8 PENDING\n\n", "")

    monkeypatch.setattr(sweeps.subprocess, "run", squeue)
    assert sweeps.slurm_queue() == {"7_0": "RUNNING", "8": "PENDING"}

    def failing(command, **_):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(sweeps.subprocess, "run", failing)
    assert sweeps.slurm_queue() is None

    def missing(command, **_):
        raise FileNotFoundError

    monkeypatch.setattr(sweeps.subprocess, "run", missing)
    assert sweeps.slurm_queue() is None
