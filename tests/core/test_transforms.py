"""Reward transforms on single groups: the algorithm of MARA, thresholds, ranks, diversity, and errors."""

from functools import partial

import pytest
import torch

from core.mara import anchor_reference, augment_reward, quantile_threshold
from core.rules import mara_algorithm
from core.transforms import class_diversity, darling, identity, mara, unlikely

REWARD = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
REF = torch.tensor([[-1.0, -3.0, -0.5], [-1.0, -2.0, -5.0]])


def test_identity_returns_what_it_is_given() -> None:
    transformed = identity(REWARD, REF, beta=0.1)
    assert transformed.reward is REWARD
    assert transformed.ref_seq_logp is REF
    assert identity(REWARD, REF, beta=0.0).reward is REWARD  # without a KL term as well


@pytest.mark.parametrize(
    ("direction", "algorithm", "expected"),
    [
        ("reverse", "auto", 1),
        ("forward", "auto", 2),
        ("reverse", 1, 1),
        ("reverse", "2", 2),
        ("forward", "1", 1),
        ("forward", 2, 2),
    ],
)
def test_auto_is_the_algorithm_with_a_uniform_optimum(direction: str, algorithm: str | int, expected: int) -> None:
    assert mara_algorithm(direction, algorithm) == expected
    transformed = mara(REWARD, REF, beta=0.3, threshold=1.0, direction=direction, algorithm=algorithm)
    first = augment_reward(REWARD, REF, beta=0.3, threshold=1.0), REF
    second = anchor_reference(REWARD, REF, threshold=1.0)
    chosen, other = (first, second) if expected == 1 else (second, first)
    assert torch.equal(transformed.reward, chosen[0])
    assert torch.equal(transformed.ref_seq_logp, chosen[1])
    assert not torch.equal(transformed.reward, other[0])  # control


def test_a_threshold_may_be_a_number_a_tensor_or_a_function() -> None:
    reward, ref = torch.tensor([0.0, 1.0, 1.2, 9.0]), torch.tensor([-1.0, -3.0, -2.0, -4.0])
    call = partial(mara, reward, ref, beta=0.5, direction="reverse", valid=torch.tensor([True, True, True, False]))
    median = partial(quantile_threshold, reward, 0.5, None)
    for threshold in (1.0, torch.tensor([1.0]), lambda r, v: quantile_threshold(r, 0.5, None, v)):
        assert call(threshold=threshold).reward.tolist() == pytest.approx([0, 1.7, 1.2, 9])
    assert float(median()) == pytest.approx(1.1)  # control: a threshold that counts the invalid sample
    assert torch.equal(call(threshold=median()).reward, reward)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "jensen_shannon", "algorithm": 1}, "must be auto or 2 with direction=jensen_shannon, got 1"),
        (
            {"direction": "my:divergence"},
            "must be one of reverse, forward, .* with transform=mara, got my:divergence",
        ),
        ({"direction": "reverse", "algorithm": 3}, "auto, 1, 2, got 3"),
        ({"direction": "reverse", "algorithm": "both"}, "auto, 1, 2, got both"),
        ({"direction": "forward", "level": "token"}, "must be sequence with MARA's Algorithm 2"),
        ({"direction": "reverse", "algorithm": 2, "level": "token"}, "must be sequence with MARA's Algorithm 2"),
        ({"direction": "reverse", "beta": 0.0}, "beta > 0, got 0"),
        ({"direction": "forward", "beta": 0.0}, "beta > 0, got 0"),
        ({"direction": "forward", "beta": float("nan")}, "beta > 0, got nan"),
    ],
)
def test_a_combination_without_a_uniform_optimum_is_an_error(options: dict, message: str) -> None:
    call = partial(mara, REWARD, REF, threshold=1.0)
    with pytest.raises(ValueError, match=message):
        call(**{"beta": 0.1, **options})
    call(beta=0.1, direction="reverse", level="token")  # control: Algorithm 1 leaves the reference alone
    call(beta=0.1, direction="forward")


def test_unlikely_ranks_all_counted_samples_and_changes_the_good_ones() -> None:
    reward, ref = torch.tensor([[1.0, 2.0, -1.0, 1.0]]), torch.full((1, 4), -1.0)
    means = torch.tensor([[-1.0, -2.0, -3.0, -0.5]])  # ranks 2, 1, 0, 3
    call = {"beta": 0.1, "threshold": 0.5, "strength": 0.8}
    changed = unlikely(reward, ref, policy_mean_logp=means, **call).reward
    torch.testing.assert_close(changed, torch.tensor([[1 - 0.4, 2 * (1 - 0.2), -1.0, 1 - 0.6]]))
    counted = torch.tensor([[True, True, False, True]])
    changed = unlikely(reward, ref, policy_mean_logp=means, counted=counted, valid=counted, **call).reward
    torch.testing.assert_close(changed[counted], torch.tensor([1 - 0.8 / 3, 2.0, 1 - 1.6 / 3]))
    with pytest.raises(ValueError, match=r"strength must lie in \[0, 1\], got 2"):
        unlikely(reward, ref, policy_mean_logp=means, **{**call, "strength": 2})


def test_class_diversity_is_the_share_of_others_that_differ() -> None:
    classes = torch.tensor([[1, 1, 2, 3], [5, 5, 5, 5]])
    expected = torch.tensor([[2 / 3, 2 / 3, 1, 1], [0, 0, 0, 0]])
    torch.testing.assert_close(class_diversity(classes), expected)
    valid = torch.tensor([[True, False, True, True], [True, False, False, False]])
    torch.testing.assert_close(class_diversity(classes, valid), torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0]]))
    reward = torch.tensor([[2.0, float("nan"), 3.0, -1.0]])
    diversity = torch.tensor([[0.5, float("nan"), 1.0, 0.0]])
    changed = darling(reward, reward, beta=0.1, diversity=diversity, counted=valid[:1]).reward
    torch.testing.assert_close(changed[valid[:1]], torch.tensor([1.0, 3.0, -0.0]))
    with pytest.raises(ValueError, match=r"diversity must lie in \[0, 1\], got 1.5"):
        darling(torch.ones(2), torch.ones(2), beta=0.1, diversity=torch.tensor([0.5, 1.5]))
