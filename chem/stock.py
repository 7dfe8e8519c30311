"""`python -m chem.stock`: make the default inventory of building blocks, and measure how much it can make."""

from typing import TYPE_CHECKING

from conf.schema.chem import StockConfig
from launch.cli.app import start

if TYPE_CHECKING:
    from launch.runs.run import Run


def make(config: StockConfig, run: "Run") -> None:
    from chem.oracles.synthesis.inventory_report import make_and_measure  # loads RDKit

    make_and_measure(config, run)


if __name__ == "__main__":
    start("chem.stock", make)
