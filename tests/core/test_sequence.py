"""Sequence helpers: masks, group checks, sampling, and log-probabilities without holding all logits."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.sequence import (
    Output,
    check_group,
    first_occurrences,
    inverse_cdf,
    masked_sum,
    rows_per_chunk,
    selected_logp,
    selected_logp_and_entropy,
)

from .enumeration import random_logits

NAN = math.nan


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned, the backward pass included."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def plain_logp(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    return (hidden @ weight.T).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def problem(rows: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    hidden = random_logits(rows, width, seed=0).to(dtype).requires_grad_()
    weight = random_logits(vocabulary, width, seed=1).to(dtype).requires_grad_()
    tokens = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(2))
    return hidden, weight, tokens


# --- selected_logp ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 10, 1024])
def test_selected_logp_has_the_value_and_gradient_of_log_softmax(chunk: int) -> None:
    hidden, weight, tokens = problem(23, 5, 17, torch.float64)
    upstream = random_logits(23, seed=3)
    ours = selected_logp(hidden, weight, tokens, chunk)
    plain = plain_logp(hidden, weight, tokens)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((x * upstream).sum(), (hidden, weight)) for x in (ours, plain)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)
    other = plain_logp(hidden, weight, (tokens + 1) % 17)  # control: another token
    assert not torch.allclose(ours, other)


def test_selected_logp_never_holds_all_logits() -> None:
    rows, width, vocabulary, chunk = 256, 4, 500, 16
    hidden, weight, tokens = problem(rows, width, vocabulary, torch.float32)
    for function, bound in ((partial(selected_logp, chunk=chunk), chunk * vocabulary), (plain_logp, None)):
        with LargestTensor() as seen:
            function(hidden, weight, tokens).sum().backward()
        if bound:
            assert seen.largest == bound, "forward and backward together"
        else:
            assert seen.largest >= rows * vocabulary  # control: the mode notices them


def test_selected_logp_keeps_no_logits_for_the_backward_pass() -> None:
    rows, vocabulary, chunk = 256, 500, 16
    hidden, weight, tokens = problem(rows, 4, vocabulary, torch.float32)
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    for function, limit in ((partial(selected_logp, chunk=chunk), vocabulary * 4), (plain_logp, None)):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            function(hidden, weight, tokens)
        if limit:
            assert max(saved, default=0) <= limit  # the weight at most, no logits
        else:
            assert max(saved) >= rows * vocabulary  # control


@pytest.mark.parametrize(
    ("dtype", "result"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]
)
def test_selected_logp_sums_in_float32_at_least(dtype: torch.dtype, result: torch.dtype) -> None:
    hidden, weight, tokens = problem(6, 4, 1000, dtype)
    logp = selected_logp(hidden, weight, tokens, chunk=4)
    assert logp.dtype == result
    exact = plain_logp(hidden.double(), weight.double(), tokens)
    torch.testing.assert_close(logp.double(), exact, rtol=0, atol=1e-5)
    if dtype == torch.bfloat16:  # controls: logits, or also their sum, in the model's own type
        for logits in ((hidden @ weight.T).float(), hidden @ weight.T):
            rounded = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            assert not torch.allclose(rounded.double(), exact, rtol=0, atol=1e-3)
    logp.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == dtype


def test_a_bfloat16_embedding_is_widened_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = (tensor.detach() for tensor in problem(2, 8, 1000, torch.bfloat16)[:2])
    exact = hidden.double() @ weight.double().T
    for block, largest in ((300, 300 * 8), (1000, 1000 * 8)):  # in four blocks; control: in one
        monkeypatch.setattr("core.sequence.MAX_WIDENED", block * 8)
        with torch.no_grad(), LargestTensor() as seen:
            logits = Output(weight).logits(hidden)
        torch.testing.assert_close(logits.double(), exact, rtol=0, atol=1e-5)
        assert seen.largest == largest


OUTPUTS: dict[str, dict[str, Any]] = {
    "bias": {"bias": True},
    "scale": {"scale": 0.0625},
    "cap": {"cap": 1.5},
    "all": {"bias": True, "scale": 2.0, "cap": 1.5},
}


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("name", OUTPUTS)
def test_bias_scale_and_cap_have_the_values_and_gradients_of_autograd(name: str, with_entropy: bool) -> None:
    options = dict(OUTPUTS[name])
    hidden, weight, tokens = problem(23, 5, 17, torch.float64)
    inputs = [hidden, weight]
    if "bias" in options:
        options["bias"] = random_logits(17, seed=5).to(torch.float64).requires_grad_()
        inputs.append(options["bias"])
    logits = options.get("scale", 1.0) * (hidden @ weight.T + options.get("bias", 0.0))
    if "cap" in options:
        logits = options["cap"] * (logits / options["cap"]).tanh()
    share = logits.log_softmax(-1)
    plain = share.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    upstream = random_logits(23, seed=3)
    output = Output(weight, **options)
    if with_entropy:
        ours = sum(selected_logp_and_entropy(hidden, output, tokens, 7))
        plain = plain - (share.exp() * share).sum(-1)
    else:
        ours = selected_logp(hidden, output, tokens, 7)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((x * upstream).sum(), inputs, retain_graph=True) for x in (ours, plain)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)
    control = selected_logp(hidden, weight, tokens)  # without them
    assert not torch.allclose(control, selected_logp(hidden, output, tokens))


def test_selected_logp_at_the_edges() -> None:
    hidden, weight, tokens = problem(3, 4, 5, torch.float64)
    assert selected_logp(hidden[:0], weight, tokens[:0]).shape == (0,)
    with torch.no_grad():
        assert not selected_logp(hidden, weight, tokens).requires_grad
    assert selected_logp(hidden, weight, tokens).requires_grad  # control
    large = selected_logp(1e4 * hidden.detach(), weight, tokens)  # logits of 1e4: no overflow
    assert bool(large.isfinite().all())
    assert bool((large <= 0).all())
    with pytest.raises(ValueError, match=r"hidden \[N, D\] and tokens \[N\], got \(3, 4\) and \(2,\)"):
        selected_logp(hidden, weight, tokens[:2])
    with pytest.raises(ValueError, match=r"got \(1, 3, 4\) and \(1, 3\)"):
        selected_logp(hidden[None], weight, tokens[None])


# --- selected_logp_and_entropy ---------------------------------------------------------------------------


def plain_entropy(hidden: Tensor, weight: Tensor) -> Tensor:
    logp = (hidden @ weight.T).log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("chunk", [1, 7, 10, None])
@pytest.mark.parametrize("of", ["both", "entropy", "logp"])
def test_entropy_has_the_value_and_gradient_of_the_plain_one(chunk: int | None, of: str) -> None:
    hidden, weight, tokens = problem(23, 5, 17, torch.float64)
    upstream = random_logits(2, 23, seed=3) * torch.tensor([[float(of != "entropy")], [float(of != "logp")]])
    ours = torch.stack(selected_logp_and_entropy(hidden, weight, tokens, chunk))
    plain = torch.stack([plain_logp(hidden, weight, tokens), plain_entropy(hidden, weight)])
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    used = [0, 1] if of == "both" else [1] if of == "entropy" else [0]
    gradients = [torch.autograd.grad((x * upstream)[used].sum(), (hidden, weight)) for x in (ours, plain)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)
    # Control: the gradient of -log p of the token differs; only its mean is that of the entropy.
    other = torch.autograd.grad((-plain_logp(hidden, weight, tokens) * upstream[-1]).sum(), (hidden, weight))
    assert of == "logp" or not torch.allclose(other[0], gradients[0][0])


def test_entropy_alone_and_log_probabilities_alone_have_their_gradients() -> None:
    """One of the two results has no gradient, and does not affect the gradient of the other."""
    hidden, weight, tokens = problem(9, 5, 17, torch.float64)
    for number, plain in ((0, plain_logp(hidden, weight, tokens)), (1, plain_entropy(hidden, weight))):
        ours = selected_logp_and_entropy(hidden, weight, tokens, 4)[number]
        gradients = [torch.autograd.grad(x.sum(), (hidden, weight)) for x in (ours, plain)]
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)


def test_entropy_never_holds_all_logits() -> None:
    rows, vocabulary, chunk = 256, 500, 16
    hidden, weight, tokens = problem(rows, 4, vocabulary, torch.float32)
    for function, bound in (
        (lambda h, w, t: sum(selected_logp_and_entropy(h, w, t, chunk)), chunk * vocabulary),
        (lambda h, w, t: plain_logp(h, w, t) + plain_entropy(h, w), None),
    ):
        with LargestTensor() as seen:
            function(hidden, weight, tokens).sum().backward()
        assert seen.largest == bound if bound else seen.largest >= rows * vocabulary  # the second is the control


def test_entropy_is_exact_for_uniform_and_deterministic_rows() -> None:
    weight = torch.eye(4)
    hidden = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e4, 0.0, 0.0, 0.0], [1e4, 1e4, 0.0, 0.0]], requires_grad=True)
    _, entropy = selected_logp_and_entropy(hidden, weight, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(entropy, torch.tensor([math.log(4), 0.0, math.log(2)]))
    entropy.sum().backward()
    assert hidden.grad is not None
    assert bool(hidden.grad.isfinite().all())


def test_a_larger_vocabulary_means_fewer_rows_at_a_time() -> None:
    assert rows_per_chunk(512) > 290 * rows_per_chunk(151_936) > 290
    assert rows_per_chunk(2**40) == 1


# --- masks -----------------------------------------------------------------------------------------------


def test_masked_sum_ignores_masked_entries() -> None:
    value = torch.tensor([[1.0, 2.0, NAN], [math.inf, -3.0, 4.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, True, True]])
    total = masked_sum(value, mask)
    assert total.tolist() == [3, 1]
    total.sum().backward()
    assert value.grad is not None
    assert torch.equal(value.grad, mask.float())
    assert masked_sum(value.detach(), ~mask).tolist()[1] == math.inf  # control
    assert masked_sum(value.detach(), torch.zeros_like(mask)).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"value \(2, 3\), mask \(3,\)"):
        masked_sum(value, mask[0])
    with pytest.raises(ValueError, match=r"mask must be bool, got torch\.float32"):
        masked_sum(value, mask.float())


# --- sampling --------------------------------------------------------------------------------------------


def test_inverse_cdf_gives_each_outcome_its_probability() -> None:
    """Over a fine grid of uniforms, the share of each outcome is its probability up to one grid point."""
    logits, points = random_logits(5, seed=1, scale=2), 10_000
    uniform = (torch.arange(points).double() + 0.5) / points
    drawn = inverse_cdf(logits.expand(points, -1), uniform)
    share = torch.bincount(drawn, minlength=5) / points
    torch.testing.assert_close(share.double(), logits.softmax(-1), rtol=0, atol=1.5 / points)
    assert bool((drawn[1:] >= drawn[:-1]).all())  # a larger uniform never gives an earlier outcome
    assert not torch.allclose(share.double(), (2 * logits).softmax(-1), atol=1e-2)  # control


def test_inverse_cdf_at_the_ends_of_the_unit_interval() -> None:
    largest = torch.nextafter(torch.ones(1), torch.zeros(1))  # the float32 just below 1
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]])
    assert inverse_cdf(logits, torch.zeros(1)).tolist() == [1]
    assert inverse_cdf(logits, torch.tensor([0.5])).tolist() == [2]
    assert inverse_cdf(logits, largest).tolist() == [2]  # never an outcome of probability 0
    many = torch.zeros(1, 151_936)  # the sum of the probabilities differs from 1 by rounding
    assert int(inverse_cdf(many, largest)) < 151_936


# --- groups ----------------------------------------------------------------------------------------------


def test_check_group_names_what_is_wrong_and_where() -> None:
    good, bad = torch.zeros(2, 3), torch.tensor([[0.0, 0, 0], [0, NAN, 0]])
    check_group(None, reward=good, other=good)
    check_group(~bad.isnan(), reward=bad)
    check_group(None, reward=torch.tensor([math.inf, -math.inf]))  # infinite is a value
    with pytest.raises(
        ValueError, match=r"other is NaN at \[1, 1\], which is a valid sample; mark such samples as not valid"
    ):
        check_group(None, reward=good, other=bad)
    with pytest.raises(ValueError, match=r"reward is NaN at \[1, 1\]"):
        check_group(torch.ones(2, 3, dtype=torch.bool), reward=bad)
    with pytest.raises(ValueError, match=r"reward \(2, 3\), other \(3,\)"):
        check_group(None, reward=good, other=torch.zeros(3))
    with pytest.raises(ValueError, match=r"reward \(2, 3\), valid \(3,\)"):
        check_group(torch.ones(3, dtype=torch.bool), reward=good)
    with pytest.raises(ValueError, match=r"valid must be bool, got torch\.int64"):
        check_group(torch.ones(2, 3, dtype=torch.long), reward=good)


def test_first_occurrences_are_marked_within_each_group() -> None:
    assert first_occurrences(["a", "b", "a", "a", "a", "c"], 2).tolist() == [[True, True, False], [True, False, True]]
    assert first_occurrences([(1, 2), (1,), (1, 2)], 1).tolist() == [[True, True, False]]
    assert first_occurrences([(1, 2), (1,), (1, 2)], 3).all()  # control: three groups
