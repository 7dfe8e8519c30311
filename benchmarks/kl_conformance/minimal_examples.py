"""The minimal examples: short programs in `examples` that print an expected and another, found gradient."""

import contextlib
import io
import runpy
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "examples"


class Example(NamedTuple):
    """A program that sets and prints `expected` and `found`.

    Attributes:
        trainer: the package that it imports.
        title: what it shows.
        code: the program, without its docstring.
        file: where it is.
    """

    trainer: str
    title: str
    code: str
    file: Path

    def run(self) -> tuple[dict[str, Any], str]:
        """Run the program; the trainer must be importable. Returns its variables and what it prints."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            variables = runpy.run_path(str(self.file))
        return variables, out.getvalue()


def minimal_examples() -> list[Example]:
    """All examples: TRL's, verl's, OpenRLHF's."""
    found = []
    for package in ("trl", "verl", "openrlhf"):
        for file in sorted(FOLDER.glob(f"{package}_*.py")):
            title, _, code = file.read_text("utf-8").removeprefix('"""').partition('."""\n\n')
            found.append(Example(package, title, code, file))
    return found
