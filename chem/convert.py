"""`python -m chem.convert FILE FOLDER`: a prior that REINVENT 4 or REINVENT 2 wrote, as one of ours."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from chem.models.prior import save_prior
from chem.models.reinvent4 import convert, read_reinvent
from launch.runs.run_folder import one_line_errors


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m chem.convert",
        description="Convert a prior that REINVENT 4 or REINVENT 2 wrote. Nothing in the file is run.",
        epilog="Then: python -m chem prior=FOLDER",
    )
    parser.add_argument("file", type=Path, help="the prior, e.g. reinvent.prior")
    parser.add_argument(
        "folder", type=Path, help="of the converted one: config.json, vocabulary.json, model.safetensors"
    )
    given = parser.parse_args(arguments)
    with one_line_errors("chem.convert"):
        prior = convert(read_reinvent(given.file))
        save_prior(given.folder, prior)
        parameters = sum(tensor.numel() for tensor in prior.network.parameters())
        print(f"{prior.config.name}, {parameters:,} parameters, {len(prior.tokenizer)} tokens: {given.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
