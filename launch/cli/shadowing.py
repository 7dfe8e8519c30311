"""Refuse to start when another package or module has the name of one of our folders.

The import names are ordinary words that others use as well: PyPI has a package named `llm`, and a user of Hydra has a
folder `conf`. `python -m` imports from the working folder first, so the packages with commands call this when
`python -m` imports them, before anything else is imported. They load this file by its path, because `launch` may be
another package. Standard library only.
"""

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

ROOMS = ("core", "conf", "launch", "didactic", "llm", "chem")
HOME = Path(__file__).resolve().parents[2]


def refuse_shadowing() -> None:
    """Exit with a one-line message if one of our packages was, or would be, imported from another place.

    Imports nothing, so it can run before anything else does.

    Raises:
        SystemExit: status 1; the message gives the path of the other package and ours.
    """
    for room in ROOMS:
        ours = HOME / room
        theirs = _origin(room) if ours.is_dir() else None
        if theirs is not None and not _same_file(theirs, ours):
            raise SystemExit(
                f"mara: another package named '{room}' at {theirs} shadows ours at {ours}; {_advice(theirs)}"
            )


def _advice(theirs: str) -> str:
    if _in_working_folder(theirs):
        return "use the command mara, which imports from the working folder last, or start elsewhere"
    return "uninstall it or use a separate environment"


def _in_working_folder(path: str) -> bool:
    try:
        return os.path.realpath(os.path.dirname(path)) == os.path.realpath(os.getcwd())
    except FileNotFoundError:  # the working folder was removed
        return False


def _origin(name: str) -> str | None:
    """The folder or file that `import name` loads, None if it loads none."""
    module = sys.modules.get(name)
    if module is not None:
        return _first(getattr(module, "__path__", ())) or getattr(module, "__file__", None)
    spec = importlib.util.find_spec(name)  # does not import anything, since the name has no dots
    if spec is None:
        return None
    return _first(spec.submodule_search_locations or ()) or spec.origin


def _first(locations: Iterable[str]) -> str | None:
    return next(iter(locations), None)


def _same_file(theirs: str, ours: Path) -> bool:
    try:
        return os.path.samefile(theirs, ours)
    except OSError:  # for example a path inside a zip file
        return False
