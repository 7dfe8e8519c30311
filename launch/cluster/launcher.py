"""Jobs of a sweep under submitit: on a SLURM cluster, or as processes of this machine.

A job is the command `python -m PACKAGE OVERRIDES hydra.run.dir=FOLDER`, run from a snapshot of the code, in one
process for each rank. Its run folder is fixed, so that a job that starts again (requeued, retried, resubmitted) goes
on from the newest checkpoint that is there then.
"""

import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import open_dict

from conf.schema.base import ConfigError
from conf.schema.launchers import LocalLauncherConfig, SlurmLauncherConfig
from launch.cluster.snapshot import take
from launch.cluster.sweep import ENDED, Sweep, SweepJob, config_flags, read_sweep, slurm_queue, write_sweep
from launch.runs.checkpoint import checkpoint_steps
from launch.runs.run_folder import read_record, run_state, write_json

if TYPE_CHECKING:
    from submitit import Job

    from hydra_plugins.mara import ClusterLauncher

Settings = SlurmLauncherConfig | LocalLauncherConfig
POLL_SECONDS = 1.0  # between two looks at the queue at first, and at most
MOST_SECONDS = 30.0
FRUITLESS = 2  # requeues in a row without a new step, after which a job has failed


class JobFailed(Exception):
    """A rank's failure, told with that rank's traceback."""


@dataclass(frozen=True)
class Task:
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


def launch(
    launcher: "ClusterLauncher", job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """What Hydra calls with the jobs of a sweep: submit them all, and wait for them unless `wait` is false.

    Raises:
        ConfigError: settings that cannot work, or no submitit or SLURM here.
    """
    settings = read_settings(launcher.params)
    config = launcher.config
    assert config is not None
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    subdirs = [_subdir(launcher, overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
    jobs = [
        SweepJob(initial_job_idx + i, list(filter_overrides(overrides)), subdir)
        for i, (overrides, subdir) in enumerate(zip(job_overrides, subdirs, strict=True))
    ]
    command = ["python", *sys.argv[0].split()[1:], *sys.argv[1:]]
    sweep = Sweep(
        str(config.hydra.job.name),
        command,
        settings.cluster,
        jobs,
        on_failure=settings.on_failure,
        settings=asdict(settings),
        cwd=os.getcwd(),
        flags=config_flags(config),
    )
    if settings.dry_run:
        print(
            sbatch_script(folder, sweep, settings)
            if isinstance(settings, SlurmLauncherConfig)
            else "nothing to submit"
        )
        (folder / "multirun.yaml").unlink(missing_ok=True)  # of Hydra's sweeper
        with suppress(OSError):
            folder.rmdir()
        return []
    outcomes = getattr(launcher.task_function, "outcomes", None)
    if settings.cluster == "local":
        failures = run_locally(folder, sweep, jobs, settings)
    else:
        submitted = submit(folder, sweep, jobs, settings)
        print(f"submitted {len(jobs)} jobs to SLURM: {', '.join(str(job.id) for job in jobs)}", flush=True)
        print(f"sweep folder: {os.path.relpath(folder)}", flush=True)
        if not settings.wait:
            return []
        failures = wait(folder, sweep, submitted)
    returned = []
    for job in jobs:
        failure = failures.get(job.number)
        if outcomes is not None:
            if failure is None:
                outcomes.finished.append(folder / job.folder)
            else:
                outcomes.failed(f"job {job.number} ({' '.join(job.overrides)}): {failure}")
        # Hydra would raise at a failed one, before the report on the others.
        returned.append(JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED))
    if outcomes is None and failures:
        raise JobFailed("\n".join(failures.values()))
    return returned


def _subdir(launcher: "ClusterLauncher", overrides: Sequence[str], number: int) -> str:
    """Of a job's run folder in the sweep's."""
    config: Any = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.num, config.hydra.job.id = number, str(number)
    return str(config.hydra.sweep.subdir)


def read_settings(params: Mapping[str, Any]) -> Settings:
    """The launcher's settings, checked."""
    kind = SlurmLauncherConfig if params.get("cluster") == "slurm" else LocalLauncherConfig
    return kind(**params)


def submit(folder: Path, sweep: Sweep, jobs: Sequence[SweepJob], settings: Settings) -> "list[Job[str]]":
    """Submit jobs of a sweep to SLURM as one array, and write their ids into sweep.json."""
    assert isinstance(settings, SlurmLauncherConfig)
    executor = make_executor(folder, settings)
    take(folder / ".code")
    for job in jobs:
        for mark in (folder / ".jobs").glob(f"{job.number}.*"):  # of an earlier submission
            mark.unlink()
    with executor.batch():
        submitted = [executor.submit(make_task(folder, sweep, job)) for job in jobs]
    for job, handle in zip(jobs, submitted, strict=True):
        job.id = handle.job_id
    write_sweep(folder, sweep)
    return submitted


def make_task(folder: Path, sweep: Sweep, job: SweepJob) -> Task:
    where = str(folder / job.folder)
    overrides, flags = tuple(job.overrides), tuple(sweep.flags)
    return Task(sweep.package, overrides, str(folder), job.number, where, sweep.on_failure, sweep.cwd, flags)


def make_executor(folder: Path, settings: SlurmLauncherConfig, preview: bool = False) -> Any:
    """submitit's executor for these settings.

    Raises:
        ConfigError: submitit or SLURM is not installed.
    """
    submitit = _submitit()
    if not preview and shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher: must be basic or local on a machine without SLURM (no sbatch on the path), got slurm"
        )

    class Executor(submitit.SlurmExecutor):  # type: ignore[name-defined]
        @classmethod
        def affinity(cls) -> int:
            return 1  # also where there is no srun, to show the script

    executor = Executor(folder / ".submitit" / "%j")
    executor.update_parameters(**sbatch_parameters(folder, settings))
    return executor


def sbatch_parameters(folder: Path, settings: SlurmLauncherConfig) -> dict[str, Any]:
    """As submitit names them."""
    names = ["partition", "account", "qos", "constraint", "exclude", "gres", "comment", "nodes"]
    names += ["gpus_per_node", "cpus_per_task", "signal_delay_s", "array_parallelism"]
    given = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    if settings.mem_gb is not None:
        given["mem"] = f"{round(settings.mem_gb * 1024)}MB"
    code = folder / ".code"
    path = f"{code}:{os.getcwd()}"
    srun = ["--kill-on-bad-exit=1"]  # no rank waits for one that failed
    if settings.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={settings.cpus_per_task}")  # which srun does not take over from sbatch
    setup = [f'export PYTHONPATH="{path}${{PYTHONPATH:+:$PYTHONPATH}}"', f'cd "{code}"']
    return {
        **given,
        "job_name": settings.name,
        "time": settings.timeout_min,
        "ntasks_per_node": settings.tasks_per_node,
        "srun_args": [*srun, *settings.srun_args],
        "setup": [*settings.setup, *setup],
        "additional_parameters": {**settings.additional_parameters, "requeue": True},
    }


def sbatch_script(folder: Path, sweep: Sweep, settings: SlurmLauncherConfig) -> str:
    """The script that `submit` would give to sbatch."""
    executor = make_executor(folder, settings, preview=True)
    if len(sweep.jobs) > 1:
        executor.parameters["map_count"] = len(sweep.jobs)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "preview"))


def wait(folder: Path, sweep: Sweep, submitted: "Sequence[Job[str]]") -> dict[int, str]:
    """Wait for submitted jobs; why each of those that failed did, by number. Not by sacct: not every site has it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from launch.runs.console import console

    failures: dict[int, str] = {}
    began = time.monotonic()
    left = dict(zip((job.number for job in sweep.jobs if job.id is not None), submitted, strict=True))
    columns = (TextColumn("jobs"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[failed]}"), console=console) as progress:
        bar = progress.add_task("jobs", total=len(left), failed="")
        gone: dict[int, int] = {}
        while left:
            queue = slurm_queue()
            for number, handle in list(left.items()):
                job = next(job for job in sweep.jobs if job.number == number)
                over = queue is not None and queue.get(str(job.id), "gone") in (*ENDED, "gone")
                gone[number] = gone.get(number, 0) + 1 if over else 0
                complete = all(task.paths.result_pickle.exists() for task in _tasks(handle))
                if not complete and gone[number] < 3:  # the file system may be slower than the queue
                    continue
                if not complete and queue is not None and not over:
                    continue
                del left[number]
                failure = job_failure(folder / job.folder, handle)
                if failure is not None:
                    failures[number] = failure
                progress.update(bar, advance=1, failed=f"{len(failures)} failed" if failures else "")
            if left:
                time.sleep(min(POLL_SECONDS + (time.monotonic() - began) / 20, MOST_SECONDS))  # spare the controller
    return failures


def job_failure(run: Path, handle: "Job[str]") -> str | None:
    """Why a job that is over did not finish: a rank's traceback before the word of a rank that was killed with it."""
    told = [task for task in _tasks(handle) if task.paths.result_pickle.exists()]
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


def _tasks(handle: "Job[str]") -> "Sequence[Job[str]]":
    return [handle.task(number) for number in range(handle.num_tasks)]


def run_locally(folder: Path, sweep: Sweep, jobs: Sequence[SweepJob], settings: Settings) -> dict[int, str]:
    """Run jobs as processes of this machine, `array_parallelism` at a time; why each of those that failed did."""
    submitit = _submitit()
    take(folder / ".code")
    write_sweep(folder, sweep)
    executor = submitit.LocalExecutor(folder / ".submitit" / "%j")
    executor.update_parameters(
        tasks_per_node=settings.tasks_per_node,
        gpus_per_node=settings.gpus_per_node or 0,
        timeout_min=settings.timeout_min,
    )
    waiting, tries = list(jobs), dict.fromkeys((job.number for job in jobs), 0)
    running: dict[int, tuple[SweepJob, Job[str]]] = {}
    failures: dict[int, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < settings.array_parallelism:
                job = waiting.pop(0)
                with _from_snapshot(folder / ".code"):
                    running[job.number] = (job, executor.submit(make_task(folder, sweep, job)))
            for number, (job, handle) in list(running.items()):
                if not handle.done():
                    continue
                del running[number]
                failure = job_failure(folder / job.folder, handle)
                tries[number] += 1
                if failure is None:
                    print(f"[{number}] finished: {' '.join(job.overrides)}", flush=True)
                elif tries[number] <= retries(sweep.on_failure):
                    print(f"[{number}] failed, trying again: {' '.join(job.overrides)}", flush=True)
                    waiting.append(job)
                else:
                    failures[number] = failure
                    if sweep.on_failure == "stop":
                        failures |= {other.number: "not started: an earlier job failed" for other in waiting}
                        waiting.clear()
            time.sleep(0.1)
    finally:
        for _, handle in running.values():
            handle.cancel()
    return failures


@contextmanager
def _from_snapshot(code: Path):  # type: ignore[no-untyped-def]
    """Processes started meanwhile have the snapshot first on the path, and as working folder."""
    before, cwd = os.environ.get("PYTHONPATH"), os.getcwd()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(code), cwd, *([before] if before else [])])
    try:
        with chdir(code):
            yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


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


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise ConfigError(
            "hydra/launcher: must be basic without submitit (pip install -e .[slurm] brings it), got slurm or local"
        ) from None
    with suppress(AttributeError):
        submitit.core.logger.get_logger().setLevel("ERROR")
    return submitit
