"""The files of a run folder that are written one line of JSON at a time: metrics, timings and samples."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from torch import Tensor

from conf.schema.base import ConfigError

LINE_FILES = ("metrics", "timings", "samples")


class LineFiles:
    """The line files of a run, open for appending.

    Args:
        folder: the run folder.
        positions: the length in bytes that each file is first truncated to, by name.

    Raises:
        ConfigError: a file cannot be written.
    """

    def __init__(self, folder: Path, positions: Mapping[str, int]) -> None:
        self.folder = folder
        try:
            self._files = {name: _open_at(line_file(folder, name), positions[name]) for name in LINE_FILES}
        except OSError as error:
            raise ConfigError(unwritable_message(error, folder)) from error

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Write one line and flush it.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            self._files[name].write(json.dumps(to_json(row), ensure_ascii=False, allow_nan=False) + "\n")
            self._files[name].flush()
        except OSError as error:
            raise ConfigError(unwritable_message(error, line_file(self.folder, name))) from error

    def sync(self) -> dict[str, int]:
        """Flush all files to the disk and return their lengths in bytes by name."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()


def line_file(folder: Path, name: str) -> Path:
    """The path of one of the LINE_FILES of a run folder."""
    return folder / f"{name}.jsonl"


def _open_at(path: Path, position: int) -> TextIO:
    with path.open("ab") as file:
        if file.tell() != position:
            file.truncate(position)
    return path.open("a", encoding="utf-8", newline="\n")


def unwritable_message(error: OSError, path: Path) -> str:
    """The message for a file of a run that cannot be written."""
    reason = error.strerror or error
    advice = "checkpoints are safe; run the same command to resume"
    return f"{error.filename or path}: cannot be written: {reason}; {advice}"


def to_json(value: Any) -> Any:
    """Convert a value for JSON: tensors and arrays become numbers or lists, and non-finite numbers become None."""
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
