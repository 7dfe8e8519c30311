"""Tables of all commands fit the terminal: nothing is cut, and labels stay distinguishable."""

import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from launch.runs.fitted_table import FittedTable, wrap

from ...tables import WIDTHS, check_fits, printed, rows

MODELS = [
    f"method=mara_answers_{direction}, objective.beta={beta}"
    for direction in ("reverse", "forward")
    for beta in (1, 2)
]


def answers_table():
    """The closing table of a sweep on a task with eight answers."""
    table = FittedTable("Shares of all completions", "by sequence: what it is")
    table.add_column("model", "label")
    for name in ("correct", *(f'"{answer}"' for answer in range(8)), "entropy, nats", "log-ratio (eq. 7)"):
        table.add_column(name)
    for number, model in enumerate(MODELS):
        table.add_row(model, *(f"0.{number}{column}1" for column in range(9)), "1.234 ± 0.056", "2.43 (1.95)")
    return table


@pytest.mark.parametrize("width", WIDTHS)
def test_eight_answers_and_long_labels_fit(width):
    text = printed(answers_table(), width)
    numbers = [f"0.{number}{column}1" for number in range(len(MODELS)) for column in range(9)]
    check_fits(text, width, MODELS)
    for number in [*numbers, "1.234 ± 0.056", "2.43 (1.95)"]:  # on one line
        assert re.search(rf"│ +{re.escape(number)} +│", text), number
    for model in MODELS:  # every number is in a row with its model
        of_model = [row for row in rows(text) if re.sub(r"\s", "", row[0]) == re.sub(r"\s", "", model)]
        assert sum(len(row) - 1 for row in of_model) == 11
    assert text.splitlines()[0] == "Shares of all completions"
    assert text.splitlines()[-1] == "by sequence: what it is"


def test_a_table_that_fits_is_one_table_without_wrapping():
    text = printed(answers_table(), 250)
    assert text.count("model") == 1
    assert "├" not in text  # no line is drawn between rows where each is one line
    assert text.count("│") == (12 + 1) * len(MODELS)


def test_control_a_table_of_rich_is_cut():
    from rich.table import Table

    table = Table()
    for column in answers_table().columns:
        table.add_column(column.header)
        column.cells = column.cells[:1]
    table.add_row(*(column.cells[0] for column in answers_table().columns))
    with pytest.raises(AssertionError):
        check_fits(printed(table, 60), 60, [MODELS[0]])


@pytest.mark.parametrize("width", [10, 20])
def test_a_terminal_that_is_too_narrow_for_a_table_gets_a_list(width):
    text = printed(answers_table(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("└") == 1


def test_numbers_are_spread_over_tables_of_similar_size():
    table = FittedTable()
    table.add_column("run", "label")
    for number in range(10):
        table.add_column(f"result_{number}")
    table.add_row("a", *["0.123 ± 0.012"] * 10)
    counts = [line.count("result") for line in printed(table, 80).splitlines() if "result" in line]
    assert counts == [4, 4, 2]


def test_labels_are_repeated_and_text_may_be_wrapped():
    table = FittedTable()
    table.add_column("score")
    table.add_column("SMILES", "label")
    table.add_row("0.5", "C" * 200)
    table.add_row("0.4", "O")
    text = printed(table, 80)
    check_fits(text, 80, ["C" * 200])
    for width in (80, 250):
        text = printed(table, width)
        assert text.index("score") < text.index("SMILES")  # in the order in which they were added


def test_sections_and_colours():
    table = FittedTable()
    table.add_column("", "label")
    table.add_column("n")
    table.add_row("a", Text("1", "red"))
    table.add_section()
    table.add_row("sum", "1")
    assert printed(table, 80).count("├") == 1
    file = io.StringIO()
    Console(width=80, file=file, force_terminal=True, color_system="standard").print(table)
    assert "\x1b[31m1" in file.getvalue()
    with pytest.raises(ValueError, match="zip"):
        table.add_row("too few")


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 7, ["one two", "three"]),
        ("one two", 7, ["one two"]),
        ("method=mara_answers", 12, ["method=mara_", "answers"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("a=bcdef g h", 6, ["a=", "bcdef", "g h"]),
        ("ab=cdefg h", 7, ["ab=", "cdefg h"]),
        ("a\nb", 5, ["a", "b"]),
        ("", 5, [""]),
        ("日本語", 4, ["日本", "語"]),
    ],
)
def test_wrapping(text, width, lines):
    assert wrap(text, width).split("\n") == lines


def test_a_text_of_units_is_broken_between_them_where_a_line_is_full():
    def lines(units):
        table = FittedTable()
        table.add_column("score")
        table.add_column("SMILES", "label", units)
        table.add_row("0.9", "CS(=O)(=O)N(CC(=O)Nc1ccccc1C#N)ccClcc1")
        return re.findall(r"│ +(\S+) +│$", printed(table, 29), re.MULTILINE)

    assert lines(re.compile("Cl|.")) == ["CS(=O)(=O)N(CC(=O", ")Nc1ccccc1C#N)cc", "Clcc1"]
    assert lines(re.compile(".")) == ["CS(=O)(=O)N(CC(=O", ")Nc1ccccc1C#N)ccC", "lcc1"]  # controls
    assert lines(None)[0].endswith("=")
