"""Submission to SLURM and waiting, with submitit but without a cluster. tests/slurm runs jobs on a real one."""

import os
import string
import subprocess
import sys
import types
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from conf.schema.base import ConfigError
from conf.schema.launchers import SlurmLauncherConfig
from launch.cluster import slurm
from launch.cluster.sweep import Sweep, SweepJob, read_sweep, write_sweep

pytest.importorskip("submitit")
SETTINGS = SlurmLauncherConfig(array_parallelism=4, timeout_min=10, signal_delay_s=60, on_failure="continue")


def make_sweep(count):
    return Sweep("llm", [], "slurm", [SweepJob(number, [f"seed={number}"], str(number)) for number in range(count)])


def test_the_parameters_are_what_was_set(tmp_path):
    settings = replace(SETTINGS, name="job", mem_gb=0.5, cpus_per_task=8, partition="gpu", setup=["module load x"])
    settings = replace(settings, srun_args=["--mpi=none"], additional_parameters={"mail-type": "END"})
    parameters = slurm.sbatch_parameters(tmp_path / "sweep", settings)
    code = tmp_path / "sweep" / ".code"
    assert parameters == {
        "partition": "gpu",
        "nodes": 1,
        "cpus_per_task": 8,
        "signal_delay_s": 60,
        "array_parallelism": 4,
        "mem": "512MB",
        "job_name": "job",
        "time": 10,
        "ntasks_per_node": 1,
        "srun_args": ["--kill-on-bad-exit=1", "--cpus-per-task=8", "--mpi=none"],
        "setup": [
            "module load x",
            f'export PYTHONPATH={code}"${{PYTHONPATH:+:$PYTHONPATH}}"',
            f"cd {code} || exit",
        ],
        "additional_parameters": {"mail-type": "END", "requeue": True},
    }


@pytest.mark.parametrize("count", [1, 3])
def test_several_jobs_are_an_array(tmp_path, count):
    script = slurm.sbatch_script(tmp_path, make_sweep(count), replace(SETTINGS, name="job"))
    assert ("#SBATCH --array=0-2%3\n" in script) == (count == 3)
    assert "#SBATCH --job-name=job\n" in script


EVERYTHING = "".join(c for c in string.printable if c.isprintable() and c not in r"/%\\") + "é$(touch x)`touch x`"
SRUN = """#!/bin/sh
printf '%s\\0' "$PWD" "$PYTHONPATH" "$@" > "$SEEN"
"""


def run_script(tmp_path, script, **environment):
    """Run a script with bash and a program of the name srun. Returns the folder, PYTHONPATH and arguments of srun."""
    tools, here = tmp_path / "tools", tmp_path / "here"
    for folder in (tools, here):
        folder.mkdir(exist_ok=True)
    (tools / "srun").write_text(SRUN)
    (tools / "srun").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SEEN": str(tmp_path / "seen"), **environment}
    subprocess.run(["bash", "-c", script], cwd=here, env=environment, check=True, capture_output=True)
    return (tmp_path / "seen").read_bytes().decode().split("\0")


@pytest.mark.parametrize(
    "name", [EVERYTHING, "a b", "it's", '"', "$(touch x)", "`touch x`", ";touch x;", "a&b", "-e #"]
)
def test_nothing_in_a_folder_is_executed(tmp_path, name):
    """The working folder and the sweep folder reach srun as they are, whatever their names are."""
    cwd = tmp_path / name
    sweep = cwd / "sweep"
    (sweep / ".code").mkdir(parents=True)
    settings = replace(SETTINGS, name=name, comment=name, srun_args=[name], additional_parameters={"wckey": name})
    script = slurm.sbatch_script(sweep, replace(make_sweep(2), cwd=str(cwd)), settings)
    folder, path, *arguments, _ = run_script(tmp_path, script, PYTHONPATH="/before")
    assert folder == str(sweep / ".code")
    assert path == ":".join(["" if ":" in name else str(sweep / ".code"), "/before"])
    log = f"{sweep}/.submitit/%A_%a/%A_%a_%t_log"
    assert arguments == [
        *("--unbuffered", "--output", f"{log}.out", "--error", f"{log}.err", "--kill-on-bad-exit=1", name),
        *(sys.executable, "-u", "-m", "submitit.core._submit", f"{sweep}/.submitit/%j"),
    ]
    assert list(tmp_path.rglob("x")) == []
    run_script(tmp_path, f'srun "{tmp_path}/$(touch x)"')
    assert (tmp_path / "here" / "x").exists()  # control


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        ("100%", {}, r"^hydra\.sweep\.dir: sbatch cannot write to '.*100%'; use a path without %, \\ and line ends$"),
        ("a\\b", {}, r"^hydra\.sweep\.dir: "),
        ("a\nb", {}, r"^hydra\.sweep\.dir: "),
        ("a", {"comment": "a\ntouch x"}, r"^hydra\.launcher\.comment: must be one line, got 'a\\ntouch x'$"),
        ("a", {"name": "a\rb"}, r"^hydra\.launcher\.name: must be one line"),
        ("a", {"additional_parameters": {"wckey": "a\nb"}}, r"additional_parameters\.wckey: must be one line"),
        ("a", {"additional_parameters": {"x\ntouch x": 1}}, r"^hydra\.launcher\.additional_parameters"),
        ("a", {"additional_parameters": {"x y": 1}}, r"'x y' is not an option of sbatch$"),
    ],
)
def test_what_a_script_cannot_hold_is_refused(tmp_path, folder, changes, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        slurm.sbatch_script(tmp_path / folder, make_sweep(1), replace(SETTINGS, **changes))
    assert "\n" not in str(refusal.value)


def test_a_machine_without_slurm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^hydra/launcher: slurm needs SLURM, but there is no sbatch on the path"):
        slurm.make_executor(tmp_path, make_sweep(1), SETTINGS)
    slurm.make_executor(tmp_path, make_sweep(1), SETTINGS, preview=True)  # control: the script can be shown anywhere


def test_submission_records_the_ids_and_forgets_earlier_failures(tmp_path, monkeypatch):
    tasks = []

    class Executor:
        def batch(self):
            return nullcontext()

        def submit(self, task):
            tasks.append(task)
            return types.SimpleNamespace(job_id=f"9_{len(tasks) - 1}")

    monkeypatch.setattr(slurm, "make_executor", lambda folder, sweep, settings: Executor())
    monkeypatch.setattr(slurm, "take_snapshot", lambda folder: folder.mkdir())
    sweep = make_sweep(3)
    write_sweep(tmp_path, sweep)
    (tmp_path / ".jobs").mkdir()
    for name in ("1.json", "1.failed.0", "2.failed.0", "11.json"):
        (tmp_path / ".jobs" / name).touch()
    handles = slurm.submit_jobs(tmp_path, sweep, sweep.jobs[:2], SETTINGS)
    assert [handle.job_id for handle in handles] == ["9_0", "9_1"]
    assert [task.folder for task in tasks] == [str(tmp_path / "0"), str(tmp_path / "1")]
    assert [job.id for job in read_sweep(tmp_path).jobs] == ["9_0", "9_1", None]
    assert {path.name for path in (tmp_path / ".jobs").iterdir()} == {"2.failed.0", "11.json"}


class Poll:
    """A cluster in which each look at the queue shows the next of some states; None: squeue does not answer."""

    def __init__(self, monkeypatch, tmp_path, states, results_after):
        self.states, self.results_after, self.polls = states, results_after, 0
        self.path = tmp_path / "result.pkl"
        self.naps: list[float] = []
        monkeypatch.setattr(slurm, "slurm_queue", self.queue)
        monkeypatch.setattr(slurm, "job_failure", lambda run, handle: None if self.path.exists() else "no result")
        monkeypatch.setattr(slurm.time, "sleep", self.naps.append)

    def queue(self):
        state = self.states[min(self.polls, len(self.states) - 1)]
        self.polls += 1
        if self.polls > self.results_after:
            self.path.touch()
        return None if state is None else {} if state == "gone" else {"7_0": state}

    def wait(self, tmp_path):
        sweep = make_sweep(2)
        sweep.jobs[0].id = "7_0"  # the other job was not submitted
        task = types.SimpleNamespace(paths=types.SimpleNamespace(result_pickle=self.path))
        handle: Any = types.SimpleNamespace(num_tasks=1, task=lambda number: task)
        return slurm.wait_for_jobs(tmp_path, sweep, [handle])


@pytest.mark.parametrize(
    ("states", "results_after", "failures", "polls"),
    [
        (["PENDING", "RUNNING", "COMPLETED"], 2, {}, 3),
        (["RUNNING", "gone"], 3, {}, 4),  # the file appears after the job has left the queue
        (["RUNNING", "gone"], 99, {0: "no result"}, 4),  # three looks at the queue without the job
        (["gone", "RUNNING", "gone"], 99, {0: "no result"}, 5),  # a requeue in between starts the count again
        ([None, None, "RUNNING", "COMPLETED"], 3, {}, 4),  # a controller that does not answer ends nothing
    ],
)
def test_a_job_has_ended_when_its_results_are_there_or_it_has_left_the_queue(
    monkeypatch, tmp_path, states, results_after, failures, polls
):
    cluster = Poll(monkeypatch, tmp_path, states, results_after)
    assert cluster.wait(tmp_path) == failures
    assert cluster.polls == polls


def test_waiting_asks_less_and_less_often(monkeypatch, tmp_path):
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(slurm.time, "monotonic", lambda: next(clock))
    cluster = Poll(monkeypatch, tmp_path, ["RUNNING"], 9)
    assert cluster.wait(tmp_path) == {}
    assert cluster.naps == sorted(cluster.naps)
    assert cluster.naps[0] > slurm.POLL_SECONDS
    assert cluster.naps[-1] == slurm.MAX_POLL_SECONDS
