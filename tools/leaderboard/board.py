"""The rows of a task's leaderboard: means over seeds, standard errors, and the Pareto fronts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from launch.analysis.pareto import on_the_front
from launch.analysis.uncertainty import standard_error
from tools.leaderboard.records import RESULTS, Records, Row, differences

QUALITY, DIVERSITY = "correct", ("coverage", "entropy_nats")  # a front for the quality and each of these
# Settings on which the figures of the model before training depend.
OF_THE_BASE = ("model.", "task.", "data.", "reward.", "evaluation_completions", "max_new_tokens", "truncated")


class Line(NamedTuple):
    """A row of the board.

    Attributes:
        row: the method, task, beta and settings; None for the base, the model before training.
        note: how its settings differ from those of the method's files now, as overrides.
        seeds: of its runs.
        means: mean of each result over the seeds.
        errors: its standard error, with n - 1; NaN for one seed.
        fronts: those of DIVERSITY on whose front with the quality it is.
    """

    row: Row | None
    note: list[str]
    seeds: list[int]
    means: dict[str, float]
    errors: dict[str, float]
    fronts: tuple[str, ...] = ()


def board(records: Records, task: str) -> list[Line]:
    """The lines of a task: the base, the lines on a front by quality, the others by coverage; the best come first.

    A line is on a front if no other one, the base included, has a mean as good in both results and better in one.
    """
    runs: dict[Row, list[dict[str, Any]]] = defaultdict(list)
    for key, record in records.items():
        if key.row.task == task:
            runs[key.row].append(record)
    if not runs:
        return []
    bases = base_records(records, task)
    lines = [base_line(bases)] if bases else []
    lines += [line_of(row, differences(row), of_row) for row, of_row in runs.items()]
    lines = with_fronts(lines)
    return sorted(lines, key=lambda line: (line.row is not None, not line.fronts, *order(line)))


def order(line: Line) -> tuple[float, ...]:
    """Where a line stands among those on a front, or among those that are on none."""
    first, second = (QUALITY, DIVERSITY[0]) if line.fronts else (DIVERSITY[0], QUALITY)
    return (-line.means[first], -line.means[second])


def line_of(row: Row | None, note: list[str], records: Sequence[Mapping[str, Any]]) -> Line:
    """The line of some records, one for each seed."""
    values = {name: [float(record[name]) for record in records] for name in RESULTS}
    return Line(
        row,
        note,
        sorted(record["seed"] for record in records),
        {name: fmean(of_seeds) for name, of_seeds in values.items()},
        {name: standard_error(of_seeds) for name, of_seeds in values.items()},
    )


def base_line(records: Sequence[Mapping[str, Any]]) -> Line:
    """The line of the model before training, whose evaluation draws the same completions in all runs of a seed."""
    by_seed: dict[int, Mapping[str, Any]] = {}
    for record in records:
        by_seed.setdefault(record["seed"], {"seed": record["seed"], **record["base"]})
    return line_of(None, [], list(by_seed.values()))


def base_records(records: Records, task: str) -> list[Mapping[str, Any]]:
    """The records whose base is that of the task's files: its model, evaluated in the same way."""
    return [
        record
        for key, record in records.items()
        if key.row.task == task and not any(text.startswith(OF_THE_BASE) for text in differences(key.row))
    ]


def with_fronts(lines: Sequence[Line]) -> list[Line]:
    """The lines with the fronts that they are on."""
    on = {name: on_the_front([(line.means[QUALITY], line.means[name]) for line in lines]) for name in DIVERSITY}
    return [
        line._replace(fronts=tuple(name for name in DIVERSITY if on[name][number]))
        for number, line in enumerate(lines)
    ]
