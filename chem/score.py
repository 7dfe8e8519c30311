"""`python -m chem.score file=FILE oracle=NAME`: the score of each molecule of a file."""

from typing import TYPE_CHECKING

from conf.schema.chem import ScoreConfig
from launch.cli.app import start
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def score(config: ScoreConfig, run: "Run") -> None:
    """Score one file."""
    with working("loading the libraries"):
        from chem.file_scores import score_file  # loads RDKit

    score_file(config, run)


if __name__ == "__main__":
    start("chem.score", score)
