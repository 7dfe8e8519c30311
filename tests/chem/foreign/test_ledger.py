"""The table of keys: none is lost."""

import pytest

from chem.foreign.ledger import Ledger, Section, flag, number, text, texts, whole
from conf.schema.base import ConfigError

SOURCE = {"a": 1, "b": {"c": "x", "d": {}, "e": []}, "f": [{"g": 1}, {"g": [1, 2]}], "h": None}


def source():
    ledger = Ledger()
    section = Section(ledger, SOURCE, "", "REINVENT 4")
    ledger.add(section)
    return section


def test_every_key_is_in_the_table_before_anything_is_noted():
    rows = source().ledger.table()
    assert [row.key for row in rows] == ["a", "b.c", "b.d", "b.e", "f.0.g", "f.1.g", "h"]
    assert {row.status for row in rows} == {"none"}
    assert str(rows[0]) == "-- a = 1: no counterpart: unknown key; check whether the run depends on it"


def test_notes_replace_the_row_and_defaults_are_added():
    section = source()
    assert section.convert("a", None, "ours", whole) == 1
    assert section.section("b").convert("z", 5, "zed", whole) == 5
    section.note("f", "same", "nothing")
    section.note("missing", "same", "not in the source")
    rows = {row.key: str(row) for row in section.ledger.table()}
    assert rows["a"] == "-> a = 1: ours=1"
    assert rows["b.z"] == "-> b.z = 5 (the default of REINVENT 4): zed=5"
    assert rows["f.1.g"] == "== f.1.g = [1, 2]: nothing"
    assert "missing" not in rows
    assert list(rows)[-1] == "b.z"


def test_a_component_that_is_left_out_takes_its_notes_along():
    section = source()
    part = section.sections("f")[0]
    part.convert("weight", 1.0, "weight", number)
    part.convert("g", None, "g", whole)
    part.leave_out("QED", "it is gone")
    rows = {row.key: row for row in section.ledger.table()}
    assert "f.0.weight" not in rows
    assert rows["f.0.g"].text == "QED is left out of the score: it is gone"


def test_a_value_of_the_wrong_kind_is_one_line():
    with pytest.raises(ConfigError, match=r"^b\.c: cannot be converted into steps, got x$"):
        source().section("b").convert("c", None, "steps", whole)
    with pytest.raises(ConfigError, match=r"^a: must be a table, got 1$"):
        source().section("a")


def test_kinds_of_values():
    assert (number(2), whole(2.0), flag(False), text("a"), texts("a"), texts(["a"])) == (
        2.0,
        2,
        False,
        "a",
        ["a"],
        ["a"],
    )
    for kind, value in ((number, "2"), (number, True), (whole, 2.5), (flag, 1), (text, ""), (texts, [1])):
        with pytest.raises((TypeError, ValueError)):
            kind(value)
