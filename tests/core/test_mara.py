"""MARA on whole outcome sets: good samples, the anchor, the optima of both algorithms, thresholds and edge cases."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy
import pytest
import torch
from torch import Tensor

from core.advantages import pass_at_k
from core.divergences import find_divergence
from core.mara import (
    anchor_reference,
    augment_reward,
    cross_fitted_anchor,
    exceeds,
    quantile_threshold,
    reaches,
    reference_quantile,
    select_anchor,
)
from core.stats import coefficient_of_variation
from core.targets import forward_kl_target, reverse_kl_target

from .enumeration import random_logits, random_logp

INF, NAN = math.inf, math.nan


def target(direction: str, reward: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    return {"reverse": reverse_kl_target, "forward": forward_kl_target}[direction](ref_logp, reward, beta)


# --- optima, with the anchor taken over all outcomes -----------------------------------------------------


@pytest.mark.parametrize("beta", [1e-4, 1e-2, 0.3, 10.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_uniform_over_the_good_outcomes(seed: int, beta: float) -> None:
    ref = random_logp(9, seed=seed, scale=3)
    reward = torch.tensor([1, 1.2, 0, 1, -1, 1.7, 0.9, 0, 1]).double()
    good = reward >= 1
    augmented = augment_reward(reward, ref, beta=beta, threshold=1.0)
    reward_2, ref_2 = anchor_reference(reward, ref, threshold=1.0)
    optima = {
        "Algorithm 1, reverse": target("reverse", augmented, ref, beta),
        "Algorithm 2, reverse": target("reverse", reward_2, ref_2, beta),
        "Algorithm 2, forward": target("forward", reward_2, ref_2, beta),
    }
    for name, optimum in optima.items():
        shares = optimum.exp()[good]
        assert float((shares / shares.mean() - 1).abs().max()) < 1e-9, name
        assert float(shares.sum()) > 0, name

    # The good outcomes have the mass of the anchor, the others that of the vanilla target.
    anchor = int(ref.masked_fill(~good, -INF).argmax())
    log_mass = ref + reward / beta
    expected = torch.where(good, log_mass[anchor], log_mass).log_softmax(-1)
    torch.testing.assert_close(optima["Algorithm 1, reverse"], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(optima["Algorithm 2, reverse"], expected, rtol=1e-9, atol=1e-9)

    # Controls: without MARA, and Algorithm 1 under forward KL.
    for direction, r in (("reverse", reward), ("forward", reward), ("forward", augmented)):
        shares = target(direction, r, ref, beta).exp()[good]
        assert float(coefficient_of_variation(shares)) > 0.3
    # Outcomes that are not good are unchanged.
    assert torch.equal(augmented[~good], reward[~good])
    assert torch.equal(ref_2[~good], ref[~good])


STRICTLY_CONVEX: dict[str, Callable[[Tensor], Tensor]] = {  # f(u), u = pi / ref
    "reverse": lambda u: u * u.log(),
    "forward": lambda u: -u.log(),
    "jensen_shannon": lambda u: (u * (2 * u / (1 + u)).log() + (2 / (1 + u)).log()) / 2,
    "alpha(.5)": lambda u: -4 * u.sqrt(),
    "alpha(2)": lambda u: u.square() / 2,
    "another": lambda u: u**3 + (-u).exp(),
}


def optimum_of(f: Callable[[Tensor], Tensor], reward: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    """Maximise sum pi R - beta sum ref f(pi / ref) over all distributions, by L-BFGS on the logits."""
    logits = torch.zeros_like(reward, requires_grad=True)
    ref = ref_logp.exp()
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=3000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        policy = logits.softmax(-1)
        value = beta * (ref * f(policy / ref)).sum() - (policy * reward).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return logits.detach().softmax(-1)


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("name", STRICTLY_CONVEX)
def test_algorithm_2_is_uniform_under_every_strictly_convex_divergence(name: str, beta: float) -> None:
    """R' - beta f'(pi / ref') is constant where pi > 0, and f' is one-to-one: pi / ref' is the same for the good."""
    ref = random_logp(7, seed=1)
    reward = torch.tensor([1, 1.3, 0, 1, 0.4, 1, 0]).double()
    good, f = reward >= 1, STRICTLY_CONVEX[name]
    anchored = anchor_reference(reward, ref, threshold=1.0)
    optimum = optimum_of(f, *anchored, beta)
    assert float(coefficient_of_variation(optimum[good])) < 1e-5
    assert float(optimum[good].sum()) > 0.4
    if name in ("reverse", "forward"):  # the optimiser finds what is known in closed form
        torch.testing.assert_close(optimum, target(name, *anchored, beta).exp(), rtol=0, atol=1e-6)
    for r, other in ((reward, "vanilla"), (augment_reward(reward, ref, beta=beta, threshold=1.0), "Algorithm 1")):
        if (name, other) != ("reverse", "Algorithm 1"):  # controls
            assert float(coefficient_of_variation(optimum_of(f, r, ref, beta)[good])) > 0.05, other


def figure_5() -> tuple[Tensor, Tensor, Tensor]:
    index = torch.arange(100).double()
    ref = (1 - index / 100).pow(4)
    reward = ((index < 25) | ((index >= 50) & (index < 75))).double()
    return reward, (ref / ref.sum()).log(), reward >= 1


@pytest.mark.parametrize("beta", [0.01, 1.0])
def test_figure_5(beta: float) -> None:
    reward, ref, good = figure_5()
    augmented = augment_reward(reward, ref, beta=beta, threshold=1.0)
    anchored = anchor_reference(reward, ref, threshold=1.0)
    for direction in ("reverse", "forward"):
        vanilla = target(direction, reward, ref, beta).exp()
        assert abs(float(vanilla[:25].sum() / vanilla[good].sum()) - 0.96) < 0.005  # 96:4 between the plateaus
        assert float(coefficient_of_variation(target(direction, *anchored, beta).exp()[good])) < 1e-9
    assert float(coefficient_of_variation(target("reverse", augmented, ref, beta).exp()[good])) < 1e-9

    # Control: Algorithm 1 under forward KL piles onto the least likely good outcome.
    piled = target("forward", augmented, ref, beta).exp()
    assert abs(float(coefficient_of_variation(piled[good])) - 5.75) < 0.05
    assert int(piled.argmax()) == 74
    assert float(piled[74] / piled[good].sum()) > 0.8


def test_both_algorithms_share_the_reverse_gradient() -> None:
    """E_pi[(R' - beta log(pi/ref')) grad log pi]: both have the same factor of grad log pi (appendix B.8)."""
    logits, ref = random_logits(7, seed=1).requires_grad_(), random_logp(7, seed=2, scale=2)
    reward, beta = torch.tensor([1, 0, 1, 1, 0, 1, 0]).double(), 0.2
    logp = logits.log_softmax(-1)

    def gradient(reward: Tensor, ref: Tensor) -> Tensor:
        shaped = reward - beta * (logp - ref)
        return torch.autograd.grad((logp.exp().detach() * shaped.detach() * logp).sum(), logits, retain_graph=True)[0]

    first = gradient(augment_reward(reward, ref, beta=beta, threshold=1.0), ref)
    second = gradient(*anchor_reference(reward, ref, threshold=1.0))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)
    assert (first - gradient(reward, ref)).abs().max() > 1e-2  # control: without MARA
    other_beta = gradient(augment_reward(reward, ref, beta=2 * beta, threshold=1.0), ref)
    assert (first - other_beta).abs().max() > 1e-2  # control: a beta that is not the objective's


def test_entropy_regularisation_keeps_it_uniform() -> None:
    ref, reward = random_logp(5, seed=1, scale=2), torch.tensor([1.0, 1, 0, 1, 0]).double()
    augmented = augment_reward(reward, ref, beta=0.3, threshold=1.0)
    shares = reverse_kl_target(ref, augmented, 0.3, 0.3).exp()[reward >= 1]
    assert float(coefficient_of_variation(shares)) < 1e-12
    control = reverse_kl_target(ref, reward, 0.3, 0.3).exp()[reward >= 1]
    assert float(coefficient_of_variation(control)) > 0.1


# --- good and anchor -------------------------------------------------------------------------------------


def test_the_anchor_is_the_likeliest_good_sample() -> None:
    reward = torch.tensor([[0.0, 1.0, 2.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    ref = torch.tensor([[-0.1, -2.0, -1.0, -3.0], [-5.0, -4.0, -1.0, -1.0]])
    anchor, good = select_anchor(reward, ref, 1.0)
    assert good.tolist() == [[False, True, True, True], [True, True, False, False]]
    assert anchor.tolist() == [[2], [1]]
    anchor, good = select_anchor(reward, ref, torch.tensor([[2.0], [0.0]]))  # one threshold a group
    assert anchor.tolist() == [[2], [2]]
    assert good.tolist() == [[False, False, True, False], [True] * 4]
    assert augment_reward(reward, ref, beta=0.5, threshold=1.0).tolist() == [[0, 2.5, 2, 3], [1.5, 1, 0, 0]]
    anchored_reward, anchored_ref = anchor_reference(reward, ref, threshold=1.0)
    assert anchored_reward.tolist() == [[0, 2, 2, 2], [1, 1, 0, 0]]
    assert anchored_ref[0].tolist() == pytest.approx([-0.1, -1, -1, -1])


def test_the_anchor_of_equally_likely_good_samples_has_the_highest_reward_then_is_the_first() -> None:
    ref = torch.tensor([-1.0, -1.0, -1.0, -2.0])
    assert select_anchor(torch.tensor([1.0, 2.0, 2.0, 9.0]), ref, 1.0)[0].tolist() == [1]
    assert select_anchor(torch.tensor([1.0, 1.0, 1.0, 9.0]), ref, 1.0)[0].tolist() == [0]
    # If tied samples have equal rewards, it does not matter which of them is the anchor ...
    reward = torch.tensor([1.0, 1.0, 0.0, 1.0])
    assert augment_reward(reward, ref, beta=0.5, threshold=1.0).tolist() == [1, 1, 0, 1.5]
    # ... and the order of the samples never matters.
    reward, order = torch.tensor([1.0, 2.0, 2.0, 1.5]), torch.tensor([3, 1, 0, 2])
    augmented = augment_reward(reward, ref, beta=0.5, threshold=1.0)
    assert torch.equal(augment_reward(reward[order], ref[order], beta=0.5, threshold=1.0), augmented[order])
    assert augmented.tolist() == [2, 2, 2, 2.5]  # control: R(z) = 2, not the first tied one's 1


def test_samples_off_the_references_support_are_never_good() -> None:
    reward, ref = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([-INF, -1.0, -3.0])
    anchor, good = select_anchor(reward, ref, 1.0)
    assert good.tolist() == [False, True, True]
    assert anchor.tolist() == [1]
    augmented = augment_reward(reward, ref, beta=1.0, threshold=1.0)
    assert augmented.tolist() == [1, 1, 3]
    nowhere = torch.full((3,), -INF)
    assert torch.equal(augment_reward(reward, nowhere, beta=1.0, threshold=1.0), reward)


def groups(good: int) -> tuple[Tensor, Tensor]:
    reward = torch.tensor([1.0] * good + [0.25] * (4 - good)).double()
    return reward, random_logp(4, seed=3, scale=2)


@pytest.mark.parametrize("good", range(5))
def test_a_group_with_none_one_some_or_all_good(good: int) -> None:
    reward, ref = groups(good)
    augmented = augment_reward(reward, ref, beta=0.3, threshold=1.0)
    anchored = anchor_reference(reward, ref, threshold=1.0)
    if good < 2:  # nothing to equalise
        assert torch.equal(augmented, reward)
        assert torch.equal(anchored[0], reward)
        assert torch.equal(anchored[1], ref)
        return
    best = float(ref[:good].max())
    torch.testing.assert_close(augmented[:good], 1 + 0.3 * (best - ref[:good]))
    assert bool((anchored[1][:good] == best).all())
    assert torch.equal(augmented[good:], reward[good:])
    assert torch.equal(anchored[1][good:], ref[good:])
    assert not torch.equal(augmented, reward)  # control


def test_invalid_samples_are_never_good_and_never_the_anchor_whatever_their_values() -> None:
    reward, ref = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([-1.0, -2.0, -4.0, -1.0])
    valid = torch.tensor([False, True, True, True])
    without = augment_reward(reward[1:], ref[1:], beta=0.5, threshold=1.0)
    for garbage in (9.0, NAN, INF, -INF):
        r, f = reward.clone(), ref.clone()
        r[0] = f[0] = garbage
        augmented = augment_reward(r, f, beta=0.5, threshold=1.0, valid=valid)
        assert torch.equal(augmented[1:], without)
        assert torch.equal(augmented[:1], r[:1]) or math.isnan(garbage)
        anchored_reward, anchored_ref = anchor_reference(r, f, threshold=1.0, valid=valid)
        assert anchored_ref[1:].tolist() == [-2, -2, -1]
        assert anchored_reward[1:].tolist() == [1, 1, 0]
    assert not torch.equal(
        augment_reward(reward, ref, beta=0.5, threshold=1.0)[1:], without
    )  # control: a valid first sample is the anchor
    none = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(augment_reward(reward, ref, beta=0.5, threshold=1.0, valid=none), reward)


def test_nan_in_a_valid_entry_and_wrong_shapes_are_errors() -> None:
    reward, ref = torch.zeros(2, 3), torch.zeros(2, 3)
    reward[1, 2] = NAN
    with pytest.raises(ValueError, match=r"reward is NaN at \[1, 2\].*mark such samples as not valid"):
        augment_reward(reward, ref, beta=1.0, threshold=0.0)
    with pytest.raises(ValueError, match=r"ref_seq_logp is NaN at \[1, 2\]"):
        anchor_reference(ref, reward, threshold=0.0)
    with pytest.raises(ValueError, match=r"reward \(2, 3\), ref_seq_logp \(3,\)"):
        augment_reward(torch.zeros(2, 3), torch.zeros(3), beta=1.0, threshold=0.0)
    with pytest.raises(ValueError, match=r"valid must be bool, got torch\.int64"):
        augment_reward(ref, ref, beta=1.0, threshold=0.0, valid=torch.ones(2, 3, dtype=torch.long))
    augment_reward(reward, ref, beta=1.0, threshold=0.0, valid=~reward.isnan())  # control: marked as invalid


@pytest.mark.parametrize("beta", [0.0, -1.0, NAN, INF])
def test_beta_must_be_positive(beta: float) -> None:
    with pytest.raises(ValueError, match=f"finite beta > 0, got {beta}.*use identity"):
        augment_reward(torch.ones(2), torch.zeros(2), beta=beta, threshold=1.0)
    augment_reward(torch.ones(2), torch.zeros(2), beta=1e-9, threshold=1.0)  # control


def test_inputs_are_not_modified_and_dtypes_kept() -> None:
    reward, ref = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([-1.0, -3.0, -2.0])
    copies = reward.clone(), ref.clone()
    augmented = augment_reward(reward, ref, beta=1.0, threshold=1.0)
    anchored = anchor_reference(reward, ref, threshold=1.0)
    assert torch.equal(reward, copies[0])
    assert torch.equal(ref, copies[1])
    assert augmented.dtype == anchored[1].dtype == torch.float32
    assert not torch.equal(augmented, reward)  # control


# --- the comparison with a threshold ---------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [i / 20 for i in range(1, 21)] + [i / 100 for i in range(1, 100)])
def test_a_reward_equal_to_the_threshold_reaches_it_in_every_form(threshold: float) -> None:
    """As a float, a float32 or float64 tensor, and a list of what a float32 tensor holds (.7 is then .69999999)."""
    held = torch.tensor([threshold, threshold - 1e-6, threshold + 1e-6, NAN])
    expected = [True, False, True, False]
    assert reaches(held, threshold).tolist() == expected
    assert reaches(held.double(), threshold).tolist() == expected
    assert reaches(held.tolist(), threshold).tolist() == expected
    assert reaches([threshold, threshold - 1e-6, threshold + 1e-6, NAN], threshold).tolist() == expected
    assert reaches(held, torch.full((4,), threshold, dtype=torch.float64)).tolist() == expected
    assert exceeds(held.tolist(), threshold).tolist() == [False, False, True, False]
    good = select_anchor(held[:3], torch.zeros(3), threshold)[1]
    assert good.tolist() == expected[:3]
    assert (pass_at_k(held[:3], k=1, threshold=threshold) > 0).tolist() == expected[:3]


def test_a_plain_comparison_of_lists_disagrees_with_tensors() -> None:
    """The control: .7, .9 and .95 are good as float32 tensors and are not at least .7, .9 and .95 as floats."""
    for threshold in (0.7, 0.9, 0.95):
        held = torch.tensor([threshold])
        assert bool(held >= threshold)
        assert not held.tolist()[0] >= threshold
    assert torch.tensor([0.6]).tolist()[0] > 0.6  # and a score would be above a threshold that it equals


def test_thresholds_of_float64_tensors_are_compared_in_float64() -> None:
    """A quantile of float64 rewards separates rewards that float32 cannot."""
    reward = torch.tensor([1.0, 1.0 + 1e-12, 1.0 + 2e-12], dtype=torch.float64)
    assert reaches(reward, quantile_threshold(reward, 0.5)).tolist() == [False, True, True]
    assert reaches(reward.half(), 1.0).all()
    assert reaches([], 1.0).tolist() == []
    assert reaches([1, 0], 1).tolist() == [True, False]


# --- quantile thresholds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.77, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_quantiles_agree_with_torch_and_numpy(seed: int, q: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    reward = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    valid = torch.rand(6, 9, generator=generator) < 0.7
    valid[0], valid[1, 1:] = True, False
    with_nan = reward.masked_fill(~valid, NAN)
    threshold = quantile_threshold(with_nan, q, valid=valid)
    assert threshold.shape == (6, 1)
    expected = torch.nanquantile(with_nan, q, dim=-1, keepdim=True)
    lowest = torch.where(valid, reward, INF).amin(-1, keepdim=True)
    changed = expected > lowest
    torch.testing.assert_close(threshold[changed], expected[changed], rtol=1e-12, atol=0)
    assert bool((threshold[~changed] == INF).all())
    assert abs(float(quantile_threshold(reward, q)[0]) - numpy.quantile(reward[0].numpy(), q)) < 1e-12 or q == 0
    if 0 < q < 1:  # control: with the invalid samples the quantile is another
        assert not torch.allclose(quantile_threshold(reward, q)[2:], threshold[2:])


def test_the_sample_at_the_quantile_is_good_for_every_group_size() -> None:
    """Against exact fractions, for every size below 130 and q in steps of .01, with rewards in float32."""
    sizes = torch.arange(2, 130)
    valid = torch.arange(129) < sizes.unsqueeze(1)
    reward = torch.arange(129).float().expand(128, 129)
    left_out_in = {torch.float32: 0, torch.float64: 0}
    for percent in range(1, 100):
        q = percent / 100
        exact = [Fraction(percent, 100) * (n - 1) for n in sizes.tolist()]
        expected = [n - math.ceil(position) for n, position in zip(sizes.tolist(), exact, strict=True)]
        good = reaches(reward, quantile_threshold(reward.masked_fill(~valid, NAN), q, valid=valid)) & valid
        assert good.sum(-1).tolist() == expected
        if percent % 5 == 0:  # groups in which all samples count
            whole = [torch.arange(n).float() for n in sizes.tolist()]
            assert [int(reaches(group, quantile_threshold(group, q)).sum()) for group in whole] == expected
            for dtype in left_out_in:  # controls: the position without rounding
                positions = (q * (sizes - 1).to(dtype)).ceil().tolist()
                left_out_in[dtype] += sum(
                    wrong != math.ceil(right) for wrong, right in zip(positions, exact, strict=True)
                )
    assert left_out_in[torch.float32] == 12  # such as q = .6 of 26
    assert 0.28 * 25 > 7  # in float64 the multiples of .05 are right, but not .28


def test_a_quantile_that_would_make_all_good_leaves_the_group_unchanged() -> None:
    reward = torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 5.0], [1.0, 2.0, 3.0, 4.0]])
    ref = torch.tensor([-1.0, -2.0, -3.0, -4.0]).expand(3, 4)
    threshold = quantile_threshold(reward, 0.5)
    assert threshold.tolist() == [[INF], [INF], [2.5]]
    assert int(threshold.isinf().sum()) == 2  # the metric counts these
    augmented = augment_reward(reward, ref, beta=1.0, threshold=threshold)
    assert torch.equal(augmented[:2], reward[:2])
    assert augmented[2].tolist() == [1, 2, 3, 4]  # the anchor is the third, the fourth gets 3 + 1
    assert augment_reward(reward, ref, beta=1.0, threshold=2.0)[0].tolist() == [2, 3, 4, 5]  # control: a constant


def test_the_floor_raises_only_quantiles_below_it() -> None:
    reward = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.8, 0.9, 1.0], [0.9, 0.9, 0.9, 0.9]])
    threshold = quantile_threshold(reward, 0.5, floor=0.6)
    torch.testing.assert_close(threshold, torch.tensor([[0.6], [0.85], [INF]]))
    assert select_anchor(reward, torch.zeros(3, 4), threshold)[1].sum(-1).tolist() == [0, 2, 0]
    assert float(quantile_threshold(reward, 0.5)[0]) == pytest.approx(0.25)  # control: without it
    assert quantile_threshold(reward - 0.5, 0.5, floor=0.0)[0].tolist() == [0]  # 0 is a floor
    # With a floor above its reward, a tied group has no good sample; a floor below it has no effect.
    assert quantile_threshold(torch.full((1, 3), 0.5), 0.9, floor=0.6).tolist() == [[pytest.approx(0.6)]]
    assert quantile_threshold(torch.full((1, 3), 0.5), 0.9, floor=0.4).tolist() == [[INF]]


def test_quantiles_of_groups_with_few_valid_samples() -> None:
    reward = torch.tensor([[5.0, 1.0, 2.0], [5.0, 1.0, 2.0], [5.0, 1.0, 2.0]])
    valid = torch.tensor([[False, False, False], [False, True, False], [False, True, True]])
    assert quantile_threshold(reward, 0.5, valid=valid).tolist() == [[INF], [INF], [1.5]]
    assert quantile_threshold(reward, 0.5, floor=0.0, valid=valid).tolist() == [[INF], [INF], [1.5]]


@pytest.mark.parametrize("q", [-0.1, 1.1, NAN])
def test_q_outside_the_unit_interval_is_an_error(q: float) -> None:
    with pytest.raises(ValueError, match=f"q must lie in \\[0, 1\\], got {q}"):
        quantile_threshold(torch.zeros(1, 2), q)


def test_a_quantile_of_nan_is_an_error() -> None:
    reward = torch.tensor([[1.0, NAN, 3.0]])
    with pytest.raises(ValueError, match=r"reward is NaN at \[0, 1\]"):
        quantile_threshold(reward, 0.5)
    assert quantile_threshold(reward, 0.5, valid=~reward.isnan()).tolist() == [[2.0]]  # control


# --- over answers, and other anchors ----------------------------------------------------------------------

ANSWERS = torch.tensor([0, 1, 1, 2, 2, 2, 2, 3])  # three answers of 1, 2 and 4 spellings; the last outcome is bad
SPELLINGS = torch.tensor([0.30, 0.12, 0.06, 0.04, 0.03, 0.02, 0.01, 0.42]).double()
SPELT_REWARD = (ANSWERS < 3).double()


def answer_mass_logp() -> Tensor:
    same = ANSWERS.unsqueeze(0) == ANSWERS.unsqueeze(1)
    return (same * SPELLINGS).sum(-1).log()


def optimum(direction: str, reward: Tensor, ref: Tensor, beta: float) -> Tensor:
    """The maximiser of E[R'] - beta D(pi, ref') over all distributions, found numerically."""
    options = {"alpha": 0.5} if direction == "alpha" else {}
    divergence = partial(find_divergence(direction).form("exact"), **options)
    logits = ref.log_softmax(-1).clone().requires_grad_()
    solver = torch.optim.LBFGS([logits], max_iter=2000, tolerance_grad=1e-13, tolerance_change=0, history_size=20,
                               line_search_fn="strong_wolfe")  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        logp = logits.log_softmax(-1)
        value = beta * divergence(logp, ref) - (logp.exp() * reward).sum()
        value.backward()
        return value

    solver.step(loss)
    return logits.detach().softmax(-1)


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("direction", ["reverse", "forward", "jensen_shannon", "alpha"])
def test_the_optimum_over_answers_is_uniform_over_them_and_the_reference_inside(direction: str, beta: float) -> None:
    ref = SPELLINGS.log()
    policy = optimum(
        direction, *anchor_reference(SPELT_REWARD, ref, threshold=1.0, mass_logp=answer_mass_logp()), beta
    )
    shares = torch.zeros(4).double().index_add(0, ANSWERS, policy)[:3]
    torch.testing.assert_close(shares, shares.mean().expand(3), rtol=0, atol=1e-5)
    inside = policy / (shares[ANSWERS.clamp_max(2)])
    expected = SPELLINGS / answer_mass_logp().exp()
    torch.testing.assert_close(inside[:7], expected[:7], rtol=0, atol=1e-4)
    over_sequences = optimum(direction, *anchor_reference(SPELT_REWARD, ref, threshold=1.0), beta)  # control
    assert float(over_sequences[3:7].sum()) > 1.5 * float(over_sequences[1:3].sum()) > 2 * float(over_sequences[0])
    torch.testing.assert_close(over_sequences[:7], over_sequences[:7].mean().expand(7), rtol=0, atol=1e-5)
    first = augment_reward(SPELT_REWARD, ref, beta=beta, threshold=1.0, mass_logp=answer_mass_logp())
    by_first = optimum(direction, first, ref, beta)  # Algorithm 1: reverse KL only
    assert torch.allclose(by_first, policy, atol=1e-5) == (direction == "reverse")


def test_over_sequences_each_class_has_one_member() -> None:
    ref = SPELLINGS.log()
    torch.testing.assert_close(
        augment_reward(SPELT_REWARD, ref, beta=0.3, threshold=1.0, mass_logp=ref),
        augment_reward(SPELT_REWARD, ref, beta=0.3, threshold=1.0),
    )
    pairs = [anchor_reference(SPELT_REWARD, ref, threshold=1.0, mass_logp=mass) for mass in (ref, None)]
    torch.testing.assert_close(*pairs)


def test_each_half_is_anchored_by_the_other() -> None:
    reward = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    ref = torch.tensor([[-1.0, -0.5, -3.0, -2.0], [-1.0, -2.0, -0.1, -0.1]])
    augmented = augment_reward(reward, ref, beta=1.0, threshold=1.0, find_anchor=cross_fitted_anchor)
    assert augmented[0].tolist() == [1 - 2 + 1, 0, 1 - 1 + 3, 1 - 1 + 2]
    assert augmented[1].tolist() == reward[1].tolist()  # the other half of each half has no good sample
    with pytest.raises(ValueError, match="groups of even size, got 3"):
        augment_reward(reward[:, :3], ref[:, :3], beta=1.0, threshold=1.0, find_anchor=cross_fitted_anchor)


# --- thresholds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.3, 0.1, 0.03])
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_a_quantile_of_the_policys_own_rewards_has_the_vanilla_optimum_as_a_fixed_point(
    direction: str, beta: float
) -> None:
    """theory: 100 outcomes with continuous rewards, q = .9; with the reference's quantile it is not a fixed point."""
    generator = torch.Generator().manual_seed(0)
    reward = torch.rand(100, generator=generator, dtype=torch.float64)
    ref = torch.randn(100, generator=generator, dtype=torch.float64).log_softmax(-1)
    solve = reverse_kl_target if direction == "reverse" else forward_kl_target

    def after_mara(threshold: Tensor) -> Tensor:
        anchored_reward, anchored_ref = anchor_reference(reward, ref, threshold=threshold)
        return solve(anchored_ref, anchored_reward, beta).exp()

    vanilla = solve(ref, reward, beta).exp()
    order = reward.argsort()
    moving = reward[order][(vanilla[order].cumsum(-1) < 0.9 - 1e-12).sum()]  # the policy's .9-quantile
    fixed = reference_quantile(reward, ref, 0.9)
    good = reward >= fixed
    target = after_mara(fixed)
    torch.testing.assert_close(target[good], target[good].mean().expand(int(good.sum())))
    if float(vanilla[reward.argmax()]) >= 0.1:
        torch.testing.assert_close(after_mara(moving), vanilla, rtol=0, atol=1e-9)
    assert 0.5 * (target - vanilla).abs().sum() > 0.05  # control: the target with the fixed threshold is another


def test_the_quantile_of_the_reference_is_what_many_of_its_completions_have() -> None:
    reward = torch.tensor([0.1, 0.5, 0.9, 0.7])
    ref = torch.tensor([0.4, 0.3, 0.1, 0.2]).log()
    for q, expected in ((0.3, math.inf), (0.5, 0.5), (0.7, 0.5), (0.8, 0.7), (0.95, 0.9), (1.0, 0.9)):
        assert float(reference_quantile(reward, ref, q)) == pytest.approx(expected)
    assert float(reference_quantile(reward, ref, 0.5, floor=0.6)) == pytest.approx(0.6)
    sampled = reward[
        torch.multinomial(ref.exp(), 20_001, replacement=True, generator=torch.Generator().manual_seed(0))
    ]
    for q in (0.5, 0.8, 0.95):
        assert float(quantile_threshold(sampled, q)) == pytest.approx(float(reference_quantile(reward, ref, q)))
