"""Kill or stop a run at a random moment, resume it, and compare the results with those of an undisturbed run."""

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.reliability.trials import (
    PACKAGES,
    SAME,
    WRONG,
    Ended,
    Experiment,
    Trial,
    command,
    finish,
    metric_lines,
    recorded_state,
    resume_faults,
    start,
    undisturbed,
)

SIGNALS = (
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR2,
    signal.SIGUSR1,
)
UNHANDLED = (signal.SIGKILL, signal.SIGUSR1)  # these end a process without a word
MAX_TRIES = 20  # of a moment at which the run has not ended yet
SHORTER = 0.8  # factor of the latest moment from try to try: a machine may be faster than it was at first


def run_kills(experiment: Experiment, count: int) -> int:
    """Run the trials; trial i stops the package i % 3 with a signal. Returns the exit status."""
    return experiment.run(count, lambda number, generator: kill_once(experiment.folder, number, generator))


def kill_once(folder: Path, number: int, generator: random.Random) -> Trial:
    """One run, stopped once at a random moment and then resumed until it ends by itself."""
    package = PACKAGES[number % len(PACKAGES)]
    stop = SIGNALS[number // len(PACKAGES) % len(SIGNALS)]
    whole, seconds = undisturbed(folder, package)
    run = folder / f"kill_{number}"
    for attempt in range(MAX_TRIES):
        shutil.rmtree(run, ignore_errors=True)
        # Half of the signals come at any moment after Python has started, half between two lines or after the last.
        lines = generator.randint(1, metric_lines(whole)) if generator.random() < 0.5 else 0
        delay = generator.uniform(0, 0.1) if lines else generator.uniform(0.2, 1.1 * seconds * SHORTER**attempt)
        times = generator.choice((1, 1, 1, 3))
        process = start(command(package, run))
        if _wait(process, run, lines, delay):
            break
        finish(process)  # the run ended before the signal
    what = f"{package}, {stop.name} x{times} {delay:.2f} s after {f'line {lines}' if lines else 'the start'}"
    was_last = metric_lines(run) == metric_lines(whole)
    for _ in range(times):
        process.send_signal(stop)
    faults = _faults(finish(process), run, stop, was_last)
    faults += resume_faults(package, run, whole)
    if not faults:
        shutil.rmtree(run)
    return Trial(number, WRONG if faults else SAME, what, "; ".join(faults))


def _wait(process: "subprocess.Popen[str]", run: Path, lines: int, delay: float) -> bool:
    """Wait until metrics.jsonl has so many lines, and then for `delay` seconds. False if the process ended before."""
    while process.poll() is None and metric_lines(run) < lines:
        time.sleep(0.002)
    try:
        process.wait(delay)
        return False
    except subprocess.TimeoutExpired:
        return True


def _faults(ended: Ended, run: Path, stop: signal.Signals, was_last: bool) -> list[str]:
    """What is wrong with how a process ended after a signal.

    Args:
        ended: how it ended.
        run: its run folder.
        stop: the signal.
        was_last: whether the signal came after the last step, when the run may finish.
    """
    if ended.timed_out:
        return [f"{stop.name} did not end the process"]
    faults = []
    if "Traceback" in ended.error or "Traceback" in ended.output:
        faults.append(f"traceback after {stop.name}: {ended.error[-3000:]}")
    if stop in UNHANDLED:
        return faults
    if ended.status == 0 and not was_last:
        faults.append(f"{stop.name} was lost")
    if ended.status not in (0, 128 + stop, -stop):
        faults.append(f"status {ended.status} after {stop.name}: {ended.error[-200:]!r}")
    if recorded_state(run) == "running":
        faults.append(f"the state is running after {stop.name}")
    return faults
