"""`Run` with a job that is made up here: what it writes, and how it ends."""

import json
import math
import os
import random

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch.cli.command_table import STARTED_AS
from launch.runs.progress import StepProgress
from launch.runs.run import Run, seed_global_generators
from launch.runs.run_folder import read_jsonl

CHECKPOINT = {"every_seconds": 60.0, "every_steps": None, "keep": 2, "best": None, "best_mode": "max"}
RUN = {"seed": 3, "resume": "auto", "checkpoint": CHECKPOINT, "loggers": []}
CONFIG = OmegaConf.create({**RUN, "a": 1, "b": "${a}"})


def record(folder):
    return json.loads((folder / "run.json").read_text())


def lines(folder, name):
    return (folder / f"{name}.jsonl").read_text().splitlines()


def test_a_finished_run(tmp_path):
    folder = tmp_path / "deep" / "run"
    with Run(folder, "llm", CONFIG, ["a=1"]) as run:
        assert record(folder)["state"] == "running"
        assert record(folder)["ended"] is None
        for step in run.steps(3, show=("x",)):
            run.log({"x": torch.tensor(step / 2), "n": 7, "none": None})
            run.log_samples([{"text": "é"}])
            assert len(lines(folder, "metrics")) == step + 1  # there as soon as it is logged
        run.finish({"correct": 0.5})
    assert OmegaConf.load(folder / "config.yaml") == {**RUN, "a": 1, "b": 1}
    assert OmegaConf.load(folder / "overrides.yaml") == ["a=1"]
    assert read_jsonl(folder / "metrics.jsonl") == [{"step": s, "x": s / 2, "n": 7, "none": None} for s in range(3)]
    assert [row["step"] for row in read_jsonl(folder / "timings.jsonl")] == [0, 1, 2]
    assert read_jsonl(folder / "samples.jsonl")[2] == {"step": 2, "text": "é"}
    assert json.loads((folder / "summary.json").read_text()) == {"correct": 0.5}
    written = record(folder)
    assert (written["state"], written["seed"], written["traceback"]) == ("finished", 3, None)
    assert written["command"] == ["python", "-m", "llm", "a=1"]
    assert {"commit", "dirty", "untracked"} == set(written["code"])  # a patch is a file of its own
    assert {"python", "torch", "numpy"} <= set(written["versions"])
    assert written["hardware"]["threads"] >= 1
    assert written["started"] <= written["ended"]
    assert written["pid"] == os.getpid()
    files = {"config.yaml", "overrides.yaml", "run.json", "summary.json"}
    files |= {"metrics.jsonl", "timings.jsonl", "samples.jsonl", "checkpoints", ".lock"}
    assert {path.name for path in folder.iterdir()} - {"code.patch"} == files  # no temporary file stays


@pytest.mark.parametrize(("best", "fails"), [("x", False), ("X", True), ("", True), ("step", True)])
def test_the_best_checkpoint_needs_a_metric_of_the_run(tmp_path, best, fails):
    config = OmegaConf.create({**RUN, "checkpoint": {**CHECKPOINT, "best": best}})

    def job():
        with Run(tmp_path / "run", "llm", config, []) as run:
            for step in run.steps(2):
                run.log({"x": 1.0, "y": step})

    if not fails:
        job()
        return
    with pytest.raises(ConfigError, match=r"^checkpoint\.best: this run has no metric .*; use one of x"):
        job()
    assert lines(tmp_path / "run", "metrics") == []


def test_a_failed_run_says_where(tmp_path):
    def job():
        with Run(tmp_path / "run", "llm", CONFIG, []) as run:
            for step in run.steps(3):
                run.log({"x": 1 / (1 - step)})

    with pytest.raises(ZeroDivisionError):
        job()
    written = record(tmp_path / "run")
    assert written["state"] == "failed"
    assert written["ended"] is not None
    assert "ZeroDivisionError" in written["traceback"]
    assert "test_run.py" in written["traceback"]
    assert len(lines(tmp_path / "run", "metrics")) == 1  # what was computed stays


@pytest.mark.parametrize("saved", [None, "the records"])
def test_an_interrupted_run_is_not_finished(tmp_path, saved):
    def interrupted():
        with Run(tmp_path / "run", "llm", CONFIG, []) as run:
            run.saved = saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interruption:
        interrupted()
    (note,) = interruption.value.__notes__
    assert note.startswith("saved: no checkpoint yet; the run in " if saved is None else f"saved: {saved}")
    assert record(tmp_path / "run")["state"] == "preempted"
    assert record(tmp_path / "run")["traceback"] is None


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ConfigError, match=r"hydra\.run\.dir.*: cannot write a run to .*file/run: Not a directory; choose another"
    ):
        Run(tmp_path / "file" / "run", "llm", CONFIG, [])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").write_text("anything else is no obstacle")
    with Run(tmp_path / "other", "llm", CONFIG, []):
        pass


def test_what_is_not_finite_is_null_in_every_file(tmp_path):
    with Run(tmp_path, "llm", CONFIG, []) as run:
        for _ in run.steps(1, show=("x",)):
            run.log({"x": math.nan})
            run.log_samples([{"reward": math.inf}])
        run.finish({"entropy_nats": torch.tensor(math.nan)})
    assert lines(tmp_path, "metrics") == ['{"step": 0, "x": null}']
    assert lines(tmp_path, "samples") == ['{"step": 0, "reward": null}']
    assert json.loads((tmp_path / "summary.json").read_text()) == {"entropy_nats": None}


def test_samples_come_back_whatever_their_text(tmp_path):
    texts = ["a\nb", "a\r\nb", "a\u2028b", "a\x85b", "[bold]:smile:", "\U0001f600", ""]
    with Run(tmp_path, "llm", CONFIG, []) as run:
        run.log_samples({"text": text} for text in texts)
    assert [row["text"] for row in read_jsonl(tmp_path / "samples.jsonl")] == texts


def test_nothing_but_timings_depends_on_the_clock(tmp_path, monkeypatch):
    for name, tick in (("slow", 10.0), ("fast", 0.1)):
        now = iter(range(1000))
        monkeypatch.setattr("time.perf_counter", lambda now=now, tick=tick: next(now) * tick)
        with Run(tmp_path / name, "llm", CONFIG, []) as run:
            for step in run.steps(3):
                run.log({"x": step})
                run.log_samples([{"text": "a"}])
    for name in ("metrics.jsonl", "samples.jsonl", "config.yaml", "overrides.yaml"):
        assert (tmp_path / "slow" / name).read_bytes() == (tmp_path / "fast" / name).read_bytes()
    assert lines(tmp_path / "slow", "timings") != lines(tmp_path / "fast", "timings")  # control


def test_the_global_generators_depend_on_seed_step_and_rank():
    def draws(*key):
        seed_global_generators(*key)
        return random.random(), np.random.random(), torch.rand(()).item()

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    values = [draws(*key) for key in keys]
    assert [draws(*key) for key in keys] == values
    for column in zip(*values, strict=True):
        assert len(set(column)) == len(keys)


def test_each_step_starts_with_its_own_generators(tmp_path):
    with Run(tmp_path, "llm", CONFIG, []) as run:
        seen = [torch.rand(()).item() for _ in run.steps(3)]
    expected = []
    for step in range(3):
        seed_global_generators(RUN["seed"], step, 0)
        expected.append(torch.rand(()).item())
    assert seen == expected


def test_only_rank_0_writes_and_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Run(tmp_path / "run", "llm", CONFIG, []) as run:
        assert not run.is_main
        for _ in run.steps(1):
            run.log({"x": 1.0})
            run.log_samples([{"text": "a"}])
        run.info("information")
        run.warn("a warning")
        run.finish({})
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("logged", [True, False])
def test_a_loop_that_is_left_shows_the_step_that_it_logged_last(tmp_path, monkeypatch, logged):
    shown = []
    monkeypatch.setattr(StepProgress, "advance", lambda self, done, metrics: shown.append((done, metrics)))
    with Run(tmp_path, "llm", CONFIG, []) as run:
        for step in run.steps(9):
            if step == 2 and not logged:
                break
            run.log({"x": float(step)})
            if step == 2:
                break
    assert shown == [(1, {"x": 0.0}), (2, {"x": 1.0}), (3, {"x": 2.0})][: 3 if logged else 2]


def test_messages_name_commands_as_they_were_typed(tmp_path, monkeypatch, capsys):
    with Run(tmp_path, "llm", CONFIG, []) as run:
        run.warn("see python -m llm.plan")
        monkeypatch.setenv(STARTED_AS, "mara")
        run.warn("see python -m llm.plan")
        run.info("or python -m launch.status")
    assert capsys.readouterr().out.splitlines() == [
        "warning: see python -m llm.plan",
        "warning: see mara llm plan",
        "or mara status",
    ]


def test_a_line_may_name_its_step(tmp_path):
    with Run(tmp_path, "llm", CONFIG, []) as run:
        run.log({"x": 1.0}, step=7)  # before the loop
        run.warn("a warning")
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 7, "x": 1.0}]


def test_loggers_get_each_step_and_are_closed(tmp_path, monkeypatch):
    calls = []

    class Logger:
        def log(self, step, metrics):
            calls.append((step, metrics))

        def close(self):
            calls.append("closed")

    monkeypatch.setattr("launch.runs.run.make_loggers", lambda names, folder, config: [Logger()])
    with Run(tmp_path, "llm", CONFIG, []) as run:
        for step in run.steps(2):
            run.log({"x": torch.tensor(float(step))})
    assert calls == [(0, {"x": 0.0}), (1, {"x": 1.0}), "closed"]


def test_a_logger_that_cannot_be_closed_fails_the_run(tmp_path, monkeypatch):
    class Logger:
        def close(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("launch.runs.run.make_loggers", lambda names, folder, config: [Logger()])
    with (
        pytest.raises(ConfigError, match="cannot be written: No space left on device"),
        Run(tmp_path, "llm", CONFIG, []),
    ):
        pass
    assert record(tmp_path)["state"] == "failed"


def test_a_run_whose_loggers_are_missing_releases_its_folder(tmp_path):
    config = OmegaConf.merge(CONFIG, {"loggers": ["no_such"]})
    for _ in range(2):  # the second time the folder is not locked
        with pytest.raises(KeyError):
            Run(tmp_path, "llm", config, [])
