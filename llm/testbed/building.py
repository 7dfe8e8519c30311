"""Folders in the cache that are built once, whichever process comes first."""

import os
from collections.abc import Callable
from pathlib import Path

from launch.runs.atomic import make_folder, replacing, writing
from launch.runs.run_folder import cache_folder, lock_folder

BUILD_TIMEOUT = 3600.0  # seconds to wait for another process that builds the same folder


def cached_folder(name: str, build: Callable[[Path], None]) -> Path:
    """A folder of the cache. If it does not exist, `build` writes it, in a temporary folder that is then renamed."""
    folder = cache_folder() / name
    if not folder.exists():
        lock_place = folder.with_name(f".{folder.name}")
        make_folder(lock_place)
        with writing(lock_place):
            lock = lock_folder(lock_place, BUILD_TIMEOUT)  # waits for another process that builds the folder
        try:
            if not folder.exists():
                with replacing(folder) as new:
                    build(new)
        finally:
            if lock is not None:
                os.close(lock)
    return folder
