"""Blocks by kernels for packed sequences: a stand-in on the CPU with aten's signatures, and aten's own on a GPU."""

import inspect
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from llm.inference import blocks, flash
from llm.inference.attention import Packing, packed_hidden
from llm.inference.blocks import Rule
from llm.inference.head import body_of
from llm.inference.prompts import Prompts

from .plain import difference, make_completions, make_prompts

ATEN = flash.ATEN


def open_attention(query, key, starts_q, starts_k, causal, scale):
    """Weights' scores of each sequence, [H, n, m], with its slices."""
    times = query.shape[1] // key.shape[1]
    for i in range(len(starts_q) - 1):
        rows, columns = (slice(int(starts[i]), int(starts[i + 1])) for starts in (starts_q, starts_k))
        score = torch.einsum("nhd,mhd->hnm", query[rows], key[columns].repeat_interleave(times, 1)) * scale
        if causal:
            score = score.masked_fill(torch.ones_like(score, dtype=torch.bool).triu(1), -torch.inf)
        yield rows, columns, times, score


def forward(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, *, scale):
    assert cum_seq_q.dtype == cum_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cum_seq_q.diff().max()), int(cum_seq_k.diff().max()))
    assert dropout_p == 0.0
    assert not return_debug_mask
    out, lse = torch.zeros_like(query), query.new_zeros(query.shape[1], len(query))
    for rows, columns, times, score in open_attention(query, key, cum_seq_q, cum_seq_k, is_causal, scale):
        lse[:, rows] = score.logsumexp(-1)
        out[rows] = torch.einsum("hnm,mhd->nhd", score.softmax(-1), value[columns].repeat_interleave(times, 1))
    return out, lse, None, None, None


def backward(
    grad_out,
    query,
    key,
    value,
    out,
    logsumexp,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    rng_state,
    unused,
    *,
    scale,
):
    assert logsumexp.is_contiguous()
    grads = [torch.zeros_like(states) for states in (query, key, value)]
    for rows, columns, times, score in open_attention(query, key, cum_seq_q, cum_seq_k, is_causal, scale):
        keys, values = (states[columns].repeat_interleave(times, 1) for states in (key, value))
        weight = (score - logsumexp[:, rows].unsqueeze(-1)).exp()
        delta = (grad_out[rows] * out[rows]).sum(-1).T.unsqueeze(-1)
        d_score = weight * (torch.einsum("nhd,mhd->hnm", grad_out[rows], values) - delta) * scale
        grads[0][rows] += torch.einsum("hnm,mhd->nhd", d_score, keys)
        for grad, product in (
            (grads[1], torch.einsum("hnm,nhd->mhd", d_score, query[rows])),
            (grads[2], torch.einsum("hnm,nhd->mhd", weight, grad_out[rows])),
        ):
            grad[columns] += product.unflatten(1, (-1, times)).sum(2)
    return tuple(grads)


STAND_IN = flash.Kernels(forward, backward)


def test_the_stand_in_is_called_as_aten_is():
    operators: list[Any] = [*ATEN]
    for function, operator in zip(STAND_IN, operators, strict=True):
        names = [argument.name for argument in operator.default._schema.arguments]
        ours = list(inspect.signature(function).parameters)
        assert ours == names[: len(ours)]
        assert {"window_size_left", "window_size_right"} <= set(names[len(ours) :])  # optional, and not given


def packing(prompt_lengths, lengths):
    prompts = make_prompts(*prompt_lengths)
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    return Packing(prompts, tokens, torch.tensor(lengths))


@pytest.mark.parametrize(
    ("prompt_lengths", "lengths"),
    [((3, 7), (4, 0, 2, 5)), ((5,), (1, 1, 6)), ((2, 2, 2), (0, 3, 0, 0, 2, 1)), ((4, 6), (0, 0))],
)
@pytest.mark.parametrize("sink", [False, True])
def test_blocks_by_kernels_equal_those_by_padding(monkeypatch, prompt_lengths, lengths, sink):
    generator = torch.Generator().manual_seed(0)
    layout = packing(prompt_lengths, lengths)
    count = len(layout.ids)

    def run():
        states = [
            torch.randn(count, heads, 8, generator=generator.manual_seed(heads), dtype=torch.float64)
            for heads in (4, 2, 2)
        ]
        rule = Rule(0.3, sink=torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_() if sink else None)
        inputs = [state.requires_grad_() for state in states] + ([rule.sink] if sink else [])
        out = layout(torch.nn.Module(), *states, rule)
        weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape)
        return [out, *torch.autograd.grad((out * weight).sum(), inputs)]

    padded = run()
    monkeypatch.setattr(flash, "kernels_for", lambda query, key: STAND_IN)
    for by_kernel, expected in zip(run(), padded, strict=True):
        torch.testing.assert_close(by_kernel, expected)
    # Control: without its scale the kernel gives something else.
    wrong = flash.Kernels(lambda *a, scale: forward(*a, scale=1.0), backward)
    monkeypatch.setattr(flash, "kernels_for", lambda query, key: wrong)
    assert not torch.allclose(run()[0], padded[0])


def test_a_model_read_by_kernels_has_the_same_log_probabilities_and_gradients(monkeypatch, build_model):
    model = build_model("qwen3", 60)
    tokens, mask = make_completions((3, 1, 5, 2))
    prompts = make_prompts(4, 6)
    difference(model, prompts, tokens, mask)  # the trials
    calls = []

    def kernels(query, key):
        calls.append(query.shape)
        return STAND_IN

    monkeypatch.setattr(flash, "kernels_for", kernels)
    logp_error, grad_error = difference(model, prompts, tokens, mask)
    assert logp_error < 1e-4
    assert grad_error < 1e-4
    assert len(calls) == 2 * 3 * 2  # layers, blocks, and both directions


def test_windows_and_caps_are_not_given_to_a_kernel(monkeypatch, build_model):
    def refuse(query, key):
        raise AssertionError("a kernel was asked for")

    prompts = make_prompts(9, 12)
    tokens, mask = make_completions((8, 8))
    for kind, change in (("mistral", {"sliding_window": 4}), ("gemma2", {})):
        model = build_model(kind, 60)
        for name, number in change.items():
            setattr(model.config, name, number)
        packed_hidden(body_of(model), prompts, tokens, mask)
        monkeypatch.setattr(flash, "kernels_for", refuse)
        packed_hidden(body_of(model), prompts, tokens, mask)
        monkeypatch.undo()
    monkeypatch.setattr(flash, "kernels_for", refuse)  # control: plain attention asks for one
    with pytest.raises(AssertionError, match="a kernel was asked for"):
        packed_hidden(body_of(build_model("qwen3", 60)), prompts, tokens, mask)


def test_the_trial_finds_kernels_that_do_something_else():
    def trial(kernels):
        return flash.agree(kernels, torch.device("cpu"), torch.float32, (4, 2), 8)

    assert trial(STAND_IN)
    assert trial(
        STAND_IN._replace(forward=lambda *a, scale: (forward(*a, scale=scale)[0], *forward(*a, scale=scale)[1:]))
    )

    def own_lse(grad, query, key, value, out, lse, *rest, scale):
        return backward(grad, query, key, value, out, (lse - 0.5).contiguous(), *rest, scale=scale)

    def shifted(*arguments, scale):
        out, lse, *others = forward(*arguments, scale=scale)
        return out, lse + 1, *others

    def upper(query, key, value, starts_q, starts_k, max_q, max_k, dropout, causal, debug, *, scale):
        return forward(query, key, value, starts_q, starts_k, max_q, max_k, dropout, False, debug, scale=scale)

    assert not trial(STAND_IN._replace(backward=own_lse))  # takes the block's logsumexp for the merged one
    assert not trial(STAND_IN._replace(forward=upper))  # ignores the causal order
    assert not trial(
        STAND_IN._replace(forward=lambda *a, scale: (forward(*a, scale=scale)[0], forward(*a, scale=scale)[1] + 1))
    )


def test_on_a_cpu_and_in_other_types_there_are_no_kernels():
    for dtype in (torch.float32, torch.bfloat16):
        query, key = torch.zeros(3, 4, 8, dtype=dtype), torch.zeros(3, 2, 8, dtype=dtype)
        assert flash.kernels_for(query, key) is None


def test_aten_gives_the_shapes_that_are_used():
    """On tensors without data of a GPU that need not exist."""
    with FakeTensorMode():
        query, key = (torch.empty(10, heads, 16, device="cuda", dtype=torch.bfloat16) for heads in (4, 2))
        starts = flash.Sequences(torch.empty(3, dtype=torch.int32, device="cuda"), 6)
        states = (query, key, key)
        out, lse = flash.forward(ATEN, states, starts, starts, True, 0.25)
        assert (out.shape, lse.shape, lse.dtype) == (query.shape, (10, 4), torch.float32)
        grads = flash.backward(ATEN, out, states, (out, lse), starts, starts, True, 0.25)
        assert [grad.shape for grad in grads] == [query.shape, key.shape, key.shape]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", flash.DTYPES)
def test_atens_kernels_agree_on_a_gpu(dtype):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    assert flash.agree(ATEN, torch.device("cuda"), dtype, (4, 2), 64)


@pytest.mark.gpu
def test_blocks_in_the_open_on_a_gpu_equal_those_of_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    layouts = []
    for device in ("cpu", "cuda"):
        prompts = Prompts(*(t.to(device) for t in make_prompts(3, 7)))
        layout = Packing(
            prompts, torch.zeros(4, 5, dtype=torch.long, device=device), torch.tensor([4, 0, 2, 5]).to(device)
        )
        generator = torch.Generator().manual_seed(0)
        query, key, value = (
            torch.randn(len(layout.ids), heads, 8, generator=generator).to(device) for heads in (4, 2, 2)
        )
        layouts.append(layout(torch.nn.Module(), query, key, value, Rule(0.3)).cpu())
    torch.testing.assert_close(*layouts)
    assert {"cpu"} == blocks.FUSED
