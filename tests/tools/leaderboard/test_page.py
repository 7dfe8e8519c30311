"""The page from records: its numbers are computed here in another way."""

import re
import statistics
from pathlib import Path

import pytest

from conf.schema.base import ConfigError
from launch.analysis.marked_page import read_marked
from launch.cli.groups import options
from tools.leaderboard.board import board
from tools.leaderboard.page import BEGIN, END, text, write_page
from tools.leaderboard.records import RECORDS, RESULTS, TASKS, key_of, read_records

from .made_up import record

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "leaderboard.md"


@pytest.fixture
def page(tmp_path):
    (tmp_path / "images").mkdir()
    path = tmp_path / "page.md"
    path.write_text(f"# Board\n\nBefore.\n\n{BEGIN}old\n{END}\n\nAfter.\n", "utf-8")
    return path


def test_the_page_has_the_tables_and_pictures_of_its_records(page):
    rows = [record("rloo", seed, 0.9 + seed / 50, 0.5, 0.3) for seed in range(3)]
    rows += [record("grpo", 0, 0.5, 0.5, 0.3, task="spellings", settings={"steps": 3})]
    pictures = write_page(page, {key_of(row): row for row in rows})
    written = page.read_text("utf-8")
    assert written.startswith("# Board\n\nBefore.\n\n")
    assert written.endswith("\n\nAfter.\n")
    assert "old" not in written
    assert "| `rloo` | 0.1 | 0, 1, 2 | 0.920 ± 0.012 | 0.500 ± 0.000 |" in written
    assert "| `grpo`, `steps=3` | 0.1 | 0 | 0.500 | 0.500 |" in written
    assert written.index("### one_of_many") < written.index("### spellings")
    assert [path.name for path in pictures] == ["leaderboard_one_of_many.png", "leaderboard_spellings.png"]
    assert all(f"(images/{path.name})" in written and path.is_file() for path in pictures)
    assert "4 runs, of commit 0123456, with torch 2.13." in written
    once = written
    write_page(page, {key_of(row): row for row in rows[::-1]})
    assert page.read_text("utf-8") == once


def test_without_records_or_a_place_for_them_the_page_is_left_alone(page):
    before = page.read_text("utf-8")
    with pytest.raises(ConfigError, match="there are no records to write; add those of a sweep first"):
        write_page(page, {})
    assert page.read_text("utf-8") == before
    page.write_text("# Board\n", "utf-8")
    row = record("rloo", 0, 0.5, 0.5)
    with pytest.raises(ConfigError, match="must have the lines '<!-- leaderboard -->'"):
        write_page(page, {key_of(row): row})
    assert not list((page.parent / "images").iterdir())


@pytest.mark.slow  # composes the configuration of every method on every task
def test_the_shipped_page_is_that_of_the_shipped_records():
    records = read_records(ROOT / RECORDS)
    boards = {task: lines for task in TASKS if (lines := board(records, task))}
    command = "python -m tools.leaderboard --page docs/leaderboard.md"
    assert read_marked(PAGE, BEGIN, END) == text(records, boards), command
    for task in boards:
        assert (PAGE.parent / "images" / f"leaderboard_{task}.png").is_file()


def test_the_numbers_of_the_shipped_page_are_those_of_its_records():
    """Every cell with a mean, from the lines of the file with the standard library alone."""
    records = list(read_records(ROOT / RECORDS).values())
    assert {row["method"] for row in records} <= set(options("llm", "method"))
    checked = 0
    for section in read_marked(PAGE, BEGIN, END).split("\n### ")[1:]:
        task = section.split("\n", 1)[0]
        if task not in TASKS:
            continue
        for name, beta, seeds, *cells in re.findall(
            r"^\| `(\w+)` \| (\S+) \| ([\d, ]+) " + r"\| ([^|]*) " * 4, section, re.M
        ):
            rows = [row for row in records if (row["task"], row["method"], row["beta"]) == (task, name, float(beta))]
            assert sorted(row["seed"] for row in rows) == [int(seed) for seed in seeds.split(",")]
            for key, cell in zip(RESULTS, cells, strict=True):
                mean, _, error = cell.strip().partition(" ± ")
                rounding = 0.501 * 10.0 ** -len(mean.partition(".")[2])
                values = [row[key] for row in rows]
                assert float(mean) == pytest.approx(statistics.fmean(values), abs=rounding)
                if len(values) > 1:
                    assert float(error) == pytest.approx(statistics.stdev(values) / len(values) ** 0.5, abs=rounding)
                else:
                    assert error == ""
                checked += 1
    assert checked >= 4 * 20
