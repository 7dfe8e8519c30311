"""The page of the leaderboard, made from records alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.analysis.marked_page import around, write_marked
from launch.analysis.uncertainty import format_mean
from tools.leaderboard.board import DIVERSITY, Line, board
from tools.leaderboard.optima import FIRST, comparison, read_optima
from tools.leaderboard.picture import draw_board
from tools.leaderboard.records import RESULTS, TASKS, Records

BEGIN, END = "<!-- leaderboard -->\n", "<!-- end of the leaderboard -->"
HEADER = ("method", "beta", "seeds", "correct", "coverage", "entropy, nats", "effective answers", "on the front of")
SHORT = {"coverage": "coverage", "entropy_nats": "entropy"}


def write_page(page: Path, records: Records) -> list[Path]:
    """Replace the marked part of a page and its pictures, in the folder `images` beside it; return the pictures.

    Raises:
        ConfigError: there are no records, or the page has no marked part.
    """
    around(page, BEGIN, END)
    boards = {task: board(records, task) for task in TASKS}
    boards = {task: lines for task, lines in boards.items() if lines}
    if not boards:
        raise ConfigError(f"{page}: there are no records to write; add those of a sweep first")
    pictures = [draw_board(lines, page.parent / "images" / picture_name(task)) for task, lines in boards.items()]
    write_marked(page, BEGIN, END, text(records, boards))
    return pictures


def picture_name(task: str) -> str:
    """The file of a task's picture."""
    return f"leaderboard_{task}.png"


def text(records: Records, boards: Mapping[str, Sequence[Line]]) -> str:
    """What the command writes into the page."""
    parts = [provenance(records.values())]
    for task, lines in boards.items():
        best = [line.row.method for line in lines if line.row and DIVERSITY[0] in line.fronts]
        alt = f"Share of correct completions against coverage and against entropy; on the front: {', '.join(best)}"
        parts += [f"### {task}", table(lines), f"![{alt}](images/{picture_name(task)})"]
    if FIRST in boards:
        parts += ["### The optimum beside training", comparison(boards, read_optima())]
    return "\n" + "\n\n".join(parts) + "\n\n"


def provenance(records: Iterable[Mapping[str, Any]]) -> str:
    """A sentence about the code and the packages of all runs."""
    records = list(records)
    packages = sorted({f"{name} {version}" for record in records for name, version in record["versions"].items()})
    commits = sorted({record["commit"][:7] + (" with changes" if record["modified"] else "") for record in records})
    return f"{len(records)} runs, of commit {', '.join(commits)}, with {', '.join(packages)}."


def table(lines: Sequence[Line]) -> str:
    """The lines of a task as a table in Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *map(cells, lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cells(line: Line) -> list[str]:
    """The cells of a line; what its settings have that the method's files have not follows its name."""
    name = f"`{line.row.method}`" if line.row else "base"
    note = "".join(f", `{override}`" for override in line.note)
    return [
        name + note,
        f"{line.row.beta:g}" if line.row else "",
        ", ".join(map(str, line.seeds)),
        *(format_mean(line.means[key], line.errors[key]) for key in RESULTS),
        ", ".join(SHORT[key] for key in line.fronts),
    ]
