"""`mara COMMAND`: one command for all of this project's, each of which is a module that `python -m` runs as well.

Standard library only: a command's libraries are imported when it is run.
"""

import difflib
import os
import runpy
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Sequence

from launch.cli.command_table import BY_MODULE, BY_WORDS, STARTED_AS, TABLE
from launch.cli.import_path import set_import_path
from launch.cli.shadowing import HOME, refuse_shadowing

USAGE = """\
usage: mara COMMAND ...

KL-regularised reinforcement learning that keeps every good answer instead of one.
"""
FIRST_STEPS = (
    ("mara explain 'reward=[1,1,0]' 'ref=[.3,.02,.68]' beta=.01", "why RL keeps one answer, and what MARA changes"),
    ("mara didactic experiment=figure5", "a figure of the paper, in seconds"),
    ("mara llm -m transform=identity,mara", "a small model without MARA and with it, in minutes"),
    ("mara collect SWEEP", "one table of that sweep, whose folder was printed"),
    ("mara chem experiment=synth_fast/mara_0.8", "molecules (needs the extras chem and synthesis)"),
)
NOTES = (
    "A run is made of GROUP=OPTION and KEY=VALUE; -m sweeps over values between commas. Quote a word with [ ] or *. "
    "`mara COMMAND --help` explains a command and lists its options and keys.",
    'eval "$(mara -sc install=bash)" lets TAB complete them (zsh, fish: docs/install.md).',
    "Without `mara`: python -m llm, python -m llm.plan, python -m launch.collect and so on.",
)
WIDTHS = (60, 100)  # minimum and maximum width of the page
COMPLETION = ("--shell-completion", "-sc")


class CommandError(Exception):
    """A mistake in the command's name; the message is one line."""


def main() -> int:
    """Run the command in `sys.argv`; returns the exit status of `mara` itself. That of a command is raised."""
    words = sys.argv[1:]
    if not words or (words[0] in ("--help", "-h", "help") and len(words) == 1):
        print(help_page(), end="")
        return 0
    if words[0] == "help":
        words = [*words[1:], "--help"]
    if words == ["--version"]:
        project = tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))["project"]
        print(f"mara {project['version']}")
        return 0
    if words[0] in COMPLETION or (words[-2:-1] and words[-2] in COMPLETION):
        return print_completion(words[-1])
    try:
        module, arguments = find_command(words)
    except CommandError as error:
        print(f"mara: {error}", file=sys.stderr)
        return 2
    run(module, arguments)
    return 0


def print_completion(request: str) -> int:
    """Print the completion's script, or its candidates; returns the exit status."""
    from launch.cli.completion import REQUEST, answer

    text = answer(request)
    if text is None:
        print(f"mara: {REQUEST}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


def help_page() -> str:
    """The page of `mara --help`, as wide as the terminal within WIDTHS."""
    width = min(max(shutil.get_terminal_size().columns, WIDTHS[0]), WIDTHS[1])
    column = max(map(len, BY_WORDS)) + 4
    lines = [USAGE]
    for title, commands in TABLE.items():
        lines += [title, *(_row(command.words, command.text, column, width) for command in commands), ""]
    lines.append("First steps")
    lines += [_row(words, text, column, width) for words, text in FIRST_STEPS]
    lines += ["", *(textwrap.fill(note, width, break_long_words=False) for note in NOTES)]
    return "\n".join(lines) + "\n"


def _row(words: str, text: str, column: int, width: int) -> str:
    """Words and what they do: beside them if they are short, otherwise on the next line."""
    beside = len(words) + 4 <= column
    rest = textwrap.wrap(text, width - column, break_long_words=False)
    first = f"  {words:<{column - 2}}{rest.pop(0)}" if beside else f"  {words}"
    return "\n".join([first, *(f"{'':<{column}}{line}" for line in rest)])


def find_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The module that a command line names, by its words or by its module, and its arguments.

    Raises:
        CommandError: there is no such command.
    """
    first, *rest = words
    if rest and f"{first} {rest[0]}" in BY_WORDS:
        return BY_WORDS[f"{first} {rest[0]}"].module, rest[1:]
    if first in BY_WORDS:
        if rest and is_name(rest[0]) and any(name.startswith(f"{first} ") for name in BY_WORDS):
            raise CommandError(unknown(f"{first} {rest[0]}"))
        return BY_WORDS[first].module, rest
    if first in BY_MODULE:
        return first, rest
    raise CommandError(unknown(first))


def is_name(word: str) -> bool:
    """Whether a word can only be meant as the name of a command: it is no flag and no override."""
    return word.replace("_", "").replace("-", "").isalnum() and not word.startswith("-")


def unknown(name: str) -> str:
    """The message for a name that no command has."""
    words_of: dict[str, str] = {}
    for command in BY_MODULE.values():
        for alias in (command.words, command.module, command.words.rpartition(" ")[2]):
            words_of.setdefault(alias, command.words)
    near = difflib.get_close_matches(name, words_of, 2)
    suggestions = dict.fromkeys(f"mara {words_of[alias]}" for alias in near)
    hint = f": did you mean {' or '.join(suggestions)}?" if suggestions else ";"
    return f"there is no command {name}{hint} mara --help lists the commands"


def run(module: str, arguments: Sequence[str]) -> None:
    """Run a module as `python -m` does, but import from the working folder last."""
    set_import_path()
    refuse_shadowing()
    os.environ[STARTED_AS] = "mara"
    sys.argv = [f"mara {BY_MODULE[module].words}", *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # while it is being imported; afterwards the command handles signals
        print("mara: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    sys.exit(main())
