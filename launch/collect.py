"""`python -m launch.collect SWEEP...`: all runs of sweeps in one table, with seeds folded, pictures and a report.

Written into --out (by default the first sweep's folder, in `collected`):
  table.csv, table.parquet   one row a configuration: what varies, n, and each result's mean and standard error (/se)
  runs.csv                   one row a run, failures included
  pareto.png, curves.png     reward against diversity with the front; metrics over the steps
  tests.csv                  with --against ROW: one-sided Welch t-tests of the other rows' results against that row's
  report.html                all of it in one file that opens offline, with the command that made each row

What python -m llm.evaluate run=RUN measured of a run is among its results (--metrics distinct/mean,...).
A standard error is the bootstrap's over the seeds (of the mean, over all resamples: exact, not simulated).
A result that some seeds of a row do not have is the mean of the others, with their number: 9.2 (3 of 5).
The exit status is 1 where a run did not finish; the others are collected all the same.
"""

import argparse
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from conf.schema.base import ConfigError
from conf.schema.objective import DIVERGENCE_METRICS
from launch.analysis.artifacts import Artifacts, curve_panels, fold_curves, read_artifacts
from launch.analysis.significance import Comparison, compare, find_base
from launch.cluster.sweep import job_states, read_sweep, slurm_queue
from launch.runs.checkpoint import result_config
from launch.runs.run_folder import flatten, one_line_errors, read_config, read_json, read_jsonl, read_record
from launch.status import last_words

# Diversity and reward, the more the better, of the first package whose summary has both.
PARETO = (
    ("distinct/mean", "reward_out/mean"),
    ("distinct/mean", "reward_in/mean"),
    ("entropy_nats", "correct"),
    ("entropy_nats", "reward"),
    ("0.8/int_div1", "0.8/yield"),
)
CURVES = (
    "reward/raw",
    "correct",
    "answers/entropy_nats",
    "entropy_nats",
    *DIVERGENCE_METRICS,
    "loss",
)
MOST_PANELS = 4
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


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
        parts = (f"{key.removesuffix('.name').rpartition('.')[2]}={value}" for key, value in self.varying.items())
        return ", ".join(parts) or "all runs"

    def values(self, key: str) -> list[float]:
        """Of the runs that have it."""
        return [run.results[key] for run in self.runs if key in run.results]

    def result(self, key: str) -> tuple[float, float]:
        """Mean and standard error over the runs that have it."""
        values = self.values(key)
        if len(values) == 1:  # which may know its own
            own = f"{key.removesuffix('/mean')}/se"
            return values[0], next((run.results[own] for run in self.runs if own in run.results), math.nan)
        return (fmean(values) if values else math.nan), standard_error(values)

    def having(self, key: str) -> str:
        """`3 of 5`, where only so many of the runs have it; else nothing."""
        count = len(self.values(key))
        return f"{count} of {len(self.runs)}" if 0 < count < len(self.runs) else ""

    def command(self) -> str:
        return rerun_command(self.runs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, nargs="+", help="folders of sweeps, or of runs")
    parser.add_argument("--out", type=Path, help="folder to write to (default: SWEEP/collected)")
    parser.add_argument(
        "--metrics", default="", help="results to show in the printed table, with commas between them"
    )
    parser.add_argument("--pareto", default="", help="DIVERSITY,REWARD: two results for the picture")
    parser.add_argument(
        "--against",
        default="",
        help="the row that the others are tested against, by a part of its label or of what was typed",
    )
    given = parser.parse_args(arguments)
    out = given.out or given.sweep[0] / "collected"
    with one_line_errors("launch.collect"):
        return collect(given.sweep, out, _keys(given.metrics), _keys(given.pareto), given.against)
    return 1


def _keys(text: str) -> list[str]:
    return [key for key in text.split(",") if key]


def collect(
    sweeps: Sequence[Path], out: Path, shown: Sequence[str] = (), pareto: Sequence[str] = (), against: str = ""
) -> int:
    """Write the tables, the pictures and the report; 1 where a run did not finish, else 0."""
    from launch.analysis.html import write_report

    runs = [run for sweep in sweeps for run in read_runs(sweep)]
    rows = fold(runs)
    known = result_keys(runs)
    for key in (*shown, *pareto):
        if key not in known:
            raise ConfigError(f"--metrics: must be results of the runs ({', '.join(known)}), got {key}")
    if len(pareto) not in (0, 2):
        raise ConfigError(f"--pareto: must be two results, DIVERSITY,REWARD, got {','.join(pareto)}")
    tests = compare(rows, find_base(rows, against), list(shown) or known) if against else []
    out.mkdir(parents=True, exist_ok=True)
    write_tables(out, runs, rows, known, tests)
    axes = tuple(pareto) or next((pair for pair in PARETO if set(pair) <= set(known)), ())
    pictures = []
    if len(axes) == 2 and rows:
        pictures.append(draw_pareto(rows, axes[0], axes[1], out / "pareto.png"))
    if any(run.metrics for row in rows for run in row.runs):
        pictures.append(draw_curves(rows, out / "curves.png"))
    pictures += draw_artifact_curves(rows, out)
    picked = list(shown) or picked_results(known, axes)
    write_report(out / "report.html", runs, rows, known, pictures, tests, against)
    print_table(rows, picked)
    if tests:
        print_tests([test for test in tests if test.key in picked], against)
    unfinished = [run for run in runs if run.state != "finished"]
    for run in unfinished:
        print(f"{run.state}: {run.folder}{': ' if run.error else ''}{run.error}")
    print(f"{len(runs) - len(unfinished)} of {len(runs)} runs finished; report: {out / 'report.html'}")
    return int(bool(unfinished))


def read_runs(folder: Path) -> list[CollectedRun]:
    """Every job of a sweep, in whatever state; what cannot be read of one is said in its error."""
    sweep = read_sweep(folder)
    queue = slurm_queue() or {} if sweep.launcher == "slurm" else {}
    runs = []
    for job, state in zip(sweep.jobs, job_states(folder, sweep.jobs, queue), strict=True):
        run = CollectedRun(folder / job.folder, sweep.package, job.overrides, state)
        runs.append(run)
        if not (run.folder / "run.json").exists():
            continue
        try:
            run.record = read_record(run.folder)
            run.error = last_words(run.record["traceback"])
            run.config = result_config(read_config(run.folder))
            run.metrics = read_lines(run.folder / "metrics.jsonl")
            run.artifacts = read_artifacts(run.folder / "report")
            if state == "finished":
                summary = read_json(run.folder / "summary.json")
                run.results = numbers(summary)
                run.undefined = [key for key, value in summary.items() if value is None]
                evaluation = run.folder / "evaluation" / "summary.json"  # of python -m llm.evaluate run=FOLDER
                run.results |= measured(read_json(evaluation)) if evaluation.exists() else {}
        except ConfigError as error:
            run.state, run.error = "damaged", str(error)
    return runs


def read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return read_jsonl(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: must be lines of JSON, got {error}") from None


def measured(summary: Mapping[str, Any]) -> dict[str, float]:
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
    """What some run has a number for, then what none has."""
    keys = [key for run in runs for key in run.results] + [key for run in runs for key in run.undefined]
    return [key for key in dict.fromkeys(keys) if not key.endswith("/se")]


def fold(runs: Sequence[CollectedRun]) -> list[Row]:
    """One row for each configuration of the finished runs, seeds aside, by what varies between them."""
    finished = [run for run in runs if run.state == "finished"]
    keys = varying_keys(finished)
    typed = typed_columns(finished, keys)
    rows: dict[str, Row] = {}
    for run, said in zip(finished, typed, strict=True):
        varying = said or {key: run.config.get(key, "-") for key in keys}
        if len({other.package for other in finished}) > 1:
            varying = {"package": run.package, **varying}
        rows.setdefault(str(varying), Row(varying, [])).runs.append(run)
    return list(rows.values())


def varying_keys(runs: Sequence[CollectedRun]) -> list[str]:
    """Keys of the configuration that not all runs share; one that says what another already does is left out."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    columns = {key: tuple(str(run.config.get(key, "-")) for run in runs) for key in keys if key != "seed"}
    columns = {key: column for key, column in columns.items() if len(set(column)) > 1}
    found: dict[tuple[int, ...], str] = {}
    for key, column in sorted(columns.items(), key=lambda item: "-" in item[1]):  # keys that all runs have first
        pattern = tuple(column.index(value) for value in column)
        found.setdefault(pattern, key)
    return [key for key in keys if key in found.values()]


def typed_columns(runs: Sequence[CollectedRun], keys: Sequence[str]) -> list[dict[str, Any]]:
    """What was typed for each run and varies, e.g. method=rloo, where that is shorter and tells the same runs apart.

    Empty mappings where the keys of the configuration say it better.
    """
    said = [dict(one.lstrip("+").split("=", 1) for one in run.overrides if "=" in one) for run in runs]
    typed = [key for key in dict.fromkeys(key for one in said for key in one) if key != "seed"]
    typed = [key for key in typed if len({one.get(key, "-") for one in said}) > 1]
    columns = [{key: one.get(key, "-") for key in typed} for one in said]
    configured = [[str(run.config.get(key, "-")) for key in keys] for run in runs]
    pairs = {(str(a), str(b)) for a, b in zip(columns, configured, strict=True)}
    same = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    lists = any(isinstance(run.config.get(key), list) for run in runs for key in keys)
    return columns if same and (len(typed) < len(keys) or lists) else [{} for _ in runs]


def standard_error(values: Sequence[float]) -> float:
    """Bootstrap standard error of the mean, over all n^n resamples: the population deviation by sqrt(n)."""
    return pstdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def rerun_command(runs: Sequence[CollectedRun]) -> str:
    """One command line for runs that differ in their seed, several for others."""
    plain = [[o for o in run.overrides if not o.startswith("seed=")] for run in runs]
    package = runs[0].package
    if len(runs) == 1 or any(some != plain[0] for some in plain):
        return "; ".join(shlex.join(["python", "-m", run.package, *run.overrides]) for run in runs)
    seeds = ",".join(str(run.config.get("seed")) for run in runs)
    return shlex.join(["python", "-m", package, "-m", *plain[0], f"seed={seeds}"])


def write_tables(
    out: Path,
    runs: Sequence[CollectedRun],
    rows: Sequence[Row],
    keys: Sequence[str],
    tests: Sequence[Comparison] = (),
) -> None:
    try:
        import pandas as pd
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"tables: pip install -e .[reports] brings what they need, got no {error.name}") from None

    records = []
    for row in rows:
        record = {**row.varying, "n": len(row.runs)}
        for key in keys:
            record[key], record[f"{key}/se"] = row.result(key)
            if any(other.having(key) for other in rows):
                record[f"{key}/n"] = len(row.values(key))
        records.append({**record, "command": row.command()})
    table = pd.DataFrame(records)
    for column in row_columns(rows):  # of one type each, as Parquet needs
        if table[column].map(type).nunique() > 1 or table[column].map(lambda value: isinstance(value, list)).any():
            table[column] = table[column].map(str)
    table.to_csv(out / "table.csv", index=False)
    table.to_parquet(out / "table.parquet", index=False)
    varying = varying_keys(runs)
    pd.DataFrame(
        {
            "folder": str(run.folder),
            "package": run.package,
            "state": run.state,
            "seed": run.config.get("seed"),
            **{key: run.config.get(key) for key in varying},
            **run.results,
            "error": run.error,
        }
        for run in runs
    ).to_csv(out / "runs.csv", index=False)
    if tests:
        pd.DataFrame(asdict(test) for test in tests).to_csv(out / "tests.csv", index=False)


def row_columns(rows: Sequence[Row]) -> list[str]:
    return list(rows[0].varying) if rows else []


def picked_results(keys: Sequence[str], axes: Sequence[str]) -> list[str]:
    """A few results for a terminal's width: those of the picture, then the first others."""
    nested = re.compile(r"[^./\d]+\.")  # a mapping within the summary; but 0.8/yield is none
    others = [key for key in keys if key not in (*axes, "steps", "beta_final") and not nested.match(key)]
    return [*reversed(axes), *others][:5]


def print_table(rows: Sequence[Row], keys: Sequence[str]) -> None:
    """In as many tables, one below the other, as the terminal's width asks for."""
    from rich.table import Table

    from launch.runs.console import console

    table = Table(title="mean ± standard error over seeds", title_justify="left")
    for column in (*row_columns(rows), "n"):
        table.add_column(column.removesuffix(".name").rpartition(".")[2], no_wrap=True)
    for key in keys:
        table.add_column(key, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{with_error(*row.result(key))} {within_brackets(row.having(key))}".strip() for key in keys]
        table.add_row(*map(str, row.varying.values()), str(len(row.runs)), *cells)
    wanted = console.measure(table, options=console.options.update(width=10**6)).maximum
    if len(keys) > 1 and wanted > console.width:
        print_table(rows, keys[: len(keys) // 2])
        print_table(rows, keys[len(keys) // 2 :])
    else:
        console.print(table)


def with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.3f}"


def within_brackets(text: str) -> str:
    return f"({text})" if text else ""


def print_tests(tests: Sequence[Comparison], against: str) -> None:
    from rich.table import Table

    from launch.runs.console import console

    table = Table(title=f"Welch's t-test against {against}: p, one-sided", title_justify="left")
    for column in ("result", "row", "difference", "t", "df", "p (greater)", "p (less)"):
        table.add_column(column, justify="left" if column in ("result", "row") else "right", no_wrap=True)
    for one in tests:
        numbers = (one.difference, one.t, one.degrees, one.greater, one.less)
        table.add_row(one.key, one.label, *(f"{number:.3g}" for number in numbers))
    console.print(table)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other is as good as in both and better in one, by the first coordinate."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1]))
    front, best = [], -math.inf
    for i in order:
        if points[i][1] > best:
            front.append(i)
            best = points[i][1]
    return front[::-1]


def draw_pareto(rows: Sequence[Row], x: str, y: str, path: Path) -> Path:
    """Each configuration's mean with its errors, and the front of those that no other beats in both."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    rows = [row for row in rows if not any(math.isnan(row.result(key)[0]) for key in (x, y))]
    points = [(row.result(x)[0], row.result(y)[0]) for row in rows]
    front = [points[i] for i in pareto_front(points)]
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color="0.7", linewidth=1.5, zorder=0, label="front")
    for number, (row, point) in enumerate(zip(rows, points, strict=True)):
        errors = [np.nan_to_num(row.result(key)[1]) for key in (x, y)]
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": "os^Dv"[number // len(COLOURS) % 5],
        }
        axes.errorbar(*point, xerr=errors[0], yerr=errors[1], linestyle="", capsize=2, label=row.label, **style)
    axes.set(xlabel=x, ylabel=y, title="Reward against diversity (mean and standard error over seeds)")
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def draw_curves(rows: Sequence[Row], path: Path) -> Path:
    """Metrics over the steps: each configuration's mean over its seeds, and a standard error around it."""
    logged = {key for row in rows for run in row.runs for line in run.metrics for key in line}
    keys = [key for key in CURVES if key in logged][:MOST_PANELS]
    keys = keys or sorted(logged - {"step"})[:MOST_PANELS]
    columns = min(len(keys), 2)
    height = math.ceil(len(keys) / columns)
    figure, panels = plt.subplots(
        height, columns, figsize=(5.2 * columns, 3.2 * height), layout="constrained", squeeze=False
    )
    for axes, key in zip(panels.flat, keys, strict=False):
        for number, row in enumerate(rows):
            draw_band(axes, number, row.label, *curve(row, key))
        axes.set(xlabel="step", title=key)
    for axes in panels.flat[len(keys) :]:
        axes.axis("off")
    legend_below(figure, panels.flat[0])
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def draw_artifact_curves(rows: Sequence[Row], out: Path) -> list[Path]:
    """The packages' own curves, one picture a title: means over the seeds, and a standard error around them."""
    pictures = []
    named = [(row.label, [run.artifacts for run in row.runs]) for row in rows]
    for title, panels in curve_panels(named).items():
        figure, places = plt.subplots(
            1, len(panels), figsize=(5.2 * len(panels), 3.9), layout="constrained", squeeze=False
        )
        for axes, (name, x, lines) in zip(places.flat, panels, strict=True):
            for number, (label, folded) in enumerate(lines):
                draw_band(axes, number, label, *folded)
            axes.set(xlabel=x, title=name)
        legend_below(figure, places.flat[0])
        path = out / f"{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_') or 'exhibit'}.png"
        figure.savefig(path, dpi=130)
        plt.close(figure)
        pictures.append(path)
    return pictures


def draw_band(axes: Axes, number: int, label: str, x: Sequence[float], mean: np.ndarray, error: np.ndarray) -> None:
    """One configuration's line, with a standard error to either side."""
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(x, mean, color=colour, linestyle=("-", "--", ":")[number // len(COLOURS) % 3], label=label)
    axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)


def legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 2), frameon=False, fontsize="small"
    )


def curve(row: Row, key: str) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Steps that every run of a row logged the key at, its mean there, and its standard error (0 for one run)."""
    logged = [{line["step"]: line[key] for line in run.metrics if line.get(key) is not None} for run in row.runs]
    return fold_curves(logged)


if __name__ == "__main__":
    sys.exit(main())
