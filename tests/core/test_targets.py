"""The targets, compared with 50-digit arithmetic, numerical optimisation and the numbers of the paper."""

import math
from functools import partial

import mpmath
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from core.targets import (
    forward_crossover_beta,
    forward_kl_target,
    reverse_crossover_beta,
    reverse_kl_target,
    reverse_log_ratio,
)

from .enumeration import exact_objective, random_logits, random_logp

INF = math.inf
f64 = partial(torch.tensor, dtype=torch.float64)
TOLERANCE = 1e-10  # absolute, in probability

# --- an independent computation --------------------------------------------------------------------------


def mp_reverse(ref_logp: list[float], reward: list[float], beta: float, entropy_coef: float = 0.0) -> list[float]:
    with mpmath.workdps(50):
        beta, entropy_coef = mpmath.mpf(beta), mpmath.mpf(entropy_coef)
        logit = [
            (beta * mpmath.mpf(r) + mpmath.mpf(x)) / (beta + entropy_coef) if r > -INF else mpmath.mpf("-inf")
            for r, x in zip(ref_logp, reward, strict=True)
        ]
        largest = max(logit)
        weight = [mpmath.exp(x - largest) for x in logit]
        total = mpmath.fsum(weight)
        return [float(w / total) for w in weight]


def mp_forward(ref_logp: list[float], reward: list[float], beta: float) -> list[float]:
    """Bisection for u = log(Lambda - best), with Lambda - x computed as e^u + (best - x)."""
    with mpmath.workdps(50):
        mass = [mpmath.mpf(beta) * mpmath.exp(mpmath.mpf(r)) if r > -INF else mpmath.mpf(0) for r in ref_logp]
        exact = [mpmath.mpf(x) for x in reward]
        best, top = max(x for x, m in zip(exact, mass, strict=True) if m > 0), max(exact)
        if top > best:
            at_top = [m / (top - x) if m > 0 else mpmath.mpf(0) for m, x in zip(mass, exact, strict=True)]
            missing = 1 - mpmath.fsum(at_top)
            if missing > 0:
                return [
                    float(missing / exact.count(top) if x == top else p) for p, x in zip(at_top, exact, strict=True)
                ]
        low = mpmath.log(mpmath.fsum(m for m, x in zip(mass, exact, strict=True) if x == best))
        high = mpmath.log(mpmath.fsum(mass)) + 1
        gap = [best - x for x in exact]
        for _ in range(75):
            middle = (low + high) / 2
            slack = mpmath.exp(middle)
            total = mpmath.fsum(m / (slack + g) for m, g in zip(mass, gap, strict=True) if m > 0)
            low, high = (middle, high) if total > 1 else (low, middle)
        return [float(m / (mpmath.exp(low) + g)) if m > 0 else 0.0 for m, g in zip(mass, gap, strict=True)]


def error(log_target: Tensor, expected: list[float]) -> float:
    return float((log_target.exp() - f64(expected)).abs().max())


REFERENCES = {
    "one outcome": [0.0],
    "uniform": [-math.log(3)] * 3,
    "down to -1e4": [-1e4, -5e3, -1.0, -0.5, -9999.5],
    "all near -1e4": [-1e4, -1e4 + 1, -1e4 + 30, -9.9e3, -1e4],
    "off support": [-INF, -1.2, -0.4, -INF, -7.0],
    "one on support": [-INF, -0.1, -INF],
    "unnormalised": [3.0, -2.0, 40.0, 0.0],
}
REWARDS = {
    "widest": [1e3, -1e3, 0.0, 999.999, -1e3],
    "ties": [1.0, 1.0, 0.0, 1.0, 0.0],
    "all tied": [-1e3] * 5,
    "nearly tied": [1.0, 1.0 - 1e-15, 1.0 - 1e-9, 1.0 + 1e-12, 1.0],
    "tiny": [1e-300, 0.0, -1e-12, 3e-7, 1e-5],
    "tied off support": [1e3, 0.0, 0.5, 1e3, -1.0],
}
BETAS = (1e-6, 1e-3, 0.3, 1e3)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("rewards", REWARDS)
@pytest.mark.parametrize("reference", REFERENCES)
def test_targets_agree_with_mpmath_at_the_extremes(reference: str, rewards: str, beta: float) -> None:
    ref_logp = REFERENCES[reference]
    reward = REWARDS[rewards][: len(ref_logp)]
    ref, r = f64(ref_logp), f64(reward)
    assert error(reverse_kl_target(ref, r, beta), mp_reverse(ref_logp, reward, beta)) < TOLERANCE
    assert error(reverse_kl_target(ref, r, beta, 0.2), mp_reverse(ref_logp, reward, beta, 0.2)) < TOLERANCE
    assert error(forward_kl_target(ref, r, beta), mp_forward(ref_logp, reward, beta)) < TOLERANCE


@pytest.mark.parametrize("seed", range(48))
def test_targets_agree_with_mpmath_on_random_problems(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    count = int(torch.randint(2, 12, (), generator=generator))
    ref = -uniform(0, (1.0, 100.0, 1e4)[seed % 3], count)
    reward = uniform(-1, 1, count) * (1.0, 1e3, 1e-3, 30.0)[seed % 4]
    if seed % 4 == 0:
        ref = ref.log_softmax(-1).clamp_min(-1e4)
    if seed % 5 == 0:
        ref[0] = -INF
    if seed % 6 == 0:
        reward = reward.round()
    beta, entropy_coef = 10 ** float(uniform(-6, 3)), 10 ** float(uniform(-3, 2))
    arguments = ref.tolist(), reward.tolist(), beta

    assert error(reverse_kl_target(ref, reward, beta), mp_reverse(*arguments)) < TOLERANCE
    assert error(reverse_kl_target(ref, reward, beta, entropy_coef), mp_reverse(*arguments, entropy_coef)) < TOLERANCE
    forward = forward_kl_target(ref, reward, beta)
    assert error(forward, mp_forward(*arguments)) < TOLERANCE
    if (
        count > 2 and beta > 0.01 and reward.std() > 0 and seed % 3 == 0
    ):  # control: the tolerance notices a beta that is 1% larger
        assert error(forward, mp_forward(ref.tolist(), reward.tolist(), 1.01 * beta)) > TOLERANCE


def test_naive_formulas_would_fail_these_tolerances() -> None:
    """Control: where cancellation is severe, the formulas as printed in the paper are not accurate enough."""
    ref, reward = f64([-1.0, -0.4, -3.0]), f64([1e3, 1e3 - 1e-6, -1e3])
    expected = mp_reverse(ref.tolist(), reward.tolist(), 1e-6)
    naive = (ref + reward / 1e-6).log_softmax(-1)
    assert error(naive, expected) > 1e-9 > TOLERANCE > error(reverse_kl_target(ref, reward, 1e-6), expected)

    expected = mp_forward(ref.tolist(), reward.tolist(), 1e-6)
    low, high = 1e3, 1e3 + 1.0
    for _ in range(200):  # bisection in Lambda itself
        level = (low + high) / 2
        low, high = (level, high) if float((1e-6 * ref.exp() / (level - reward)).sum()) > 1 else (low, level)
    naive = (1e-6 * ref.exp() / (high - reward)).log()
    assert error(naive, expected) > 1e-8 > TOLERANCE > error(forward_kl_target(ref, reward, 1e-6), expected)


@pytest.mark.parametrize("decades", [1, 3, 10])
def test_normalisation_is_found_across_three_hundred_decades(decades: int) -> None:
    """The masses equal their gaps at every scale: Z falls as slowly as possible, and Newton still converges."""
    gap = torch.tensor([10.0**-k for k in range(300, -1, -decades)], dtype=torch.float64)
    reward, ref = torch.cat([torch.zeros(1).double(), -gap]), torch.cat([gap[:1], gap]).log()
    target = forward_kl_target(ref, reward, 1.0)
    assert abs(float(target.exp().sum()) - 1) < 1e-10
    assert error(target, mp_forward(ref.tolist(), reward.tolist(), 1.0)) < TOLERANCE


@pytest.mark.parametrize("beta", [1e-6, 1e-2, 1e3])
@pytest.mark.parametrize("target", [reverse_kl_target, forward_kl_target])
def test_a_million_outcomes(target, beta: float) -> None:
    ref, reward = random_logp(10**6, seed=0), random_logits(10**6, seed=1, scale=100.0)
    result = target(ref, reward, beta)
    assert abs(float(result.exp().sum()) - 1) < 1e-10
    # With two different rewards, the problem is equivalent to one with two outcomes.
    half = torch.arange(10**6) < 10**5
    pooled = torch.stack([ref[half].logsumexp(-1), ref[~half].logsumexp(-1)])
    full = target(ref, half.double(), beta)
    expected = target(pooled, torch.tensor([1.0, 0.0]), beta)
    assert abs(float(full[half].logsumexp(-1).exp() - expected[0].exp())) < TOLERANCE


@pytest.mark.parametrize("target", [reverse_kl_target, forward_kl_target])
def test_leading_axes_are_a_batch(target) -> None:
    ref, reward = random_logp(3, 1, 6, seed=0, scale=3), random_logits(4, 6, seed=1, scale=2)
    ref[1, 0, 2] = -INF
    batched = target(ref, reward, 0.05)
    assert batched.shape == (3, 4, 6)
    assert batched.dtype == torch.float64
    looped = torch.stack([torch.stack([target(a[0], b, 0.05) for b in reward]) for a in ref])
    torch.testing.assert_close(batched.exp(), looped.exp(), rtol=0, atol=1e-14)
    assert not torch.allclose(batched[0, 0], batched[0, 1])  # control: the rows differ


def test_inputs_are_not_modified_and_float32_is_computed_in_float64() -> None:
    ref, reward = torch.tensor([-1.0, -INF, -0.5]), torch.tensor([1.0, 2.0, 3.0])
    copies = ref.clone(), reward.clone()
    for target in (reverse_kl_target, forward_kl_target):
        result = target(ref, reward, 0.3)
        assert result.dtype == torch.float64
        torch.testing.assert_close(result, target(ref.double(), reward.double(), 0.3), rtol=0, atol=0)
    assert torch.equal(ref, copies[0])
    assert torch.equal(reward, copies[1])


# --- limits ----------------------------------------------------------------------------------------------


def test_small_beta_puts_all_mass_on_the_best_reward_of_the_support() -> None:
    ref = f64([0.5, 0.2, 0.3, 0.0]).log()
    reward = f64([0.0, 1.0, 1.0, 5.0])
    shares = f64([0, 0.4, 0.6, 0])  # tied best: the reference's ratio, at any beta
    torch.testing.assert_close(reverse_kl_target(ref, reward, 1e-9).exp(), shares)
    assert not torch.allclose(reverse_kl_target(ref, reward, 1.0).exp(), shares, atol=1e-2)  # control
    # Forward: the best reward off the support gets the missing mass, which is all mass in the limit.
    torch.testing.assert_close(forward_kl_target(ref, reward, 1e-12).exp(), f64([0, 0, 0, 1.0]))
    inside = reward.clamp_max(1.0)
    torch.testing.assert_close(forward_kl_target(ref[:3], inside[:3], 1e-12).exp(), shares[:3], rtol=0, atol=1e-11)
    # Without a KL term all outcomes are allowed, and the entropy bonus spreads the mass.
    torch.testing.assert_close(
        reverse_kl_target(ref, reward, 0.0, 2.0).exp(), (reward / 2).softmax(-1), rtol=0, atol=1e-15
    )


def test_large_beta_gives_the_reference() -> None:
    ref, reward = random_logp(7, seed=3), random_logits(7, seed=4, scale=10)
    for target in (reverse_kl_target, forward_kl_target):
        torch.testing.assert_close(target(ref, reward, 1e14).exp(), ref.exp(), rtol=0, atol=1e-12)
        assert (target(ref, reward, 10.0).exp() - ref.exp()).abs().max() > 1e-2  # control


@pytest.mark.parametrize("seed", range(24))
def test_valid_input_never_gives_nan(seed: int) -> None:
    """Far outside the range in which accuracy is promised."""
    generator = torch.Generator().manual_seed(seed)
    ref = -(10 ** (12 * torch.rand(50, 9, generator=generator, dtype=torch.float64) - 4))
    reward = torch.randn(50, 9, generator=generator, dtype=torch.float64) * 10.0 ** (seed % 12 - 3)
    ref[torch.rand(50, 9, generator=generator) < 0.3] = -INF
    ref[:, 0] = ref[:, 0].clamp_min(-1e9)
    reward[::3] = reward[::3].round()
    for beta in (1e-307, 1e-100, 1e-6, 1.0, 1e6, 1e100):
        for entropy_coef in (0.0, 1e-300, 1.0, 1e100):
            total = reverse_kl_target(ref, reward, beta, entropy_coef).exp().sum(-1)
            torch.testing.assert_close(total, torch.ones(50).double(), rtol=0, atol=1e-10)
        target = forward_kl_target(ref, reward, beta)
        assert not target.isnan().any()
        if abs(math.log(beta)) < 1e3 and float(ref[ref > -INF].min()) > -1e5:
            torch.testing.assert_close(target.exp().sum(-1), torch.ones(50).double(), rtol=0, atol=1e-9)


# --- domains ---------------------------------------------------------------------------------------------

TWO = torch.tensor([-0.7, -0.7])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reverse_kl_target(TWO, TWO, -0.1), "beta must be finite and >= 0, got -0.1"),
        (lambda: reverse_kl_target(TWO, TWO, math.nan), "beta must be finite"),
        (lambda: reverse_kl_target(TWO, TWO, INF), "beta must be finite"),
        (lambda: reverse_kl_target(TWO, TWO, 1.0, -1.0), "entropy_coef must be finite and >= 0, got -1"),
        (lambda: reverse_kl_target(TWO, TWO, 0.0), "beta \\+ entropy_coef must be > 0"),
        (lambda: forward_kl_target(TWO, TWO, 0.0), "beta must be finite and > 0 under forward KL, got 0"),
        (lambda: forward_kl_target(TWO, TWO, -1.0), "> 0 under forward KL, got -1"),
        (lambda: forward_kl_target(TWO, TWO, math.nan), "> 0 under forward KL, got nan"),
        (lambda: reverse_kl_target(TWO, torch.tensor([1.0, math.nan]), 1.0), "reward must be finite"),
        (lambda: forward_kl_target(TWO, torch.tensor([1.0, INF]), 1.0), "reward must be finite"),
        (lambda: forward_kl_target(torch.tensor([0.0, math.nan]), TWO, 1.0), "ref_logp must be finite or -inf"),
        (lambda: reverse_kl_target(torch.tensor([0.0, INF]), TWO, 1.0), "ref_logp must be finite or -inf"),
        (lambda: reverse_kl_target(torch.tensor([-INF, -INF]), TWO, 1.0), "no outcome on its support"),
        (lambda: forward_kl_target(torch.zeros(3), TWO, 1.0), r"ref_logp \(3,\), reward \(2,\)"),
        (
            lambda: forward_kl_target(torch.zeros(3, 2), torch.zeros(4, 2), 1.0),
            r"do not broadcast.*\(3, 2\).*\(4, 2\)",
        ),
        (lambda: forward_kl_target(torch.zeros(0), torch.zeros(0), 1.0), "at least one"),
        (lambda: reverse_kl_target(torch.tensor(0.0), torch.tensor(0.0), 1.0), "axis of outcomes"),
        (lambda: reverse_log_ratio(0.0, 0.0, 0.0, 0.0, 0.0), "beta \\+ entropy_coef must be > 0"),
        (lambda: reverse_log_ratio(0.0, 0.0, 0.0, 0.0, -1.0), "beta must be finite and >= 0"),
        (lambda: forward_crossover_beta(torch.tensor([0.0, -INF]), TWO, 0, 1), "outcome 1.*support"),
    ],
)
def test_values_outside_their_domain_are_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
    reverse_kl_target(TWO, TWO, 0.0, 1.0)  # control: the edge of the domain is inside
    forward_kl_target(TWO, TWO, 1e-6)


# --- optimality, without using the formulas --------------------------------------------------------------


def random_problem(seed: int) -> tuple[Tensor, Tensor, float, float]:
    ref, reward = random_logp(6, seed=seed, scale=1.5), random_logits(6, seed=100 + seed)
    return ref, reward, (0.05, 0.4, 3.0)[seed % 3], (0.0, 0.3)[seed % 2]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_no_perturbation_of_the_target_raises_the_objective(direction: str, seed: int) -> None:
    ref, reward, beta, entropy_coef = random_problem(seed)
    if direction == "reverse":
        target = reverse_kl_target(ref, reward, beta, entropy_coef).exp()
    else:
        entropy_coef, target = 0.0, forward_kl_target(ref, reward, beta).exp()
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        noise = random_logits(500, 6, seed=seed, scale=scale)
        value = exact_objective(target, ref.exp(), reward, beta, direction, entropy_coef)
        near = (target.log() + noise).softmax(-1)
        assert bool((exact_objective(near, ref.exp(), reward, beta, direction, entropy_coef) <= value + 1e-13).all())
    # Control: at another policy, some perturbation raises the objective.
    other = (0.9 * target.log()).softmax(-1)
    near = (other.log() + random_logits(500, 6, seed=seed, scale=1e-2)).softmax(-1)
    value = exact_objective(other, ref.exp(), reward, beta, direction, entropy_coef)
    assert bool((exact_objective(near, ref.exp(), reward, beta, direction, entropy_coef) > value).any())


def numerical_optimum(ref: Tensor, reward: Tensor, beta: float, direction: str, entropy_coef: float = 0.0) -> Tensor:
    """By L-BFGS, and from where its line search ends, which depends on the machine's rounding, by trust regions."""

    def negative(logits: Tensor) -> Tensor:
        return -exact_objective(logits.softmax(-1), ref, reward, beta, direction, entropy_coef)

    def with_gradient(x):
        logits = torch.as_tensor(x).requires_grad_()
        value = negative(logits)
        (gradient,) = torch.autograd.grad(value, logits)
        return value.item(), gradient.numpy()

    def hessian(x):
        return torch.autograd.functional.hessian(negative, torch.as_tensor(x)).numpy()

    options = {"gtol": 1e-12, "ftol": 0.0, "maxiter": 5000, "maxfun": 20000}
    start = torch.zeros(len(ref)).double().numpy()
    near = minimize(with_gradient, start, jac=True, method="L-BFGS-B", options=options).x
    solution = minimize(with_gradient, near, jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-12})
    return torch.as_tensor(solution.x).softmax(-1)


@pytest.mark.parametrize("seed", range(6))
def test_numerical_optimisation_agrees(seed: int) -> None:
    ref, reward, beta, entropy_coef = random_problem(seed)
    optimum = numerical_optimum(ref.exp(), reward, beta, "reverse", entropy_coef)
    reverse = reverse_kl_target(ref, reward, beta, entropy_coef).exp()
    torch.testing.assert_close(reverse, optimum, rtol=0, atol=2e-6)
    optimum = numerical_optimum(ref.exp(), reward, beta, "forward")
    forward = forward_kl_target(ref, reward, beta).exp()
    torch.testing.assert_close(forward, optimum, rtol=0, atol=2e-6)
    assert (forward - reverse).abs().max() > 1e-3  # control: the two directions differ


def test_an_unnormalised_reference_acts_like_another_beta_under_forward_kl_only() -> None:
    ref, reward, beta, _ = random_problem(1)
    scaled = ref + math.log(5.0)
    torch.testing.assert_close(forward_kl_target(scaled, reward, beta), forward_kl_target(ref, reward, 5 * beta))
    torch.testing.assert_close(reverse_kl_target(scaled, reward, beta), reverse_kl_target(ref, reward, beta))
    control = reverse_kl_target(ref, reward, 5 * beta)
    assert not torch.allclose(reverse_kl_target(scaled, reward, beta), control)


# --- appendix B.3: the best reward off the support -------------------------------------------------------


def test_missing_mass_goes_to_the_best_outcomes_off_the_support() -> None:
    ref = f64([0.6, 0.4, 0.0, 0.0, 0.0]).log()
    reward = f64([0.0, 0.5, 2.0, 2.0, 1.0])
    beta = 0.5
    target = forward_kl_target(ref, reward, beta).exp()
    seen = f64([beta * 0.6 / 2, beta * 0.4 / 1.5])  # Lambda = 2
    expected = torch.cat([seen, ((1 - seen.sum()) / 2).expand(2), torch.zeros(1)])
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-14)
    # Independently: maximise the objective over the support and one outcome for everything off it.
    grid = torch.linspace(1e-4, 1 - 1e-4, 400, dtype=torch.float64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    inside = a + b < 1
    value = 0.5 * b + 2 * (1 - a - b) + beta * (0.6 * a.log() + 0.4 * b.log())
    best = int(value.masked_fill(~inside, -INF).argmax())
    assert abs(float(a.flatten()[best] - seen[0])) < 3e-3
    assert abs(float(b.flatten()[best] - seen[1])) < 3e-3

    # Control: at a large beta the support takes all the mass and the best reward none.
    control = forward_kl_target(ref, reward, 50.0).exp()
    assert float(control[2:].sum()) == 0
    assert abs(float(control.sum()) - 1) < 1e-12
    # Under reverse KL outcomes off the support never get mass.
    assert float(reverse_kl_target(ref, reward, beta)[2:].exp().sum()) == 0


# --- the paper's numbers ---------------------------------------------------------------------------------


def rounded(log_target: Tensor) -> list[float]:
    return [round(p, 3) for p in log_target.exp().tolist()]


def test_figure_3() -> None:
    ref, reward = f64([1 / 3] * 3).log(), f64([0, 0.9, 1])
    assert rounded(reverse_kl_target(ref, reward, 1e-3)) == [0, 0, 1]
    assert rounded(reverse_kl_target(ref, reward, 0.5)) == [0.069, 0.419, 0.512]
    assert rounded(forward_kl_target(ref, reward, 0.5)) == [0.125, 0.381, 0.494]


def test_figure_4_equal_rewards_keep_the_references_ratio() -> None:
    ref, reward = f64([0.68, 0.30, 0.02]).log(), f64([0, 1, 1])
    assert reverse_kl_target(ref, reward, 1e-3).exp().tolist() == pytest.approx([0, 0.9375, 0.0625], abs=1e-12)
    for beta in (1e-6, 1e-2, 1.0, 100.0):
        for target in (reverse_kl_target, forward_kl_target):
            result = target(ref, reward, beta)
            assert abs(float((result[1] - result[2]).exp()) - 15) < 1e-9
            assert abs(float((result[0] - result[1]).exp()) - 0.68 / 0.30) > 1e-3  # control: an unequal reward


def test_remark_4_2_and_equation_7() -> None:
    ratio = reverse_log_ratio(0.0, 0.0, 1.1, 1.0, 1e-3)
    assert abs(float(ratio) - 100) < 1e-9
    assert f"{math.exp(float(ratio)):.1e}" == "2.7e+43"
    for seed in range(6):
        ref, reward, beta, entropy_coef = random_problem(seed)
        target = reverse_kl_target(ref, reward, beta, entropy_coef)
        predicted = reverse_log_ratio(ref[0], ref[1:], reward[0], reward[1:], beta, entropy_coef)
        torch.testing.assert_close(predicted, target[0] - target[1:])
        wrong = reverse_log_ratio(ref[0], ref[1:], reward[0], reward[1:], 2 * beta, entropy_coef)
        assert not torch.allclose(wrong, target[0] - target[1:])  # control


# --- crossovers ------------------------------------------------------------------------------------------


def test_figure_2_crossover() -> None:
    crossover = float(reverse_crossover_beta(-4.05, -5.95, 0.75, 1.0))
    assert abs(crossover - 0.132) < 5e-4
    assert crossover == pytest.approx(float(reverse_crossover_beta(-5.95, -4.05, 1.0, 0.75)), rel=1e-15)


@pytest.mark.parametrize("seed", range(20))
def test_at_a_crossover_both_are_equal_and_around_it_they_swap(seed: int) -> None:
    ref, reward = random_logp(5, seed=seed, scale=2), random_logits(5, seed=50 + seed)
    if seed % 3 == 0:
        ref[4] = -INF
    for a, b in ((0, 1), (1, 2), (3, 0)):
        crossovers = {
            reverse_kl_target: float(reverse_crossover_beta(ref[a], ref[b], reward[a], reward[b])),
            forward_kl_target: float(forward_crossover_beta(ref, reward, a, b)),
        }
        for target, beta in crossovers.items():
            tried = torch.tensor([1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 1e3, 1e6]).tolist()
            if beta < INF:
                at = target(ref, reward, beta)
                assert abs(float(at[a].exp() - at[b].exp())) < 1e-12
                below, above = target(ref, reward, 0.98 * beta), target(ref, reward, 1.02 * beta)
                assert float((below[a] - below[b]) * (above[a] - above[b])) < 0
            else:  # no crossing: the order is the same at every beta
                signs = {float((t := target(ref, reward, x))[a] - t[b]) > 0 for x in tried}
                assert len(signs) == 1


def test_the_crossovers_depend_on_different_things() -> None:
    ref, reward = f64([0.5, 0.1, 0.4]).log(), f64([0.5, 1.0, 0.0])
    other = f64([0.5, 0.1, 0.4]).log(), f64([0.5, 1.0, 0.9])
    reverse = [float(reverse_crossover_beta(f[0], f[1], r[0], r[1])) for f, r in ((ref, reward), other)]
    forward = [float(forward_crossover_beta(f, r, 0, 1)) for f, r in ((ref, reward), other)]
    assert reverse[0] == reverse[1]
    assert abs(forward[0] - forward[1]) > 0.05


def test_pairs_without_a_crossover() -> None:
    assert float(reverse_crossover_beta(-1.0, -2.0, 1.0, 0.5)) == INF  # one outcome leads in both
    assert float(reverse_crossover_beta(-1.0, -1.0, 1.0, 0.5)) == INF  # only the rewards differ
    assert float(reverse_crossover_beta(-1.0, -2.0, 1.0, 1.0)) == 0  # equal rewards: the reference's ratio always
    assert float(reverse_crossover_beta(-1.0, -INF, 0.5, 1.0)) == INF  # off the support
    assert float(reverse_crossover_beta(-1.0, -2.0, 0.5, 1.0)) == 0.5  # control
    ref, reward = f64([0.5, 0.3, 0.2]).log(), f64([1.0, 0.5, 1.0])
    assert float(forward_crossover_beta(ref, reward, 0, 1)) == INF
    assert float(forward_crossover_beta(ref, reward, 0, 2)) == 0
    batch = forward_crossover_beta(ref.expand(2, 3), torch.stack([reward, reward.flip(0) * 2]), 0, 1)
    assert batch.shape == (2,)
    rows = [float(forward_crossover_beta(ref, r, 0, 1)) for r in (reward, reward.flip(0) * 2)]
    assert batch.tolist() == rows


def test_a_better_reward_off_the_support_can_rule_out_a_forward_crossover() -> None:
    """Lambda is at least the best reward, whether that is on the support or off it (appendix B.3)."""
    ref, reward = f64([0.6, 0.4, 0.0]).log(), f64([0.0, 0.1, 10.0])
    assert float(forward_crossover_beta(ref, reward, 0, 1)) == INF
    for beta in (1e-6, 1e-3, 0.1, 1.0, 1e3):
        target = forward_kl_target(ref, reward, beta)
        assert target[0] > target[1]
    assert 0 < float(forward_crossover_beta(ref[:2], reward[:2], 0, 1)) < INF  # control: without it they cross
