"""Packed passes against each sequence alone: values, gradients, and controls that break one part of the code."""

import pytest
import torch

from llm.inference import attention, logprobs
from llm.inference.attention import (
    Packing,
    PaddedRows,
    attention_block,
    attention_block_backward,
    supports_shared_prefix,
)
from llm.inference.paths import PACKED, path_of
from llm.inference.prompts import Prompts, pad_completions

from .plain import plain_logp

VOCAB = 60
SUPPORTED = ("qwen3", "llama", "llama-bias", "qwen2", "gpt2", "gpt_neox", "olmo2", "qwen3_moe")
UNSUPPORTED = {
    "mistral": "attention with sliding_window",
    "gemma2": "layers of sliding_attention",
    "bloom": "its attention cannot be replaced",
    "mamba": "its attention cannot be replaced",
}
LENGTHS = {"ragged": [3, 1, 7, 2, 7, 5, 4, 6, 1], "one-token": [1] * 9, "even": [4] * 9, "G=1": [5, 1, 3]}


def make_prompts(*lengths):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCAB, (len(lengths), max(lengths)), generator=generator)
    return Prompts(ids, torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths).unsqueeze(-1))


def make_completions(lengths):
    generator = torch.Generator().manual_seed(2)
    return pad_completions([torch.randint(VOCAB, (n,), generator=generator).tolist() for n in lengths], 0)


def difference(model, prompts, tokens, mask):
    """Largest errors against the plain computation: of log-probabilities, and of gradients over the largest one."""
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    values, grads = [], []
    for logp_of in (logprobs.completion_logp, plain_logp):
        value = logp_of(model, prompts, tokens, mask).float()
        values.append(value.detach())
        grad = torch.autograd.grad((value * weight).sum(), list(model.parameters()), allow_unused=True)
        grads.append([g.float() for g in grad if g is not None])
    scale = max(g.abs().max() for g in grads[1])
    grad_error = max((a - b).abs().max() for a, b in zip(*grads, strict=True))
    return float((values[0] - values[1]).abs().max()), float(grad_error / scale)


@pytest.mark.parametrize("device_has_fused", [True, False])
@pytest.mark.parametrize("kind", SUPPORTED)
def test_a_packed_pass_equals_each_sequence_alone(build_model, kind, device_has_fused, monkeypatch):
    model = build_model(kind, VOCAB)
    assert supports_shared_prefix(model.get_decoder())
    if not device_has_fused:
        monkeypatch.setattr(attention, "FUSED", set())
        monkeypatch.setattr(attention, "MAX_SCORES", 300)  # in several chunks
    value, grad = difference(model, make_prompts(3, 9, 1), *make_completions(LENGTHS["ragged"]))
    assert value < 1e-5
    assert grad < 1e-5
    assert model.config._attn_implementation == "sdpa"  # restored


@pytest.mark.parametrize("prompts", [(3, 9, 1), (4, 4, 4)], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_every_shape_of_batch(build_model, prompts, lengths):
    value, grad = difference(build_model("qwen3", VOCAB), make_prompts(*prompts), *make_completions(LENGTHS[lengths]))
    assert value < 1e-5
    assert grad < 1e-5


def test_bfloat16_is_as_exact_as_the_plain_path(build_model):
    """Both computations round; the packed one is not much further from float32 than the plain one."""
    model = build_model("qwen3", VOCAB)
    batch = make_prompts(3, 9, 1), *make_completions(LENGTHS["ragged"])
    exact = plain_logp(model, *batch)
    model.to(torch.bfloat16)
    with torch.no_grad():
        packed, plain = (
            float((f(model, *batch) - exact).abs().mean()) for f in (logprobs.completion_logp, plain_logp)
        )
    assert supports_shared_prefix(model.get_decoder())
    assert 0 < packed < 2 * plain


def shifted(self, prompts, tokens, lengths):
    Packing_init(self, prompts, tokens, lengths)
    self.positions[self.prompts.stop :] += 1


def unmerged(a, a_lse, b, b_lse):
    return (a + b) / 2, torch.logaddexp(a_lse, b_lse)


def wrong_lse(a, a_lse, b, b_lse):
    return Merge(a, a_lse, b, b_lse)[0], b_lse


Packing_init, Merge = Packing.__init__, attention.merge_attention


@pytest.mark.parametrize(
    ("attribute", "replacement", "values_differ"),
    [
        ((Packing, "__init__"), shifted, True),
        ((attention, "merge_attention"), unmerged, True),
        ((attention, "merge_attention"), wrong_lse, False),
    ],
    ids=["wrong positions", "merge without weights", "one block's logsumexp"],
)
def test_control_a_broken_part_is_noticed(build_model, monkeypatch, attribute, replacement, values_differ):
    model = build_model("qwen3", VOCAB)
    batch = make_prompts(3, 9, 1), *make_completions(LENGTHS["ragged"])
    assert path_of(model.get_decoder()) is PACKED
    monkeypatch.setattr(*attribute, replacement)
    value, grad = difference(model, *batch)
    assert (value > 1e-3) == values_differ
    assert grad > 1e-3
    # The trial that decides whether a model is supported refuses it if its values are wrong.
    attention._REASONS.clear()
    assert supports_shared_prefix(model.get_decoder()) != values_differ
    attention._REASONS.clear()


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_other_models_use_the_plain_way_and_the_reason_is_logged_once(build_model, kind, capsys, monkeypatch):
    model = build_model(kind, VOCAB)
    attention.log_once.cache_clear()
    monkeypatch.setattr(attention.console, "quiet", False)
    assert not supports_shared_prefix(model.get_decoder())
    assert not supports_shared_prefix(model.get_decoder())
    output = " ".join(capsys.readouterr().out.split())
    assert output.count(UNSUPPORTED[kind]) == 1
    if kind in ("mistral", "bloom"):
        value, grad = difference(model, make_prompts(3, 9, 1), *make_completions(LENGTHS["ragged"]))
        assert value < 1e-5
        assert grad < 1e-5


def test_with_gradient_checkpointing_the_plain_way_is_used(build_model):
    body = build_model("qwen3", VOCAB).get_decoder().train()
    assert supports_shared_prefix(body)
    body.activation_checkpointing_enable()
    assert not supports_shared_prefix(body)
    with torch.no_grad():
        assert supports_shared_prefix(body)


def test_explicit_blocks_equal_the_fused_ones(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query, grad, out = (torch.randn(3, 4, 6, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    key, value = (torch.randn(3, 2, 6, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    hidden = torch.zeros(3, 1, 1, 6, dtype=torch.bool)
    hidden[1, ..., 4:] = True
    for causal, mask in ((False, hidden), (True, None)):
        results = []
        for fused in ({"cpu"}, set()):
            monkeypatch.setattr(attention, "FUSED", fused)
            result, lse = attention_block(query, key, value, causal, mask, 0.3)
            results.append(
                (result, lse, *attention_block_backward(grad, query, key, value, out, lse + 1, causal, mask, 0.3))
            )
        for fused_value, explicit_value in zip(*results, strict=True):
            torch.testing.assert_close(fused_value, explicit_value)
    assert not torch.allclose(
        attention_block(query, key, value, False, None, 0.3)[0],
        attention_block(query, key, value, False, hidden, 0.3)[0],
    )


def test_rows_pad_and_pack():
    packed = torch.arange(10.0).view(10, 1, 1)
    rows = PaddedRows(torch.tensor([3, 0, 2]), 4)
    padded = rows.pad_zero(packed)[:, 0, :, 0]
    assert padded.tolist() == [[4, 5, 6], [0, 0, 0], [7, 8, 0]]
    assert rows.pack(rows.pad(packed)).flatten().tolist() == [4, 5, 6, 7, 8]
