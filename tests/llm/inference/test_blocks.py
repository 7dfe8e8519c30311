"""Attention of one block of keys: fused against explicit, masks, caps and sinks against autograd."""

import pytest
import torch

from llm.inference import blocks
from llm.inference.blocks import (
    VisibleKeys,
    attention_block,
    attention_block_backward,
    merge_attention,
    merge_sink,
    sink_gradient,
)


def random_states(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def hidden_padding(queries, keys):
    hidden = torch.zeros(3, 1, 1, keys, dtype=torch.bool)
    hidden[1, ..., 4:] = True
    return hidden


def hidden_by_query(queries, keys):
    """A window; the last queries of the second row see no key."""
    hidden = torch.arange(keys) + 4 < torch.arange(queries).unsqueeze(-1) * keys // queries
    hidden = hidden.expand(3, 1, -1, -1).clone()
    hidden[1, :, -2:] = True
    return hidden


@pytest.mark.parametrize(
    ("causal", "mask", "keys"),
    [(False, hidden_padding, 6), (True, None, 6), (False, hidden_by_query, 6), (False, hidden_by_query, 700)],
)
def test_explicit_blocks_equal_the_fused_ones(monkeypatch, causal, mask, keys):
    query, grad, out = random_states(*[(3, 4, 6, 8)] * 3)
    key, value = random_states(*[(3, 2, keys, 8)] * 2)
    hidden = None if mask is None else mask(6, keys)
    results = []
    for fused in ({"cpu"}, set()):
        monkeypatch.setattr(blocks, "FUSED", fused)
        monkeypatch.setattr(blocks, "MAX_SCORES", 100)
        result, lse = attention_block(query, key, value, causal, hidden, 0.3)
        assert result.isfinite().all()
        merged = lse.clamp_min(0) + 1
        backward = attention_block_backward(grad, query, key, value, out, merged, causal, hidden, 0.3)
        empty = lse == -torch.inf
        assert int(empty.sum()) == (8 if mask is hidden_by_query else 0)
        results.append((result.masked_fill(empty.unsqueeze(-1), 0), lse, *backward))
    for fused_value, explicit_value in zip(*results, strict=True):
        torch.testing.assert_close(fused_value, explicit_value)
    if hidden is not None:  # control
        without = attention_block(query, key, value, False, None, 0.3)[0]
        assert not torch.allclose(results[0][0], without)


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("fused", [{"cpu"}, set()])
def test_gradients_with_masks_and_caps_are_those_of_autograd(monkeypatch, fused, cap):
    monkeypatch.setattr(blocks, "FUSED", fused)
    query, grad = random_states(*[(3, 4, 6, 8)] * 2)
    key, value = random_states(*[(3, 2, 6, 8)] * 2)
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1) | torch.ones(6, 6, dtype=torch.bool).tril(-3)
    states = [t.requires_grad_() for t in (query, key, value)]
    score = query @ key.repeat_interleave(2, 1).transpose(-1, -2) * 0.9
    capped = score if cap is None else cap * (score / cap).tanh()
    weight = capped.masked_fill(hidden, -torch.inf).softmax(-1)
    expected = weight @ value.repeat_interleave(2, 1)
    gradients = torch.autograd.grad((expected * grad).sum(), states)
    with torch.no_grad():
        mask = hidden.expand(3, 1, -1, -1)
        out, lse = attention_block(query, key, value, False, mask, 0.9, cap)
        torch.testing.assert_close(out, expected.detach())
        backward = attention_block_backward(grad, query, key, value, out, lse, False, mask, 0.9, cap)
        other = attention_block_backward(grad, query, key, value, out, lse, False, mask, 0.9, 1.0)
    for ours, autograd in zip(backward, gradients, strict=True):
        torch.testing.assert_close(ours, autograd)
    assert not torch.allclose(other[0], gradients[0], rtol=1e-2)  # control: another cap


def test_a_sink_takes_its_share_and_has_the_gradient_of_autograd():
    score, value, grad, sink = random_states((5, 4, 7), (5, 4, 7, 8), (5, 4, 8), (4,))
    sink.requires_grad_()
    both = torch.cat([score, sink.expand(5, -1).unsqueeze(-1)], -1)
    expected = (both.softmax(-1)[..., :-1].unsqueeze(-1) * value).sum(-2)
    gradient = torch.autograd.grad((expected * grad).sum(), sink)[0]
    plain = (score.softmax(-1).unsqueeze(-1) * value).sum(-2)
    out, lse = merge_sink(plain, score.logsumexp(-1), sink.detach())
    torch.testing.assert_close(out, expected.detach())
    torch.testing.assert_close(lse, both.detach().logsumexp(-1))
    torch.testing.assert_close(sink_gradient(grad, out, lse, sink.detach()), gradient)
    assert not torch.allclose(sink_gradient(grad, plain, lse, sink.detach()), gradient)  # control


def test_a_block_without_keys_leaves_the_other_as_it_is():
    ours, other = random_states((2, 3), (2, 3))
    lse = torch.tensor([0.5, -2.0], dtype=torch.float64)
    merged = merge_attention(other, torch.full_like(lse, -torch.inf), ours, lse)
    assert torch.equal(merged[0], ours)
    assert torch.equal(merged[1], lse)


def test_hidden_keys_of_a_window():
    from transformers.masking_utils import sliding_window_causal_mask_function

    visible = VisibleKeys(sliding_window_causal_mask_function(2), 2)
    hidden = visible.hidden(torch.tensor([[3, 4]]), torch.tensor([[1, 2, 3, 4, 5]]))
    assert hidden[0, 0].tolist() == [[True, False, False, True, True], [True, True, False, False, True]]
