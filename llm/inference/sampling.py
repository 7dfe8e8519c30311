"""Sampling completions from the distribution that is scored: temperature 1, no top-k or nucleus truncation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.integrations.model_files import decode
from core.sequence import inverse_cdf
from llm.inference.head import Head, body_of, head_of
from llm.inference.paths import make_decoder
from llm.inference.prompts import Prompts
from llm.inference.rope import check_length
from llm.inference.stopping import StopStrings, text_before

SHRINK = 0.8  # ended rows are dropped when at most this share of the rows is still running


class Rollout(NamedTuple):
    """P * G completions of at most T tokens.

    tokens: [P * G, T] right-padded.
    mask: [P * G, T] bool, True up to and including the token that ended the row.
    complete: [P * G] bool, False for a row that was cut at the limit.
    """

    tokens: Tensor
    mask: Tensor
    complete: Tensor

    def texts(
        self, tokenizer: PreTrainedTokenizerBase, eos_ids: Sequence[int] = (), stop_strings: Sequence[str] = ()
    ) -> list[str]:
        """The completions as text, without what ended them: the last token, or a string and what follows it.

        Everything else is shown, also special tokens, so that a reward sees what was written.

        Args:
            tokenizer: of the model.
            eos_ids: ids that end a completion; only needed with stop_strings.
            stop_strings: strings that end a completion.
        """
        rows = [row[keep].tolist() for row, keep in zip(self.tokens, self.mask, strict=True)]
        complete = self.complete.tolist()
        by_string = [
            bool(stop_strings) and ended and row[-1] not in eos_ids for row, ended in zip(rows, complete, strict=True)
        ]
        shown = [
            row if string or not ended else row[:-1]
            for row, string, ended in zip(rows, by_string, complete, strict=True)
        ]
        texts = decode(tokenizer, shown)
        return [
            text_before(text, stop_strings) if string else text for text, string in zip(texts, by_string, strict=True)
        ]


def sample(
    model: PreTrainedModel,
    prompts: Prompts,
    uniforms: Tensor,
    *,
    group_size: int,
    eos_ids: Tensor,
    pad_id: int,
    stop_strings: StopStrings | None = None,
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
        stop_strings: strings that end a completion; None: only tokens do.
    """
    with torch.inference_mode():
        rollout = _sample(model, prompts, uniforms, group_size, eos_ids, pad_id, stop_strings)
    return Rollout(*(tensor.clone() for tensor in rollout))  # autograd cannot use inference tensors


def _sample(
    model: PreTrainedModel,
    prompts: Prompts,
    uniforms: Tensor,
    group_size: int,
    eos_ids: Tensor,
    pad_id: int,
    stop_strings: StopStrings | None,
) -> Rollout:
    head, body, limit = head_of(model), body_of(model), uniforms.shape[1]
    check_length(body.config, prompts, limit)
    decoder = make_decoder(body, prompts, group_size, limit)
    uniforms, eos_ids = uniforms.to(decoder.hidden.device), eos_ids.to(decoder.hidden.device)
    tokens = torch.full(uniforms.shape, pad_id, device=uniforms.device)
    lengths = torch.full_like(tokens[:, 0], limit)
    complete = torch.zeros_like(lengths, dtype=torch.bool)
    rows = torch.arange(len(uniforms), device=uniforms.device)  # those still in the decoder
    running = torch.ones_like(rows, dtype=torch.bool)
    for t in range(limit):
        token = sample_token(head, decoder.hidden, uniforms[rows, t]).masked_fill(~running, pad_id)
        tokens[rows, t] = token
        ends = torch.isin(token, eos_ids)
        if stop_strings is not None:
            ends |= stop_strings.completed(tokens[rows, : t + 1])
        was_running, ended, running = running, running & ends, running & ~ends
        # Whole rows are written: an index of the rows that have ended would make a GPU wait for its length.
        lengths[rows] = lengths[rows].masked_fill(ended, t + 1)
        complete[rows] |= ended
        remaining = int(running.sum())
        if t + 1 == limit or not remaining:
            break
        if remaining <= SHRINK * len(rows):
            keep = running.nonzero().squeeze(-1)
            decoder.keep(keep)
            rows, token, was_running, running = rows[keep], token[keep], was_running[keep], running[keep]
        decoder.step(token, was_running)
    tokens = tokens[:, : t + 1]
    mask = torch.arange(t + 1, device=tokens.device) < lengths.unsqueeze(-1)
    return Rollout(tokens, mask, complete)


def sample_token(head: Head, hidden: Tensor, uniform: Tensor) -> Tensor:
    """Sample the next token of each row, [R, D] and [R] -> [R], in chunks whose logits fit into memory."""
    size = head.rows_per_chunk()
    chunks = zip(hidden.split(size), uniform.split(size), strict=True)
    return torch.cat([inverse_cdf(head.logits(states), numbers) for states, numbers in chunks])
