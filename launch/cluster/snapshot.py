"""The code as it is now, copied to where jobs that start later find it."""

import os
import shutil
from pathlib import Path

from launch.cli.shadowing import HOME, ROOMS
from launch.runs.provenance import code_version
from launch.runs.run_folder import write_json

SOURCES = (*ROOMS, "hydra_plugins")


def take_snapshot(destination: Path, home: Path = HOME) -> Path:
    """Copy every room, untracked files included, and say in code.json what git knows of them.

    Returns:
        The destination, which is left as it is where it exists: a sweep has one snapshot.
    """
    if destination.exists():
        return destination
    half = destination.with_name(f"{destination.name}.{os.getpid()}")
    for room in SOURCES:
        if (home / room).is_dir() and (room in ROOMS or (home / room / "mara").is_dir()):
            source = home / room if room in ROOMS else home / room / "mara"
            shutil.copytree(source, half / source.relative_to(home), ignore=shutil.ignore_patterns("__pycache__"))
    write_json(half / "code.json", code_version(home))
    half.rename(destination)
    return destination
