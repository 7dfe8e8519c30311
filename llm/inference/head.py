"""How a model's logits follow from its last hidden states: output embedding, bias, scale and soft cap.

The models of transformers compute their logits after the body in a few lines of their own. What these lines do is
found by a trial: hooks put known numbers in place of the last hidden states and of the embedding's output, and the
constants are read from what comes out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from conf.schema.base import ConfigError
from core.sequence import Output, rows_per_chunk, selected_logp, selected_logp_and_entropy

POSITIONS = 4  # tokens of the trial


class Form(NamedTuple):
    """The constants of a head: logits = cap * tanh(z / cap), z = scale * embedding(hidden); cap None: z."""

    scale: float = 1.0
    cap: float | None = None


class Head(Output):
    """The head of a model, with hidden states in any type."""

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, D] -> [N, V] in at least float32, without gradient."""
        return super().logits(hidden.to(self.weight.dtype))

    def logp(self, hidden: Tensor, tokens: Tensor, chunk: int | None = None) -> Tensor:
        """Log-probabilities of tokens [N] at hidden states [N, D], see `core.sequence.selected_logp`."""
        return selected_logp(hidden.to(self.weight.dtype), self, tokens, chunk)

    def logp_and_entropy(self, hidden: Tensor, tokens: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """`logp` and the entropy of each distribution."""
        return selected_logp_and_entropy(hidden.to(self.weight.dtype), self, tokens, chunk)

    def rows_per_chunk(self) -> int:
        """Return how many rows have logits that fit into memory together."""
        return rows_per_chunk(len(self.weight))


def body_of(model: PreTrainedModel) -> Any:
    """The part of a causal language model that computes the last hidden states."""
    for body in (model.get_decoder(), model.base_model, getattr(model, "model", None)):
        if isinstance(body, PreTrainedModel) and body is not model:
            return body
    raise _refusal(model, "its body cannot be called alone")


def head_of(model: PreTrainedModel) -> Head:
    """The head of a model, with its present weights. The trial is made when a model is first seen.

    Raises:
        ConfigError: the model's logits are not of this form.
    """
    if model not in _FORMS:
        _FORMS[model] = _find_form(model)
    embedding = model.get_output_embeddings()
    return Head(embedding.weight, embedding.bias, *_FORMS[model])


_FORMS: WeakKeyDictionary[nn.Module, Form] = WeakKeyDictionary()


def share_form(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Use the constants of a model's head for a model of the same configuration and weights, without a trial."""
    head_of(model)
    _FORMS[other] = _FORMS[model]


@torch.no_grad()
def _find_form(model: PreTrainedModel) -> Form:
    """Read the constants of a model's head from a trial, and compare its logits with the model's own."""
    embedding = model.get_output_embeddings()
    if not isinstance(embedding, nn.Linear):
        raise _refusal(model, f"its output embedding is {type(embedding).__name__}")
    body, ids = body_of(model), torch.arange(POSITIONS, device=model.device).unsqueeze(0)
    try:
        with _replaced_values(body, embedding) as seen:
            out = model(input_ids=ids, use_cache=False).logits.float().flatten()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise _refusal(model, f"a trial fails with {type(error).__name__}") from None
    if seen.keys() != {"hidden", "head_input", "logits"}:
        raise _refusal(model, "its output embedding is not applied to its last hidden states")
    before = _ratio(seen["head_input"].flatten(), seen["hidden"].flatten())
    if before is None or (before != 1 and embedding.bias is not None):
        raise _refusal(model, "its last hidden states are changed before the output embedding")
    given = seen["logits"].flatten()
    scale, top = float(out[1] / given[1]), float(out[0])
    cap = None if abs(top) > 0.9 * abs(scale * given[0]) else abs(top)
    z = scale * given
    expected = z if cap is None else cap * (z / cap).tanh()
    tolerance = 1e-5 if model.dtype in (torch.float32, torch.float64) else 1e-2
    # The first number only shows the cap.
    if not torch.allclose(out[1:], expected[1:], rtol=tolerance, atol=tolerance):
        raise _refusal(model, "they are changed in another way after it")
    form = Form(before * (1.0 if abs(scale - 1) < 1e-6 else scale), cap)
    hidden = body(input_ids=ids, use_cache=False).last_hidden_state[0]
    ours = Head(embedding.weight, embedding.bias, *form).logits(hidden)
    own = model(input_ids=ids, use_cache=False).logits[0].to(ours.dtype)
    if not float((ours - own).norm()) <= tolerance * float(own.norm()):
        raise _refusal(model, "a trial gives other values")
    return form


@contextmanager
def _replaced_values(body: nn.Module, embedding: nn.Linear) -> Iterator[dict[str, Tensor]]:
    """Context in which a pass uses known last hidden states and known outputs of the embedding.

    Yields:
        hidden: what was put in place of the last hidden states; head_input: what the embedding was given for it;
        logits: what was put in place of the embedding's output.
    """
    seen: dict[str, Tensor] = {}

    def replace_hidden(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output.last_hidden_state
        seen["hidden"] = torch.linspace(-3, 2, hidden.numel(), device=hidden.device).view(hidden.shape)
        output.last_hidden_state = seen["hidden"]
        return output

    def see_input(module: nn.Module, args: Any) -> Any:
        seen["head_input"] = args[0].float()
        return (args[0].to(embedding.weight.dtype),)

    def replace_logits(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        values = torch.linspace(-50, 50, output.numel(), device=output.device)
        values[0], values[1] = 2.0**20, 2.0**-10  # the first shows a cap, the second is too small for one
        seen["logits"] = values.view(output.shape)
        return seen["logits"]

    hooks = (
        body.register_forward_hook(replace_hidden),
        embedding.register_forward_pre_hook(see_input),
        embedding.register_forward_hook(replace_logits),
    )
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _ratio(numbers: Tensor, others: Tensor) -> float | None:
    """The constant c with numbers = c * others; None if there is none."""
    if numbers.shape != others.shape:
        return None
    c = float(numbers[0] / others[0])
    return c if torch.allclose(numbers, c * others, rtol=1e-5, atol=1e-5) else None


def _refusal(model: PreTrainedModel, reason: str) -> ConfigError:
    return ConfigError(
        "model.name_or_path: the logits must be the last hidden states times the output embedding, with a bias, a "
        f"scale or a soft cap at most, but not so in {type(model).__name__}: {reason}; use another model"
    )
