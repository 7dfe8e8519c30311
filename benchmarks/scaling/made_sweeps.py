"""Sweeps of didactic whose run folders are written here instead of by training, and the commands that read them."""

import contextlib
import io
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from launch.cli.compose import compose, forget_composed
from launch.cluster.sweep import Sweep, SweepJob, write_sweep
from launch.runs.checksums import SHOWN_FILES, START_FILES, file_checksums
from launch.runs.line_files import LINE_FILES, LineFiles, line_file
from launch.runs.run import Run
from launch.runs.run_folder import read_record, write_json, write_text

SEEDS = 4  # of each beta
METRICS = (
    "loss",
    "grad_norm",
    "reward/raw",
    "reward/augmented",
    "kl/reverse_nats",
    "policy/entropy_nats",
    "mara/good_share",
    "beta",
    "length",
    "truncated_share",
)


def metrics_of(step: int) -> dict[str, float]:
    """Ten numbers that look like those of a step."""
    generator = random.Random(step)
    return {name: generator.random() for name in METRICS}


def log_steps(count: int) -> None:
    """Log `count` steps in a run folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder) / "run", ["seed=0"], count)


def write_run(folder: Path, overrides: list[str], count: int) -> None:
    """Write a run folder with `count` lines of made-up metrics; nothing is trained."""
    config = OmegaConf.create(dict(compose("didactic", overrides)))
    with Run(folder, "didactic", config, overrides) as run:
        run.register_state()
        for step in range(count):
            run.log(metrics_of(step), step=step)
        run.finish(metrics_of(count))


def make_sweep(folder: Path, jobs: int, lines: int, state: str) -> Path:
    """Write the folder of a sweep over beta and four seeds, whose jobs have the same metrics, and return it."""
    folder.mkdir()
    write_run(folder / "0", ["seed=0"], lines)
    record, configuration = read_record(folder / "0"), (folder / "0" / "config.yaml").read_text("utf-8")
    planned = []
    for number in range(jobs):
        run, seed, beta = folder / str(number), number % SEEDS, round(0.1 + number // SEEDS / 1000, 3)
        overrides = [f"seed={seed}", f"objective.beta={beta}"]
        planned.append(SweepJob(number, overrides, str(number)))
        if number:
            shutil.copytree(folder / "0", run)
        changed = configuration.replace("seed: 0\n", f"seed: {seed}\n", 1)
        write_text(run / "config.yaml", changed.replace("  beta: 0.1\n", f"  beta: {beta}\n", 1))
        write_text(run / "overrides.yaml", "".join(f"- {override}\n" for override in overrides))
        summary = json.loads((run / "summary.json").read_text("utf-8"))
        write_json(run / "summary.json", summary | {"loss": float(number)})
        changes: dict[str, Any] = {
            "command": ["python", "-m", "didactic", *overrides],
            "seed": seed,
            "state": state,
        }
        changes["checksums"] = file_checksums(run, (*START_FILES, *SHOWN_FILES))
        write_json(run / "run.json", record | changes)
    write_sweep(folder, Sweep("didactic", ["python", "-m", "didactic"], "basic", planned, cwd=str(folder)))
    return folder


def show_status(sweep: Path) -> None:
    from launch.status import main

    _quietly(lambda: main([str(sweep)]))


def collect(sweep: Path) -> None:
    from launch.collect import main

    _quietly(lambda: main([str(sweep)]))


def plan_resume(sweep: Path) -> None:
    """What resuming does before it starts the first job, and what a job does before its first step."""
    from launch.resume import main

    forget_composed()  # a command starts without the configurations of the last repetition
    _quietly(lambda: main([str(sweep), "--dry-run"]))
    for job in range(len(list(sweep.glob("*/run.json")))):
        run = sweep / str(job)
        LineFiles(run, {name: line_file(run, name).stat().st_size for name in LINE_FILES}).close()


COMMANDS: dict[str, Callable[[Path], None]] = {"status": show_status, "collect": collect, "resume": plan_resume}


def _quietly(command: Callable[[], int]) -> None:
    """Run a command without its output, which must not fail."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = command()
    if status:
        raise RuntimeError(f"the command has ended with status {status}: {printed.getvalue()[-500:]}")
