"""Folders in the cache that are built once, whichever process comes first."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from launch.runs.run_folder import cache_folder, lock_folder

BUILD_TIMEOUT = 3600.0  # seconds to wait for another process that builds the same folder


def cached_folder(name: str, build: Callable[[Path], None]) -> Path:
    """A folder of the cache. If it does not exist, `build` writes it, in a temporary folder that is then renamed."""
    folder = cache_folder() / name
    if not folder.exists():
        build_folder = folder.with_name(f".{folder.name}")
        build_folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(build_folder, BUILD_TIMEOUT)  # waits for another process that builds the folder
        try:
            if not folder.exists():
                _build(build, build_folder / str(os.getpid()), folder)
        finally:
            if lock is not None:
                os.close(lock)
    return folder


def _build(build: Callable[[Path], None], temporary: Path, folder: Path) -> None:
    build(temporary)
    try:
        temporary.rename(folder)  # atomic: the folder is complete when it appears
    except OSError:  # without file locks, another process may have been first
        shutil.rmtree(temporary)
