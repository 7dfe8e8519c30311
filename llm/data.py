"""Records of tasks, read from the Hugging Face Hub or from a file with Hugging Face datasets."""

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
SHUFFLE_BUFFER = 10_000  # records from which `count` of them are chosen

# Maps a record to what the task needs of it; None skips the record. Raises ValueError naming the fields it needs.
Parse = Callable[[dict[str, Any]], Any | None]


class Records(NamedTuple):
    """The records of a data set, and how a run's summary identifies them.

    items: what the task needs of each record.
    origin: the file's name, or the hub name with subset and split; never a path.
    sha256: hash of the items in order.
    """

    items: list[Any]
    origin: str
    sha256: str

    def facts(self) -> dict[str, Any]:
        """Origin, hash and number of records, for summary.json."""
        return {"origin": self.origin, "sha256": self.sha256, "records": len(self.items)}


def load_both(config: LlmConfig, parse: Parse) -> tuple[Records, Records]:
    """Load data.train and data.evaluation with `load_records`. Raises ConfigError if one of them is not set."""
    data = config.data
    sources = {"data.train": data.train, "data.evaluation": data.evaluation}
    for key, source in sources.items():
        if source.path is None:
            raise ConfigError(f"{key}.path: must be given for task.name={config.task.name}, got null")
    train, evaluation = (load_records(key, source, data.root, config.seed, parse) for key, source in sources.items())
    return train, evaluation


def load_records(key: str, source: SourceConfig, root: str | None, seed: int, parse: Parse) -> Records:
    """Load `source.count` records of a data set, or all of them. Equal seeds choose equal records.

    Args:
        key: configuration key of the source, for error messages.
        source: what to read.
        root: folder of local files; None for MARA_DATA or the working folder.
        seed: for the choice of `source.count` records.
        parse: converts each record.

    Raises:
        ConfigError: the data set does not exist, `parse` rejects a record, or there are too few records.
    """
    try:
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise ConfigError(
            f"{key}: reading data needs datasets, which is not installed: pip install -e .[data]"
        ) from None
    path = str(source.path)
    file = _find_file(key, path, root)
    try:
        items = _read_items(key, source, file, seed, parse)
    except (OSError, ValueError, DatasetsError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"{key}.path: cannot read the data set {path} ({reason})") from error
    if not items:
        raise ConfigError(f"{key}.path: {path} has no records that can be used")
    if len(items) < (source.count or 0):
        raise ConfigError(f"{key}.count: must be at most the number of records, {len(items)}, got {source.count}")
    origin = file.name if file else ":".join(part for part in (path, source.subset, source.split) if part)
    digest = hashlib.sha256("\n".join(json.dumps(item, ensure_ascii=False) for item in items).encode()).hexdigest()
    return Records(items, origin, digest)


def _read_items(key: str, source: SourceConfig, file: Path | None, seed: int, parse: Parse) -> list[Any]:
    from datasets import load_dataset

    arguments: dict[str, Any] = (
        {"path": FORMATS[file.suffix], "data_files": str(file), "split": "train"}
        if file is not None
        else {"path": source.path, "name": source.subset, "split": source.split}
    )
    rows = load_dataset(**arguments, streaming=True)
    if source.count is not None:
        rows = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
    items: list[Any] = []
    for number, row in enumerate(rows):
        if len(items) == source.count:
            break
        try:
            item = parse(row)
        except ValueError as error:
            raise ConfigError(
                f"{key}.path: records must have {error}; record {number} of {source.path} has {', '.join(row)}"
            ) from None
        if item is not None:
            items.append(item)
    return items


def _find_file(key: str, path: str, root: str | None) -> Path | None:
    """The local file of a source: built for a test data set, else in data.root, MARA_DATA or the working folder.

    Returns:
        None if the path is the name of a data set on the hub.
    """
    if path.startswith("tiny_"):
        from llm.testbed.tiny_models import tiny_data

        return tiny_data(key, path)
    if Path(path).suffix not in FORMATS:
        return None
    folder = root if root is not None else os.environ.get("MARA_DATA", "")
    file = user_path(folder) / path
    if not file.is_file():
        where = "data.root" if root is not None else "MARA_DATA" if folder else "the working folder"
        raise ConfigError(f"{key}.path: no file {path} in {where}; give a file there or a hub name")
    return file
