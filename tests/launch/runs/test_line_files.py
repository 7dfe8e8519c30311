"""Files of lines: values as JSON has them, appending, and cutting off what a checkpoint does not know."""

import math

import numpy as np
import pytest
import torch

from conf.schema.base import ConfigError
from launch.runs.checksums import file_checksum
from launch.runs.line_files import LINE_FILES, LineFiles, line_file, to_json
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
    with pytest.raises(ConfigError, match=r"timings\.jsonl: cannot be written: Is a directory; run the same command"):
        LineFiles(tmp_path, START)


def test_a_full_disk_is_named(tmp_path):
    line_file(tmp_path, "samples").symlink_to("/dev/full")
    files = LineFiles(tmp_path, START)
    files.append("metrics", {})
    with pytest.raises(ConfigError, match=r"samples\.jsonl: cannot be written: No space left on device; free"):
        files.append("samples", {})


def test_timings_that_were_lost_are_not_made_up(tmp_path):
    files = LineFiles(tmp_path, START)
    for step in range(3):
        files.append("timings", {"step": step})
    positions = files.sync()
    files.close()
    line_file(tmp_path, "timings").write_text('{"step": 0}\n{"st')
    again = LineFiles(tmp_path, positions)
    again.append("timings", {"step": 3})
    again.close()
    assert line_file(tmp_path, "timings").read_text() == '{"step": 0}\n{"step": 3}\n'


def test_checksums_continue_after_a_position(tmp_path):
    files = LineFiles(tmp_path, START)
    files.append("metrics", {"step": 0, "text": "\u00e9"})
    positions, before = files.sync(), files.checksums()
    files.append("metrics", {"step": 1})
    after = files.checksums()
    files.close()
    assert before["metrics"] == file_checksum(line_file(tmp_path, "metrics"), positions["metrics"])
    again = LineFiles(tmp_path, positions)
    assert again.checksums() == before
    again.append("metrics", {"step": 1})
    assert again.checksums() == after != before
    again.close()
    assert after["metrics"] == file_checksum(line_file(tmp_path, "metrics"))
