"""Sampling completions from the very distribution that is scored: temperature 1, no truncation."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.sequence import completion_mask, inverse_cdf, rows_at_a_time
from llm.inference.decoder import PackedDecoder, make_decoder
from llm.inference.prompts import Prompts

SHRINK = 0.8  # ended rows leave when no more than this share of the rows is running


class Rollout(NamedTuple):
    """tokens [P * G, T] right-padded; mask [P * G, T] bool, True up to and including EOS; complete [P * G] bool."""

    tokens: Tensor
    mask: Tensor
    complete: Tensor

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """The completions as text, without their end-of-sequence token."""
        counted = self.mask & ~torch.isin(
            self.tokens, torch.tensor(tokenizer.all_special_ids, device=self.mask.device)
        )
        rows = [row[keep].tolist() for row, keep in zip(self.tokens, counted, strict=True)]
        return tokenizer.batch_decode(rows)


def sample(
    model: PreTrainedModel, prompts: Prompts, uniforms: Tensor, *, group_size: int, eos_ids: Tensor, pad_id: int
) -> Rollout:
    """Draw `group_size` completions for each of P prompts.

    Each prompt is read once for its group, and rows that have ended are read no further. A token is the inverse
    of the cumulative distribution at its uniform, in float64, so that a completion depends on its own row of
    uniforms alone.

    Args:
        uniforms: [P * G, T] in [0, 1), one for each token that may be drawn; T is the longest completion.
        eos_ids: [K] ids that end a completion.
        pad_id: fills rows after their end.
    """
    with torch.inference_mode():
        drawn = _sample(model, prompts, uniforms, group_size, eos_ids, pad_id)
    return Rollout(*(tensor.clone() for tensor in drawn))  # ordinary tensors again, which a gradient may refer to


def _sample(
    model: PreTrainedModel, prompts: Prompts, uniforms: Tensor, group_size: int, eos_ids: Tensor, pad_id: int
) -> Rollout:
    head = model.get_output_embeddings()
    length = uniforms.shape[1]
    decoder = make_decoder(model.get_decoder(), prompts, group_size, length)
    uniforms, eos_ids = uniforms.to(decoder.hidden.device), eos_ids.to(decoder.hidden.device)
    drawn = torch.full(uniforms.shape, pad_id, device=uniforms.device)
    rows = torch.arange(len(uniforms), device=uniforms.device)  # those that the decoder still has
    running = torch.ones_like(rows, dtype=torch.bool)
    for t in range(length):
        token = draw(head, decoder.hidden, uniforms[rows, t]).masked_fill(~running, pad_id)
        drawn[rows, t] = token
        read, running = running, running & ~torch.isin(token, eos_ids)
        left = int(running.sum())
        if t + 1 == length or not left:
            break
        if isinstance(decoder, PackedDecoder) and left <= SHRINK * len(rows):
            stay = running.nonzero().squeeze(-1)
            decoder.keep(stay)
            rows, token, read, running = rows[stay], token[stay], read[stay], running[stay]
        decoder.step(token, read)
    tokens = drawn[:, : t + 1]
    return Rollout(tokens, completion_mask(tokens, eos_ids), torch.isin(tokens, eos_ids).any(-1))


def draw(head: Any, hidden: Tensor, uniform: Tensor) -> Tensor:
    """The next token of each row, [R, D] and [R] -> [R], with the logits of no more rows at a time than fit."""
    size = rows_at_a_time(head.weight.shape[0])
    parts = zip(hidden.split(size), uniform.split(size), strict=True)
    return torch.cat([inverse_cdf(head(some), each) for some, each in parts])
