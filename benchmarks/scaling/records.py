"""The file of records: one line of JSON for each size of an axis."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.scaling.axes import AXES
from launch.runs.run_folder import iterate_jsonl

RECORDS = Path(__file__).parents[1] / "records" / "scaling.jsonl"


def read_records(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The records by axis and size; of several the last one."""
    if not path.exists():
        return {}
    return {(str(row["axis"]), int(row["size"])): row for row in iterate_jsonl(path)}


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def missing(records: Mapping[tuple[str, int], Any], axes: Iterable[str]) -> list[tuple[str, int]]:
    """The sizes that have no record, small ones first."""
    todo = [(axis, size) for axis in axes for size in AXES[axis].sizes if (axis, size) not in records]
    rank = {(axis, size): AXES[axis].sizes.index(size) / len(AXES[axis].sizes) for axis, size in todo}
    return sorted(todo, key=lambda point: rank[point])


def costs(records: Mapping[tuple[str, int], Mapping[str, Any]], axis: str, key: str) -> tuple[list[int], list[float]]:
    """Sizes and costs of an axis, without sizes that failed."""
    rows = sorted((size, row[key]) for (name, size), row in records.items() if name == axis and key in row)
    return [size for size, _ in rows], [cost for _, cost in rows]
