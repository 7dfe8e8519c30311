"""The tables of `--help`, for a configuration that is made here. tests/conf checks them for every command."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import OmegaConf

from conf.schema.base import Key, Section, key
from launch.cli import groups, help


@dataclass
class Inner(Section):
    beta: float = key("reward units per nat", low=0)
    mode: str = key("how to choose", choices=("first", "second"))


@dataclass
class Outer(Section):
    seed: int = key("the seed", low=0)
    inner: Inner = key("holds others")
    path: str = key("a file")
    untold: dict[str, Any] = field(default_factory=dict)


def configuration(**values):
    values["inner"] = {"beta": 0.5, "mode": "first"}
    return OmegaConf.merge(OmegaConf.structured(Outer), values)


def test_each_key_has_a_line_with_value_and_meaning(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    table = help.key_table(configuration(seed=3))
    assert table.splitlines() == [
        "  seed=3                            the seed (>= 0)",
        "  inner.beta=0.5                    reward units per nat (>= 0)",
        "  inner.mode=first                  how to choose (first, second)",
        "  path=???                          a file",  # a value that must be given
        "  untold={}                         set by =OPTION",
    ]


@pytest.mark.parametrize(("columns", "width"), [("40", 80), ("100", 100), ("300", 120)])
def test_the_width_is_that_of_the_terminal_within_limits(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(Outer.__dataclass_fields__["path"], "metadata", {"key": Key("word " * 60)})
    lines = help.key_table(configuration(path="x")).splitlines()
    longest = max(map(len, lines))
    assert width - len("word ") < longest <= width
    wrapped = [line for line in lines if line.startswith(" " * help.COLUMN)]
    assert len(wrapped) >= 2


def test_a_long_entry_has_its_meaning_on_the_next_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = help.key_table(configuration(path="x" * 100)).splitlines()
    entry = lines.index(f"  path={'x' * 37}...")
    assert lines[entry + 1] == " " * help.COLUMN + "a file"


def test_a_range_is_not_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for length in range(25, 45):
        monkeypatch.setattr(
            Outer.__dataclass_fields__["seed"], "metadata", {"key": Key("x" * length, low=0, above=1)}
        )
        text = help.key_table(configuration(seed=3))
        assert ">= 0 and > 1" in text
        assert help.NO_BREAK not in text


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (Key("a number"), "a number"),
        (Key("a number", low=0), "a number (>=\u00a00)"),
        (Key("first or second", choices=("first", "second")), "first or second"),  # it names them already
        (Key("one", choices=("first", "second")), "one (first, second)"),
    ],
)
def test_a_meaning_is_followed_by_the_values(known, text):
    assert help.meaning(known) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ("", "''"),
        (OmegaConf.create({"a": [1, "b"]}), "{a: [1, b]}"),
        ("two\n  lines", "two lines"),
        ("x" * 41, "x" * 37 + "..."),
        ("x" * 40, "x" * 40),
    ],
)
def test_a_value_is_one_short_line(value, text):
    assert help.short_value(value) == text


def test_options_are_listed_with_their_first_comment(tmp_path, monkeypatch):
    texts = {
        "high": "# @package _global_\n# Costs $5.\n# More.\na: 1\n",
        "very_low": "a: 1\n# Late.\n",
        "none": "a: 1\n",
    }
    (tmp_path / "llm" / "price").mkdir(parents=True)
    for name, text in texts.items():
        (tmp_path / "llm" / "price" / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(groups, "CONF", tmp_path)
    assert help.option_table("llm").splitlines() == [
        "  price=high      Costs $$5.",  # escaped for Hydra's template
        "  price=none",
        "  price=very_low  Late.",
    ]
    assert help.option_table("chem") == ""
