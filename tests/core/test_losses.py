"""Losses: expected gradients over every outcome, slow implementations, and invalid samples."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from core.advantages import leave_one_out
from core.losses import (
    clipped_policy_gradient,
    length_normalised_policy_gradient,
    mean_valid,
    policy_gradient,
    reinvent,
    token_policy_gradient,
)

from .enumeration import (
    VOCABULARY,
    all_sequences,
    exact_objective,
    one_token_gradient,
    random_logits,
    random_logp,
)

NAN = math.nan
MASK = torch.tensor([[[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]]).bool()


def leaf(seed: int = 0) -> Tensor:
    return -random_logits(2, 3, 4, seed=seed).abs().requires_grad_()


def gradient(loss: Tensor, parameters: Tensor) -> Tensor:
    return torch.autograd.grad(loss, parameters)[0]


# --- REINFORCE -------------------------------------------------------------------------------------------


def test_policy_gradient_is_minus_the_mean_of_advantage_times_logp() -> None:
    logp, advantage = leaf().detach().sum(-1).requires_grad_(), random_logits(2, 3, seed=1).requires_grad_()
    loss = policy_gradient(logp, advantage)
    torch.testing.assert_close(loss, -(advantage * logp).sum() / 6)
    torch.testing.assert_close(gradient(loss, logp), -advantage.detach() / 6)
    assert not torch.allclose(
        gradient(policy_gradient(logp, 2 * advantage), logp), -advantage.detach() / 6
    )  # control
    loss = policy_gradient(logp, advantage)
    assert torch.autograd.grad(loss, advantage, allow_unused=True)[0] is None  # detached


def slow_token_policy_gradient(
    logp: Tensor, advantage: Tensor, mask: Tensor, gamma: float, token_reward: Tensor | None
) -> Tensor:
    """In loops over tokens: discount the advantage once for each completion token that follows."""
    total = torch.zeros(())
    for b in range(logp.shape[0]):
        for g in range(logp.shape[1]):
            positions = [t for t in range(logp.shape[2]) if mask[b, g, t]]
            for place, t in enumerate(positions):
                coefficient = advantage[b, g] * gamma ** (len(positions) - 1 - place)
                if token_reward is not None:
                    coefficient = coefficient + token_reward[b, g, t]
                total = total - coefficient.detach() * logp[b, g, t]
    return total / (logp.shape[0] * logp.shape[1])


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("with_token_reward", [False, True])
@pytest.mark.parametrize("left_padded", [False, True])
def test_token_policy_gradient_agrees_with_loops_over_tokens(
    gamma: float, with_token_reward: bool, left_padded: bool
) -> None:
    mask = MASK.flip(-1) if left_padded else MASK
    logp, advantage = leaf(), random_logits(2, 3, seed=1)
    token_reward = random_logits(2, 3, 4, seed=2) if with_token_reward else None
    fast = token_policy_gradient(logp, advantage, mask, gamma=gamma, token_reward=token_reward)
    slow = slow_token_policy_gradient(logp, advantage, mask, gamma, token_reward)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(fast, logp), gradient(slow, logp), rtol=1e-12, atol=0)
    other = slow_token_policy_gradient(logp, advantage, mask, 0.95 * gamma, token_reward)
    assert not torch.allclose(fast, other)  # control


def test_without_a_discount_the_token_form_is_the_sequence_form() -> None:
    logp, advantage = leaf(), random_logits(2, 3, seed=1)
    token = token_policy_gradient(logp, advantage, MASK)
    sequence = policy_gradient(torch.where(MASK, logp, 0.0).sum(-1), advantage)
    torch.testing.assert_close(token, sequence)
    torch.testing.assert_close(gradient(token, logp), gradient(sequence, logp))
    assert not torch.allclose(token_policy_gradient(logp, advantage, MASK, gamma=0.5), sequence)  # control


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.1, NAN])
def test_gamma_lies_in_the_unit_interval(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"gamma must lie in \\(0, 1\\], got {gamma}"):
        token_policy_gradient(leaf(), torch.zeros(2, 3), MASK, gamma=gamma)
    token_policy_gradient(leaf(), torch.zeros(2, 3), MASK, gamma=1.0)  # control


# --- the clipped loss ------------------------------------------------------------------------------------


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
def test_clipping_stops_a_ratio_that_would_move_further_out_of_the_range(
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


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ratio_that_overflows_is_clipped_without_nan(level: str, dtype: torch.dtype) -> None:
    """As for a ratio just outside the range: where it is clipped, the loss is finite and the gradient 0."""

    def loss_and_gradient(log_ratio: float, advantage: float) -> tuple[float, Tensor]:
        policy = torch.tensor([[-1.0, -2.0]], dtype=dtype, requires_grad=True)
        behaviour = policy.detach() - torch.tensor([[log_ratio, 0.0]], dtype=dtype)
        loss = clipped_policy_gradient(
            policy,
            behaviour,
            torch.tensor([advantage], dtype=dtype),
            torch.tensor([[True, True]]),
            clip_low=0.2,
            clip_high=0.3,
            level=level,
        )
        return float(loss.detach()), gradient(loss, policy)

    huge = 1000.0  # exp(89) is infinite in float32, exp(710) in float64
    for log_ratio, advantage in ((huge, 1.5), (-huge, -1.5), (huge, 0.0), (-huge, 0.0)):
        loss, grad = loss_and_gradient(log_ratio, advantage)
        near_loss, near_grad = loss_and_gradient(math.copysign(0.5, log_ratio), advantage)
        assert loss == near_loss
        assert torch.equal(grad, near_grad)
        assert float(grad[0, 0]) == 0
        assert level == "sequence" or advantage == 0 or float(grad[0, 1]) != 0  # the other token has a ratio of 1
    loss, grad = loss_and_gradient(-huge, 1.5)  # not clipped, and its ratio is 0
    assert math.isfinite(loss)
    assert float(grad[0, 0]) == 0
    with pytest.raises(ValueError, match=r"ratio of the policy .* overflows at \[0.*log is 1000 .*fewer updates"):
        loss_and_gradient(huge, -1.5)  # PPO does not bound this term
    # Control: the minimum of the two products has a gradient of NaN.
    policy = torch.tensor(-1.0, dtype=dtype, requires_grad=True)
    ratio = (policy + huge).exp()
    assert bool(gradient(torch.minimum(ratio * 1.5, ratio.clamp(0.8, 1.3) * 1.5), policy).isnan())


def test_the_clipped_loss_is_the_minimum_of_the_two_products() -> None:
    """Value and gradient, bit by bit, over ratios on both sides of the bounds."""
    log_ratio = torch.tensor([-3.0, math.log(0.79), -0.1, 0.0, 0.1, math.log(1.29), 3.0]).repeat(3)
    advantage = torch.tensor([1.7, 0.0, -0.9]).repeat_interleave(7)
    policy = torch.full((21, 1), -1.3, requires_grad=True)
    behaviour = policy.detach() - log_ratio.unsqueeze(-1)
    mask = torch.ones(21, 1, dtype=torch.bool)
    loss = clipped_policy_gradient(policy, behaviour, advantage, mask, clip_low=0.2, clip_high=0.3)
    ratio = (policy - behaviour).exp()
    products = ratio * advantage.unsqueeze(-1), ratio.clamp(1 - 0.2, 1 + 0.3) * advantage.unsqueeze(-1)
    expected = -torch.minimum(*products).sum(-1).mean()
    assert torch.equal(loss, expected)
    assert torch.equal(gradient(loss, policy), gradient(expected, policy))
    unclipped = clipped_policy_gradient(policy, behaviour, advantage, mask, clip_low=1.0, clip_high=math.inf)
    assert not torch.allclose(unclipped, loss)  # control


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_low": -0.1}, r"clip_low must lie in \[0, 1\] and clip_high must be >= 0, got -0\.1 and 0\.2"),
        ({"clip_low": 1.1}, r"got 1\.1 and 0\.2"),
        ({"clip_high": -0.2}, r"got 0\.2 and -0\.2"),
        ({"clip_high": NAN}, "got 0.2 and nan"),
        ({"level": "word"}, "level must be token, sequence or geometric_mean, got 'word'"),
    ],
)
def test_clipping_ranges_and_levels_are_checked(changes: dict, message: str) -> None:
    policy, advantage, mask = torch.tensor([[-1.0]]), torch.tensor([1.0]), torch.tensor([[True]])
    options = {"clip_low": 0.2, "clip_high": 0.2}
    with pytest.raises(ValueError, match=message):
        clipped_policy_gradient(policy, policy, advantage, mask, **{**options, **changes})
    clipped_policy_gradient(policy, policy, advantage, mask, **options)  # control


# --- invalid samples and masked tokens -------------------------------------------------------------------


def losses_of(logp: Tensor, advantage: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
    sequence = torch.where(MASK, logp, 0.0).sum(-1)
    token_reward = advantage.unsqueeze(-1) * torch.ones_like(logp)
    return {
        "policy_gradient": policy_gradient(sequence, advantage, valid),
        "token_policy_gradient": token_policy_gradient(logp, advantage, MASK, gamma=0.7, valid=valid),
        "token_reward": token_policy_gradient(logp, advantage, MASK, token_reward=token_reward, valid=valid),
        "length_normalised": length_normalised_policy_gradient(logp, advantage, MASK, valid),
        "reinvent": reinvent(sequence, 2 * advantage, advantage, sigma=3.0, valid=valid),
    }


@pytest.mark.parametrize("garbage", [5.0, NAN, math.inf, -math.inf])
def test_an_invalid_sample_has_no_effect(garbage: float) -> None:
    """Neither on the value nor on the gradient, whatever values it and its masked tokens have."""
    valid = torch.tensor([[True, False, True], [False, False, True]])
    advantage = random_logits(2, 3, seed=1)
    clean = leaf()
    dirty = torch.where(valid.unsqueeze(-1) & MASK, clean.detach(), garbage).requires_grad_()
    for name, loss in losses_of(dirty, advantage.masked_fill(~valid, garbage), valid).items():
        (result,) = torch.autograd.grad(loss, dirty, retain_graph=True)
        assert bool(result.isfinite().all()), name
        assert bool(loss.isfinite()), name
        assert bool((result[~valid] == 0).all()), name
        # The same loss with each valid sample as the only one.
        alone = clean.detach().clone().requires_grad_()
        rows = [(0, 0), (0, 2), (1, 2)]
        parts = []
        for b, g in rows:
            only = torch.zeros(2, 3, dtype=torch.bool)
            only[b, g] = True
            parts.append(losses_of(alone, advantage, only)[name])
        expected = torch.stack(parts).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(result, gradient(expected, alone), rtol=1e-12, atol=0)
        assert not torch.allclose(losses_of(clean, advantage, None)[name], expected), name  # control


def test_a_batch_without_valid_samples_has_loss_zero_and_gradient_zero() -> None:
    logp = leaf()
    for loss in losses_of(logp, torch.full((2, 3), NAN), torch.zeros(2, 3, dtype=torch.bool)).values():
        assert float(loss.detach()) == 0
        assert bool((torch.autograd.grad(loss, logp, retain_graph=True)[0] == 0).all())
    assert float(mean_valid(torch.ones(3)).detach()) == 1  # control


def test_nan_where_it_counts_is_an_error() -> None:
    ok, bad = torch.zeros(2, 3), torch.tensor([[0.0, 0, 0], [0, NAN, 0]])
    for call in (
        lambda: policy_gradient(ok, bad),
        lambda: policy_gradient(bad, ok),
        lambda: token_policy_gradient(leaf(), bad, MASK),
        lambda: length_normalised_policy_gradient(leaf(), bad, MASK),
        lambda: reinvent(ok, ok, bad, sigma=1.0),
        lambda: reinvent(ok, bad, ok, sigma=1.0),
        lambda: reinvent(bad, ok, ok, sigma=1.0),
    ):
        with pytest.raises(ValueError, match=r"is NaN at \[1, 1\]"):
            call()
    with pytest.raises(ValueError, match=r"policy_seq_logp \(2, 3\), advantage \(3,\)"):
        policy_gradient(ok, torch.zeros(3))
    policy_gradient(ok, bad, ~bad.isnan())  # control


# --- length normalisation --------------------------------------------------------------------------------


def test_length_normalisation_trains_long_sequences_on_a_fraction_of_their_advantage() -> None:
    logp, advantage = leaf(), random_logits(2, 3, seed=1)
    plain = gradient(token_policy_gradient(logp, advantage, MASK), logp)
    normalised = gradient(length_normalised_policy_gradient(logp, advantage, MASK), logp)
    torch.testing.assert_close(normalised * MASK.sum(-1, keepdim=True), plain)
    assert not torch.allclose(normalised, plain)  # control
    empty = torch.zeros_like(MASK)
    assert float(length_normalised_policy_gradient(logp, advantage, empty).detach()) == 0


# --- REINVENT --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5, 3.0, 128.0])
@pytest.mark.parametrize("seed", range(3))
def test_reinvent_has_the_reverse_gradient_on_policy_only(seed: int, sigma: float) -> None:
    sequences = all_sequences()
    policy = random_logits(len(sequences.prefix_of), VOCABULARY, seed=seed).requires_grad_()
    ref = sequences.seq_logp(random_logits(len(sequences.prefix_of), VOCABULARY, seed=10 + seed))
    reward = random_logits(len(ref), seed=20 + seed)
    logp = sequences.seq_logp(policy)
    objective = exact_objective(logp.exp(), ref.exp(), reward, 1 / sigma, "reverse")
    (exact,) = torch.autograd.grad(-objective, policy, retain_graph=True)

    def expected(sampler: Tensor, sigma: float = sigma) -> Tensor:
        """Weight each completion by its probability under the sampler instead of 1/N, the weight of core's mean."""
        leaf = logp.detach().requires_grad_()
        (coefficient,) = torch.autograd.grad(reinvent(leaf, ref, reward, sigma=sigma), leaf)
        surrogate = (len(leaf) * sampler.detach() * coefficient * logp).sum()
        return torch.autograd.grad(surrogate, policy, retain_graph=True)[0]

    torch.testing.assert_close(expected(logp.exp()), 2 * sigma * exact, rtol=1e-9, atol=1e-10)
    # Controls: completions of the reference, another sigma.
    off_policy = expected(ref.exp())
    assert not torch.allclose(off_policy / off_policy.norm(), exact / exact.norm(), atol=1e-2)
    assert not torch.allclose(expected(logp.exp(), 2 * sigma), 2 * sigma * exact, rtol=1e-2)


@pytest.mark.parametrize("sigma", [0.0, -1.0, NAN])
def test_sigma_is_positive(sigma: float) -> None:
    with pytest.raises(ValueError, match=f"sigma must be > 0, got {sigma}"):
        reinvent(torch.zeros(2), torch.zeros(2), torch.zeros(2), sigma=sigma)


def test_the_policy_gradient_and_reinvent_share_their_fixed_point() -> None:
    """At the reverse-KL target both expected gradients are zero."""
    ref, reward, sigma = random_logp(4, seed=1), random_logits(4, seed=2), 4.0
    target = (ref + sigma * reward).log_softmax(-1)
    for at, moves in ((target, False), (ref, True)):
        by_reinvent = one_token_gradient(lambda y, p: reinvent(p, ref[y], reward[y], sigma=sigma), at, 2)
        by_policy_gradient = one_token_gradient(
            lambda y, p: policy_gradient(p, leave_one_out(reward[y] - (p - ref[y]).detach() / sigma)), at, 2
        )
        for result in (by_reinvent, by_policy_gradient):
            assert (float(result.abs().max()) > 1e-2) == moves
            assert moves or float(result.abs().max()) < 1e-13
