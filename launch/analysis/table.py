"""Read the runs of sweeps, average them over their seeds, and write the tables."""

import json
import math
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pandas as pd

from conf.schema.base import ConfigError
from conf.schema.extras import not_installed
from launch.analysis.artifacts import Artifacts, read_artifacts
from launch.analysis.csv_cells import write_csv
from launch.analysis.metric_columns import MetricColumns, read_metrics
from launch.analysis.uncertainty import standard_error
from launch.cluster.sweep import JobState, inspect_jobs, is_alive, read_sweep, run_overrides, slurm_queue
from launch.runs.atomic import replacing
from launch.runs.checkpoint import result_config
from launch.runs.checksums import check_files
from launch.runs.run_folder import (
    flatten,
    foreign_files,
    last_traceback_line,
    read_config,
    read_json,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NO_VALUE = "-"  # stands for a key that a run does not have


@dataclass
class CollectedRun:
    """A run of a collected sweep. Fields are empty if the run did not write the corresponding file."""

    folder: Path
    package: str
    overrides: list[str]
    state: str
    error: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    results: dict[str, float] = field(default_factory=dict)
    undefined: list[str] = field(
        default_factory=list
    )  # results that are null, for example a target that was not reached
    metrics: MetricColumns = field(default_factory=MetricColumns)
    record: dict[str, Any] = field(default_factory=dict)
    artifacts: Artifacts = field(default_factory=Artifacts)


NESTED = re.compile(r"[^./\d]+\.")  # begins a result below a mapping such as base.correct, but not 0.8/yield


def own_error(runs: Sequence[CollectedRun], key: str) -> float:
    """The standard error of a result that a run states itself, the first that does; NaN if none does."""
    stated = f"{key.removesuffix('/mean')}/se"
    return next((run.results[stated] for run in runs if stated in run.results), math.nan)


@dataclass
class Row:
    """A configuration and its finished runs. `varying` holds the keys that distinguish it from the other rows."""

    varying: dict[str, Any]
    runs: list[CollectedRun]

    @property
    def error_over(self) -> str:
        """What the standard errors are over: `seeds`, or the `prompts` of a single run."""
        return "seeds" if len(self.runs) > 1 else "prompts"

    @property
    def label(self) -> str:
        """The keys that vary, with their values."""
        parts = (f"{short_key(key)}={value}" for key, value in self.varying.items())
        return ", ".join(parts) or "all runs"

    def values(self, key: str) -> list[float]:
        """The values of a result in the runs that have it."""
        return [run.results[key] for run in self.runs if key in run.results]

    def result(self, key: str) -> tuple[float, float]:
        """The mean and standard error of a result over the runs that have it; for a single run, its own error."""
        values = self.values(key)
        if len(self.runs) == 1 and values:
            return values[0], own_error(self.runs, key)
        return (fmean(values) if values else math.nan), standard_error(values)

    def coverage(self, key: str) -> str:
        """The number of runs that have a result, as in `3 of 5`; empty if all or none have it."""
        count = len(self.values(key))
        return f"{count} of {len(self.runs)}" if 0 < count < len(self.runs) else ""

    def command(self) -> str:
        """The command line that makes the row."""
        return rerun_command(self.runs)


def short_key(key: str) -> str:
    """The last part of a dotted key: `beta` for objective.beta, `transform` for transform.name."""
    return key.removesuffix(".name").rpartition(".")[2]


# --- reading ---------------------------------------------------------------------------------------------------


def read_runs(folder: Path) -> list[CollectedRun]:
    """Read every job of a sweep, whatever its state.

    What a run is, its own folder says. If a file cannot be read, the state is `unreadable`, and `error` gives the
    reason.
    """
    sweep = read_sweep(folder)
    queue = slurm_queue() or {} if sweep.launcher == "slurm" else {}
    runs = []
    states = inspect_jobs(folder, sweep.jobs, queue, is_alive(folder))
    for job, of_job in zip(sweep.jobs, states, strict=True):
        run = CollectedRun(folder / job.folder, sweep.package, job.overrides, of_job.state)
        try:
            with foreign_files(run.folder):
                _read_files(run, of_job)
        except ConfigError as error:
            run = CollectedRun(run.folder, sweep.package, job.overrides, "unreadable", str(error))
        runs.append(run)
    return runs


def _read_files(run: CollectedRun, of_job: JobState) -> None:
    if of_job.problem:
        raise ConfigError(of_job.problem)
    if of_job.record is None:
        return
    check_files(run.folder, of_job.record)
    run.record = of_job.record
    run.package, run.overrides = run.record["package"], run_overrides(run.folder, run.overrides, run.record)
    run.error = last_traceback_line(run.record.get("traceback"))
    run.config = result_config(read_config(run.folder))
    run.metrics = read_metrics(run.folder / "metrics.jsonl")
    run.artifacts = read_artifacts(run.folder / "report")
    if run.state == "finished":
        summary = read_json(run.folder / "summary.json")
        run.results = numeric_results(summary)
        run.undefined = [key for key, value in summary.items() if value is None]
        evaluation = run.folder / "evaluation" / "summary.json"  # written by python -m llm.evaluate run=FOLDER
        run.results |= evaluation_results(read_json(evaluation)) if evaluation.exists() else {}


def evaluation_results(summary: Mapping[str, Any]) -> dict[str, float]:
    """The means and standard errors in the summary of an evaluation, without those of a compared file."""
    return {key: value for key, value in numeric_results(summary).items() if re.fullmatch(r"[^/.]+/(mean|se)", key)}


def numeric_results(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a summary by dotted key. A list with one mapping, as didactic writes, counts as the mapping."""
    flat: dict[str, Any] = {}
    for key, value in summary.items():
        single = isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping)
        flat |= flatten(value[0]) if single else flatten({key: value})
    return {key: float(value) for key, value in flat.items() if type(value) in (int, float)}


def result_keys(runs: Sequence[CollectedRun]) -> list[str]:
    """The keys of results that are a number in some run, followed by those that are null in all runs."""
    keys = [key for run in runs for key in run.results] + [key for run in runs for key in run.undefined]
    return [key for key in dict.fromkeys(keys) if not key.endswith("/se")]


# --- rows ------------------------------------------------------------------------------------------------------


def distinct_runs(runs: Sequence[CollectedRun]) -> list[CollectedRun]:
    """The runs without those whose folder is that of an earlier one.

    The state of a finished run with the configuration and seed of an earlier one becomes `repeated`: it says nothing
    new, so it is not counted, and its `error` names the other run.
    """
    by_folder: dict[Path, CollectedRun] = {}
    first: dict[str, CollectedRun] = {}
    for run in runs:
        if by_folder.setdefault(run.folder.resolve(), run) is run and run.state == "finished":
            other = first.setdefault(json.dumps([run.package, run.config], sort_keys=True, default=str), run)
            if other is not run:
                run.state, run.error = (
                    "repeated",
                    f"not counted, the configuration and seed are those of {other.folder}",
                )
    return list(by_folder.values())


def fold_seeds(runs: Sequence[CollectedRun]) -> list[Row]:
    """Group the finished runs into one row for each configuration; runs in a row differ only in the seed."""
    finished = [run for run in runs if run.state == "finished"]
    if not finished:
        return []
    columns = distinguishing_columns(finished)
    rows: dict[int, Row] = {}
    for number, run, varying in zip(group_numbers(columns), finished, columns.to_dict("records"), strict=True):
        rows.setdefault(number, Row({str(key): value for key, value in varying.items()}, [])).runs.append(run)
    return list(rows.values())


def distinguishing_columns(runs: Sequence[CollectedRun]) -> pd.DataFrame:
    """One row for each run, with the columns that distinguish the configurations.

    The columns are the overrides that differ, or else the configuration keys that differ: the overrides are used if
    they make the same groups and are fewer, or if a configuration value is a list.
    """
    configured = pd.DataFrame([run.config for run in runs], dtype=object)
    configured = configured.reindex(columns=varying_keys(runs)).astype(object)
    configured = configured.where(configured.map(lambda value: not _is_missing(value)), NO_VALUE)
    typed = override_columns(runs)
    same_rows = group_numbers(typed) == group_numbers(configured)
    holds_lists = bool(configured.map(lambda value: isinstance(value, list)).any(axis=None))
    shorter = typed.shape[1] < configured.shape[1] or holds_lists
    columns = typed if same_rows and shorter and typed.shape[1] else configured
    if len({run.package for run in runs}) > 1:
        columns.insert(0, "package", [run.package for run in runs])
    return columns


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def varying_keys(runs: Sequence[CollectedRun]) -> list[str]:
    """The configuration keys that differ between runs, without keys that distinguish the same runs as another key."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config if key != "seed"))
    columns = {key: [str(run.config.get(key, NO_VALUE)) for run in runs] for key in keys}
    chosen: dict[tuple[int, ...], str] = {}
    for key, column in sorted(
        columns.items(), key=lambda item: NO_VALUE in item[1]
    ):  # keys that all runs have come first
        codes, values = pd.factorize(pd.Series(column))
        if len(values) > 1:
            chosen.setdefault(tuple(codes), key)
    return [key for key in keys if key in chosen.values()]


def override_columns(runs: Sequence[CollectedRun]) -> pd.DataFrame:
    """The overrides that differ between runs, for example method=rloo, without the seed. One row for each run."""
    typed = [dict(text.lstrip("+").split("=", 1) for text in run.overrides if "=" in text) for run in runs]
    frame = (
        pd.DataFrame(typed, index=range(len(runs)), dtype=object)
        .fillna(NO_VALUE)
        .drop(columns="seed", errors="ignore")
    )
    return frame.loc[:, frame.nunique() > 1]


def group_numbers(columns: pd.DataFrame) -> list[int]:
    """Number the groups of equal rows in order of appearance, and return the number of each row's group."""
    if columns.shape[1] == 0:
        return [0] * len(columns)
    return list(columns.astype(str).groupby(list(columns.columns), sort=False).ngroup())


def rerun_command(runs: Sequence[CollectedRun]) -> str:
    """The command that repeats the runs: a sweep if they differ only in the seed, otherwise one command each."""
    without_seed = [[o for o in run.overrides if not o.startswith("seed=")] for run in runs]
    package = runs[0].package
    if len(runs) == 1 or any(overrides != without_seed[0] for overrides in without_seed):
        return "; ".join(shlex.join(["python", "-m", run.package, *run.overrides]) for run in runs)
    seeds = ",".join(str(run.config.get("seed")) for run in runs)
    return shlex.join(["python", "-m", package, "-m", *without_seed[0], f"seed={seeds}"])


# --- writing ---------------------------------------------------------------------------------------------------


def write_tables(
    out: Path,
    runs: Sequence[CollectedRun],
    rows: Sequence[Row],
    keys: Sequence[str],
    tests: "Sequence[DataclassInstance]" = (),
) -> None:
    """Write table.csv, table.parquet, runs.csv, and tests.csv if there are tests.

    Args:
        out: the folder to write to.
        runs: all runs.
        rows: one for each configuration of the finished runs.
        keys: the results to write.
        tests: results of the t-tests.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401  # for Parquet
    except ImportError:
        raise ConfigError(f"table.parquet: {not_installed('pyarrow')}") from None
    incomplete = {key for key in keys if any(row.coverage(key) for row in rows)}
    table = pd.DataFrame([_row_record(row, keys, incomplete) for row in rows])
    varying = list(rows[0].varying) if rows else []
    mixed = [column for column in varying if table[column].dtype == object]
    table[mixed] = table[mixed].astype(str)  # a Parquet column has one type
    with replacing(out / "table.parquet") as file:
        table.to_parquet(file, index=False)
    write_csv(out / "table.csv", table.to_dict("records"))
    configured = varying_keys(runs)
    write_csv(out / "runs.csv", [_run_record(run, configured) for run in runs])
    if tests:
        write_csv(out / "tests.csv", [asdict(test) for test in tests])


def _row_record(row: Row, keys: Sequence[str], incomplete: Collection[str]) -> dict[str, Any]:
    """A line of table.csv. incomplete: the results that some runs of some row lack."""
    record = {**row.varying, "n": len(row.runs), "se_over": row.error_over}
    for key in keys:
        record[key], record[f"{key}/se"] = row.result(key)
        if key in incomplete:
            record[f"{key}/n"] = len(row.values(key))
    return {**record, "command": row.command()}


def _run_record(run: CollectedRun, varying: Sequence[str]) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "package": run.package,
        "state": run.state,
        "seed": run.config.get("seed"),
        **{key: run.config.get(key) for key in varying},
        **run.results,
        "error": run.error,
    }
