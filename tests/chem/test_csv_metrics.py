"""CSV files of molecules and scores: reading, mistakes, the table and the figure."""

import csv
from types import SimpleNamespace

import pytest

from chem.csv_metrics import draw_yield, overall_table, parse_score, read_known, read_scored_file
from chem.metrics import collect_molecules, run_metrics
from conf.schema.base import ConfigError


def write(path, rows, columns=("smiles", "score")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_columns_are_read_by_name_and_an_empty_score_is_none(tmp_path):
    path = write(tmp_path / "a.csv", [(0, "OCC", "0.5"), (1, "", " "), (2, "C(", "-1e-3")], ("n", "SMILES", "R"))
    assert read_scored_file(path, "SMILES", "R") == (["OCC", "", "C("], [0.5, None, -0.001])
    with path.open("a") as file:
        file.write("3,CC\n")  # a short line has no score
    assert read_scored_file(path, "SMILES", "R")[1][-1] is None


def test_a_field_of_200_kb_is_read(tmp_path):
    """Python's csv refuses more than 131,072 characters, and RDKit crashes on chains of 20,000 atoms."""
    path = write(
        tmp_path / "a.csv", [("C" * 200_000, 0.5, ""), ("CCO", 0.25, "x" * 200_000)], ("smiles", "score", "x")
    )
    smiles, scores = read_scored_file(path, None, "score")
    assert (list(map(len, smiles)), scores) == ([200_000, 3], [0.5, 0.25])
    assert collect_molecules(smiles, scores).smiles == ["CCO"]


def test_known_molecules_are_counted_and_needed(tmp_path):
    """A file in which nothing could be read gave a novelty of 1."""
    lines: list[str] = []
    config = SimpleNamespace(known=str(tmp_path / "known.csv"), known_smiles_column=None)
    run = SimpleNamespace(info=lines.append)
    (tmp_path / "known.csv").write_text("id,smiles\n1,OCC\n2,CCO\n3,C(\n4,CCN\n")
    counts = {"lines": 4, "kept": 2, "duplicate": 1, "not a molecule": 1}
    assert read_known(config, run) == (["CCO", "CCN"], counts)
    assert lines == ["known: lines 4, kept 2, duplicate 1, not a molecule 1"]
    (tmp_path / "known.csv").write_text("1;x\n2;y\n")
    with pytest.raises(
        ConfigError, match=r"^known: there are no molecules in known\.csv \(lines 2, kept 0, not a mol"
    ):
        read_known(config, run)
    config.known = None
    assert read_known(config, run) is None


@pytest.mark.parametrize(
    ("columns", "key"), [(("SMILES", "score"), "smiles_column"), (("smiles", "R"), "score_column")]
)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, columns, key):
    path = write(tmp_path / "a.csv", [("C", 1)], columns)
    wanted = "smiles" if key == "smiles_column" else "score"
    message = rf"^{key}: a\.csv has no column {wanted}; its columns are: {', '.join(columns)}$"
    with pytest.raises(ConfigError, match=message):
        read_scored_file(path, "smiles", "score")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ConfigError, match=r"score_column: .* its columns are: none"):
        read_scored_file(path, "smiles", "score")


@pytest.mark.parametrize("score", ["high", "nan", "inf"])
def test_a_score_that_is_not_a_finite_number_is_refused(tmp_path, score):
    path = write(tmp_path / "bad.csv", [("CCO", 0.5), ("CC", score)])
    message = rf"score_column: scores must be finite numbers or empty, got {score} \(bad.csv, line 3\)"
    with pytest.raises(ConfigError, match=message):
        read_scored_file(path, "smiles", "score")
    assert parse_score(" 2e-1 ", "") == 0.2  # control
    assert parse_score(" ", "") is None


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
