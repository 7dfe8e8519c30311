"""Advantages: unbiased over every group, blind to what is invalid, quiet where all are tied."""

import math

import pytest
import torch
from torch import Tensor

from core.advantages import ADVANTAGES, centred, group_normalised, leave_one_out, max_at_k, no_baseline, pass_at_k
from core.losses import policy_gradient

from .enumeration import one_token_gradient, random_logits

NAN = math.nan
PLAIN = {name: some for name, some in ADVANTAGES.items() if not name.endswith("_at_k")}  # those: test_at_k.py


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
    # Controls: dividing by the spread is a multiple of it in no direction, and a wrong baseline is not unbiased.
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
    assert set(PLAIN.values()) == {no_baseline, centred, leave_one_out, group_normalised}
    assert {*ADVANTAGES.values()} - {*PLAIN.values()} == {max_at_k, pass_at_k}


@pytest.mark.parametrize("shift", [0.0, 1e3, -1e6])
def test_a_constant_changes_no_advantage_with_a_baseline(shift: float) -> None:
    reward = random_logits(5, 4, seed=0)
    for advantage in (centred, leave_one_out, group_normalised):
        torch.testing.assert_close(advantage(reward + shift), advantage(reward), rtol=1e-8, atol=1e-8)
    assert shift == 0 or not torch.allclose(no_baseline(reward + shift), reward)  # control


def test_the_spread_is_normalised_whatever_its_scale() -> None:
    reward = random_logits(5, 4, seed=0)
    for scale in (1e-8, 1.0, 1e6):
        normalised = group_normalised(scale * reward)
        torch.testing.assert_close(normalised, group_normalised(reward), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(normalised.square().mean(-1), torch.ones(5).double())
    assert not torch.allclose(centred(1e6 * reward), centred(reward))  # control


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_equal_rewards_is_no_spread(dtype: torch.dtype) -> None:
    """0.1 + 0.2 is not 0.3: the group's advantage must stay 0, not become ±1."""
    tied = torch.tensor([0.1, 0.3], dtype=dtype) + torch.tensor([0.2, 0.0], dtype=dtype)
    group = torch.cat([tied, tied, tied[:1]])
    assert group_normalised(group).tolist() == [0] * 5
    assert group_normalised(torch.full((7,), 0.1, dtype=dtype)).tolist() == [0] * 7
    apart = group + torch.tensor([0, 1e-3, 0, 0, 0], dtype=dtype)  # control: a real, small spread
    assert float(group_normalised(apart).abs().max()) > 1


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("garbage", [7.0, NAN, math.inf, -math.inf])
def test_an_invalid_sample_is_as_if_it_were_not_there(name: str, garbage: float) -> None:
    advantage, reward = PLAIN[name], random_logits(3, 5, seed=1)
    valid = torch.tensor([True, False, True, True, False]).expand(3, 5)
    held = reward.masked_fill(~valid, garbage)
    result = advantage(held, valid)
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
