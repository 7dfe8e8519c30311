"""Run every method on every task with every seed, each run in a process of its own."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import rdkit
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chem.benchmarks.curves import draw_progress
from chem.benchmarks.records import (
    LEGEND,
    Cell,
    Records,
    console_table,
    has_star,
    markdown_table,
    read_records,
    settings_key,
    table_rows,
    update_document,
    write_records,
)
from chem.benchmarks.suites import SUITES, Suite
from conf.schema.base import ConfigError
from conf.schema.benchmark import BenchmarkConfig
from launch.analysis.uncertainty import format_mean
from launch.cli.compose import compose
from launch.cli.import_path import module_command, module_environment
from launch.runs import signals
from launch.runs.atomic import make_folder, remove_folder
from launch.runs.closing import shown_path
from launch.runs.console import console
from launch.runs.provenance import code_version, package_versions
from launch.runs.run import Run
from launch.runs.run_folder import FolderLocked, flatten, is_locked, lock_folder, read_json, read_jsonl, user_path

POLL_SECONDS = 0.2
LOCK = ".benchmark.lock"
PACKAGES = ("python", "torch", "numpy")  # whose versions a record has, beside RDKit's
# Keys that differ between the runs of a method, or do not change results.
NOT_SETTINGS = ("seed", "threads", "resume", "cache", "loggers", "screens", "checkpoint.", "oracle.")


class Job(NamedTuple):
    """A run that has no record yet."""

    cell: Cell
    overrides: list[str]
    folder: Path
    settings: dict[str, Any]


def run_benchmark(config: BenchmarkConfig, run: Run) -> None:
    """Run what has no record, then print the table and write it to the document.

    Raises:
        ConfigError: the configuration of a run is wrong, another process works in the folder, or runs failed.
    """
    suite = SUITES[config.benchmark]
    tasks = check_tasks(config, suite)
    methods = config.methods or list(suite.methods)
    path, work = user_path(config.records), user_path(config.work)
    settings = {(method, task): method_settings(config, method, task, suite) for method in methods for task in tasks}
    jobs = [
        Job(
            cell,
            run_overrides(config, cell, suite),
            work / cell.method / cell.task / str(cell.seed),
            settings[cell.method, cell.task],
        )
        for cell in all_cells(methods, tasks, config.seeds)
    ]
    failures: list[str] = []
    if config.workers != 0:
        make_folder(work)
        lock = lock_work(work)
        waiting = [job for job in jobs if (job.cell, settings_key(job.settings)) not in read_records(path)]
        run.info(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are in {path}")
        run.saved = (
            f"the records of finished runs, in {shown_path(path)}; the checkpoints of others, in {shown_path(work)}"
        )
        try:
            failures = run_jobs(waiting, config, lambda job: save_record(job, config, suite, path))
        finally:
            if lock is not None:
                os.close(lock)
    report(config, suite, settings, read_records(path), run)
    if failures:
        raise ConfigError(f"{len(failures)} runs failed; the first: {failures[0]}")


def check_tasks(config: BenchmarkConfig, suite: Suite) -> list[str]:
    """The tasks to run, in the order of the benchmark."""
    for task in config.tasks:
        if task not in suite.tasks:
            raise ConfigError(f"tasks: each must be one of {', '.join(suite.tasks)}, got {task}")
    return [task for task in suite.tasks if not config.tasks or task in config.tasks]


def all_cells(methods: Sequence[str], tasks: Sequence[str], seeds: int) -> list[Cell]:
    """All runs; the first seed of every task and method comes before the second."""
    return [Cell(method, task, seed) for seed in range(seeds) for task in tasks for method in methods]


def run_overrides(config: BenchmarkConfig, cell: Cell, suite: Suite) -> list[str]:
    """What follows `python -m chem` for a run."""
    return [
        *suite.overrides(cell.method, cell.task),
        f"seed={cell.seed}",
        f"budget={config.budget}",
        "threads=1",
        "oracle.workers=1",
        *config.overrides,
    ]


def method_settings(config: BenchmarkConfig, method: str, task: str, suite: Suite) -> dict[str, Any]:
    """The settings of a method on a task: what its configuration changes of the defaults of `python -m chem`.

    Keys that are added to the schema later leave it as it is.

    Raises:
        ConfigError: there is no such method, or its configuration is wrong.
    """
    composed = flatten(compose("chem", run_overrides(config, Cell(method, task, 0), suite)))
    default = flatten(compose("chem", ["~experiment"]))
    return {
        name: value
        for name, value in composed.items()
        if not name.startswith(NOT_SETTINGS) and value != default.get(name)
    }


def lock_work(work: Path) -> int | None:
    """Lock the folder of the runs against a second process with this command."""
    try:
        return lock_folder(work, name=LOCK)
    except FolderLocked:
        raise ConfigError(
            f"work: another chem.benchmark is using {work}; wait for it, or give another folder"
        ) from None


def run_jobs(jobs: Sequence[Job], config: BenchmarkConfig, finish: Callable[[Job], str]) -> list[str]:
    """Run jobs, `config.workers` at a time.

    A run whose process outlived an earlier, killed benchmark is waited for and then continued.

    Args:
        jobs: what to run.
        config: of the benchmark.
        finish: called with each finished job; records it and returns a line about it.

    Returns:
        Messages of the runs that failed.

    Raises:
        KeyboardInterrupt: a signal asked to stop. The runs have saved a checkpoint.
    """
    workers = config.workers or len(os.sched_getaffinity(0))
    waiting, running, failures = list(jobs), dict[Cell, tuple[Job, subprocess.Popen[bytes]]](), []
    outliving = [job for job in jobs if is_locked(job.folder)]
    signals.defer(True)
    with make_progress(len(jobs)) as progress:
        bar = progress.task_ids[0]
        try:
            while (waiting or running) and signals.pending() is None:
                outliving = [job for job in outliving if is_locked(job.folder)]
                ready = [job for job in waiting if job not in outliving]
                for job in ready[: max(workers - len(running) - len(outliving), 0)]:
                    waiting.remove(job)
                    running[job.cell] = (job, start_job(job))
                for cell, (job, process) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[cell]
                    name = f"{cell.method} {cell.task} seed {cell.seed}"
                    if process.returncode == 0:
                        line = f"{name}: {finish(job)}"
                        if not config.keep_runs:
                            remove_run(job)
                    else:
                        line = f"{name} failed: {last_line(log_file(job))}"
                        failures.append(line)
                    progress.advance(bar)
                    console.print(f"[{int(progress.tasks[0].completed)}/{len(jobs)}] {line}", soft_wrap=True)
                time.sleep(POLL_SECONDS)
        finally:
            with signals.held():
                stop_jobs([process for _, process in running.values()])
            signals.defer(False)
    interruption = signals.pending()
    if interruption is not None:
        raise KeyboardInterrupt(interruption)
    return failures


def make_progress(total: int) -> Progress:
    """A bar of finished runs, only on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    progress.add_task("runs", total=total)
    return progress


def log_file(job: Job) -> Path:
    """What the run prints."""
    return job.folder.with_name(f"{job.folder.name}.log")


def job_command(job: Job) -> list[str]:
    """The command of a run."""
    return [*module_command("chem"), *job.overrides, f"hydra.run.dir={job.folder.absolute()}"]


def start_job(job: Job) -> "subprocess.Popen[bytes]":
    """Start or continue a run, in a session of its own: Ctrl-C in a terminal reaches it through this process."""
    make_folder(job.folder.parent)
    with log_file(job).open("wb") as log:
        return subprocess.Popen(
            job_command(job),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**module_environment(os.getcwd()), "OMP_NUM_THREADS": "1"},
        )


def stop_jobs(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Let runs complete their step and save a checkpoint; a second signal ends them at once."""
    if processes:
        console.print(f"waiting for {len(processes)} runs to save a checkpoint; another Ctrl-C ends them at once")
    for process in processes:
        process.terminate()
    while any(process.poll() is None for process in processes):
        if signals.urgent():
            for process in processes:
                process.kill()
        time.sleep(POLL_SECONDS)


def remove_run(job: Job) -> None:
    """Remove the folder and the log of a run that has a record."""
    remove_folder(job.folder)
    log_file(job).unlink(missing_ok=True)
    with suppress(OSError):
        job.folder.parent.rmdir()  # unless another seed is there


def last_line(path: Path) -> str:
    """The last line of a log."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), f"no message in {path}")


def save_record(job: Job, config: BenchmarkConfig, suite: Suite, path: Path) -> str:
    """Add the record of a finished run to the file; return a line about it."""
    samples = read_jsonl(job.folder / "samples.jsonl")
    figures = suite.measure(samples, config.budget)
    summary = read_json(job.folder / "summary.json")
    versions = package_versions()
    record = {
        **job.cell._asdict(),
        **{name: None if value is None else round(value, 6) for name, value in figures.items()},
        "curve": [round(value, 4) for value in suite.progress(samples, config.budget)],
        "budget": config.budget,
        "calls": summary["calls"],
        "stopped_by": summary["stopped_by"],
        "seconds": round(sum(row["seconds"] for row in read_jsonl(job.folder / "timings.jsonl"))),
        "settings": job.settings,
        "versions": {name: versions[name] for name in PACKAGES} | {"rdkit": rdkit.__version__},
        "commit": code_version(Path(__file__).parents[2]).get("commit"),
    }
    records = read_records(path)
    records[(job.cell, settings_key(job.settings))] = record
    write_records(path, records)
    metric = suite.metrics[0]
    return f"{metric} {format_mean(figures[metric])}, {summary['calls']:,} calls, {record['seconds']} s"


def report(
    config: BenchmarkConfig,
    suite: Suite,
    settings: Mapping[tuple[str, str], dict[str, Any]],
    records: Records,
    run: Run,
) -> None:
    """Print the table of the runs with the present settings, draw their curves, and write summary and document.

    Args:
        config: of the benchmark.
        suite: the benchmark.
        settings: of each method and task.
        records: all that the file holds.
        run: the command's run.
    """
    methods, tasks = (list(dict.fromkeys(names)) for names in zip(*settings, strict=True))
    current = {name: settings_key(values) for name, values in settings.items()}
    results = {cell: row for (cell, key), row in records.items() if current.get((cell.method, cell.task)) == key}
    others = sum(current.get((cell.method, cell.task)) not in (None, key) for cell, key in records)
    rows = table_rows(results, methods, tasks, config.seeds, suite.metrics)
    figures = suite.metrics[0] if len(suite.metrics) == 1 else "figures"
    console.print(
        console_table(
            f"{config.benchmark}: {figures}, mean ± standard error over {config.seeds} seeds", methods, rows
        )
    )
    if has_star(rows):
        run.info(LEGEND.format(method=methods[0]))
    if others:
        run.info(f"{others} records of these methods have other settings and are left out")
    run.finish({"rows": rows, "methods": methods, "metrics": list(suite.metrics)})
    draw_progress(run.folder / "figure.png", results, methods, tasks, suite.curve)
    if config.document is not None:
        update_document(user_path(config.document), config.benchmark, markdown_table(methods, rows))
