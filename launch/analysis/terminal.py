"""Print the tables of a collected sweep, within the width of the terminal."""

import math
from collections.abc import Sequence

from launch.analysis.significance import Comparison
from launch.analysis.table import NESTED, Row, short_key
from launch.analysis.uncertainty import format_mean
from launch.runs import console as consoles
from launch.runs.fitted_table import FittedTable


def default_results(keys: Sequence[str], axes: Sequence[str]) -> list[str]:
    """The results that are printed by default: those of pareto.png, then the first others, five in all."""
    others = [key for key in keys if key not in (*axes, "steps", "beta_final") and not NESTED.match(key)]
    return [*reversed(axes), *others][:5]


def print_results(rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Print the results of the rows."""
    table = FittedTable(*results_title(rows, keys))
    for column in (*(rows[0].varying if rows else ()), "n"):
        table.add_column(short_key(column), "label")
    for key in keys:
        table.add_column(key)
    for row in rows:
        cells = [f"{format_mean(*row.result(key))} {_in_brackets(row.coverage(key))}".strip() for key in keys]
        table.add_row(*map(str, row.varying.values()), str(len(row.runs)), *cells)
    consoles.console.print(table)


def results_title(rows: Sequence[Row], keys: Sequence[str]) -> tuple[str, str]:
    """The title and legend of a table of results, which say what the errors are over."""
    over = {row.error_over for row in rows if any(not math.isnan(row.result(key)[1]) for key in keys)}
    one_seed = "over the prompts of the run, or its completions if it has one prompt"
    if over == {"prompts"}:
        return "one seed ± standard error", f"±: {one_seed}"
    if not over:
        return "one seed" if all(len(row.runs) == 1 for row in rows) else "mean over seeds", ""
    return "mean ± standard error over seeds", f"± where n is 1: {one_seed}" if "prompts" in over else ""


def print_tests(tests: Sequence[Comparison], against: str) -> None:
    """Print the results of the t-tests against a row, which `against` names."""
    table = FittedTable(f"Welch's t-test against {against}, over seeds: p, one-sided")
    for column in ("result", "row"):
        table.add_column(column, "label")
    for column in ("difference", "t", "df", "p (greater)", "p (less)"):
        table.add_column(column)
    for test in tests:
        numbers = (test.difference, test.t, test.degrees, test.greater, test.less)
        table.add_row(test.key, test.label, *("-" if math.isnan(number) else f"{number:.3g}" for number in numbers))
    consoles.console.print(table)


def _in_brackets(text: str) -> str:
    return f"({text})" if text else ""
