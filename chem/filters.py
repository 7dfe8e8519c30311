"""Diversity filters: a scaffold that already has many good molecules earns less, and its molecules are never good."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rdkit import Chem, DataStructs
from torch import Tensor

from chem.molecules import MORGAN, generic_scaffold, scaffold_fingerprint, scaffold_from_smiles
from chem.scoring import ScoredBatch
from conf.schema.chem import DiversityFilterConfig
from core.mara import reaches


def step_penalty(fullness: float) -> float:
    """1 until the bucket is full, then 0."""
    return float(fullness < 1)


def linear_penalty(fullness: float) -> float:
    """max(1 - x, 0)."""
    return max(1 - fullness, 0.0)


def sigmoid_penalty(fullness: float) -> float:
    """1 / (1 + exp((2x - 1) / 0.15)), scaled to 1 at x = 0."""

    def falling(x: float) -> float:
        return 1 / (1 + math.exp((2 * x - 1) / 0.15))

    return falling(fullness) / falling(0)


def tanh_penalty(fullness: float) -> float:
    """1 - tanh(3x)."""
    return 1 - math.tanh(3 * fullness)


# From x, the number of other molecules in the bucket over its size, to the factor of the reward.
PENALTIES: dict[str, Callable[[float], float]] = {
    "step": step_penalty,
    "linear": linear_penalty,
    "sigmoid": sigmoid_penalty,
    "tanh": tanh_penalty,
}


class DiversityFilter:
    """Collects molecules with the same or similar scaffolds in buckets and penalises those in full buckets.

    A molecule whose raw score is at least `min_score` goes into the bucket of its scaffold. Its reward is the raw
    score times the penalty at x = others / bucket_size, where `others` counts the other molecules in the bucket. If
    that factor is below 1 the molecule is filtered: it keeps the penalised score and is never good.

    The name in the configuration decides which molecules share a bucket:

    - none: no buckets, every molecule keeps its score.
    - identical_murcko: molecules with the same Bemis-Murcko scaffold.
    - topological: molecules whose scaffolds are equal when atom and bond types are ignored.
    - similarity: a scaffold joins the bucket whose first scaffold is most similar to it, if the similarity (Tanimoto,
      Morgan radius 2) is at least `min_similarity`; otherwise it opens a bucket.
    """

    def __init__(self, config: DiversityFilterConfig) -> None:
        self.config = config
        self.penalty = PENALTIES[config.penalty]
        self.buckets: dict[str, dict[str, None]] = {}  # scaffold -> molecules in order
        self._fingerprints: dict[str, DataStructs.ExplicitBitVect] = {}

    def __call__(self, batch: ScoredBatch) -> tuple[ScoredBatch, list[bool]]:
        """Penalise the rewards of a batch; also return which rows were filtered."""
        if self.config.name == "none":
            return batch, [False] * len(batch.canonical)
        factors = []
        collected = batch.valid & reaches(batch.reward, self.config.min_score)
        for smiles, scaffold, is_collected in zip(batch.canonical, batch.scaffolds, collected.tolist(), strict=True):
            if smiles is None or scaffold is None or not is_collected:
                factors.append(1.0)
            else:
                factors.append(self._add(smiles, scaffold))
        factor = torch.tensor(factors)
        filtered = factor < 1
        penalised = batch._replace(reward=batch.reward * factor, complete=batch.complete & ~filtered)
        return penalised, filtered.tolist()

    def _add(self, smiles: str, scaffold: str) -> float:
        """Put a molecule into its bucket and return the factor of its reward."""
        bucket = self.buckets.setdefault(self._bucket_key(smiles, scaffold), {})
        bucket[smiles] = None
        return self.penalty((len(bucket) - 1) / self.config.bucket_size)

    def penalises(self, smiles: str) -> bool:
        """Whether a molecule would be filtered now. It is not added to a bucket."""
        bucket = self.buckets.get(self._bucket_key(smiles, scaffold_from_smiles(smiles)), {})
        return self.penalty(len(bucket.keys() - {smiles}) / self.config.bucket_size) < 1

    def _bucket_key(self, smiles: str, scaffold: str) -> str:
        if self.config.name == "topological" and scaffold:
            return generic_scaffold(scaffold)
        if self.config.name == "similarity":
            return self._most_similar_key(scaffold or smiles)
        return scaffold

    def _most_similar_key(self, scaffold: str) -> str:
        for key in self.buckets:  # a restored state has no fingerprints
            if key not in self._fingerprints:
                self._fingerprints[key] = scaffold_fingerprint(key)
        fingerprint = scaffold_fingerprint(scaffold)
        keys = list(self._fingerprints)
        similarity = DataStructs.BulkTanimotoSimilarity(fingerprint, list(self._fingerprints.values()))
        best = max(range(len(keys)), key=lambda i: (similarity[i], -i), default=None)
        if best is not None and similarity[best] >= self.config.min_similarity:
            return keys[best]
        self._fingerprints[scaffold] = fingerprint
        return scaffold

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"buckets": {scaffold: list(bucket) for scaffold, bucket in self.buckets.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.buckets = {scaffold: dict.fromkeys(bucket) for scaffold, bucket in state["buckets"].items()}
        self._fingerprints = {}


def batch_diversity(canonical: Sequence[str | None]) -> Tensor:
    """Mean distance of each molecule to the other molecules of a batch: 1 - Tanimoto, Morgan radius 2.

    Args:
        canonical: N SMILES, None for invalid ones.

    Returns:
        [N], 0 for invalid ones.
    """
    rows = [row for row, smiles in enumerate(canonical) if smiles is not None]
    fingerprints = [MORGAN.GetFingerprint(Chem.MolFromSmiles(canonical[row])) for row in rows]
    diversity = torch.zeros(len(canonical))
    for row, fingerprint in zip(rows, fingerprints, strict=True):
        similarity = sum(DataStructs.BulkTanimotoSimilarity(fingerprint, fingerprints)) - 1  # without itself
        diversity[row] = 1 - similarity / max(len(rows) - 1, 1)
    return diversity
