"""The build backend of the repository: setuptools for an editable install, and one line that refuses any other build.

The top-level packages have ordinary names (`llm`, `core`, `conf`), and PyPI has a distribution `llm`. A wheel would
write them into site-packages, where they and the files of the other overwrite each other. An editable install writes
no such folder, but Python would import the other `llm`, so it is refused as well where there is one. pip calls these
functions (PEP 517, PEP 660).
"""

import sysconfig
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    get_requires_for_build_editable,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]
ROOMS = ("core", "conf", "launch", "didactic", "llm", "chem")
CLONE_ONLY = (
    "mara: this repository is used from a clone: run `make venv` or `pip install -e .` for all of it, or "
    "`pip install ./core` for the library mara alone"
)


def build_wheel(*arguments: Any, **options: Any) -> str:
    """Refuse: the packages must not be copied into site-packages."""
    raise SystemExit(CLONE_ONLY)


def get_requires_for_build_sdist(*arguments: Any, **options: Any) -> list[str]:
    """Refuse, as `build_wheel`: what is built from a source distribution is a wheel."""
    raise SystemExit(CLONE_ONLY)


build_sdist = build_wheel


def build_editable(*arguments: Any, **options: Any) -> str:
    """Build an editable install, unless an installed package has the name of one of ours."""
    folders = dict.fromkeys(sysconfig.get_path(scheme) for scheme in ("purelib", "platlib"))
    if (other := namesake(list(folders))) is not None:
        raise SystemExit(other)
    wheel: str = build_meta.build_editable(*arguments, **options)
    return wheel


def namesake(folders: Sequence[str]) -> str | None:
    """One line about an installed package with the name of one of ours, and what to do; None if there is none."""
    for folder in folders:
        for room in ROOMS:
            files = [path for path in (Path(folder) / room, Path(folder) / f"{room}.py") if path.exists()]
            if files:
                return (
                    f"mara: {_owner(folder, room)} has the import name of a package of this repository, {files[0]}; "
                    "pip uninstall it, or use an environment of its own: make venv"
                )
    return None


def _owner(folder: str, room: str) -> str:
    """The installed distribution that has a top-level package, in words."""
    for distribution in distributions(path=[folder]):
        if any(path.parts[0] in (room, f"{room}.py") for path in distribution.files or ()):
            return f"the installed package {distribution.metadata['Name']} {distribution.version}"
    return "an installed package"
