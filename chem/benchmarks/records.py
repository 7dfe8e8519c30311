"""Records of finished runs, one JSON line each, and the tables made from them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from launch.analysis.marked_page import write_marked
from launch.analysis.significance import welch_test
from launch.analysis.uncertainty import format_mean, standard_error
from launch.runs.atomic import make_folder
from launch.runs.fitted_table import FittedTable
from launch.runs.run_folder import iterate_jsonl, write_text


class Cell(NamedTuple):
    """One run: a method on a task with a seed."""

    method: str
    task: str
    seed: int


LEVEL = 0.05  # of the test whether a mean differs from that of the first method
STAR = "*"  # marks that it does
LEGEND = f"{STAR} p < {LEVEL:g} against {{method}} (Welch, two-sided, over seeds; each cell by itself)"

Records = dict[tuple[Cell, str], dict[str, Any]]  # by run and its settings


def read_records(path: Path) -> Records:
    """Read the file; empty if there is none."""
    if not path.exists():
        return {}
    return {(cell_of(row), settings_key(row["settings"])): row for row in iterate_jsonl(path)}


def cell_of(row: dict[str, Any]) -> Cell:
    """The run of a record."""
    return Cell(row["method"], row["task"], row["seed"])


def settings_key(settings: dict[str, Any]) -> str:
    """Settings as text that is equal for equal settings."""
    return json.dumps(settings, sort_keys=True)


def write_records(path: Path, records: Records) -> None:
    """Write all records, sorted, in place of the file."""
    make_folder(path.parent)
    rows = sorted(records.values(), key=lambda row: (*cell_of(row), settings_key(row["settings"])))
    write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


class Mean(NamedTuple):
    """Mean over seeds with its standard error, None with one seed."""

    value: float
    error: float | None
    runs: int

    def __str__(self) -> str:
        return format_mean(self.value, self.error)


def mean_of(values: Sequence[float]) -> Mean | None:
    """Mean and standard error; None without values."""
    if not values:
        return None
    error = standard_error(values) if len(values) > 1 else None
    return Mean(fmean(values), error, len(values))


def sum_of(means: Sequence[Mean | None]) -> Mean | None:
    """Sum of the means of all tasks, its error that of independent means; None if a task has no run."""
    known = [mean for mean in means if mean is not None]
    if len(known) < len(means) or not known:
        return None
    errors = [mean.error for mean in known if mean.error is not None]
    error = math.sqrt(sum(error**2 for error in errors)) if len(errors) == len(known) else None
    return Mean(sum(mean.value for mean in known), error, min(mean.runs for mean in known))


def table_rows(
    results: Mapping[Cell, Mapping[str, float | None]],
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: int,
    metrics: Sequence[str],
) -> list[list[str]]:
    """The cells of the table: a row for each task and metric, and with one metric their sum.

    Where seeds lack, their number follows in brackets; a figure that some run has not reached is `-`. A star marks
    means that differ from those of the first method (`differs`).

    Args:
        results: the figures of each finished run.
        methods: the columns.
        tasks: the rows.
        seeds: number of seeds of a complete cell.
        metrics: names of the figures.
    """
    rows = []
    for metric in metrics:
        values = {
            (method, task): seed_values(results, method, task, seeds, metric) for method in methods for task in tasks
        }
        for task in tasks:
            name = task if len(metrics) == 1 else f"{task} {metric}"
            of_task, base = [values[method, task] for method in methods], values[methods[0], task]
            stars = [STAR if differs(own, base) else "" for own in of_task]
            texts = [mean_text(mean_of(own), seeds) for own in of_task]
            rows.append([name, *(text + star for text, star in zip(texts, stars, strict=True))])
        if len(metrics) == 1:
            sums = [sum_of([mean_of(values[method, task]) for task in tasks]) for method in methods]
            rows.append(["sum", *(mean_text(total, seeds) for total in sums)])
    return rows


def seed_values(
    results: Mapping[Cell, Mapping[str, float | None]], method: str, task: str, seeds: int, metric: str
) -> list[float]:
    """The values of a metric of the seeds that have been run; none if one of them has no figure."""
    cells = [Cell(method, task, seed) for seed in range(seeds)]
    values = [results[cell].get(metric) for cell in cells if cell in results]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def differs(values: Sequence[float], base: Sequence[float]) -> bool:
    """Whether two means over at least two seeds each differ by Welch's t-test, two-sided, at the level `LEVEL`."""
    if min(len(values), len(base)) < 2:
        return False
    test = welch_test("", "", values, base)
    return 2 * min(test.greater, test.less) < LEVEL


def mean_text(mean: Mean | None, seeds: int) -> str:
    """A cell of the table."""
    if mean is None:
        return "-"
    return str(mean) if mean.runs == seeds else f"{mean} ({mean.runs})"


def console_table(title: str, methods: Sequence[str], rows: Sequence[Sequence[str]]) -> FittedTable:
    """The table for a terminal."""
    table = FittedTable(title)
    table.add_column("task", "label")
    for method in methods:
        table.add_column(method)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(methods: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown, with what its star means if it has one."""
    lines = [["task", *methods], ["---", *("---:" for _ in methods)], *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{LEGEND.format(method=methods[0])}" if has_star(rows) else table


def has_star(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a mean of the table differs from that of the first method."""
    return any(cell.endswith(STAR) for row in rows for cell in row)


def update_document(path: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of a name in a document.

    Raises:
        ConfigError: the document cannot be read or has no such marks.
    """
    write_marked(path, f"<!-- benchmark:{name} -->\n", f"<!-- /benchmark:{name} -->", f"{text}\n")
