"""Log-probabilities and entropies against each sequence processed alone."""

import pytest
import torch

from llm.inference.logprobs import completion_logp, completion_logp_and_entropy
from llm.inference.prompts import Prompts, encode_chats, pad_completions

from ..helpers import user_chat
from .plain import plain_logp


@pytest.fixture
def batch(tokenizer):
    chats = [user_chat(text) for text in ("hi", "a much longer question", "x y z")]
    prompts = encode_chats(tokenizer, chats)
    generator = torch.Generator().manual_seed(0)
    lengths = [3, 1, 7, 2, 7, 5, 4, 6, 1]
    rows = [torch.randint(200, (n,), generator=generator).tolist() for n in lengths]
    return prompts, *pad_completions(rows, tokenizer.pad_token_id)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_the_shared_prompt_changes_neither_values_nor_gradients(build_model, tokenizer, batch, kind):
    model = build_model(kind, len(tokenizer))
    prompts, tokens, mask = batch
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)) * mask

    ours = completion_logp(model, prompts, tokens, mask, chunk=5)
    grad = torch.autograd.grad((ours * weight).sum(), list(model.parameters()))
    plain = plain_logp(model, prompts, tokens, mask)
    plain_grad = torch.autograd.grad((plain * weight).sum(), list(model.parameters()))

    assert (ours - plain).abs().max() < 1e-5 * plain.abs().max()
    scale = max(g.abs().max() for g in plain_grad)
    assert max((a - b).abs().max() for a, b in zip(grad, plain_grad, strict=True)) < 1e-5 * scale
    assert bool((ours[~mask] == 0).all())
    # Control: with the prompts in another order the same completions are scored differently.
    swapped = Prompts(prompts.ids.flip(0), prompts.mask.flip(0))
    assert (completion_logp(model, swapped, tokens, mask) - plain).abs().max() > 1e-2


def test_entropy_is_that_of_the_distribution_of_each_token(random_model, batch):
    prompts, tokens, mask = batch
    logp, entropy = completion_logp_and_entropy(random_model, prompts, tokens, mask, chunk=5)
    torch.testing.assert_close(logp, completion_logp(random_model, prompts, tokens, mask))
    assert logp.requires_grad
    assert bool((entropy[~mask] == 0).all())
    group = len(tokens) // len(prompts.ids)
    for row in range(len(tokens)):
        prompt = prompts.ids[row // group][prompts.mask[row // group]]
        sequence = torch.cat([prompt, tokens[row][mask[row]]]).unsqueeze(0)
        share = random_model(input_ids=sequence, use_cache=False).logits[0].log_softmax(-1)
        plain = -(share.exp() * share).sum(-1)
        torch.testing.assert_close(entropy[row][mask[row]], plain[len(prompt) - 1 : -1], atol=1e-5, rtol=0)
        assert (entropy[row][mask[row]] - plain[len(prompt) :]).abs().max() > 1e-4  # control: one token later


def test_masked_tokens_change_nothing(random_model, batch):
    prompts, tokens, mask = batch
    other = tokens.masked_fill(~mask, 7)
    a, b = (completion_logp(random_model, prompts, ids, mask) for ids in (tokens, other))
    torch.testing.assert_close(a, b)
    assert not torch.equal(tokens, other)
