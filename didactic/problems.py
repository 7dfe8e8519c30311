"""Bandits: outcomes with a reference and a reward, as in figures 1 to 5 of the paper."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from conf.schema.didactic import ProblemConfig

# Figure 1: (weight, mean, standard deviation) of the target's components.
BIMODAL = ((0.7, -1.5, 0.6), (0.3, 2.0, 0.6))
# Figure 2: outcome, log pi_ref and reward of the two modes.
BUMPS = ((25, -4.05, 0.75), (75, -5.95, 1.0))
BUMP_WIDTH = 4.0


@dataclass(frozen=True)
class Problem:
    """A bandit over A outcomes.

    Attributes:
        name: as in the configuration.
        position: [A] positions of the outcomes, evenly spaced.
        ref_logp: [A] float64, -inf off the reference's support.
        reward: [A] float64.
        modes: groups of outcomes whose shares are compared, from left to right.
    """

    name: str
    position: Tensor
    ref_logp: Tensor
    reward: Tensor
    modes: tuple[slice, ...]


def table(config: ProblemConfig) -> Problem:
    """The outcomes listed in the configuration; each is a mode."""
    ref, reward = (torch.tensor(values, dtype=torch.float64) for values in (config.ref, config.reward))
    count = len(ref)
    modes = tuple(slice(i, i + 1) for i in range(count))
    return Problem(config.name, _positions(count), (ref / ref.sum()).log(), reward, modes)


def plateaus(config: ProblemConfig) -> Problem:
    """Figure 5: a steeply falling reference, pi_ref(i) ∝ (1 - i/100)^4, and reward 1 on 0..24 and 50..74."""
    position = _positions(100)
    modes = (slice(0, 25), slice(50, 75))
    reward = torch.zeros_like(position)
    for mode in modes:
        reward[mode] = 1.0
    return Problem(config.name, position, (4 * (1 - position / 100).log()).log_softmax(-1), reward, modes)


def two_bumps(config: ProblemConfig) -> Problem:
    """Figure 2: a bell-shaped reference over 100 outcomes and two bumps of reward, the higher one in its tail.

    The centre and width of the bell are chosen so that log pi_ref has the values of `BUMPS` at the two modes.
    """
    from scipy.optimize import brentq  # takes half a second to load and is only needed here

    position = _positions(100)
    (a, ref_a, _), (b, ref_b, _) = BUMPS

    def bell(centre: float) -> Tensor:
        variance = ((b - centre) ** 2 - (a - centre) ** 2) / (2 * (ref_a - ref_b))
        return (-((position - centre) ** 2) / (2 * variance)).log_softmax(-1)

    centre = brentq(lambda x: float(bell(x)[a]) - ref_a, a, (a + b) / 2 - 1, xtol=1e-13)
    bumps = [height * (-((position - mode) ** 2) / (2 * BUMP_WIDTH**2)).exp() for mode, _, height in BUMPS]
    modes = tuple(slice(mode, mode + 1) for mode, _, _ in BUMPS)
    return Problem(config.name, position, bell(centre), torch.stack(bumps).amax(0), modes)


def bimodal(config: ProblemConfig) -> Problem:
    """Figure 1: a mixture of two Gaussians on a fine grid, without a reward, so that the reference is the target."""
    position = torch.linspace(-12, 12, 481, dtype=torch.float64)
    middle = len(position) // 2
    modes = (slice(0, middle), slice(middle, len(position)))
    return Problem(config.name, position, bimodal_logp(position).log_softmax(-1), torch.zeros_like(position), modes)


def bimodal_logp(position: Tensor) -> Tensor:
    """Log-density of Figure 1's target at any positions."""
    weight, mean, std = torch.tensor(BIMODAL, dtype=torch.float64).T
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(weight), torch.distributions.Normal(mean, std)
    ).log_prob(position)


PROBLEMS: dict[str, Callable[[ProblemConfig], Problem]] = {
    "table": table,
    "plateaus": plateaus,
    "two_bumps": two_bumps,
    "bimodal": bimodal,
}


def make_problem(config: ProblemConfig) -> Problem:
    """The problem named by `problem.name`."""
    return PROBLEMS[config.name](config)


def _positions(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)
