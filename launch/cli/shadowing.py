"""Refuse to start when another installed package answers to one of our folder names.

The import names are plain words, and other distributions use them as well: `llm` on PyPI is one.
"""

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

ROOMS = ("core", "conf", "launch", "didactic", "llm", "chem")
HOME = Path(__file__).resolve().parents[2]


def refuse_shadowing() -> None:
    """Stop with one line when a room beside this file would be, or was, imported from elsewhere.

    Imports nothing, so it can run before anything else does.

    Raises:
        SystemExit: status 1; the message names the other package's path and ours.
    """
    for room in ROOMS:
        ours = HOME / room
        theirs = _origin(room) if ours.is_dir() else None
        if theirs is not None and not _same(theirs, ours):
            raise SystemExit(
                f"mara: another package named '{room}' at {theirs} shadows ours at {ours}; "
                "uninstall it or use an environment of its own"
            )


def _origin(name: str) -> str | None:
    """The folder or file that `import name` gives, None where it gives none."""
    module = sys.modules.get(name)
    if module is not None:
        return _first(getattr(module, "__path__", ())) or getattr(module, "__file__", None)
    spec = importlib.util.find_spec(name)  # a top-level name: finds, and imports nothing
    if spec is None:
        return None
    return _first(spec.submodule_search_locations or ()) or spec.origin


def _first(locations: Iterable[str]) -> str | None:
    return next(iter(locations), None)


def _same(theirs: str, ours: Path) -> bool:
    try:
        return os.path.samefile(theirs, ours)
    except OSError:  # inside a zip file, say
        return False
