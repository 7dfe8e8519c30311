"""Whether a model computes the same with packed prompts as with each sequence alone: a trial on a few tokens.

Each way of reading completions is compared with the model's own forward pass over each prompt and completion as one
sequence. For the trial, sliding windows and chunks are shortened to a few tokens, so that it shows whether they are
respected. A model with which both ways are wrong is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from conf.schema.base import ConfigError
from llm.inference.attention import Unsupported, log_once, model_configs, packed_hidden
from llm.inference.decoder import PackedDecoder, uncompiled
from llm.inference.padded import PaddedDecoder, padded_hidden
from llm.inference.prompts import Prompts

LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
# Attributes of configurations and modules, and their values during a trial.
WINDOWS = {"sliding_window": 3, "attention_chunk_size": 3}
PROMPTS, ROWS = (2, 5), (4, 1, 2, 5)  # lengths of the trial's prompts and of two completions for each

Hidden = list[Tensor]  # for each row the hidden states [t, D] one position before each completion token


def supports_shared_prefix(body: PreTrainedModel) -> bool:
    """Whether `body` can process packed sequences. If not, the reason is logged once.

    Raises:
        ConfigError: the plain path, which would be used instead, is wrong with this model.
    """
    if body not in _PACKED:
        _PACKED[body] = _packed_fault(body)
    reason = _PACKED[body]
    if getattr(body, "is_activation_checkpointing", False) and body.training and torch.is_grad_enabled():
        reason = "gradient checkpointing is on"  # its second forward pass would lack the packing
    if reason is None:
        return True
    if body not in _PADDED:
        _PADDED[body] = _fault(body, padded_hidden, PaddedDecoder)
    if _PADDED[body] is not None:
        raise ConfigError(
            f"model.name_or_path: {type(body).__name__} is not supported: completions in a padded batch are not "
            f"computed as each sequence alone ({_PADDED[body]}); choose another model"
        )
    log_once(f"{type(body).__name__} computes a prompt's keys and values once for each completion: {reason}")
    return False


_PACKED: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()
_PADDED: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def _packed_fault(body: PreTrainedModel) -> str | None:
    """Why `body` cannot process packed sequences: its architecture, or a trial that differs from row by row."""
    if not getattr(body, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    layer_types = set(getattr(body.config, "layer_types", None) or ()) - LAYER_TYPES
    if layer_types:
        return f"it has layers of {', '.join(sorted(layer_types))}"
    if any(getattr(module, "attn_temperature_tuning", False) for module in body.modules()):
        # Llama 4: the factor changes every 8192 tokens, which the few tokens of a trial do not reach.
        return "it scales queries by their index in the batch"
    return _fault(body, packed_hidden, PackedDecoder)


@torch.no_grad()
def _fault(body: PreTrainedModel, read: Callable[..., Tensor], decoder: Callable[..., Any]) -> str | None:
    """Why a way of reading and of decoding completions is wrong; None if it is right.

    read is `packed_hidden` or `padded_hidden`, and `decoder` the class of the decoder.
    """
    prompts, tokens, mask = _batch(body)
    lengths = mask.sum(-1).tolist()
    with _evaluation(body), _changed(body, WINDOWS), uncompiled(body):
        try:
            expected = _alone(body, prompts, tokens, lengths)
            for kind, hidden in (
                ("a pass", lambda: list(read(body, prompts, tokens, mask).split(lengths))),
                ("decoding", lambda: _decoded(decoder, body, prompts, tokens, lengths)),
            ):
                error = _distance(hidden(), expected)
                if not error < torch.finfo(expected[0].dtype).eps ** 0.5:
                    return f"a trial of {kind} differs from row by row ({error:.1e} of the hidden states' norm)"
        except Unsupported as error:
            return str(error)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model does with an attention or a cache that it does not expect
            text = str(error).strip().partition("\n")[0]
            return f"a trial raises {type(error).__name__}: {text}"
    return None


def _batch(body: PreTrainedModel) -> tuple[Prompts, Tensor, Tensor]:
    """Prompts [P, L] and completions [P * G, T] with their mask."""
    device, width, longest = body.device, max(PROMPTS), max(ROWS)
    count = len(PROMPTS) * width + len(ROWS) * longest
    vocab_size: int = body.get_input_embeddings().weight.shape[0]  # type: ignore[assignment, index]
    ids = (7 + 13 * torch.arange(count, device=device)) % vocab_size
    first, later = ids.split([len(PROMPTS) * width, len(ROWS) * longest])
    sizes, lengths = (torch.tensor(numbers, device=device).unsqueeze(-1) for numbers in (PROMPTS, ROWS))
    prompt_mask = torch.arange(width, device=device) >= width - sizes
    mask = torch.arange(longest, device=device) < lengths
    return Prompts(first.view(-1, width), prompt_mask), later.view(-1, longest), mask


def _alone(body: PreTrainedModel, prompts: Prompts, tokens: Tensor, lengths: list[int]) -> Hidden:
    """The model's own forward pass over each prompt and completion as one sequence."""
    group, rows = len(tokens) // len(prompts.ids), []
    for row, length in enumerate(lengths):
        prompt = prompts.ids[row // group][prompts.mask[row // group]]
        ids = torch.cat([prompt, tokens[row, : length - 1]]).unsqueeze(0)
        rows.append(body(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 :])
    return rows


def _decoded(
    decoder_class: Callable[..., Any], body: PreTrainedModel, prompts: Prompts, tokens: Tensor, lengths: list[int]
) -> Hidden:
    """Token by token. Rows that have ended are dropped where the decoder can do it."""
    decoder = decoder_class(body, prompts, len(tokens) // len(prompts.ids), tokens.shape[1])
    rows = torch.arange(len(tokens), device=tokens.device)
    last = torch.tensor(lengths, device=tokens.device)
    hidden: list[list[Tensor]] = [[] for _ in lengths]
    for t in range(tokens.shape[1]):
        running = last[rows] > t
        if hasattr(decoder, "keep") and not running.all():
            decoder.keep(running.nonzero().squeeze(-1))
            rows, running = rows[running], running[running]
        for row, states, is_running in zip(rows.tolist(), decoder.hidden, running.tolist(), strict=True):
            if is_running:
                hidden[row].append(states)
        if t + 1 < tokens.shape[1]:
            decoder.step(tokens[rows, t], running)
    return [torch.stack(states) for states in hidden]


def _distance(hidden: Hidden, expected: Hidden) -> float:
    """Norm of the largest difference of a row, over that row's norm."""
    pairs = zip(hidden, expected, strict=True)
    return max(float((a - b).float().norm() / b.float().norm()) for a, b in pairs)


@contextmanager
def _evaluation(body: nn.Module) -> Iterator[None]:
    """Context in which no module is in training mode."""
    training = [module for module in body.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _changed(body: nn.Module, changes: dict[str, int]) -> Iterator[None]:
    """Context in which attributes of configurations and modules that are numbers have other values."""
    before = [
        (owner, name, number)
        for owner in (*model_configs(body), *body.modules())
        for name in changes
        if isinstance(number := vars(owner).get(name), int) and not isinstance(number, bool)
    ]
    try:
        for owner, name, _ in before:
            setattr(owner, name, changes[name])
        yield
    finally:
        for owner, name, number in before:
            setattr(owner, name, number)
