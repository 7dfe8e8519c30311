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
from conf.schema.extras import not_installed
from launch.cli.import_path import append_folder
from launch.cli.recorded_command import RecordedCommand
from launch.cluster.sweep import Sweep, SweepJob, read_sweep, unreadable_reason
from launch.runs import signals
from launch.runs.atomic import make_folder
from launch.runs.checkpoint import checkpoint_steps
from launch.runs.run_folder import last_traceback_line, read_record, run_state, write_json

if TYPE_CHECKING:
    from submitit import Job

MAX_FRUITLESS = 2  # consecutive requeues without a completed step after which a job fails


class JobFailed(Exception):
    """A rank failed. The message is one line; the traceback is in the log of the job."""


@dataclass(frozen=True)
class JobTask:
    """What each process of a job runs. It is pickled as plain data, so the process runs the code of the snapshot.

    package, overrides, flags: the command line. sweep, folder: absolute paths of the sweep and the run. number: of
    the job in the sweep. cwd: the folder that the job was submitted from.
    """

    package: str
    overrides: tuple[str, ...]
    sweep: str
    number: int
    folder: str
    on_failure: str
    cwd: str
    flags: tuple[str, ...] = ()

    def __call__(self) -> str:
        """Run the job and return the state of the run.

        Raises:
            JobFailed: this rank failed.
            SystemExit: status 0, if a signal stopped the job before it was finished.
        """
        from submitit import JobEnvironment

        signals.install()  # submitit's handlers discard signals
        job = JobEnvironment()
        os.environ["MARA_CWD"] = self.cwd
        if job.num_tasks > 1:
            restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
            os.environ["MASTER_ADDR"] = job.hostnames[0]
            os.environ["MASTER_PORT"] = str(rendezvous_port(job.raw_job_id, restarts))
        append_folder(self.cwd)
        command = RecordedCommand(self.package, self.flags, self.overrides, self.cwd)
        sys.argv = [f"python -m {self.package}", *command.arguments(self.folder)]
        try:
            # The package's signal handlers replace those of submitit, which ignore SIGTERM and treat a short job as
            # timed out.
            runpy.run_module(self.package, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
            if status > 128:
                if job.global_rank == 0 and status - 128 == _requeue_signal():
                    self._requeue(job)
                raise SystemExit(0) from None  # with another status SLURM kills the ranks that are still saving
            if status != 0:
                self._handle_failure(job)
                from launch.cli import app

                rank = f"rank {job.global_rank} of {job.num_tasks}: " if job.num_tasks > 1 else ""
                raise JobFailed(f"{rank}{app.last_error}") from None
        return run_state(Path(self.folder)) if job.global_rank == 0 else "finished"

    def _requeue(self, job: Any) -> None:
        """Requeue the job, unless earlier requeues completed no step."""
        step = max(checkpoint_steps(Path(self.folder)), default=0)
        path = Path(self.sweep) / ".jobs" / f"{self.number}.json"
        make_folder(path.parent)
        before = read_requeue_progress(path)
        fruitless = before["fruitless"] + 1 if step <= before["step"] else 0
        write_json(path, {"step": step, "fruitless": fruitless})
        if fruitless >= MAX_FRUITLESS:
            path.unlink()
            raise JobFailed(
                f"the job was stopped {MAX_FRUITLESS + 1} times at step {step} without completing another step; "
                "its time limit is too short to start and take one step"
            )
        print(f"requeued after step {step}", flush=True)
        subprocess.run(["scontrol", "requeue", job.job_id], check=True, timeout=60)

    def _handle_failure(self, job: Any) -> None:
        """Apply `on_failure` on SLURM, from the job itself, since the submitting process may have ended.

        Only the first rank that fails does so.
        """
        if job.cluster != "slurm" or self.on_failure == "continue":
            return
        markers = Path(self.sweep) / ".jobs"
        make_folder(markers)
        try:
            (markers / f"{self.number}.failed.{os.environ.get('SLURM_RESTART_COUNT', '0')}").touch(exist_ok=False)
        except FileExistsError:
            time.sleep(60)  # another rank handles the failure, and SLURM will end this one
            return
        if self.on_failure == "stop":
            others = [other.id for other in read_sweep(Path(self.sweep)).jobs if other.id not in (None, job.job_id)]
            subprocess.run(["scancel", *map(str, others)], check=False, timeout=60)
        elif len(list(markers.glob(f"{self.number}.failed.*"))) <= retry_limit(self.on_failure):
            print(f"failed, requeued to try again ({self.on_failure})", flush=True)
            subprocess.run(["scontrol", "requeue", job.job_id], check=True, timeout=60)
            raise SystemExit(0)


def check_folder(folder: Path) -> None:
    """Check that submitit writes to this sweep folder and not to another one.

    Raises:
        ConfigError: the path contains what submitit replaces by the number of a job.
    """
    if re.search("%[jtaA]", str(folder)):
        raise ConfigError(f"hydra.sweep.dir: {folder}: submitit replaces %j, %t, %a and %A; use a path without them")


def make_task(folder: Path, sweep: Sweep, job: SweepJob) -> JobTask:
    """The task of a job, for a sweep in `folder`."""
    run_folder = str(folder / job.folder)
    overrides, flags = tuple(job.overrides), tuple(sweep.flags)
    return JobTask(sweep.package, overrides, str(folder), job.number, run_folder, sweep.on_failure, sweep.cwd, flags)


def job_failure(run: Path, handle: "Job[str]") -> str | None:
    """Why a job that has ended did not finish, in one line with the path of its log. None if it finished.

    If a rank raised an exception, this is its message. The ranks that SLURM killed because of it report no cause.
    """
    log = f"; log: {handle.paths.stderr}"
    with_result = [task for task in rank_handles(handle) if task.paths.result_pickle.exists()]
    with_result.sort(key=lambda task: task.paths.result_pickle.stat().st_mtime)  # the first failure causes the others
    for task in with_result:
        outcome, result = task._get_outcome_and_result()
        if outcome == "error":  # submitit's traceback, which ends with the message
            return last_traceback_line(str(result)).removeprefix(f"{JobFailed.__module__}.JobFailed: ") + log
    problem = unreadable_reason(run)
    state = "not started" if not (run / "run.json").exists() else "unreadable" if problem else run_state(run)
    if state == "finished":
        return None
    if state == "unreadable":
        return problem
    trace = last_traceback_line(read_record(run).get("traceback")) if state == "failed" else ""
    return (trace or f"the job was cancelled or killed (state of the run: {state})") + log


def rank_handles(handle: "Job[str]") -> "Sequence[Job[str]]":
    """submitit's handles of a job's ranks."""
    return [handle.task(number) for number in range(handle.num_tasks)]


def retry_limit(on_failure: str) -> int:
    """How often a failed job may be started again: N of `retry:N`, otherwise 0."""
    match = re.fullmatch(r"retry:(\d+)", on_failure)
    return int(match[1]) if match else 0


def read_requeue_progress(path: Path) -> dict[str, int]:
    """The step of the last requeue, and how many requeues in a row completed no step."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {"step": -1, "fruitless": 0}


def rendezvous_port(job_id: str, restarts: str) -> int:
    """A port for the ranks of a job to connect through. It differs between jobs, and between restarts of a job."""
    digest = hashlib.sha256(f"{job_id} {restarts}".encode()).digest()
    return 20000 + int.from_bytes(digest[:4], "big") % 12000


def _requeue_signal() -> int:
    from submitit import JobEnvironment

    return int(JobEnvironment._usr_sig())


def import_submitit() -> Any:
    """Import submitit and silence its log.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import submitit
    except ImportError:
        reason = f"{not_installed('submitit')}; slurm and local need it, hydra/launcher=basic does not"
        raise ConfigError(f"hydra/launcher: {reason}") from None
    with suppress(AttributeError):
        submitit.core.logger.get_logger().setLevel("ERROR")
    return submitit
