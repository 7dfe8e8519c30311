"""Records of finished runs, and the tables made from them."""

import pytest
from scipy.stats import ttest_ind

from chem.benchmarks.records import (
    Cell,
    markdown_table,
    mean_of,
    read_records,
    settings_key,
    sum_of,
    table_rows,
    update_document,
    write_records,
)
from conf.schema.base import ConfigError


def record(method, task, seed, **settings):
    return {"method": method, "task": task, "seed": seed, "settings": settings, "auc_top10": 0.5}


def test_records_are_read_as_they_were_written(tmp_path):
    rows = [record("b", "t", 0), record("a", "t", 1), record("a", "t", 1, beta=0.1)]
    records = {(Cell(row["method"], row["task"], row["seed"]), settings_key(row["settings"])): row for row in rows}
    path = tmp_path / "new" / "pmo.jsonl"
    assert read_records(path) == {}
    write_records(path, records)
    assert read_records(path) == records
    assert [line.split('"method": ')[1][:3] for line in path.read_text().splitlines()] == ['"a"', '"a"', '"b"']


def test_mean_and_standard_error():
    mean = mean_of([0.1, 0.2, 0.6])
    assert str(mean) == "0.30 ± 0.15"  # sqrt((.04 + .01 + .09) / 2 / 3)
    assert str(mean_of([0.25])) == "0.250"
    assert mean_of([]) is None


def test_the_errors_of_independent_means_add_up():
    total = sum_of([mean_of([0.0, 0.6]), mean_of([0.2, 1.0])])
    assert (total.value, total.error) == (pytest.approx(0.9), pytest.approx(0.5))  # errors .3 and .4
    assert sum_of([mean_of([0.0]), None]) is None


def figures(**values):
    """Records with one figure each, named a_x_0 for method a, task x and seed 0."""
    names = {name: name.split("_") for name in values}
    return {Cell(method, task, int(seed)): {"top": values[name]} for name, (method, task, seed) in names.items()}


def test_missing_runs_are_shown():
    results = figures(a_x_0=0.2, a_x_1=0.4, a_y_0=0.5, b_x_1=0.1)
    assert table_rows(results, ["a", "b"], ["x", "y"], 2, ["top"]) == [
        ["x", "0.30 ± 0.10", "0.100 (1)"],
        ["y", "0.500 (1)", "-"],
        ["sum", "0.800 (1)", "-"],
    ]


def test_a_star_marks_what_differs_from_the_first_method():
    """Against scipy's own test; the last two columns are a difference that is none and one that has a single seed."""
    seeds = {"a": (1.0, 1.1, 1.2), "b": (1.5, 1.6, 1.8), "c": (1.1, 1.2, 1.4), "d": (9.0,)}
    results = {Cell(name, "x", i): {"top": v} for name, values in seeds.items() for i, v in enumerate(values)}
    (row, _) = table_rows(results, list(seeds), ["x"], 3, ["top"])
    expected = [ttest_ind(seeds[name], seeds["a"], equal_var=False).pvalue < 0.05 for name in "abc"]
    assert [cell.endswith("*") for cell in row[1:]] == [*expected, False] == [False, True, False, False]
    assert markdown_table(list(seeds), [row]).splitlines()[-1].startswith("* p < 0.05 against a (Welch")
    assert not markdown_table(["a"], [row[:2]]).splitlines()[-1].startswith("*")


def test_a_row_for_each_figure():
    results = {Cell("a", "x", 0): {"yield": 870, "OB1": 3}, Cell("a", "x", 1): {"yield": 880, "OB1": None}}
    rows = table_rows(results, ["a"], ["x"], 2, ["yield", "OB1"])
    assert rows == [["x yield", "875.0 ± 5.0"], ["x OB1", "-"]]  # no mean of what a run has not reached


def test_the_document_keeps_the_rest(tmp_path):
    path = tmp_path / "results.md"
    path.write_text("before\n<!-- benchmark:pmo -->\nold\n<!-- /benchmark:pmo -->\nafter\n")
    table = markdown_table(["a"], [["x", "0.1"]])
    update_document(path, "pmo", table)
    update_document(path, "pmo", table)
    lines = ["before", "<!-- benchmark:pmo -->", "| task | a |", "| --- | ---: |", "| x | 0.1 |"]
    assert path.read_text().splitlines() == [*lines, "<!-- /benchmark:pmo -->", "after"]
    with pytest.raises(ConfigError, match="must have the lines '<!-- benchmark:molexp -->'"):
        update_document(path, "molexp", table)
    with pytest.raises(ConfigError, match=r"missing\.md: cannot be read"):
        update_document(tmp_path / "missing.md", "pmo", table)
