"""run.json: who holds a folder, what an earlier process left in it, and how a run ended."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch.runs import run_folder
from launch.runs.record import RunRecord, earlier_record, is_finished, resolved_config
from launch.runs.run import Run

ROOT = Path(__file__).parents[3]
CHECKPOINT = {"every_seconds": 1e9, "every_steps": 2, "keep": 2, "best": None, "best_mode": "max"}
CONFIG = {"seed": 3, "resume": "auto", "checkpoint": CHECKPOINT, "loggers": [], "steps": 9, "lr": 0.1}


def record(folder):
    return json.loads((folder / "run.json").read_text())


def open_record(folder, warnings=None, **changes):
    config = OmegaConf.create({**CONFIG, **changes})
    opened = RunRecord(folder, "llm", config, ["python"], 2, (warnings if warnings is not None else []).append)
    opened.write(config, ["a=1"])
    return opened


def test_two_processes_on_one_folder(tmp_path):
    config = OmegaConf.create(CONFIG)
    with Run(tmp_path, "llm", config, []):
        before = (tmp_path / "run.json").read_bytes()
        assert run_folder.run_state(tmp_path) == "running"
        with pytest.raises(ConfigError, match=r"hydra\.run\.dir.*another process is using it"):
            Run(tmp_path, "llm", config, [])
        assert (tmp_path / "run.json").read_bytes() == before
    assert run_folder.run_state(tmp_path) == "finished"


def test_a_killed_run_is_known_to_be_dead(tmp_path):
    script = (
        "import os, sys; from omegaconf import OmegaConf; from launch.runs.run import Run; from pathlib import Path\n"
        f"run = Run(Path(sys.argv[1]), 'llm', OmegaConf.create({CONFIG!r}), [])\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], cwd=ROOT, timeout=120)
    assert done.returncode == -9
    assert run_folder.read_record(tmp_path / "run")["state"] == "running"
    assert run_folder.run_state(tmp_path / "run") == "dead"
    open_record(tmp_path / "run").close(None)
    assert run_folder.read_record(tmp_path / "run")["earlier"][0]["state"] == "dead"


def test_the_clock_is_that_of_the_first_start(tmp_path, monkeypatch):
    monkeypatch.setattr("launch.runs.record.utc_now", lambda: "2024-01-02T23:59:59+00:00")
    with Run(tmp_path / "run", "llm", OmegaConf.create(CONFIG), []) as run:
        assert run.clock == datetime(2024, 1, 2, 23, 59, 59, tzinfo=UTC)
    monkeypatch.setattr("launch.runs.record.utc_now", lambda: "2024-01-03T00:00:01+00:00")
    with Run(tmp_path / "run", "llm", OmegaConf.create(CONFIG), []) as run:  # resumes on the next day
        assert run.clock.day == 2
    content = record(tmp_path / "run")
    assert content["clock"] == content["started"] == "2024-01-02T23:59:59+00:00"
    assert run_folder.recorded_clock(tmp_path / "run") == run.clock
    with Run(tmp_path / "another", "llm", OmegaConf.create(CONFIG), []) as run:  # control: a run of the next day
        assert run.clock.day == 3

    del content["clock"]  # as earlier versions wrote it
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    with Run(tmp_path / "run", "llm", OmegaConf.create(CONFIG), []) as run:
        assert run.clock.day == 2

    monkeypatch.setenv("MARA_CLOCK", "2020-05-06T07:08:09")
    with Run(tmp_path / "third", "llm", OmegaConf.create(CONFIG), []) as run:
        assert run.clock == datetime(2020, 5, 6, 7, 8, 9)
    monkeypatch.setenv("MARA_CLOCK", "yesterday")
    with pytest.raises(ConfigError, match=r"^MARA_CLOCK: must be a time such as .* got 'yesterday'$"):
        Run(tmp_path / "fourth", "llm", OmegaConf.create(CONFIG), [])


@pytest.mark.parametrize("patch", ["", "diff --git a/x b/x\n"])
def test_a_patch_is_written_where_the_code_was_changed(tmp_path, monkeypatch, patch):
    code = {"commit": "0" * 40, "dirty": bool(patch), "untracked": [], "patch": patch}
    monkeypatch.setattr("launch.runs.record.code_version", lambda root: dict(code))
    with Run(tmp_path, "llm", OmegaConf.create(CONFIG), []):
        pass
    assert record(tmp_path)["code"] == {"commit": "0" * 40, "dirty": bool(patch), "untracked": []}
    assert (tmp_path / "code.patch").exists() == bool(patch)
    assert not patch or (tmp_path / "code.patch").read_text() == patch


def test_a_record_keeps_what_earlier_processes_left(tmp_path):
    open_record(tmp_path).close(KeyboardInterrupt())
    first = record(tmp_path)
    assert (first["state"], first["ranks"], first["earlier"]) == ("preempted", 2, [])
    open_record(tmp_path).release()  # as if it had been killed
    open_record(tmp_path).close(ValueError("made up"))
    last = record(tmp_path)
    assert (last["state"], last["started"]) == ("failed", first["started"])
    assert last["traceback"].endswith("ValueError: made up\n")
    assert [entry["state"] for entry in last["earlier"]] == ["preempted", "dead"]
    assert last["earlier"][0] == {key: first[key] for key in last["earlier"][0]}


def test_other_code_and_packages_are_warned_about(tmp_path):
    open_record(tmp_path).close(None)
    unchanged: list[str] = []
    open_record(tmp_path, unchanged).close(None)
    assert unchanged == []
    content = record(tmp_path)
    content["code"]["commit"] = "another"
    content["versions"] |= {"torch": "0.1"}
    del content["versions"]["numpy"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    warnings: list[str] = []
    open_record(tmp_path, warnings).close(None)
    code, *packages = warnings
    assert code.startswith("the code has changed since the run started (commit another, dirty ")
    assert code.endswith("; results may differ")
    assert [line.partition(" and ")[0] for line in packages] == [
        "the run started with torch 0.1",
        "the run started with numpy None",
    ]


@pytest.mark.parametrize(
    ("holds_run", "resume", "message"),
    [
        (False, "must", r"^resume=must: .* holds no run to resume; use auto or never to start a new one$"),
        (True, "never", r"^resume=never: .* already holds a run; use auto or must to resume it$"),
    ],
)
def test_what_resume_does_not_allow(tmp_path, holds_run, resume, message):
    if holds_run:
        open_record(tmp_path).close(None)
    with pytest.raises(ConfigError, match=message):
        open_record(tmp_path, resume=resume)
    with pytest.raises(ConfigError, match=message):
        open_record(tmp_path, resume=resume)  # the folder was released: the message is the same
    assert (tmp_path / "run.json").exists() == holds_run


def test_the_run_of_a_folder_is_continued_only_with_its_configuration(tmp_path):
    config = resolved_config(OmegaConf.create(CONFIG))
    assert earlier_record(tmp_path, config) is None
    open_record(tmp_path).close(None)
    assert earlier_record(tmp_path, config) == record(tmp_path)
    assert earlier_record(tmp_path, {**config, "checkpoint": {}}) is not None  # changes no result
    with pytest.raises(ConfigError, match=r"config\.yaml: differs from this run: lr is 0\.1 there and 0\.2 here"):
        earlier_record(tmp_path, {**config, "lr": 0.2})


def test_a_damaged_record_is_one_line(tmp_path):
    config = resolved_config(OmegaConf.create(CONFIG))
    open_record(tmp_path).close(None)
    content = record(tmp_path)
    assert earlier_record(tmp_path, config) == content
    for key in ("started", "host", "pid", "versions", "code", "earlier"):
        for damaged in ({**content, key: None}, {name: content[name] for name in content if name != key}):
            (tmp_path / "run.json").write_text(json.dumps(damaged))
            with pytest.raises(ConfigError, match=rf"run\.json: not the record of a run: .*{key}"):
                earlier_record(tmp_path, config)


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    open_record(tmp_path).close(None)
    for folder in (tmp_path, tmp_path / "report"):
        (folder / ".half_77_summary.json").mkdir(parents=True)
    open_record(tmp_path).close(None)
    assert not list(tmp_path.rglob(".half_*"))


def test_a_finished_run_is_known_by_its_configuration(tmp_path):
    config = OmegaConf.create(CONFIG)
    assert not is_finished(tmp_path, config)
    opened = open_record(tmp_path)
    assert not is_finished(tmp_path, config)
    opened.close(None)
    assert is_finished(tmp_path, config)
    with pytest.raises(ConfigError, match="differs from this run"):
        is_finished(tmp_path, OmegaConf.create({**CONFIG, "steps": 10}))


def test_an_end_that_cannot_be_recorded_is_reported_unless_the_run_failed(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    for error in (None, ValueError("the first error")):
        opened = open_record(tmp_path / str(error))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            if error is None:
                with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
                    opened.close(error)
            else:
                opened.close(error)
        assert run_folder.run_state(tmp_path / str(error)) == "dead"  # released, and still recorded as running


def test_interpolations_are_resolved():
    config = OmegaConf.create({"a": 1, "b": "${a}", "c": ["${b}"]})
    assert resolved_config(config) == {"a": 1, "b": 1, "c": [1]}
