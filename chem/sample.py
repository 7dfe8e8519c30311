"""`python -m chem.sample prior=NAME count=N`: molecules from a prior or a trained policy."""

from typing import TYPE_CHECKING

from conf.schema.chem import SampleConfig
from launch.cli.app import start
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def sample(config: SampleConfig, run: "Run") -> None:
    """Draw the molecules of one run."""
    with working("loading the libraries"):
        from chem.sampling import sample_molecules  # loads torch and RDKit

    sample_molecules(config, run)


if __name__ == "__main__":
    start("chem.sample", sample)
