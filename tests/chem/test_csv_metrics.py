"""CSV files of molecules and scores: reading, mistakes, the table and the figure."""

import csv

import pytest

from chem.csv_metrics import draw_yield, overall_table, parse_score, read_molecules
from chem.metrics import collect_molecules, run_metrics
from conf.schema.base import ConfigError


def write(path, rows, columns=("smiles", "score")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_columns_are_read_by_name_and_an_empty_score_is_none(tmp_path):
    path = write(tmp_path / "a.csv", [(0, "OCC", "0.5"), (1, "", " "), (2, "C(", "-1e-3")], ("n", "SMILES", "R"))
    assert read_molecules(path, "SMILES", "R") == (["OCC", "", "C("], [0.5, None, -0.001])
    with path.open("a") as file:
        file.write("3,CC\n")  # a short line has no score
    assert read_molecules(path, "SMILES", "R")[1][-1] is None


@pytest.mark.parametrize(
    ("columns", "key"), [(("SMILES", "score"), "smiles_column"), (("smiles", "R"), "score_column")]
)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, columns, key):
    path = write(tmp_path / "a.csv", [("C", 1)], columns)
    wanted = "smiles" if key == "smiles_column" else "score"
    message = rf"^{key}: a\.csv has no column {wanted}; its columns are: {', '.join(columns)}$"
    with pytest.raises(ConfigError, match=message):
        read_molecules(path, "smiles", "score")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ConfigError, match=r"smiles_column: .* its columns are: none"):
        read_molecules(path, "smiles", "score")


@pytest.mark.parametrize("score", ["high", "nan", "inf"])
def test_a_score_that_is_not_a_finite_number_is_refused(tmp_path, score):
    path = write(tmp_path / "bad.csv", [("CCO", 0.5), ("CC", score)])
    message = rf"score_column: scores must be finite numbers or empty, got {score} \(bad.csv, line 3\)"
    with pytest.raises(ConfigError, match=message):
        read_molecules(path, "smiles", "score")
    assert parse_score(" 2e-1 ", "") == 0.2  # control
    assert parse_score(None, "") is None


def test_the_table_and_the_figure(tmp_path):
    molecules = collect_molecules(["CCO", "CCO", "C(", "c1ccccc1"], [0.5, 0.1, 0.0, None])
    table = overall_table(run_metrics(molecules, [0.4]))
    cells = {column.header: next(iter(column.cells)) for column in table.columns}
    assert cells == {
        "generated": "4",
        "calls": "2",
        "unscored": "1",
        "validity": "0.750",
        "uniqueness": "0.667",
        "novelty": "-",
        "scaffolds": "2",
    }
    draw_yield(tmp_path / "figure.png", molecules, [0.4, 0.9])
    assert (tmp_path / "figure.png").stat().st_size > 5000
