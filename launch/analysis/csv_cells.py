"""Write CSV files that a spreadsheet does not execute."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.runs.atomic import replacing

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a cell that begins so is a formula to a spreadsheet


def csv_cell(value: Any) -> Any:
    """A value for a cell of a CSV file.

    Text that a spreadsheet would take for a formula gets a leading apostrophe, which makes it text. Numbers are
    unchanged, also those in text such as "-1.5".

    Source: https://owasp.org/www-community/attacks/CSV_Injection
    """
    if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows by column. Columns are in the order in which they first appear; NaN and None are empty cells."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as file, file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(csv_cell, columns))
        for row in rows:
            writer.writerow(csv_cell(_without_nan(row.get(column))) for column in columns)


def _without_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
