"""Metrics by column hold what the lines of metrics.jsonl say."""

import json
import sys

import pytest

from conf.schema.base import ConfigError
from launch.analysis.metric_columns import read_metrics

ROWS = [
    {"step": 0, "a": 1, "b": 0.5, "note": "text", "flag": True},
    {"step": 2, "a": None, "b": float("nan"), "c": None},
    {"step": 2, "a": 3.0, "late": 7},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_columns_hold_the_finite_numbers(tmp_path):
    metrics = read_metrics(write(tmp_path / "metrics.jsonl", ROWS))
    assert metrics.lines == 3
    assert list(metrics.columns) == ["a", "b", "c", "late"]  # c has been logged, without a value
    pairs_by_metric = {
        key: list(zip(column.steps, column.values, strict=True)) for key, column in metrics.columns.items()
    }
    assert pairs_by_metric == {"a": [(0, 1.0), (2, 3.0)], "b": [(0, 0.5)], "c": [], "late": [(2, 7.0)]}
    assert read_metrics(tmp_path / "absent.jsonl").lines == 0


@pytest.mark.parametrize("step", [None, 1.5, True, "1"])
def test_a_line_without_a_step_is_named(tmp_path, step):
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: each line must have a step"):
        read_metrics(write(tmp_path / "metrics.jsonl", [{"step": step, "a": 1.0}]))


def test_a_value_takes_16_bytes(tmp_path):
    rows = [{"step": step, "a": float(step)} for step in range(10_000)]
    column = read_metrics(write(tmp_path / "metrics.jsonl", rows)).columns["a"]
    assert sys.getsizeof(column.steps) + sys.getsizeof(column.values) < 1.2 * 16 * 10_000
