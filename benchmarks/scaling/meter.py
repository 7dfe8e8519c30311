"""CPU seconds and peak memory of a piece of work in this process."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

REPEATS = 3
ENOUGH = 6.0  # CPU seconds after which nothing is repeated
LONG = 40.0  # CPU seconds of a first call that is not repeated


class Cost(NamedTuple):
    """The cost of a piece of work.

    cpu_seconds: of this process and its children, the median of the repetitions.
    peak_mb: MiB, the highest resident memory of this process during the first call, above that before it.
    repeats: the calls that were timed, after the first one where there are several.
    """

    cpu_seconds: float
    peak_mb: float
    repeats: int


def cpu_seconds() -> float:
    """CPU seconds that this process and its children have used, those that have ended included."""
    ended = os.times()
    alive = psutil.Process().children(recursive=True)
    return time.process_time() + ended[2] + ended[3] + sum(sum(child.cpu_times()[:2]) for child in alive)


def memory_mb(field: str) -> float:
    """A field of /proc/self/status in MiB: VmRSS is the present memory, VmHWM the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 2**10


def forget_peak() -> None:
    """Let the peak of this process's memory, VmHWM, be that of what follows."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(work: Callable[[], object], repeats: int = REPEATS, enough: float = ENOUGH, long: float = LONG) -> Cost:
    """Call `work` once for the memory, and then up to `repeats` times for the seconds.

    The first call, which warms up, is the one that counts where it takes more than `long` CPU seconds.
    """
    forget_peak()
    before, start = memory_mb("VmRSS"), cpu_seconds()
    work()
    first, peak = cpu_seconds() - start, memory_mb("VmHWM") - before
    if first > long:
        return Cost(first, peak, 1)
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < enough:
        start = cpu_seconds()
        work()
        seconds.append(cpu_seconds() - start)
    return Cost(statistics.median(seconds), peak, len(seconds))
