"""Run commands as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def llm(*arguments, folder=ROOT, status=0, module="llm"):
    """Run `python -m llm` or another module in a folder, and return its standard output and standard error."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr
