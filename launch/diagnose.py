"""`python -m launch.diagnose FILE... [KEY=VALUE...]`: what is wrong with a run that some trainer has made.

Runs `python -m chem.diagnose` for tables of molecules (REINVENT 4, Saturn, run folders of chem), and
`python -m llm.diagnose` for everything else (TRL, verl, OpenRLHF, JSON Lines, run folders of llm). Their --help lists
the formats and the keys.
"""

import csv
import gzip
import json
import runpy
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch.cli.command_table import ArgumentParser
from launch.cli.key_values import split_words
from launch.runs.run_folder import one_line_errors

MOLECULES = "smiles"  # a column of this name, in any case, holds molecules


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of the package whose files are given."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        parser = ArgumentParser("launch.diagnose", __doc__)
        parser.add_argument("words", nargs="+", metavar="FILE|KEY=VALUE", help="files, folders, and keys")
        parser.parse_args(words)
    with one_line_errors("launch.diagnose"):
        paths, _ = split_words(words)
    module = "chem.diagnose" if any(map(has_molecules, paths)) else "llm.diagnose"
    sys.argv = [sys.argv[0], *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def has_molecules(path: Path) -> bool:
    """Whether a file, or the samples in a run folder, has a column of SMILES. False for what cannot be read."""
    if path.is_dir():
        return has_molecules(path / "samples.jsonl")
    with suppress(OSError, UnicodeError, csv.Error, EOFError):
        opener: Any = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig") as file:
            line = file.readline(100_000)
        return MOLECULES in {name.strip().lower() for name in _names(line)}
    return False


def _names(line: str) -> list[str]:
    """The names of the columns in the first line of a table, or of the keys of an object of JSON."""
    with suppress(ValueError):
        row = json.loads(line)
        return list(row) if isinstance(row, dict) else []
    return [name for delimiter in ",\t;" for row in csv.reader([line], delimiter=delimiter) for name in row]


if __name__ == "__main__":
    main()
