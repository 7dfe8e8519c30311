"""Small tabular policies over sequences, all completions of which are enumerated, and what is exact on them."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from core.divergences import exact_forward_kl, exact_reverse_kl
from core.targets import forward_kl_target, reverse_kl_target

END = 0  # the token that ends a completion
RATE, MAX_MOVE, STEPS, HALVING = 0.4, 0.3, 800, 8  # of `settle`: learning rate, largest change of a logit, steps


class Batch(NamedTuple):
    """What a trainer is given: B completions, N consecutive ones per prompt, and log-probabilities in nats.

    Attributes:
        tokens: [B, T] ids.
        mask: [B, T] bool, True on completion tokens, the end included.
        policy_logp: [B, T] under the policy that is updated, with gradient.
        old_logp: [B, T] under the policy that sampled.
        ref_logp: [B, T] under the reference.
        reward: [B].
        advantage: [B] reward minus its mean over the policy that sampled.
        beta: coefficient of the KL term.
        group: N.
        mean_length: mean number of tokens of a completion.
        value: [B] beta log E_ref exp(reward / beta), for methods that regress on it.
    """

    tokens: Tensor
    mask: Tensor
    policy_logp: Tensor
    old_logp: Tensor
    ref_logp: Tensor
    reward: Tensor
    advantage: Tensor
    beta: float
    group: int
    mean_length: float
    value: Tensor


Loss = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Sequences:
    """All completions of at most T tokens from a vocabulary, and the table of conditionals that they are drawn from.

    Attributes:
        tokens: [S, T] ids.
        mask: [S, T] bool.
        row: [S, T] the row of the table that each token is drawn from.
        prefixes: the prefix of each row.
        vocabulary: number of tokens, the end included.
    """

    tokens: Tensor
    mask: Tensor
    row: Tensor
    prefixes: list[tuple[int, ...]]
    vocabulary: int

    def token_logp(self, logits: Tensor) -> Tensor:
        """[P, V] logits -> [S, T] log-probabilities of the tokens, 0 after the end."""
        return torch.where(self.mask, logits.log_softmax(-1)[self.row, self.tokens], 0.0)

    def seq_logp(self, logits: Tensor) -> Tensor:
        """[P, V] logits -> [S] log-probabilities of the completions."""
        return self.token_logp(logits).sum(-1)

    def prefix_chance(self, logits: Tensor) -> Tensor:
        """[P, V] logits -> [P] probability that a completion begins with each prefix."""
        conditional = logits.softmax(-1)
        chance = [torch.ones((), dtype=logits.dtype)]
        for prefix in self.prefixes[1:]:
            parent = self.prefixes.index(prefix[:-1])
            chance.append(chance[parent] * conditional[parent, prefix[-1]])
        return torch.stack(chance)


@cache
def all_sequences(vocabulary: int, length: int) -> Sequences:
    """Enumerate the completions: those that end with END, and those that are cut off after `length` tokens."""
    words = range(1, vocabulary)
    prefixes = [p for n in range(length) for p in itertools.product(words, repeat=n)]
    complete = [*((*p, END) for p in prefixes), *itertools.product(words, repeat=length)]
    tokens, mask, row = [], [], []
    for completion in complete:
        padding = length - len(completion)
        tokens.append([*completion, *[END] * padding])
        mask.append([True] * len(completion) + [False] * padding)
        row.append([prefixes.index(completion[:t]) for t in range(len(completion))] + [0] * padding)
    return Sequences(torch.tensor(tokens), torch.tensor(mask), torch.tensor(row), prefixes, vocabulary)


def random_logits(sequences: Sequences, seed: int, scale: float = 1.0) -> Tensor:
    """[P, V] float64 logits of a policy."""
    shape = len(sequences.prefixes), sequences.vocabulary
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- exact gradients ---------------------------------------------------------------------------------------

TOKEN, SEQUENCE = "per token", "per sequence"
DIRECTIONS = ("reverse", "forward")
DIVERGENCES = tuple(f"{direction} {level}" for level in (TOKEN, SEQUENCE) for direction in DIRECTIONS)
VARIATION = f"2 x total variation {TOKEN}"
DIFFERENCE = f"reverse {SEQUENCE} minus forward {TOKEN}"
AT_OLD = ", at prefixes of the old policy"
ZERO = "zero"


def exact_gradients(
    sequences: Sequences, policy: Tensor, ref: Tensor, old: Tensor | None = None
) -> dict[str, Tensor]:
    """[P, V] exact gradients with respect to the policy's logits, by name.

    Per token is sum_t D_t at prefixes that the policy draws and whose distribution is held fixed; per sequence is the
    divergence between the distributions of completions. With `old`, the divergences per token are also given at
    prefixes that this policy draws. Twice the total variation, sum |pi - ref|, has f' = sign(log u). The difference
    of two divergences is for k3 in the reward, whose detached value is log u + 1 / u - 1.

    Args:
        sequences: the completions.
        policy: [P, V] logits.
        ref: [P, V] logits of the reference.
        old: [P, V] logits of the policy that samples.
    """
    logits = policy.detach().requires_grad_()
    conditional, ref_conditional = logits.log_softmax(-1), ref.log_softmax(-1)
    per_prefix = {
        f"reverse {TOKEN}": exact_reverse_kl(conditional, ref_conditional),
        f"forward {TOKEN}": exact_forward_kl(conditional, ref_conditional),
        VARIATION: (conditional.exp() - ref_conditional.exp()).abs().sum(-1),
    }
    values = {name: (sequences.prefix_chance(policy) * value).sum() for name, value in per_prefix.items()}
    whole, ref_whole = sequences.seq_logp(logits), sequences.seq_logp(ref)
    values[f"reverse {SEQUENCE}"] = exact_reverse_kl(whole, ref_whole)
    values[f"forward {SEQUENCE}"] = exact_forward_kl(whole, ref_whole)
    values[DIFFERENCE] = values[f"reverse {SEQUENCE}"] - values[f"forward {TOKEN}"]
    if old is not None:
        at_old = sequences.prefix_chance(old)
        values |= {name + AT_OLD: (at_old * value).sum() for name, value in per_prefix.items()}
    return {name: torch.autograd.grad(value, logits, retain_graph=True)[0] for name, value in values.items()}


# --- expected gradients ------------------------------------------------------------------------------------


@cache
def all_groups(outcomes: int, size: int) -> tuple[Tensor, Tensor]:
    """All multisets of `size` outcomes: members [M, size], and the log of the number of orders of each, [M]."""
    members = torch.tensor(list(itertools.combinations_with_replacement(range(outcomes), size)))
    counts = torch.nn.functional.one_hot(members, outcomes).sum(1).double()
    return members, math.lgamma(size + 1) - torch.lgamma(counts + 1).sum(-1)


def expected_gradient(
    sequences: Sequences,
    loss: Loss,
    policy: Tensor,
    ref: Tensor,
    *,
    old: Tensor | None = None,
    reward: Tensor | None = None,
    beta: float = 1.0,
    group: int = 1,
    coupled: bool = False,
) -> Tensor:
    """[P, V] mean over all groups of completions of the gradient of a trainer's loss.

    Args:
        sequences: the completions.
        loss: of a batch of completions, which is a mean over its groups.
        policy: [P, V] logits of the policy that is updated.
        ref: [P, V] logits of the reference.
        old: [P, V] logits of the policy that samples; None: `policy`.
        reward: [S]; None: 0, so that the KL term is alone.
        beta: coefficient of the KL term.
        group: number of completions of a group, which are drawn independently.
        coupled: whether the loss of a group depends on the other groups of its batch; it is then called per group.
    """
    logits = policy.detach().requires_grad_()
    old = policy if old is None else old
    reward = torch.zeros(len(sequences.tokens), dtype=policy.dtype) if reward is None else reward
    old_logp, old_seq_logp = sequences.token_logp(old), sequences.seq_logp(old)
    mean_reward = (old_seq_logp.exp() * reward).sum()
    value = beta * (sequences.seq_logp(ref) + reward / beta).logsumexp(-1)
    mean_length = float((old_seq_logp.exp() * sequences.mask.sum(-1)).sum())
    members, log_orders = all_groups(len(sequences.tokens), group)
    chance = (log_orders + old_seq_logp[members].sum(-1)).exp()
    policy_logp, ref_logp = sequences.token_logp(logits), sequences.token_logp(ref)

    def coefficients(rows: Tensor) -> Tensor:
        """[B, T] gradient of the loss of the completions `rows` [B] with respect to their log-probabilities."""
        leaf = policy_logp[rows].detach().requires_grad_()
        columns = sequences.tokens[rows], sequences.mask[rows], leaf, old_logp[rows], ref_logp[rows], reward[rows]
        advantage = reward[rows] - mean_reward
        batch = Batch(*columns, advantage, beta, group, mean_length, value.expand(len(rows)))
        return torch.autograd.grad(loss(batch), leaf)[0]

    if coupled:
        coefficient = torch.stack([coefficients(rows) for rows in members])
    else:
        coefficient = coefficients(members.flatten()).reshape(*members.shape, -1) * len(members)
    surrogate = (chance[:, None, None] * coefficient * policy_logp[members]).sum()
    return torch.autograd.grad(surrogate, logits)[0]


# --- optima ------------------------------------------------------------------------------------------------

LADDER = all_sequences(2, 3)  # the completions END, 1 END, 1 1 END and 1 1 1
LADDER_REFERENCE = torch.tensor([0.25, 0.45, 0.10, 0.20], dtype=torch.float64)
LADDER_REWARD = torch.tensor([0.0, 1.0, 1.0, 0.6], dtype=torch.float64)
LADDER_BETA = 0.5


class Optimum(NamedTuple):
    """Where a loss leads: probabilities [S], their largest change in the end, the total variation to each target."""

    probability: Tensor
    moved: float
    to_reverse: float
    to_forward: float


def ladder_logits(probability: Tensor) -> Tensor:
    """[P, V] logits of a policy over the completions of LADDER."""
    beyond = probability.flip(0).cumsum(0).flip(0)  # of this completion and of all longer ones
    return torch.stack([probability[:-1], beyond[1:]], -1).log()


def targets() -> dict[str, Tensor]:
    """[S] optima of E[R] - beta KL per sequence under either direction, from `core.targets`."""
    ref_logp = LADDER_REFERENCE.log()
    reverse = reverse_kl_target(ref_logp, LADDER_REWARD, LADDER_BETA)
    forward = forward_kl_target(ref_logp, LADDER_REWARD, LADDER_BETA)
    return {"reverse": reverse.exp(), "forward": forward.exp()}


def settle(loss: Loss, *, group: int = 1, coupled: bool = False) -> Optimum:
    """Follow the expected natural gradient of a trainer's loss, reward and KL term, on policy from the reference.

    The step is constant for STEPS steps and then shrinks by half every HALVING steps, so that it also settles where
    the gradient is discontinuous.
    """
    ref = ladder_logits(LADDER_REFERENCE)
    logits, before = ref, ref
    for step in range(STEPS + 25 * HALVING):
        gradient = expected_gradient(
            LADDER, loss, logits, ref, reward=LADDER_REWARD, beta=LADDER_BETA, group=group, coupled=coupled
        )
        chance = LADDER.prefix_chance(logits)[:, None] * logits.softmax(-1)
        rate = RATE * 0.5 ** (max(step - STEPS, 0) / HALVING)
        move = (-rate * gradient / chance.clamp_min(1e-200)).clamp(-MAX_MOVE, MAX_MOVE)
        logits = (logits + move).log_softmax(-1)
        before = logits if step == STEPS else before
    probability, earlier = (LADDER.seq_logp(x).exp() for x in (logits, before))
    distance = {name: float((probability - target).abs().sum() / 2) for name, target in targets().items()}
    return Optimum(probability, float((probability - earlier).abs().max()), distance["reverse"], distance["forward"])
