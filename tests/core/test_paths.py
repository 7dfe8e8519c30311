"""Policies on the way to the optimum, on enumerated outcomes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from core.mara import augment_reward
from core.paths import policy_gradient_path
from core.schedules import linear
from core.stats import effective_modes
from core.targets import reverse_kl_target
from tests.core.enumeration import exact_objective, random_logits, random_logp

OUTCOMES, GOOD, BETA, THRESHOLD = 60, 12, 1 / 128, 0.8  # sigma 128, as in the paper's Table 2
STEPS = 2000


@pytest.fixture(scope="module")
def ref_logp() -> Tensor:
    return random_logp(OUTCOMES, seed=0, scale=1.5)


@pytest.fixture(scope="module")
def reward() -> Tensor:
    """Twelve good outcomes of different reward, and many that are not good."""
    share = random_logits(OUTCOMES, seed=1).sigmoid()
    return torch.where(torch.arange(OUTCOMES) < GOOD, 0.8 + 0.15 * share, 0.6 * share)


def good_modes(logp: Tensor, good: int = GOOD) -> Tensor:
    """Effective number of good outcomes, which come first, among the good mass of each policy."""
    return effective_modes(logp[..., :good].log_softmax(-1).exp())


def rewards(reward: Tensor, ref_logp: Tensor, mara: bool) -> Callable[[float], Tensor]:
    def augmented(beta: float) -> Tensor:
        return augment_reward(reward, ref_logp, beta=beta, threshold=THRESHOLD)

    return augmented if mara else lambda beta: reward


# --- the gradient is that of the objective ---------------------------------------------------------------


@pytest.mark.parametrize("entropy_coef", [0.0, 0.2])
def test_a_step_is_along_the_gradient_of_the_objective(entropy_coef: float) -> None:
    ref, reward = random_logp(6, seed=2), random_logits(6, seed=3)
    path = policy_gradient_path(ref, reward, [0.3] * 200, entropy_coef=entropy_coef, step=1e-2)
    logits = path[-2].clone().requires_grad_()
    value = exact_objective(logits.softmax(-1), ref.exp(), reward, 0.3, "reverse", entropy_coef)
    (gradient,) = torch.autograd.grad(value, logits)
    moved = path[-1] - path[-2]
    expected = 1e-2 * gradient / gradient.abs().max()
    assert torch.allclose(moved - moved.mean(), expected - expected.mean(), atol=1e-12)

    forward = exact_objective(logits.softmax(-1), ref.exp(), reward, 0.3, "forward")  # the control
    (other,) = torch.autograd.grad(forward, logits)
    other = 1e-2 * other / other.abs().max()
    assert not torch.allclose(moved - moved.mean(), other - other.mean(), atol=1e-3)


def test_the_path_ends_at_the_optimum() -> None:
    ref, reward = random_logp(6, seed=2), random_logits(6, seed=3)
    path = policy_gradient_path(ref, reward, [0.5] * 3000, step=0.01)
    assert torch.allclose(path[0], ref)
    assert torch.allclose(path[-1].exp(), reverse_kl_target(ref, reward, 0.5).exp(), atol=0.01)
    assert not torch.allclose(path[-1].exp(), reverse_kl_target(ref, reward, 0.25).exp(), atol=0.01)  # the control


def test_outcomes_off_the_support_keep_no_mass() -> None:
    ref, reward = random_logp(4, seed=4), torch.tensor([1.0, 0.0, 0.5, 0.2], dtype=torch.float64)
    wider = torch.cat([ref, torch.tensor([-torch.inf], dtype=torch.float64)])
    path = policy_gradient_path(wider, torch.cat([reward, torch.tensor([9.0])]), [0.1] * 50)
    assert torch.equal(path[:, :4], policy_gradient_path(ref, reward, [0.1] * 50))
    assert bool((path[:, 4] == -torch.inf).all())


def test_a_beta_of_zero_is_refused(ref_logp: Tensor, reward: Tensor) -> None:
    with pytest.raises(ValueError, match="betas must be > 0, got 0"):
        policy_gradient_path(ref_logp, reward, [0.1, 0.0])


# --- what the path passes through ------------------------------------------------------------------------


@pytest.mark.parametrize("mara", [False, True])
def test_the_path_is_narrower_than_both_ends_at_a_large_sigma(mara: bool, ref_logp: Tensor, reward: Tensor) -> None:
    reward_at = rewards(reward, ref_logp, mara)
    optimum = reverse_kl_target(ref_logp, reward_at(BETA), BETA)
    ends = torch.minimum(good_modes(ref_logp), good_modes(optimum))
    path = policy_gradient_path(ref_logp, reward_at, [BETA] * STEPS, step=0.05)
    assert good_modes(path).min() < 1.01 < 0.5 * ends

    # The control: the natural gradient's path is ref^(1-s) optimum^s, where no policy is much narrower than both.
    shares = torch.linspace(0, 1, STEPS, dtype=torch.float64).unsqueeze(-1)
    natural = ((1 - shares) * ref_logp + shares * optimum).log_softmax(-1)
    assert good_modes(natural).min() > 0.9 * ends


@pytest.mark.parametrize("mara", [False, True])
def test_the_path_is_as_narrow_at_half_the_step(mara: bool, ref_logp: Tensor, reward: Tensor) -> None:
    reward_at = rewards(reward, ref_logp, mara)
    coarse = policy_gradient_path(ref_logp, reward_at, [BETA] * 600, step=0.1)
    fine = policy_gradient_path(ref_logp, reward_at, [BETA] * 1200, step=0.05)
    assert float(good_modes(coarse).min()) == pytest.approx(float(good_modes(fine).min()), rel=0.01)


@pytest.mark.parametrize(
    ("beta", "mara", "largest", "reached", "half_way_back"),
    [
        (0.1, False, 162, 170, 880),
        (0.1, True, 92, 59, 270),
        (0.03, False, 530, 1.4e3, 6.8e3),
        (0.03, True, 318, 520, 2.4e3),
        (0.01, False, 1401, 8.9e3, 4.2e4),
        (0.01, True, 901, 3.8e3, 1.7e4),
        (0.003, False, 3947, 6.8e4, 3.1e5),
        (0.003, True, 2701, 3.4e4, 1.4e5),
    ],
)
def test_the_path_is_that_of_gradient_flow(
    beta: float, mara: bool, largest: float, reached: float, half_way_back: float
) -> None:
    """The table of docs/beta.md: two good answers and one that is not, integrated in time by scipy."""
    ref_logp = torch.tensor([0.3, 0.02, 0.68], dtype=torch.float64).log()
    reward = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    if mara:
        reward = augment_reward(reward, ref_logp, beta=beta, threshold=1.0)

    def flow(_: float, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        policy = np.exp(logits) / np.exp(logits).sum()
        advantage = reward.numpy() - beta * (np.log(policy) - ref_logp.numpy())
        return policy * (advantage - policy @ advantage)

    times = np.geomspace(1, 1e8, 2000)
    solution = solve_ivp(flow, (0, 1e8), ref_logp.numpy(), "LSODA", times, rtol=1e-8, atol=1e-10)
    logits = torch.from_numpy(solution.y.T)
    ratio, modes = (logits[:, 0] - logits[:, 1]).exp(), good_modes(logits, 2)
    narrowest = int(modes.argmin())
    half = narrowest + int((modes[narrowest:] > (modes.min() + modes[-1]) / 2).int().argmax())
    assert float(ratio.max()) == pytest.approx(largest, rel=0.01)
    assert (times[narrowest], times[half]) == pytest.approx((reached, half_way_back), rel=0.03)

    path = policy_gradient_path(ref_logp, reward, [beta] * 4000, step=0.05)
    assert float(good_modes(path, 2).min()) == pytest.approx(float(modes.min()), rel=0.003)
    assert float((path[:, 0] - path[:, 1]).exp().max()) == pytest.approx(largest, rel=0.05)
    assert float(ratio[-1]) == pytest.approx(1 if mara else 15, rel=0.01)  # the control: it does come back


@pytest.mark.parametrize("mara", [False, True])
def test_a_beta_that_falls_keeps_the_path_wide(mara: bool, ref_logp: Tensor, reward: Tensor) -> None:
    reward_at = rewards(reward, ref_logp, mara)
    optimum = good_modes(reverse_kl_target(ref_logp, reward_at(BETA), BETA))
    ends = torch.minimum(good_modes(ref_logp), optimum)
    falling = [linear(0.25, BETA, i / (0.8 * STEPS)) for i in range(STEPS)]
    path = policy_gradient_path(ref_logp, reward_at, falling, step=0.05)
    assert good_modes(path).min() > 0.7 * ends
    assert good_modes(path)[-1] > 0.9 * optimum
    constant = policy_gradient_path(ref_logp, reward_at, [BETA] * STEPS, step=0.05)  # the control
    assert good_modes(constant)[-1] < 0.7 * optimum
