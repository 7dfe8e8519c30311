"""Log-probabilities of completions."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llm.inference.head import body_of, head_of
from llm.inference.paths import PACKED, PADDED, WHOLE_ROWS, path_of
from llm.inference.prompts import Prompts
from llm.inference.rope import check_length


def completion_logp(
    model: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor, chunk: int | None = None
) -> Tensor:
    """Log-probability of every completion token, with gradient.

    A prompt is processed once for the completions of its group where the model allows it, and gradients flow back
    through it. Values and gradients equal those of processing each prompt and completion as one sequence.

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
    return _scatter(head_of(model).logp(hidden, tokens[mask], chunk), mask)


def completion_logp_and_entropy(
    model: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor, chunk: int | None = None
) -> Tensor:
    """`completion_logp` and the entropy of the distribution that each token was drawn from, without gradient.

    Returns:
        [2, P * G, T] float32, nats, 0 where masked.
    """
    hidden = completion_hidden(model, prompts, tokens, mask)
    logp, entropy = head_of(model).logp_and_entropy(hidden, tokens[mask], chunk)
    return torch.stack([_scatter(logp, mask), _scatter(entropy.detach(), mask)])


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Write values [n] to the True entries of a mask; 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def completion_hidden(model: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor) -> Tensor:
    """Last hidden state one position before each completion token, row by row: [mask.sum(), D], with gradient."""
    body = body_of(model)
    check_length(body.config, prompts, tokens.shape[1])
    path = path_of(body)
    if path is PADDED and torch.is_grad_enabled() and _checkpoints(body):
        path = WHOLE_ROWS  # the second forward pass of a layer would find its own keys in the cache
    elif path is PACKED and _checkpoints_itself(body):
        path = WHOLE_ROWS  # the model's own checkpointing does not repeat the packing
    return path.hidden(body, prompts, tokens, mask)


def _checkpoints_itself(body: nn.Module) -> bool:
    """Whether transformers recomputes layers in the backward pass, without what the first pass was given."""
    is_on = getattr(body, "is_activation_checkpointing", False)
    return bool(is_on) and body.training and torch.is_grad_enabled()


def _checkpoints(body: nn.Module) -> bool:
    """Whether a layer recomputes its activations in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in body.modules())
