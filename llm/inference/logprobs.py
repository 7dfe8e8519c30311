"""Log-probabilities of completions. Each prompt is processed once for its whole group."""

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from core.sequence import selected_logp, selected_logp_and_entropy
from llm.inference.attention import Packing, supports_shared_prefix
from llm.inference.prompts import Prompts


def completion_logp(
    model: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor, chunk: int | None = None
) -> Tensor:
    """Log-probability of every completion token, with gradient.

    A prompt is processed once for the completions of its group, and gradients flow back through it. Values and
    gradients equal those of processing each prompt and completion as one sequence.

    Args:
        model: a causal language model.
        prompts: P prompts.
        tokens: [P * G, T] completions, G consecutive rows per prompt, right-padded.
        mask: [P * G, T] bool, True on completion tokens including EOS.
        chunk: positions whose logits are in memory at a time; None: as many as `core.sequence.MAX_LOGITS` allows.

    Returns:
        [P * G, T] float32, nats, 0 where masked.
    """
    hidden = completion_hidden(model, prompts, tokens, mask)
    return _scatter(selected_logp(hidden, model.get_output_embeddings().weight, tokens[mask], chunk), mask)


def completion_logp_and_entropy(
    model: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor, chunk: int | None = None
) -> Tensor:
    """`completion_logp` and the entropy of the distribution that each token was drawn from, without gradient.

    Returns:
        [2, P * G, T] float32, nats, 0 where masked.
    """
    hidden = completion_hidden(model, prompts, tokens, mask)
    logp, entropy = selected_logp_and_entropy(hidden, model.get_output_embeddings().weight, tokens[mask], chunk)
    return torch.stack([_scatter(logp, mask), _scatter(entropy.detach(), mask)])


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Write values [n] to the True entries of a mask; 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def completion_hidden(model: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor) -> Tensor:
    """Last hidden state one position before each completion token, row by row: [mask.sum(), D], with gradient."""
    body = model.get_decoder()
    hidden = packed_hidden if supports_shared_prefix(body) else padded_hidden
    return hidden(body, prompts, tokens, mask)


def packed_hidden(body: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor) -> Tensor:
    """`completion_hidden` with prompts and completions packed into one sequence without padding."""
    packing = Packing(prompts, tokens[:, :-1], mask[:, 1:].sum(-1))
    return packing.forward(body).index_select(0, packing.preceding(mask))


def padded_hidden(body: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor) -> Tensor:
    """`completion_hidden` with a prompt's keys and values repeated for each completion."""
    group = len(tokens) // len(prompts.ids)
    first, cache = prefill(body, prompts, group)
    hidden = first.unsqueeze(1)
    if tokens.shape[1] > 1:
        later = body(
            input_ids=tokens[:, :-1],
            attention_mask=torch.cat([prompts.mask.repeat_interleave(group, 0), mask[:, :-1]], -1),
            position_ids=completion_positions(prompts, group, tokens.shape[1] - 1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden = torch.cat([hidden, later], 1)  # [P * G, T, D]
    return hidden[mask]


def prefill(body: PreTrainedModel, prompts: Prompts, group: int) -> tuple[Tensor, DynamicCache]:
    """Process the prompts: last hidden state [P * G, D] and key-value cache, each repeated for its group."""
    cache = DynamicCache(config=body.config)
    output = body(
        input_ids=prompts.ids,
        attention_mask=prompts.mask,
        position_ids=(prompts.mask.cumsum(-1) - 1).clamp_min(0),
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(group)
    return output.last_hidden_state[:, -1].repeat_interleave(group, 0), cache


def completion_positions(prompts: Prompts, group: int, length: int) -> Tensor:
    """[P * G, length] positions of completion tokens. They continue those of the prompt, without its padding."""
    start = prompts.mask.sum(-1, keepdim=True).repeat_interleave(group, 0)
    return start + torch.arange(length, device=start.device)
