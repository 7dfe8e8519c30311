"""Records of finished runs, one JSON line each, and the tables made from them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conf.schema.base import ConfigError
from launch.runs.atomic import make_folder
from launch.runs.fitted_table import FittedTable
from launch.runs.run_folder import iterate_jsonl, write_text


class Cell(NamedTuple):
    """One run: a method on a task with a seed."""

    method: str
    task: str
    seed: int


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
        error = "" if self.error is None else f" ± {self.error:.3f}"
        return f"{self.value:.3f}{error}"


def mean_of(values: Sequence[float]) -> Mean | None:
    """Mean and standard error; None without values."""
    if not values:
        return None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(float(np.mean(values)), error, len(values))


def sum_of(means: Sequence[Mean | None]) -> Mean | None:
    """Sum of the means of all tasks, its error that of independent means; None if a task has no run."""
    known = [mean for mean in means if mean is not None]
    if len(known) < len(means) or not known:
        return None
    errors = [mean.error for mean in known if mean.error is not None]
    error = math.sqrt(sum(error**2 for error in errors)) if len(errors) == len(known) else None
    return Mean(sum(mean.value for mean in known), error, min(mean.runs for mean in known))


def table_rows(
    results: dict[Cell, float], methods: Sequence[str], tasks: Sequence[str], seeds: int
) -> list[list[str]]:
    """The cells of the table: a row for each task, and the sum. Where seeds lack, their number follows in brackets.

    Args:
        results: the figure of each finished run.
        methods: the columns.
        tasks: the rows.
        seeds: number of seeds of a complete cell.
    """

    def text(mean: Mean | None) -> str:
        if mean is None:
            return "-"
        return str(mean) if mean.runs == seeds else f"{mean} ({mean.runs})"

    means = {
        method: [
            mean_of([results[cell] for seed in range(seeds) if (cell := Cell(method, task, seed)) in results])
            for task in tasks
        ]
        for method in methods
    }
    rows = [[task, *(text(means[method][number]) for method in methods)] for number, task in enumerate(tasks)]
    return [*rows, ["sum", *(text(sum_of(means[method])) for method in methods)]]


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
    """The table in Markdown."""
    lines = [["task", *methods], ["---", *("---:" for _ in methods)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def update_document(path: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of a name in a document.

    Raises:
        ConfigError: the document cannot be read or has no such marks.
    """
    begin, end = f"<!-- benchmark:{name} -->", f"<!-- /benchmark:{name} -->"
    try:
        before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    except OSError as error:
        raise ConfigError(f"document: cannot read {path} ({error.strerror})") from error
    _, found, after = rest.partition(end)
    if not found:
        raise ConfigError(
            f"document: {path} must have the lines {begin} and {end}, between which the table is written"
        )
    write_text(path, f"{before}{begin}\n{text}\n{end}{after}")
