"""Which way of reading prompts and completions a model takes: packed, padded, prompts of one length, or whole rows.

The first way that agrees with rows that the model's own forward pass reads one at a time is taken. The trial is made
when a model is first used, with a few tokens. Sliding windows and chunks are shortened meanwhile, so that it shows
whether they are respected.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from conf.schema.base import ConfigError
from llm.inference.attention import Unsupported, log_once, model_configs, packed_hidden
from llm.inference.decoder import PackedDecoder, uncompiled
from llm.inference.head import body_of, share_form
from llm.inference.padded import PaddedDecoder, caches_attention_only, padded_hidden
from llm.inference.prompts import Prompts
from llm.inference.temporary import temporarily
from llm.inference.whole_rows import (
    EqualLengthDecoder,
    NoUsableCache,
    WholeRowDecoder,
    own_cache,
    whole_row_hidden,
)

TRIAL_TOKENS, TRIAL_STRIDE = 17, 5  # a trial's tokens, and the difference between their ids
# Attributes of configurations and modules, and their values during a trial.
WINDOWS = {"sliding_window": 3, "attention_chunk_size": 3}
PACKED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}

HiddenFunction = Callable[[PreTrainedModel, Prompts, Tensor, Tensor], Tensor]


class Decoder(Protocol):
    """Decodes token by token after it has processed the prompts.

    hidden: [R, D] last hidden states of the rows.
    """

    hidden: Tensor

    def step(self, tokens: Tensor, running: Tensor) -> None:
        """Process the next token of each row, [R] ids; running [R] is False for rows that had already ended."""

    def keep(self, rows: Tensor) -> None:
        """Drop all rows except some, given by their ascending indices [R'] among the present rows."""


class Path(NamedTuple):
    """A way of reading prompts and completions.

    hidden: the last hidden states one position before each completion token, see `llm.inference.logprobs`.
    decoder: made from body, prompts, completions per prompt and the most tokens of a completion.
    """

    name: str
    hidden: HiddenFunction
    decoder: Callable[[PreTrainedModel, Prompts, int, int], Decoder]


PACKED = Path("packed", packed_hidden, PackedDecoder)
PADDED = Path("padded", padded_hidden, PaddedDecoder)
EQUAL_LENGTHS = Path("equal lengths", whole_row_hidden, EqualLengthDecoder)
WHOLE_ROWS = Path("whole rows", whole_row_hidden, WholeRowDecoder)
MESSAGES = {
    PADDED: "computes a prompt's keys and values once for each completion",
    EQUAL_LENGTHS: "samples prompts of one length at a time, and scores each completion with its prompt in front",
    WHOLE_ROWS: "reads each completion from the start of its prompt at every token, which is slow",
}


def make_decoder(body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> Decoder:
    """A decoder that has processed the prompts, with P * group rows of at most `length` tokens each."""
    return path_of(body).decoder(body, prompts, group, length)


def path_of(body: PreTrainedModel) -> Path:
    """The way that `body` takes. A way other than the first is logged once.

    Raises:
        ConfigError: no way agrees with rows that are read one at a time.
    """
    if body not in _PATHS:
        with _evaluation(body), _changed(body, WINDOWS), uncompiled(body):
            _PATHS[body] = _find_path(body)
    return _PATHS[body]


_PATHS: WeakKeyDictionary[nn.Module, Path] = WeakKeyDictionary()


def share_trials(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Read `other`, which has the same configuration and weights as `model`, as `model` is read, without a trial."""
    _PATHS[body_of(other)] = path_of(body_of(model))
    share_form(model, other)


def _find_path(body: PreTrainedModel) -> Path:
    name = type(body).__name__
    unpacked = unpacked_reason(body) or reason_against(body, PACKED)
    if unpacked is None:
        return PACKED
    for path in (PADDED, EQUAL_LENGTHS, WHOLE_ROWS):
        reason = reason_against(body, path)
        if reason is None:
            log_once(f"{name} {MESSAGES[path]}: {unpacked}")
            return path
    raise ConfigError(
        f"model.name_or_path: {name} cannot be used, because what it computes for a token depends on "
        f"tokens after it or on other rows ({reason}); use another model"
    )


def unpacked_reason(body: PreTrainedModel) -> str | None:
    """Why the architecture of a model rules packed sequences out; None if it does not."""
    if not getattr(body, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    layer_types = set(getattr(body.config, "layer_types", None) or ()) - PACKED_LAYERS
    if layer_types:
        return f"it has layers of {', '.join(sorted(layer_types))}"
    if any(getattr(module, "attn_temperature_tuning", False) for module in body.modules()):
        # Llama 4: the factor changes every 8192 tokens, which the few tokens of a trial do not reach.
        return "it scales queries by their index in the batch"
    return None


@torch.no_grad()
def reason_against(body: PreTrainedModel, path: Path) -> str | None:
    """Why a model cannot take a path: its kind of cache, an error, or values that differ; None if it can.

    A difference may be as large as twice that of a batch of whole rows, which is rounding unless a model sees
    later tokens. In bfloat16 it is large where a mixture of experts routes a token otherwise.
    """
    device = body.device
    ids = torch.arange(TRIAL_TOKENS, device=device) * TRIAL_STRIDE % body.config.get_text_config().vocab_size
    prompts = Prompts(ids[:10].view(2, 5), torch.tensor([[0, 0, 0, 1, 1], [1] * 5], device=device).bool())
    tokens = ids[1:].view(4, 4)
    mask = torch.arange(4, device=device) < torch.tensor([[2], [4], [1], [3]], device=device)
    try:
        if path is PADDED and not caches_attention_only(own_cache(body(input_ids=ids[None], use_cache=True))[1]):
            return "its cache holds more than keys and values"
        expected, gradients = _with_gradients(_plain_hidden, body, prompts, tokens, mask)
        batched, batched_gradients = _with_gradients(whole_row_hidden, body, prompts, tokens, mask)
        scored, scored_gradients = _with_gradients(path.hidden, body, prompts, tokens, mask)
        decoded = _decoded_hidden(path.decoder(body, prompts, 2, 4), tokens, mask)
    except (NoUsableCache, Unsupported) as error:
        return str(error)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model does with an attention or a cache that it does not expect
        return f"a trial raises {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    eps = torch.finfo(expected.dtype).eps
    for what, ours, plain, other in (
        ("hidden states", scored, expected, batched),
        ("decoded hidden states", decoded, expected, batched),
        ("gradients", scored_gradients, gradients, batched_gradients),
    ):
        difference, rounding = (float((x - plain).float().norm() / plain.float().norm()) for x in (ours, other))
        if not difference < max(eps**0.5, 2 * min(rounding, eps**0.25)):
            return f"in a trial its {what} differ from those of rows read one at a time by {difference:.1e}"
    return None


@torch.inference_mode(False)
@torch.enable_grad()
def _with_gradients(
    hidden_of: HiddenFunction, body: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The hidden states, and gradients of a sum of them for the embedding of each id."""
    passes: list[tuple[Tensor, Tensor]] = []

    def see_embedded(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        passes.append((args[0], output.detach().requires_grad_()))
        return passes[-1][1].clone()  # some models scale it in place

    embedding: Any = body.get_input_embeddings()
    hook = embedding.register_forward_hook(see_embedded)
    try:
        hidden = hidden_of(body, prompts, tokens, mask)
    finally:
        hook.remove()
    if not passes:  # the embedding is not a module that is called
        return hidden.detach(), hidden.detach()
    weight = torch.linspace(-1, 2, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
    grads = torch.autograd.grad((hidden * weight).sum(), [embedded for _, embedded in passes])
    total = grads[0].new_zeros(TRIAL_TOKENS * TRIAL_STRIDE, grads[0].shape[-1], dtype=torch.float32)
    for (ids, _), grad in zip(passes, grads, strict=True):
        total.index_add_(0, ids.flatten(), grad.flatten(0, -2).float())
    return hidden.detach(), total


def _plain_hidden(body: Any, prompts: Prompts, tokens: Tensor, mask: Tensor) -> Tensor:
    """Hidden states from the model's own forward pass over one row at a time."""
    group, hidden = len(tokens) // len(prompts.ids), []
    for row, count in enumerate(mask.sum(-1).tolist()):
        prompt = prompts.ids[row // group][prompts.mask[row // group]]
        ids = torch.cat([prompt, tokens[row, :count]]).unsqueeze(0)
        hidden.append(body(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1])
    return torch.cat(hidden)


def _decoded_hidden(decoder: Decoder, tokens: Tensor, mask: Tensor) -> Tensor:
    """Hidden states from a decoder that is given the tokens, and that drops a row in between."""
    states, rows = [], torch.arange(len(tokens), device=tokens.device)
    for t in range(tokens.shape[1]):
        state = decoder.hidden.new_zeros(len(tokens), decoder.hidden.shape[-1])
        states.append(state.index_copy(0, rows, decoder.hidden))
        if t == 1:
            kept = mask[rows, t].nonzero().squeeze(-1)
            decoder.keep(kept)
            rows = rows[kept]
        if t + 1 < tokens.shape[1]:
            decoder.step(tokens[rows, t], mask[rows, t])
    return torch.stack(states, 1)[mask]


def _evaluation(body: nn.Module) -> AbstractContextManager[None]:
    """Context in which no module is in training mode."""
    return temporarily((module, "training", False) for module in body.modules() if module.training)


def _changed(body: nn.Module, changes: dict[str, int]) -> AbstractContextManager[None]:
    """Context in which attributes of configurations and modules that are numbers have other values."""
    return temporarily(
        (owner, name, value)
        for owner in (*model_configs(body), *body.modules())
        for name, value in changes.items()
        if isinstance(number := vars(owner).get(name), int) and not isinstance(number, bool)
    )
