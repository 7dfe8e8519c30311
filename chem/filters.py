"""Diversity filters: scaffolds that have had their share of good molecules are worth less and are never good."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from torch import Tensor

from chem.scoring import Batch, murcko
from conf.schema.chem import DiversityFilterConfig

MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def step(filled: float) -> float:
    """Nothing until the bucket is full, then everything."""
    return float(filled < 1)


def linear(filled: float) -> float:
    return max(1 - filled, 0.0)


def sigmoid(filled: float) -> float:
    """Half at a half-full bucket; scaled to 1 at an empty one."""

    def falling(x: float) -> float:
        return 1 / (1 + math.exp((2 * x - 1) / 0.15))

    return falling(filled) / falling(0)


def tanh(filled: float) -> float:
    return 1 - math.tanh(3 * filled)


PENALTIES: dict[str, Callable[[float], float]] = {
    "step": step,
    "linear": linear,
    "sigmoid": sigmoid,
    "tanh": tanh,
}


class DiversityFilter:
    """Buckets of molecules that share a scaffold.

    A molecule whose raw score is at least `min_score` goes into the bucket of its scaffold. Its reward is the raw
    score times the penalty's factor at `others / bucket_size`, others being the molecules in the bucket beside
    itself; where the factor is below 1 it is filtered: it keeps the penalised score and is never good.

    none: every molecule keeps its score. identical_murcko: buckets of one Bemis-Murcko scaffold. topological: of one
    scaffold without atom and bond types. similarity: of scaffolds at least `min_similarity` (Tanimoto, Morgan 2)
    to the one that opened the bucket, the most similar one.
    """

    def __init__(self, config: DiversityFilterConfig) -> None:
        self.config = config
        self.penalty = PENALTIES[config.penalty]
        self.buckets: dict[str, dict[str, None]] = {}  # scaffold -> molecules in order
        self._fingerprints: dict[str, DataStructs.ExplicitBitVect] = {}

    def __call__(self, batch: Batch) -> tuple[Batch, list[bool]]:
        """The batch with penalised rewards, and which rows are filtered."""
        if self.config.name == "none":
            return batch, [False] * len(batch.canonical)
        factors = []
        rows = zip(batch.canonical, batch.scaffolds, batch.reward.tolist(), batch.valid.tolist(), strict=True)
        for smiles, scaffold, reward, counted in rows:
            if smiles is None or scaffold is None or not counted or reward < self.config.min_score:
                factors.append(1.0)
            else:
                factors.append(self._factor(smiles, scaffold))
        factor = torch.tensor(factors)
        filtered = factor < 1
        penalised = batch._replace(reward=batch.reward * factor, complete=batch.complete & ~filtered)
        return penalised, filtered.tolist()

    def _factor(self, smiles: str, scaffold: str) -> float:
        bucket = self.buckets.setdefault(self._bucket(smiles, scaffold), {})
        bucket[smiles] = None
        return self.penalty((len(bucket) - 1) / self.config.bucket_size)

    def penalises(self, smiles: str) -> bool:
        """Whether a molecule would be filtered now; nothing is remembered."""
        bucket = self.buckets.get(self._bucket(smiles, murcko(smiles)), {})
        return self.penalty(len(bucket.keys() - {smiles}) / self.config.bucket_size) < 1

    def _bucket(self, smiles: str, scaffold: str) -> str:
        if self.config.name == "topological" and scaffold:
            generic = MurckoScaffold.MakeScaffoldGeneric(Chem.MolFromSmiles(scaffold))
            return str(Chem.MolToSmiles(generic))
        if self.config.name == "similarity":
            return self._similar(scaffold or smiles)
        return scaffold

    def _similar(self, scaffold: str) -> str:
        for known in self.buckets:  # after loading a state
            if known not in self._fingerprints:
                self._fingerprints[known] = MORGAN.GetFingerprint(Chem.MolFromSmiles(known))
        fingerprint = MORGAN.GetFingerprint(Chem.MolFromSmiles(scaffold))
        names = list(self._fingerprints)
        similar = DataStructs.BulkTanimotoSimilarity(fingerprint, list(self._fingerprints.values()))
        best = max(range(len(names)), key=lambda i: (similar[i], -i), default=None)
        if best is not None and similar[best] >= self.config.min_similarity:
            return names[best]
        self._fingerprints[scaffold] = fingerprint
        return scaffold

    def state_dict(self) -> dict[str, Any]:
        return {"buckets": {scaffold: list(bucket) for scaffold, bucket in self.buckets.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.buckets = {scaffold: dict.fromkeys(bucket) for scaffold, bucket in state["buckets"].items()}


def batch_diversity(canonical: Sequence[str | None]) -> Tensor:
    """[N] each molecule's mean distance (1 - Tanimoto, Morgan radius 2) to the batch's others; 0 for what is none."""
    rows = [row for row, smiles in enumerate(canonical) if smiles is not None]
    prints = [MORGAN.GetFingerprint(Chem.MolFromSmiles(canonical[row])) for row in rows]
    diversity = torch.zeros(len(canonical))
    for row, fingerprint in zip(rows, prints, strict=True):
        similar = sum(DataStructs.BulkTanimotoSimilarity(fingerprint, prints)) - 1  # to itself
        diversity[row] = 1 - similar / max(len(rows) - 1, 1)
    return diversity
