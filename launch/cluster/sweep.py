"""sweep.json, the record of a sweep, which is the same for all launchers, and the lock of a sweep.

sweep.json says which jobs there are. What a run is, the files in its own folder say.
"""

import getpass
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from conf.schema.base import ConfigError
from launch.cli.recorded_command import is_inside, read_command
from launch.runs.atomic import make_folder
from launch.runs.run_folder import (
    FolderLocked,
    is_locked,
    lock_folder,
    parse_json,
    read_config,
    read_json,
    read_last_line,
    read_record,
    read_yaml,
    run_state,
    unusable_folder_message,
    write_json,
)

LOCK = ".sweep.lock"
ACTIVE = ("not started", "queued", "starting", "running")  # states of a job that somebody starts or has started
RESUMABLE = ("failed", "preempted", "dead", "missing")  # states of a job that launch.resume runs

# The states of a job that has ended in the output of squeue; ENDED is our own, for a job that is not in the queue.
ENDED = (
    "ENDED",
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
)


@dataclass
class SweepJob:
    """A job of a sweep: one run."""

    number: int
    overrides: list[str]
    folder: str  # the run folder, relative to the sweep folder
    id: str | None = None  # the cluster's id of the job


@dataclass
class Sweep:
    """The content of sweep.json."""

    package: str
    command: list[str]
    launcher: str  # basic, local, slurm
    jobs: list[SweepJob]
    on_failure: str = "continue"
    settings: dict[str, Any] = field(default_factory=dict)  # of the launcher
    cwd: str = ""  # relative paths in the overrides are relative to this folder
    flags: list[str] = field(default_factory=list)  # `launch.cli.recorded_command.CONFIG_FLAGS` with their values
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass
class PlannedSweep:
    """A sweep whose jobs have been checked.

    record: of the sweep; it may hold further jobs, of earlier sweeps into the same folder. jobs: those that this
    sweep starts, in order. lock: None if nothing is started. passed: the number of jobs in the batches that Hydra has
    passed on to the launcher.
    """

    record: Sweep
    jobs: list[SweepJob]
    lock: "SweepLock | None" = None
    passed: int = 0


class SweepLock:
    """Held by a process as long as it may start jobs of a sweep. Any end of the process releases it.

    On a file system without locks nothing is locked.

    Args:
        folder: the sweep folder, created if it does not exist.

    Raises:
        ConfigError: another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = lock_folder(folder, name=LOCK)
            if self._descriptor is not None:
                os.truncate(self._descriptor, 0)
                os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except FolderLocked:
            holder = (folder / LOCK).read_text("utf-8", errors="replace") or "another process"
            raise ConfigError(
                f"{folder}: {holder} is starting the jobs of this sweep; wait until it has ended, or stop it first"
            ) from None
        except OSError as error:
            raise ConfigError(unusable_folder_message(error)) from error

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write sweep.json, and create the folder if it does not exist."""
    make_folder(folder)
    write_json(folder / "sweep.json", asdict(sweep))


def check_inside(folder: Path, job: SweepJob) -> None:
    """Check that a job's run folder is inside of the sweep folder, also where links lead out of it.

    Raises:
        ConfigError: it is not.
    """
    if not is_inside(folder / job.folder, folder):
        raise ConfigError(
            f"hydra.sweep.subdir: the folder of job {job.number}, {job.folder}, is outside the sweep folder {folder}"
        )


def extend_record(folder: Path, new: Sweep) -> Sweep:
    """The record of a sweep with the jobs of an earlier record in the same folder.

    A job of `new` replaces the earlier job with the same run folder and keeps its number and id.

    Args:
        folder: the sweep folder.
        new: the sweep that is about to start.

    Raises:
        ConfigError: sweep.json is not readable, a job is queued or running, or the earlier jobs belong to another
            command.
    """
    if not (folder / "sweep.json").exists():
        return new
    old = read_sweep(folder)
    planned = {job.folder for job in new.jobs}
    others = [job for job in old.jobs if job.folder not in planned]
    for key in ("package", "cwd", "flags") if others else ():
        then, now = getattr(old, key), getattr(new, key)
        if then != now:
            advice = "choose another folder"
            raise ConfigError(f"{folder}: holds jobs of another sweep, whose {key} is {then}, not {now}; {advice}")
    queue = slurm_queue() or {} if old.launcher == "slurm" else {}
    for job, state in zip(old.jobs, job_states(folder, old.jobs, queue), strict=True):
        if job.folder in planned and state in ACTIVE:
            raise ConfigError(
                f"{folder / job.folder}: this job of an earlier sweep is {state}; wait until it has ended"
            )
    earlier = {job.folder: job for job in old.jobs}
    unused = count(max((job.number for job in old.jobs), default=-1) + 1)
    jobs = [
        replace(job, number=earlier[job.folder].number, id=earlier[job.folder].id)
        if job.folder in earlier
        else replace(job, number=next(unused))
        for job in new.jobs
    ]
    return replace(new, jobs=sorted([*others, *jobs], key=lambda job: job.number), created=old.created)


def remove_empty_sweep(folder: Path) -> None:
    """Remove the folder that Hydra creates before a sweep is checked, unless it holds other files."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def read_sweep(folder: Path) -> Sweep:
    """Read the record of a sweep.

    A folder without sweep.json counts as a sweep of the run folders in it, and a run folder as a sweep of one run.

    Raises:
        ConfigError: the folder holds no run, its runs belong to several packages, or sweep.json is not valid.
    """
    path = folder / "sweep.json"
    if not path.exists():
        return _sweep_of_runs(folder)
    try:
        content = parse_json(path.read_text("utf-8"))
        sweep = Sweep(**{**content, "jobs": [SweepJob(**job) for job in content["jobs"]]})
        valid = _has_valid_types(sweep)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not the record of a sweep: {error}") from None
    if not valid:
        raise ConfigError(f"{path}: not the record of a sweep: a value has another type than launch writes")
    return sweep


def _has_valid_types(sweep: Sweep) -> bool:
    texts = [sweep.package, sweep.launcher, sweep.on_failure, sweep.cwd, sweep.created]
    texts += [text for job in sweep.jobs for text in (job.folder, job.id or "")]
    numbers = [job.number for job in sweep.jobs]
    return (
        all(map(_are_texts, (texts, sweep.command, sweep.flags, *(job.overrides for job in sweep.jobs))))
        and all(type(number) is int for number in numbers)
        and len({*numbers}) == len(numbers)
        and isinstance(sweep.settings, dict)
    )


def _sweep_of_runs(folder: Path) -> Sweep:
    runs = [folder] if (folder / "run.json").exists() else sorted(path.parent for path in folder.glob("*/run.json"))
    if not runs:
        raise ConfigError(f"{folder}: not a sweep or a run, it has neither sweep.json nor run.json")
    checked = {run: _read_checked(run) for run in runs}
    records = {run: record for run, (record, problem) in checked.items() if record is not None and not problem}
    if not records:
        raise ConfigError(checked[runs[0]][1])
    jobs = [
        SweepJob(
            number,
            list(read_command(records[run]).overrides) if run in records else [],
            str(run.relative_to(folder)),
        )
        for number, run in enumerate(runs)
    ]
    packages = sorted({record["package"] for record in records.values()})
    if len(packages) > 1:
        raise ConfigError(f"{folder}: must hold runs of one package, not of several ({', '.join(packages)})")
    return Sweep(packages[0], next(iter(records.values()))["command"], "basic", jobs)


def _are_texts(words: Any) -> bool:
    return isinstance(words, list) and all(isinstance(word, str) and "\0" not in word for word in words)


def slurm_queue() -> dict[str, str] | None:
    """The states of this user's SLURM jobs by job id. None if squeue is not installed or does not answer."""
    command = ["squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i %T"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if " " in line)


class JobState(NamedTuple):
    """The state of a job, and the content of its run.json, which is read once.

    state: `not started` while the sweep's process has yet to start the job, `queued` while it waits in SLURM's queue,
    `starting` until it has a run folder, then the state of its run (`run_state`); `unreadable` if there is a
    `problem`; `missing` if it has no run folder and nobody is going to start it.
    record: None if there is none that can be read. problem: see `unreadable_reason`.
    """

    state: str
    record: dict[str, Any] | None
    problem: str = ""


def inspect_jobs(
    folder: Path, jobs: Sequence[SweepJob], queue: Mapping[str, str], alive: bool = False
) -> list[JobState]:
    """The state of each job.

    Args:
        folder: the sweep folder.
        jobs: its jobs.
        queue: the states of SLURM jobs by id, from `slurm_queue`.
        alive: whether another process is starting the jobs, see `is_alive`.
    """
    states = []
    for job in jobs:
        run, in_queue = folder / job.folder, queue.get(job.id or "", "ENDED")
        record, problem = _read_checked(run) if (run / "run.json").exists() else (None, "")
        state = "unreadable" if problem else None if record is None else run_state(run, record)
        if in_queue == "PENDING" and state != "finished":
            state = "queued"
        elif state is None:
            state = "starting" if in_queue not in ENDED else "not started" if alive else "missing"
        states.append(JobState(state, record, problem))
    return states


def job_states(folder: Path, jobs: Sequence[SweepJob], queue: Mapping[str, str]) -> list[str]:
    """The state of each job as text, see `inspect_jobs`."""
    return [job.state for job in inspect_jobs(folder, jobs, queue)]


def is_alive(folder: Path) -> bool:
    """Whether a process is starting the jobs of a sweep."""
    return is_locked(folder, LOCK) is True


def unreadable_reason(run: Path) -> str:
    """Why the record of a run, its configuration or its final results cannot be read. Empty if they can."""
    return _read_checked(run)[1] if (run / "run.json").exists() else ""


def _read_checked(run: Path) -> tuple[dict[str, Any] | None, str]:
    """The record of a run, None if it cannot be read, and the `unreadable_reason`."""
    record = None
    try:
        record = read_record(run)
        if not isinstance(record.get("package"), str) or not _are_texts(record.get("command")):
            return None, f"{run / 'run.json'}: not the record of a run: it has no valid package and command"
        if record["state"] == "finished":
            read_last_line(run / "metrics.jsonl")
            read_json(run / "summary.json")
        else:
            read_config(run)
    except ConfigError as error:
        return record, str(error)
    return record, ""


def run_overrides(run: Path, planned: Sequence[str], record: Mapping[str, Any] | None) -> list[str]:
    """The overrides of a run as its own folder gives them, or `planned` if it does not.

    Args:
        run: the run folder.
        planned: the overrides in the record of the sweep.
        record: the content of run.json, None if there is none.

    Raises:
        ConfigError: overrides.yaml is not a list of overrides, or not that of the command in run.json.
    """
    path = run / "overrides.yaml"
    if not path.exists():
        return list(planned)
    overrides = read_yaml(path)
    if not isinstance(overrides, list):
        raise ConfigError(f"{path}: must be a list of overrides, got {type(overrides).__name__}")
    overrides = [str(override) for override in overrides]
    if record is not None and overrides != list(read_command(record).overrides):
        raise ConfigError(f"{path}: not the overrides of the command in run.json; one of the two is damaged")
    return overrides
