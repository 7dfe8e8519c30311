"""sweep.json, the record of a sweep, which is the same for all launchers."""

import getpass
import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.cli.recorded_command import is_inside, read_command
from launch.runs.atomic import make_folder
from launch.runs.run_folder import read_record, run_state, write_json

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
    try:
        content = json.loads(path.read_text("utf-8"))
        return Sweep(**{**content, "jobs": [SweepJob(**job) for job in content["jobs"]]})
    except FileNotFoundError:
        return _sweep_of_runs(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not the record of a sweep: {error}") from None


def _sweep_of_runs(folder: Path) -> Sweep:
    runs = [folder] if (folder / "run.json").exists() else sorted(path.parent for path in folder.glob("*/run.json"))
    if not runs:
        raise ConfigError(f"{folder}: not a sweep or a run, it has neither sweep.json nor run.json")
    records = [read_record(run) for run in runs]
    jobs = [
        SweepJob(number, list(read_command(record).overrides), str(run.relative_to(folder)))
        for number, (run, record) in enumerate(zip(runs, records, strict=True))
    ]
    packages = sorted({record["package"] for record in records})
    if len(packages) > 1:
        raise ConfigError(f"{folder}: must hold runs of one package, not of several ({', '.join(packages)})")
    return Sweep(packages[0], list(records[0]["command"]), "basic", jobs)


def slurm_queue() -> dict[str, str] | None:
    """The states of this user's SLURM jobs by job id. None if squeue is not installed or does not answer."""
    command = ["squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i %T"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if " " in line)


def job_states(folder: Path, jobs: Sequence[SweepJob], queue: Mapping[str, str]) -> list[str]:
    """The state of each job.

    It is `pending` while the job waits in the queue, `starting` until it has a run folder, then the state of its run
    (`run_state`), or `missing` if it has neither a place in the queue nor a run folder.

    Args:
        folder: the sweep folder.
        jobs: its jobs.
        queue: the states of SLURM jobs by id, from `slurm_queue`.
    """
    states = []
    for job in jobs:
        in_queue = queue.get(job.id or "", "ENDED")
        of_run = run_state(folder / job.folder) if (folder / job.folder / "run.json").exists() else None
        if in_queue == "PENDING" and of_run != "finished":
            states.append("pending")
        elif in_queue not in ENDED and of_run is None:
            states.append("starting")
        else:
            states.append(of_run or "missing")
    return states
