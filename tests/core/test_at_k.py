"""Best-of-k and pass@k advantages over every group and every subset; the clipped loss over every sequence."""

import math
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from core.advantages import leave_one_out, max_at_k, pass_at_k
from core.losses import clipped_policy_gradient, policy_gradient

from .enumeration import one_token_gradient, random_logits, random_logp

NAN = math.nan


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

    def estimated(advantage) -> Tensor:  # type: ignore[no-untyped-def]
        return one_token_gradient(lambda y, logp: policy_gradient(logp, advantage(reward[y])), logits, size)

    torch.testing.assert_close(estimated(lambda r: max_at_k(r, k=k)), exact, rtol=1e-10, atol=1e-13)
    assert not torch.allclose(estimated(leave_one_out), exact, rtol=1e-2)  # control: the mean's gradient
    if k < size:  # control: the best of another number is another objective
        other = estimated(lambda r: max_at_k(r, k=k + 1) * (k + 1) / k)
        assert tied or not torch.allclose(other, exact, rtol=1e-2)


def by_subsets(correct: list[bool], k: int) -> list[float]:
    """Pass@k advantages written out over subsets."""
    subsets = list(combinations(range(len(correct)), k))
    passed = {subset: float(any(correct[i] for i in subset)) for subset in subsets}
    mean = sum(passed.values()) / len(subsets)
    std = math.sqrt(sum((value - mean) ** 2 for value in passed.values()) / len(subsets))
    if std == 0:
        return [0.0] * len(correct)
    having = [[passed[subset] for subset in subsets if i in subset] for i in range(len(correct))]
    return [(sum(some) / len(some) - mean) / std for some in having]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_over_subsets(k: int) -> None:
    groups = list(product([False, True], repeat=5))
    reward = torch.tensor(groups, dtype=torch.float64)
    expected = torch.tensor([by_subsets(list(group), k) for group in groups], dtype=torch.float64)
    torch.testing.assert_close(pass_at_k(reward, k=k, threshold=1.0), expected, rtol=1e-12, atol=1e-14)
    if k > 1:  # control: at k = 1 it is the group-normalised reward, and not otherwise
        assert not torch.allclose(pass_at_k(reward, k=1, threshold=1.0), expected)


@pytest.mark.parametrize(
    "advantage", [lambda r, v=None: max_at_k(r, v, k=2), lambda r, v=None: pass_at_k(r, v, k=2, threshold=1)]
)
def test_invalid_samples_are_as_if_they_were_not_there(advantage) -> None:  # type: ignore[no-untyped-def]
    reward = torch.tensor([[1.0, NAN, 0.5, 0.0, 1.0], [NAN, 3.0, NAN, NAN, NAN]], dtype=torch.float64)
    valid = ~reward.isnan()
    kept = advantage(reward[:1, valid[0]])
    result = advantage(reward, valid)
    torch.testing.assert_close(result[:1, valid[0]], kept)
    assert result[0, 1] == 0
    assert result[1].tolist() == [0] * 5
    with pytest.raises(ValueError, match="NaN"):
        advantage(reward)


def test_best_of_n_by_hand() -> None:
    reward = torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.0, 1.0]])
    assert max_at_k(reward, k=3).tolist() == [[0, 2, 0], [0, 0, 0]]
    for k in (0, 1):
        with pytest.raises(ValueError, match="k must be >= 2"):
            max_at_k(reward, k=k)
    with pytest.raises(ValueError, match="k must be >= 1"):
        pass_at_k(reward, k=0, threshold=1.0)


def test_at_the_behaviour_policy_clipping_is_policy_gradient() -> None:
    policy = random_logp(2, 3, 4, seed=1).requires_grad_()
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    advantage, valid = random_logits(2, 3, seed=2), torch.tensor([[True, True, False], [True, True, True]])
    plain = policy_gradient((policy * mask).sum(-1), advantage, valid)
    expected = torch.autograd.grad(plain, policy)[0]
    for level in ("token", "sequence"):
        options = {"clip_low": 0.2, "clip_high": 0.3, "level": level, "valid": valid}
        loss = clipped_policy_gradient(policy, policy.detach(), advantage, mask, **options)
        torch.testing.assert_close(torch.autograd.grad(loss, policy)[0], expected)


def test_off_policy_the_sequence_level_is_unbiased_where_nothing_is_clipped() -> None:
    """Over all 3^2 sequences of two tokens from another policy."""
    logits, behaviour = random_logits(2, 3, seed=1).requires_grad_(), random_logp(2, 3, seed=2)
    tokens = torch.tensor(list(product(range(3), repeat=2)))
    reward = random_logits(9, seed=3)
    places = torch.arange(2).expand(9, 2)
    old = behaviour[places, tokens]
    chance = old.sum(-1).exp()

    def gradient(level: str, clip_low: float, clip_high: float) -> Tensor:
        policy = logits.log_softmax(-1)[places, tokens]
        total = policy.new_zeros(())
        for s in range(9):
            row = slice(s, s + 1)
            mask = torch.ones(1, 2, dtype=torch.bool)
            options = {"clip_low": clip_low, "clip_high": clip_high, "level": level}
            loss = clipped_policy_gradient(policy[row], old[row], reward[row], mask, **options)
            total = total + chance[s] * loss
        return torch.autograd.grad(total, logits)[0]

    objective = (logits.log_softmax(-1)[places, tokens].sum(-1).exp() * reward).sum()
    exact = torch.autograd.grad(-objective, logits)[0]
    torch.testing.assert_close(gradient("sequence", 1.0, math.inf), exact)
    assert not torch.allclose(gradient("token", 1.0, math.inf), exact, rtol=1e-2)  # controls
    assert not torch.allclose(gradient("sequence", 0.1, 0.1), exact, rtol=1e-2)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "moves"),
    [(0.5, 1, False), (0.5, -1, True), (-0.5, 1, True), (-0.5, -1, False), (0.1, 1, True)],
)
def test_a_ratio_beyond_the_range_stops_where_it_would_go_further(
    log_ratio: float, advantage: float, moves: bool
) -> None:
    policy = torch.tensor([[-1.0 + log_ratio]], requires_grad=True)
    loss = clipped_policy_gradient(
        policy,
        torch.tensor([[-1.0]]),
        torch.tensor([float(advantage)]),
        torch.tensor([[True]]),
        clip_low=0.2,
        clip_high=0.2,
    )
    assert (float(torch.autograd.grad(loss, policy)[0].abs()) > 0) == moves
    for wrong in ({"clip_low": -0.1, "clip_high": 0.2}, {"clip_low": 0.1, "clip_high": 0.2, "level": "word"}):
        with pytest.raises(ValueError, match="must"):
            clipped_policy_gradient(policy, policy, torch.tensor([1.0]), torch.tensor([[True]]), **wrong)
