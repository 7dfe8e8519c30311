"""Paths without padding before a token: hidden states of rows alone, caches by length, and rows that leave."""

import pytest
import torch

from llm.inference.head import body_of
from llm.inference.paths import _plain_hidden
from llm.inference.prompts import Prompts, pad_completions
from llm.inference.whole_rows import (
    EqualLengthDecoder,
    NoUsableCache,
    WholeRowDecoder,
    own_cache,
    select_rows,
    whole_row_hidden,
)

from ..architectures import shared_model

LENGTHS = [4, 2, 6, 1, 3, 6, 5, 2]  # of the completions, two for each prompt


def make_batch():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([[4], [9], [4], [2]])  # of the prompts
    prompts = Prompts(torch.randint(64, (4, 9), generator=generator), torch.arange(9) >= 9 - lengths)
    return prompts, *pad_completions([torch.randint(64, (n,), generator=generator).tolist() for n in LENGTHS], 0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mamba2", "lfm2", "qwen3_next", "rwkv", "qwen3", "gpt_oss"])
def test_whole_rows_are_rows_alone(name):
    body, batch = body_of(shared_model(name)), make_batch()
    expected = _plain_hidden(body, *batch)
    torch.testing.assert_close(whole_row_hidden(body, *batch), expected, atol=1e-5, rtol=1e-5)
    prompts, tokens, mask = batch
    swapped = Prompts(prompts.ids.flip(0), prompts.mask.flip(0))  # control: the prompt is read
    assert (whole_row_hidden(body, swapped, tokens, mask) - expected).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            (name, EqualLengthDecoder)
            for name in ("mamba", "mamba2", "lfm2", "qwen3_next", "jamba", "bamba", "zamba2")
        ),
        *((name, WholeRowDecoder) for name in ("rwkv", "xlstm", "minimax", "recurrent_gemma")),
    ],
)
def test_a_decoder_computes_rows_alone_while_others_leave(name, kind):
    body, (prompts, tokens, mask) = body_of(shared_model(name)), make_batch()
    expected = torch.zeros(*mask.shape, body.config.hidden_size)
    expected[mask] = _plain_hidden(body, prompts, tokens, mask)
    decoder, rows = kind(body, prompts, 2, 6), torch.arange(8)
    for t in range(6):
        running = mask[rows, t]
        difference = (decoder.hidden - expected[rows, t])[running].abs().max()
        assert difference < 1e-4
        if t in (1, 3):
            decoder.keep(running.nonzero().squeeze(-1))
            rows = rows[running]
        if t == 3:
            assert len(rows) == 4
        if t < 5:
            decoder.step(tokens[rows, t], mask[rows, t])
    assert difference > 0 or kind is WholeRowDecoder


@torch.no_grad()
def test_control_a_wrong_selection_of_states_is_noticed():
    body, (prompts, tokens, mask) = body_of(shared_model("mamba2")), make_batch()
    decoders = [EqualLengthDecoder(body, prompts, 2, 6) for _ in range(2)]
    select_rows(decoders[1].parts[1].cache, torch.tensor([2, 3, 0, 1]))
    for decoder in decoders:
        decoder.step(tokens[:, 0], mask[:, 0])
    assert (decoders[0].hidden - decoders[1].hidden).abs().max() > 1e-2


def test_prompts_of_one_length_share_a_cache():
    decoder = EqualLengthDecoder(body_of(shared_model("mamba")), make_batch()[0], 2, 6)
    assert [part.length for part in decoder.parts] == [2, 4, 9]
    assert [part.rows.tolist() for part in decoder.parts] == [[6, 7], [0, 1, 4, 5], [2, 3]]


@torch.no_grad()
def test_a_cache_of_a_kind_of_its_own_is_not_trusted():
    ids = torch.arange(4)[None]
    with pytest.raises(NoUsableCache, match="it returns no cache"):
        own_cache(body_of(shared_model("openai-gpt"))(input_ids=ids, use_cache=True))
    _, cache = own_cache(body_of(shared_model("minimax"))(input_ids=ids, use_cache=True))
    with pytest.raises(NoUsableCache, match="of a kind of its own"):
        select_rows(cache, torch.tensor([0, 0]))
