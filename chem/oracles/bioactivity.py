"""The three bioactivity classifiers of PMO: DRD2, GSK3-beta and JNK3.

The models are those of TDC (Huang et al., 2021, arXiv:2102.09548), from MolScore's copies (MIT licence), which
`python -m tools.bioactivity_models` rewrites as NumPy arrays. DRD2 is the support vector classifier of Olivecrona et
al. (2017, arXiv:1704.07555), GSK3-beta and JNK3 are the random forests of Jin et al. (2020, arXiv:2002.03244).
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

DATA = Path(__file__).resolve().parents[1] / "data"
BITS = 2048

Features = Callable[[Chem.Mol], np.ndarray]


def ecfp4_bits(mol: Chem.Mol) -> np.ndarray:
    """[2048] bool: Morgan fingerprint of radius 2, as in TDC."""
    return np.asarray(ECFP4.GetFingerprintAsNumPy(mol), bool)


def fcfp6_counts(mol: Chem.Mol) -> np.ndarray:
    """[2048] counts: Morgan fingerprint of radius 3 with pharmacophoric invariants, its codes modulo 2048."""
    counts = np.zeros(BITS)
    for code, count in FCFP6.GetSparseCountFingerprint(mol).GetNonzeroElements().items():
        counts[code % BITS] += count
    return counts


ECFP4 = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
FCFP6 = rdFingerprintGenerator.GetMorganGenerator(
    radius=3, atomInvariantsGenerator=rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
)


class Forest:
    """A random forest of two classes over bits: the mean share of the second class in the leaves that are reached.

    Args:
        roots: [T] number of each tree's first node.
        feature: [N] the bit that a node asks for, -1 in a leaf. Without the bit the next node follows.
        skip: [N] with the bit, the node so many further on follows.
        counts: [N, 2] training molecules of both classes in a leaf.
    """

    def __init__(self, roots: np.ndarray, feature: np.ndarray, skip: np.ndarray, counts: np.ndarray) -> None:
        self.roots = roots.astype(np.int64)
        self.feature = feature
        self.skip = skip.astype(np.int64)
        total = counts.sum(-1, dtype=np.float64)
        self.share = np.divide(counts[:, 1], total, out=np.zeros(len(total)), where=total > 0)

    def __call__(self, bits: np.ndarray) -> float:
        """The probability of the second class."""
        node = self.roots
        while (inner := self.feature[node] >= 0).any():
            node = node + inner * np.where(bits[self.feature[node]], self.skip[node], 1)
        return float(self.share[node].mean())


class Svm:
    """A support vector classifier with an RBF kernel and Platt's sigmoid, as libsvm computes it.

    The decision value is sum_i c_i exp(-gamma |x - v_i|^2) + intercept, the probability of the first class
    1 / (1 + exp(slope * decision + offset)), up to the tolerance of libsvm (`coupled_probability`).

    Args:
        vectors: [N, D] counts.
        coefficients: [N], labels times multipliers.
        intercept: scalar.
        gamma: of the kernel.
        slope, offset: of the sigmoid.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        coefficients: np.ndarray,
        intercept: np.ndarray,
        gamma: np.ndarray,
        slope: np.ndarray,
        offset: np.ndarray,
    ) -> None:
        self.columns = vectors.T.astype(np.float64)
        self.squares = (self.columns**2).sum(0)
        self.coefficients = coefficients
        self.intercept, self.gamma = float(intercept), float(gamma)
        self.slope, self.offset = float(slope), float(offset)

    def __call__(self, counts: np.ndarray) -> float:
        """The probability of the second class."""
        present = counts.nonzero()[0]
        distances = self.squares - 2 * counts[present] @ self.columns[present] + counts @ counts
        decision = float(self.coefficients @ np.exp(-self.gamma * distances)) + self.intercept
        return 1 - coupled_probability(1 / (1 + math.exp(self.slope * decision + self.offset)))


def coupled_probability(pairwise: float) -> float:
    """The probability of the first of two classes that libsvm finds from its pairwise probability.

    With two classes the exact solution is the pairwise probability itself. scikit-learn's copy of libsvm iterates
    from 1/2 and stops within a tolerance, which shifts a probability by up to 0.0025.

    Source: Wu, Lin and Weng (2004), JMLR 5, 975-1005, Algorithm 2: p minimises p'Qp with sum p = 1.
    """
    first = min(max(pairwise, 1e-7), 1 - 1e-7)
    ratio = np.array([1 - first, -first])
    matrix = np.outer(ratio, ratio)
    p = np.array([0.5, 0.5])
    for _ in range(100):
        gradient = matrix @ p
        value = p @ gradient
        if np.abs(gradient - value).max() < 0.005 / 2:
            break
        for t in range(2):
            step = (value - gradient[t]) / matrix[t, t]
            p[t] += step
            value = (value + step * (step * matrix[t, t] + 2 * gradient[t])) / (1 + step) ** 2
            gradient = (gradient + step * matrix[t]) / (1 + step)
            p /= 1 + step
    return float(p[0])


MODELS: dict[str, tuple[type[Forest] | type[Svm], Features]] = {
    "drd2": (Svm, fcfp6_counts),
    "gsk3b": (Forest, ecfp4_bits),
    "jnk3": (Forest, ecfp4_bits),
}


def model_file(name: str) -> Path:
    """The file of a model."""
    return DATA / f"{name}.npz"


def bioactivity(name: str) -> Callable[[Chem.Mol], float]:
    """The probability that a molecule is active, by the model of that name."""
    kind, features = MODELS[name]
    with np.load(model_file(name), allow_pickle=False) as arrays:
        model = kind(**arrays)
    return lambda mol: model(features(mol))
