"""Reading runs, grouping them into rows, and the commands that repeat them."""

import json
import math
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from launch.analysis import table
from launch.analysis.table import CollectedRun, Row


def collected(overrides, **config):
    return CollectedRun(Path("run"), "llm", overrides, "finished", config=config, results={"reward": 1.0})


def test_a_group_option_that_changes_several_keys_is_one_column():
    values = {"a": (1, 1), "b": (2, 1), "c": (2, 3)}

    def run(method, seed, **changed):
        x, y = values[method]
        return collected([f"method={method}", f"seed={seed}"], **{"x": x, "y": y, "seed": seed, **changed})

    runs = [run("a", 0), run("a", 1), run("b", 0), run("c", 0)]
    rows = table.fold_seeds(runs)
    assert [(row.varying, len(row.runs)) for row in rows] == [
        ({"method": "a"}, 2),
        ({"method": "b"}, 1),
        ({"method": "c"}, 1),
    ]
    assert rows[0].label == "method=a"
    changed = [*runs, run("c", 1, y=4)]  # what the option means has changed in between
    assert {tuple(row.varying) for row in table.fold_seeds(changed)} == {("x", "y")}
    assert len(table.fold_seeds(changed)) == 4


def row(*results):
    runs = [CollectedRun(Path("run"), "llm", [], "finished", results=values) for values in results]
    return Row({"transform.name": "mara", "objective.beta": 0.1}, runs)


def test_a_result_is_over_the_runs_that_have_it():
    three = row({"a": 1.0}, {"a": 3.0}, {"b": 5.0})
    assert three.label == "transform=mara, beta=0.1"
    assert three.result("a") == (2.0, pytest.approx(1))
    assert math.isnan(row({"b": 5.0, "b/se": 0.5}, {}).result("b")[1])  # one prompt's error is none over seeds
    assert (three.coverage("a"), three.coverage("b"), three.coverage("c")) == ("2 of 3", "1 of 3", "")
    assert math.isnan(three.result("c")[0])
    assert row({"a": 1.0}, {"a": 2.0}).coverage("a") == ""


@pytest.mark.parametrize("key", ["reward", "reward/mean"])
def test_a_single_run_keeps_its_own_error(key):
    assert row({key: 2.0, "reward/se": 0.25}).result(key) == (2.0, 0.25)
    assert math.isnan(row({key: 2.0}).result(key)[1])
    two = row({key: 2.0, "reward/se": 0.25}, {key: 2.0, "reward/se": 0.25})
    assert two.result(key) == (2.0, 0.0)  # control: of several runs the error is that over the seeds


def test_the_numbers_of_a_summary():
    summary = {"a": 1, "b": {"c": 2.5, "d": "text"}, "e": None, "f": True, "cells": [{"x": 3}], "list": [1, 2]}
    assert table.numeric_results(summary) == {"a": 1.0, "b.c": 2.5, "x": 3.0}
    assert table.evaluation_results(
        {"distinct/mean": 2, "distinct/se": 1, "distinct/prompts": 3, "compare": {"distinct/mean": 4}, "a/b/mean": 5}
    ) == {"distinct/mean": 2.0, "distinct/se": 1.0}


def test_results_that_no_run_reached_are_last():
    runs = [row({"a": 1.0, "a/se": 0.1}).runs[0], row({"b": 2.0}).runs[0]]
    runs[0].undefined = ["never", "b"]
    assert table.result_keys(runs) == ["a", "b", "never"]


def test_an_evaluation_is_among_the_results(sweep):
    (sweep / "0" / "evaluation").mkdir()
    (sweep / "0" / "evaluation" / "summary.json").write_text(json.dumps({"distinct/mean": 2.5, "prompts": 7}))
    first, second, failed, _, missing, dead = table.read_runs(sweep)
    assert (first.results["distinct/mean"], first.results["correct"]) == (2.5, 0.9)
    assert "prompts" not in first.results
    assert "distinct/mean" not in second.results
    assert (first.undefined, first.config["transform.name"], first.metrics.lines) == (["none"], "identity", 4)
    assert (failed.results, failed.state, dead.state) == ({}, "failed", "dead")
    assert (missing.config, missing.metrics.lines, missing.error) == ({}, 0, "")


def test_a_key_that_tells_the_same_runs_apart_is_left_out():
    runs = [collected([], a=a, b=10 * a, c=c, seed=a, d=0) for a, c in ((1, 1), (2, 1), (2, 2))]
    assert table.varying_keys(runs) == ["a", "c"]
    del runs[0].config["a"]
    assert table.varying_keys(runs) == ["b", "c"]  # a key that all runs have is preferred


def test_what_was_typed_is_a_column_where_it_is_shorter():
    typed = [collected(["+x.y=1", "method=a", "seed=0"]), collected(["+x.y=2", "method=a", "seed=1"])]
    frame = table.override_columns(typed)
    assert frame.to_dict("list") == {"x.y": ["1", "2"]}
    assert table.group_numbers(pd.DataFrame({"a": [1, 2, 1], "b": [1, 1, 1]})) == [0, 1, 0]
    assert table.group_numbers(pd.DataFrame(index=range(3))) == [0, 0, 0]


def test_the_command_of_a_row_is_a_sweep_over_its_seeds():
    runs = [collected(["method=a b", f"seed={seed}"], seed=seed) for seed in (0, 3)]
    assert table.rerun_command(runs) == "python -m llm -m 'method=a b' seed=0,3"
    assert table.rerun_command(runs[:1]) == "python -m llm 'method=a b' seed=0"
    runs[1].overrides[0] = "method=b"
    assert table.rerun_command(runs) == "python -m llm 'method=a b' seed=0; python -m llm method=b seed=3"


@pytest.mark.parametrize(
    ("key", "short"),
    [("objective.beta", "beta"), ("transform.name", "transform"), ("a.b.name", "b"), ("seed", "seed")],
)
def test_the_last_part_of_a_key(key, short):
    assert table.short_key(key) == short


@pytest.mark.parametrize("count", [8, 32])
def test_the_work_of_writing_tables_is_proportional_to_the_runs(tmp_path, monkeypatch, count):
    """What depends on all runs is found once, not for each of them."""
    runs = [
        table.CollectedRun(tmp_path / str(n), "llm", [f"beta={n}"], "finished", config={"beta": n}, results={"a": n})
        for n in range(count)
    ]
    rows = table.fold_seeds(runs)
    assert len(rows) == count
    calls: Counter[str] = Counter()

    def counting(name, function):
        def counted(*arguments):
            calls[name] += 1
            return function(*arguments)

        return counted

    monkeypatch.setattr(table, "varying_keys", counting("varying_keys", table.varying_keys))
    monkeypatch.setattr(table.Row, "coverage", counting("coverage", table.Row.coverage))
    table.write_tables(tmp_path, runs, rows, ["a"])
    assert calls == {"varying_keys": 1, "coverage": count}
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == count + 1
