"""Print the tables of a collected sweep, within the width of the terminal."""

import math
import re
from collections.abc import Sequence

from rich.table import Table

from launch.analysis.significance import Comparison
from launch.analysis.table import Row, short_key
from launch.runs import console as consoles


def default_results(keys: Sequence[str], axes: Sequence[str]) -> list[str]:
    """The results that are printed by default: those of pareto.png, then the first others, five in all."""
    nested = re.compile(r"[^./\d]+\.")  # a key below a mapping such as base.correct, but not 0.8/yield
    others = [key for key in keys if key not in (*axes, "steps", "beta_final") and not nested.match(key)]
    return [*reversed(axes), *others][:5]


def print_results(rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Print the results of the rows, split into several tables if they do not fit the width of the terminal."""
    console = consoles.console
    table = Table(title="mean ± standard error over seeds", title_justify="left")
    for column in (*(rows[0].varying if rows else ()), "n"):
        table.add_column(short_key(column), no_wrap=True)
    for key in keys:
        table.add_column(key, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{format_mean(*row.result(key))} {_in_brackets(row.coverage(key))}".strip() for key in keys]
        table.add_row(*map(str, row.varying.values()), str(len(row.runs)), *cells)
    needed = console.measure(table, options=console.options.update(width=10**6)).maximum
    if len(keys) > 1 and needed > console.width:
        print_results(rows, keys[: len(keys) // 2])
        print_results(rows, keys[len(keys) // 2 :])
    else:
        console.print(table)


def print_tests(tests: Sequence[Comparison], against: str) -> None:
    """Print the results of the t-tests against a row, which `against` names."""
    table = Table(title=f"Welch's t-test against {against}: p, one-sided", title_justify="left")
    for column in ("result", "row", "difference", "t", "df", "p (greater)", "p (less)"):
        table.add_column(column, justify="left" if column in ("result", "row") else "right", no_wrap=True)
    for test in tests:
        numbers = (test.difference, test.t, test.degrees, test.greater, test.less)
        table.add_row(test.key, test.label, *(f"{number:.3g}" for number in numbers))
    consoles.console.print(table)


def format_mean(value: float, error: float) -> str:
    """A mean with its standard error, either of which may be NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.3f}"


def _in_brackets(text: str) -> str:
    return f"({text})" if text else ""
