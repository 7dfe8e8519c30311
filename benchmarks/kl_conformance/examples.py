"""Minimal examples of settings whose gradient is not what their name says, as programs of a few lines."""

import contextlib
import io
from dataclasses import dataclass

ONE_TOKEN = """\
import torch
{imports}

logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
policy, reference = logits.log_softmax(-1), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
{loss}
{kl}
found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
expected = torch.autograd.grad(kl, logits)[0]
"""
KL = "kl = (policy.exp() * (policy - reference)).sum()  # KL(policy, reference)"
IN_LOSS = "loss = (policy.exp().detach() * {term}).sum()  # mean over tokens of the policy"
IN_REWARD = "loss = (policy.exp() * {term}.detach()).sum()  # its gradient is that of REINFORCE"
SEQUENCES = """\
from functools import partial

from benchmarks.kl_conformance.problem import LADDER, exact_gradients, expected_gradient, random_logits
from benchmarks.kl_conformance.trl_trainers import {function}

policy, reference, old = (random_logits(LADDER, seed) for seed in range(3))
found = expected_gradient(LADDER, {loss}, policy, reference{options})
expected = exact_gradients(LADDER, policy, reference{exact})["{name}"]
"""
PRINT = """\
print("expected", [round(x, 4) for x in expected.flatten().tolist()])
print("found   ", [round(x, 4) for x in found.flatten().tolist()])
"""


@dataclass(frozen=True)
class Example:
    """A program that prints the expected and the found gradient.

    Attributes:
        trainer: the package that it imports.
        title: what it shows.
        code: the program; it sets `expected` and `found`.
    """

    trainer: str
    title: str
    code: str

    def run(self) -> tuple[dict[str, object], str]:
        """Run the program; the trainer must be importable. Returns its variables and what it prints."""
        variables: dict[str, object] = {}
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(self.code, self.title, "exec"), variables)
        return variables, out.getvalue()


def _verl(title: str, kind: str, form: str) -> Example:
    imports = "from verl.trainer.ppo.core_algos import kl_penalty"
    loss = form.format(term=f'kl_penalty(policy, reference, "{kind}")')
    return Example("verl", title, ONE_TOKEN.format(imports=imports, loss=loss, kl=KL) + PRINT)


def _openrlhf(title: str, kind: str, form: str) -> Example:
    imports = "from openrlhf.models.utils import compute_approx_kl"
    loss = form.format(term=f'compute_approx_kl(policy, reference, kl_estimator="{kind}")')
    return Example("openrlhf", title, ONE_TOKEN.format(imports=imports, loss=loss, kl=KL) + PRINT)


def _grpo(title: str, loss_type: str, correction: bool, level: str, *, name: str, options: str = "") -> Example:
    loss = (
        f'partial(\n    grpo_loss, loss_type="{loss_type}", use_bias_correction_kl={correction}, '
        f'importance_sampling_level="{level}"\n)'
    )
    code = SEQUENCES.format(function="grpo_loss", loss=loss, options=options, exact="", name=name)
    return Example("trl", title, code + PRINT)


def _trl(title: str, function: str, *, name: str, options: str = "", exact: str = "") -> Example:
    code = SEQUENCES.format(function=function, loss=function, options=options, exact=exact, name=name)
    return Example("trl", title, code.removeprefix("from functools import partial\n\n") + PRINT)


CLAMPED = """\
import torch
{imports}

logits = torch.tensor([0.9, {small}, {rest}], dtype=torch.float64).log().requires_grad_()
policy, reference = logits.log_softmax(-1), torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64).log()
loss = (policy.exp().detach() * {term}).sum()  # mean over tokens of the policy
kl = {kl}
found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
expected = torch.autograd.grad(kl, logits)[0]
"""
FORWARD = "(reference.exp() * (reference - policy)).sum()  # KL(reference, policy)"
REVERSE = KL.removeprefix("kl = ")

EXAMPLES = [
    _grpo("GRPO without the correction: the forward KL", "luspo", False, "token", name="reverse per token"),
    _grpo("GRPO with the correction, divided by length", "grpo", True, "token", name="reverse per token"),
    _grpo(
        *("GRPO with the correction, divided by the tokens of a small batch", "bnpo", True, "token"),
        name="reverse per token",
        options=", group=2, coupled=True",
    ),
    _grpo("GRPO with the weight of the sequence", "luspo", True, "sequence", name="reverse per token"),
    _grpo(
        "GRPO with the correction: of tokens, not of sequences", "luspo", True, "token", name="reverse per sequence"
    ),
    _trl("GMPO: divided by length, and near the forward KL", "gmpo_loss", name="reverse per token"),
    _trl(
        "RLOO, a second update on the same samples",
        "rloo_loss",
        name="reverse per sequence",
        options=", old=old, group=2",
    ),
    _trl("A2PO on samples of an older policy", "a2po_loss", name="reverse per sequence", options=", old=old"),
    _verl("k1 in the loss: no gradient", "k1", IN_LOSS),
    _verl("abs in the loss: the total variation", "abs", IN_LOSS),
    _verl("k3 in the loss: the forward KL", "k3", IN_LOSS),
    _verl("k2 in the reward: no divergence", "k2", IN_REWARD),
    _verl("abs in the reward: no divergence", "abs", IN_REWARD),
    _verl("k3 in the reward: no divergence", "k3", IN_REWARD),
    _verl("k3+ in the reward: the same as k3", "k3+", IN_REWARD),
    Example(
        "verl",
        "k3+ in the loss on samples of an older policy",
        ONE_TOKEN.format(
            imports="from verl.trainer.ppo.core_algos import kl_penalty",
            loss="old = torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64)\n"
            'loss = (old * kl_penalty(policy, reference, "k3+")).sum()  # mean over tokens of the old policy',
            kl=KL,
        )
        + PRINT,
    ),
    Example(
        "verl",
        "k3 in the loss where its clamp acts: not the forward KL either",
        CLAMPED.format(
            imports="from verl.trainer.ppo.core_algos import kl_penalty",
            term='kl_penalty(policy, reference, "k3")',
            small=0.04,
            rest=0.06,
            kl=FORWARD,
        )
        + PRINT,
    ),
    _openrlhf("k1 in the loss: no gradient", "k1", IN_LOSS),
    _openrlhf("k3 in the loss: the forward KL", "k3", IN_LOSS),
    _openrlhf("k2 in the reward: no divergence", "k2", IN_REWARD),
    _openrlhf("k3 in the reward: no divergence", "k3", IN_REWARD),
    Example(
        "openrlhf",
        "k2 in the loss on samples of an older policy",
        ONE_TOKEN.format(
            imports="from openrlhf.models.utils import compute_approx_kl",
            loss="old = torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64)\n"
            'kl2 = compute_approx_kl(policy, reference, old.log(), kl_estimator="k2")\n'
            "loss = (old * kl2).sum()  # mean over tokens of the old policy",
            kl=KL,
        )
        + PRINT,
    ),
    Example(
        "openrlhf",
        "k2 in the loss where its clamp acts",
        CLAMPED.format(
            imports="from openrlhf.models.utils import compute_approx_kl",
            term='compute_approx_kl(policy, reference, kl_estimator="k2")',
            small=0.004,
            rest=0.096,
            kl=REVERSE,
        )
        + PRINT,
    ),
]
