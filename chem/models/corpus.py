"""A molecule file as training data: read, filter with counted reasons, randomise, batch."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rdkit import Chem, rdBase
from torch import Tensor

from chem.files import file_hash, find_file
from chem.models.tokenizer import Tokenizer, split_tokens
from chem.molecule_files import distinct_molecules, format_counts, read_molecule_file
from chem.molecules import MAX_CHARACTERS, canonical_form
from conf.schema.base import ConfigError
from conf.schema.chem import MoleculeFilterConfig
from launch.runs.rng import stream_seed, torch_generator
from launch.runs.run_folder import write_text

POOL_BATCHES = 64  # batches whose molecules are sorted by length together


class Corpus(NamedTuple):
    """Molecules to train on.

    Attributes:
        smiles: canonical SMILES that passed the filter.
        counts: number of lines, of molecules kept, and of lines left out for each reason.
        origin: name and sha256 of the file.
    """

    smiles: list[str]
    counts: dict[str, int]
    origin: dict[str, str]


def read_corpus(data: str, settings: MoleculeFilterConfig, folder: Path, smiles_column: str | None = None) -> Corpus:
    """Read and filter a molecule file.

    Args:
        data: path of the file, of any kind that `chem.molecule_files` reads.
        settings: the filter.
        folder: run folder; the result is stored there, so that a resumed run need not filter again.
        smiles_column: see `read_molecule_file`.

    Raises:
        ConfigError: the file cannot be read, or fewer than two molecules pass.
    """
    path = find_file("data", data)
    origin = {"name": path.name, "sha256": file_hash(path)}
    column = {} if smiles_column is None else {"smiles_column": smiles_column}
    key = {**origin, **column, "filter": asdict(settings), "rdkit": rdBase.rdkitVersion}
    stored_file = folder / "corpus.json"
    if stored_file.exists():
        stored = json.loads(stored_file.read_text("utf-8"))
        if stored["key"] == key:
            return Corpus(stored["smiles"], stored["counts"], origin)
    smiles, counts = filter_smiles(read_molecule_file("data", path, smiles_column).smiles, settings)
    if len(smiles) < 2:
        raise ConfigError(f"data: at least 2 molecules of {data} must pass the filter ({format_counts(counts)})")
    write_text(stored_file, json.dumps({"key": key, "counts": counts, "smiles": smiles}))
    return Corpus(smiles, counts, origin)


def filter_smiles(strings: list[str], settings: MoleculeFilterConfig) -> tuple[list[str], dict[str, int]]:
    """Filter SMILES.

    Returns:
        Canonical SMILES of the molecules that pass, in the order of the strings, and the counts of a `Corpus`.
    """
    molecules, counts = distinct_molecules(strings, partial(check_molecule, settings=settings))
    tokens_of = {smiles: set(split_tokens(smiles)) for smiles in molecules}
    molecules_with = Counter(token for tokens in tokens_of.values() for token in tokens)
    rare = {token for token, count in molecules_with.items() if count < settings.min_token_count}
    passed = [smiles for smiles, tokens in tokens_of.items() if rare.isdisjoint(tokens)]
    reasons = Counter(counts) + Counter({"rare token": len(molecules) - len(passed)})
    del reasons["lines"], reasons["kept"]
    stripped = {"salt stripped": salts} if (salts := count_salts(strings, settings, set(passed))) else {}
    return passed, {"lines": len(strings), "kept": len(passed), **dict(reasons.most_common()), **stripped}


def count_salts(strings: list[str], settings: MoleculeFilterConfig, passed: set[str]) -> int:
    """How many strings of several fragments have a largest one among the molecules that passed."""
    return sum("." in string and check_molecule(string, settings)[1] in passed for string in strings)


def check_molecule(string: str, settings: MoleculeFilterConfig) -> tuple[str | None, str]:
    """Check one SMILES against the filter.

    Returns:
        The reason to leave the molecule out, or None; and its canonical SMILES, "" if it is left out.
    """
    if not string:
        return "empty", ""
    if len(string) > MAX_CHARACTERS:
        return "too long", ""
    molecule = Chem.MolFromSmiles(string)
    if molecule is None:
        return "not a molecule", ""
    if "." in string:
        fragments = Chem.GetMolFrags(molecule, asMols=True)
        if len(fragments) > 1 and not settings.largest_fragment:
            return "several fragments", ""
        molecule = max(fragments, key=lambda fragment: (fragment.GetNumHeavyAtoms(), Chem.MolToSmiles(fragment)))
    if not {atom.GetSymbol() for atom in molecule.GetAtoms()} <= set(settings.elements):
        return "element", ""
    if not settings.min_heavy_atoms <= molecule.GetNumHeavyAtoms() <= settings.max_heavy_atoms:
        return "heavy atoms", ""
    smiles = canonical_form(Chem.MolToSmiles(molecule))
    if smiles is None:
        return "not a molecule", ""
    if len(split_tokens(smiles)) >= settings.max_tokens:
        return "too long", ""
    return None, smiles


def split_rows(count: int, validation_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split rows at random into training and validation rows, at least one of each."""
    order = torch.randperm(count, generator=torch_generator(seed, "split")).tolist()
    held_out = min(max(round(count * validation_share), 1), count - 1)
    return sorted(order[held_out:]), sorted(order[:held_out])


def randomise_smiles(smiles: str, seed: int, epoch: int) -> str:
    """A random SMILES of the same molecule, determined by (seed, epoch, SMILES)."""
    number = stream_seed(seed, "spelling", epoch, smiles) % 2**31
    molecule = Chem.MolFromSmiles(smiles)
    return Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=number or 1)[0] if molecule is not None else smiles


def randomise_encodable(
    smiles: list[str], tokenizer: Tokenizer, max_tokens: int, seed: int, epoch: int
) -> Iterator[str]:
    """Randomise each SMILES; yield it unchanged if the result is too long or has a token outside the vocabulary.

    Args:
        smiles: molecules.
        tokenizer: its vocabulary limits the tokens.
        max_tokens: longest SMILES in tokens, END included.
        seed: seed of the run.
        epoch: another epoch gives other SMILES.
    """
    vocabulary = set(tokenizer.tokens)
    for original in smiles:
        randomised = randomise_smiles(original, seed, epoch)
        tokens = split_tokens(randomised)
        yield randomised if vocabulary.issuperset(tokens) and len(tokens) < max_tokens else original


def epoch_batches(lengths: Tensor, size: int, seed: int, epoch: int) -> list[Tensor]:
    """Rows of each batch of an epoch: shuffled, then sorted by length within pools to keep the padding small.

    Args:
        lengths: [N] number of tokens of each row.
        size: rows per batch.
        seed: seed of the run.
        epoch: determines the order, together with the seed.
    """
    generator = torch_generator(seed, "data", epoch)
    pools = torch.randperm(len(lengths), generator=generator).split(size * POOL_BATCHES)
    batches = [batch for pool in pools for batch in pool[lengths[pool].argsort(stable=True)].split(size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
