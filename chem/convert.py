"""`python -m chem.convert FILE FOLDER`: convert a prior of REINVENT, or a configuration of REINVENT 4 or Saturn."""

from collections.abc import Sequence
from pathlib import Path

from chem.foreign.conversion import command_line
from chem.foreign.convert_file import convert_configuration
from chem.foreign.ledger import LEGEND
from chem.models.prior import save_prior
from chem.models.reinvent4 import convert_prior, read_reinvent
from launch.cli.command_table import ArgumentParser
from launch.cli.next_steps import path_override
from launch.runs.closing import command, show_next
from launch.runs.run_folder import one_line_errors
from launch.runs.streams import run_command

CONFIGURATIONS = (".toml", ".json", ".yaml", ".yml")

DESCRIPTION = """\
Convert a prior of REINVENT 4 or REINVENT 2, or a configuration of REINVENT 4 (TOML, JSON, YAML) or Saturn (JSON).

    python -m chem.convert reinvent.prior priors/reinvent      the weights, as a prior of this project
    python -m chem.convert staged_learning.toml conf.d         the run: its experiment, its oracle and its command

The kind of the file is told by its ending. Every key of a configuration is listed: converted, nothing to do here, or
without a counterpart, with the reason. No code in the file is run.
"""
EPILOG = """\
Use a prior with: python -m chem prior=FOLDER, and a configuration with the command that is printed after its keys.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = ArgumentParser("chem.convert", DESCRIPTION, EPILOG)
    parser.add_argument(
        "file", type=Path, help="the prior or the configuration, e.g. reinvent.prior or reinvent.toml"
    )
    parser.add_argument(
        "folder",
        type=Path,
        help="where to write the prior (config.json, vocabulary.json, model.safetensors) or the configuration "
        "(experiment/NAME.yaml, oracle/NAME.yaml)",
    )
    options = parser.parse_args(arguments)
    with one_line_errors("chem.convert"):
        if options.file.suffix.lower() in CONFIGURATIONS:
            _configuration(options.file, options.folder)
        else:
            _prior(options.file, options.folder)
    return 0


def _prior(file: Path, folder: Path) -> None:
    prior = convert_prior(read_reinvent(file))
    save_prior(folder, prior)
    parameters = sum(tensor.numel() for tensor in prior.network.parameters())
    print(f"wrote {folder}: {prior.config.name}, {parameters:,} parameters, {len(prior.tokenizer)} tokens")
    converted = path_override("prior", folder)
    show_next([command("chem", converted), command("chem.sample", converted, "count=1000")])


def _configuration(file: Path, folder: Path) -> None:
    conversion = convert_configuration(file)
    words = conversion.write(folder, file)
    rows = conversion.ledger.table()
    print(LEGEND)
    for row in rows:
        print(row)
    for note in conversion.notes:
        print(f"note: {note}")
    lost = sum(row.status == "none" for row in rows)
    print(f"{len(rows)} keys, {lost} without a counterpart")
    show_next([command_line(words)])


if __name__ == "__main__":
    run_command("chem.convert", main)
