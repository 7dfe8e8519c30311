"""`start` with a job that is made up here: what it runs, what it writes, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.runs.run_folder import read_jsonl

ROOT = Path(__file__).parents[3]
JOB = """
import time
import llm.report
from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from launch.cli.app import start

def train(config, run):

    for step in run.steps(config.steps, show=("x",)):
        run.log({"x": config.objective.beta * (step + 1)})
        if config.objective.beta == 0.5:
            raise RuntimeError("made up")
        if config.objective.beta == 0.25:
            raise ConfigError("objective.beta: must be another, got 0.25")
        if config.seed == 7:
            time.sleep(0.5)
    run.finish({"threads": __import__("torch").get_num_threads()})

def report(runs, folder):
    (folder / "report.txt").write_text(" ".join(run.name for run in runs))

llm.report.report_sweep = report
start("llm", train)
"""


def command(folder, *arguments):
    (folder / "job.py").write_text(JOB)
    return [sys.executable, "job.py", "steps=4", *arguments]


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(folder, *arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_run_lies_where_its_package_and_experiment_say(tmp_path):
    done = run(tmp_path, "objective.beta=2")
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "runs" / "llm" / "one_two").iterdir()
    shown = [line for line in done.stdout.splitlines() if not line.endswith(" ...")]  # on a slow machine
    assert shown == [
        *(f"step {n}/4  x {2 * n:.3f}" for n in (1, 2, 3, 4)),
        f"run folder: {folder.relative_to(tmp_path)}",
        f"next: python -m llm.evaluate run={folder.relative_to(tmp_path)} equivalence=exact embedder=null",
        f"next: python -m launch.collect {folder.relative_to(tmp_path)}",
    ]
    assert record(folder)["command"] == ["python", "-m", "llm", "steps=4", "objective.beta=2"]
    assert not (folder / ".hydra").exists()
    assert not (folder / "job.log").exists()


def test_a_job_that_fails_leaves_the_others_of_its_sweep_to_go_on(tmp_path):
    arguments = ["-m", "objective.beta=.25,.5,1,2", "threads=1,null", "hydra.sweep.dir=sweep"]
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    folders = [tmp_path / "sweep" / str(n) for n in range(8)]
    assert [record(folder)["state"] for folder in folders] == ["failed"] * 4 + ["finished"] * 4
    assert "made up" in record(folders[2])["traceback"]
    errors = [line for line in done.stderr.splitlines() if line.startswith("llm: ")]
    mistake, bug = "llm: objective.beta: must be another, got 0.25", "llm: RuntimeError: made up"
    assert errors == [mistake, mistake, bug, bug]
    assert done.stderr.count("Traceback") == 2  # of the bug; the mistake needs none
    assert (tmp_path / "sweep" / "report.txt").read_text() == "4 5 6 7"
    assert [row["x"] for row in read_jsonl(folders[7] / "metrics.jsonl")] == [2, 4, 6, 8]
    threads = [json.loads((folder / "summary.json").read_text())["threads"] for folder in folders[4:]]
    assert threads[0] == threads[2] == 1
    assert threads[1] == threads[3] == record(folders[1])["hardware"]["threads"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_leaves_a_true_record(tmp_path, number):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command(tmp_path, "seed=7", "hydra.run.dir=run"),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )
    folder, limit = tmp_path / "run", time.monotonic() + 100
    try:
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
        assert record(folder)["state"] == "running"
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    saved = "saved: the checkpoint after step 1, in run\nnext: python -m launch.resume run\n"
    assert error == f"llm: interrupted by {number.name}\n{saved}"
    assert process.returncode == 128 + number
    assert (record(folder)["state"], record(folder)["traceback"]) == ("preempted", None)
    assert record(folder)["ended"] is not None
    assert read_jsonl(folder / "metrics.jsonl") == [{"step": 0, "x": 0.03}]  # the step was finished
    assert (folder / "checkpoints" / "step_00000001").is_dir()
