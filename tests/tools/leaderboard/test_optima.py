"""Optima of docs/methods.md beside trained methods."""

import pytest

from conf.schema.base import ConfigError
from launch.analysis.marked_page import TABLE
from tools.leaderboard.board import board
from tools.leaderboard.optima import comparison, kl_of, read_optima
from tools.leaderboard.records import key_of

from .made_up import record


def test_the_optima_are_those_of_the_page():
    optima = read_optima()
    assert optima["mara_reverse", "reverse"]["15 : 1"] == "1"
    assert optima["mara_reverse", "reverse"]["three spellings : one"] == "3"
    assert optima["rloo", "reverse"]["15 : 1"] == "15"
    assert ("rloo", "none") not in optima


def test_a_table_with_other_columns_is_refused(tmp_path):
    page = tmp_path / "methods.md"
    page.write_text(f"{TABLE[0]}| `method=` | KL | 15 : 1 |\n|---|---|---|\n| `a` | none | 2 |\n{TABLE[1]}", "utf-8")
    with pytest.raises(ConfigError, match="has no column 'three spellings : one'"):
        read_optima(page)


@pytest.mark.parametrize(
    ("method", "beta", "kl"), [("rloo", 0.1, "reverse"), ("grpo", 0.1, "forward"), ("rloo", 0, "none")]
)
def test_the_kl_is_that_of_the_runs(method, beta, kl):
    assert kl_of(key_of(record(method, 0, 0.5, 0.5, beta=beta)).row) == kl


def test_trained_methods_are_sorted_by_entropy_and_have_their_own_optimum():
    rows = [
        record("rloo", 0, 0.9, 0.5, 0.25),
        record("rloo", 0, 0.9, 0.9, 0.75, task="spellings"),
        record("mara_reverse", 0, 0.9, 0.6, 0.5),
        record("grpo", 0, 0.9, 0.6, 0.9, settings={"steps": 1}),
    ]
    records = {key_of(row): row for row in rows}
    boards = {task: board(records, task) for task in ("one_of_many", "spellings")}
    lines = comparison(boards, read_optima()).splitlines()
    assert lines[0].startswith("| method | KL, beta | optimum: 15 : 1 |")
    assert lines[2:] == [
        "| `mara_reverse` | reverse, 0.1 | 1 | 3 | 0.5 | 0.600 | 0.500 |  |",
        "| `rloo` | reverse, 0.1 | 15 | 2 | 0.00016 | 0.500 | 0.250 | 0.750 |",
    ]
