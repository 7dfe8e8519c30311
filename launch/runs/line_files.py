"""The files of a run folder that are written one line of JSON at a time: metrics, timings and samples."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from torch import Tensor

from launch.runs.atomic import writing
from launch.runs.checksums import digest

RESULT_FILES = ("metrics", "samples")  # which a checkpoint continues
LINE_FILES = (*RESULT_FILES, "timings")


class LineFiles:
    """The line files of a run, open for appending.

    Args:
        folder: the run folder.
        positions: the length in bytes that each file is first truncated to, by name. A shorter file of timings is
            truncated to its last complete line.

    Raises:
        WriteError: a file cannot be written.
    """

    def __init__(self, folder: Path, positions: Mapping[str, int]) -> None:
        self.folder = folder
        self._files: dict[str, TextIO] = {}
        for name in LINE_FILES:
            with writing(line_file(folder, name)):
                self._files[name] = _open_at(line_file(folder, name), positions[name])
        self._digests = {name: digest(line_file(folder, name), positions[name]) for name in RESULT_FILES}

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Write one line and flush it.

        Raises:
            WriteError: the file cannot be written.
        """
        line = json.dumps(to_json(row), ensure_ascii=False, allow_nan=False) + "\n"
        with writing(line_file(self.folder, name)):
            self._files[name].write(line)
            self._files[name].flush()
        if name in self._digests:
            self._digests[name].update(line.encode())

    def sync(self) -> dict[str, int]:
        """Flush all files to the disk and return their lengths in bytes by name.

        Raises:
            WriteError: a file cannot be written.
        """
        for name, file in self._files.items():
            with writing(line_file(self.folder, name)):
                os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def checksums(self) -> dict[str, str]:
        """The checksums of the RESULT_FILES, as they are at present."""
        return {name: sha256.hexdigest() for name, sha256 in self._digests.items()}

    def close(self) -> None:
        """Close all files, also those after one that cannot be closed."""
        with ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)


def line_file(folder: Path, name: str) -> Path:
    """The path of one of the LINE_FILES of a run folder."""
    return folder / f"{name}.jsonl"


def _open_at(path: Path, position: int) -> TextIO:
    with path.open("ab") as file:
        if file.tell() < position:  # of timings only
            position = path.read_bytes().rfind(b"\n") + 1
        if file.tell() != position:
            file.truncate(position)
    return path.open("a", encoding="utf-8", newline="\n")


def to_json(value: Any) -> Any:
    """Convert a value for JSON: tensors and arrays become numbers or lists, and non-finite numbers become None."""
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
