"""Write constraints.txt from the packages of a virtual environment: `make constraints`.

    python tools/constraints.py FOLDER

The project itself, pip, setuptools and wheel are excluded. A local version label such as torch's `+cpu` is removed,
so that any build of the version satisfies the pin.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# The packages of a fresh `make venv`, each at one version.
# `make constraints` renews this file; it keeps the pin of torch, which is changed by hand.
"""


def render(frozen: str) -> str:
    """The text of constraints.txt for the output of `pip freeze`."""
    pins = [re.sub(r"\+\S+$", "", line) for line in frozen.splitlines() if "==" in line]
    return HEADER + "".join(f"{pin}\n" for pin in pins)


if __name__ == "__main__":
    python = str(Path(sys.argv[1]) / "bin" / "python")
    freeze = [python, "-m", "pip", "freeze", "--exclude-editable"]
    excluded = [f"--exclude={name}" for name in ("pip", "setuptools", "wheel")]
    frozen = subprocess.run([*freeze, *excluded], check=True, text=True, stdout=subprocess.PIPE).stdout
    (ROOT / "constraints.txt").write_text(render(frozen), encoding="utf-8")
