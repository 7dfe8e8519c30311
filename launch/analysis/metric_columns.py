"""The numbers of metrics.jsonl by metric, 16 bytes each, so that runs of many steps fit into memory together."""

import math
from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.runs.run_folder import iterate_jsonl


class Column:
    """The finite values of a metric.

    Attributes:
        steps: at which it was logged.
        values: one for each.
    """

    def __init__(self) -> None:
        self.steps, self.values = array("q"), array("d")


@dataclass
class MetricColumns:
    """The metrics of a run.

    Attributes:
        lines: number of logged steps.
        columns: by metric, in the order of their first line; empty ones have no finite value.
    """

    lines: int = 0
    columns: defaultdict[str, Column] = field(default_factory=lambda: defaultdict(Column))

    def add(self, step: int, row: Mapping[str, Any]) -> None:
        """Add the numbers of a line. Text and the like is left out."""
        self.lines += 1
        for key, value in row.items():
            if key == "step" or (value is not None and type(value) not in (int, float)):
                continue
            column = self.columns[key]
            if value is not None and math.isfinite(value):
                column.steps.append(step)
                column.values.append(value)


def read_metrics(path: Path) -> MetricColumns:
    """Read metrics.jsonl; empty if there is none.

    Raises:
        ConfigError: a line is not a JSON object with a step.
    """
    metrics = MetricColumns()
    for row in iterate_jsonl(path) if path.exists() else ():
        if type(row.get("step")) is not int:
            raise ConfigError(f"{path}: each line must have a step, a whole number")
        metrics.add(row["step"], row)
    return metrics
