"""The last lines of a command: the pictures that it drew, and commands that can follow it."""

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from launch.cli.command_table import as_typed
from launch.runs.console import console


def shown_path(path: Path | str) -> str:
    """A path as it can be typed: relative if it is inside the folder of the command, otherwise the shorter form."""
    relative = os.path.relpath(path, os.environ.get("MARA_CWD") or None)
    if relative.startswith(".."):
        return min(relative, os.path.abspath(path), key=len)
    return f"./{relative}" if relative.startswith("-") else relative  # a command would read it as an option


def command(module: str, *arguments: str | Path) -> str:
    """The command line `python -m MODULE ARGUMENTS`, quoted for a shell. Paths become relative."""
    words = (shown_path(word) if isinstance(word, Path) else word for word in arguments)
    return shlex.join(["python", "-m", module, *words])


def is_managed() -> bool:
    """Whether another command of this project has started this one, such as a launcher, and says what can follow."""
    return bool(os.environ.get("MARA_CWD"))


def show_pictures(pictures: Iterable[Path]) -> None:
    """Print one line for each picture that exists."""
    for picture in pictures:
        if picture.is_file():
            console.print(f"picture: {shown_path(picture)}", soft_wrap=True)


def show_next(commands: Sequence[str]) -> None:
    """Print one line for each command that can follow, made with `command`."""
    for line in commands:
        console.print(next_line(line), soft_wrap=True)


def next_line(text: str) -> str:
    """The line that shows a command that can follow."""
    return f"next: {as_typed(text)}"


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a run or a sweep, the main one first."""
    return sorted(folder.glob("*.png"), key=lambda path: (path.name != "figure.png", path.name))
