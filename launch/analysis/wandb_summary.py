"""Push the table and the pictures of a collected sweep to Weights & Biases, as one run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.analysis.table import Row


def push_summary(
    project: str,
    name: str,
    rows: Sequence[Row],
    keys: Sequence[str],
    pictures: Sequence[Path],
    out: Path,
) -> str:
    """Log one run of the type "summary" with a table of the rows and the pictures.

    Args:
        project: of Weights & Biases, whose environment variables hold (WANDB_MODE=offline, WANDB_ENTITY, ...).
        name: of the run.
        rows: the configurations.
        keys: the results.
        pictures: image files.
        out: the folder for the files of Weights & Biases.

    Returns:
        Where the run is: its address, or the folder of an offline run.

    Raises:
        ConfigError: Weights & Biases refuses.
        ImportError: it is not installed.
    """
    import wandb

    settings = wandb.Settings(silent=True)
    try:
        run = wandb.init(project=project, name=name, job_type="summary", dir=str(out), settings=settings)
    except wandb.errors.Error as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"--wandb: Weights & Biases refuses the project {project}: {reason}") from error
    columns, data = table_cells(rows, keys)
    files = {f"pictures/{path.stem}": wandb.Image(str(path)) for path in pictures if path.suffix == ".png"}
    run.log({"results": wandb.Table(columns=columns, data=data), **files})
    place = str(run.url or Path(run.dir).parent)
    run.finish()
    return place


def table_cells(rows: Sequence[Row], keys: Sequence[str]) -> tuple[list[str | int], list[list[Any]]]:
    """The names of the columns, and the cells of each row: what varies, n, and each result with its error."""
    varying: list[str] = list(rows[0].varying) if rows else []
    columns: list[str | int] = [*varying, "n", *(column for key in keys for column in (key, f"{key}/se"))]
    data: list[list[Any]] = []
    for row in rows:
        numbers = [number for key in keys for number in row.result(key)[:2]]
        known = [None if math.isnan(number) else number for number in numbers]
        data.append([*map(str, row.varying.values()), len(row.runs), *known])
    return columns, data
