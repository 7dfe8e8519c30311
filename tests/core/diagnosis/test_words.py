"""Numbers and ratios in words."""

import math

import pytest

from core.diagnosis.words import MAX_QUOTED, count, number, percent, quoted, ratio


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.log(25), "25 to 1"),
        (-math.log(25), "1 to 25"),
        (math.log(1.4), "1.4 to 1"),
        (0.0, "1 to 1"),
        (-1e-12, "1 to 1"),
        (math.log(187), "187 to 1"),
        (math.log(2.7e43), "3e+43 to 1"),
        (1000.0, "e^1000 to 1"),
        (math.inf, "all to none"),
    ],
)
def test_ratios(value, text):
    assert ratio(value) == text


def test_numbers_and_texts():
    assert [number(x) for x in (0.0311, 1.0, 12345.0, math.nan)] == ["0.0311", "1", "12345", "-"]
    assert number(0.25, sign=True) == "+0.25"
    assert [percent(x) for x in (0.5, 0.0052, 0.0, 1e-9)] == ["50.0%", "0.52%", "0.0%", "<0.01%"]
    assert [count(1, "prompt"), count(2000, "prompt")] == ["1 prompt", "2,000 prompts"]
    assert quoted("a\n b") == "'a b'"
    assert quoted(" ") == "(empty)"
    assert len(quoted("x" * 500)) == MAX_QUOTED + 2
