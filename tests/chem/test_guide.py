"""The example of an own oracle in docs/oracles.md prints what the page says, in at most 20 lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
GUIDE = (HOME / "docs" / "oracles.md").read_text(encoding="utf-8")


def test_the_guides_oracle(tmp_path):
    code = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL).group(1)
    (tmp_path / "carbon_share.py").write_text(code)
    lines = code.partition("if __name__")[0].splitlines()
    assert len([line for line in lines if line.strip()]) <= 20
    path = os.pathsep.join([str(HOME), str(tmp_path)])
    command = [sys.executable, str(tmp_path / "carbon_share.py")]
    process = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=100
    )
    assert process.returncode == 0, process.stderr
    promised = re.search(r"it prints `(.*?)`", GUIDE).group(1)
    assert process.stdout.strip() == promised
