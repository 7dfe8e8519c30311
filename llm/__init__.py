import sys
from pathlib import Path
from runpy import run_path

if sys.argv[:1] == ["-m"]:  # `python -m` is looking for the command, and imports from the working folder first
    run_path(str(Path(__file__).parents[1] / "launch" / "cli" / "shadowing.py"))["refuse_shadowing"]()
