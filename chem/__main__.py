"""`python -m chem experiment=NAME`: post-train a prior over SMILES."""

from typing import TYPE_CHECKING

from conf.schema.chem import ChemConfig
from launch.cli.app import start
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def train(config: ChemConfig, run: "Run") -> None:
    """Train the policy of one run."""
    with working("loading the libraries"):
        from chem.train import train_policy  # loads torch and RDKit

    train_policy(config, run)


if __name__ == "__main__":
    start("chem", train)
