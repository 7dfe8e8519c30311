"""Compute how far MARA's fixed point is from uniform when each group chooses its own anchor, for docs/mara.md.

All groups of size G are enumerated as counts of their outcomes, so nothing is sampled. A policy is at a fixed point
if the expected advantage of a sample, given its outcome, is the same for every outcome.

    python -m tools.anchor_bias
"""

import itertools
from functools import cache

import torch
from scipy.optimize import root
from torch import Tensor

from core.advantages import leave_one_out
from core.divergences import find_divergence
from core.targets import forward_kl_target, reverse_kl_target
from core.transforms import mara

REFERENCE = (0.55, 0.15, 0.05, 0.25)
REWARD = (1.0, 1.0, 1.0, 0.0)  # the first three are good
SIZES = (2, 4, 8, 16)
BETAS = (0.01, 0.03, 0.1, 0.3, 1.0)


def outcomes() -> tuple[Tensor, Tensor]:
    """The reward and the reference log-probability of each outcome, [A]."""
    return torch.tensor(REWARD, dtype=torch.float64), torch.tensor(REFERENCE, dtype=torch.float64).log()


@cache
def all_groups(kinds: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """All multisets of `size` out of `kinds` outcomes: members [M, G], counts [M, A], log number of orders [M]."""
    members = torch.tensor(list(itertools.combinations_with_replacement(range(kinds), size)))
    counts = torch.nn.functional.one_hot(members, kinds).sum(1).double()
    log_orders = torch.lgamma(torch.tensor(size + 1.0).double()) - torch.lgamma(counts + 1).sum(-1)
    return members, counts, log_orders


def advantage_given_outcome(logp: Tensor, size: int, beta: float, direction: str) -> Tensor:
    """[A] expected leave-one-out advantage of a sample given its outcome, over all groups drawn from the policy."""
    reward, ref_logp = outcomes()
    members, counts, log_orders = all_groups(len(REWARD), size)
    shaped, ref = mara(reward[members], ref_logp[members], beta=beta, threshold=1.0, direction=direction)
    shaped = shaped - beta * find_divergence(direction).form("reward")(logp[members], ref)
    advantage = torch.zeros_like(counts).scatter_add(-1, members, leave_one_out(shaped))
    # Probability of a group given that one of its members has the outcome, in logs because it may underflow.
    log_prob = (log_orders + counts @ logp).unsqueeze(-1) - logp
    return (log_prob.exp() * advantage / size).sum(0)


def fixed_point(size: int, beta: float, direction: str) -> Tensor:
    """[A] the policy at which MARA's expected gradient is zero.

    Raises:
        RuntimeError: the solver does not converge.
    """

    def log_policy(logits: Tensor) -> Tensor:
        return torch.cat([logits, torch.zeros(1)]).double().log_softmax(-1)

    def spread(logits: object) -> object:
        advantage = advantage_given_outcome(log_policy(torch.as_tensor(logits)), size, beta, direction)
        return ((advantage - advantage[-1]) / beta)[:-1].numpy()

    target = reverse_kl_target if direction == "reverse" else forward_kl_target
    reward, ref_logp = outcomes()
    augmented, ref_logp = mara(reward, ref_logp, beta=beta, threshold=1.0, direction=direction)
    start = target(ref_logp, augmented, beta)  # the target if the anchor is chosen over all outcomes
    solution = root(spread, (start - start[-1])[:-1].numpy(), tol=1e-12)
    if abs(solution.fun).max() > 1e-9:
        raise RuntimeError(f"no fixed point for G={size}, beta={beta}, {direction} KL: {solution.message}")
    return log_policy(torch.as_tensor(solution.x)).exp()


def bias(size: int, beta: float, direction: str) -> float:
    """The largest deviation of a good outcome's probability from their mean."""
    good = fixed_point(size, beta, direction)[torch.tensor(REWARD) >= 1]
    return float((good - good.mean()).abs().max())


def format_bias(value: float) -> str:
    """A bias for the table, 0 if it is within rounding errors."""
    return "0" if value < 1e-12 else f"{value:.1e}"


def main() -> None:
    """Print the table."""
    print(f"reference {REFERENCE}, reward {REWARD}, leave-one-out advantages, KL in the reward")
    print("bias = max over good outcomes of |p - equal share|")
    for direction, algorithm in (("reverse", 1), ("forward", 2)):
        print(f"\nAlgorithm {algorithm}, {direction} KL")
        print("beta " + "".join(f"{f'G={size}':>10}" for size in SIZES))
        for beta in BETAS:
            print(f"{beta:<5g}" + "".join(f"{format_bias(bias(size, beta, direction)):>10}" for size in SIZES))


if __name__ == "__main__":
    main()
