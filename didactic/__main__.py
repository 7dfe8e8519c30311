"""`python -m didactic experiment=NAME`: train policies over a few outcomes beside their exact optima."""

from pathlib import Path
from typing import TYPE_CHECKING

from conf.schema.didactic import DidacticConfig
from launch.cli.app import start

if TYPE_CHECKING:
    from launch.runs.run import Run


def train(config: DidacticConfig, run: "Run") -> None:
    from didactic.train import train as train_grid  # loads torch

    train_grid(config, run)


def report(runs: list[Path], folder: Path) -> None:
    from didactic.report import report_sweep

    report_sweep(runs)


if __name__ == "__main__":
    start("didactic", train, report)
