"""The model before training, from the runs of a sweep."""

import math
from pathlib import Path

import pytest

from launch.analysis.base_model import base_model, difference_to_base
from launch.analysis.table import CollectedRun, Row


def run(seed, **results):
    results = {key.replace("__", "."): value for key, value in results.items()}
    return CollectedRun(Path(str(seed)), "llm", [], "finished", config={"seed": seed}, results=results)


def test_the_base_is_averaged_over_the_seeds_and_each_counts_once():
    rows = [
        Row({"a": 1}, [run(0, x=5.0, base__x=1.0), run(1, x=6.0, base__x=3.0)]),
        Row({"a": 2}, [run(0, x=7.0, base__x=1.0)]),
    ]
    base = base_model(rows)
    assert base.shared
    assert base.result("x") == (2.0, pytest.approx(1.0))  # sqrt(2) over n - 1, over sqrt(2)
    assert all(map(math.isnan, base.result("y")))
    assert [difference_to_base(row, "x") for row in rows] == [3.5, 6.0]
    assert math.isnan(difference_to_base(rows[0], "y"))


def test_models_that_differ_within_a_seed_are_not_shared():
    rows = [Row({"a": 1}, [run(0, x=5.0, base__x=1.0)]), Row({"a": 2}, [run(0, x=7.0, base__x=2.0)])]
    assert not base_model(rows).shared
    assert [difference_to_base(row, "x") for row in rows] == [4.0, 5.0]  # each to its own
    assert base_model(rows[:1]).shared  # control
    assert not base_model([Row({"a": 1}, [run(0, x=5.0)])]).shared  # nothing was measured


def test_a_single_run_has_the_error_that_it_reports():
    row = Row({"a": 1}, [run(0, **{"x/mean": 5.0, "base__x/mean": 1.0, "base__x/se": 0.25})])
    assert base_model([row]).result("x/mean") == (1.0, 0.25)
