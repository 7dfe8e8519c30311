"""The console that all commands print to."""

import sys

from rich.console import Console

# Without markup and emoji, so that brackets and colons are printed literally. A log has 80 columns by default, which
# is too narrow for tables.
with_terminal = sys.stdout is not None and sys.stdout.isatty()  # None: standard output is closed
console = Console(markup=False, emoji=False, highlight=False, width=None if with_terminal else 120)
