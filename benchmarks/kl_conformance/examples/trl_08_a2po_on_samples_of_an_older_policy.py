"""A2PO on samples of an older policy."""

from benchmarks.kl_conformance.problem import LADDER, exact_gradients, expected_gradient, random_logits
from benchmarks.kl_conformance.trl_trainers import a2po_loss

policy, reference, old = (random_logits(LADDER, seed) for seed in range(3))
found = expected_gradient(LADDER, a2po_loss, policy, reference, old=old)
expected = exact_gradients(LADDER, policy, reference)["reverse per sequence"]
print("expected", [round(x, 4) for x in expected.flatten().tolist()])
print("found   ", [round(x, 4) for x in found.flatten().tolist()])
