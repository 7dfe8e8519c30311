"""The page on which the optimum of a small problem can be explored: `mara explain --html FILE`.

Its parts are in the folder `explorer_page`, and become one file that needs no server. `mara explain --html
docs/explorer.html` writes the one of the documentation.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARTS = Path(__file__).with_name("explorer_page")
# Later ones use earlier ones.
SCRIPTS = ("targets.js", "methods.js", "presets.js", "charts.js", "state.js", "report.js", "page.js")


def explorer_page(state: Mapping[str, Any] | None = None) -> str:
    """Return the page as HTML.

    Args:
        state: what it begins with: reward and ref, one number per outcome, and where they are not the usual ones,
            answers, beta, entropy, threshold, direction, mara and method (as in state.js). None: an example.
    """
    scripts = [f"\n{(PARTS / name).read_text('utf-8')}" for name in SCRIPTS]
    # In a script element, "<" could end it or begin a comment.
    problem = json.dumps(state, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "SCRIPT_HASHES": " ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        "SCRIPTS": "\n".join(f"<script>{script}</script>" for script in scripts),
        "STYLE": (PARTS / "explorer.css").read_text("utf-8").strip(),
        ">PROBLEM<": f">{problem}<",
    }
    page = (PARTS / "explorer.html").read_text("utf-8")
    for name, text in parts.items():
        page = page.replace(name, text, 1)
    return page


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def write_page(path: Path, state: Mapping[str, Any] | None = None) -> None:
    """Write the page, whole or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(explorer_page(state), "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
