"""How many good molecules a run found, how soon, and how different they are (the paper's Table 2).

Every metric is a function of the molecules in the order in which they were generated; `docs/metrics.md` defines each.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chem.molecules import canonical_forms, scaffold_from_smiles
from core.mara import reaches

RADIUS, BITS = 2, 2048  # of the Morgan fingerprints
CIRCLE_DISTANCE = 0.75
OB_COUNTS = (1, 10, 100)  # n of OBn


@dataclass(frozen=True)
class ScoredMolecules:
    """Distinct molecules in the order they were first generated; each is one oracle call.

    Attributes:
        smiles: [N] canonical.
        score: [N], NaN where the oracle gave none.
        generated: number of generated strings, repeated and invalid ones included.
        valid: how many of them are molecules.
    """

    smiles: list[str]
    score: np.ndarray
    generated: int
    valid: int

    def good(self, screen: float) -> np.ndarray:
        """[N] bool: the score is at least `screen`; False without a score."""
        return reaches(torch.from_numpy(self.score), screen).numpy()


def collect_molecules(smiles: Sequence[str], score: Sequence[float | None]) -> ScoredMolecules:
    """Distinct molecules with their first score that is not missing."""
    scores: dict[str, float] = {}
    canonical = canonical_forms(smiles)
    for molecule, value in zip(canonical, score, strict=True):
        if molecule is not None and np.isnan(scores.get(molecule, np.nan)):
            scores[molecule] = np.nan if value is None else float(value)
    valid = sum(molecule is not None for molecule in canonical)
    return ScoredMolecules(list(scores), np.array(list(scores.values()), dtype=float), len(smiles), valid)


def run_metrics(
    molecules: ScoredMolecules,
    screens: Sequence[float],
    known: Collection[str] | None = None,
    circle_distance: float = CIRCLE_DISTANCE,
) -> dict[str, Any]:
    """All metrics of one run.

    Args:
        molecules: what the run generated.
        screens: scores from which a molecule is good.
        known: canonical SMILES of the prior's training set, or None.
        circle_distance: Tanimoto distance above which #Circles counts two molecules.

    Returns:
        generated, calls, unscored, validity, uniqueness, scaffolds, novelty (None without `known`), and the metrics
        of each screen (`screen_metrics`).
    """
    smiles = molecules.smiles
    row: dict[str, Any] = {
        "generated": molecules.generated,
        "calls": len(smiles),
        "unscored": int(np.isnan(molecules.score).sum()),
        "validity": ratio(molecules.valid, molecules.generated),
        "uniqueness": ratio(len(smiles), molecules.valid),
        "scaffolds": count_scaffolds(smiles),
        "novelty": None if known is None else ratio(sum(s not in known for s in smiles), len(smiles)),
    }
    return row | screen_metrics(molecules, screens, circle_distance)


def screen_metrics(
    molecules: ScoredMolecules, screens: Sequence[float], circle_distance: float = CIRCLE_DISTANCE
) -> dict[str, Any]:
    """Metrics of the good molecules at each screen, with keys such as `0.8/yield`.

    yield; OB1, OB10, OB100 (None: not reached); int_div1 and circles (None: no good molecule); scaffolds.
    """
    row: dict[str, Any] = {}
    for screen in screens:
        good = molecules.good(screen)
        good_smiles = [smiles for smiles, is_good in zip(molecules.smiles, good, strict=True) if is_good]
        prints = fingerprints(good_smiles)
        row |= {
            f"{screen:g}/yield": len(good_smiles),
            **{f"{screen:g}/OB{n}": oracle_burden(good, n) for n in OB_COUNTS},
            f"{screen:g}/int_div1": int_div1(prints),
            f"{screen:g}/circles": len(circles(prints, circle_distance)) if prints else None,
            f"{screen:g}/scaffolds": count_scaffolds(good_smiles),
        }
    return row


def ratio(part: int, whole: int) -> float | None:
    """part / whole, None if `whole` is 0."""
    return part / whole if whole else None


def oracle_burden(good: np.ndarray, n: int) -> int | None:
    """Oracle calls up to and including the n-th good molecule; None if there are fewer.

    Args:
        good: [N] bool, in the order of the oracle calls.
        n: at least 1.

    Source: OB, Gao et al. (2022), arXiv:2206.12411, and the paper's Table 2.
    """
    calls = np.flatnonzero(good)
    return int(calls[n - 1]) + 1 if len(calls) >= n else None


def yield_curve(good: np.ndarray) -> np.ndarray:
    """[N] number of good molecules after each oracle call."""
    return np.cumsum(good)


def fingerprints(smiles: Sequence[str]) -> list[DataStructs.ExplicitBitVect]:
    """Morgan fingerprints of molecules."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    return [generator.GetFingerprint(Chem.MolFromSmiles(molecule)) for molecule in smiles]


def int_div1(prints: Sequence[DataStructs.ExplicitBitVect]) -> float | None:
    """Internal diversity: 1 minus the mean Tanimoto similarity over all ordered pairs; None without molecules.

    The pairs include each molecule with itself. Source: Benhenda (2017), arXiv:1708.08227; p = 1.
    """
    if not prints:
        return None
    above_diagonal = sum(
        sum(DataStructs.BulkTanimotoSimilarity(fingerprint, prints[:row])) for row, fingerprint in enumerate(prints)
    )
    return 1 - (2 * above_diagonal + len(prints)) / len(prints) ** 2


def circles(prints: Sequence[DataStructs.ExplicitBitVect], distance: float = CIRCLE_DISTANCE) -> list[int]:
    """#Circles: rows of a subset whose pairwise Tanimoto distances all exceed `distance`.

    The subset is built greedily in the order of generation, so its size is a lower bound of the largest one.
    Source: Xie et al. (2023), arXiv:2112.12542, their sequential bound.
    """
    rows: list[int] = []
    centres: list[DataStructs.ExplicitBitVect] = []
    for row, fingerprint in enumerate(prints):
        if not centres or 1 - max(DataStructs.BulkTanimotoSimilarity(fingerprint, centres)) > distance:
            rows.append(row)
            centres.append(fingerprint)
    return rows


def count_scaffolds(smiles: Sequence[str]) -> int:
    """Number of distinct Bemis-Murcko scaffolds; all molecules without a ring share the empty scaffold."""
    return len({scaffold_from_smiles(molecule) for molecule in smiles})
