"""`python -m launch.status SWEEP`: show the state, steps, time left and latest metrics of the jobs of sweeps.

The states are not started (the process that starts the jobs has yet to start it), queued (by SLURM), starting,
running, finished, failed, preempted (stopped by a signal, after a checkpoint was saved), dead (killed), unreadable
(its files are damaged or not ours) and missing (never started, and nobody is going to start it).
`python -m launch.resume SWEEP` runs the jobs that are failed, preempted, dead or missing. What is shown of a run is
read from its own folder. The exit status is 1 if a job is failed, dead or unreadable, otherwise 0.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from conf.schema.base import ConfigError
from conf.schema.objective import DIVERGENCE_METRICS
from launch.cli.command_table import ArgumentParser
from launch.cli.next_steps import after_status
from launch.cluster.sweep import JobState, Sweep, inspect_jobs, is_alive, read_sweep, run_overrides, slurm_queue
from launch.runs.checksums import check_files
from launch.runs.closing import show_next
from launch.runs.run_folder import (
    foreign_files,
    last_traceback_line,
    one_line_errors,
    read_config,
    read_last_line,
    read_last_lines,
)
from launch.runs.streams import run_command

METRICS = ("reward/raw", *DIVERGENCE_METRICS, "loss")  # by default the first two that a run logs are shown
RECENT = 20  # number of latest steps whose median time predicts the time left
FAILURES = ("failed", "dead", "unreadable")
STATE_COLOURS = {"finished": "green", "running": "cyan", "preempted": "yellow", **dict.fromkeys(FAILURES, "red")}


@dataclass
class JobStatus:
    """The status of one job. `varies` holds the overrides that not all jobs share."""

    number: int
    varies: str
    state: str
    steps: int = 0
    total: int | None = None
    seconds_left: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = ArgumentParser("launch.status", __doc__)
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
            for folder, jobs in statuses.items():
                show_next(after_status(folder, [job.state for job in jobs]))
    return int(any(job.state in FAILURES for jobs in statuses.values() for job in jobs))


def job_statuses(folder: Path, sweep: Sweep, queue: dict[str, str], keys: Sequence[str]) -> list[JobStatus]:
    """The status of each job of a sweep.

    Args:
        folder: the sweep folder.
        sweep: its record.
        queue: the states of SLURM jobs by id.
        keys: the metrics to read; if empty, the first two of METRICS that a run logs.
    """
    statuses = []
    overrides = []
    states = inspect_jobs(folder, sweep.jobs, queue, is_alive(folder))
    for job, of_job in zip(sweep.jobs, states, strict=True):
        status, planned = JobStatus(job.number, "", of_job.state), job.overrides
        try:
            with foreign_files(folder / job.folder):
                planned = run_overrides(folder / job.folder, planned, of_job.record)
                _read_run(status, folder / job.folder, of_job, keys)
        except ConfigError as error:
            status = JobStatus(job.number, "", "unreadable", error=str(error))
        statuses.append(status)
        overrides.append(planned)
    common = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    for status, planned in zip(statuses, overrides, strict=True):
        status.varies = " ".join(override for override in planned if override not in common)
    return statuses


def _read_run(status: JobStatus, run: Path, of_job: JobState, keys: Sequence[str]) -> None:
    """Add what the files of a run say, if it has started, to the status of its job."""
    if of_job.problem:
        raise ConfigError(of_job.problem)
    if of_job.record is None:
        return
    check_files(run, of_job.record)
    last = read_last_line(run / "metrics.jsonl") or {}
    status.steps = int(last.get("step", -1)) + 1
    status.total = read_config(run).get("steps")
    status.metrics = {key: last.get(key) for key in keys or [key for key in METRICS if key in last][:2]}
    if status.state == "running" and status.total is not None:
        status.seconds_left = seconds_left(run, status.total - status.steps)
    if status.state == "failed":
        status.error = last_traceback_line(of_job.record.get("traceback"))


def seconds_left(run: Path, steps: int) -> float | None:
    """The time that this number of further steps will take, from the median time of the latest ones.

    None if no step has been timed. The timed steps need not be consecutive.
    """
    lines = read_last_lines(run / "timings.jsonl", RECENT)
    if not lines:
        return None
    return steps * median(line["seconds"] for line in lines)


def print_jobs(folder: Path, jobs: Sequence[JobStatus]) -> None:
    """Print a table of the jobs, the errors of failed ones, and the number of jobs in each state."""
    from rich.text import Text

    from launch.runs.console import console
    from launch.runs.fitted_table import FittedTable

    keys = list(dict.fromkeys(key for job in jobs for key in job.metrics))
    table = FittedTable()
    for column in ("job", "overrides"):
        table.add_column(column, "label")
    table.add_column("state", "text")
    for column in ("step", "time left", *keys):
        table.add_column(column)
    for job in jobs:
        step = f"{job.steps}/{'?' if job.total is None else job.total}"
        values = [job.metrics.get(key) for key in keys]
        state = Text(job.state, STATE_COLOURS.get(job.state, ""))
        cells = [
            "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value) for value in values
        ]
        table.add_row(str(job.number), job.varies or "-", state, step, format_duration(job.seconds_left), *cells)
    console.print(str(folder), soft_wrap=True)
    console.print(table)
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
