"""Experience replay and augmented memory: the best molecules so far, learnt from again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chem.models.corpus import spellings
from chem.models.tokenizer import Tokenizer
from chem.scoring import Batch
from conf.schema.chem import ReplayConfig
from launch.runs.rng import torch_generator


class Rows(NamedTuple):
    """Sequences to learn from: tokens, mask [N, T]; reward, valid, complete [N]; see `chem.scoring.Batch`."""

    tokens: Tensor
    mask: Tensor
    reward: Tensor
    valid: Tensor
    complete: Tensor


class ReplayMemory:
    """The `size` molecules of the highest reward so far, as they were first sampled; the earlier one of equals."""

    def __init__(self, config: ReplayConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.entries: dict[str, tuple[str, float]] = {}  # canonical SMILES -> as sampled, reward

    def add(self, smiles: Sequence[str], batch: Batch, filtered: Sequence[bool]) -> None:
        """Take in a batch, filtered molecules left out."""
        rows = zip(smiles, batch.canonical, batch.reward.tolist(), batch.valid.tolist(), filtered, strict=True)
        for sampled, canonical, reward, valid, out in rows:
            if canonical is not None and valid and not out and reward > 0:
                self.entries.setdefault(canonical, (sampled, reward))
        best = sorted(self.entries.items(), key=lambda item: -item[1][1])[: self.config.size]
        self.entries = dict(best)

    def purge(self, penalised: Callable[[str], bool]) -> None:
        """Selective memory purge: forget the molecules that the diversity filter would penalise by now."""
        self.entries = {smiles: entry for smiles, entry in self.entries.items() if not penalised(smiles)}

    def draw(self, seed: int, step: int) -> list[tuple[str, float]]:
        """Entries (as sampled, reward) that join a batch, without repetition; a function of (seed, step, memory)."""
        entries = list(self.entries.values())
        order = torch.randperm(len(entries), generator=torch_generator(seed, "replay", step)).tolist()
        return [entries[i] for i in sorted(order[: self.config.sample])]

    def state_dict(self) -> dict[str, Any]:
        return {"entries": [[canonical, *entry] for canonical, entry in self.entries.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.entries = {canonical: (sampled, reward) for canonical, sampled, reward in state["entries"]}


def rows_of(entries: Sequence[tuple[str, float]], tokenizer: Tokenizer) -> Rows:
    """Remembered molecules as rows that count and may be good."""
    tokens, mask = tokenizer.encode_batch([smiles for smiles, _ in entries])
    every = torch.ones(len(entries), dtype=torch.bool)
    return Rows(tokens, mask, torch.tensor([reward for _, reward in entries]), every, every)


def stack(first: Tensor, second: Tensor) -> Tensor:
    """Rows of both [N, T] and [M, U], filled with END (or False) to one width."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (first, second)])


def augmented(
    smiles: Sequence[str], batch: Batch, memory: ReplayMemory, *, longest: int, seed: int, step: int, number: int
) -> Rows:
    """Augmented memory (Guo and Schwaller, 2024): the batch's molecules and the whole memory, spelled anew.

    Args:
        longest: tokens of a spelling, END included; a longer one, or one with a token that the vocabulary lacks, is
            replaced by the spelling that was sampled.
    """
    tokenizer = memory.tokenizer
    kept = [row for row, one in enumerate(batch.canonical) if one is not None and bool(batch.valid[row])]
    entries = list(memory.entries.values())
    old = [smiles[row] for row in kept] + [sampled for sampled, _ in entries]
    new = list(spellings(old, tokenizer, longest, seed, step * 1000 + number))
    tokens, mask = tokenizer.encode_batch(new)
    remembered = torch.ones(len(entries), dtype=torch.bool)
    return Rows(
        tokens,
        mask,
        torch.cat([batch.reward[kept], torch.tensor([reward for _, reward in entries])]),
        torch.cat([batch.valid[kept], remembered]),
        torch.cat([batch.complete[kept], remembered]),
    )
