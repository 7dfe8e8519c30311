"""A file of SMILES as training data: parsed, filtered with the reasons counted, spelled, batched."""

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from rdkit import Chem, rdBase
from rich.progress import track
from torch import Tensor

from chem.models.tokenizer import Tokenizer, split
from conf.schema.base import ConfigError
from conf.schema.chem import MoleculeFilterConfig
from launch.runs.console import console
from launch.runs.rng import stream_seed, torch_generator
from launch.runs.run_folder import user_path, write_text

POOL = 64  # batches whose molecules are sorted by length together


class Corpus(NamedTuple):
    """Canonical SMILES that passed the filter, and what became of the file's lines."""

    smiles: list[str]
    counts: dict[str, int]  # lines, kept, and each reason
    origin: dict[str, str]  # name and sha256 of the file


def read_corpus(data: str, settings: MoleculeFilterConfig, folder: Path) -> Corpus:
    """Read, filter and canonicalise a file; the result is kept in `folder` for a resumed run.

    Raises:
        ConfigError: the file cannot be read, or no molecule passes.
    """
    path = user_path(data)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"data: must be a file of SMILES, got {data} ({error.strerror})") from None
    origin = {"name": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    key = {**origin, "filter": asdict(settings), "rdkit": rdBase.rdkitVersion}
    kept = folder / "corpus.json"
    if kept.exists():
        stored = json.loads(kept.read_text("utf-8"))
        if stored["key"] == key:
            return Corpus(stored["smiles"], stored["counts"], origin)
    smiles, counts = filter_smiles(_lines(data, content), settings)
    if len(smiles) < 2:
        raise ConfigError(f"data: must hold at least 2 molecules that pass the filter, got {counts} in {data}")
    write_text(kept, json.dumps({"key": key, "counts": counts, "smiles": smiles}))
    return Corpus(smiles, counts, origin)


def _lines(data: str, content: bytes) -> list[str]:
    try:
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"data: must be UTF-8 text, plain or gzipped, got {data} ({error})") from None


def filter_smiles(lines: list[str], settings: MoleculeFilterConfig) -> tuple[list[str], dict[str, int]]:
    """Canonical SMILES of the molecules that pass, in the lines' order, and counts: lines, kept, and each reason."""
    counts: Counter[str] = Counter()
    found: dict[str, list[str]] = {}  # canonical SMILES -> its tokens
    quiet = not console.is_terminal
    with rdBase.BlockLogs():
        for line in track(lines, "reading molecules", console=console, transient=True, disable=quiet):
            reason, smiles = check_molecule(line, settings)
            if reason is None and smiles in found:
                reason = "duplicate"
            if reason is not None:
                counts[reason] += 1
                continue
            found[smiles] = split(smiles)
    having = Counter(token for tokens in found.values() for token in set(tokens))
    rare = {token for token, count in having.items() if count < settings.min_token_count}
    kept = [one for one, tokens in found.items() if rare.isdisjoint(tokens)]
    counts["rare token"] = len(found) - len(kept)
    reasons = {reason: count for reason, count in counts.most_common() if count}
    return kept, {"lines": len(lines), "kept": len(kept), **reasons}


def check_molecule(line: str, settings: MoleculeFilterConfig) -> tuple[str | None, str]:
    """Why a line's molecule is left out, or None; and its canonical SMILES."""
    words = line.split(maxsplit=1)
    if not words:
        return "empty", ""
    molecule = Chem.MolFromSmiles(words[0])
    if molecule is None:
        return "not a molecule", ""
    if "." in words[0]:
        fragments = Chem.GetMolFrags(molecule, asMols=True)
        if len(fragments) > 1 and not settings.largest_fragment:
            return "several fragments", ""
        molecule = max(fragments, key=lambda fragment: (fragment.GetNumHeavyAtoms(), Chem.MolToSmiles(fragment)))
    if not {atom.GetSymbol() for atom in molecule.GetAtoms()} <= set(settings.elements):
        return "element", ""
    if not settings.min_heavy_atoms <= molecule.GetNumHeavyAtoms() <= settings.max_heavy_atoms:
        return "heavy atoms", ""
    smiles = Chem.MolToSmiles(molecule)
    if len(split(smiles)) >= settings.max_tokens:
        return "too long", ""
    return None, smiles


def split_rows(count: int, validation_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows held out, at least one of each."""
    order = torch.randperm(count, generator=torch_generator(seed, "split")).tolist()
    held = min(max(round(count * validation_share), 1), count - 1)
    return sorted(order[held:]), sorted(order[:held])


def respelled(smiles: str, seed: int, epoch: int) -> str:
    """Another spelling of a molecule, a function of (seed, epoch, molecule)."""
    number = stream_seed(seed, "spelling", epoch, smiles) % 2**31
    molecule = Chem.MolFromSmiles(smiles)
    return Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=number or 1)[0] if molecule is not None else smiles


def spellings(smiles: list[str], tokenizer: Tokenizer, longest: int, seed: int, epoch: int) -> Iterator[str]:
    """Another spelling of each, or itself where that has a token that the vocabulary lacks or is too long."""
    known = set(tokenizer.tokens)
    for one in smiles:
        other = respelled(one, seed, epoch)
        tokens = split(other)
        yield other if known.issuperset(tokens) and len(tokens) < longest else one


def epoch_batches(lengths: Tensor, size: int, seed: int, epoch: int) -> list[Tensor]:
    """Rows of each batch of an epoch: shuffled, then sorted by length within pools, for little padding."""
    generator = torch_generator(seed, "data", epoch)
    pools = torch.randperm(len(lengths), generator=generator).split(size * POOL)
    batches = [batch for pool in pools for batch in pool[lengths[pool].argsort(stable=True)].split(size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
