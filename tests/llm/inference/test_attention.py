"""Packed passes against each sequence alone: values, gradients, and controls that break one part of the code."""

import pytest
import torch

from llm.inference import attention, blocks, logprobs, paths
from llm.inference.attention import Packing, PaddedRows
from llm.inference.head import body_of
from llm.inference.paths import PACKED, path_of
from llm.models import enable_gradient_checkpointing

from .plain import VOCAB, difference, make_completions, make_prompts, plain_logp
from .special_models import PACKED_KINDS, special_model, without

SUPPORTED = ("qwen3", "llama", "llama-bias", "qwen2", "gpt2", "gpt_neox", "olmo2", "qwen3_moe")
LENGTHS = {"ragged": [3, 1, 7, 2, 7, 5, 4, 6, 1], "one-token": [1] * 9, "even": [4] * 9, "G=1": [5, 1, 3]}


@pytest.mark.parametrize("device_has_fused", [True, False])
@pytest.mark.parametrize("kind", SUPPORTED)
def test_a_packed_pass_equals_each_sequence_alone(build_model, kind, device_has_fused, monkeypatch):
    model = build_model(kind, VOCAB)
    assert path_of(model.get_decoder()) is PACKED
    if not device_has_fused:
        monkeypatch.setattr(blocks, "FUSED", set())
        monkeypatch.setattr(blocks, "MAX_SCORES", 300)  # in several chunks
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
    assert path_of(model.get_decoder()) is PACKED
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
    # The trial that decides how a model is read notices wrong values and wrong gradients.
    paths._PATHS.clear()
    assert path_of(model.get_decoder()) is not PACKED
    paths._PATHS.clear()


@pytest.mark.parametrize("lengths", ["ragged", "one-token"])
@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_windows_sinks_caps_and_other_widths_are_those_of_each_sequence_alone(kind, lengths):
    """Rows of 2 to 16 tokens with a window of 6, prompts longer and shorter than it."""
    model = special_model(kind)
    assert path_of(model.get_decoder()) is PACKED
    value, grad = difference(model, make_prompts(3, 9, 1), *make_completions(LENGTHS[lengths]))
    assert value < 1e-5
    assert grad < 1e-5


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gpt_oss", "gemma3", "llama4"])
def test_masks_without_the_fused_operator_in_chunks_and_groups_of_one(kind, monkeypatch):
    changes = {"attn_temperature_tuning": False} if kind == "llama4" else {}
    model = special_model(kind, **changes)
    assert path_of(body_of(model)) is PACKED
    monkeypatch.setattr(blocks, "MAX_SCORES", 300)
    for fused in ({"cpu"}, set()):
        monkeypatch.setattr(blocks, "FUSED", fused)
        value, grad = difference(model, make_prompts(3, 9, 1), *make_completions(LENGTHS["G=1"]))
        assert value < 1e-5
        assert grad < 1e-5


@pytest.mark.parametrize(
    ("kind", "field"),
    [("mistral", "visible"), ("phimoe", "visible"), ("gemma3", "visible"), ("gemma2", "cap"), ("gpt_oss", "sink")],
)
def test_control_a_layer_without_its_window_cap_or_sink_is_noticed(kind, field, monkeypatch):
    model = special_model(kind)
    assert path_of(model.get_decoder()) is PACKED
    monkeypatch.setattr(attention, "Rule", without(field))
    value, grad = difference(model, make_prompts(3, 9, 1), *make_completions(LENGTHS["ragged"]))
    assert value > 1e-2
    assert grad > 1e-2
    paths._PATHS.clear()
    assert path_of(model.get_decoder()) is not PACKED  # the trial notices it, too
    paths._PATHS.clear()


@pytest.mark.parametrize("kind", ["gemma3", "gpt_oss"])
def test_with_our_gradient_checkpointing_layers_keep_their_windows_and_sinks(kind):
    batch = make_prompts(3, 9, 1), *make_completions(LENGTHS["ragged"])
    results: list[tuple[torch.Tensor, ...]] = []
    for logp_of in (logprobs.completion_logp, plain_logp):
        model = special_model(kind)
        if not results:
            enable_gradient_checkpointing(model)
        value = logp_of(model, *batch)
        results.append((value, *torch.autograd.grad(value.square().sum(), list(model.parameters()))))
    scale = max(float(grad.abs().max()) for grad in results[1][1:])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("window", [16, 15])
def test_no_mask_is_made_for_rows_within_the_window(window, monkeypatch):
    """The longest prompt and completion are 9 + 6 tokens in the packed pass, whose last token is not read."""
    model = special_model("mistral", sliding_window=window)
    assert path_of(model.get_decoder()) is PACKED
    batch = make_prompts(3, 9, 1), *make_completions(LENGTHS["ragged"])
    expected = plain_logp(model, *batch)
    monkeypatch.setattr(blocks.VisibleKeys, "hidden", None)
    assert (logprobs.completion_logp(model, *batch) - expected).abs().max() < 1e-5
    model.config.sliding_window = 14
    with pytest.raises(TypeError):  # control: here the window matters
        logprobs.completion_logp(model, *batch)


def test_rows_pad_and_pack():
    packed = torch.arange(10.0).view(10, 1, 1)
    rows = PaddedRows(torch.tensor([3, 0, 2]), 4)
    padded = rows.pad_zero(packed)[:, 0, :, 0]
    assert padded.tolist() == [[4, 5, 6], [0, 0, 0], [7, 8, 0]]
    assert rows.pack(rows.pad(packed)).flatten().tolist() == [4, 5, 6, 7, 8]
