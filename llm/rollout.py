"""Sampling completions from the very distribution that is scored: temperature 1, no truncation."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from core.sequence import completion_mask
from llm.logp import positions, read_prompts
from llm.prompts import Prompts


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


@torch.no_grad()
def sample(
    model: PreTrainedModel, prompts: Prompts, uniforms: Tensor, *, group_size: int, eos_ids: Tensor, pad_id: int
) -> Rollout:
    """Draw `group_size` completions for each of P prompts.

    Each prompt is read once for its group. A token is the inverse of the cumulative distribution at its
    uniform, in float64, so that a completion depends on its own row of uniforms alone.

    Args:
        uniforms: [P * G, T] in [0, 1), one for each token that may be drawn; T is the longest completion.
        eos_ids: [K] ids that end a completion.
        pad_id: fills rows after their end.
    """
    body, head = model.get_decoder(), model.get_output_embeddings()
    hidden, cache = read_prompts(body, prompts, DynamicCache(config=model.config), group_size)
    length = uniforms.shape[1]
    position = positions(prompts, group_size, length)
    attended = prompts.mask.repeat_interleave(group_size, 0)
    running = torch.ones(len(uniforms), dtype=torch.bool, device=hidden.device)
    drawn: list[Tensor] = []
    for t in range(length):
        token = inverse_cdf(head(hidden), uniforms[:, t].to(hidden.device)).masked_fill(~running, pad_id)
        drawn.append(token)
        attended = torch.cat([attended, running.unsqueeze(-1)], -1)
        running = running & ~torch.isin(token, eos_ids)
        if t + 1 == length or not bool(running.any()):
            break
        hidden = body(
            input_ids=token.unsqueeze(-1),
            attention_mask=attended,
            position_ids=position[:, t : t + 1],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    tokens = torch.stack(drawn, -1)
    return Rollout(tokens, completion_mask(tokens, eos_ids), ~running)


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """Index of the outcome whose stretch of the cumulative distribution holds `uniform`: [N, V], [N] -> [N]."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # Scaled to the last entry: rounding leaves the sum a little off 1, and no draw may fall beyond it.
    target = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
