"""`python -m launch.collect SWEEP...`: collect the runs of sweeps in tables, plots and a report.

Files in --out (default: the folder `collected` in the first sweep):
  table.csv, table.parquet   one row per configuration: the keys that vary, the number of seeds n, and the mean and
                             standard error (/se) of each result over the seeds
  runs.csv                   one row per run, including runs that did not finish
  pareto.png, curves.png     reward against diversity with the Pareto front; metrics over the training steps. Each
                             is also written as SVG, which is in the report
  tests.csv                  with --against ROW: one-sided Welch t-tests of each row against that row
  report.html                all of this in one file that works offline, with the command of each row

The results of a run include those of python -m llm.evaluate run=RUN (--metrics distinct/mean,...).
Standard errors are over the seeds, s / sqrt(n) with n - 1 in s. Of a row with one seed they are those that its run
reports, over its prompts; the column se_over says which.
If some seeds of a row lack a result, the mean is over the others, and their number is shown: 9.2 (3 of 5).
What a run is, its own folder says. A run that several of the folders hold, or that has the configuration and seed of
another one, counts once, and the command says so. A run whose files cannot be read is listed with the reason.
The exit status is 1 if a run did not finish or cannot be read; the other runs are still collected.
Text in a CSV file that a spreadsheet would execute, such as =1+1, gets a leading apostrophe.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.schema.base import ConfigError
from launch.cli.command_table import ArgumentParser
from launch.cluster.sweep import RESUMABLE
from launch.publish import publishable
from launch.runs.atomic import make_folder
from launch.runs.closing import command, show_next, show_pictures
from launch.runs.progress import working
from launch.runs.run_folder import one_line_errors
from launch.runs.streams import run_command

if TYPE_CHECKING:
    from launch.analysis.table import CollectedRun, Row


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = ArgumentParser("launch.collect", __doc__)
    parser.add_argument("sweep", type=Path, nargs="+", help="folder of a sweep or of a run")
    parser.add_argument("--out", type=Path, help="folder to write to (default: SWEEP/collected)")
    parser.add_argument(
        "--metrics", default="", help="comma-separated results to show in the table, report and tests"
    )
    parser.add_argument("--pareto", default="", help="DIVERSITY,REWARD: the two results of pareto.png")
    parser.add_argument(
        "--against",
        default="",
        help="test the other rows against this one, given by a part of its label or of its overrides",
    )
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="log the table and the pictures as one run of Weights & Biases, too"
    )
    args = parser.parse_args(arguments)
    out = args.out or args.sweep[0] / "collected"
    with one_line_errors("launch.collect"):
        return collect(args.sweep, out, _split(args.metrics), _split(args.pareto), args.against, args.wandb)
    return 1


def _split(text: str) -> list[str]:
    return [key for key in text.split(",") if key]


def collect(
    sweeps: Sequence[Path],
    out: Path,
    shown: Sequence[str] = (),
    pareto: Sequence[str] = (),
    against: str = "",
    wandb: str | None = None,
) -> int:
    """Write the tables, plots and report, and print a table.

    Args:
        sweeps: folders of sweeps or runs.
        out: the folder to write to.
        shown: results in the printed table, the report and the tests; by default a selection in the printed table,
            and all in the others.
        pareto: the two results of pareto.png, diversity and reward; by default the first pair that exists.
        against: a part of the label of the row that the others are tested against; no tests if empty.
        wandb: a project of Weights & Biases that gets the table and the pictures; None: none.

    Returns:
        The exit status: 1 if a run did not finish or cannot be read, otherwise 0.

    Raises:
        ConfigError: no run has a result, or `against` does not select exactly one row.
    """
    with working("collecting the runs"):
        from launch.analysis.base_model import base_model
        from launch.analysis.html import write_report
        from launch.analysis.plots import PARETO, draw_artifact_curves, draw_curves, draw_pareto
        from launch.analysis.significance import compare, find_baseline, untested
        from launch.analysis.table import distinct_runs, fold_seeds, read_runs, result_keys, write_tables
        from launch.analysis.terminal import default_results, print_results, print_tests

        listed = [run for sweep in sweeps for run in read_runs(sweep)]
        runs = distinct_runs(listed)
        rows = fold_seeds(runs)
        keys = result_keys(runs)
        for flag, requested in (("--metrics", shown), ("--pareto", pareto)):
            for key in requested:
                if key not in keys:
                    raise ConfigError(f"{flag}: no run has a result {key}; the results are {', '.join(keys)}")
        if len(pareto) not in (0, 2):
            raise ConfigError(f"--pareto: must be two results, DIVERSITY,REWARD, got {','.join(pareto)}")
        tested = list(shown) or keys
        base = find_baseline(rows, against) if against else None
        tests = compare(rows, base, tested) if base else []
        make_folder(out)
        write_tables(out, runs, rows, keys, tests)
        axes = tuple(pareto) or next((pair for pair in PARETO if set(pair) <= set(keys)), ())
        plots, untrained = [], base_model(rows)
        if len(axes) == 2 and rows:
            plots.append(draw_pareto(rows, axes[0], axes[1], out / "pareto.png", untrained))
        if any(run.metrics.lines for row in rows for run in row.runs):
            plots.append(draw_curves(rows, out / "curves.png", untrained))
        plots += draw_artifact_curves(rows, out)
        printed = list(shown) or default_results(keys, axes)
        write_report(out / "report.html", runs, rows, keys, plots, tests, against, shown, axes)
    print_results(rows, printed)
    if tests:
        print_tests([test for test in tests if test.key in printed], against)
    for reason in untested(rows, base, printed) if base else ():
        print(f"not tested against {against}: {reason}")
    left_out = print_left_out(runs)
    if len(listed) > len(runs):
        print(f"{len(listed) - len(runs)} runs are in several of the folders that were given, and count once")
    repeated = sum(run.state == "repeated" for run in runs)
    push_to_wandb(wandb, sweeps, rows, keys, plots, out)
    show_pictures(plots)
    finished = f"{len(runs) - len(left_out)} of {len(runs)} runs finished"
    print(f"{finished}{f', {repeated} repeated' if repeated else ''}; report: {out / 'report.html'}")
    show_next(after_collection(sweeps, rows, left_out, against))
    return int(repeated < len(left_out))


def print_left_out(runs: "Sequence[CollectedRun]") -> "list[CollectedRun]":
    """Print the runs that are not in the tables, with the reason, and return them."""
    left_out = [run for run in runs if run.state != "finished"]
    for run in left_out:
        print(f"{run.state}: {run.folder}{': ' if run.error else ''}{run.error}")
    return left_out


def push_to_wandb(
    project: str | None,
    sweeps: Sequence[Path],
    rows: Sequence["Row"],
    keys: Sequence[str],
    plots: Sequence[Path],
    out: Path,
) -> None:
    """Log the table and the pictures as one run of Weights & Biases, if a project is given, and print where it is."""
    if project is None:
        return
    from launch.analysis.wandb_summary import push_summary

    with working("pushing to Weights & Biases"):
        place = push_summary(project, sweeps[0].absolute().name, rows, keys, plots, out)
    print(f"Weights & Biases: {place}")


def after_collection(
    sweeps: Sequence[Path], rows: Sequence["Row"], left_out: Sequence["CollectedRun"], against: str
) -> list[str]:
    """The commands that can follow: for runs that have not finished, for a comparison, or for one configuration."""
    commands = []
    if any(run.state in RESUMABLE for run in left_out):
        commands.append(command("launch.resume", sweeps[0]))
    if len(rows) > 1 and not against and all(len(row.runs) > 1 for row in rows):
        commands.append(command("launch.collect", *sweeps, "--against", rows[0].label))
    if not commands and rows:
        runs = [row.runs[0].folder for row in rows[:2]]
        follow = "launch.diff" if len(runs) > 1 else "launch.publish" if publishable(runs[0]) else "launch.reproduce"
        commands.append(command(follow, *runs))
    return commands


if __name__ == "__main__":
    run_command("launch.collect", main)
