"""The console that every command prints to."""

import sys

from rich.console import Console

# Text as it is, brackets and colons included; the 80 columns of a log would cut tables.
console = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 120)
