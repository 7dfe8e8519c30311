"""`python -m launch.collect SWEEP...`: all runs of sweeps in one table, with seeds folded, pictures and a report.

Written into --out (by default the first sweep's folder, in `collected`):
  table.csv, table.parquet   one row per configuration: varied keys, n, each result's mean and standard error (/se)
  runs.csv                   one row per run, failures included
  pareto.png, curves.png     reward against diversity with the front; metrics over the steps
  tests.csv                  with --against ROW: one-sided Welch t-tests of the other rows' results against that row's
  report.html                all of it in one file that opens offline, with the command that made each row

What python -m llm.evaluate run=RUN measured of a run is among its results (--metrics distinct/mean,...).
A standard error is the bootstrap's over the seeds (of the mean, over all resamples: exact, not simulated).
A result that some seeds of a row do not have is the mean of the others, with their number: 9.2 (3 of 5).
The exit status is 1 where a run did not finish; the others are collected all the same.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from conf.schema.base import ConfigError
from launch.runs.run_folder import one_line_errors


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, nargs="+", help="folders of sweeps, or of runs")
    parser.add_argument("--out", type=Path, help="folder to write to (default: SWEEP/collected)")
    parser.add_argument("--metrics", default="", help="results to show in the printed table, separated by commas")
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
    from launch.analysis.plots import PARETO, draw_artifact_curves, draw_curves, draw_pareto
    from launch.analysis.significance import compare, find_base
    from launch.analysis.table import fold, read_runs, result_keys, write_tables
    from launch.analysis.terminal import chosen_results, print_table, print_tests

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
    write_report(out / "report.html", runs, rows, known, pictures, tests, against)
    chosen = list(shown) or chosen_results(known, axes)
    print_table(rows, chosen)
    if tests:
        print_tests([test for test in tests if test.key in chosen], against)
    unfinished = [run for run in runs if run.state != "finished"]
    for run in unfinished:
        print(f"{run.state}: {run.folder}{': ' if run.error else ''}{run.error}")
    print(f"{len(runs) - len(unfinished)} of {len(runs)} runs finished; report: {out / 'report.html'}")
    return int(bool(unfinished))


if __name__ == "__main__":
    sys.exit(main())
