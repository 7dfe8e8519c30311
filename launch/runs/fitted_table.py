"""A table that fits the terminal: all tables that commands print.

Nothing is cut. Where a table is too wide, its headers and labels are wrapped first, then its columns are spread over
several tables that repeat the labels, and where one column of numbers does not fit either, each row becomes a list.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

Kind = Literal["label", "text", "number"]
NARROW = 16  # labels and text are not wrapped to fewer columns than this while another way is left
SEPARATOR, EDGES = 3, 4  # columns that a border between two cells takes, and both outer borders
# Where a text is wrapped: after spaces, if a word is too long after punctuation, and if that does not help, anywhere.
PIECES = (re.compile(r"\S+\s*|\s+"), re.compile(r"[^,/_=:;+-]*[,/_=:;+-]+|[^,/_=:;+-]+"))


@dataclass
class Column:
    """A column. Its kind: `label` names the row, `text` may be wrapped, a `number` is never wrapped.

    Where `units` is given, a cell is broken between its matches, wherever a line is full: SMILES have no words.
    """

    header: str
    kind: Kind
    cells: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    units: re.Pattern[str] | None = None

    @property
    def natural(self) -> int:
        """The width at which nothing is wrapped."""
        return max(map(widest_line, [self.header, *self.cells]))

    @property
    def narrowest(self) -> int:
        """The width below which a number, or a word of the header, would be broken; `NARROW` for labels and text."""
        header = max((widest_line(piece.strip()) for piece in pieces(self.header)), default=0)
        cells = max(map(widest_line, self.cells), default=0)
        return max(header, cells if self.kind == "number" else min(NARROW, cells))

    def wrapped(self, row: int, width: int) -> str:
        """The cell of a row, broken into lines of at most a width."""
        cell = self.cells[row]
        return wrap(cell, width) if self.units is None else "\n".join(filled_lines(self.units.findall(cell), width))


class FittedTable:
    """A table with a title above and a legend below it, for `console.print`.

    Args:
        title: printed above the table.
        legend: explains headers and cells; printed below the table.
    """

    def __init__(self, title: str = "", legend: str = "") -> None:
        self.title, self.legend = title, legend
        self.columns: list[Column] = []
        self.sections: list[int] = []  # numbers of the rows that a line follows

    def add_column(self, header: str, kind: Kind = "number", units: re.Pattern[str] | None = None) -> None:
        """Add a column. Numbers are aligned at the right, the others at the left. units: see `Column`."""
        self.columns.append(Column(header, kind, units=units))

    def add_row(self, *cells: str | Text) -> None:
        """Add a row with a cell for each column.

        Raises:
            ValueError: there is another number of cells.
        """
        for column, cell in zip(self.columns, cells, strict=True):
            column.cells.append(str(cell))
            column.styles.append(str(cell.style) if isinstance(cell, Text) else "")

    def add_section(self) -> None:
        """Draw a line below the last row."""
        self.sections.append(self.row_count - 1)

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self.columns[0].cells) if self.columns else 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text | Table]:
        width = options.max_width
        if self.title:
            yield Text(wrap(self.title, width), "italic")
        for part in self.parts(width):
            yield self._list(width) if part is None else self._table(part, width)
        if self.legend:
            yield Text(wrap(self.legend, width), "dim")

    def parts(self, width: int) -> list[list[Column] | None]:
        """The columns of each table; None stands for the list that replaces a table that fits in no other way."""
        if fits(self.columns, width):
            return [self.columns]
        labels = [column for column in self.columns if column.kind == "label"]
        others = [column for column in self.columns if column.kind != "label"]
        count = len(_split(labels, others, width, len(others)))
        for most in range(
            math.ceil(len(others) / count), len(others) + 1
        ):  # columns of a table, as equal as possible
            tables = _split(labels, others, width, most)
            if len(tables) == count:
                break
        return [*tables] if all(fits(table, width) for table in tables) else [None]

    def _table(self, columns: Sequence[Column], width: int) -> Table:
        widths = column_widths(columns, width)
        wrapped = any(
            widest_line(cell) > cells for column, cells in zip(columns, widths, strict=True) for cell in column.cells
        )
        table = Table(show_lines=wrapped)
        for column, cells in zip(columns, widths, strict=True):
            justify: Literal["left", "right"] = "right" if column.kind == "number" else "left"
            table.add_column(wrap(column.header, cells), justify=justify, no_wrap=True, width=cells)
        for row in range(self.row_count):
            texts = [
                Text(column.wrapped(row, cells), column.styles[row])
                for column, cells in zip(columns, widths, strict=True)
            ]
            table.add_row(*texts, end_section=row in self.sections)
        return table

    def _list(self, width: int) -> Table:
        """One line for each cell, with its header, and a line below each row."""
        table = Table(show_header=False)
        headers = Column("", "text", [column.header for column in self.columns])
        values = Column("", "text", [cell for column in self.columns for cell in column.cells])
        left = min(headers.natural, (width - EDGES - SEPARATOR) // 2)
        right = min(values.natural, width - EDGES - SEPARATOR - left)
        table.add_column(no_wrap=True, width=left)
        table.add_column(no_wrap=True, width=right)
        for row in range(self.row_count):
            for column in self.columns:
                cell = Text(column.wrapped(row, right), column.styles[row])
                table.add_row(wrap(column.header, left), cell, end_section=column is self.columns[-1])
        return table


def _split(labels: list[Column], others: Sequence[Column], width: int, most: int) -> list[list[Column]]:
    """The columns of tables that fit, as far as possible: the labels, and at most `most` of the others in each."""
    parts: list[list[Column]] = [[]]
    for column in others:
        if parts[-1] and (len(parts[-1]) == most or not fits([*labels, *parts[-1], column], width)):
            parts.append([])
        parts[-1].append(column)
    return [[*labels, *part] for part in parts]


def table_width(widths: Sequence[int]) -> int:
    """The width of a table with columns of these widths."""
    return sum(widths) + SEPARATOR * (len(widths) - 1) + EDGES


def fits(columns: Sequence[Column], width: int) -> bool:
    """Whether a table of these columns fits if its headers, labels and text are wrapped."""
    return table_width([column.narrowest for column in columns]) <= width


def column_widths(columns: Sequence[Column], width: int) -> list[int]:
    """The widths of the columns of a table that `fits`: labels and text first get what is left, then headers."""
    widths = [column.narrowest for column in columns]
    spare = width - table_width(widths)
    for kinds in (("label", "text"), ("number",)):
        while spare > 0:
            missing = [
                (column.natural - widths[i], i)
                for i, column in enumerate(columns)
                if column.kind in kinds and column.natural > widths[i]
            ]
            if not missing:
                break
            widths[max(missing)[1]] += 1
            spare -= 1
    return widths


def widest_line(text: str) -> int:
    """The width of the widest line of a text."""
    return max(map(cell_len, text.split("\n")))


def pieces(text: str) -> list[str]:
    """The parts between which a text may be wrapped."""
    return [piece for word in PIECES[0].findall(text) for piece in PIECES[1].findall(word) if piece.strip()]


def filled_lines(units: Sequence[str], width: int) -> list[str]:
    """Units joined to lines of at most this width, unless a unit is wider, each with as many as fit."""
    lines = [""]
    for unit in units:
        if lines[-1] and cell_len(lines[-1] + unit) > width:
            lines.append("")
        lines[-1] += unit
    return lines


def wrap(text: str, width: int) -> str:
    """Break a text into lines of at most this width, where possible after spaces, or else after punctuation."""
    return "\n".join(line.rstrip() for paragraph in text.split("\n") for line in _wrapped(paragraph, width, 0))


def _wrapped(text: str, width: int, level: int) -> list[str]:
    if cell_len(text.rstrip()) <= width:
        return [text]
    if level == len(PIECES):
        return chop_cells(text, max(width, 1))
    lines = [""]
    for piece in PIECES[level].findall(text):
        if cell_len((lines[-1] + piece).rstrip()) <= width:
            lines[-1] += piece
        else:
            lines += _wrapped(piece, width, level + 1) if cell_len(piece.rstrip()) > width else [piece]
    return [line for line in lines if line.strip()]
