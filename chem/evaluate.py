"""`python -m chem.evaluate file=CSV`: metrics of scored molecules, listed in the order they were generated."""

from typing import TYPE_CHECKING

from conf.schema.chem import ChemEvaluateConfig
from launch.cli.app import start
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def evaluate(config: ChemEvaluateConfig, run: "Run") -> None:
    """Evaluate one CSV file."""
    with working("loading the libraries"):
        from chem.csv_metrics import evaluate_file  # loads RDKit

    evaluate_file(config, run)


if __name__ == "__main__":
    start("chem.evaluate", evaluate)
