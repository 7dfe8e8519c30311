"""Log-probabilities of completions. Each prompt is processed once for its whole group."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.sequence import selected_logp, selected_logp_and_entropy
from llm.inference.attention import decoder_of, packed_hidden
from llm.inference.padded import padded_hidden
from llm.inference.prompts import Prompts
from llm.inference.trial import supports_shared_prefix


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
    body = decoder_of(model)
    hidden = packed_hidden if supports_shared_prefix(body) else padded_hidden
    return hidden(body, prompts, tokens, mask)
