"""Sampling completions from the distribution that is scored: temperature 1, no top-k or nucleus truncation."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.sequence import completion_mask, inverse_cdf
from llm.inference.head import Head, body_of, head_of
from llm.inference.paths import make_decoder
from llm.inference.prompts import Prompts
from llm.inference.rope import check_length

SHRINK = 0.8  # ended rows are dropped when at most this share of the rows is still running


class Rollout(NamedTuple):
    """tokens [P * G, T] right-padded; mask [P * G, T] bool, True up to and including EOS; complete [P * G] bool."""

    tokens: Tensor
    mask: Tensor
    complete: Tensor

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """The completions as text, without special tokens such as EOS."""
        shown = self.mask & ~torch.isin(self.tokens, torch.tensor(tokenizer.all_special_ids, device=self.mask.device))
        rows = [row[keep].tolist() for row, keep in zip(self.tokens, shown, strict=True)]
        return tokenizer.batch_decode(rows)


def sample(
    model: PreTrainedModel, prompts: Prompts, uniforms: Tensor, *, group_size: int, eos_ids: Tensor, pad_id: int
) -> Rollout:
    """Sample `group_size` completions for each of P prompts.

    Each prompt is processed once for its group, and rows that have ended are processed no further. A token is the
    inverse of the cumulative distribution at its uniform number, in float64. A completion therefore depends only on
    its own row of uniforms.

    Args:
        model: a causal language model.
        prompts: P prompts.
        uniforms: [P * G, T] in [0, 1), one for each token that may be sampled; T is the longest completion.
        group_size: G.
        eos_ids: [K] ids that end a completion.
        pad_id: fills rows after their end.
    """
    with torch.inference_mode():
        rollout = _sample(model, prompts, uniforms, group_size, eos_ids, pad_id)
    return Rollout(*(tensor.clone() for tensor in rollout))  # autograd cannot use inference tensors


def _sample(
    model: PreTrainedModel, prompts: Prompts, uniforms: Tensor, group_size: int, eos_ids: Tensor, pad_id: int
) -> Rollout:
    head, body, length = head_of(model), body_of(model), uniforms.shape[1]
    check_length(body.config, prompts, length)
    decoder = make_decoder(body, prompts, group_size, length)
    uniforms, eos_ids = uniforms.to(decoder.hidden.device), eos_ids.to(decoder.hidden.device)
    tokens = torch.full(uniforms.shape, pad_id, device=uniforms.device)
    rows = torch.arange(len(uniforms), device=uniforms.device)  # those still in the decoder
    running = torch.ones_like(rows, dtype=torch.bool)
    for t in range(length):
        token = sample_token(head, decoder.hidden, uniforms[rows, t]).masked_fill(~running, pad_id)
        tokens[rows, t] = token
        was_running, running = running, running & ~torch.isin(token, eos_ids)
        remaining = int(running.sum())
        if t + 1 == length or not remaining:
            break
        if remaining <= SHRINK * len(rows):
            keep = running.nonzero().squeeze(-1)
            decoder.keep(keep)
            rows, token, was_running, running = rows[keep], token[keep], was_running[keep], running[keep]
        decoder.step(token, was_running)
    tokens = tokens[:, : t + 1]
    return Rollout(tokens, completion_mask(tokens, eos_ids), torch.isin(tokens, eos_ids).any(-1))


def sample_token(head: Head, hidden: Tensor, uniform: Tensor) -> Tensor:
    """Sample the next token of each row, [R, D] and [R] -> [R], in chunks whose logits fit into memory."""
    size = head.rows_per_chunk()
    chunks = zip(hidden.split(size), uniform.split(size), strict=True)
    return torch.cat([inverse_cdf(head.logits(states), numbers) for states, numbers in chunks])
