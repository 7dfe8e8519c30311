"""`python -m launch.submit PACKAGE OVERRIDES`: submit a sweep to the cluster and return at once.

    python -m launch.submit llm experiment=one_two objective.beta=.01,.03 seed=0,1,2 hydra.launcher.partition=gpu
    python -m launch.submit --launcher slurm_1gpu --dry-run llm transform=identity,mara
    python -m launch.submit --config-dir my_conf llm experiment=mine seed=0,1

The sweep runs over all combinations of the comma-separated values. The command prints the ids of the jobs and the
folder of the sweep, which status, resume and collect take. --dry-run prints the sbatch script instead; it submits
and writes nothing.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from conf.schema.base import ConfigError
from conf.schema.commands import COMMANDS
from launch.cli.command_table import ArgumentParser
from launch.cli.groups import options
from launch.cli.import_path import module_command, module_environment
from launch.cli.next_steps import after_submission
from launch.cli.recorded_command import CONFIG_FLAGS
from launch.runs.atomic import make_folder, writing
from launch.runs.closing import show_next
from launch.runs.run_folder import one_line_errors
from launch.runs.streams import run_command

RECORDED = "sweep folder: "  # what a launcher prints when it has recorded the sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = ArgumentParser("launch.submit", __doc__)
    parser.add_argument("--launcher", default="slurm", help="an option of hydra/launcher (default: slurm)")
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch script, and submit nothing")
    parser.add_argument("--config-dir", "-cd", metavar="FOLDER", help="folder with further configuration files")
    parser.add_argument("--config-name", "-cn", metavar="NAME", help="name of the main configuration file")
    parser.add_argument("--config-path", "-cp", metavar="FOLDER", help="folder of the main configuration file")
    parser.add_argument("package", help=", ".join(COMMANDS))
    parser.add_argument("overrides", nargs="*", help="as for python -m PACKAGE -m")
    args = parser.parse_intermixed_args(arguments)
    with one_line_errors("launch.submit"):
        if args.package not in COMMANDS:
            raise ConfigError(f"package: must be one of {', '.join(COMMANDS)}, got {args.package}")
        own = Path(args.config_dir, "hydra", "launcher").glob("*.yaml") if args.config_dir else ()
        launchers = sorted({*options(args.package, "hydra/launcher"), *(path.stem for path in own)})
        if args.launcher not in launchers:
            raise ConfigError(f"--launcher: must be one of {', '.join(launchers)}, got {args.launcher}")
        values = zip(CONFIG_FLAGS, (args.config_path, args.config_name, args.config_dir), strict=True)
        flags = [word for flag, value in values if value is not None for word in (flag, value)]
        launcher = f"hydra/launcher={args.launcher}"
        command = [*module_command(args.package), *flags, "-m", launcher, *args.overrides]
        if args.launcher == "local" and not args.dry_run:
            return start_in_background(command)
        mode = "hydra.launcher.dry_run=true" if args.dry_run else "hydra.launcher.wait=false"
        return subprocess.run([*command, mode], env=module_environment(os.getcwd())).returncode


def start_in_background(command: Sequence[str]) -> int:
    """Start a process that runs the jobs on this machine, and that continues when the terminal is closed.

    Returns:
        0 once the process has checked and recorded the sweep, otherwise the exit status with which it refused to.
    """
    log = Path("runs", f"local_{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}.log").absolute()
    make_folder(log.parent)
    with writing(log), log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=module_environment(os.getcwd()),
        )
    try:
        while RECORDED not in log.read_text("utf-8", errors="replace"):
            if process.poll() is not None:
                print(log.read_text("utf-8", errors="replace"), end="", file=sys.stderr)
                log.unlink()
                return process.returncode
            time.sleep(0.1)
    except KeyboardInterrupt:
        process.terminate()
        raise
    folder = log.read_text("utf-8", errors="replace").partition(RECORDED)[2].partition("\n")[0]
    print(f"started process {process.pid}; its output is in {log}\n{RECORDED}{folder}")
    show_next(after_submission(Path(folder)))
    return 0


if __name__ == "__main__":
    run_command("launch.submit", main)
