"""Files of lines: values as JSON has them, appending, and cutting off what a checkpoint does not know."""

import errno
import math

import numpy as np
import pytest
import torch

from conf.schema.base import ConfigError
from launch.runs.line_files import LINE_FILES, LineFiles, line_file, to_json, unwritable_message
from launch.runs.run_folder import read_jsonl


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        (0.0, 0.0),
        (True, True),
        (torch.tensor(math.inf), None),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (np.float32(0.25), 0.25),
        (np.array([1.0, np.nan]), [1.0, None]),
        ({"a": (1, {"b": math.nan})}, {"a": [1, {"b": None}]}),
        ("nan", "nan"),
    ],
)
def test_what_json_lacks_becomes_null(value, expected):
    assert to_json(value) == expected
    assert type(to_json(value)) is type(expected)


START = dict.fromkeys(LINE_FILES, 0)


def test_a_line_is_there_as_soon_as_it_is_appended(tmp_path):
    files = LineFiles(tmp_path, START)
    files.append("metrics", {"x": torch.tensor([1.0, math.inf]), "text": "\u00e9\u2028"})
    assert (tmp_path / "metrics.jsonl").read_text("utf-8") == '{"x": [1.0, null], "text": "\u00e9\u2028"}\n'
    assert read_jsonl(line_file(tmp_path, "metrics")) == [{"x": [1.0, None], "text": "\u00e9\u2028"}]
    files.close()
    with pytest.raises(ValueError, match="closed file"):
        files.append("metrics", {})


def test_what_stands_behind_a_position_is_cut_off(tmp_path):
    files = LineFiles(tmp_path, START)
    files.append("metrics", {"step": 0})
    files.append("samples", {"text": "\u00e9"})
    positions = files.sync()
    assert positions == {name: line_file(tmp_path, name).stat().st_size for name in LINE_FILES}
    assert positions["samples"] == len('{"text": "\u00e9"}\n'.encode())
    files.append("metrics", {"step": 1})
    files.append("timings", {"step": 1})
    files.close()
    again = LineFiles(tmp_path, positions)
    again.append("metrics", {"step": 2})
    again.close()
    rows = {name: read_jsonl(line_file(tmp_path, name)) for name in LINE_FILES}
    assert rows == {"metrics": [{"step": 0}, {"step": 2}], "timings": [], "samples": [{"text": "\u00e9"}]}


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    line_file(tmp_path, "timings").mkdir()
    with pytest.raises(ConfigError, match=r"timings\.jsonl: cannot be written: Is a directory; checkpoints are safe"):
        LineFiles(tmp_path, START)


def test_a_full_disk_is_named(tmp_path):
    line_file(tmp_path, "samples").symlink_to("/dev/full")
    files = LineFiles(tmp_path, START)
    files.append("metrics", {})
    with pytest.raises(ConfigError, match=r"samples\.jsonl: cannot be written: No space left on device; checkpoints"):
        files.append("samples", {})


def test_the_message_names_the_file_of_the_error_if_it_has_one(tmp_path):
    advice = "checkpoints are safe; run the same command to resume"
    named = OSError(errno.ENOSPC, "No space left on device", "/the/file")
    assert unwritable_message(named, tmp_path) == f"/the/file: cannot be written: No space left on device; {advice}"
    assert unwritable_message(OSError("odd"), tmp_path) == f"{tmp_path}: cannot be written: odd; {advice}"
