"""GRPO with the weight of the sequence."""

from functools import partial

from benchmarks.kl_conformance.problem import LADDER, exact_gradients, expected_gradient, random_logits
from benchmarks.kl_conformance.trl_trainers import grpo_loss

policy, reference, old = (random_logits(LADDER, seed) for seed in range(3))
found = expected_gradient(
    LADDER,
    partial(grpo_loss, loss_type="luspo", use_bias_correction_kl=True, importance_sampling_level="sequence"),
    policy,
    reference,
)
expected = exact_gradients(LADDER, policy, reference)["reverse per token"]
print("expected", [round(x, 4) for x in expected.flatten().tolist()])
print("found   ", [round(x, 4) for x in found.flatten().tolist()])
