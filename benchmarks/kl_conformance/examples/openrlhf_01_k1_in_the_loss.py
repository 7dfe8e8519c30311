"""k1 in the loss: no gradient."""

import torch
from openrlhf.models.utils import compute_approx_kl

logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
policy, reference = logits.log_softmax(-1), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
loss = (
    policy.exp().detach() * compute_approx_kl(policy, reference, kl_estimator="k1")
).sum()  # mean over tokens of the policy
kl = (policy.exp() * (policy - reference)).sum()  # KL(policy, reference)
found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
expected = torch.autograd.grad(kl, logits)[0]
print("expected", [round(x, 4) for x in expected.flatten().tolist()])
print("found   ", [round(x, 4) for x in found.flatten().tolist()])
