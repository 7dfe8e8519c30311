"""Copy the code when a sweep is submitted, so that jobs that start later run the same code."""

import shutil
from pathlib import Path

from launch.cli.shadowing import HOME, ROOMS
from launch.runs.atomic import replacing
from launch.runs.provenance import code_version
from launch.runs.run_folder import write_json

SOURCES = (*ROOMS, "hydra_plugins")


def take_snapshot(destination: Path, home: Path = HOME) -> Path:
    """Copy all packages, including untracked files, and write their commit and changes to code.json.

    Args:
        destination: the folder of the snapshot. If it exists it is not changed, since a sweep has one snapshot.
        home: the folder that holds the packages.

    Returns:
        The destination.
    """
    if destination.exists():
        return destination
    with replacing(destination) as partial:
        for room in SOURCES:
            if (home / room).is_dir() and (room in ROOMS or (home / room / "mara").is_dir()):
                source = home / room if room in ROOMS else home / room / "mara"
                target = partial / source.relative_to(home)
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        write_json(partial / "code.json", code_version(home))
    return destination
