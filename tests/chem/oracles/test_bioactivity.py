"""The classifiers of PMO: known values of the shipped ones, and a small one that scikit-learn trains."""

import math

import numpy as np
import pytest
from rdkit import Chem

from chem.oracles.bioactivity import MODELS, Svm, bioactivity, coupled_probability, fcfp6_counts

KNOWN = {  # of predict_proba of the pickled models in scikit-learn 0.21.3
    "drd2": {"O=C(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1": 0.9999993745656254, "CCO": 0.005215657676740005},
    "gsk3b": {"O=C1NC(=O)C(c2c[nH]c3ccccc23)=C1c1c[nH]c2ccccc12": 0.97, "CCO": 0.0},
    "jnk3": {"O=C1c2ccccc2-c2n[nH]c3cccc1c23": 0.67, "CCO": 0.0},
}


@pytest.mark.parametrize("name", MODELS)
def test_known_values(name):
    probability = bioactivity(name)
    for smiles, expected in KNOWN[name].items():
        assert probability(Chem.MolFromSmiles(smiles)) == pytest.approx(expected, rel=0, abs=1e-12)


def test_counts_are_counted():
    """A chain has more of the same environments than its half."""
    assert fcfp6_counts(Chem.MolFromSmiles("C" * 20)).max() > fcfp6_counts(Chem.MolFromSmiles("C" * 10)).max() > 1


def test_two_classes_are_coupled_within_a_tolerance():
    shares = np.linspace(0, 1, 101)
    errors = [abs(coupled_probability(share) - share) for share in shares]
    assert 1e-4 < max(errors) < 0.005  # the iteration stops early: exact values would differ from scikit-learn's


@pytest.mark.long  # importing scikit-learn takes seconds
def test_the_svm_is_that_of_scikit_learn():
    svm = pytest.importorskip("sklearn.svm", reason="needs scikit-learn")
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 4, (80, 12)).astype(float)
    labels = (counts[:, 0] + counts[:, 1] > 3).astype(int)
    trained = svm.SVC(gamma=0.1).fit(counts, labels)
    model = Svm(
        trained.support_vectors_.astype(np.uint8),
        trained._dual_coef_[0],
        trained._intercept_[0],
        np.float64(0.1),
        np.float64(-1),
        np.float64(0),
    )
    decisions = -trained.decision_function(counts)  # scikit-learn turns the sign for two classes
    for row, decision in zip(counts, decisions, strict=True):
        expected = 1 - coupled_probability(1 / (1 + math.exp(-decision)))
        assert model(row) == pytest.approx(expected, abs=1e-12)
