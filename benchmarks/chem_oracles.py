"""Time per molecule of the two slow oracles, with one and with several workers.

    python -m benchmarks.chem_oracles synthesis --molecules FILE [--inventory FILE] [--count N] [--workers 1 2]
    python -m benchmarks.chem_oracles docking --molecules FILE [--count N] [--workers 1 2]

The molecules are chosen at random from a file of SMILES, plain or gzipped. docking needs the ClpP files of
`conf/chem/oracle/synth.yaml`, here or below MARA_DATA. The time in which the workers start is not counted, and the
CPU seconds are those of the workers.
"""

import argparse
import random
import sys
import time

import psutil

from chem.files import find_file
from chem.molecule_files import read_molecule_file
from chem.oracles import Oracle
from conf.schema.base import ConfigError
from conf.schema.chem import ChemConfig
from conf.schema.oracle import ComponentConfig, OracleConfig
from launch.cli.compose import compose_typed


def component_config(name: str, inventory: str | None) -> ComponentConfig:
    """The component as the experiments configure it, with another inventory if one is given."""
    config: ChemConfig = compose_typed("chem", ["oracle=synth"])[0]
    (component,) = [component for component in config.oracle.components if component.name == name]
    if inventory is not None:
        component.parameters["inventory"] = inventory
    return component


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracle", choices=("synthesis", "docking"))
    parser.add_argument("--molecules", required=True)
    parser.add_argument("--inventory")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    table = read_molecule_file("molecules", find_file("molecules", options.molecules))
    molecules = random.Random(0).sample(table.smiles, options.count)
    print("workers  molecules  seconds  CPU s/molecule  other CPU s/s  positive")
    for workers in options.workers:
        component = component_config(options.oracle, options.inventory)
        with Oracle(OracleConfig([component], workers=workers, time_limit_s=600.0, max_failed_share=1.0)) as oracle:
            processes = [psutil.Process(worker.process.pid) for worker in oracle._workers]
            before = [sum(process.cpu_times()[:2]) for process in processes]
            busy, start = sum(psutil.cpu_times()[:3]), time.perf_counter()
            results = oracle(molecules)
            wall = time.perf_counter() - start
            own = sum(sum(process.cpu_times()[:2]) for process in processes) - sum(before)
            others = max(sum(psutil.cpu_times()[:3]) - busy - own, 0.0) / wall
        positive = sum(bool(result.score) for result in results)
        print(f"{workers:7} {len(results):10} {wall:8.1f} {own / len(results):15.3f} {others:14.2f} {positive:9}")


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"benchmarks.chem_oracles: {error}")
