"""`python -m launch.submit PACKAGE OVERRIDES`: hand a sweep to the cluster and return, so that no line need hold.

    python -m launch.submit llm experiment=one_two objective.beta=.01,.03 seed=0,1,2 hydra.launcher.partition=gpu
    python -m launch.submit --launcher slurm_1gpu --dry-run llm transform=identity,mara

A value that is a list (a,b,c) is swept over. It prints the jobs' ids and the sweep's folder, with which
`launch.status`, `launch.resume` and `launch.collect` go on. --dry-run prints the script for sbatch, submits nothing
and leaves nothing.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from conf.schema.base import ConfigError
from conf.schema.commands import COMMANDS
from launch.cli.groups import options
from launch.runs.run_folder import one_line_errors


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.submit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--launcher", default="slurm", help="option of hydra/launcher (default: slurm)")
    parser.add_argument("--dry-run", action="store_true", help="print what sbatch would be given; submit nothing")
    parser.add_argument("package", help=", ".join(COMMANDS))
    parser.add_argument("overrides", nargs="*", help="as for python -m PACKAGE -m")
    given = parser.parse_intermixed_args(arguments)
    with one_line_errors("launch.submit"):
        if given.package not in COMMANDS:
            raise ConfigError(f"package: must be one of {', '.join(COMMANDS)}, got {given.package}")
        launchers = options(given.package, "hydra/launcher")
        if given.launcher not in launchers:
            raise ConfigError(f"--launcher: must be one of {', '.join(launchers)}, got {given.launcher}")
        command = [sys.executable, "-m", given.package, "-m", f"hydra/launcher={given.launcher}", *given.overrides]
        if given.dry_run:
            return subprocess.run([*command, "hydra.launcher.dry_run=true"]).returncode
        if given.launcher == "local":
            return start_in_background(command)
        return subprocess.run([*command, "hydra.launcher.wait=false"]).returncode


def start_in_background(command: Sequence[str]) -> int:
    """Processes of this machine need one that starts the next; it lives on without the terminal."""
    log = Path("runs", f"local_{datetime.now():%Y-%m-%d_%H-%M-%S}.log").absolute()
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    print(f"started as process {process.pid}; its words: {log}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
