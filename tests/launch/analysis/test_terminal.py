"""The printed tables: which results they show, and their width."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from launch.analysis.significance import Comparison
from launch.analysis.table import CollectedRun, Row
from launch.analysis.terminal import default_results, print_results, print_tests


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
        assert texts[width].count("result_") == len(keys)
        assert all(f"{value:.0f}" in texts[width] for value in results.values())
        assert max(map(len, texts[width].splitlines())) <= width
        assert "…" not in texts[width]
    assert texts[300].count("method") == 1 < texts[60].count("method")


def test_the_results_of_the_plot_come_first_and_nested_ones_not_at_all():
    keys = ["steps", "a", "base.a", "0.8/yield", "beta_final", "b", "c", "d", "e"]
    assert default_results(keys, ("b", "a")) == ["a", "b", "0.8/yield", "c", "d"]
    assert default_results(["base.a"], ()) == []


def printed(monkeypatch, width, function, *arguments):
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr("launch.runs.console.console", console)
    function(*arguments)
    return console.export_text()


def made_row(seeds, **results):
    return Row({"method": f"m{seeds}"}, [CollectedRun(Path("m"), "llm", [], "finished", results=results)] * seeds)


@pytest.mark.parametrize(
    ("rows", "title", "legend"),
    [
        ([made_row(2, x=1.0)], "mean ± standard error over seeds", ""),
        ([made_row(1, x=1.0)], "one seed", ""),
        ([made_row(1, x=1.0, **{"x/se": 0.5})], "one seed ± standard error", "±: over the prompts of the run"),
        (
            [made_row(1, x=1.0, **{"x/se": 0.5}), made_row(3, x=2.0)],
            "mean ± standard error over seeds",
            "± where n is 1: over the prompts of the run",
        ),
        ([made_row(1, x=1.0), made_row(3, x=2.0)], "mean ± standard error over seeds", ""),
    ],
)
def test_the_table_says_what_its_errors_are_over(monkeypatch, rows, title, legend):
    lines = printed(monkeypatch, 120, print_results, rows, ["x"]).splitlines()
    assert lines[0].strip() == title
    assert lines[-1].startswith(legend or "└")


def test_long_labels_are_whole_at_any_width(monkeypatch):
    methods = [f"mara_answers_{name}_with_a_long_name" for name in ("reverse", "forward")]
    rows = [
        Row({"method": m, "objective.beta": 0.1}, made_row(2, **{f"k{n}": 1.5 for n in range(8)}).runs)
        for m in methods
    ]
    tests = [Comparison("0.8/yield", row.label, 0.5, 2.25, 3.5, 0.04321, 0.95679) for row in rows]
    for width in (80, 100, 120):
        for text in (
            printed(monkeypatch, width, print_results, rows, [f"k{n}" for n in range(8)]),
            printed(monkeypatch, width, print_tests, tests, rows[0].label),
        ):
            assert max(map(len, text.splitlines())) <= width
            assert "…" not in text
            squeezed = "".join(
                line.split("│")[1 if "k0" in text else 2].strip() for line in text.splitlines() if "│" in line
            )
            assert all(method in squeezed for method in methods)


def test_the_tests_are_a_table(monkeypatch):
    console = Console(width=120, record=True, file=io.StringIO())
    monkeypatch.setattr("launch.runs.console.console", console)
    constant = Comparison("OB1", "method=mara", 0.0, *[float("nan")] * 4)
    print_tests([Comparison("yield", "method=mara", 0.5, 2.25, 3.5, 0.04321, 0.95679), constant], "method=plain")
    text = console.export_text()
    assert "Welch's t-test against method=plain, over seeds" in text
    row = next(line for line in text.splitlines() if "method=mara" in line)
    assert row.replace("\u2502", " ").split() == ["yield", "method=mara", "0.5", "2.25", "3.5", "0.0432", "0.957"]
    row = next(line for line in text.splitlines() if "OB1" in line)
    assert row.replace("\u2502", " ").split() == ["OB1", "method=mara", "0", "-", "-", "-", "-"]
