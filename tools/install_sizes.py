"""Measure what each extra of the project adds to an environment: `python -m tools.install_sizes FOLDER [EXTRA...]`.

An environment is made in FOLDER with the project alone; then the extras are installed one after the other. A Markdown
table is printed, with the size of the new files and the seconds, of which the download is a part unless pip has the
packages in its cache. A package that two extras share counts for the first of them.
"""

import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOR_DEVELOPERS = ("dev", "docs")


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def requirements(extras: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (name of the row, arguments of pip install) for the project alone and for each extra."""
    yield "(none)", ["-e", str(ROOT)]
    for extra in extras:
        yield extra, ["-e", f"{ROOT}[{extra}]"]


def measure(folder: Path, extras: Sequence[str]) -> Iterator[tuple[str, int, float]]:
    """Install into a new environment; yield (extra, bytes, seconds)."""
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    before = size(folder)
    for name, arguments in requirements(extras):
        start = time.monotonic()
        subprocess.run([*pip, *arguments], check=True)
        seconds, after = time.monotonic() - start, size(folder)
        yield name, after - before, seconds
        before = after


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chosen = arguments[1:] or [name for name in project["optional-dependencies"] if name not in FOR_DEVELOPERS]
    print("| extra | MB | seconds |\n|---|---:|---:|")
    for name, added, seconds in measure(Path(arguments[0]), chosen):
        print(f"| {name} | {added / 1e6:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
