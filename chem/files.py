"""Where files are found and kept, and what is named in a configuration is found."""

import hashlib
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from conf.schema import ConfigError


def cache_folder() -> Path:
    root = os.environ.get("MARA_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "mara"


def find_file(key: str, name: str) -> Path:
    """A file as named, or under the folder MARA_DATA."""
    for path in (Path(name), Path(os.environ.get("MARA_DATA", ".")) / name):
        if path.is_file():
            return path
    raise ConfigError(f"{key}: must be a file, here or under the folder MARA_DATA, found {name}")


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_object(path: str) -> Any:
    """What `package.module:name` names. Raises ImportError or AttributeError where there is none."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
