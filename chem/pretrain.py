"""`python -m chem.pretrain data=FILE`: train a prior on a file of SMILES."""

from typing import TYPE_CHECKING

from conf.schema.chem import PretrainConfig
from launch.cli.app import start
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def pretrain(config: PretrainConfig, run: "Run") -> None:
    """Train the prior of one run."""
    with working("loading the libraries"):
        from chem.models.prior_training import train_prior  # loads torch and RDKit

    train_prior(config, run)


if __name__ == "__main__":
    start("chem.pretrain", pretrain)
