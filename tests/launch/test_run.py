"""The record of a run: a made-up job through `Run`, and a real one that is told to stop."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from conf.schema import ConfigError
from launch.run import Run, read_jsonl, write_text

ROOT = Path(__file__).parents[2]
CONFIG = OmegaConf.create({"seed": 3, "a": 1, "b": "${a}"})


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_finished_run(tmp_path):
    folder = tmp_path / "deep" / "run"
    with Run(folder, "llm", CONFIG, ["a=1"]) as run:
        assert record(folder)["state"] == "running"
        for step in run.steps(3, show=("x",)):
            run.log(
                {"x": torch.tensor(step / 2), "n": 7, "nan": math.nan, "inf": torch.tensor(math.inf), "none": None}
            )
            run.sample([{"text": "é"}])
        run.finish({"correct": 0.5})
    assert OmegaConf.load(folder / "config.yaml") == {"seed": 3, "a": 1, "b": 1}
    assert OmegaConf.load(folder / "overrides.yaml") == ["a=1"]
    assert read_jsonl(folder / "metrics.jsonl") == [
        {"step": s, "x": s / 2, "n": 7, "nan": None, "inf": None, "none": None} for s in range(3)
    ]
    assert [row["step"] for row in read_jsonl(folder / "timings.jsonl")] == [0, 1, 2]
    assert read_jsonl(folder / "samples.jsonl")[2] == {"step": 2, "text": "é"}
    assert json.loads((folder / "summary.json").read_text()) == {"correct": 0.5}
    written = record(folder)
    assert (written["state"], written["seed"], written["traceback"]) == ("finished", 3, None)
    assert written["command"] == ["python", "-m", "llm", "a=1"]
    assert {"commit", "dirty"} <= set(written["code"])
    assert written["versions"]["torch"] == torch.__version__.partition("+")[0] or written["versions"]["torch"]
    assert written["started"] <= written["ended"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]  # no temporary file stays


def test_a_failed_run_says_where(tmp_path):
    with pytest.raises(ZeroDivisionError), Run(tmp_path / "run", "llm", CONFIG, []) as run:
        for step in run.steps(3):
            run.log({"x": 1 / (1 - step)})
    written = record(tmp_path / "run")
    assert written["state"] == "failed"
    assert "ZeroDivisionError" in written["traceback"] and "test_run.py" in written["traceback"]
    assert len(read_jsonl(tmp_path / "run" / "metrics.jsonl")) == 1  # what was computed stays


def test_a_folder_with_a_run_or_that_cannot_be_written_is_refused(tmp_path):
    with Run(tmp_path / "run", "llm", CONFIG, []):
        pass
    before = record(tmp_path / "run")
    with pytest.raises(ConfigError, match="found"):
        Run(tmp_path / "run", "llm", CONFIG, [])
    assert record(tmp_path / "run") == before
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir"):
        Run(tmp_path / "file" / "run", "llm", CONFIG, [])


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_leaves_a_true_record(tmp_path, number):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "llm", "steps=100000", "evaluation_completions=1", f"hydra.run.dir={folder}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        metrics, limit = folder / "metrics.jsonl", time.monotonic() + 300
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < limit:
            assert process.poll() is None
            time.sleep(0.2)
        assert record(folder)["state"] == "running"
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert error.strip().splitlines()[-1] == f"llm: interrupted by {number.name}"
    assert process.returncode == 128 + number
    assert record(folder)["state"] == "failed" and "KeyboardInterrupt" in record(folder)["traceback"]
    assert read_jsonl(metrics)
