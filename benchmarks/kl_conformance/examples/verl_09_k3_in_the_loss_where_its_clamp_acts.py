"""k3 in the loss where its clamp acts: not the forward KL either."""

import torch
from verl.trainer.ppo.core_algos import kl_penalty

logits = torch.tensor([0.9, 0.04, 0.06], dtype=torch.float64).log().requires_grad_()
policy, reference = logits.log_softmax(-1), torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64).log()
loss = (policy.exp().detach() * kl_penalty(policy, reference, "k3")).sum()  # mean over tokens of the policy
kl = (reference.exp() * (reference - policy)).sum()  # KL(reference, policy)
found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
expected = torch.autograd.grad(kl, logits)[0]
print("expected", [round(x, 4) for x in expected.flatten().tolist()])
print("found   ", [round(x, 4) for x in found.flatten().tolist()])
