"""`python -m chem.space RUN RUN ...`: the chemical space of the good molecules of several runs, side by side.

Files in --out (default: the folder `space` in the first run):
  space.png    one panel per run, with common axes: the first two principal components of the Morgan fingerprints of
               all good molecules of all runs. The run's own molecules are coloured, those of the other runs grey.
  space.csv    run, smiles, score and the two coordinates of each good molecule
  space.json   the share of the variance along each axis, and the yield, IntDiv1 and #Circles of each run

A RUN is a run folder, of which molecules.csv is read, or a CSV file with the columns smiles and score, such as
scores.csv of chem.score. A molecule is good if its score is at least --screen. Nothing is random.
"""

from collections.abc import Sequence
from pathlib import Path

from launch.cli.command_table import ArgumentParser
from launch.runs.run_folder import one_line_errors
from launch.runs.streams import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = ArgumentParser("chem.space", __doc__)
    parser.add_argument("run", type=Path, nargs="+", help="run folder, or CSV file of molecules and scores")
    parser.add_argument("--screen", type=float, default=0.8, help="score from which one is good (default: 0.8)")
    parser.add_argument("--names", default="", help="comma-separated names of the runs (default: of their folders)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: RUN/space)")
    args = parser.parse_args(arguments)
    with one_line_errors("chem.space"):
        from chem.fingerprint_map import map_runs  # loads RDKit

        map_runs(args.run, args.screen, args.names.split(",") if args.names else (), args.out)
        return 0
    return 1


if __name__ == "__main__":
    run_command("chem.space", main)
