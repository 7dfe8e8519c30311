"""What a printed table shows, for tests of tables."""

import io
import re

from rich.console import Console

WIDTHS = (80, 100, 120)  # of terminals


def printed(table, width):
    file = io.StringIO()
    Console(width=width, file=file, markup=False, emoji=False, highlight=False).print(table)
    return file.getvalue()


def rows(text):
    """The rows of the printed tables: for each, its cells with their lines joined."""
    found = []
    for table in re.findall(r"[┡┌].*?└", text, re.DOTALL):
        body = table.partition("\n")[2].rpartition("\n")[0]
        blocks = re.split(r"^├.*\n", body, flags=re.MULTILINE) if "├" in body else body.splitlines()
        for block in blocks:  # lines are drawn between rows where a cell is wrapped
            lines = [line[1:-1].split("│") for line in block.splitlines()]
            found.append(["".join(cell.strip() for cell in cells) for cells in zip(*lines, strict=True)])
    return found


def check_fits(text, width, whole):
    """No line is longer than the terminal, and nothing is cut: text that may be wrapped is there but for spaces."""
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    squeezed = re.sub(r"\s", "", "".join("".join(row) for row in rows(text)))
    for cell in whole:
        assert re.sub(r"\s", "", cell) in squeezed, cell
