"""CSV files that are opened in a spreadsheet."""

import csv

import pandas as pd
import pytest

from launch.analysis.csv_cells import csv_cell, write_csv

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", "\r=1+1", "\n=1", " =1+1", "-", "+x.y=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "value", ["-1.5", "+2", "-1e-5", "-inf", "-nan", "nan", "", "text", "a=1", "C=C", -1.5, -3, None, True]
)
def test_control_numbers_and_other_text_are_unchanged(value):
    assert csv_cell(value) is value


def test_headers_and_cells_are_written_so_and_numbers_survive(tmp_path):
    rows = [{"=a": "=1+1", "n": -1.5, "text": "-1.5"}, {"n": float("nan"), "text": "=x", "more": 3}]
    write_csv(tmp_path / "table.csv", rows)
    with (tmp_path / "table.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["'=a", "n", "text", "more"],
            ["'=1+1", "-1.5", "-1.5", ""],
            ["", "", "'=x", "3"],
        ]
    assert pd.read_csv(tmp_path / "table.csv")["n"][0] == -1.5
