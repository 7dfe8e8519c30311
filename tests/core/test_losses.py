"""Losses: expected gradients over every outcome, slow references, and what is invalid."""

import math

import pytest
import torch
from torch import Tensor

from core.advantages import leave_one_out
from core.losses import (
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
    """Token by token: discount the advantage once for each completion token that follows."""
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
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("left_padded", [False, True])
def test_token_policy_gradient_agrees_with_a_slow_reference(gamma: float, own: bool, left_padded: bool) -> None:
    mask = MASK.flip(-1) if left_padded else MASK
    logp, advantage = leaf(), random_logits(2, 3, seed=1)
    token_reward = random_logits(2, 3, 4, seed=2) if own else None
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


# --- what invalid samples and masked tokens hold ---------------------------------------------------------


def losses_of(logp: Tensor, advantage: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
    sequence = torch.where(MASK, logp, 0.0).sum(-1)
    own = advantage.unsqueeze(-1) * torch.ones_like(logp)
    return {
        "policy_gradient": policy_gradient(sequence, advantage, valid),
        "token_policy_gradient": token_policy_gradient(logp, advantage, MASK, gamma=0.7, valid=valid),
        "token_reward": token_policy_gradient(logp, advantage, MASK, token_reward=own, valid=valid),
        "length_normalised": length_normalised_policy_gradient(logp, advantage, MASK, valid),
        "reinvent": reinvent(sequence, 2 * advantage, advantage, sigma=3.0, valid=valid),
    }


@pytest.mark.parametrize("garbage", [5.0, NAN, math.inf, -math.inf])
def test_an_invalid_sample_is_as_if_it_were_not_there(garbage: float) -> None:
    """In value and gradient, whatever its advantage, its log-probabilities and its masked tokens hold."""
    valid = torch.tensor([[True, False, True], [False, False, True]])
    advantage = random_logits(2, 3, seed=1)
    clean = leaf()
    held = torch.where(valid.unsqueeze(-1) & MASK, clean.detach(), garbage).requires_grad_()
    for name, loss in losses_of(held, advantage.masked_fill(~valid, garbage), valid).items():
        (result,) = torch.autograd.grad(loss, held, retain_graph=True)
        assert bool(result.isfinite().all()) and bool(loss.isfinite()), name
        assert bool((result[~valid] == 0).all()), name
        # The same loss of the valid samples alone: one group each, so that nothing else is left.
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
        """One completion a row, weighted by its chance under the sampler: core's mean counts each row 1/N."""
        held = logp.detach().requires_grad_()
        (coefficient,) = torch.autograd.grad(reinvent(held, ref, reward, sigma=sigma), held)
        surrogate = (len(held) * sampler.detach() * coefficient * logp).sum()
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
