"""MARA with one anchor per group, as in training: the policy that the expected gradient over all groups leads to.

There are three good outcomes, of probability .55, .15 and .05 under the reference, and a bad one of .25; completions
have one token.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.advantages import ADVANTAGES
from core.divergences import reverse_kl_loss
from core.losses import policy_gradient
from core.mara import augment_reward
from core.objective import Objective
from core.transforms import identity, mara
from tools.anchor_bias import BETAS, SEQUENCES, SIZES, SPELLINGS, Method, answer_shares, bias, fixed_point, main

from .enumeration import follow_gradient, one_token_gradient

REF = torch.tensor([0.55, 0.15, 0.05, 0.25], dtype=torch.float64).log()
REWARD = torch.tensor([1, 1, 1, 0], dtype=torch.float64)
NEAR_UNIFORM = torch.tensor([0.34, 0.33, 0.32, 0.01], dtype=torch.float64).log()


def follow_objective(
    size: int,
    beta: float,
    *,
    direction: str = "reverse",
    algorithm: str | int = "auto",
    advantage: str = "leave_one_out",
    placement: str = "reward",
    with_mara: bool = True,
    start: Tensor = REF,
    rates: tuple[float, ...] = (),
    steps: int = 60,
) -> Tensor:
    """Follow the expected gradient of `Objective.loss`, at one rate after the other; return [4] probabilities."""
    transform = partial(mara, threshold=1.0, direction=direction, algorithm=algorithm)
    objective = Objective(
        direction=direction,
        transform=transform if with_mara else identity,
        advantage=ADVANTAGES[advantage],
        placement=placement,
    )

    def loss(members: Tensor, logp: Tensor) -> Tensor:
        mask = torch.ones(*members.shape, 1, dtype=torch.bool)
        return objective.loss(REWARD[members], logp[..., None], REF[members][..., None], mask, beta=beta)[0]

    logits = start
    for rate in rates or (0.5 / beta if direction == "reverse" else 0.6,):
        logits = follow_gradient(loss, logits, size=size, rate=rate, steps=steps).log()
    return logits.exp()


def unevenness(policy: Tensor) -> float:
    good = policy[:3]
    return float((good - good.mean()).abs().max())


# --- without the groups whose rewards are all equal --------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "good", "bad"),
    [
        (2, [0.55 / 0.75, 0.15 / 0.75, 0.05 / 0.75], 1.513308e-5),  # the ratios of the reference
        (4, [0.375807, 0.317510, 0.306683], 9.778371e-6),
    ],
)
def test_without_tied_groups_mara_is_not_uniform(size: int, good: list[float], bad: float) -> None:
    """Only groups with a bad sample are left. At G=2 a good sample is then always its own anchor."""
    beta = 0.1
    settled = torch.tensor([*(x * (1 - bad) for x in good), bad], dtype=torch.float64).log()
    uniform = torch.tensor([*[(1 - bad) / 3] * 3, bad], dtype=torch.float64).log()
    transform = partial(mara, threshold=1.0, direction="reverse")
    for skip in (True, False):
        objective = Objective(direction="reverse", transform=transform, skip_tied_groups=skip)

        def largest(policy: Tensor, objective: Objective = objective) -> float:
            """Of the expected gradient, per probability of a bad sample, which scales it."""

            def loss(members: Tensor, logp: Tensor) -> Tensor:
                mask = torch.ones(*members.shape, 1, dtype=torch.bool)
                return objective.loss(REWARD[members], logp[..., None], REF[members][..., None], mask, beta=beta)[0]

            return float(one_token_gradient(loss, policy, size).abs().max()) / bad / beta

        assert objective.has_target != skip
        if skip:
            assert largest(settled) < 1e-3
            assert largest(uniform) > 1e-2
        else:  # control: with the tied groups, it is no fixed point
            assert largest(settled) > 1


# --- leave-one-out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "beta", "placement"),
    [
        (2, 0.1, "reward"),
        (2, 0.1, "loss"),
        (4, 0.03, "reward"),
        (4, 0.1, "reward"),
        (4, 0.1, "loss"),
        (8, 0.1, "reward"),
    ],
)
def test_reverse_is_uniform_at_a_small_beta(size: int, beta: float, placement: str) -> None:
    policy = follow_objective(size, beta, placement=placement)
    assert unevenness(policy) < 1e-3
    assert float(policy[:3].sum()) > 0.99
    vanilla = follow_objective(size, beta, placement=placement, with_mara=False)  # control: the reference's ratios
    assert vanilla[:3].tolist() == pytest.approx([11 / 15, 3 / 15, 1 / 15], abs=1e-3)


@pytest.mark.parametrize(("size", "beta", "limit"), [(2, 0.03, 2e-3), (4, 0.1, 2e-3), (8, 0.1, 1e-3)])
def test_forward_is_nearly_uniform_at_a_small_beta(size: int, beta: float, limit: float) -> None:
    policy = follow_objective(size, beta, direction="forward", start=NEAR_UNIFORM, steps=250)
    assert unevenness(policy) < limit
    # Control: Algorithm 1 piles onto the least likely good outcome.
    first = follow_objective(size, beta, direction="forward", algorithm=1, start=NEAR_UNIFORM, steps=250)
    assert int(first[:3].argmax()) == 2
    assert float(first[2]) > 0.6


def test_a_large_beta_and_a_small_group_are_biased_towards_the_likely_ones() -> None:
    policy = follow_objective(2, 1.0)
    assert policy[:3].tolist() == pytest.approx([0.337, 0.280, 0.239], abs=1e-3)
    assert unevenness(follow_objective(8, 1.0)) < 0.1 * unevenness(policy)  # control: a larger group


@pytest.mark.parametrize(
    ("size", "beta", "direction"),
    [(2, 0.3, "reverse"), (4, 1.0, "reverse"), (2, 0.1, "forward"), (8, 1.0, "forward")],
)
def test_the_table_of_the_guide_is_where_the_gradient_leads(size: int, beta: float, direction: str) -> None:
    """Root finding on the expected advantages agrees with following the gradient of `Objective.loss`."""
    solved = fixed_point(SEQUENCES, Method(direction), size, beta)
    steps = 120 if direction == "reverse" else 300
    followed = follow_objective(size, beta, direction=direction, start=NEAR_UNIFORM, steps=steps)
    torch.testing.assert_close(followed, solved, rtol=0, atol=1e-6)
    assert bias(SEQUENCES, Method(direction), size, beta) == pytest.approx(unevenness(followed), abs=1e-6)
    other = follow_objective(size, 0.9 * beta, direction=direction, start=NEAR_UNIFORM, steps=steps)  # control
    assert not torch.allclose(other, solved, rtol=0, atol=1e-6)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_bias_falls_with_a_larger_group_and_a_smaller_beta(direction: str) -> None:
    assert (SIZES, BETAS) == ((2, 4, 8, 16), (0.01, 0.03, 0.1, 0.3, 1.0))
    table = torch.tensor(
        [[bias(SEQUENCES, Method(direction), size, beta) for size in SIZES[:3]] for beta in BETAS[2:]]
    )
    assert bool((table[:, 1:] < table[:, :-1]).all())
    assert bool((table[:-1] < table[1:]).all())
    small_beta = bias(SEQUENCES, Method(direction), 2, 0.1)
    assert small_beta < 1e-3 if direction == "reverse" else 1e-3 < small_beta < 5e-3


def test_the_guide_shows_the_tables_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    page = (Path(__file__).resolve().parents[2] / "docs" / "mara.md").read_text()
    printed = capsys.readouterr().out.strip().split("\n\n")
    tables = [block for block in printed if block.count("\n")]
    assert len(tables) == 1 + 3 + 1 + 1 + 6
    for table in tables[1:]:
        assert table in page
    assert tables[3].replace("0         0", "1         0", 1) not in page  # control: every figure counts


# --- answers, and other anchors ------------------------------------------------------------------------------


def shares(method: Method, size: int = 4, beta: float = 0.03) -> list[float]:
    return answer_shares(SPELLINGS, fixed_point(SPELLINGS, method, size, beta)).tolist()


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("advantage", ["leave_one_out", "no_baseline"])
def test_answers_are_uniform_with_remembered_masses_and_anchors(direction: str, advantage: str) -> None:
    assert shares(Method(direction, "remembered", "remembered", advantage)) == pytest.approx([1 / 3] * 3, abs=1e-9)
    assert shares(Method(direction, "group", "remembered", advantage)) == pytest.approx([1 / 3] * 3, abs=1e-9)
    sequences = shares(Method(direction, "sequence", "remembered", advantage))  # controls
    assert sequences == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=1e-9)
    naive = shares(Method(direction, "distinct", "group", advantage))
    assert max(abs(share - 1 / 3) for share in naive) > 0.05


def test_the_phrasing_inside_an_answer_stays_that_of_the_reference() -> None:
    reference = torch.tensor(SPELLINGS.reference).double()
    for mass, kept in (("remembered", True), ("group", True), ("sequence", False)):
        policy = fixed_point(SPELLINGS, Method("reverse", mass), 4, 0.03)
        inside = [policy[rows] / policy[rows].sum() for rows in (slice(1, 3), slice(3, 7))]
        phrasing = [reference[rows] / reference[rows].sum() for rows in (slice(1, 3), slice(3, 7))]
        distance = max(float((a - b).abs().max()) for a, b in zip(inside, phrasing, strict=True))
        assert distance < 1e-4 if kept else distance > 0.1


def test_the_masses_of_groups_alone_need_a_constant_anchor_without_a_baseline_and_under_forward_kl() -> None:
    assert shares(Method("reverse", "group", "group")) == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert shares(Method("forward", "group", "group")) == pytest.approx([0.2185, 0.3559, 0.4256], abs=1e-3)
    assert shares(Method("reverse", "group", "group", "no_baseline")) == pytest.approx(
        [0.428, 0.323, 0.249], abs=1e-3
    )


def test_cross_fitting_gives_the_reference_to_the_power_of_the_chance_of_no_other_good_sample() -> None:
    reference = torch.tensor(SEQUENCES.reference[:3]).double()
    for size, beta in ((4, 1.0), (4, 0.3), (2, 0.3)):
        policy = fixed_point(SEQUENCES, Method("reverse", "sequence", "cross_fitted", "no_baseline"), size, beta)
        power = float(policy[3]) ** (size // 2)
        expected = reference**power / (reference**power).sum()
        torch.testing.assert_close(policy[:3] / policy[:3].sum(), expected, rtol=0, atol=1e-4)
        group = fixed_point(SEQUENCES, Method("reverse", "sequence", "group", "no_baseline"), size, beta)  # control
        assert float((group[:3] / group[:3].sum() - expected).abs().max()) > 1e-2


# --- other advantages: why a baseline is needed ----------------------------------------------------------

FALLING = (0.5, 0.1, 0.02, 0.004, 0.001)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_group_normalised_is_uniform_with_the_kl_in_the_reward(direction: str) -> None:
    """The normalised advantage does not shrink near the optimum, so only a falling rate converges."""
    policy = follow_objective(4, 0.03, direction=direction, advantage="group_normalised", rates=FALLING, steps=120)
    assert unevenness(policy) < 1e-3
    assert float(policy[:3].sum()) > 0.98
    constant = follow_objective(
        4, 0.03, direction=direction, advantage="group_normalised", rates=(0.5,), steps=200
    )  # control
    assert unevenness(constant) > 1e-2


def test_group_normalised_with_the_kl_in_the_loss_collapses_onto_the_rarest_good_outcome() -> None:
    policy = follow_objective(4, 0.03, advantage="group_normalised", placement="loss", rates=(1.0,), steps=500)
    assert policy.tolist() == pytest.approx([0, 0, 1, 0], abs=1e-3)
    assert unevenness(follow_objective(4, 0.03, placement="loss")) < 1e-3  # control: leave-one-out


def test_dividing_by_the_spread_of_raw_rewards_is_skewed() -> None:
    def loss(members: Tensor, logp: Tensor) -> Tensor:
        augmented = augment_reward(REWARD[members], REF[members], beta=0.03, threshold=1.0)
        spread = REWARD[members].std(-1, correction=0, keepdim=True)
        advantage = (augmented - augmented.mean(-1, keepdim=True)) / spread.masked_fill(spread == 0, 1.0)
        return policy_gradient(logp, advantage) + 0.03 * reverse_kl_loss(logp, REF[members]).mean()

    policy = follow_gradient(loss, REF, size=4, rate=5.0, steps=500)
    assert unevenness(policy) > 0.05
    assert float(policy[:3].min()) > 0.01  # but it does not collapse


def test_centring_is_uniform_with_the_kl_in_the_reward_only() -> None:
    assert unevenness(follow_objective(4, 0.03, advantage="centred")) < 1e-3
    outside = follow_objective(4, 0.03, advantage="centred", placement="loss")
    assert outside[:3].tolist() == pytest.approx([0.440, 0.318, 0.242], abs=2e-3)  # reference ** (1/4)
    expected = (REF[:3] / 4).softmax(-1)
    torch.testing.assert_close(outside[:3], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"advantage": "no_baseline"}, [0.401, 0.304, 0.295]),
        ({"algorithm": 2, "placement": "loss"}, [0.401, 0.304, 0.295]),  # refused, see core.rules
        ({"direction": "forward", "placement": "loss"}, [0.376, 0.310, 0.307]),  # likewise
    ],
)
def test_an_anchor_outside_a_baseline_biases_at_every_beta(options: dict, shares: list[float]) -> None:
    """The group of a sample determines its anchor, and only a comparison within the group cancels that effect.

    The bias is smaller in larger groups. The shares at beta .03 are those in docs/mara.md.
    """
    options = {"start": NEAR_UNIFORM, "steps": 250 if options.get("direction") == "forward" else 60, **options}
    policies = [follow_objective(4, beta, **options) for beta in (0.03, 0.1)]
    assert policies[0][:3].tolist() == pytest.approx(shares, abs=1e-3)
    by_beta = [unevenness(policy) for policy in policies]
    assert min(by_beta) > 0.03
    assert abs(by_beta[0] - by_beta[1]) < 5e-3  # it does not fall with beta
    assert unevenness(follow_objective(8, 0.1, **options)) < 0.4 * by_beta[1]
    in_baseline = {**options, "advantage": "leave_one_out", "placement": "reward"}  # control
    assert unevenness(follow_objective(4, 0.03, **in_baseline)) < 1e-3
