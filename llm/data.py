"""Records of tasks, read from a file or, with Hugging Face datasets, from the Hub."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy

from conf.schema.base import ConfigError
from conf.schema.extras import not_installed
from conf.schema.llm import LlmConfig, SourceConfig
from launch.runs.console import console
from launch.runs.hub import check_hub
from launch.runs.run_folder import user_path
from llm.data_files import DELIMITERS, JSON_ENDINGS, Row, file_ending, read_rows

READABLE = (*JSON_ENDINGS, *DELIMITERS)
ENDINGS = (*READABLE, ".parquet")
# What no data set of the hub is called: a path, or the name of a file that is not read.
FILE_NAME = re.compile(
    r"^[./~]|\\|/.*/|\.(gz|zst|bz2|xz|zip|tar|txt|md|ya?ml|xlsx?|ods|arrow|feather|pkl|np[yz]|sqlite|ndjson)$",
    re.IGNORECASE,
)
SHUFFLE_BUFFER = 10_000  # records from which `count` of them are chosen

# Maps a record to what the task needs of it; None skips the record. Raises ValueError naming the fields it needs.
Parse = Callable[[dict[str, Any]], Any | None]
T = TypeVar("T")


class Records(NamedTuple):
    """The records of a data set, and how a run's summary identifies them.

    items: what the task needs of each record.
    origin: the file's name, or the hub name with subset and split; never a path.
    sha256: hash of the items in order.
    locations: where each record is, such as `questions.jsonl, line 3`.
    """

    items: list[Any]
    origin: str
    sha256: str
    locations: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Origin, hash and number of records, for summary.json."""
        return {"origin": self.origin, "sha256": self.sha256, "records": len(self.items)}

    def distinct(self) -> list[Any]:
        """The items in order, each of them once."""
        return list(dict.fromkeys(self.items))


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
        ConfigError: the data set does not exist, `parse` rejects a record, or there are too few records. All records
            of a JSON, JSON Lines, CSV or TSV file must be right, also those that are not chosen.
    """
    path = str(source.path)
    file = _find_file(key, path, root)
    if file is not None and file_ending(file.name) in READABLE:
        rows = list(_parsed(key, read_rows(f"{key}.path", path, file), parse))
        chosen = iter(rows) if source.count is None else shuffled(rows, seed)
    else:
        chosen = _parsed(key, _dataset_rows(key, source, file, seed), parse)
    items, locations = [], []
    for item, location in chosen:
        if item is not None:
            items.append(item)
            locations.append(location)
        if len(items) == source.count:
            break
    if not items:
        raise ConfigError(f"{key}.path: {path} has no records that can be used")
    if len(items) < (source.count or 0):
        raise ConfigError(f"{key}.count: must be at most the number of records, {len(items)}, got {source.count}")
    origin = file.name if file else ":".join(part for part in (path, source.subset, source.split) if part)
    texts = [json.dumps(item, ensure_ascii=False) for item in items]
    if repeated := len(texts) - len(set(texts)):
        console.print(f"{key}: {repeated} of {len(items)} records of {origin} repeat another one and are left out")
    return Records(items, origin, hashlib.sha256("\n".join(texts).encode()).hexdigest(), tuple(locations))


def refuse_conflicts(sets: Mapping[str, Records], name: str, value: Callable[[Any], Any], rest: str) -> None:
    """Raise ConfigError if two records of some data sets have the same question, say, but not the same answers.

    Args:
        sets: data sets by the key that names them.
        name: what may not be repeated, in words.
        value: gets it from an item.
        rest: what else an item has, in words.
    """
    first: dict[Any, tuple[Any, str]] = {}
    for key, records in sets.items():
        for item, location in zip(records.items, records.locations, strict=True):
            known, place = first.setdefault(value(item), (item, location))
            if known != item:
                raise ConfigError(
                    f"{key}.path: {location}: the {name} {value(item)!r} is also in {place}, with other {rest}"
                )


def shuffled(rows: list[T], seed: int) -> Iterator[T]:
    """Rows in the order of `datasets.IterableDataset.shuffle(seed, buffer_size=SHUFFLE_BUFFER)` (version 5.2)."""
    generator = numpy.random.default_rng(seed)
    buffer: list[T] = []
    for row in rows:
        buffer.append(row)
        if len(buffer) == SHUFFLE_BUFFER:
            buffer = [buffer[i] for i in generator.permutation(SHUFFLE_BUFFER)]
            leave = SHUFFLE_BUFFER - SHUFFLE_BUFFER // 2
            yield from buffer[:leave]
            buffer = buffer[leave:]
    yield from (buffer[i] for i in generator.permutation(len(buffer)))


def _parsed(key: str, rows: Iterator[Row], parse: Parse) -> Iterator[tuple[Any, str]]:
    for location, content in rows:
        try:
            yield parse(content), location
        except ValueError as error:
            fields = ", ".join(f"{name} ({_kind(value)})" for name, value in content.items())
            raise ConfigError(
                f"{key}.path: {location}: a record must have {error}, got {fields or 'no fields'}"
            ) from None


def _kind(value: Any) -> str:
    """The type of a value, in JSON's words."""
    kinds = {str: "a text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _dataset_rows(key: str, source: SourceConfig, file: Path | None, seed: int) -> Iterator[Row]:
    """The rows of a Parquet file, of a folder, or of a data set on the hub, shuffled if only some are wanted."""
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise ConfigError(f"{key}: {source.path} cannot be read, since {not_installed('datasets')}") from None
    parquet: dict[str, Any] = {"path": "parquet", "data_files": str(file), "split": "train"}
    other: dict[str, Any] = {"path": str(file or source.path), "name": source.subset, "split": source.split}
    if file is None:
        check_hub()
    try:
        rows = load_dataset(**(parquet if file is not None and file.is_file() else other), streaming=True)
        if source.count is not None:
            rows = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        for number, row in enumerate(rows, start=1):
            yield Row(f"{source.path}, record {number}", row)
    except (OSError, ValueError, DatasetsError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"{key}.path: cannot read the data set {source.path} ({reason})") from error


def _find_file(key: str, path: str, root: str | None) -> Path | None:
    """The local file of a source: built for a test data set, else in data.root, MARA_DATA or the working folder.

    Returns:
        None if the path is the name of a data set on the hub.
    """
    known = file_ending(path) in ENDINGS
    if path.startswith("tiny_") and not known:
        from llm.testbed.tiny_models import tiny_data

        return tiny_data(key, path)
    folder = root if root is not None else os.environ.get("MARA_DATA", "")
    file = user_path(os.path.expanduser(folder)) / Path(path).expanduser()
    if file.is_dir():
        if next(file.rglob("*.parquet"), None) is None:
            raise ConfigError(f"{key}.path: the folder {path} has no Parquet files; give a file in it")
        return file
    if file.is_file():
        if not known or path.lower().endswith(".parquet.gz"):
            raise ConfigError(f"{key}.path: must be a {', '.join(ENDINGS)}, .json.gz or .jsonl.gz file, got {path}")
        return file
    if known or FILE_NAME.search(path):
        where = "data.root" if root is not None else "MARA_DATA" if folder else "the working folder"
        raise ConfigError(f"{key}.path: no file {path} in {where}; give a file there or a hub name")
    return None
