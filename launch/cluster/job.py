"""A job of a sweep: what each of its processes runs, and why it failed."""

import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.schema.base import ConfigError
from launch.cluster.sweep import Sweep, SweepJob, read_sweep
from launch.runs.checkpoint import checkpoint_steps
from launch.runs.run_folder import read_record, run_state, write_json

if TYPE_CHECKING:
    from submitit import Job

FRUITLESS = 2  # requeues in a row without a new step, after which a job has failed


class JobFailed(Exception):
    """A rank's failure, told with that rank's traceback."""


@dataclass(frozen=True)
class JobTask:
    """What each process of a job runs: plain data, so that the code is the snapshot's and not the pickle's."""

    package: str
    overrides: tuple[str, ...]
    sweep: str
    number: int
    folder: str
    on_failure: str
    cwd: str
    flags: tuple[str, ...] = ()

    def __call__(self) -> str:
        """The run's state; SystemExit(0) where the job was told to leave, for it is not done.

        Raises:
            JobFailed: this rank failed.
        """
        from submitit import JobEnvironment

        job = JobEnvironment()
        os.environ["MARA_CWD"] = self.cwd
        if job.num_tasks > 1:
            os.environ["MASTER_ADDR"] = job.hostnames[0]
            os.environ["MASTER_PORT"] = str(port(job.raw_job_id, os.environ.get("SLURM_RESTART_COUNT", "0")))
        sys.argv = [f"python -m {self.package}", *self.flags, *self.overrides, f"hydra.run.dir={self.folder}"]
        try:
            # Its signal handlers replace submitit's, which ignore SIGTERM and count short jobs as out of time.
            runpy.run_module(self.package, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            number = end.code if isinstance(end.code, int) else 1
            if number > 128:
                if job.global_rank == 0 and number - 128 == _requeue_signal():
                    self._requeue(job)
                raise SystemExit(0) from None  # another status would have SLURM kill the ranks that still save
            if number != 0:
                self._after_failure(job)
                from launch.cli import app

                raise JobFailed(f"rank {job.global_rank} of {job.num_tasks}: {app.last_error}") from None
        return run_state(Path(self.folder)) if job.global_rank == 0 else "finished"

    def _requeue(self, job: Any) -> None:
        """Have SLURM start the job again, unless that has led nowhere."""
        done = max(checkpoint_steps(Path(self.folder)), default=0)
        path = Path(self.sweep) / ".jobs" / f"{self.number}.json"
        path.parent.mkdir(exist_ok=True)
        before = read_progress(path)
        fruitless = before["fruitless"] + 1 if done <= before["step"] else 0
        write_json(path, {"step": done, "fruitless": fruitless})
        if fruitless >= FRUITLESS:
            path.unlink()
            raise JobFailed(
                f"the job was told to leave {FRUITLESS + 1} times at step {done} and came no further: its time limit "
                "is too short for a step, or for starting"
            )
        print(f"requeued after step {done}", flush=True)
        subprocess.run(["scontrol", "requeue", job.job_id], check=True, timeout=60)

    def _after_failure(self, job: Any) -> None:
        """What on_failure asks of a failed job itself, for the client may be gone. The first rank to fail does it."""
        if job.cluster != "slurm" or self.on_failure == "continue":
            return
        marks = Path(self.sweep) / ".jobs"
        marks.mkdir(exist_ok=True)
        try:
            (marks / f"{self.number}.failed.{os.environ.get('SLURM_RESTART_COUNT', '0')}").touch(exist_ok=False)
        except FileExistsError:
            time.sleep(60)  # another rank has seen to it, and SLURM ends this one
            return
        if self.on_failure == "stop":
            others = [other.id for other in read_sweep(Path(self.sweep)).jobs if other.id not in (None, job.job_id)]
            subprocess.run(["scancel", *map(str, others)], check=False, timeout=60)
        elif len(list(marks.glob(f"{self.number}.failed.*"))) <= retries(self.on_failure):
            print(f"failed, and requeued to try again ({self.on_failure})", flush=True)
            subprocess.run(["scontrol", "requeue", job.job_id], check=True, timeout=60)
            raise SystemExit(0)


def make_task(folder: Path, sweep: Sweep, job: SweepJob) -> JobTask:
    where = str(folder / job.folder)
    overrides, flags = tuple(job.overrides), tuple(sweep.flags)
    return JobTask(sweep.package, overrides, str(folder), job.number, where, sweep.on_failure, sweep.cwd, flags)


def job_failure(run: Path, handle: "Job[str]") -> str | None:
    """Why a job that is over did not finish: a rank's traceback before the word of a rank that was killed with it."""
    told = [task for task in rank_handles(handle) if task.paths.result_pickle.exists()]
    told.sort(key=lambda task: task.paths.result_pickle.stat().st_mtime)  # the others fail because the first did
    for task in told:
        outcome, result = task._get_outcome_and_result()
        if outcome == "error":
            return str(result)
    said = run_state(run) if (run / "run.json").exists() else "not started"
    if said == "finished":
        return None
    trace = read_record(run)["traceback"] if said == "failed" else None
    return trace or f"{said}: the job was cancelled or killed; log: {handle.paths.stderr}"


def rank_handles(handle: "Job[str]") -> "Sequence[Job[str]]":
    return [handle.task(number) for number in range(handle.num_tasks)]


def retries(on_failure: str) -> int:
    match = re.fullmatch(r"retry:(\d+)", on_failure)
    return int(match[1]) if match else 0


def read_progress(path: Path) -> dict[str, int]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {"step": -1, "fruitless": 0}


def port(job_id: str, restart: str) -> int:
    """A port for the ranks of a job to meet at: others for jobs that share a node, and for one that starts again."""
    digest = hashlib.sha256(f"{job_id} {restart}".encode()).digest()
    return 20000 + int.from_bytes(digest[:4], "big") % 12000


def _requeue_signal() -> int:
    from submitit import JobEnvironment

    return int(JobEnvironment._usr_sig())


def import_submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise ConfigError(
            "hydra/launcher: must be basic without submitit (pip install -e .[slurm] brings it), got slurm or local"
        ) from None
    with suppress(AttributeError):
        submitit.core.logger.get_logger().setLevel("ERROR")
    return submitit
