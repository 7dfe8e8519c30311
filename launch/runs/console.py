"""The console that all commands print to."""

import os
import sys

from rich.console import Console

LOG_WIDTH = 120  # of a log, unless the variable COLUMNS is set; rich would take 80, which is narrow for tables


def console_width() -> int | None:
    """The width to print at; None: that of the terminal, as rich finds it."""
    if sys.stdout is not None and sys.stdout.isatty():  # None: standard output is closed
        return None
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) > 0 else LOG_WIDTH


# Without markup and emoji, so that brackets and colons are printed literally.
console = Console(markup=False, emoji=False, highlight=False, width=console_width())
