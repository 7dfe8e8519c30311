"""`python -m launch.status SWEEP`: show the state, steps, time left and latest metrics of the jobs of sweeps.

The states are pending (in SLURM's queue), starting, running, finished, failed, preempted (stopped by a signal, after
a checkpoint was saved), dead (killed) and missing (never started). `launch.resume` runs the jobs that are failed,
preempted, dead or missing. The exit status is 1 if a job is failed or dead, otherwise 0.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from conf.schema.objective import DIVERGENCE_METRICS
from launch.cluster.sweep import Sweep, job_states, read_sweep, slurm_queue
from launch.runs.run_folder import (
    last_traceback_line,
    one_line_errors,
    read_config,
    read_jsonl,
    read_last_line,
    read_record,
)
from launch.runs.streams import run_command

METRICS = ("reward/raw", *DIVERGENCE_METRICS, "loss")  # by default the first two that a run logs are shown
RECENT = 20  # number of latest steps whose median time predicts the time left
STATE_COLOURS = {"finished": "green", "failed": "red", "dead": "red", "running": "cyan", "preempted": "yellow"}


@dataclass
class JobStatus:
    """The status of one job. `varies` holds the overrides that not all jobs share."""

    number: int
    varies: str
    state: str
    steps: int
    total: int | None
    seconds_left: float | None
    metrics: dict[str, Any]
    error: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, nargs="+", help="folder of a sweep or of a run")
    parser.add_argument("--metrics", default="", help="comma-separated keys of metrics.jsonl to show")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    keys = [key for key in args.metrics.split(",") if key]
    with one_line_errors("launch.status"):
        sweeps = {folder: read_sweep(folder) for folder in args.sweep}
        queue = slurm_queue() or {} if any(sweep.launcher == "slurm" for sweep in sweeps.values()) else {}
        statuses = {folder: job_statuses(folder, sweep, queue, keys) for folder, sweep in sweeps.items()}
        if args.json:
            print(json.dumps({str(folder): list(map(asdict, jobs)) for folder, jobs in statuses.items()}, indent=2))
        else:
            for folder, jobs in statuses.items():
                print_jobs(folder, jobs)
    return int(any(job.state in ("failed", "dead") for jobs in statuses.values() for job in jobs))


def job_statuses(folder: Path, sweep: Sweep, queue: dict[str, str], keys: Sequence[str]) -> list[JobStatus]:
    """The status of each job of a sweep.

    Args:
        folder: the sweep folder.
        sweep: its record.
        queue: the states of SLURM jobs by id.
        keys: the metrics to read; if empty, the first two of METRICS that a run logs.
    """
    states = job_states(folder, sweep.jobs, queue)
    common = set.intersection(*(set(job.overrides) for job in sweep.jobs)) if len(sweep.jobs) > 1 else set()
    statuses = []
    for job, state in zip(sweep.jobs, states, strict=True):
        run = folder / job.folder
        varies = " ".join(override for override in job.overrides if override not in common)
        status = JobStatus(job.number, varies, state, 0, None, None, {}, "")
        if (run / "run.json").exists():
            last = read_last_line(run / "metrics.jsonl") or {}
            status.steps = int(last.get("step", -1)) + 1
            status.total = read_config(run).get("steps")
            status.metrics = {key: last.get(key) for key in keys or [key for key in METRICS if key in last][:2]}
            if state == "running" and status.total is not None:
                status.seconds_left = seconds_left(run, status.total - status.steps)
            if state == "failed":
                status.error = last_traceback_line(read_record(run)["traceback"])
        statuses.append(status)
    return statuses


def seconds_left(run: Path, steps: int) -> float | None:
    """The time that this number of further steps will take, from the median time of the latest ones.

    None if no step has been timed. The timed steps need not be consecutive.
    """
    lines = read_jsonl(run / "timings.jsonl")[-RECENT:]
    if not lines:
        return None
    return steps * median(line["seconds"] for line in lines)


def print_jobs(folder: Path, jobs: Sequence[JobStatus]) -> None:
    """Print a table of the jobs, the errors of failed ones, and the number of jobs in each state."""
    from rich.table import Table

    from launch.runs.console import console

    keys = list(dict.fromkeys(key for job in jobs for key in job.metrics))
    table = Table(title=str(folder), title_justify="left")
    for column in ("job", "overrides", "state", "step", "time left", *keys):
        table.add_column(column, justify="left" if column in ("overrides", "state") else "right", overflow="fold")
    for job in jobs:
        step = f"{job.steps}/{'?' if job.total is None else job.total}"
        values = [job.metrics.get(key) for key in keys]
        colour = STATE_COLOURS.get(job.state, "")
        state = f"[{colour}]{job.state}[/]" if colour else job.state
        cells = [
            "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value) for value in values
        ]
        table.add_row(str(job.number), job.varies or "-", state, step, format_duration(job.seconds_left), *cells)
    markup_console = console.__class__(markup=True, emoji=False, highlight=False, width=console.width)
    markup_console.print(table)
    for job in jobs:
        if job.error:
            console.print(f"job {job.number}: {job.error}", soft_wrap=True)
    counts = Counter(job.state for job in jobs)
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))


def format_duration(seconds: float | None) -> str:
    """H:MM:SS, or a dash for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


if __name__ == "__main__":
    run_command("launch.status", main)
