"""A SLURM job that is requeued again and again ends with the results of an undisturbed run."""

import importlib.util
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.reliability.trials import (
    ROOT,
    SAME,
    WRONG,
    Experiment,
    Trial,
    differences,
    environment,
    fingerprint,
    finish,
    metric_lines,
    recorded_state,
    start,
)

STEPS_BETWEEN = 6  # a requeue comes after 1 to this many new steps
LIMIT_SECONDS = 300.0  # for a job to start and take these steps
JOB = ["experiment=bandit", "gradient=sampled", "samples=4096", "log_every=1", "checkpoint.every_steps=3"]
LAUNCHER = ["hydra.launcher.timeout_min=30", "hydra.launcher.signal_delay_s=20"]


def run_requeue(experiment: Experiment, count: int) -> int:
    """Requeue one job `count` times. Returns the exit status; without SLURM nothing is run and it is 0.

    The trials are requeues of one job, so that an experiment that was interrupted starts from the beginning.
    """
    with cluster(experiment.folder) as reason:
        if reason:
            print(f"requeue: skipped, no SLURM answers ({reason})")
            return 0
        experiment.path.unlink(missing_ok=True)
        experiment.trials.clear()
        requeue_again_and_again(experiment, count)
    return experiment.report(count)


def requeue_again_and_again(experiment: Experiment, count: int) -> None:
    """Submit one job, requeue it `count` times and compare its results with those of an undisturbed run."""
    sweep, whole = experiment.folder / "sweep", experiment.folder / "undisturbed"
    for folder in (sweep, whole):
        shutil.rmtree(folder, ignore_errors=True)
    generator = random.Random(f"{experiment.name} {experiment.seed}")
    job = [*JOB, f"steps={(count + 2) * (STEPS_BETWEEN + 2)}", "seed=0"]
    submitted = finish(
        start([sys.executable, "-m", "launch.submit", "didactic", *job, *LAUNCHER, f"hydra.sweep.dir={sweep}"])
    )
    if submitted.status != 0:
        raise SystemExit(f"launch.submit failed: {submitted.error}")
    from launch.cluster.sweep import read_sweep

    number = str(read_sweep(sweep).jobs[0].id)
    run = sweep / read_sweep(sweep).jobs[0].folder
    requeues: list[Trial] = []
    for index in range(count):
        target = metric_lines(run) + generator.randint(1, STEPS_BETWEEN)
        if not _wait_for(run, lambda: metric_lines(run), target):
            requeues.append(Trial(index, WRONG, f"requeue {index}", f"step {target} not reached: {_log(sweep)}"))
            break
        at = metric_lines(run)
        subprocess.run(["scontrol", "requeue", number], check=True, capture_output=True)
        fault = "" if _wait_for(run, lambda: recorded_state(run) == "preempted") else f"state {recorded_state(run)}"
        requeues.append(Trial(index, WRONG if fault else SAME, f"requeue {index} after step {at}", fault))
    ended = _wait_for(run, lambda: recorded_state(run) == "finished")
    alone = finish(start([sys.executable, "-m", "didactic", *job, f"hydra.run.dir={whole}"]), timeout=600)
    fault = ""
    if alone.status:
        fault = f"the undisturbed run failed: {alone.error}"
    elif not ended:
        fault = f"state {recorded_state(run)}: {_log(sweep)}"
    elif different := differences(run, fingerprint(whole)):
        fault = f"differs: {different}"
    subprocess.run(["scancel", number], check=False, capture_output=True)
    for trial in requeues:
        experiment.add(Trial(trial.number, WRONG, trial.what, trial.detail or fault) if fault else trial)


def _wait_for(run: Path, value: Callable[[], int], target: int = 1) -> bool:
    """Wait until `value()` is at least `target`. False if the run fails or it takes longer than LIMIT_SECONDS."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while value() < target:
        if time.monotonic() > deadline or recorded_state(run) == "failed":
            return False
        time.sleep(0.02)
    return True


def _log(sweep: Path) -> str:
    """The end of what the job printed."""
    logs = sorted(sweep.rglob("*_log.err"), key=lambda path: path.stat().st_mtime)
    return logs[-1].read_text("utf-8", "replace")[-300:] if logs else "the job printed nothing"


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Use the SLURM of this machine, or start one of one node where it is installed and does not run.

    Yields:
        Why there is no SLURM, empty if there is one.
    """
    if shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        yield ""
        return
    spec = importlib.util.spec_from_file_location("slurm_cluster", ROOT / "tests" / "slurm" / "cluster.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reason = module.missing()
    if reason:
        yield reason
        return
    os.environ.update(environment())
    place = folder / "slurm"
    shutil.rmtree(place, ignore_errors=True)
    with module.Cluster(place):
        yield ""
