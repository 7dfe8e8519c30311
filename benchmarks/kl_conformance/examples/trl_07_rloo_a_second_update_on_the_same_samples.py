"""RLOO, a second update on the same samples."""

from benchmarks.kl_conformance.problem import LADDER, exact_gradients, expected_gradient, random_logits
from benchmarks.kl_conformance.trl_trainers import rloo_loss

policy, reference, old = (random_logits(LADDER, seed) for seed in range(3))
found = expected_gradient(LADDER, rloo_loss, policy, reference, old=old, group=2)
expected = exact_gradients(LADDER, policy, reference)["reverse per sequence"]
print("expected", [round(x, 4) for x in expected.flatten().tolist()])
print("found   ", [round(x, 4) for x in found.flatten().tolist()])
