"""The optimum of each method, from the table of docs/methods.md, beside what training made of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from conf.schema.base import ConfigError
from launch.analysis.marked_page import TABLE, read_marked
from launch.analysis.uncertainty import format_mean
from tools.leaderboard.board import Line
from tools.leaderboard.records import Row, defaults

METHODS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
FIRST = "one_of_many"  # the task by whose entropy the table is sorted
COLUMNS = ("15 : 1", "three spellings : one", "1e-4")  # of the table of optima
SHOWN = (("one_of_many", "coverage"), ("one_of_many", "entropy_nats"), ("spellings", "entropy_nats"))
NAMES = ("one_of_many: coverage", "entropy, nats", "spellings: entropy, nats")

Optima = dict[tuple[str, str], dict[str, str]]  # by method and KL


def read_optima(page: Path = METHODS_PAGE) -> Optima:
    """The table of where each method leads, by method and KL: the text of each cell by its column's name.

    Raises:
        ConfigError: the page has no such table, or its columns are others.
    """
    header, _, *lines = (
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in read_marked(page, *TABLE).strip().splitlines()
    )
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ConfigError(f"{page}: its table of optima has no column {missing[0]!r}")
    return {(cells[0], cells[1]): dict(zip(header, cells, strict=True)) for cells in lines}


def kl_of(row: Row) -> str:
    """The KL of a row's runs, as the table of optima names it."""
    settings = json.loads(row.settings)
    direction = settings.get("objective.direction", defaults()["objective.direction"])
    return str(direction).replace("_", "-") if row.beta else "none"


def comparison(boards: Mapping[str, Sequence[Line]], optima: Optima) -> str:
    """A table of the methods on FIRST whose settings are those of their files, the largest entropy first.

    Args:
        boards: the lines of each task.
        optima: from `read_optima`.
    """
    trained = {
        task: {(line.row.method, line.row.beta): line for line in lines if line.row and not line.note}
        for task, lines in boards.items()
    }
    rows = [("method", "KL, beta", *(f"optimum: {name}" for name in COLUMNS), *NAMES)]
    rows.append(("---",) * len(rows[0]))
    for key, line in sorted(trained.get(FIRST, {}).items(), key=lambda item: -item[1].means["entropy_nats"]):
        assert line.row is not None
        kl = kl_of(line.row)
        optimum = optima.get((line.row.method, kl), {})
        cells = [optimum.get(name, "") for name in COLUMNS]
        for task, result in SHOWN:
            other = trained.get(task, {}).get(key)
            cells.append(format_mean(other.means[result], other.errors[result]) if other else "")
        rows.append((f"`{line.row.method}`", f"{kl}, {line.row.beta:g}" if line.row.beta else kl, *cells))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
