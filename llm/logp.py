"""Log-probabilities of completions, each prompt read once for its whole group."""

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from core.sequence import selected_logp
from llm.prompts import Prompts


def completion_logp(
    model: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor, chunk: int = 4096
) -> Tensor:
    """Log-probability of every completion token, with gradient.

    The prompt's keys and values are computed once and shared by the completions of its group; gradients flow
    back through them, so that the result is that of reading each prompt and completion as one sequence.

    Args:
        prompts: P prompts.
        tokens: [P * G, T] completions, G consecutive rows a prompt, right-padded.
        mask: [P * G, T] bool, True on completion tokens including EOS.
        chunk: positions whose logits are held at a time.

    Returns:
        [P * G, T] float32, nats, 0 where masked.
    """
    group = len(tokens) // len(prompts.ids)
    body, head = model.get_decoder(), model.get_output_embeddings()
    cache = DynamicCache(config=model.config)
    first, cache = read_prompts(body, prompts, cache, group)
    hidden = body(
        input_ids=tokens[:, :-1],
        attention_mask=torch.cat([prompts.mask.repeat_interleave(group, 0), mask[:, :-1]], -1),
        position_ids=positions(prompts, group, tokens.shape[1] - 1),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden = torch.cat([first.unsqueeze(1), hidden], 1)  # [P * G, T, D], each one position before its token
    logp = selected_logp(hidden[mask], head.weight, tokens[mask], chunk)
    return torch.zeros(mask.shape, dtype=logp.dtype, device=logp.device).masked_scatter(mask, logp)


def read_prompts(
    body: torch.nn.Module, prompts: Prompts, cache: DynamicCache, group: int
) -> tuple[Tensor, DynamicCache]:
    """Last hidden state [P * G, D] and cache after the prompts, each repeated for its group."""
    output = body(
        input_ids=prompts.ids,
        attention_mask=prompts.mask,
        position_ids=(prompts.mask.cumsum(-1) - 1).clamp_min(0),
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(group)
    return output.last_hidden_state[:, -1].repeat_interleave(group, 0), cache


def positions(prompts: Prompts, group: int, length: int) -> Tensor:
    """[P * G, length] positions of completion tokens: they go on from the end of the prompt, padding left out."""
    start = prompts.mask.sum(-1, keepdim=True).repeat_interleave(group, 0)
    return start + torch.arange(length, device=start.device)
