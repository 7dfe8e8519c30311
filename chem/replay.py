"""Experience replay and augmented memory: train again on the best molecules so far."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chem.files import find_file
from chem.models.corpus import randomise_encodable
from chem.models.tokenizer import Tokenizer, split_tokens
from chem.molecule_files import canonical_smiles, format_counts, read_molecules
from chem.scoring import ScoredBatch
from conf.schema.chem import ReplayConfig
from launch.runs.rng import torch_generator


class TrainingRows(NamedTuple):
    """Sequences of one update: tokens, mask [N, T]; reward, valid, complete [N] as in `ScoredBatch`; N SMILES."""

    tokens: Tensor
    mask: Tensor
    reward: Tensor
    valid: Tensor
    complete: Tensor
    smiles: list[str]


class ReplayMemory:
    """The `size` molecules with the highest reward so far, spelled as they were first sampled.

    Of two molecules with the same reward the earlier one is kept.
    """

    def __init__(self, config: ReplayConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.entries: dict[str, tuple[str, float]] = {}  # canonical SMILES -> (SMILES as sampled, reward)

    def add(self, smiles: Sequence[str], batch: ScoredBatch, filtered: Sequence[bool]) -> None:
        """Add the molecules of a batch that count, have a positive reward and were not filtered."""
        rows = zip(smiles, batch.canonical, batch.reward.tolist(), batch.valid.tolist(), filtered, strict=True)
        for sampled, canonical, reward, valid, is_filtered in rows:
            if canonical is not None and valid and not is_filtered and reward > 0:
                self.entries.setdefault(canonical, (sampled, reward))
        best = sorted(self.entries.items(), key=lambda item: -item[1][1])[: self.config.size]
        self.entries = dict(best)

    def purge(self, penalised: Callable[[str], bool]) -> None:
        """Selective memory purge: forget the molecules that the diversity filter would penalise now."""
        self.entries = {smiles: entry for smiles, entry in self.entries.items() if not penalised(smiles)}

    def draw(self, seed: int, step: int) -> list[tuple[str, float]]:
        """Draw `sample` distinct entries (SMILES as sampled, reward), the same ones for the same seed and step."""
        entries = list(self.entries.values())
        order = torch.randperm(len(entries), generator=torch_generator(seed, "replay", step)).tolist()
        return [entries[i] for i in sorted(order[: self.config.sample])]

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"entries": [[canonical, *entry] for canonical, entry in self.entries.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.entries = {canonical: (sampled, reward) for canonical, sampled, reward in state["entries"]}


def read_seeds(name: str, tokenizer: Tokenizer, max_tokens: int) -> tuple[list[str], str]:
    """Read molecules that the memory starts with, such as known actives, as canonical SMILES.

    Args:
        name: the file, by its path or below MARA_DATA.
        tokenizer: its vocabulary limits the tokens.
        max_tokens: longest SMILES in tokens, END included.

    Returns:
        The distinct molecules that the network can write, and the counts of those read and left out, in words.

    Raises:
        ConfigError: there is no such file, or no molecule is left.
    """
    vocabulary = set(tokenizer.tokens)

    def check(string: str) -> tuple[str | None, str]:
        reason, molecule = canonical_smiles(string)
        tokens = split_tokens(molecule)
        if reason is None and (not vocabulary.issuperset(tokens) or len(tokens) >= max_tokens):
            reason = "the network cannot write it"
        return reason, molecule

    seeds = read_molecules("replay.seeds", find_file("replay.seeds", name), check=check)
    return seeds.smiles, format_counts(seeds.counts)


def replayed_rows(entries: Sequence[tuple[str, float]], tokenizer: Tokenizer) -> TrainingRows:
    """Entries of the memory as rows that all count and may be good."""
    smiles = [entry_smiles for entry_smiles, _ in entries]
    tokens, mask = tokenizer.encode_batch(smiles)
    all_rows = torch.ones(len(entries), dtype=torch.bool)
    return TrainingRows(tokens, mask, torch.tensor([reward for _, reward in entries]), all_rows, all_rows, smiles)


def concat_padded(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate [N, T] and [M, U] to [N + M, max(T, U)], padded with 0: END for tokens, False for a mask."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (first, second)])


def augmented_rows(
    smiles: Sequence[str],
    batch: ScoredBatch,
    memory: ReplayMemory,
    *,
    max_tokens: int,
    seed: int,
    step: int,
    number: int,
) -> TrainingRows:
    """Augmented memory (Guo and Schwaller, 2024): randomised SMILES of the batch and of the whole memory.

    Args:
        smiles: SMILES of the batch, as sampled.
        batch: their rewards; only molecules that count are used.
        memory: all its entries are used.
        max_tokens: longest SMILES in tokens, END included. A molecule keeps its sampled SMILES if the randomised one
            is longer or has a token that the vocabulary lacks.
        seed: seed of the run.
        step: training step.
        number: which of the step's augmentations this is.
    """
    tokenizer = memory.tokenizer
    rows = [row for row, canonical in enumerate(batch.canonical) if canonical is not None and bool(batch.valid[row])]
    entries = list(memory.entries.values())
    sampled = [smiles[row] for row in rows] + [entry_smiles for entry_smiles, _ in entries]
    randomised = list(randomise_encodable(sampled, tokenizer, max_tokens, seed, step * 1000 + number))
    tokens, mask = tokenizer.encode_batch(randomised)
    all_entries = torch.ones(len(entries), dtype=torch.bool)
    return TrainingRows(
        tokens,
        mask,
        torch.cat([batch.reward[rows], torch.tensor([reward for _, reward in entries])]),
        torch.cat([batch.valid[rows], all_entries]),
        torch.cat([batch.complete[rows], all_entries]),
        randomised,
    )
