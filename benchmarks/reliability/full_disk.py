"""A disk that is full at a random moment of a run; once there is space again, the run is resumed."""

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from benchmarks.reliability.trials import (
    PACKAGES,
    REFUSED,
    SAME,
    WRONG,
    Experiment,
    Trial,
    command,
    finish,
    resume_faults,
    start,
    undisturbed,
)

BLOCK = 4096
TEMPORARY = (".half_*", ".*.[0-9]*", "*.tmp", "tmp*")  # names of files that are renamed once they are complete


def run_full_disk(experiment: Experiment, count: int) -> int:
    """Run the trials; trial i runs package i % 3. Returns the exit status."""
    if not can_mount(experiment.folder):
        print("a tmpfs cannot be mounted (that needs root): the size of each file is limited instead")
    return experiment.run(count, lambda number, generator: fill_once(experiment.folder, number, generator))


def fill_once(folder: Path, number: int, generator: random.Random) -> Trial:
    """Run with too little space, and again with enough."""
    package = PACKAGES[number % len(PACKAGES)]
    whole, _ = undisturbed(folder, package)
    sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
    largest = sum(sizes) if can_mount(folder) else max(sizes)
    # Half of the limits are small: large checkpoints would otherwise leave few of them to the small files.
    space = int(largest * generator.choice((generator.random(), generator.random() ** 6)))
    place = folder / f"disk_{number}"
    with limited_space(place, space) as (limit, free):
        run = place / "run"
        first = finish(start(command(package, run), limit))
        left = [str(path.relative_to(run)) for name in TEMPORARY for path in run.rglob(name)] if run.exists() else []
        free()
        faults = [f"full: {fault}"] if (fault := first.fault(package)) else []
        faults += [f"temporary files stay: {', '.join(left)}"] if left else []
        faults += resume_faults(package, run, whole)
        if faults and place.is_mount():
            shutil.copytree(place, folder / f"disk_{number}_wrong", dirs_exist_ok=True)
    if not faults:
        shutil.rmtree(place, ignore_errors=True)
    outcome = WRONG if faults else REFUSED if first.status else SAME
    return Trial(number, outcome, f"{package}, {space} bytes", "; ".join(faults) or first.error.strip())


@contextmanager
def limited_space(place: Path, space: int) -> Iterator[tuple[Callable[[], None] | None, Callable[[], None]]]:
    """A new folder with little space.

    Args:
        place: the folder.
        space: its size in bytes, or that of each file if no tmpfs can be mounted.

    Yields:
        What to call in the process whose space is limited, None if nothing; and what ends the shortage.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if not can_mount(place.parent):
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (space, space)), lambda: None
        return
    size = max(-(-space // BLOCK), 1) * BLOCK  # size=0 would mean no limit
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield None, lambda: _remount(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _remount(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)


@lru_cache
def can_mount(folder: Path) -> bool:
    """Whether this process may mount a tmpfs."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    probe = folder / "probe"
    probe.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(probe)], capture_output=True)
    if mounted.returncode == 0:
        subprocess.run(["umount", str(probe)], check=True)
    probe.rmdir()
    return mounted.returncode == 0
