"""`python -m chem.benchmark benchmark=NAME`: run methods on the tasks of a benchmark and print a table."""

from typing import TYPE_CHECKING

from conf.schema.benchmark import BenchmarkConfig
from launch.cli.app import start
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def benchmark(config: BenchmarkConfig, run: "Run") -> None:
    """Run what has no record yet, and print the table."""
    with working("loading the libraries"):
        from chem.benchmarks.driver import run_benchmark  # loads RDKit

    run_benchmark(config, run)


if __name__ == "__main__":
    start("chem.benchmark", benchmark)
