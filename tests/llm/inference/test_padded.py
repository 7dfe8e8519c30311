"""The path with a repeated cache: which caches it takes, padding without influence, and rows that leave."""

import pytest
import torch
from transformers import DynamicCache

from llm.inference.head import body_of
from llm.inference.padded import PaddedDecoder, caches_attention_only, padded_hidden
from llm.inference.prompts import Prompts, pad_completions

from ..architectures import shared_model
from .plain import VOCAB, make_completions, make_prompts
from .special_models import special_model

KINDS = {
    "bloom": True,
    "gemma2": True,
    "llama4_text": True,
    "qwen3_next": False,
    "lfm2": False,
    "deepseek_v32": False,
}


def make_batch():
    generator = torch.Generator().manual_seed(1)
    prompts = Prompts(torch.randint(64, (2, 7), generator=generator), torch.arange(7) >= torch.tensor([[4], [0]]))
    rows = [torch.randint(64, (n,), generator=generator).tolist() for n in (2, 5, 3, 1)]
    return prompts, *pad_completions(rows, 0)


@pytest.mark.parametrize("name", KINDS)
def test_only_keys_and_values_are_repeated(name):
    body = body_of(shared_model(name))
    cache = DynamicCache(config=body.config)
    with torch.no_grad():
        body(input_ids=torch.arange(5)[None], past_key_values=cache, use_cache=True)
    assert caches_attention_only(cache) == KINDS[name]
    assert not caches_attention_only(None)


@pytest.mark.parametrize("name", ["bloom", "mistral", "gemma3n_text"])
def test_the_content_of_padding_changes_nothing(name):
    """Not even the gradient: the embedding of a padding token may be zero, of which a norm has no gradient."""
    model = shared_model(name)
    body, (prompts, tokens, mask) = body_of(model), make_batch()
    results = []
    for pad in (2, 9):
        padded = Prompts(prompts.ids.masked_fill(~prompts.mask, pad), prompts.mask)
        hidden = padded_hidden(body, padded, tokens.masked_fill(~mask, pad), mask)
        grads = torch.autograd.grad(hidden.square().sum(), list(body.parameters()), allow_unused=True)
        results.append([hidden, *(grad for grad in grads if grad is not None)])
    for a, b in zip(*results, strict=True):
        assert bool(a.isfinite().all())
        assert torch.equal(a, b)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bloom", "gemma2", "gpt_oss"])
def test_rows_that_leave_change_no_other(name):
    body, (prompts, tokens, mask) = body_of(shared_model(name)), make_batch()
    whole = PaddedDecoder(body, prompts, 2, 5)
    fewer = PaddedDecoder(body, prompts, 2, 5)
    rows = torch.arange(4)
    for t in range(4):
        whole.step(tokens[:, t], mask[:, t])
        if t == 2:
            rows = torch.tensor([1, 2])
            fewer.keep(rows)
        fewer.step(tokens[rows, t], mask[rows, t])
        torch.testing.assert_close(fewer.hidden, whole.hidden[rows], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole.hidden[0], whole.hidden[1])  # control


@pytest.mark.parametrize("kind", ["bloom", "qwen3", "mistral", "gemma3"])
@torch.no_grad()
def test_hidden_states_are_those_of_each_sequence_alone(build_model, kind):
    model = special_model(kind) if kind in ("mistral", "gemma3") else build_model(kind, VOCAB)
    body, prompts = model.get_decoder(), make_prompts(3, 9, 1)
    tokens, mask = make_completions([3, 1, 7, 2, 7, 5, 4, 6, 1])
    expected = torch.zeros(*tokens.shape, 32)
    for row, length in enumerate(mask.sum(-1).tolist()):
        prompt = prompts.ids[row // 3][prompts.mask[row // 3]]
        ids = torch.cat([prompt, tokens[row, : length - 1]])[None]
        expected[row, :length] = body(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 :]
    torch.testing.assert_close(padded_hidden(body, prompts, tokens, mask), expected[mask], atol=2e-5, rtol=1e-5)
    decoder = PaddedDecoder(body, prompts, 3, tokens.shape[1])
    for t in range(tokens.shape[1]):
        torch.testing.assert_close(decoder.hidden[mask[:, t]], expected[:, t][mask[:, t]], atol=2e-5, rtol=1e-5)
        if t == 1:  # control: the rows differ
            assert not torch.allclose(decoder.hidden[0], decoder.hidden[2], atol=1e-2)
        if t + 1 < tokens.shape[1]:
            decoder.step(tokens[:, t], mask[:, t])
