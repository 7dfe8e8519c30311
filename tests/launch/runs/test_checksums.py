"""Damage to the files that launch.status and launch.collect show."""

import json

import pytest

from conf.schema.base import ConfigError
from launch.runs.checksums import SHOWN_FILES, START_FILES, check_files, file_checksum, file_checksums
from launch.runs.run_folder import lock_folder

LINES = '{"step": 0, "reward": 1.5}\n{"step": 1, "reward": 2.5}\n'


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(LINES)
    return tmp_path


def record(run, state, **entries):
    (run / "run.json").write_text(json.dumps({"state": state, **entries}))


def save_checkpoint(run, step, length):
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    checksums = {"metrics": file_checksum(run / "metrics.jsonl", length)}
    manifest = {"positions": {"metrics": length}, "line_checksums": checksums}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_checksum_of_a_part(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abcd")
    assert file_checksum(path, 4) == file_checksum(path) != file_checksum(path, 3)
    (tmp_path / "b").write_bytes(b"abc")
    assert file_checksum(tmp_path / "b") == file_checksum(path, 3)


@pytest.mark.parametrize("state", ["finished", "preempted", "failed"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
def test_a_run_that_ended(run, state, name):
    (run / "summary.json").write_text('{"coverage": 1.0}')
    record(run, state, checksums=file_checksums(run, SHOWN_FILES))
    check_files(run)
    content = (run / name).read_text()
    for damaged in (content.replace("1", "2", 1), content.replace("e", "f", 1), content.partition("\n")[0][:-1]):
        (run / name).write_text(damaged)
        with pytest.raises(ConfigError, match=rf"{name}: damaged, or changed since the run wrote it"):
            check_files(run)
    (run / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name}: damaged"):
        check_files(run)
    record(run, state)  # control: as an earlier version left it
    check_files(run)


def test_a_killed_run_up_to_its_last_checkpoint(run):
    record(run, "running")
    first = LINES.index("\n") + 1
    save_checkpoint(run, 1, first)
    (run / "metrics.jsonl").write_text(LINES.replace("2.5", "3.5"))
    check_files(run)  # a line that follows the checkpoint
    (run / "metrics.jsonl").write_text(LINES[: first - 5])
    with pytest.raises(ConfigError, match=r"metrics.jsonl: damaged"):
        check_files(run)
    lock = lock_folder(run)
    assert lock is not None
    check_files(run)  # the run goes on, and writes the file


def test_a_manifest_that_cannot_be_read_is_left_to_the_resumed_run(run):
    record(run, "running")
    save_checkpoint(run, 1, 5)
    (run / "checkpoints" / "step_00000001" / "manifest.json").write_text("{")
    check_files(run)


def test_the_configuration_of_a_killed_run_and_of_one_that_goes_on(run):
    (run / "config.yaml").write_text("steps: 120\n")
    record(run, "running", checksums=file_checksums(run, START_FILES))
    check_files(run)
    (run / "config.yaml").write_text("stepr: 120\n")
    with pytest.raises(ConfigError, match=r"config.yaml: damaged"):
        check_files(run)
    lock = lock_folder(run)
    assert lock is not None
    check_files(run)  # a run that is resumed may be writing it
