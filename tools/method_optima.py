"""Compute the policy that each method converges to, without sampling noise, for the table of docs/methods.md.

There are three good answers, which are likely, less likely and rare under the reference, and a bad one. All groups of
eight are enumerated, and the expected natural gradient is followed from the reference until the policy settles.

    python -m tools.method_optima
"""

from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import Tensor

from conf.schema.llm import LlmConfig
from core.classes import GroupFacts, Masses
from core.mara import Anchor
from core.objective import Objective, make_objective
from core.transforms import class_diversity
from launch.cli.groups import options
from launch.cli.validation import register
from tools.anchor_bias import SEQUENCES, all_groups

GROUP, BETA, STEPS = 8, 0.03, 1000
RATE, MAX_STEP = 0.3 / BETA, 0.05  # learning rate, and largest change of a log-probability in a step


def objective_of(method: str) -> Objective:
    """The objective of `python -m llm method=METHOD`."""
    register("llm")
    overrides = [f"method={method}", f"objective.beta={BETA}", f"group_size={GROUP}", "transform.threshold.value=1"]
    with initialize_config_module("conf.llm", version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides=overrides))
    assert isinstance(config, LlmConfig)
    return make_objective(**config.objective_arguments())


def anchor_of_all(facts: GroupFacts) -> Masses:
    """The anchor that is remembered in the end: the likeliest good outcome. Each outcome is an answer of its own."""
    return Masses(None, Anchor(torch.ones(()).double(), SEQUENCES.ref_logp[0]))


def gradient(objective: Objective, logits: Tensor) -> Tensor:
    """[A] gradient of the expected loss over all groups of completions, each of one token."""
    reward, ref_logp = SEQUENCES.reward, SEQUENCES.ref_logp
    parameters = logits.detach().requires_grad_()
    logp = parameters.log_softmax(-1)
    members, _, log_orders = all_groups(len(reward), GROUP)
    probability = (log_orders + logp[members].sum(-1)).detach().exp()
    leaf = logp[members].detach().unsqueeze(-1).requires_grad_()
    mask = torch.ones_like(leaf, dtype=torch.bool)
    loss, _ = objective.loss(
        reward[members],
        leaf,
        ref_logp[members].unsqueeze(-1),
        mask,
        beta=BETA,
        diversity=class_diversity(members).double(),
        masses=anchor_of_all,
    )
    (coefficient,) = torch.autograd.grad(loss, leaf)
    total = (len(members) * probability.unsqueeze(-1) * coefficient.squeeze(-1) * logp[members]).sum()
    if objective.placement == "reference":
        for y, ref_probability in enumerate(ref_logp.exp()):
            policy_logp, reference_logp = logp[y].reshape(1, 1), ref_logp[y].reshape(1, 1)
            inputs: dict[str, Any] = {}
            if "masses" in objective.transform_inputs:
                inputs = {"reward": reward[y].reshape(1), "masses": anchor_of_all}
            loss, _ = objective.reference_loss(policy_logp, reference_logp, mask[0, :1], beta=BETA, **inputs)
            total = total + ref_probability * loss
    return torch.autograd.grad(total, parameters)[0]


def settle(objective: Objective) -> tuple[Tensor, float]:
    """[A] final probabilities, and their largest change in the last tenth of the steps."""
    ref_logp = SEQUENCES.ref_logp
    logits, earlier = ref_logp, ref_logp
    for step in range(STEPS):
        if step == STEPS * 9 // 10:
            earlier = logits
        move = -RATE * gradient(objective, logits) / logits.softmax(-1).clamp_min(1e-200)
        logits = (logits + move.clamp(-MAX_STEP, MAX_STEP)).log_softmax(-1)
    return logits.exp(), float((logits.exp() - earlier.exp()).abs().max())


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    ref_logp = SEQUENCES.ref_logp
    header = f"{'method':<24}{'likely':>8}{'less':>8}{'rare':>8}{'bad':>8}{'moved':>10}"
    print(header)
    print(f"{'the reference':<24}" + "".join(f"{p:8.3f}" for p in ref_logp.exp().tolist()))
    for method in options("llm", "method"):
        policy, moved = settle(objective_of(method))
        print(f"{method:<24}" + "".join(f"{p:8.3f}" for p in policy.tolist()) + f"{moved:10.1e}", flush=True)


if __name__ == "__main__":
    main()
