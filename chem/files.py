"""Input files named in a configuration, and hashes of files."""

import hashlib
import os
from pathlib import Path

from conf.schema.base import ConfigError
from launch.runs.run_folder import user_path


def find_file(key: str, name: str) -> Path:
    """Find a file by the given path, or by that path below the folder MARA_DATA.

    Args:
        key: configuration key, for the error message.
        name: path of the file.

    Raises:
        ConfigError: neither file exists.
    """
    for path in (user_path(name), user_path(os.environ.get("MARA_DATA", ".")) / name):
        if path.is_file():
            return path
    raise ConfigError(f"{key}: there is no file {name}, neither here nor in the folder named by MARA_DATA")


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 of the Python files in a folder, concatenated in the order of their names."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()
