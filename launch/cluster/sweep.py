"""sweep.json: what a sweep consists of, whichever launcher runs it."""

import getpass
import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from conf.schema.base import ConfigError
from launch.runs.run_folder import read_record, run_state, write_json

# What squeue says of a job that is over.
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
    number: int
    overrides: list[str]
    folder: str  # of the run, relative to the sweep
    id: str | None = None  # of the cluster


@dataclass
class Sweep:
    package: str
    command: list[str]
    launcher: str  # basic, local, slurm
    jobs: list[SweepJob]
    on_failure: str = "continue"
    settings: dict[str, Any] = field(default_factory=dict)  # of the launcher
    cwd: str = ""  # the folder that relative paths of the overrides start from
    flags: list[str] = field(default_factory=list)  # --config-dir, where one was given
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def config_flags(config: DictConfig) -> list[str]:
    """The flags with which a command line named a folder of configurations of its own."""
    sources = config.hydra.runtime.config_sources
    paths = [str(Path(source.path).absolute()) for source in sources if source.provider == "command-line"]
    return [flag for path in paths for flag in ("--config-dir", path)]


def write_sweep(folder: Path, sweep: Sweep) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "sweep.json", asdict(sweep))


def remove_empty_sweep(folder: Path) -> None:
    """Remove the folder that Hydra makes before a sweep is checked; it stays where it holds anything else."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def read_sweep(folder: Path) -> Sweep:
    """A sweep's record; a folder without one is a sweep of the run folders in it, a run folder one of itself.

    Raises:
        ConfigError: there is no run in it, or sweep.json cannot be read.
    """
    path = folder / "sweep.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        return Sweep(**{**content, "jobs": [SweepJob(**job) for job in content["jobs"]]})
    except FileNotFoundError:
        return _found(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: must be the record of a sweep, got {error}") from None


def _found(folder: Path) -> Sweep:
    runs = [folder] if (folder / "run.json").exists() else sorted(path.parent for path in folder.glob("*/run.json"))
    if not runs:
        raise ConfigError(f"{folder}: must be a sweep or a run, got neither sweep.json nor run.json in it")
    records = [read_record(run) for run in runs]
    jobs = [
        SweepJob(number, list(record["command"][3:]), str(run.relative_to(folder)))
        for number, (run, record) in enumerate(zip(runs, records, strict=True))
    ]
    packages = sorted({record["package"] for record in records})
    if len(packages) > 1:
        raise ConfigError(f"{folder}: must hold runs of one package, got {', '.join(packages)}")
    return Sweep(packages[0], list(records[0]["command"]), "basic", jobs)


def slurm_queue() -> dict[str, str] | None:
    """Job id -> state of this user's jobs that SLURM knows; None while it does not answer, or is not here."""
    command = ["squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)


def job_states(folder: Path, jobs: Sequence[SweepJob], queue: Mapping[str, str]) -> list[str]:
    """The state of each job: its run's (`run_state`), `pending` while it waits in the queue, or `missing`."""
    found = []
    for job in jobs:
        queued = queue.get(job.id or "", "ENDED")
        known = run_state(folder / job.folder) if (folder / job.folder / "run.json").exists() else None
        if queued == "PENDING" and known != "finished":
            found.append("pending")
        elif queued not in ENDED and known is None:
            found.append("starting")
        else:
            found.append(known or "missing")
    return found
