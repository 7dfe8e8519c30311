"""Every KL term: its expected gradient and value, over all outcomes, against the exact divergence."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from core import divergences

from .enumeration import (
    ALPHA,
    DIRECTIONS,
    LOSS_DIRECTIONS,
    VOCABULARY,
    all_sequences,
    divergence,
    random_logits,
    random_logp,
    token_level_divergence,
)

SEQUENCES = all_sequences()
PLACES = [(d, "reward") for d in DIRECTIONS] + [(d, "loss") for d in LOSS_DIRECTIONS]


def term(direction: str, placement: str) -> Callable[..., Tensor]:
    function = divergences.find_divergence(direction).form(placement)
    return partial(function, alpha=ALPHA) if direction == "alpha" else function


def value(direction: str) -> Callable[..., Tensor]:
    function = divergences.DIVERGENCES[direction].value
    return partial(function, alpha=ALPHA) if direction == "alpha" else function


def conditionals(seed: int) -> Tensor:
    return random_logits(len(SEQUENCES.prefix_of), VOCABULARY, seed=seed)


def surrogate(chance: Tensor, term: Tensor, logp: Tensor, placement: str) -> Tensor:
    """The scalar to differentiate: the term itself in the loss, term * log pi in the reward."""
    if placement == "reward":
        assert not term.requires_grad
        term = term * logp
    return (chance.detach().reshape(-1, *[1] * (term.dim() - 1)) * term).sum()


def gradient(scalar: Tensor, parameters: Tensor) -> Tensor:
    return torch.autograd.grad(scalar, parameters, retain_graph=True)[0]


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-12)


# --- expected gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("direction", "placement"), PLACES)
def test_gradient_over_single_outcomes(direction: str, placement: str, seed: int) -> None:
    logits, ref = random_logits(5, seed=seed).requires_grad_(), random_logp(5, seed=10 + seed)
    behaviour = random_logp(5, seed=20 + seed)
    logp = logits.log_softmax(-1)
    exact = gradient(divergence(logits.softmax(-1), ref.exp(), direction), logits)

    on_policy = term(direction, placement)(logp, ref)
    assert same(gradient(surrogate(logp.exp(), on_policy, logp, placement), logits), exact)
    off_policy = term(direction, placement)(logp, ref, behaviour_logp=behaviour)
    assert same(gradient(surrogate(behaviour.exp(), off_policy, logp, placement), logits), exact)

    # Controls: another direction's gradient, and samples of another policy without the weight.
    other = "forward" if direction == "reverse" else "reverse"
    assert not same(exact, gradient(divergence(logits.softmax(-1), ref.exp(), other), logits))
    unweighted = surrogate(behaviour.exp(), term(direction, placement)(logp, ref), logp, placement)
    assert not same(gradient(unweighted, logits), exact)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("direction", "placement"), PLACES)
def test_gradient_of_the_sequence_divergence(direction: str, placement: str, seed: int) -> None:
    policy, ref = conditionals(seed).requires_grad_(), conditionals(10 + seed)
    logp, ref_logp = SEQUENCES.seq_logp(policy), SEQUENCES.seq_logp(ref)
    behaviour = SEQUENCES.seq_logp(conditionals(20 + seed))
    exact = gradient(divergence(logp.exp(), ref_logp.exp(), direction), policy)
    on_policy = term(direction, placement)(logp, ref_logp)
    assert same(gradient(surrogate(logp.exp(), on_policy, logp, placement), policy), exact)
    off_policy = term(direction, placement)(logp, ref_logp, behaviour_logp=behaviour)
    assert same(gradient(surrogate(behaviour.exp(), off_policy, logp, placement), policy), exact)
    unweighted = term(direction, placement)(logp, ref_logp)  # control
    assert not same(gradient(surrogate(behaviour.exp(), unweighted, logp, placement), policy), exact)


def token_surrogate(policy: Tensor, ref: Tensor, sampler: Tensor, direction: str, placement: str, **options: Tensor):
    """Per-token terms over completions of `sampler`, with garbage wherever the mask is False."""
    mask = SEQUENCES.mask
    garbage = torch.full(mask.shape, math.nan, dtype=torch.float64)
    garbage[:, 1::2] = -math.inf
    logp = torch.where(mask, SEQUENCES.token_logp(policy), garbage)
    ref_logp = torch.where(mask, SEQUENCES.token_logp(ref), garbage)
    options = {name: torch.where(mask, option, garbage) for name, option in options.items()}
    terms = term(direction, placement)(logp, ref_logp, mask=mask, **options)
    assert bool((terms[~mask] == 0).all())
    chance = SEQUENCES.seq_logp(sampler).exp()
    return surrogate(chance, terms, torch.where(mask, logp, 0.0), placement)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("direction", "placement"), PLACES)
def test_gradient_of_the_token_divergences(direction: str, placement: str, seed: int) -> None:
    policy, ref, behaviour = conditionals(seed).requires_grad_(), conditionals(10 + seed), conditionals(20 + seed)
    exact = gradient(token_level_divergence(SEQUENCES, policy, ref, direction), policy)
    on_policy = token_surrogate(policy, ref, policy, direction, placement)
    assert same(gradient(on_policy, policy), exact)
    weight = {"behaviour_logp": SEQUENCES.token_logp(behaviour)}
    off_policy = token_surrogate(policy, ref, behaviour, direction, placement, **weight)
    assert same(gradient(off_policy, policy), exact)

    # Control: without the weight; and the sequence divergence is another objective.
    unweighted = token_surrogate(policy, ref, behaviour, direction, placement)
    assert not same(gradient(unweighted, policy), exact)
    whole = divergence(SEQUENCES.seq_logp(policy).exp(), SEQUENCES.seq_logp(ref).exp(), direction)
    assert not same(gradient(whole, policy), exact)


def test_token_and_sequence_level_have_different_optima() -> None:
    """The later tokens are fixed away from the reference, the first token starts at the reference.

    The sequence divergence moves the first token away from the prefixes that lead to them. The token divergences
    leave it at the reference.
    """
    ref = conditionals(0)
    policy = ref.clone()
    policy[3:] = random_logits(4, VOCABULARY, seed=5)  # the last tokens differ from the reference and stay so
    first = policy[:1].clone().requires_grad_()
    table = torch.cat([first, policy[1:]])
    whole = divergence(SEQUENCES.seq_logp(table).exp(), SEQUENCES.seq_logp(ref).exp(), "reverse")
    token = token_level_divergence(SEQUENCES, torch.cat([first, policy[1:]]), ref, "reverse")
    assert float(gradient(whole, first).abs().max()) > 1e-2
    assert float(gradient(token, first).abs().max()) < 1e-12


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_gradient_vanishes_at_the_reference(direction: str) -> None:
    ref = conditionals(1)
    policy = ref.clone().requires_grad_()
    for placement in ("reward", "loss") if direction in LOSS_DIRECTIONS else ("reward",):
        assert float(gradient(token_surrogate(policy, ref, policy, direction, placement), policy).abs().max()) < 1e-14
    policy = (ref + 0.1 * conditionals(2)).requires_grad_()  # control
    assert float(gradient(token_surrogate(policy, ref, policy, direction, "reward"), policy).abs().max()) > 1e-4


# --- well-known mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_k1_in_the_loss_has_zero_expected_gradient(seed: int) -> None:
    logits, ref = random_logits(6, seed=seed).requires_grad_(), random_logp(6, seed=10 + seed)
    logp = logits.log_softmax(-1)
    assert float(gradient(surrogate(logp.exp(), logp - ref, logp, "loss"), logits).abs().max()) < 1e-15
    exact = gradient(divergence(logits.softmax(-1), ref.exp(), "reverse"), logits)
    assert float(exact.abs().max()) > 1e-2  # control: the divergence's gradient is not zero


@pytest.mark.parametrize("seed", range(3))
def test_k3_is_forward_in_the_loss_and_neither_in_the_reward(seed: int) -> None:
    logits, ref = random_logits(6, seed=seed).requires_grad_(), random_logp(6, seed=10 + seed)
    exact = {d: gradient(divergence(logits.softmax(-1), ref.exp(), d), logits) for d in DIRECTIONS}
    logp = logits.log_softmax(-1)
    k3 = torch.expm1(ref - logp) - (ref - logp)
    torch.testing.assert_close((logp.exp() * k3).sum(), divergence(logp.exp(), ref.exp(), "reverse"))  # its value
    in_loss = gradient(surrogate(logp.exp(), k3, logp, "loss"), logits)
    assert same(in_loss, exact["forward"])
    assert not same(in_loss, exact["reverse"])
    in_reward = gradient(surrogate(logp.exp(), k3.detach(), logp, "reward"), logits)
    for scale in (1.0, -1.0):
        assert not any(same(scale * in_reward, exact[direction]) for direction in DIRECTIONS)


@pytest.mark.parametrize("direction", LOSS_DIRECTIONS)
def test_each_loss_term_is_smallest_where_policy_and_reference_agree(direction: str) -> None:
    """Then the gradient of each single sample is 0 there, so the estimate has no variance at the reference."""
    ref = random_logp(6, seed=1)
    at = ref.clone().requires_grad_()
    terms = term(direction, "loss")(at, ref)
    assert terms.tolist() == [0] * 6
    assert gradient(terms.sum(), at).abs().max() < 1e-15
    away = term(direction, "loss")(random_logp(6, seed=2), ref)
    assert bool((away > 0).all())
    noisier = torch.expm1(ref - at) - (at - ref)  # control: 1/u - log u has the right mean only
    assert direction != "forward" or gradient(noisier.sum(), at).abs().max() > 1


@pytest.mark.parametrize("direction", LOSS_DIRECTIONS)
def test_a_reward_term_left_in_the_loss_and_a_value_in_the_reward_are_wrong(direction: str) -> None:
    logits, ref = random_logits(6, seed=1).requires_grad_(), random_logp(6, seed=11)
    exact = gradient(divergence(logits.softmax(-1), ref.exp(), direction), logits)
    logp = logits.log_softmax(-1)
    loss_term_in_reward = term(direction, "loss")(logp, ref).detach()
    assert not same(gradient(surrogate(logp.exp(), loss_term_in_reward, logp, "reward"), logits), exact)
    if direction != "reverse":  # for reverse KL the value, log u, is the reward term
        wrong = surrogate(logp.exp(), value(direction)(logp, ref), logp, "reward")
        assert not same(gradient(wrong, logits), exact)


# --- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_mean_of_a_value_is_the_divergence(direction: str, seed: int) -> None:
    policy, ref = random_logp(6, seed=seed, scale=2), random_logp(6, seed=10 + seed)
    exact = divergence(policy.exp(), ref.exp(), direction)
    values = value(direction)(policy, ref)
    torch.testing.assert_close((policy.exp() * values).sum(), exact, rtol=1e-12, atol=1e-14)
    if direction in ("forward", "alpha"):
        assert bool((values >= -1e-15).all())
    assert abs(float((ref.exp() * values).sum() - exact)) > 1e-3  # control: under other samples it is not
    assert float(exact) > 1e-3
    assert float(value(direction)(ref, ref).abs().max()) < 1e-15
    assert not value(direction)(policy.requires_grad_(), ref).requires_grad


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_the_exact_divergences(direction: str, seed: int) -> None:
    logits, ref = random_logits(2, 6, seed=seed, scale=2).requires_grad_(), random_logp(2, 6, seed=10 + seed)
    exact = term(direction, "exact")(logits.log_softmax(-1), ref)
    expected = divergence(logits.softmax(-1), ref.exp(), direction)
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-14)
    assert same(gradient(exact.sum(), logits), gradient(expected.sum(), logits))
    swapped = term(direction, "exact")(ref, logits.log_softmax(-1))
    torch.testing.assert_close(swapped, divergence(ref.exp(), logits.softmax(-1), direction), rtol=1e-12, atol=1e-14)


def test_jensen_shannon_is_symmetric_and_the_kl_divergences_are_not() -> None:
    policy, ref = random_logp(2, 6, seed=0, scale=2), random_logp(2, 6, seed=1)
    for direction, symmetric in {"jensen_shannon": True, "reverse": False, "forward": False}.items():
        exact = term(direction, "exact")
        assert torch.allclose(exact(policy, ref), exact(ref, policy)) == symmetric


@pytest.mark.parametrize("alpha", [ALPHA, -0.5, 2.0])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_outcomes_without_mass_on_either_side_have_no_effect(direction: str, alpha: float) -> None:
    """Neither on the value nor on the gradient."""
    options = {"alpha": alpha} if direction == "alpha" else {}
    exact = partial(divergences.find_divergence(direction).form("exact"), **options)
    logits, ref = random_logits(4, seed=1).requires_grad_(), random_logp(4, seed=2)
    expected = exact(logits.log_softmax(-1), ref)
    expected_gradient = gradient(expected, logits)

    off = torch.full((2,), -math.inf).double()
    padded = exact(torch.cat([logits, off]).log_softmax(-1), torch.cat([ref, off]))
    torch.testing.assert_close(padded, expected, rtol=1e-12, atol=0)
    assert same(gradient(padded, logits), expected_gradient)


def test_mass_off_the_other_support_is_infinite_only_where_it_must_be() -> None:
    half, whole = torch.tensor([0.5, 0.5, 0.0]).double().log(), torch.tensor([0.25, 0.25, 0.5]).double().log()
    log_2 = math.log(2)
    assert float(divergences.exact_reverse_kl(whole, half)) == math.inf
    assert abs(float(divergences.exact_reverse_kl(half, whole)) - log_2) < 1e-15
    assert float(divergences.exact_forward_kl(half, whole)) == math.inf
    assert abs(float(divergences.exact_forward_kl(whole, half)) - log_2) < 1e-15
    assert 0 < float(divergences.exact_jensen_shannon(half, whole)) < log_2
    disjoint = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double().log()
    assert abs(float(divergences.exact_jensen_shannon(disjoint[0], disjoint[1])) - log_2) < 1e-15
    assert float(divergences.exact_alpha(whole, half, alpha=2.0)) == math.inf
    assert float(divergences.exact_alpha(half, whole, alpha=2.0)) < math.inf
    assert float(divergences.exact_alpha(half, whole, alpha=-1.0)) == math.inf
    assert float(divergences.exact_alpha(whole, half, alpha=0.5)) < math.inf


def test_alpha_tends_to_forward_and_reverse() -> None:
    policy, ref = random_logp(5, seed=3), random_logp(5, seed=4)
    for limit, direction, shift in ((0.0, "forward", 1.0), (1.0, "reverse", 0.0)):
        exact = divergences.find_divergence(direction).form("exact")(policy, ref)
        near = divergences.exact_alpha(policy, ref, alpha=limit + 1e-6)
        far = divergences.exact_alpha(policy, ref, alpha=limit + 0.3)
        assert abs(float(near - exact)) < 1e-5 < abs(float(far - exact))
        reward = divergences.find_divergence(direction).form("reward")(policy, ref) + shift  # up to a constant
        torch.testing.assert_close(
            divergences.alpha_reward(policy, ref, alpha=limit + 1e-7), reward, rtol=0, atol=1e-5
        )


def test_entropy_reward_has_the_gradient_of_the_entropy() -> None:
    logits, behaviour = random_logits(6, seed=1).requires_grad_(), random_logp(6, seed=2)
    logp = logits.log_softmax(-1)
    exact = gradient(torch.special.entr(logits.softmax(-1)).sum(), logits)
    assert same(gradient(surrogate(logp.exp(), divergences.entropy_reward(logp), logp, "reward"), logits), exact)
    weighted = divergences.entropy_reward(logp, behaviour_logp=behaviour)
    assert same(gradient(surrogate(behaviour.exp(), weighted, logp, "reward"), logits), exact)
    unweighted = surrogate(behaviour.exp(), divergences.entropy_reward(logp), logp, "reward")  # control
    assert not same(gradient(unweighted, logits), exact)
    mask = torch.tensor([True, False, True, True, False, True])
    with_nan = logp.detach().masked_fill(~mask, math.nan)
    torch.testing.assert_close(
        divergences.entropy_reward(with_nan, mask=mask), -logp.detach().masked_fill(~mask, 0.0)
    )


# --- forward KL over long sequences ----------------------------------------------------------------------


def test_completions_of_the_reference_have_a_bounded_forward_gradient() -> None:
    """behaviour_logp = ref_logp: -1 for every sequence, and the exact gradient."""
    policy, ref = conditionals(1).requires_grad_(), conditionals(2)
    logp, ref_logp = SEQUENCES.seq_logp(policy), SEQUENCES.seq_logp(ref)
    terms = divergences.forward_kl_reward(logp, ref_logp, behaviour_logp=ref_logp)
    torch.testing.assert_close(terms, -torch.ones_like(terms))
    exact = gradient(divergence(SEQUENCES.seq_logp(policy).exp(), ref_logp.exp(), "forward"), policy)
    assert same(gradient(surrogate(ref_logp.exp(), terms, logp, "reward"), policy), exact)
    assert float(divergences.forward_kl_reward(logp, ref_logp).std()) > 0.1  # control: on-policy weights spread


def test_weights_of_a_thousand_nats_cancel_in_log_space() -> None:
    logp, ref_logp = torch.tensor([-2000.0, -1000.0]), torch.tensor([-1000.0, -2000.0])
    assert divergences.forward_kl_reward(logp, ref_logp, behaviour_logp=ref_logp).tolist() == [-1, -1]
    assert divergences.forward_kl_reward(logp, ref_logp).tolist() == [-math.inf, 0]  # control


def test_the_cap_applies_only_where_it_is_exceeded() -> None:
    policy, ref = random_logp(6, seed=1, scale=2), random_logp(6, seed=2, scale=2)
    free = divergences.forward_kl_reward(policy, ref)
    cap = 0.5
    capped = divergences.forward_kl_reward(policy, ref, max_log_weight=cap)
    binds = ref - policy > cap
    assert bool(binds.any())
    assert not bool(binds.all())
    torch.testing.assert_close(capped[~binds], free[~binds], rtol=0, atol=0)
    assert bool((capped[binds] == -math.exp(cap)).all())
    assert bool((free[binds] < capped[binds]).all())


# --- weights and detached arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "placement"), PLACES)
def test_per_token_weights_are_those_of_the_prefix(direction: str, placement: str) -> None:
    """Weights of the whole completion would have the same expectation but more variance."""
    logp, ref, behaviour = (random_logp(4, 3, seed=seed) for seed in (1, 2, 3))
    mask = torch.tensor([[True] * 3, [True, True, False], [True, False, False], [True] * 3])
    weight = torch.where(mask, logp - behaviour, 0.0)
    weighted = term(direction, placement)(logp, ref, behaviour_logp=behaviour, mask=mask)
    plain = term(direction, placement)(logp, ref, mask=mask)
    torch.testing.assert_close(weighted, weight.cumsum(-1).exp() * plain)
    whole = weight.sum(-1, keepdim=True).exp() * plain  # control
    torch.testing.assert_close(weighted[:, 2], whole[:, 2])
    assert not torch.allclose(weighted[:, 0], whole[:, 0])


@pytest.mark.parametrize(("direction", "placement"), PLACES)
def test_only_the_policy_has_a_gradient_and_only_in_the_loss(direction: str, placement: str) -> None:
    logp, ref, behaviour = (random_logits(5, seed=seed).requires_grad_() for seed in (1, 2, 3))
    terms = term(direction, placement)(logp, ref, behaviour_logp=behaviour)
    assert terms.requires_grad == (placement == "loss")
    if placement == "loss":
        gradients = torch.autograd.grad(terms.sum(), (logp, ref, behaviour), allow_unused=True)
        assert gradients[0].abs().max() > 0
        assert gradients[1] is None
        assert gradients[2] is None


# --- masks, shapes and names -----------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "placement"), PLACES)
def test_masked_entries_affect_neither_value_nor_gradient(direction: str, placement: str) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    clean = random_logp(2, 3, seed=1), random_logp(2, 3, seed=2), random_logp(2, 3, seed=3)
    results = []
    for garbage in (0.0, math.nan, -math.inf):
        logp, ref, behaviour = (x.masked_fill(~mask, garbage) for x in clean)
        logp.requires_grad_()
        terms = term(direction, placement)(logp, ref, behaviour_logp=behaviour, mask=mask)
        scalar = (terms * torch.where(mask, logp, 0.0)).sum()
        results.append(torch.cat([terms.detach(), gradient(scalar, logp)]))
    assert results[0].isfinite().all()
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    counted = clean[0].masked_fill(mask, math.nan)
    assert term(direction, placement)(counted, clean[1], mask=mask)[mask].isnan().all()  # control


@pytest.mark.parametrize(("direction", "placement"), PLACES)
def test_shapes_and_masks_are_checked(direction: str, placement: str) -> None:
    function, x = term(direction, placement), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"policy_logp \(2, 3\), ref_logp \(3,\)"):
        function(x, torch.zeros(3))
    with pytest.raises(ValueError, match=r"policy_logp \(2, 3\), behaviour_logp \(2, 1\)"):
        function(x, x, behaviour_logp=torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"policy_logp \(2, 3\), mask \(2,\)"):
        function(x, x, mask=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask must be bool, got torch\.int64"):
        function(x, x, mask=torch.ones(2, 3, dtype=torch.long))
    assert function(x, x, mask=torch.ones(2, 3, dtype=torch.bool)).shape == (2, 3)  # control


def test_form_returns_the_function_of_that_name_or_the_error_names_the_available_ones() -> None:
    assert divergences.find_divergence("reverse").form("loss") is divergences.reverse_kl_loss
    assert divergences.find_divergence("forward").form("exact") is divergences.exact_forward_kl
    for direction in DIRECTIONS:
        record = divergences.find_divergence(direction)
        available = [placement for placement in divergences.PLACEMENTS if getattr(record, placement) is not None]
        assert {"reward", "exact"} <= set(available)
        assert all(record.form(placement) is getattr(record, placement) for placement in available)
    with pytest.raises(ValueError, match=r"jensen_shannon has no loss form; use reward or reference or exact"):
        divergences.find_divergence("jensen_shannon").form("loss")
    with pytest.raises(ValueError, match=r"placement must be one of reward, loss, reference, exact, got 'k3'"):
        divergences.find_divergence("reverse").form("k3")
    with pytest.raises(ValueError, match=r"direction: must be one of .*forward.* got 'sideways'"):
        divergences.find_divergence("sideways").form("reward")


def test_alpha_is_refused_where_another_function_is_meant() -> None:
    x = torch.zeros(2)
    functions = (divergences.alpha_reward, divergences.alpha_loss, divergences.exact_alpha, divergences.alpha_value)
    for function in functions:
        with pytest.raises(ValueError, match=r"use forward_kl_\*"):
            function(x, x, alpha=0)
        with pytest.raises(ValueError, match=r"use reverse_kl_\*"):
            function(x, x, alpha=1.0)
        with pytest.raises(ValueError, match="finite alpha"):
            function(x, x, alpha=math.nan)
        function(x, x, alpha=0.5)  # control


# --- divergences from functions of log u ------------------------------------------------------------------

OWN = {  # f, f' and g of log u; what they must equal, and the factor between the two
    "reverse": (lambda x: x.exp() * x, lambda x: x, lambda x: x.square() / 2, "reverse", 1.0),
    "forward": (lambda x: -x, lambda x: -(-x).exp(), lambda x: torch.expm1(-x) + x, "forward", 1.0),
    "squared_hellinger": (
        lambda x: torch.expm1(x / 2).square() / 2,
        lambda x: -torch.expm1(-x / 2) / 2,
        lambda x: torch.expm1(-x / 2) + x / 2,
        "alpha",
        4.0,  # D_alpha at alpha = 1/2 is four times the squared Hellinger distance
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_a_divergence_from_its_functions_is_the_built_in_one(name: str) -> None:
    f, derivative, surrogate_, other, factor = OWN[name]
    own = divergences.f_divergence(name, f, derivative, surrogate=surrogate_)
    alpha = {"alpha": 0.5} if other == "alpha" else {}
    logits, ref = random_logits(5, seed=0).requires_grad_(), random_logp(5, seed=1)
    logp, behaviour = logits.log_softmax(-1), random_logp(5, seed=2)

    def built_in(placement: str) -> Callable[..., Tensor]:
        return partial(divergences.DIVERGENCES[other].form(placement), **alpha)

    for options in ({}, {"behaviour_logp": behaviour}):
        assert same(factor * own.form("reward")(logp, ref, **options), built_in("reward")(logp, ref, **options))
        assert same(factor * own.form("loss")(logp, ref, **options), built_in("loss")(logp, ref, **options))
    exact = gradient(built_in("exact")(logp, ref), logits)
    assert same(factor * gradient(own.form("exact")(logp, ref), logits), exact)
    assert same(factor * gradient((ref.exp() * own.form("reference")(logp, ref)).sum(), logits), exact)
    mean = (logp.exp() * own.value(logp, ref)).sum()
    assert same(factor * mean, built_in("exact")(logp, ref))
    # Control: the functions of another divergence.
    wrong = divergences.f_divergence(name, f, lambda x: 2 * x, surrogate=lambda x: x.square())
    for placement in ("reward", "loss"):
        assert not same(factor * wrong.form(placement)(logp, ref), built_in(placement)(logp, ref))


def test_a_divergence_without_a_surrogate_has_no_loss_form_and_masks_apply() -> None:
    f, derivative, *_ = OWN["squared_hellinger"]
    own = divergences.f_divergence("squared_hellinger", f, derivative)
    with pytest.raises(ValueError, match="squared_hellinger"):
        own.form("loss")
    mask = torch.tensor([[True, False], [True, True]])
    masked = own.form("reward")(torch.full((2, 2), -1.0), torch.full((2, 2), -2.0), mask=mask)
    assert masked[0, 1] == 0
    assert bool((masked[mask] != 0).all())
