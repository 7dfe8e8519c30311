"""Reading a run folder: locks, records, lines, and paths that the user typed."""

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from conf.schema.base import ConfigError
from launch.runs import run_folder
from launch.runs.run_folder import (
    FolderLocked,
    flatten,
    is_locked,
    iterate_jsonl,
    last_traceback_line,
    lock_folder,
    one_line_errors,
    read_config,
    read_json,
    read_jsonl,
    read_last_line,
    read_last_lines,
    read_record,
    read_yaml,
    run_state,
    unusable_folder_message,
    user_path,
    write_json,
    write_text,
)


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_is_locked_until_its_descriptor_is_closed(tmp_path):
    assert is_locked(tmp_path) is False  # never locked
    descriptor = lock_folder(tmp_path)
    assert is_locked(tmp_path) is True
    with pytest.raises(FolderLocked, match="another process is using it"):
        lock_folder(tmp_path, patience=0)
    os.close(descriptor)
    assert is_locked(tmp_path) is False
    os.close(lock_folder(tmp_path, patience=0))


@pytest.mark.parametrize("number", run_folder.NO_LOCKS)
def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert lock_folder(tmp_path) is None
    assert is_locked(tmp_path) is None  # so a run that says it is running is believed
    (tmp_path / "run.json").write_text('{"state": "running"}')
    assert run_state(tmp_path) == "running"


def test_another_error_of_a_lock_is_not_hidden(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"):
        lock_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a run folder, it has no run.json"),
        ("{", "run.json: not the record of a run: "),
        ("[]", "run.json: not the record of a run: it has no valid state"),
        ('{"state": "asleep"}', "run.json: not the record of a run: it has no valid state"),
    ],
)
def test_a_folder_without_a_record_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigError) as error:
        read_record(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    assert message in str(error.value)


def test_a_record_says_running_only_while_a_process_holds_the_folder(tmp_path):
    for state in run_folder.STATES:
        write_json(tmp_path / "run.json", {"state": state})
        assert run_state(tmp_path) == ("dead" if state == "running" else state)
    write_json(tmp_path / "run.json", {"state": "running"})
    descriptor = lock_folder(tmp_path)
    assert run_state(tmp_path) == "running"
    os.close(descriptor)


def test_yaml_and_json_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "bad").write_text("{'\n")
    (tmp_path / "list").write_text("[1]")
    for reader, kind in ((read_yaml, "YAML"), (read_json, "JSON")):
        with pytest.raises(ConfigError, match=rf"bad: invalid {kind}: "):
            reader(tmp_path / "bad")
        with pytest.raises(ConfigError, match=r"nowhere: file not found$"):
            reader(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"list: must be a JSON object, got list$"):
        read_json(tmp_path / "list")
    assert read_yaml(tmp_path / "list") == [1]


def test_an_old_configuration_has_todays_keys(tmp_path):
    (tmp_path / "config.yaml").write_text("writers: [wandb]\nseed: 1\n")
    assert read_config(tmp_path) == {"loggers": ["wandb"], "seed": 1}
    assert read_yaml(tmp_path / "config.yaml") == {"writers": ["wandb"], "seed": 1}  # control


@pytest.mark.parametrize("size", [1, 1000, 70_000, 200_000])
def test_the_last_line_is_the_last_complete_one(tmp_path, size):
    """Lines that are longer than what is read at a time included."""
    path = tmp_path / "a.jsonl"
    rows = [{"n": n, "text": "\u2028" * (size // 3)} for n in range(3)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    assert read_last_line(path) == rows[-1] == read_jsonl(path)[-1]
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"n": 3, "te')  # cut off
    assert read_last_line(path) == rows[-1] == read_jsonl(path)[-1]
    assert len(list(iterate_jsonl(path))) == 3


@pytest.mark.parametrize("size", [5, 3000, 70_000])
@pytest.mark.parametrize("count", [1, 4, 20])
def test_the_last_lines_are_those_of_the_whole_file(tmp_path, size, count):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"n": n, "text": "x" * size}) + "\n" for n in range(9)) + '{"n": 9')
    assert read_last_lines(path, count) == read_jsonl(path)[-count:]
    assert read_last_lines(tmp_path / "none.jsonl", count) == []


def test_the_last_lines_of_a_long_file_are_found_without_reading_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("not JSON\n" * 100_000 + '{"n": 1}\n{"n": 2}\n')
    assert read_last_lines(path, 2) == [{"n": 1}, {"n": 2}]
    with pytest.raises(ConfigError, match="one of the last 3 lines: not JSON"):  # control
        read_last_lines(path, 3)


@pytest.mark.parametrize("content", [None, "", '{"a": 1}', "\n\n"])
def test_a_file_without_a_complete_line_has_no_last_one(tmp_path, content):
    if content is not None:
        (tmp_path / "a.jsonl").write_text(content)
    assert read_last_line(tmp_path / "a.jsonl") is None


@pytest.mark.parametrize(
    ("trace", "line"), [(None, ""), ("", ""), ("Traceback\n  x\nValueError: a\n", "ValueError: a"), ("one", "one")]
)
def test_the_last_line_of_a_traceback(trace, line):
    assert last_traceback_line(trace) == line


def test_nested_mappings_become_dotted_keys():
    tree = {"a": {"b": 1, "c": {"d": [{"e": 2}]}}, "empty": {}, "f": None, 3: 4}
    assert flatten(tree) == {"a.b": 1, "a.c.d": [{"e": 2}], "empty": {}, "f": None, "3": 4}
    assert flatten({}) == {}


def test_a_path_is_relative_to_where_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.delenv("MARA_CWD", raising=False)
    assert user_path("model") == Path("model")
    monkeypatch.setenv("MARA_CWD", str(tmp_path))  # in a job of a cluster
    assert user_path("model") == tmp_path / "model"
    assert user_path("/model") == Path("/model")


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path))
    assert run_folder.cache_folder() == tmp_path
    monkeypatch.delenv("MARA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert run_folder.cache_folder().name == "mara"


def test_a_mistake_ends_a_command_with_one_line():
    with pytest.raises(SystemExit) as stop, one_line_errors("command"):
        raise ConfigError("seed: wrong")
    assert stop.value.code == "command: seed: wrong"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors("command"):
        raise ZeroDivisionError


def test_the_message_of_a_folder_names_its_key():
    error = OSError(errno.ENOTDIR, "Not a directory", "/a/run")
    assert unusable_folder_message(error) == (
        "hydra.run.dir (hydra.sweep.dir with -m): "
        "cannot write a run to /a/run: Not a directory; choose another folder"
    )


def test_json_that_is_nested_too_deeply_is_named(tmp_path):
    deep = "[" * 100_000
    (tmp_path / "run.json").write_text(deep)
    with pytest.raises(ConfigError, match=r"run\.json: not the record of a run: nested too deeply"):
        read_record(tmp_path)
    with pytest.raises(ConfigError, match=r"run\.json: invalid JSON: nested too deeply"):
        read_json(tmp_path / "run.json")


@pytest.mark.parametrize("clock", ["2026-13-29T10:00:00+00:00", "x", 3])
def test_a_damaged_clock_is_one_line(clock):
    with pytest.raises(ConfigError, match=r"run\.json: clock must be a time"):
        run_folder.clock_of({"clock": clock})


def test_a_full_disk_ends_a_command_with_one_line():
    with pytest.raises(SystemExit) as stop, one_line_errors("command"):
        raise OSError(errno.ENOSPC, "No space left on device", "/a/file")
    assert str(stop.value.code).startswith("command: /a/file: cannot be written: No space left on device; free")
    with pytest.raises(FileNotFoundError), one_line_errors("command"):
        raise FileNotFoundError(errno.ENOENT, "a bug")
