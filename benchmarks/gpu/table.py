"""The table of results: rows, the JSON file and the Markdown file, which are written anew after each part."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.runs.run_folder import write_text


class Row(NamedTuple):
    """A line of the table.

    check: `ok` or what is wrong, for what has a tolerance or a status; empty for what is only measured.
    """

    part: str
    quantity: str
    value: float | str | None
    unit: str = ""
    check: str = ""


def write_table(folder: Path, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write results.json and results.md."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"facts": facts, "rows": [row._asdict() for row in rows]}
    write_text(folder / "results.json", json.dumps(content, indent=2) + "\n")
    write_text(folder / "results.md", markdown(facts, rows))


def markdown(facts: dict[str, Any], rows: Sequence[Row]) -> str:
    """The table as a page."""
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "| part | quantity | value | unit | check |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.part} | {_cell(row.quantity)} | {shown(row.value)} | {row.unit} | {_cell(row.check)} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def shown(value: float | str | None) -> str:
    """A value with four digits."""
    if value is None:
        return "-"
    return _cell(value) if isinstance(value, str) else f"{value:.4g}"


def failed(rows: Sequence[Row]) -> list[Row]:
    """The rows whose check is not ok."""
    return [row for row in rows if row.check not in ("", "ok", "left out")]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
