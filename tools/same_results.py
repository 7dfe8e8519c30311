"""Check that a refactoring does not change results: `python -m tools.same_results COMMIT`.

Runs each of the COMMANDS with the code of COMMIT, in a temporary git worktree, and with this working tree, both on
one thread and with empty caches. Then compares metrics.jsonl and the final weights byte by byte. The exit status is 0
if all files are the same, otherwise 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from launch.cli.overrides import run_folder_override

HOME = Path(__file__).resolve().parent.parent
COMMANDS = (["llm", "experiment=one_two"], ["chem"], ["didactic", "experiment=figure5"])


def main() -> int:
    """Parse the command line, run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.same_results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", help="the commit to compare with, such as HEAD~3 or a hash")
    commit = parser.parse_args().commit
    different = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worktree = folder / "code"
        git("worktree", "add", "--quiet", "--detach", str(worktree), commit)
        try:
            for command in COMMANDS:
                before = run(command, worktree, folder / "before")
                after = run(command, HOME, folder / "after")
                for line in compare(before, after):
                    different = different or not line.endswith(": same")
                    print(f"{' '.join(command)}: {line}", flush=True)
        finally:
            git("worktree", "remove", "--force", str(worktree))
    return int(different)


def git(*arguments: str) -> None:
    """Run git in this repository."""
    subprocess.run(["git", "-C", str(HOME), *arguments], check=True)


def run(command: list[str], code: Path, out: Path) -> Path:
    """Run `python -m COMMAND` with the code in a folder, and return the run folder."""
    folder = out / command[0]
    environment = os.environ | {"PYTHONPATH": str(code), "MARA_CACHE": str(out / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", *command, run_folder_override(folder)],
        check=True,
        cwd=code,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return folder


def compare(before: Path, after: Path) -> Iterator[str]:
    """Yield one line for each file of results in either run folder."""
    old, new = results(before), results(after)
    for name in sorted({*old, *new}):
        yield f"{name}: {'same' if old.get(name) == new.get(name) else 'DIFFERENT'}"


def results(folder: Path) -> Mapping[str, bytes]:
    """The contents of metrics.jsonl and of the weights by relative path."""
    paths = [folder / "metrics.jsonl", *folder.rglob("*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    sys.exit(main())
