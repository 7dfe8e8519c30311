"""Tables of a collected sweep for a terminal's width."""

import math
import re
from collections.abc import Sequence

from rich.table import Table

from launch.analysis.significance import Comparison
from launch.analysis.table import Row, short_key
from launch.runs import console as consoles


def chosen_results(keys: Sequence[str], axes: Sequence[str]) -> list[str]:
    """A few results for a terminal's width: those of the picture, then the first others."""
    nested = re.compile(r"[^./\d]+\.")  # a mapping within the summary; but 0.8/yield is none
    others = [key for key in keys if key not in (*axes, "steps", "beta_final") and not nested.match(key)]
    return [*reversed(axes), *others][:5]


def print_table(rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Print the results, in as many tables, one below the other, as the terminal's width requires."""
    console = consoles.console
    table = Table(title="mean ± standard error over seeds", title_justify="left")
    for column in (*(rows[0].varying if rows else ()), "n"):
        table.add_column(short_key(column), no_wrap=True)
    for key in keys:
        table.add_column(key, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{with_error(*row.result(key))} {in_brackets(row.coverage(key))}".strip() for key in keys]
        table.add_row(*map(str, row.varying.values()), str(len(row.runs)), *cells)
    needed = console.measure(table, options=console.options.update(width=10**6)).maximum
    if len(keys) > 1 and needed > console.width:
        print_table(rows, keys[: len(keys) // 2])
        print_table(rows, keys[len(keys) // 2 :])
    else:
        console.print(table)


def print_tests(tests: Sequence[Comparison], against: str) -> None:
    table = Table(title=f"Welch's t-test against {against}: p, one-sided", title_justify="left")
    for column in ("result", "row", "difference", "t", "df", "p (greater)", "p (less)"):
        table.add_column(column, justify="left" if column in ("result", "row") else "right", no_wrap=True)
    for test in tests:
        numbers = (test.difference, test.t, test.degrees, test.greater, test.less)
        table.add_row(test.key, test.label, *(f"{number:.3g}" for number in numbers))
    consoles.console.print(table)


def with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.3f}"


def in_brackets(text: str) -> str:
    return f"({text})" if text else ""
