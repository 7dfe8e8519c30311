"""The plain path against each sequence alone."""

import pytest
import torch

from llm.inference.padded import PaddedDecoder, padded_hidden

from .plain import VOCAB, make_completions, make_prompts
from .special_models import special_model


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
