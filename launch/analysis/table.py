"""All runs of sweeps in one table: read, folded over their seeds, and written."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import pandas as pd

from conf.schema.base import ConfigError
from launch.analysis.artifacts import Artifacts, read_artifacts
from launch.cluster.sweep import job_states, read_sweep, slurm_queue
from launch.runs.checkpoint import result_config
from launch.runs.run_folder import flatten, last_traceback_line, read_config, read_json, read_jsonl, read_record

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ABSENT = "-"  # in the place of a key that a run does not have


@dataclass
class CollectedRun:
    """A run as the table sees it; `results` and `metrics` are empty where it has none."""

    folder: Path
    package: str
    overrides: list[str]
    state: str
    error: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    results: dict[str, float] = field(default_factory=dict)
    undefined: list[str] = field(default_factory=list)  # results without a number, such as what was not reached
    metrics: list[dict[str, Any]] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    artifacts: Artifacts = field(default_factory=Artifacts)


@dataclass
class Row:
    """A configuration, and its runs that finished."""

    varying: dict[str, Any]
    runs: list[CollectedRun]

    @property
    def label(self) -> str:
        parts = (f"{short_key(key)}={value}" for key, value in self.varying.items())
        return ", ".join(parts) or "all runs"

    def values(self, key: str) -> list[float]:
        """The result in the runs that have it."""
        return [run.results[key] for run in self.runs if key in run.results]

    def result(self, key: str) -> tuple[float, float]:
        """Mean and standard error over the runs that have the result."""
        values = self.values(key)
        if len(values) == 1:  # a single run may know its own error
            own = f"{key.removesuffix('/mean')}/se"
            return values[0], next((run.results[own] for run in self.runs if own in run.results), math.nan)
        return (fmean(values) if values else math.nan), standard_error(values)

    def coverage(self, key: str) -> str:
        """`3 of 5`, where only so many of the runs have the result; else empty."""
        count = len(self.values(key))
        return f"{count} of {len(self.runs)}" if 0 < count < len(self.runs) else ""

    def command(self) -> str:
        return rerun_command(self.runs)


def short_key(key: str) -> str:
    """The last part of a dotted key: `beta` of objective.beta, `transform` of transform.name."""
    return key.removesuffix(".name").rpartition(".")[2]


# --- reading ---------------------------------------------------------------------------------------------------


def read_runs(folder: Path) -> list[CollectedRun]:
    """Every job of a sweep, in whatever state; why one cannot be read is in its `error`."""
    sweep = read_sweep(folder)
    queue = slurm_queue() or {} if sweep.launcher == "slurm" else {}
    runs = []
    for job, state in zip(sweep.jobs, job_states(folder, sweep.jobs, queue), strict=True):
        run = CollectedRun(folder / job.folder, sweep.package, job.overrides, state)
        runs.append(run)
        if (run.folder / "run.json").exists():
            try:
                _read_files(run)
            except ConfigError as error:
                run.state, run.error = "damaged", str(error)
    return runs


def _read_files(run: CollectedRun) -> None:
    run.record = read_record(run.folder)
    run.error = last_traceback_line(run.record["traceback"])
    run.config = result_config(read_config(run.folder))
    run.metrics = _read_lines(run.folder / "metrics.jsonl")
    run.artifacts = read_artifacts(run.folder / "report")
    if run.state == "finished":
        summary = read_json(run.folder / "summary.json")
        run.results = numbers(summary)
        run.undefined = [key for key, value in summary.items() if value is None]
        evaluation = run.folder / "evaluation" / "summary.json"  # of python -m llm.evaluate run=FOLDER
        run.results |= evaluation_results(read_json(evaluation)) if evaluation.exists() else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return read_jsonl(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: must be lines of JSON, got {error}") from None


def evaluation_results(summary: Mapping[str, Any]) -> dict[str, float]:
    """Means and their errors of an evaluation, without those of what it was compared with."""
    return {key: value for key, value in numbers(summary).items() if re.fullmatch(r"[^/.]+/(mean|se)", key)}


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a summary by dotted key; a list of one mapping (didactic's only cell) is that mapping."""
    opened: dict[str, Any] = {}
    for key, value in summary.items():
        single = isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping)
        opened |= flatten(value[0]) if single else flatten({key: value})
    return {key: float(value) for key, value in opened.items() if type(value) in (int, float)}


def result_keys(runs: Sequence[CollectedRun]) -> list[str]:
    """Results that some run has a number for, then those that none has."""
    keys = [key for run in runs for key in run.results] + [key for run in runs for key in run.undefined]
    return [key for key in dict.fromkeys(keys) if not key.endswith("/se")]


# --- folding ---------------------------------------------------------------------------------------------------


def fold(runs: Sequence[CollectedRun]) -> list[Row]:
    """One row for each configuration of the finished runs, seeds aside, by what varies between them."""
    finished = [run for run in runs if run.state == "finished"]
    if not finished:
        return []
    columns = distinguishing_columns(finished)
    rows: dict[int, Row] = {}
    for number, run, varying in zip(group_numbers(columns), finished, columns.to_dict("records"), strict=True):
        rows.setdefault(number, Row({str(key): value for key, value in varying.items()}, [])).runs.append(run)
    return list(rows.values())


def distinguishing_columns(runs: Sequence[CollectedRun]) -> pd.DataFrame:
    """One row a run: what was typed for it, or the keys of its configuration, where that differs between runs."""
    configured = pd.DataFrame([run.config for run in runs], dtype=object)
    configured = configured.reindex(columns=varying_keys(runs)).astype(object)
    configured = configured.where(configured.map(lambda value: not _is_missing(value)), ABSENT)
    typed = typed_columns(runs)
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
    """Keys of the configuration that not all runs share; of several that tell the same runs apart, one."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config if key != "seed"))
    columns = {key: [str(run.config.get(key, ABSENT)) for run in runs] for key in keys}
    chosen: dict[tuple[int, ...], str] = {}
    for key, column in sorted(columns.items(), key=lambda item: ABSENT in item[1]):  # keys that all runs have first
        codes, values = pd.factorize(pd.Series(column))
        if len(values) > 1:
            chosen.setdefault(tuple(codes), key)
    return [key for key in keys if key in chosen.values()]


def typed_columns(runs: Sequence[CollectedRun]) -> pd.DataFrame:
    """What was typed for each run and differs between them, e.g. method=rloo; the seed aside."""
    typed = [dict(text.lstrip("+").split("=", 1) for text in run.overrides if "=" in text) for run in runs]
    frame = (
        pd.DataFrame(typed, index=range(len(runs)), dtype=object).fillna(ABSENT).drop(columns="seed", errors="ignore")
    )
    return frame.loc[:, frame.nunique() > 1]


def group_numbers(columns: pd.DataFrame) -> list[int]:
    """The number of each row's group, equal rows being one group, in the order of their appearance."""
    if columns.shape[1] == 0:
        return [0] * len(columns)
    return list(columns.astype(str).groupby(list(columns.columns), sort=False).ngroup())


def standard_error(values: Sequence[float]) -> float:
    """Bootstrap standard error of the mean, over all n^n resamples: the population deviation by sqrt(n)."""
    return pstdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def rerun_command(runs: Sequence[CollectedRun]) -> str:
    """One command line for runs that differ in their seed alone, several for others."""
    plain = [[o for o in run.overrides if not o.startswith("seed=")] for run in runs]
    package = runs[0].package
    if len(runs) == 1 or any(overrides != plain[0] for overrides in plain):
        return "; ".join(shlex.join(["python", "-m", run.package, *run.overrides]) for run in runs)
    seeds = ",".join(str(run.config.get("seed")) for run in runs)
    return shlex.join(["python", "-m", package, "-m", *plain[0], f"seed={seeds}"])


# --- writing ---------------------------------------------------------------------------------------------------


def write_tables(
    out: Path,
    runs: Sequence[CollectedRun],
    rows: Sequence[Row],
    keys: Sequence[str],
    tests: "Sequence[DataclassInstance]" = (),
) -> None:
    """table.csv and table.parquet of the rows, runs.csv of all runs, and tests.csv where there are tests."""
    try:
        import pyarrow  # noqa: F401  # for Parquet
    except ImportError:
        raise ConfigError("table.parquet: pyarrow is not installed: pip install -e '.[reports]'") from None
    table = pd.DataFrame([_record(row, rows, keys) for row in rows])
    varying = list(rows[0].varying) if rows else []
    mixed = [column for column in varying if table[column].dtype == object]
    table[mixed] = table[mixed].astype(str)  # Parquet's columns have one type each
    table.to_csv(out / "table.csv", index=False)
    table.to_parquet(out / "table.parquet", index=False)
    pd.DataFrame(_run_record(run, varying_keys(runs)) for run in runs).to_csv(out / "runs.csv", index=False)
    if tests:
        pd.DataFrame(asdict(test) for test in tests).to_csv(out / "tests.csv", index=False)


def _record(row: Row, rows: Sequence[Row], keys: Sequence[str]) -> dict[str, Any]:
    record = {**row.varying, "n": len(row.runs)}
    for key in keys:
        record[key], record[f"{key}/se"] = row.result(key)
        if any(other.coverage(key) for other in rows):
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
