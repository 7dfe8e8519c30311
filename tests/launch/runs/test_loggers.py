"""TensorBoard and Weights & Biases, whose files are read with their own readers."""

import os
import sys
import threading
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch.runs import loggers
from launch.runs.run import Run
from launch.runs.run_folder import read_jsonl
from tests.commands import run_module

from ..wandb_files import history

SAVING = {"every_seconds": 1e9, "every_steps": 2, "keep": 2, "best": None, "best_mode": "max"}


def job(folder, names, until=None):
    config = OmegaConf.create({"seed": 0, "resume": "auto", "checkpoint": SAVING, "loggers": names, "lr": 0.1})
    with Run(folder, "llm", config, []) as run:
        run.register_state()
        for step in run.steps(6):
            if step == until:
                raise RuntimeError("made up")
            run.log({"loss": step / 2, "reward/raw": 1.0, "none": None})


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(RuntimeError, match="made up"):
        job(tmp_path, ["tensorboard"], until=5)  # the checkpoint is of step 4, so step 4 is taken again
    job(tmp_path, ["tensorboard"])
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "reward/raw"}
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(s, s / 2) for s in range(6)]


def test_a_full_disk_of_tensorboard_is_one_line(tmp_path, monkeypatch, capfd):
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.RecordWriter, "write", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device; free some space"):
        job(tmp_path, ["tensorboard"])
    assert "Traceback" not in capfd.readouterr().err  # of the thread that writes the file
    monkeypatch.undo()
    job(tmp_path, ["tensorboard"])


def test_other_errors_of_threads_are_printed(monkeypatch):
    printed: list[object] = []
    monkeypatch.setattr(threading, "__excepthook__", printed.append)
    hook = SimpleNamespace(thread=threading.Thread(), exc_value=OSError())
    loggers.hide_tensorboard_errors(hook)
    assert printed == [hook]


def test_wandb_continues_the_same_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match="made up"):
        job(tmp_path / "run", ["wandb"], until=5)
    known = (tmp_path / "run" / "wandb" / "run_id").read_text()
    seen = []
    log = wandb.sdk.wandb_run.Run.log

    def recorded_log(self, metrics, **keywords):
        seen.append((self.id, metrics, keywords))
        log(self, metrics, **keywords)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", recorded_log)
    job(tmp_path / "run", ["wandb"])
    assert seen == [(known, {"loss": s / 2, "reward/raw": 1.0}, {"step": s}) for s in (4, 5)]
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 2


def test_a_logger_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigError,
        match=r"^loggers: wandb is not installed \(extra tracking\): pip install -e .*; or remove wandb",
    ):
        loggers.make_loggers(["wandb"], tmp_path, {})
    assert loggers.make_loggers([], tmp_path, {}) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_both_show_the_names_and_values_of_the_metrics_file(tmp_path):
    """A run of a package with all loggers, whose files are read back."""
    pytest.importorskip("wandb")
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    arguments = ["steps=6", "log_every=2", "objective.beta=[0.1,0.2]", "loggers=[tensorboard,wandb]"]
    run_module("didactic", *arguments, f"hydra.run.dir={run}", folder=tmp_path, status=0, WANDB_MODE="offline")
    lines = read_jsonl(run / "metrics.jsonl")
    expected = {
        name: [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        for name in {name for line in lines for name in line} - {"step"}
    }
    assert any("/" in name for name in expected)  # names with a slash stay as they are
    events = event_accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    shown = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert set(shown) == set(expected)
    for name, points in expected.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in points]
        assert [value for _, value in shown[name]] == pytest.approx([value for _, value in points], rel=1e-6)
    logged = history(run / "wandb")
    assert logged == [numeric(line) for line in lines]


def numeric(line):
    return {name: value for name, value in line.items() if name != "step" and value is not None}
