"""`python -m chem.convert FILE FOLDER`: convert a prior written by REINVENT 4 or REINVENT 2."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from chem.models.prior import save_prior
from chem.models.reinvent4 import convert_prior, read_reinvent
from launch.runs.run_folder import one_line_errors
from launch.runs.streams import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m chem.convert",
        description="Convert a prior written by REINVENT 4 or REINVENT 2. No code in the file is run.",
        epilog="Use the result with: python -m chem prior=FOLDER",
    )
    parser.add_argument("file", type=Path, help="the prior, e.g. reinvent.prior")
    parser.add_argument("folder", type=Path, help="where to write config.json, vocabulary.json and model.safetensors")
    options = parser.parse_args(arguments)
    with one_line_errors("chem.convert"):
        prior = convert_prior(read_reinvent(options.file))
        save_prior(options.folder, prior)
        parameters = sum(tensor.numel() for tensor in prior.network.parameters())
        print(
            f"wrote {options.folder}: {prior.config.name}, {parameters:,} parameters, {len(prior.tokenizer)} tokens"
        )
    return 0


if __name__ == "__main__":
    run_command("chem.convert", main)
