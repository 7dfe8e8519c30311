"""Compute where MARA's fixed points lie, for each way to choose the anchor and to estimate the mass of an answer.

All groups of size G are enumerated as counts of their outcomes, so nothing is sampled. A policy is at a fixed
point if the expected advantage of a sample, given its outcome, is the same for every outcome. `remembered` stands
for its
limit: the mean of unbiased estimates, and an anchor that has stopped moving. docs/mara.md quotes the tables.

    python -m tools.anchor_bias
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from scipy.optimize import root
from torch import Tensor

from core.advantages import ADVANTAGES
from core.classes import Masses, group_mass
from core.divergences import find_divergence
from core.mara import Anchor
from core.rules import mara_algorithm
from core.targets import forward_kl_target, reverse_kl_target
from core.transforms import mara

SIZES = (2, 4, 8, 16)
BETAS = (0.01, 0.03, 0.1, 0.3, 1.0)
COLUMNS = [f"G={size}" for size in SIZES]


@dataclass(frozen=True)
class Case:
    """A reference over a few outcomes, of which some are good and share an answer.

    Attributes:
        reference: probabilities; the last outcome is bad.
        classes: the answer of each outcome.
    """

    reference: tuple[float, ...]
    classes: tuple[int, ...]

    @property
    def reward(self) -> Tensor:
        """1 for every outcome but the last."""
        return (torch.arange(len(self.reference)) < len(self.reference) - 1).double()

    @property
    def ref_logp(self) -> Tensor:
        """[A] nats."""
        return torch.tensor(self.reference, dtype=torch.float64).log()

    @property
    def ids(self) -> Tensor:
        """[A] the answer of each outcome."""
        return torch.tensor(self.classes)

    def class_logp(self) -> Tensor:
        """[A] exact log mass of each outcome's answer."""
        same = self.ids.unsqueeze(0) == self.ids.unsqueeze(1)
        return self.ref_logp.masked_fill(~same, -torch.inf).logsumexp(-1)


SEQUENCES = Case((0.55, 0.15, 0.05, 0.25), (0, 1, 2, 3))
SPELLINGS = Case((0.30, 0.12, 0.06, 0.04, 0.03, 0.02, 0.01, 0.42), (0, 1, 1, 2, 2, 2, 2, 3))  # 1, 2 and 4 spellings


@dataclass(frozen=True)
class Method:
    """One way to run MARA.

    Attributes:
        mass: of an answer: sequence, group, remembered, or distinct (the sum over the distinct completions of the
            group, a naive estimate).
        anchor: group, cross_fitted or remembered.
    """

    direction: str = "reverse"
    mass: str = "sequence"
    anchor: str = "group"
    advantage: str = "leave_one_out"


@cache
def all_groups(kinds: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """All multisets of `size` out of `kinds` outcomes: members [M, G], counts [M, A], log number of orders [M]."""
    members = torch.tensor(list(itertools.combinations_with_replacement(range(kinds), size)))
    counts = torch.nn.functional.one_hot(members, kinds).sum(1).double()
    log_orders = torch.lgamma(torch.tensor(size + 1.0).double()) - torch.lgamma(counts + 1).sum(-1)
    return members, counts, log_orders


@cache
def ordered_groups(kinds: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """All sequences of `size` out of `kinds` outcomes, for methods that split a group; as `all_groups`."""
    members = torch.cartesian_prod(*[torch.arange(kinds)] * size)
    counts = torch.nn.functional.one_hot(members, kinds).sum(1).double()
    return members, counts, torch.zeros(len(members)).double()


def group_masses(case: Case, method: Method, members: Tensor, logp: Tensor) -> Masses | None:
    """The masses and anchors of groups, members [M, G], sampled from a policy, logp [A]."""
    mass = None
    if method.mass == "remembered":
        mass = case.class_logp()[members]
    elif method.mass == "group":
        weight = case.ref_logp[members] - logp[members]
        mass = group_mass(case.ids[members], weight, case.reward[members] >= 1)
    elif method.mass == "distinct":
        same = case.ids[members].unsqueeze(-1) == case.ids
        seen = (members.unsqueeze(-1) == torch.arange(len(case.reference))).any(-2, keepdim=True)
        mass = case.ref_logp.masked_fill(~(same & seen), -torch.inf).logsumexp(-1)
    anchor = None
    if method.anchor == "remembered":
        largest = (case.ref_logp if method.mass == "sequence" else case.class_logp())[case.reward >= 1].max()
        anchor = Anchor(torch.ones(()).double(), largest)
    return None if mass is None and anchor is None else Masses(mass, anchor)


def advantage_given_outcome(case: Case, method: Method, logp: Tensor, size: int, beta: float) -> Tensor:
    """[A] expected advantage of a sample given its outcome, over all groups drawn from the policy."""
    cross_fitted = method.anchor == "cross_fitted"
    members, counts, log_orders = (ordered_groups if cross_fitted else all_groups)(len(case.reference), size)
    shaped, ref = mara(
        case.reward[members],
        case.ref_logp[members],
        beta=beta,
        threshold=1.0,
        direction=method.direction,
        algorithm=mara_algorithm(method.direction),
        anchor="cross_fitted" if cross_fitted else "group",
        masses=group_masses(case, method, members, logp),
    )
    options = {"alpha": ALPHA} if method.direction == "alpha" else {}
    shaped = shaped - beta * find_divergence(method.direction).form("reward")(logp[members], ref, **options)
    halves = shaped.unflatten(-1, (2, -1)) if cross_fitted else shaped
    advantage = ADVANTAGES[method.advantage](halves).reshape(shaped.shape)
    per_outcome = torch.zeros_like(counts).scatter_add(-1, members, advantage)
    # Probability of a group given that one of its members has the outcome, in logs because it may underflow.
    log_prob = (log_orders + counts @ logp).unsqueeze(-1) - logp
    return (log_prob.exp() * per_outcome / size).sum(0)


ALPHA = 0.5


def target(case: Case, method: Method, beta: float) -> Tensor:
    """[A] probabilities of the optimum if masses and anchor are exact; for other divergences that of forward KL."""
    exact = Method(method.direction, "sequence" if method.mass == "sequence" else "remembered", "remembered")
    masses = group_masses(case, exact, torch.arange(len(case.reference)).unsqueeze(0), case.ref_logp)
    assert masses is not None
    mass = masses.mass_logp if masses.mass_logp is None else masses.mass_logp[0]
    direction = "reverse" if method.direction == "reverse" else "forward"
    reward, ref = mara(
        case.reward,
        case.ref_logp,
        beta=beta,
        threshold=1.0,
        direction=direction,
        masses=Masses(mass, masses.anchor),
    )
    solve: Callable[[Tensor, Tensor, float], Tensor] = {"reverse": reverse_kl_target, "forward": forward_kl_target}[
        direction
    ]
    return solve(ref, reward, beta).exp()


def fixed_point(case: Case, method: Method, size: int, beta: float) -> Tensor:
    """[A] the policy at which MARA's expected gradient is zero.

    Raises:
        RuntimeError: the solver does not converge.
    """

    def log_policy(logits: Tensor) -> Tensor:
        return torch.cat([logits, torch.zeros(1)]).double().log_softmax(-1)

    def spread(logits: object) -> object:
        advantage = advantage_given_outcome(case, method, log_policy(torch.as_tensor(logits)), size, beta)
        return ((advantage - advantage[-1]) / beta)[:-1].numpy()

    start = target(case, method, beta).log()
    solution = root(spread, (start - start[-1])[:-1].numpy(), tol=1e-12)
    if abs(solution.fun).max() > 1e-9:
        raise RuntimeError(f"no fixed point of {method} with G={size}, beta={beta}: {solution.message}")
    return log_policy(torch.as_tensor(solution.x)).exp()


def answer_shares(case: Case, policy: Tensor) -> Tensor:
    """Probability of each good answer, among the good ones."""
    mass = torch.zeros(max(case.classes) + 1).double().index_add(0, case.ids, policy)[:-1]
    return mass / mass.sum()


def bias(case: Case, method: Method, size: int, beta: float) -> float:
    """The largest deviation of a good answer's probability from their mean."""
    policy = fixed_point(case, method, size, beta)
    good = answer_shares(case, policy) * (1 - policy[-1])
    return float((good - good.mean()).abs().max())


def format_bias(value: float) -> str:
    """A bias for the table, 0 if it is within rounding errors."""
    return "0" if value < 1e-12 else f"{value:.1e}"


def print_bias_table(title: str, case: Case, method: Method, sizes: tuple[int, ...] = SIZES) -> None:
    """Print the bias for each beta and group size."""
    print(f"\n{title}")
    print("beta " + "".join(f"{f'G={size}':>10}" for size in sizes))
    for beta in BETAS:
        values = (bias(case, method, size, beta) for size in sizes)
        print(f"{beta:<5g}" + "".join(f"{format_bias(value):>10}" for value in values))


def print_shares(title: str, case: Case, methods: dict[str, Method], size: int, beta: float) -> None:
    """Print the shares of the good answers at the fixed point of each method."""
    print(f"\n{title}; G={size}, beta={beta:g}")
    for name, method in methods.items():
        try:
            shares = " ".join(f"{value:.4f}" for value in answer_shares(case, fixed_point(case, method, size, beta)))
        except RuntimeError:
            shares = "no fixed point found"
        print(f"  {name:<58}{shares}")


def main() -> None:
    """Print the tables."""
    print(f"Sequences: reference {SEQUENCES.reference}, all but the last good, leave-one-out, KL in the reward")
    print("bias = max over good outcomes of |p - equal share|")
    print_bias_table("Algorithm 1, reverse KL, the group's anchor", SEQUENCES, Method())
    print_bias_table("Algorithm 2, forward KL, the group's anchor", SEQUENCES, Method("forward"))
    print_bias_table("Algorithm 2, forward KL, remembered anchor", SEQUENCES, Method("forward", anchor="remembered"))
    anchors = {
        f"{direction}, {advantage}, {anchor} anchor": Method(direction, "sequence", anchor, advantage)
        for direction in ("reverse", "forward")
        for advantage in ("leave_one_out", "no_baseline")
        for anchor in ("group", "cross_fitted", "remembered")
    }
    print_shares("Shares of the good sequences", SEQUENCES, anchors, 4, 0.03)

    print(f"\nAnswers with 1, 2 and 4 spellings: reference {SPELLINGS.reference}, the last outcome bad")
    masses = {
        f"{direction}, {advantage}, mass: {mass}, anchor: {anchor}": Method(direction, mass, anchor, advantage)
        for direction in ("reverse", "forward")
        for advantage in ("leave_one_out", "no_baseline")
        for mass, anchor in (
            ("sequence", "group"),
            ("distinct", "group"),
            ("group", "group"),
            ("group", "remembered"),
            ("remembered", "group"),
            ("remembered", "remembered"),
        )
    }
    print_shares("Shares of the good answers", SPELLINGS, masses, 4, 0.03)
    for mass, anchor in (("group", "group"), ("group", "remembered"), ("remembered", "group")):
        for direction in ("reverse", "forward"):
            print_bias_table(
                f"Answers, {direction} KL, mass: {mass}, anchor: {anchor}",
                SPELLINGS,
                Method(direction, mass, anchor),
                (4,) if mass == "group" else (2, 4),  # G=2 has several fixed points, some where answers are lost
            )


if __name__ == "__main__":
    main()
