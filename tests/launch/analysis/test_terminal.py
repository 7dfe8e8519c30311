"""The printed tables: which results they show, and their width."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from launch.analysis.significance import Comparison
from launch.analysis.table import CollectedRun, Row
from launch.analysis.terminal import default_results, format_mean, print_results, print_tests


def test_a_table_wider_than_the_terminal_is_cut_into_several(monkeypatch):
    keys = [f"long_name_of_result_{number}" for number in range(5)]
    results = {key: 1000.0 + number for number, key in enumerate(keys)}
    row = Row({"method": "m"}, [CollectedRun(Path("m"), "chem", [], "finished", results=results)])
    texts = {}
    for width in (60, 300):
        console = Console(width=width, record=True, file=io.StringIO())
        monkeypatch.setattr("launch.runs.console.console", console)
        print_results([row], keys)
        texts[width] = console.export_text()
        assert all(key in texts[width] and f"{value:.3f}" in texts[width] for key, value in results.items())
        assert max(map(len, texts[width].splitlines())) <= width
        assert "…" not in texts[width]
    assert texts[300].count("mean ±") == 1 < texts[60].count("mean ±")


def test_the_results_of_the_plot_come_first_and_nested_ones_not_at_all():
    keys = ["steps", "a", "base.a", "0.8/yield", "beta_final", "b", "c", "d", "e"]
    assert default_results(keys, ("b", "a")) == ["a", "b", "0.8/yield", "c", "d"]
    assert default_results(["base.a"], ()) == []


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (math.nan, 0.1, "-"),
        (0.12345, math.nan, "0.123"),
        (0.12345, 0.0019, "0.123 \u00b1 0.002"),
        (-2, 0, "-2.000 \u00b1 0.000"),
    ],
)
def test_a_mean_with_its_error(value, error, text):
    assert format_mean(value, error) == text


def test_the_tests_are_a_table(monkeypatch):
    console = Console(width=120, record=True, file=io.StringIO())
    monkeypatch.setattr("launch.runs.console.console", console)
    print_tests([Comparison("yield", "method=mara", 0.5, 2.25, 3.5, 0.04321, 0.95679)], "method=plain")
    text = console.export_text()
    assert "Welch's t-test against method=plain" in text
    row = next(line for line in text.splitlines() if "method=mara" in line)
    assert row.replace("\u2502", " ").split() == ["yield", "method=mara", "0.5", "2.25", "3.5", "0.0432", "0.957"]
