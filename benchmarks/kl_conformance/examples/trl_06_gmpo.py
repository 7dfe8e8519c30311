"""GMPO: divided by length, and near the forward KL."""

from benchmarks.kl_conformance.problem import LADDER, exact_gradients, expected_gradient, random_logits
from benchmarks.kl_conformance.trl_trainers import gmpo_loss

policy, reference, old = (random_logits(LADDER, seed) for seed in range(3))
found = expected_gradient(LADDER, gmpo_loss, policy, reference)
expected = exact_gradients(LADDER, policy, reference)["reverse per token"]
print("expected", [round(x, 4) for x in expected.flatten().tolist()])
print("found   ", [round(x, 4) for x in found.flatten().tolist()])
