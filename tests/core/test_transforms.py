"""Which algorithm a transform applies, and which combinations it refuses."""

from functools import partial

import pytest
import torch

from core.mara import anchor_reference, augment_reward, quantile_threshold
from core.rules import mara_algorithm
from core.transforms import identity, mara

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
def test_auto_is_the_algorithm_that_is_uniform(direction: str, algorithm: str | int, expected: int) -> None:
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
        ({"direction": "jensen_shannon"}, "must be reverse or forward with transform=mara.*got jensen_shannon"),
        ({"direction": "alpha", "algorithm": 1}, "must be reverse or forward with transform=mara.*got alpha"),
        ({"direction": "reverse", "algorithm": 3}, "auto, 1, 2, got 3"),
        ({"direction": "reverse", "algorithm": "both"}, "auto, 1, 2, got both"),
        ({"direction": "forward", "level": "token"}, "must be sequence with MARA's Algorithm 2"),
        ({"direction": "reverse", "algorithm": 2, "level": "token"}, "must be sequence with MARA's Algorithm 2"),
        ({"direction": "reverse", "beta": 0.0}, "beta > 0, got 0"),
        ({"direction": "forward", "beta": 0.0}, "beta > 0, got 0"),
        ({"direction": "forward", "beta": float("nan")}, "beta > 0, got nan"),
    ],
)
def test_what_has_no_uniform_optimum_is_refused(options: dict, message: str) -> None:
    call = partial(mara, REWARD, REF, threshold=1.0)
    with pytest.raises(ValueError, match=message):
        call(**{"beta": 0.1, **options})
    call(beta=0.1, direction="reverse", level="token")  # control: Algorithm 1 leaves the reference alone
    call(beta=0.1, direction="forward")
