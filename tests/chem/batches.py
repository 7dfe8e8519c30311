"""Scored batches for tests."""

import torch

from chem.molecules import canonical_forms, scaffold_from_smiles
from chem.scoring import ScoredBatch


def make_batch(smiles, rewards):
    """A batch in which every row counts and may be good."""
    all_rows = torch.ones(len(smiles), dtype=torch.bool)
    canonical = canonical_forms(smiles)
    scaffolds = [None if molecule is None else scaffold_from_smiles(molecule) for molecule in canonical]
    return ScoredBatch(canonical, torch.tensor(rewards), all_rows, all_rows, scaffolds, [])
