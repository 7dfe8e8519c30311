"""`python -m tools.leaderboard`: record the runs of sweeps, and write the leaderboard page from the records."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.analysis.table import read_runs
from launch.runs.closing import command, show_next, show_pictures
from launch.runs.run_folder import one_line_errors
from launch.runs.streams import run_command
from tools.leaderboard.page import write_page
from tools.leaderboard.records import RECORDS, TASKS, Records, add_runs, read_records, write_records

NAME = "tools.leaderboard"
PAGE = Path("docs/leaderboard.md")
DESCRIPTION = f"""Record the finished runs of sweeps, one line each, and write the leaderboard page from the records.

A run has a record if it is of `method=NAME` on a task whose coverage can be counted:
experiment={", ".join(TASKS)}.
A record has the share of correct completions, the coverage, the entropy of the answers and their effective number,
of the policy and of its base; method, task, seed, beta and the settings that differ from the defaults; the commit and
the packages. Runs are added as they finish: adding a run again changes nothing, and a run of the same method, task,
seed and settings with other results replaces its record, which is said.

The page has a table and a picture for each task. A row is a method with a beta: means over the seeds with their
standard errors, s / sqrt(n) with n - 1 in s. Runs with other settings than those of the method's files now are a row
of their own, which names them. The text around the marked part of the page stays."""
EPILOG = """examples:
  python -m llm -m experiment=one_of_many method=rloo,grpo,mara_reverse objective.beta=0.1 seed=0,1,2 \\
      hydra.sweep.dir=runs/rivals_one_of_many
  python -m tools.leaderboard runs/rivals_one_of_many
  python -m tools.leaderboard --page docs/leaderboard.md"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status.

    It is 1 if a run failed, cannot be read or cannot have a record, otherwise 0.
    """
    parser = argparse.ArgumentParser(
        f"python -m {NAME}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", type=Path, nargs="*", help="folder of a sweep or of a run, whose runs are recorded")
    parser.add_argument("--page", type=Path, help=f"write the leaderboard into this page, such as {PAGE}")
    parser.add_argument("--records", type=Path, default=RECORDS, help=f"file of the records (default: {RECORDS})")
    options = parser.parse_args(arguments)
    if not options.sweep and not options.page:
        parser.error("give the folders of sweeps to record, or --page to write the page")
    with one_line_errors(NAME):
        records = read_records(options.records)
        status = 0
        if options.sweep:
            records, status = record(options.sweep, records, options.records)
        if options.page:
            show_pictures(write_page(options.page, records))
            print(f"{options.page}: written from {len(records)} records in {options.records}")
        else:
            own = [] if options.records == RECORDS else ["--records", options.records]
            show_next([command(NAME, "--page", PAGE, *own)])
        return status
    return 1


def record(sweeps: Sequence[Path], records: Records, path: Path) -> tuple[Records, int]:
    """Add the runs of sweeps to the records and write them; return them and the exit status."""
    runs = [run for sweep in sweeps for run in read_runs(sweep)]
    records, counts, problems = add_runs(records, runs)
    if counts["added"] or counts["replaced"]:
        write_records(path, records)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{path}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    return records, int(bool(problems))


if __name__ == "__main__":
    run_command(NAME, main)
