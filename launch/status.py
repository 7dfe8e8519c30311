"""`python -m launch.status SWEEP`: the jobs of a sweep (or a run): states, steps, time left, last metrics.

States: pending (in SLURM's queue), starting, running, finished, failed, preempted (told to leave, and saved), dead
(killed outright), missing (never started). `launch.resume` runs what is failed, preempted, dead or missing.
The exit status is 1 where a job is failed or dead, else 0.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from conf.schema.objective import DIVERGENCE_METRICS
from launch.cluster.sweep import Sweep, job_states, read_sweep, slurm_queue
from launch.runs.run_folder import (
    last_line,
    last_traceback_line,
    one_line_errors,
    read_config,
    read_jsonl,
    read_record,
)

METRICS = ("reward/raw", *DIVERGENCE_METRICS, "loss")  # the first two that a run has
RECENT = 20  # lines of timings.jsonl
STATE_COLOURS = {"finished": "green", "failed": "red", "dead": "red", "running": "cyan", "preempted": "yellow"}


@dataclass
class JobStatus:
    number: int
    varies: str
    state: str
    steps: int
    total: int | None
    seconds_left: float | None
    metrics: dict[str, Any]
    error: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, nargs="+", help="folders of sweeps, or of runs")
    parser.add_argument("--metrics", default="", help="keys of metrics.jsonl to show, with commas between them")
    parser.add_argument("--json", action="store_true", help="for machines")
    given = parser.parse_args(arguments)
    wanted = [key for key in given.metrics.split(",") if key]
    with one_line_errors("launch.status"):
        sweeps = {folder: read_sweep(folder) for folder in given.sweep}
        queue = slurm_queue() or {} if any(sweep.launcher == "slurm" for sweep in sweeps.values()) else {}
        jobs = {folder: statuses(folder, sweep, queue, wanted) for folder, sweep in sweeps.items()}
        if given.json:
            print(json.dumps({str(folder): [asdict(job) for job in some] for folder, some in jobs.items()}, indent=2))
        else:
            for folder, some in jobs.items():
                print_table(folder, some)
    return int(any(job.state in ("failed", "dead") for some in jobs.values() for job in some))


def statuses(folder: Path, sweep: Sweep, queue: dict[str, str], wanted: Sequence[str]) -> list[JobStatus]:
    states = job_states(folder, sweep.jobs, queue)
    common = set.intersection(*(set(job.overrides) for job in sweep.jobs)) if len(sweep.jobs) > 1 else set()
    found = []
    for job, state in zip(sweep.jobs, states, strict=True):
        run = folder / job.folder
        varies = " ".join(override for override in job.overrides if override not in common)
        status = JobStatus(job.number, varies, state, 0, None, None, {}, "")
        if (run / "run.json").exists():
            last = last_line(run / "metrics.jsonl") or {}
            status.steps = int(last.get("step", -1)) + 1
            status.total = read_config(run).get("steps")
            status.metrics = {key: last.get(key) for key in wanted or [key for key in METRICS if key in last][:2]}
            if state == "running" and status.total is not None:
                status.seconds_left = seconds_left(run, status.total - status.steps)
            if state == "failed":
                status.error = last_traceback_line(read_record(run)["traceback"])
        found.append(status)
    return found


def seconds_left(run: Path, steps: int) -> float | None:
    """From the time that the last steps took; metrics may be logged at every tenth step only."""
    lines = read_jsonl(run / "timings.jsonl")[-RECENT:]
    if not lines:
        return None
    return steps * median(line["seconds"] for line in lines)


def print_table(folder: Path, jobs: Sequence[JobStatus]) -> None:
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
        shown = [
            "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value) for value in values
        ]
        table.add_row(str(job.number), job.varies or "-", state, step, clock(job.seconds_left), *shown)
    for_table = console.__class__(markup=True, emoji=False, highlight=False, width=console.width)
    for_table.print(table)
    for job in jobs:
        if job.error:
            console.print(f"job {job.number}: {job.error}", soft_wrap=True)
    counts = Counter(job.state for job in jobs)
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))


def clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


if __name__ == "__main__":
    sys.exit(main())
