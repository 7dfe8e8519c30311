"""Refuse to start when another installed package has the name of one of our folders.

The import names are ordinary words that other distributions use as well: PyPI has a package named `llm`, for example.
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
                f"mara: another package named '{room}' at {theirs} shadows ours at {ours}; "
                "uninstall it or use a separate environment"
            )


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
