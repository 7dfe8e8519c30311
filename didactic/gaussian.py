"""The optimal Gaussians of Figure 1, found without the training code, with another quadrature and optimiser."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import fixed_quad
from scipy.optimize import minimize

from didactic.problems import BIMODAL, bimodal_logp

EDGE, NODES = 12.0, 400  # Gauss-Legendre over [-12, 12]

Array = NDArray[np.float64]


def target_logp(x: Array) -> Array:
    """Log-density of Figure 1's target."""
    return bimodal_logp(torch.from_numpy(x)).numpy()


def normal_logp(x: Array, mean: float, std: float) -> Array:
    """Log-density of a Gaussian."""
    return -(((x - mean) / std) ** 2) / 2 - math.log(std) - math.log(2 * math.pi) / 2


def reverse_kl(mean: float, std: float) -> float:
    """KL(q || p) of a Gaussian q and Figure 1's target p, nats."""

    def integrand(x: Array) -> Array:
        q = normal_logp(x, mean, std)
        return np.exp(q) * (q - target_logp(x))

    return float(fixed_quad(integrand, -EDGE, EDGE, n=NODES)[0])


def forward_kl(mean: float, std: float) -> float:
    """KL(p || q) of Figure 1's target p and a Gaussian q, nats."""

    def integrand(x: Array) -> Array:
        p = target_logp(x)
        return np.exp(p) * (p - normal_logp(x, mean, std))

    return float(fixed_quad(integrand, -EDGE, EDGE, n=NODES)[0])


DIVERGENCES: dict[str, Callable[[float, float], float]] = {"reverse": reverse_kl, "forward": forward_kl}


def minimisers(direction: str, entropy_weight: float = 0.0) -> list[dict[str, float]]:
    """Local minima of divergence - entropy_weight H(q) over mean and standard deviation, the lowest first.

    Found with Nelder-Mead, started from each component of the target and from the moments of the whole target.
    """

    def loss(parameters: Array) -> float:
        mean, log_std = map(float, parameters)
        entropy = log_std + math.log(2 * math.pi * math.e) / 2
        return DIVERGENCES[direction](mean, math.exp(log_std)) - entropy_weight * entropy

    whole = target_moments()
    starts = [(mean, std) for _, mean, std in BIMODAL] + [(whole["mean"], whole["std"])]
    options = {"xatol": 1e-6, "fatol": 1e-12}
    results = [minimize(loss, [mean, math.log(std)], method="Nelder-Mead", options=options) for mean, std in starts]
    results.sort(key=lambda result: result.fun)
    distinct: list[dict[str, float]] = []
    for result in results:
        mean, std = float(result.x[0]), math.exp(result.x[1])
        if all(abs(mean - other["mean"]) + abs(std - other["std"]) > 1e-3 for other in distinct):
            distinct.append({"mean": mean, "std": std, "objective_nats": float(result.fun)})
    return distinct


def target_moments() -> dict[str, float]:
    """Mean and standard deviation of the target, and so of the Gaussian q that minimises KL(p || q)."""
    mean = sum(weight * m for weight, m, _ in BIMODAL)
    variance = sum(weight * (s**2 + (m - mean) ** 2) for weight, m, s in BIMODAL)
    return {"mean": mean, "std": math.sqrt(variance)}
