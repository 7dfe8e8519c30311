"""Records of tasks, from a hub or a file, through Hugging Face datasets."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig, SourceConfig
from launch.runs.run_folder import user_path

FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
SHUFFLED = 10_000  # records held at a time while `count` of them are chosen


class Records(NamedTuple):
    """What a task reads, and what a record of the run says of it: never a path.

    origin: file name, or hub name with subset and split. sha256: of what was read, in order.
    """

    items: list[Any]
    origin: str
    sha256: str

    def facts(self) -> dict[str, Any]:
        return {"origin": self.origin, "sha256": self.sha256, "records": len(self.items)}


def load_both(config: LlmConfig, read: Callable[[dict[str, Any]], Any | None]) -> tuple[Records, Records]:
    """data.train and data.evaluation, as `load_records` reads them. Raises ConfigError where one is not given."""
    data = config.data
    sources = {"data.train": data.train, "data.evaluation": data.evaluation}
    for key, source in sources.items():
        if source.path is None:
            raise ConfigError(f"{key}.path: must be given for task.name={config.task.name}, got null")
    train, evaluation = (load_records(key, one, data.root, config.seed, read) for key, one in sources.items())
    return train, evaluation


def load_records(
    key: str, source: SourceConfig, root: str | None, seed: int, read: Callable[[dict[str, Any]], Any | None]
) -> Records:
    """`source.count` records of a data set, or all of them; the same ones for the same seed.

    Args:
        key: of the configuration, for messages.
        read: a record -> what the task wants of it, None for one it leaves out; ValueError says what it must have.

    Raises:
        ConfigError: there is no such data set, a record is not as `read` wants it, or too few are left.
    """
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise ConfigError(f"{key}: pip install -e .[data] brings what it needs, got no datasets") from None
    path = str(source.path)
    file = _file(key, path, root)
    arguments: dict[str, Any] = (
        {"path": FORMATS[file.suffix], "data_files": str(file), "split": "train"}
        if file is not None
        else {"path": path, "name": source.subset, "split": source.split}
    )
    items: list[Any] = []
    try:
        rows = load_dataset(**arguments, streaming=True)
        if source.count is not None:
            rows = rows.shuffle(seed=seed, buffer_size=SHUFFLED)
        for number, row in enumerate(rows):
            if len(items) == source.count:
                break
            try:
                item = read(row)
            except ValueError as error:
                raise ConfigError(
                    f"{key}.path: records must have {error}, got {', '.join(row)} in record {number} of {path}"
                ) from None
            if item is not None:
                items.append(item)
    except (OSError, ValueError, DatasetsError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"{key}.path: must be a data set that can be read, got {path} ({reason})") from error
    if not items or len(items) < (source.count or 0):
        raise ConfigError(
            f"{key}.count: must be no more than the records there are, got {source.count} of {len(items)}"
        )
    origin = file.name if file else ":".join(part for part in (path, source.subset, source.split) if part)
    digest = hashlib.sha256("\n".join(json.dumps(item, ensure_ascii=False) for item in items).encode()).hexdigest()
    return Records(items, origin, digest)


def _file(key: str, path: str, root: str | None) -> Path | None:
    """The file of a source: made here, or in data.root, MARA_DATA or the working folder; None: it is of a hub."""
    if path.startswith("tiny_"):
        from llm.testbed.tiny_models import tiny_data

        return tiny_data(key, path)
    if Path(path).suffix not in FORMATS:
        return None
    folder = root if root is not None else os.environ.get("MARA_DATA", "")
    file = user_path(folder) / path
    if not file.is_file():
        where = "data.root" if root is not None else "MARA_DATA" if folder else "the working folder"
        raise ConfigError(f"{key}.path: must be a file in {where}, or a hub name, got no {path} there")
    return file
