"""`python -m didactic experiment=NAME`: train policies over a few outcomes, compare with exact optima."""

from typing import TYPE_CHECKING

from conf.schema.didactic import DidacticConfig
from launch.cli.app import start
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def train(config: DidacticConfig, run: "Run") -> None:
    """Train the grid of one run."""
    with working("loading the libraries"):
        from didactic.train import train_grid  # loads torch

    train_grid(config, run)


if __name__ == "__main__":
    start("didactic", train)
