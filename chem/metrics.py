"""How many good molecules a run found, how soon, and how different they are (the paper's Table 2).

Everything is a function of the molecules in the order in which they were generated. `docs/metrics.md` defines each.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chem.scoring import canonical_forms, murcko

RADIUS, BITS = 2, 2048  # of the Morgan fingerprints
CIRCLE_DISTANCE = 0.75
COUNTS = (1, 10, 100)  # n of OBn


@dataclass(frozen=True)
class ScoredMolecules:
    """Distinct molecules in the order they were first generated, each an oracle call.

    smiles: [N] canonical. score: [N], NaN where the oracle gave none. generated, valid: strings of all kinds, and
    those that are molecules.
    """

    smiles: list[str]
    score: np.ndarray
    generated: int
    valid: int

    def good(self, screen: float) -> np.ndarray:
        """[N] bool: score at or over the screen; False where there is no score."""
        return np.asarray(self.score >= screen)


def collect_molecules(smiles: Sequence[str], score: Sequence[float | None]) -> ScoredMolecules:
    """Distinct molecules with their first score; a later score counts where the earlier ones were missing."""
    scores: dict[str, float] = {}
    canonical = canonical_forms(smiles)
    for one, value in zip(canonical, score, strict=True):
        if one is not None and np.isnan(scores.get(one, np.nan)):
            scores[one] = np.nan if value is None else float(value)
    valid = sum(one is not None for one in canonical)
    return ScoredMolecules(list(scores), np.array(list(scores.values()), dtype=float), len(smiles), valid)


def metrics(
    found: ScoredMolecules,
    screens: Sequence[float],
    known: Collection[str] | None = None,
    circle_distance: float = CIRCLE_DISTANCE,
) -> dict[str, Any]:
    """All metrics of one run.

    screens: scores from which a molecule is good. known: canonical SMILES of the prior's training set, or None.

    Returns:
        calls, validity, uniqueness, scaffolds, novelty (None without `known`), and for each screen, under `SCREEN/`:
        yield, OB1, OB10, OB100 (None: not reached), int_div1 and circles (None: no good molecule), scaffolds.
    """
    row: dict[str, Any] = {
        "generated": found.generated,
        "calls": len(found.smiles),
        "unscored": int(np.isnan(found.score).sum()),
        "validity": ratio(found.valid, found.generated),
        "uniqueness": ratio(len(found.smiles), found.valid),
        "scaffolds": scaffolds(found.smiles),
        "novelty": None if known is None else ratio(sum(one not in known for one in found.smiles), len(found.smiles)),
    }
    return row | screen_metrics(found, screens, circle_distance)


def screen_metrics(
    found: ScoredMolecules, screens: Sequence[float], circle_distance: float = CIRCLE_DISTANCE
) -> dict[str, Any]:
    """The part of `metrics` that stands under `SCREEN/`."""
    row: dict[str, Any] = {}
    for screen in screens:
        good = found.good(screen)
        chosen = [one for one, is_good in zip(found.smiles, good, strict=True) if is_good]
        prints = fingerprints(chosen)
        row |= {
            f"{screen:g}/yield": len(chosen),
            **{f"{screen:g}/OB{n}": oracle_burden(good, n) for n in COUNTS},
            f"{screen:g}/int_div1": int_div1(prints),
            f"{screen:g}/circles": len(circles(prints, circle_distance)) if prints else None,
            f"{screen:g}/scaffolds": scaffolds(chosen),
        }
    return row


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def oracle_burden(good: np.ndarray, n: int) -> int | None:
    """Oracle calls until the n-th good molecule; None: not reached.

    good: [N] bool, by oracle call. Source: OB, Gao et al. (2022), arXiv:2206.12411, and the paper's Table 2.
    """
    calls = np.flatnonzero(good)
    return int(calls[n - 1]) + 1 if len(calls) >= n else None


def yield_curve(good: np.ndarray) -> np.ndarray:
    """[N] good molecules after each oracle call."""
    return np.cumsum(good)


def fingerprints(smiles: Sequence[str]) -> list[DataStructs.ExplicitBitVect]:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    return [generator.GetFingerprint(Chem.MolFromSmiles(one)) for one in smiles]


def int_div1(prints: Sequence[DataStructs.ExplicitBitVect]) -> float | None:
    """1 minus the mean Tanimoto similarity over all ordered pairs, each molecule with itself included; None of none.

    Source: Benhenda (2017), arXiv:1708.08227; p = 1.
    """
    if not prints:
        return None
    above = sum(sum(DataStructs.BulkTanimotoSimilarity(one, prints[:row])) for row, one in enumerate(prints))
    return 1 - (2 * above + len(prints)) / len(prints) ** 2


def circles(prints: Sequence[DataStructs.ExplicitBitVect], distance: float = CIRCLE_DISTANCE) -> list[int]:
    """Rows of a subset whose pairwise Tanimoto distances are over `distance`: greedily, in order of generation.

    A lower bound of the largest such subset. Source: Xie et al. (2023), arXiv:2112.12542, their sequential bound.
    """
    kept: list[int] = []
    chosen: list[DataStructs.ExplicitBitVect] = []
    for row, one in enumerate(prints):
        if not chosen or 1 - max(DataStructs.BulkTanimotoSimilarity(one, chosen)) > distance:
            kept.append(row)
            chosen.append(one)
    return kept


def scaffolds(smiles: Sequence[str]) -> int:
    """Distinct Bemis-Murcko scaffolds; molecules without a ring share one, the empty one."""
    return len({murcko(one) for one in smiles})
