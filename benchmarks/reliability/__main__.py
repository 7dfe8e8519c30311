"""`python -m benchmarks.reliability EXPERIMENT`: count what runs survive."""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.reliability.trials import Experiment, environment

DESCRIPTION = """Count what runs survive. Each experiment repeats one kind of disturbance on small runs of didactic,
llm and chem, and compares the results byte for byte with those of an undisturbed run.

  kills     a run is killed or stopped by a signal at a random moment, imports included, and then resumed
            (SIGKILL, SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGUSR1; once or three times in a row)
  configs   mangled configurations: values, keys, groups, flags and YAML files
  bytes     one place in one file of a finished or interrupted run is damaged, then one of
            resume, launch.status and launch.collect reads the folder
  disk      the disk is full at a random moment of a run; once there is space again, the run is resumed
            (a small tmpfs for root, otherwise a limit on the size of a file)
  requeue   one SLURM job is requeued again and again with `scontrol requeue`"""

EPILOG = """outcomes of a trial:
  same result             the command succeeds and the results are those of the undisturbed run
                          (configs: the configuration runs)
  one line and status 1   the command refuses, with one line on standard error
  wrong                   anything else: other results, a traceback, no message, a crash, a signal that is lost;
                          there must be none

The command prints a row of the table in docs/reliability.md and exits with status 1 if a trial is wrong. The file
FOLDER/EXPERIMENT_SEED.jsonl gets one line per trial, and the folder of a trial that is wrong stays for inspection.
Started again, the command runs only the trials that the file does not hold yet; a larger --count adds trials. A
trial depends on the seed and on its number only, up to the moments at which signals arrive.

examples:
  python -m benchmarks.reliability kills --count 6
  python -m benchmarks.reliability configs --count 1000 --seed 1 --folder reliability"""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the experiment and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", choices=("kills", "configs", "bytes", "disk", "requeue"))
    parser.add_argument("--count", type=int, default=6, help="number of trials (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices (default: 0)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/reliability"),
        help="for runs and results (default: runs/reliability)",
    )
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error(f"--count: must be at least 1, got {options.count}")
    os.environ.update(environment())  # before torch is imported
    folder = options.folder.absolute() / f"{options.experiment}_{options.seed}"
    experiment = Experiment(options.experiment, folder, options.seed)
    try:
        return select(options.experiment)(experiment, options.count)
    except KeyboardInterrupt:
        print("interrupted; start the same command again to go on", file=sys.stderr)
        return 130


def select(name: str):  # type: ignore[no-untyped-def]
    """The function that runs an experiment. Only the modules that it needs are imported."""
    if name == "kills":
        from benchmarks.reliability.kills import run_kills as run
    elif name == "configs":
        from benchmarks.reliability.configs import run_configs as run
    elif name == "bytes":
        from benchmarks.reliability.damage import run_damage as run
    elif name == "disk":
        from benchmarks.reliability.full_disk import run_full_disk as run
    else:
        from benchmarks.reliability.requeue import run_requeue as run
    return run


if __name__ == "__main__":
    sys.exit(main())
