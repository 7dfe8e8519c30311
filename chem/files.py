"""Files that a configuration names."""

import hashlib
import os
from pathlib import Path

from conf.schema.base import ConfigError
from launch.runs.run_folder import user_path


def find_file(key: str, name: str) -> Path:
    """A file as named, or under the folder MARA_DATA."""
    for path in (user_path(name), user_path(os.environ.get("MARA_DATA", ".")) / name):
        if path.is_file():
            return path
    raise ConfigError(f"{key}: must be a file, here or under the folder MARA_DATA, got {name}")


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_hash(folder: Path) -> str:
    """Of the Python files of a folder."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()
