"""Enumerates all outcomes of small policies, all short sequences and all groups, so that expectations are exact."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from core.divergences import DIVERGENCES

ALPHA = 0.4
DIRECTIONS = tuple(DIVERGENCES)
LOSS_DIRECTIONS = tuple(name for name, record in DIVERGENCES.items() if record.loss is not None)


def random_logits(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_logp(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return random_logits(*shape, seed=seed, scale=scale).log_softmax(-1)


def divergence(policy: Tensor, ref: Tensor, direction: str) -> Tensor:
    """E_ref[f(u)], u = policy / ref, from probabilities on the last axis; does not use core.divergences."""
    u = policy / ref
    generators = {
        "reverse": lambda: u * u.log(),
        "forward": lambda: -u.log(),
        "jensen_shannon": lambda: (u * (2 * u / (1 + u)).log() + (2 / (1 + u)).log()) / 2,
        "alpha": lambda: (u**ALPHA - ALPHA * u - (1 - ALPHA)) / (ALPHA * (ALPHA - 1)),
    }
    if direction not in generators:
        raise ValueError(f"tests/core/enumeration.py: divergence() has no formula of {direction}; add f(u)")
    return (ref * generators[direction]()).sum(-1)


def exact_objective(
    policy: Tensor, ref: Tensor, reward: Tensor, beta: float, direction: str, entropy_coef: float = 0.0
) -> Tensor:
    """E_pi[R] - beta D + entropy_coef H(pi), from probabilities on the last axis."""
    entropy = torch.special.entr(policy).sum(-1)
    return (policy * reward).sum(-1) - beta * divergence(policy, ref, direction) + entropy_coef * entropy


# --- sequences of at most three tokens: id 0 ends a completion, 1 and 2 do not ---------------------------

VOCABULARY, LENGTH = 3, 3


@dataclass
class Sequences:
    """All completions, and the table of conditional distributions that their tokens are drawn from.

    Attributes:
        tokens: [S, T] ids.
        mask: [S, T] bool.
        row: [S, T] the row of the table that each token is drawn from.
        prefix_of: the prefix of each row.
    """

    tokens: Tensor
    mask: Tensor
    row: Tensor
    prefix_of: list[tuple[int, ...]]

    def token_logp(self, logits: Tensor) -> Tensor:
        """[P, V] logits of the conditionals -> [S, T]."""
        return logits.log_softmax(-1)[self.row, self.tokens]

    def seq_logp(self, logits: Tensor) -> Tensor:
        return torch.where(self.mask, self.token_logp(logits), 0.0).sum(-1)

    def prefix_probability(self, logits: Tensor) -> Tensor:
        """[P]: the probability that a completion of the policy reaches each prefix."""
        conditional = logits.softmax(-1)
        chance = [torch.ones((), dtype=logits.dtype)]
        for prefix in self.prefix_of[1:]:
            parent = self.prefix_of.index(prefix[:-1])
            chance.append(chance[parent] * conditional[parent, prefix[-1]])
        return torch.stack(chance)


def all_sequences() -> Sequences:
    """All 15 completions: those that end with a 0, and those that are truncated after three tokens."""
    prefixes = [p for n in range(LENGTH) for p in itertools.product(range(1, VOCABULARY), repeat=n)]
    complete = [(*p, 0) for p in prefixes]
    truncated = [(*p, v) for p in prefixes if len(p) == LENGTH - 1 for v in range(1, VOCABULARY)]
    tokens, mask, row = [], [], []
    for sequence in complete + truncated:
        padding = LENGTH - len(sequence)
        tokens.append([*sequence, *[0] * padding])
        mask.append([True] * len(sequence) + [False] * padding)
        row.append([prefixes.index(sequence[:t]) for t in range(len(sequence))] + [0] * padding)
    return Sequences(torch.tensor(tokens), torch.tensor(mask), torch.tensor(row), prefixes)


def token_level_divergence(sequences: Sequences, policy: Tensor, ref: Tensor, direction: str) -> Tensor:
    """sum_t D_t at prefixes drawn from the policy, whose distribution is held fixed; from [P, V] logits."""
    per_prefix = divergence(policy.softmax(-1), ref.softmax(-1), direction)
    return (sequences.prefix_probability(policy).detach() * per_prefix).sum()


# --- groups ----------------------------------------------------------------------------------------------


@cache
def all_groups(outcomes: int, size: int) -> tuple[Tensor, Tensor]:
    """All multisets of `size` outcomes: members [M, G], and the log of the number of orders of each, [M]."""
    members = torch.tensor(list(itertools.combinations_with_replacement(range(outcomes), size)))
    counts = torch.nn.functional.one_hot(members, outcomes).sum(1).double()
    log_orders = torch.lgamma(torch.tensor(size + 1.0).double()) - torch.lgamma(counts + 1).sum(-1)
    return members, log_orders


def expected_group_gradient(
    loss: Callable[[Tensor], Tensor], policy_logp: Tensor, log_chance: Tensor, parameters: Tensor
) -> Tensor:
    """Sum of probability * grad loss(group) over all groups.

    Args:
        loss: takes policy_logp [M, G, ...] and returns the mean over the M groups, as every loss of core does.
        policy_logp: [M, G, ...], with gradient to `parameters`.
        log_chance: [M] log-probability of each group.
        parameters: what to differentiate with respect to.
    """
    leaf = policy_logp.detach().requires_grad_()
    (coefficient,) = torch.autograd.grad(loss(leaf), leaf)
    chance = log_chance.detach().exp().reshape(-1, *[1] * (leaf.dim() - 1))
    surrogate = (len(leaf) * chance * coefficient * policy_logp).sum()
    return torch.autograd.grad(surrogate, parameters)[0]


def one_token_gradient(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, size: int) -> Tensor:
    """Expected gradient with completions of one token: loss(members [M, G], policy_logp [M, G]), logits [A]."""
    parameters = logits.detach().requires_grad_()
    logp = parameters.log_softmax(-1)
    members, log_orders = all_groups(len(logits), size)
    log_chance = log_orders + logp[members].sum(-1)
    return expected_group_gradient(lambda leaf: loss(members, leaf), logp[members], log_chance, parameters)


def follow_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], start: Tensor, *, size: int, rate: float, steps: int
) -> Tensor:
    """Follow the expected natural gradient of the loss from the logits `start`; return the [A] probabilities."""
    logits = start.double()
    for _ in range(steps):
        gradient = one_token_gradient(loss, logits, size)
        step = -rate * gradient / logits.softmax(-1).clamp_min(1e-300)
        logits = (logits + step.clamp(-1, 1)).log_softmax(-1)
    return logits.softmax(-1)
