"""`python -m launch.watch RUN|SWEEP`: a live table of runs: state, step, time left, and metrics with their course.

One row is one run. It shows runs that other processes write, also of a sweep whose jobs have not begun, and ends when
all jobs have ended, or with Ctrl-C; the runs go on. A sparkline shows a metric over all steps so far.

    python -m launch.watch runs/llm/one_two/sweep_TIME
    python -m launch.watch RUN --metrics reward/raw,loss      other keys of metrics.jsonl
    python -m launch.watch SWEEP --once                       print the table once, as into a pipe

The exit status is 1 if a job is failed, dead or unreadable when the command ends by itself, otherwise 0.
"""

import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from conf.schema.base import ConfigError
from launch.cli.command_table import ArgumentParser
from launch.cli.next_steps import after_status
from launch.cluster.sweep import ACTIVE, Sweep, read_sweep, slurm_queue
from launch.runs.closing import show_next
from launch.runs.console import console
from launch.runs.run_folder import one_line_errors, parse_line
from launch.runs.streams import run_command
from launch.status import FAILURES, STATE_COLOURS, JobStatus, format_duration, job_statuses

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

QUEUE_SECONDS = 30.0  # between two questions to SLURM
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "._-=+*#@"
SPARK_WIDTHS = (16, 12, 8, 5)  # columns of a sparkline; the first that fits
NAME_WIDTH = 30  # columns of a name, which is folded if it is longer
VALUE_WIDTH = 8  # columns of a space and a value
MAX_METRICS = 4


@dataclass
class MetricFile:
    """The numbers in a growing metrics.jsonl. Only what was added since the last call of `update` is read.

    values: by key, in the order of the lines.
    """

    path: Path
    position: int = 0
    lines: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)

    def update(self) -> None:
        """Read the complete lines that were added. If the file became shorter, all are read."""
        try:
            size = self.path.stat().st_size
            if size < self.position:
                self.position, self.lines, self.values = 0, 0, {}
            with self.path.open("rb") as stream:
                stream.seek(self.position)
                added = stream.read(size - self.position)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from error
        whole = added[: added.rfind(b"\n") + 1]
        for line in whole.split(b"\n")[:-1]:
            self.lines += 1
            row = parse_line(line, f"{self.path}, line {self.lines}")
            for key, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
                    self.values.setdefault(key, []).append(float(value))
        self.position += len(whole)


class Watch:
    """What is shown of a sweep or of a run, as far as it is known.

    Args:
        folder: of the sweep or the run.
        keys: metrics to show; empty: the first that the runs log, see `launch.status`.
    """

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self.folder, self.keys = folder, list(keys)
        self.jobs: list[JobStatus] = []
        self._files: dict[int, MetricFile] = {}
        self._queue: dict[str, str] = {}
        self._asked_at = -QUEUE_SECONDS

    def update(self) -> None:
        """Read what has changed.

        Raises:
            ConfigError: the folder is no sweep or run.
        """
        sweep = read_sweep(self.folder)
        self.jobs = job_statuses(self.folder, sweep, self._slurm_states(sweep), self.keys)
        for status, job in zip(self.jobs, sweep.jobs, strict=True):
            file = self._files.setdefault(status.number, MetricFile(self.folder / job.folder / "metrics.jsonl"))
            try:
                file.update()
            except ConfigError as error:
                status.state, status.error = "unreadable", str(error)

    def _slurm_states(self, sweep: Sweep) -> dict[str, str]:
        if sweep.launcher == "slurm" and time.monotonic() - self._asked_at >= QUEUE_SECONDS:
            self._queue, self._asked_at = slurm_queue() or {}, time.monotonic()
        return self._queue

    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return not any(job.state in ACTIVE for job in self.jobs)

    def failed(self) -> bool:
        """Whether a job has failed."""
        return any(job.state in FAILURES for job in self.jobs)

    def render(self, width: int, height: int | None = None) -> "RenderableType":
        """The table within the width. If the height is too small for all rows, those of running jobs are shown."""
        from rich.console import Group
        from rich.text import Text

        jobs = self.jobs
        room = len(jobs) if height is None else max(height - 6 - sum(bool(job.error) for job in jobs), 1)
        if len(jobs) > room:
            order = sorted(jobs, key=lambda job: job.state != "running")
            jobs = sorted(order[: room - 1] or order[:1], key=lambda job: job.number)
        lines: list[RenderableType] = [Text(str(self.folder), overflow="ellipsis", no_wrap=True)]
        lines.append(self._table(jobs, width))
        if len(jobs) < len(self.jobs):
            lines.append(Text(f"{len(self.jobs) - len(jobs)} more jobs are not shown"))
        for job in self.jobs:
            if job.error:
                lines.append(Text(f"job {job.number}: {job.error}", "red", overflow="ellipsis", no_wrap=True))
        counts = Counter(job.state for job in self.jobs)
        lines.append(Text(", ".join(f"{count} {state}" for state, count in counts.items())))
        return Group(*lines)

    def _table(self, jobs: Sequence[JobStatus], width: int) -> "Table":
        """The widest table that fits: sparklines become shorter, and then the last metrics are left out."""
        keys = list(dict.fromkeys(key for job in self.jobs for key in job.metrics))[:MAX_METRICS]
        for count in range(len(keys), -1, -1):
            for spark in SPARK_WIDTHS if count else (0,):
                table = self._columns(jobs, keys[:count], spark)
                if console.measure(table, options=console.options.update(width=10**6)).maximum <= width:
                    return table
        return table

    def _columns(self, jobs: Sequence[JobStatus], keys: Sequence[str], spark: int) -> "Table":
        from rich.table import Table
        from rich.text import Text

        names = [short_name(job) for job in jobs]
        table = Table(box=None, pad_edge=False)  # without borders, to leave room for the metrics
        table.add_column("run")
        for column in ("state", "step", "left"):
            table.add_column(column, no_wrap=True, justify="left" if column == "state" else "right")
        for key in keys:
            table.add_column(folded(key, spark + VALUE_WIDTH), no_wrap=True, min_width=spark + VALUE_WIDTH)
        for job, name in zip(jobs, names, strict=True):
            values = self._files[job.number].values if job.number in self._files else {}
            cells = [metric_cell(values.get(key, []), spark) for key in keys]
            step = f"{job.steps}/{'?' if job.total is None else job.total}"
            state = Text(job.state, STATE_COLOURS.get(job.state, ""))
            table.add_row(name, state, step, format_duration(job.seconds_left), *cells)
        return table


def short_name(job: JobStatus) -> str:
    """The number of a job and the overrides that distinguish it, with the last parts of their keys, folded."""
    words = (override.partition("=") for override in job.varies.split())
    short = (f"{key.rpartition('.')[2]}{equals}{value}" for key, equals, value in words)
    return "\n".join(wrap(" ".join([str(job.number), *short]), NAME_WIDTH))


def folded(key: str, width: int) -> str:
    """A key on lines of a width, which end after a slash or an underscore where they can."""
    lines = [""]
    for part in re.findall(r"[^/_]+[/_]*|[/_]+", key):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line[start : start + width] for line in lines for start in range(0, len(line), width))


def metric_cell(values: Sequence[float], width: int) -> str:
    """A sparkline with the last value."""
    return f"{sparkline(values, width)} {short_number(values[-1])}" if values else "-"


def short_number(value: float) -> str:
    """A number within VALUE_WIDTH - 1 characters."""
    texts = (f"{value:{form}}" for form in (".3g", ".1e", ".0e"))
    return next((text for text in texts if len(text) < VALUE_WIDTH), f"{value:.0e}")


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as at most `width` bars, each the mean of a part of them, between the lowest and the highest."""
    bars = BARS if can_print(BARS) else ASCII_BARS
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return bars[0] * count
    return "".join(bars[min(int((mean - low) / (high - low) * len(bars)), len(bars) - 1)] for mean in means)


def can_print(text: str) -> bool:
    """Whether the terminal's encoding has the characters."""
    try:
        text.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = ArgumentParser("launch.watch", __doc__)
    parser.add_argument("sweep", type=Path, help="folder of a sweep or of a run")
    parser.add_argument("--metrics", default="", help="comma-separated keys of metrics.jsonl to show")
    parser.add_argument("--once", action="store_true", help="print the table once")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks (default: 2)")
    args = parser.parse_args(arguments)
    with one_line_errors("launch.watch"):
        if not args.every > 0:
            raise ConfigError(f"--every: must be > 0, got {args.every:g}")
        watch = Watch(args.sweep, [key for key in args.metrics.split(",") if key])
        watch.update()
        live = console.is_terminal and not args.once and not watch.ended()
        if live and not follow(watch, args.every):
            return 0
        if not live:
            console.print(watch.render(console.width))
        show_next(after_status(args.sweep, [job.state for job in watch.jobs]))
        return int(watch.failed())
    return 1


def follow(watch: Watch, seconds: float) -> bool:
    """Show the table until all jobs have ended; return whether they have, and not Ctrl-C ended it."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                watch.update()
                live.update(watch.render(console.width, console.height), refresh=True)
                if watch.ended():
                    return True
                time.sleep(seconds)
        except KeyboardInterrupt as interruption:
            if interruption.args and interruption.args[0] != signal.SIGINT:
                raise
            return False


if __name__ == "__main__":
    run_command("launch.watch", main)
