"""The minima of Figure 1, against moments and a plain sum over a grid."""

import math

import pytest
import torch

from core.divergences import exact_forward_kl, exact_reverse_kl
from didactic.gaussian import forward_kl, minimisers, normal_logp, reverse_kl, target_moments
from didactic.problems import bimodal_logp


def test_the_forward_minimiser_has_the_moments_of_the_target():
    exact = target_moments()
    (forward,) = minimisers("forward")
    assert forward["mean"] == pytest.approx(exact["mean"], abs=1e-4)
    assert forward["std"] == pytest.approx(exact["std"], abs=1e-4)
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    target = bimodal_logp(x).softmax(-1)
    mean = float((target * x).sum())
    assert exact["mean"] == pytest.approx(mean, abs=1e-6)
    assert exact["std"] == pytest.approx(float((target * (x - mean) ** 2).sum().sqrt()), abs=1e-6)


def test_the_reverse_minimiser_seeks_a_mode():
    exact = target_moments()
    best, *others = minimisers("reverse")
    for mean, std in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        assert reverse_kl(best["mean"] + mean, best["std"] + std) > best["objective_nats"]
    assert best["objective_nats"] < reverse_kl(exact["mean"], exact["std"])
    assert forward_kl(exact["mean"], exact["std"]) < forward_kl(best["mean"], best["std"])  # the other one covers
    assert all(other["objective_nats"] > best["objective_nats"] for other in others)
    assert others  # the smaller mode is a local minimum


def test_the_divergences_are_sums_over_a_fine_grid():
    x = torch.linspace(-14, 14, 20001, dtype=torch.float64)
    q = torch.distributions.Normal(0.3, 1.2).log_prob(x)
    log_spacing = math.log(28 / 20000)
    p = bimodal_logp(x)
    assert reverse_kl(0.3, 1.2) == pytest.approx(float(exact_reverse_kl(q + log_spacing, p + log_spacing)), abs=1e-6)
    assert forward_kl(0.3, 1.2) == pytest.approx(float(exact_forward_kl(q + log_spacing, p + log_spacing)), abs=1e-6)
    assert normal_logp(x.numpy(), 0.3, 1.2).tolist() == pytest.approx(q.tolist())


def test_an_entropy_bonus_widens_the_minimum():
    plain, wide = (minimisers("reverse", weight)[0] for weight in (0.0, 0.3))
    assert wide["std"] > plain["std"] + 0.05
