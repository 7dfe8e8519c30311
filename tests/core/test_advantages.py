"""Advantages and bonuses: expected gradients over every group, ties, and invalid samples."""

import math
from fractions import Fraction
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from core.advantages import (
    ADVANTAGES,
    batch_normalised,
    centred,
    differential_smoothing,
    group_normalised,
    group_normalised_sample_std,
    leave_one_out,
    max_at_k,
    mean_normalised,
    no_baseline,
    pass_at_k,
    tied_groups,
    ucpo,
)
from core.losses import policy_gradient

from .enumeration import one_token_gradient, random_logits

NAN = math.nan
PLAIN = {name: advantage for name, advantage in ADVANTAGES.items() if not name.endswith("_at_k")}


def exact_gradient(logits: Tensor, reward: Tensor) -> Tensor:
    parameters = logits.clone().requires_grad_()
    return torch.autograd.grad(-(parameters.softmax(-1) * reward).sum(), parameters)[0]


def sampled_gradient(advantage, logits: Tensor, reward: Tensor, size: int) -> Tensor:
    return one_token_gradient(lambda y, logp: policy_gradient(logp, advantage(reward[y])), logits, size)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_expected_gradient_over_every_group(seed: int, size: int) -> None:
    logits, reward = random_logits(4, seed=seed), random_logits(4, seed=10 + seed) + 3
    exact = exact_gradient(logits, reward)
    factors = {no_baseline: 1.0, leave_one_out: 1.0, centred: (size - 1) / size}
    for advantage, factor in factors.items():
        torch.testing.assert_close(
            sampled_gradient(advantage, logits, reward, size), factor * exact, rtol=1e-10, atol=1e-13
        )
    # Controls: dividing by the standard deviation changes the direction, and the maximum is no unbiased baseline.
    normalised = sampled_gradient(group_normalised, logits, reward, size)
    ratio = normalised / exact
    assert float(ratio.max() - ratio.min()) > 1e-3 or size == 2
    largest = sampled_gradient(lambda r: r - r.amax(-1, keepdim=True), logits, reward, size)
    assert not torch.allclose(largest, exact, rtol=1e-3)


def test_one_sample_alone_has_no_baseline() -> None:
    logits, reward = random_logits(3, seed=1), random_logits(3, seed=2)
    torch.testing.assert_close(sampled_gradient(no_baseline, logits, reward, 1), exact_gradient(logits, reward))
    for advantage in (centred, leave_one_out, group_normalised):
        assert float(sampled_gradient(advantage, logits, reward, 1).abs().max()) == 0


def test_values_by_hand() -> None:
    reward = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    assert no_baseline(reward).tolist() == reward.tolist()
    assert centred(reward).tolist() == [[-2, -1, 3], [0, 0, 0]]
    assert leave_one_out(reward).tolist() == [[-3, -1.5, 4.5], [0, 0, 0]]
    std = math.sqrt((4 + 1 + 9) / 3)
    torch.testing.assert_close(group_normalised(reward)[0], torch.tensor([-2.0, -1.0, 3.0]) / std)
    assert group_normalised(reward)[1].tolist() == [0, 0, 0]
    sample_std = torch.tensor([1.0, 2, 6]).std()
    torch.testing.assert_close(group_normalised_sample_std(reward)[0], torch.tensor([-2.0, -1.0, 3.0]) / sample_std)
    assert group_normalised_sample_std(reward)[1].tolist() == [0, 0, 0]
    std = math.sqrt((9 + 4 + 4 + 1 + 1 + 1) / 6)  # around 4, of all groups
    torch.testing.assert_close(batch_normalised(reward), torch.tensor([[-3.0, -2, 2], [1, 1, 1]]) / std)
    assert set(PLAIN.values()) == {
        no_baseline,
        batch_normalised,
        centred,
        leave_one_out,
        group_normalised,
        group_normalised_sample_std,
        mean_normalised,
    }
    assert {*ADVANTAGES.values()} - {*PLAIN.values()} == {max_at_k, pass_at_k}


@pytest.mark.parametrize("shift", [0.0, 1e3, -1e6])
def test_a_constant_changes_no_advantage_with_a_baseline(shift: float) -> None:
    reward = random_logits(5, 4, seed=0)
    for advantage in (centred, leave_one_out, group_normalised):
        torch.testing.assert_close(advantage(reward + shift), advantage(reward), rtol=1e-8, atol=1e-8)
    assert shift == 0 or not torch.allclose(no_baseline(reward + shift), reward)  # control


def test_group_normalised_does_not_depend_on_the_scale() -> None:
    reward = random_logits(5, 4, seed=0)
    for scale in (1e-8, 1.0, 1e6):
        normalised = group_normalised(scale * reward)
        torch.testing.assert_close(normalised, group_normalised(reward), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(normalised.square().mean(-1), torch.ones(5).double())
    assert not torch.allclose(centred(1e6 * reward), centred(reward))  # control


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_that_differ_by_rounding_are_tied(dtype: torch.dtype) -> None:
    """0.1 + 0.2 is not 0.3, but such rewards are equal: the advantages must be 0 and not ±1."""
    tied = torch.tensor([0.1, 0.3], dtype=dtype) + torch.tensor([0.2, 0.0], dtype=dtype)
    group = torch.cat([tied, tied, tied[:1]])
    assert group_normalised(group).tolist() == [0] * 5
    assert group_normalised(torch.full((7,), 0.1, dtype=dtype)).tolist() == [0] * 7
    apart = group + torch.tensor([0, 1e-3, 0, 0, 0], dtype=dtype)  # control: a real, small spread
    assert float(group_normalised(apart).abs().max()) > 1


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("garbage", [7.0, NAN, math.inf, -math.inf])
def test_an_invalid_sample_has_no_effect(name: str, garbage: float) -> None:
    advantage, reward = PLAIN[name], random_logits(3, 5, seed=1).abs()
    valid = torch.tensor([True, False, True, True, False]).expand(3, 5)
    result = advantage(reward.masked_fill(~valid, garbage), valid)
    torch.testing.assert_close(result[:, valid[0]], advantage(reward[:, valid[0]]), rtol=1e-12, atol=1e-14)
    assert bool((result[:, ~valid[0]] == 0).all())
    if name != "no_baseline":
        assert not torch.allclose(advantage(reward)[:, valid[0]], result[:, valid[0]])  # control


@pytest.mark.parametrize("name", PLAIN)
def test_groups_with_no_or_one_valid_sample(name: str) -> None:
    advantage = PLAIN[name]
    reward, valid = torch.tensor([[3.0, NAN], [NAN, NAN]]), torch.tensor([[True, False], [False, False]])
    alone = 3.0 if name == "no_baseline" else 0.0
    assert advantage(reward, valid).tolist() == [[alone, 0], [0, 0]]
    assert advantage(torch.tensor([3.0, 1.0])).abs().sum() > 0  # control


@pytest.mark.parametrize("name", PLAIN)
def test_nan_where_it_counts_is_an_error(name: str) -> None:
    reward = torch.tensor([[1.0, 2.0], [NAN, 0.0]])
    with pytest.raises(ValueError, match=r"reward is NaN at \[1, 0\]"):
        PLAIN[name](reward)
    with pytest.raises(ValueError, match=r"reward \(2, 2\), valid \(2,\)"):
        PLAIN[name](reward, torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="valid must be bool"):
        PLAIN[name](reward, torch.ones(2, 2))
    PLAIN[name](reward, ~reward.isnan())  # control


# --- best of k and pass@k --------------------------------------------------------------------------------


def expected_maximum(probability: Tensor, reward: Tensor, k: int) -> Tensor:
    """E[max of k draws], by adding up all k-tuples."""
    total = probability.new_zeros(())
    for draws in product(range(len(reward)), repeat=k):
        total = total + probability[list(draws)].prod() * reward[list(draws)].max()
    return total


@pytest.mark.parametrize(("size", "k"), [(2, 2), (3, 2), (3, 3), (4, 2), (4, 3), (4, 4)])
@pytest.mark.parametrize("tied", [False, True])
def test_max_at_k_is_the_gradient_of_the_best_of_k(size: int, k: int, tied: bool) -> None:
    logits, reward = random_logits(4, seed=k), random_logits(4, seed=9)
    if tied:
        reward = (reward > 0).double()
    parameters = logits.clone().requires_grad_()
    exact = torch.autograd.grad(-expected_maximum(parameters.softmax(-1), reward, k) / k, parameters)[0]

    def estimated(advantage) -> Tensor:
        return one_token_gradient(lambda y, logp: policy_gradient(logp, advantage(reward[y])), logits, size)

    torch.testing.assert_close(estimated(lambda r: max_at_k(r, k=k)), exact, rtol=1e-10, atol=1e-13)
    assert not torch.allclose(estimated(leave_one_out), exact, rtol=1e-2)  # control: the mean's gradient
    if k < size:  # control: another k is another objective
        other = estimated(lambda r: max_at_k(r, k=k + 1) * (k + 1) / k)
        assert tied or not torch.allclose(other, exact, rtol=1e-2)


def by_subsets(correct: list[bool], k: int) -> list[float]:
    """Pass@k advantages from a list of all subsets."""
    subsets = list(combinations(range(len(correct)), k))
    passed = {subset: float(any(correct[i] for i in subset)) for subset in subsets}
    mean = sum(passed.values()) / len(subsets)
    std = math.sqrt(sum((value - mean) ** 2 for value in passed.values()) / len(subsets))
    if std == 0:
        return [0.0] * len(correct)
    having = [[passed[subset] for subset in subsets if i in subset] for i in range(len(correct))]
    return [(sum(passes) / len(passes) - mean) / std for passes in having]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_over_subsets(k: int) -> None:
    groups = list(product([False, True], repeat=5))
    reward = torch.tensor(groups, dtype=torch.float64)
    expected = torch.tensor([by_subsets(list(group), k) for group in groups], dtype=torch.float64)
    torch.testing.assert_close(pass_at_k(reward, k=k, threshold=1.0), expected, rtol=1e-12, atol=1e-14)
    if k > 1:  # control: only at k = 1 is it the group-normalised reward
        assert not torch.allclose(pass_at_k(reward, k=1, threshold=1.0), expected)


@pytest.mark.parametrize(
    "advantage", [lambda r, v=None: max_at_k(r, v, k=2), lambda r, v=None: pass_at_k(r, v, k=2, threshold=1)]
)
def test_invalid_samples_have_no_effect_on_subsets(advantage) -> None:
    reward = torch.tensor([[1.0, NAN, 0.5, 0.0, 1.0], [NAN, 3.0, NAN, NAN, NAN]], dtype=torch.float64)
    valid = ~reward.isnan()
    without = advantage(reward[:1, valid[0]])
    result = advantage(reward, valid)
    torch.testing.assert_close(result[:1, valid[0]], without)
    assert result[0, 1] == 0
    assert result[1].tolist() == [0] * 5
    with pytest.raises(ValueError, match="NaN"):
        advantage(reward)


def test_subset_advantages_are_exact_in_float32_for_every_group_size() -> None:
    """Against fractions of whole numbers, for every size up to 40 and large groups; C(128, 64) overflows float32."""
    sizes = [(n, k) for n in range(2, 41) for k in range(1, n + 1)] + [(128, 64), (256, 64), (512, 256), (1024, 8)]
    for n, k in sizes:
        counts = range(n + 1) if n <= 40 else (0, 1, 5, n // 2, n - k, n - k + 1, n)
        reward = torch.stack([torch.arange(n) < c for c in counts]).float()
        expected = [pass_at_k_by_fractions(n, c, k) for c in counts]
        table = torch.tensor(
            [[right] * c + [wrong] * (n - c) for c, (right, wrong) in zip(counts, expected, strict=True)]
        )
        torch.testing.assert_close(pass_at_k(reward, k=k, threshold=1.0), table, rtol=1e-6, atol=0)
        if k > 1:
            ranks = torch.arange(n - 1, -1, -1).float()  # the reward of rank m is n - 1 - m
            best = torch.tensor([max_at_k_by_fractions(n, m, k) for m in range(n)])
            torch.testing.assert_close(max_at_k(ranks, k=k), best, rtol=1e-6, atol=0)
    # Control: binomial coefficients in float32 are off by 18% at (32, 8, 24) and infinite at (128, 64).
    n, k, c = 32, 8, 24
    share = (torch.tensor([math.comb(n - c, k), math.comb(n, k)]).float() / 1).tolist()
    rho = 1 - torch.tensor(share[0] / share[1])
    wrong = float((1 - rho) / (rho * (1 - rho)).sqrt())
    assert abs(wrong / pass_at_k_by_fractions(n, c, k)[0] - 1) > 0.1
    assert math.isinf(float(torch.tensor(float(math.comb(256, 64))).float()))


def pass_at_k_by_fractions(n: int, c: int, k: int) -> tuple[float, float]:
    """The advantage of a correct sample and of another one, by the formula of the source with exact binomials."""
    fails = Fraction(math.comb(n - c, k), math.comb(n, k))
    if fails in (0, 1):
        return 0.0, 0.0
    variance = fails * (1 - fails)
    others = Fraction(math.comb(n - c - 1, k - 1), math.comb(n - 1, k - 1))
    right, wrong = (math.sqrt(float(x * x / variance)) for x in (fails, fails - others))
    return right, -wrong


def max_at_k_by_fractions(n: int, rank: int, k: int) -> float:
    """Sum over runners-up j of the reward's gap j - rank, times the share of subsets with that runner-up."""
    subsets = math.comb(n - 1, k - 1)
    return float(sum(Fraction((j - rank) * math.comb(n - 1 - j, k - 2), subsets) for j in range(rank + 1, n)))


def test_best_of_n_by_hand() -> None:
    reward = torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.0, 1.0]])
    assert max_at_k(reward, k=3).tolist() == [[0, 2, 0], [0, 0, 0]]
    for k in (0, 1):
        with pytest.raises(ValueError, match="k must be >= 2"):
            max_at_k(reward, k=k)
    with pytest.raises(ValueError, match="k must be >= 1"):
        pass_at_k(reward, k=0, threshold=1.0)


# --- tied groups -----------------------------------------------------------------------------------------


def test_a_group_is_tied_if_its_valid_rewards_are_equal() -> None:
    reward = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [NAN, 3.0, NAN], [NAN, NAN, NAN]])
    valid = ~reward.isnan()
    assert tied_groups(reward, valid).tolist() == [[True], [False], [True], [True]]
    assert tied_groups(reward[:2], torch.tensor([True, True, False]).expand(2, 3)).tolist() == [[True], [True]]
    assert tied_groups(reward[:2]).tolist() == [[True], [False]]  # control: the invalid sample breaks the tie


# --- bonuses ---------------------------------------------------------------------------------------------


def test_bonuses_of_invalid_samples_are_zero() -> None:
    logp = torch.tensor([[-1.0, NAN, -3.0, -2.0], [-1.0, -1.0, NAN, NAN]])
    valid, good = ~logp.isnan(), torch.tensor([[True, True, True, False], [False, False, False, False]])
    for bonus in (
        ucpo(logp, good, valid, coef=2.0),
        differential_smoothing(logp, good, valid, correct_coef=2.0, wrong_coef=1.0),
    ):
        assert bool((bonus[~valid] == 0).all())
        assert bool(bonus.isfinite().all())
        assert bool((bonus[0, 0] != 0).all())
        with pytest.raises(ValueError, match="NaN"):
            ucpo(logp, good, None, coef=2.0)
    bonus = ucpo(logp, good & valid, valid, coef=2.0)
    q = torch.tensor([-1.0, -3.0]).softmax(-1)
    entropy = -(q * q.log()).sum()
    torch.testing.assert_close(bonus[0, [0, 2]], 2 * (-q.log() - entropy))
    assert bool((bonus[1] == 0).all())
    assert float(bonus[0, 3]) == 0
