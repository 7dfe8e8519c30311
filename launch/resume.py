"""`python -m launch.resume SWEEP`: run what is missing or failed of a sweep, and nothing else.

A job that is finished stays as it is, and one that is running is left alone. Each of the others goes on from its
newest checkpoint, in the folder it has: one after another here, or through the launcher the sweep was started with
(SLURM's jobs are submitted, with the code as it was when the sweep was). A run's folder is resumed likewise. Refused
where the configuration that the job's command gives now is another one than the run began with.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conf.schema.base import ConfigError
from conf.schema.launchers import SlurmLauncherConfig
from launch.cli.compose import compose
from launch.cluster.launcher import read_settings
from launch.cluster.local import run_locally
from launch.cluster.slurm import submit
from launch.cluster.sweep import Sweep, SweepJob, job_states, read_sweep, slurm_queue
from launch.runs.checkpoint import check_equal, result_config
from launch.runs.run_folder import one_line_errors, read_config

LEFT_ALONE = ("finished", "running", "pending", "starting")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.resume", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep, or of a run")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run")
    given = parser.parse_args(arguments)
    with one_line_errors("launch.resume"):
        return resume(given.sweep.absolute(), given.dry_run)
    return 1


def resume(folder: Path, dry_run: bool) -> int:
    """0 where all jobs are finished, running or submitted now, 1 where one failed again."""
    sweep = read_sweep(folder)
    queue = None
    if sweep.launcher == "slurm":
        queue = slurm_queue()
        if queue is None:
            raise ConfigError(f"{folder}: must be resumed where SLURM is, got no answer from squeue")
    states = job_states(folder, sweep.jobs, queue or {})
    jobs = [job for job, state in zip(sweep.jobs, states, strict=True) if state not in LEFT_ALONE]
    for job, state in zip(sweep.jobs, states, strict=True):
        print(f"[{job.number}] {state}{'' if state in LEFT_ALONE else ', to be run'}: {' '.join(job.overrides)}")
    if not (folder / ".code").exists():  # else the jobs run the snapshot, with its configuration
        for job in jobs:
            refuse_changed(folder, sweep, job)
    if dry_run or not jobs:
        return 0
    if sweep.launcher == "basic":
        return max(run_here(folder, sweep, job) for job in jobs)
    settings = read_settings(sweep.settings)
    if not isinstance(settings, SlurmLauncherConfig):
        return 1 if run_locally(folder, sweep, jobs, settings) else 0
    submit(folder, sweep, jobs, settings)
    print(f"submitted {len(jobs)} jobs to SLURM: {', '.join(str(job.id) for job in jobs)}")
    return 0


def refuse_changed(folder: Path, sweep: Sweep, job: SweepJob) -> None:
    run = folder / job.folder
    if (run / "config.yaml").exists():
        now = result_config(compose(sweep.package, job.overrides, sweep.flags))
        way_out = "the configuration has changed since; start a new sweep"
        check_equal(str(run / "config.yaml"), result_config(read_config(run)), now, way_out)


def run_here(folder: Path, sweep: Sweep, job: SweepJob) -> int:
    where = f"hydra.run.dir={folder / job.folder}"
    command = [sys.executable, "-m", sweep.package, *sweep.flags, *job.overrides, where]
    return 1 if subprocess.run(command, cwd=sweep.cwd or None).returncode else 0


if __name__ == "__main__":
    sys.exit(main())
