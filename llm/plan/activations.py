"""Peak memory of the activations in a pass, found by executing it on torch's meta device.

Meta tensors have shapes but no data, so that executing the forward and backward pass of a training step takes no
memory. The bytes of all living tensors are summed at each operation.
"""

import json
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, DynamicCache

from conf.schema.base import ConfigError
from conf.schema.llm import LoraConfig
from core.sequence import selected_logp
from llm.adapters import add_adapter
from llm.inference.attention import hidden_states, model_configs, shared_prefix_attention
from llm.inference.head import body_of
from llm.inference.paths import unpacked_reason
from llm.inference.temporary import temporarily
from llm.models import enable_gradient_checkpointing

STAND_IN = "plan"  # the name under which transformers finds `padded_stand_in`

Lora = tuple[int, tuple[str, ...]]  # rank and target modules of an adapter


class PassShape(NamedTuple):
    """What a pass processes.

    prompts, prompt_tokens: prompts and tokens of each. rows, new_tokens: completions and tokens of each; no rows in
    the pass that sampling starts with.
    """

    prompts: int
    prompt_tokens: int
    rows: int = 0
    new_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in the pass if prompts are packed: each prompt once, and all tokens of a completion but the last."""
        return self.prompts * self.prompt_tokens + self.rows * max(self.new_tokens - 1, 0)

    @property
    def scored(self) -> int:
        """Completion tokens, whose log-probability is computed."""
        return self.rows * self.new_tokens


class PassMemory(NamedTuple):
    """Peak bytes of a pass, without the weights; and how many of them are complete gradients of parameters."""

    bytes: int
    gradients: int


class Layout(NamedTuple):
    """How a model processes prompts and completions.

    name: packed (each prompt once), cached (a prompt's keys and values are repeated for its completions), whole
        (each completion with its prompt), or own attention (the same, for attention without a stand-in).
    token_bytes: keys and values of one token, if prompts are packed; else 0.
    """

    name: str
    token_bytes: int = 0


class OutOfTime(Exception):
    """The deadline of `time_limit` has passed."""


# --- the model ----------------------------------------------------------------------------------------------------


def meta_model(config: str, dtype_bytes: int, auto_class: Any = AutoModelForCausalLM) -> Any:
    """A model on the meta device, from its configuration as JSON. auto_class: one of transformers' Auto classes.

    Raises:
        ConfigError: it cannot be created.
    """
    values = json.loads(config, object_hook=_special_float)
    kind, dtype = values.pop("model_type"), {2: torch.bfloat16, 4: torch.float32}[dtype_bytes]
    with meta_device(kind):
        model_config = AutoConfig.for_model(kind, **values)
        return auto_class.from_config(model_config, dtype=dtype, trust_remote_code=False).eval()


@contextmanager
def meta_device(name: str) -> Iterator[None]:
    """Context for a model's own code on the meta device. Whatever it raises becomes a ConfigError of one line."""
    try:
        with torch.device("meta"):
            yield
    except (ConfigError, OutOfTime):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"model.name_or_path: no estimate for the architecture {name} ({reason})") from None


def _special_float(values: dict[str, Any]) -> Any:
    """transformers writes an infinite number as {"__float__": "Infinity"}."""
    return float(values["__float__"]) if set(values) == {"__float__"} else values


def add_meta_adapter(model: Any, lora: Lora) -> None:
    """Insert an adapter into a model on the meta device, as training does."""
    rank, targets = lora
    with torch.device("meta"):
        add_adapter(model, LoraConfig(rank=rank, target_modules=list(targets)), seed=0)


# --- measuring ----------------------------------------------------------------------------------------------------


@lru_cache
def measure_pass(
    config: str,
    dtype_bytes: int,
    lora: Lora | None,
    checkpointing: bool,
    shape: PassShape,
    gradient: bool,
    several: bool,
) -> PassMemory:
    """Peak memory of a pass.

    Args:
        config: the model's configuration, as JSON.
        dtype_bytes: bytes per parameter, 2 or 4.
        lora: rank and target modules of an adapter; None without one.
        checkpointing: whether layers are recomputed in the backward pass.
        shape: what the pass processes.
        gradient: whether the log-probabilities of the completions are differentiated.
        several: whether the step has several passes, so that gradients exist from the start.

    Raises:
        ConfigError: the model cannot be executed on the meta device, or its layers cannot be checkpointed.
        OutOfTime: see `time_limit`.
    """
    layout = find_layout(config, dtype_bytes)
    model = meta_model(config, dtype_bytes)
    if lora:
        add_meta_adapter(model, lora)
    name = "whole" if checkpointing and gradient and layout.name == "cached" else layout.name
    if checkpointing and gradient:
        enable_gradient_checkpointing(model)
    body = body_of(model)
    with (
        torch.set_grad_enabled(gradient),
        meta_device(type(model).__name__),
        attention(body, name),
        LiveBytes(model) as live,
    ):
        if several:
            live.create_gradients()
        hidden = LAYOUTS[name](body, shape)
        if gradient:
            indices = torch.zeros(shape.scored, dtype=torch.long)
            preceding = hidden.flatten(0, -2).index_select(0, indices)
            del hidden
            weight = model.get_output_embeddings().weight
            logp = selected_logp(preceding.to(weight.dtype), weight, indices)
            del preceding
            logp.sum().backward()
    return PassMemory(live.peak, live.gradients_at_peak)


@lru_cache
def find_layout(model_config: str, dtype_bytes: int) -> Layout:
    """The first layout in which the model can be executed on the meta device, tried on a few tokens.

    Whether a model's prompts can be packed is decided, as for real models, by its calls of the attention function:
    each layer must make one, and ask for nothing that is not implemented.

    Raises:
        ConfigError: there is none.
    """
    model = meta_model(model_config, dtype_bytes)
    body, problem = body_of(model), None
    for name, run in LAYOUTS.items():
        calls.clear()
        try:
            with torch.no_grad(), meta_device(type(model).__name__), attention(body, name), LiveBytes(model):
                run(body, PassShape(1, 3, 2, 3))
        except ConfigError as error:
            problem = error
            continue
        config = model.config.get_text_config()
        if name != "packed":
            return Layout(name)
        if len(calls) >= config.num_hidden_layers and not unpacked_reason(body) and not is_recurrent(body):
            return Layout(name, sum(calls) // PassShape(1, 3, 2, 3).tokens)
    assert problem is not None  # of the last layout
    raise problem


def is_recurrent(body: Any) -> bool:
    """Whether a layer remembers a state, instead of the keys and values of each token."""
    return any("LinearAttention" in type(layer).__name__ for layer in DynamicCache(config=body.config).layers)


@lru_cache
def cache_bytes(config: str, dtype_bytes: int, tokens: int) -> int:
    """Bytes of what a model remembers of one sequence, such as keys and values, if its prompts cannot be packed."""
    model = meta_model(config, dtype_bytes)
    body, name = body_of(model), find_layout(config, dtype_bytes).name
    stand_in = attention(body, "cached" if name == "packed" else name)
    with torch.no_grad(), meta_device(type(model).__name__), stand_in, LiveBytes(model) as live:
        ids = torch.zeros(1, tokens, dtype=torch.long)
        before = live.live
        cache = {"past_key_values": DynamicCache(config=body.config)} if name == "cached" else {}
        output = dict(body(input_ids=ids, use_cache=True, **cache))
        remembered = [output.get(key) for key in ("past_key_values", "cache_params")]
        output.clear()
        return live.live - before if any(part is not None for part in remembered) else 0


# --- layouts ------------------------------------------------------------------------------------------------------


def packed(body: Any, shape: PassShape) -> Tensor:
    """Last hidden states of a pass over packed prompts and completions: [N, D]."""
    ids = torch.zeros(shape.tokens, dtype=torch.long)
    return hidden_states(body, ids, ids, packed_stand_in)


def cached(body: Any, shape: PassShape) -> Tensor:
    """Last hidden states of the completions, after a pass over the prompts: [R, T - 1, D]. See `padded_hidden`."""
    ids = torch.zeros(shape.prompts, shape.prompt_tokens, dtype=torch.long)
    cache = DynamicCache(config=body.config)
    inputs: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    output = body(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=ids, **inputs)
    if shape.rows:
        cache.batch_repeat_interleave(shape.rows // shape.prompts)
        ids = torch.zeros(shape.rows, max(shape.new_tokens - 1, 1), dtype=torch.long)
        attended = torch.ones(shape.rows, shape.prompt_tokens + ids.shape[1], dtype=torch.long)
        output = body(input_ids=ids, attention_mask=attended, position_ids=ids, **inputs)
    hidden: Tensor = output.last_hidden_state
    return hidden


def whole(body: Any, shape: PassShape) -> Tensor:
    """Last hidden states of all completions, each with its prompt: [R, L + T - 1, D]."""
    length = shape.prompt_tokens + max(shape.new_tokens - 1, 0)
    ids = torch.zeros(shape.rows or shape.prompts, length, dtype=torch.long)
    hidden: Tensor = body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
    return hidden


LAYOUTS: dict[str, Callable[[Any, PassShape], Tensor]] = {
    "packed": packed,
    "cached": cached,
    "whole": whole,
    "own attention": whole,
}


# --- attention ----------------------------------------------------------------------------------------------------

calls: list[int] = []  # bytes of the keys and values in each call of `packed_stand_in`


def packed_stand_in(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Save and allocate tensors of the same shapes as `llm.inference.attention`, without computing anything."""
    calls.append(key.nbytes + value.nbytes)
    out: Tensor = _StandIn.apply(query, key, value)
    return out


def padded_stand_in(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **_: Any
) -> tuple[Tensor, None]:
    """The same for transformers' fused attention: [B, H, T, D] -> [B, T, H, D].

    With a mask, as for padded rows, it repeats keys and values for the query heads that share them.
    """
    if (times := query.shape[1] // key.shape[1]) > 1:
        key, value = (states.repeat_interleave(times, 1) for states in (key, value))
    return _StandIn.apply(query, key, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(STAND_IN, padded_stand_in)


def attention(body: Any, layout: str) -> AbstractContextManager[None]:
    """Context in which a model's layers use the stand-in for the attention of a layout."""
    if layout == "own attention":
        return nullcontext()
    return shared_prefix_attention(body) if layout == "packed" else stand_in_attention(body)


def stand_in_attention(body: Any) -> AbstractContextManager[None]:
    """Context in which layers with fused attention use `padded_stand_in`; attention in the open stays as it is."""
    fused = (config for config in model_configs(body) if config._attn_implementation != "eager")
    return temporarily((config, "_attn_implementation", STAND_IN) for config in fused)


class _StandIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return tuple(torch.empty_like(states) for states in ctx.saved_tensors[:3])


# --- counting -----------------------------------------------------------------------------------------------------

_deadline = float("inf")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Context in which passes raise `OutOfTime` once this time is over."""
    global _deadline
    before, _deadline = _deadline, time.perf_counter() + seconds
    try:
        yield
    finally:
        _deadline = before


def _value_of_meta(tensor: Tensor) -> Any:
    """`tensor.item()`: a meta tensor has no value. Models only ask whether there is padding, and the like."""
    return 0 if tensor.device.type == "meta" else torch.ops.aten._local_scalar_dense.default(tensor)


def _grouped_product(left: Tensor, right: Tensor, offsets: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """The product of experts, which torch defines on the meta device in bfloat16 only."""
    if left.dim() == right.dim() == 2 and offsets is not None:
        return left.new_empty(len(offsets), left.shape[0], right.shape[1])
    return left.new_empty(*left.shape[:-1], right.shape[-1])


REPLACED = {
    torch.ops.aten._local_scalar_dense.default: _value_of_meta,
    torch.ops.aten._grouped_mm.default: _grouped_product,
}


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of all living meta tensors except the model's weights.

    Attributes:
        live, peak: bytes now, and at most so far.
        gradients, gradients_at_peak: how many of them are complete gradients of parameters.
        trainable: the parameters with gradient. Gradients of 16-bit parameters are kept in float32, by all engines.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.weights = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        self.sizes = {storage._cdata: 0 for storage in self.weights}
        self.live = self.peak = self.gradients = self.gradients_at_peak = 0
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.kept: dict[int, Tensor] = {}  # gradients of parameters, by id(parameter)
        self.hooks = [p.register_post_accumulate_grad_hook(self._keep_gradient) for p in self.trainable]

    def __exit__(self, *error: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*error)

    def create_gradients(self) -> None:
        """Allocate the gradients of all parameters, as after an earlier pass."""
        for parameter in self.trainable:
            self.kept[id(parameter)] = torch.empty_like(parameter, dtype=torch.float32)
            self.gradients += 4 * parameter.numel()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.perf_counter() > _deadline:
            raise OutOfTime
        out = REPLACED.get(func, func)(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        weakref.finalize(storage, self._free, key)
        if self.live > self.peak:
            self.peak, self.gradients_at_peak = self.live, self.gradients

    def _free(self, key: int) -> None:
        self.live -= self.sizes.pop(key)

    def _keep_gradient(self, parameter: Any) -> None:
        if id(parameter) not in self.kept:  # otherwise it is added to that of an earlier pass
            self.kept[id(parameter)] = parameter.grad.float()
            self.gradients += 4 * parameter.numel()
        parameter.grad = None
