"""`python -m chem.stock`: make an inventory of building blocks and measure what can be made from it."""

from typing import TYPE_CHECKING

from conf.schema.chem import StockConfig
from launch.cli.app import start
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def make_and_measure(config: StockConfig, run: "Run") -> None:
    """Make or choose the inventory of one run and measure it."""
    with working("loading the libraries"):
        from chem.oracles.synthesis.inventory_report import report_inventory  # loads RDKit

    report_inventory(config, run)


if __name__ == "__main__":
    start("chem.stock", make_and_measure)
