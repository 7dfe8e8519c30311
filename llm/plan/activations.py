"""Peak memory of the activations in a pass, found by executing it on torch's meta device.

Meta tensors have shapes but no data, so that executing the forward and backward pass of a training step takes no
memory. The bytes of all living tensors are summed at each operation.
"""

import json
import weakref
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from conf.schema.llm import LoraConfig
from core.sequence import selected_logp
from llm.adapters import add_adapter
from llm.inference.attention import hidden_states, shared_prefix_attention
from llm.inference.blocks import Rule
from llm.inference.head import body_of


class PassMemory(NamedTuple):
    """Peak bytes of a pass, without the weights; and how many of them are complete gradients of parameters."""

    bytes: int
    gradients: int


@lru_cache
def measure_pass(
    config: str,
    dtype_bytes: int,
    lora: tuple[int, tuple[str, ...]] | None,
    checkpointing: bool,
    tokens: int,
    scored: int,
    several: bool,
) -> PassMemory:
    """Peak memory of a pass over packed tokens.

    Args:
        config: the model's configuration, as JSON.
        dtype_bytes: bytes per parameter, 2 or 4.
        lora: rank and target modules of an adapter; None without one.
        checkpointing: whether layers are recomputed in the backward pass.
        tokens: number of tokens in the pass.
        scored: number of tokens whose log-probability is computed; 0 for a pass without gradient.
        several: whether the step has several passes, so that gradients exist from the start.
    """
    model = meta_model(config, dtype_bytes)
    if lora:
        add_meta_adapter(model, lora)
    if checkpointing and scored:
        checkpoint_layers(body_of(model))
    body, live = body_of(model), LiveBytes(model)
    with torch.set_grad_enabled(scored > 0), torch.device("meta"), shared_prefix_attention(body), live:
        if several:
            for parameter in live.trainable:
                parameter.grad = torch.empty_like(parameter)
                live.gradients += parameter.nbytes
        ids = torch.zeros(tokens, dtype=torch.long)
        hidden = hidden_states(body, ids, ids, meta_attention)
        if scored:
            indices = torch.zeros(scored, dtype=torch.long)
            preceding = hidden.index_select(0, indices)
            del hidden
            logp = selected_logp(preceding, model.get_output_embeddings().weight, indices)
            del preceding
            logp.sum().backward()
    return PassMemory(live.peak, live.gradients_at_peak)


def meta_model(config: str, dtype_bytes: int, auto_class: Any = AutoModelForCausalLM) -> Any:
    """A model on the meta device, from its configuration as JSON. auto_class: one of transformers' Auto classes."""
    values = json.loads(config)
    dtype = {2: torch.bfloat16, 4: torch.float32}[dtype_bytes]
    with torch.device("meta"):
        model_config = AutoConfig.for_model(values.pop("model_type"), **values)
        return auto_class.from_config(model_config, dtype=dtype, trust_remote_code=False).eval()


def add_meta_adapter(model: Any, lora: tuple[int, tuple[str, ...]]) -> None:
    """Insert an adapter into a model on the meta device, as training does."""
    rank, targets = lora
    with torch.device("meta"):
        add_adapter(model, LoraConfig(rank=rank, target_modules=list(targets)), seed=0)


def checkpoint_layers(body: Any) -> None:
    """Checkpoint every layer, as `llm.models.enable_gradient_checkpointing` does, without its check of the model."""
    layers: list[Any] = [layer for layer in body.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers:
        layer.gradient_checkpointing = layer.training = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def meta_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """Save and allocate tensors of the same shapes as `llm.inference.attention`, without computing anything."""
    out: Tensor = _MetaAttention.apply(query, key, value)
    return out


class _MetaAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        out, lse = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return tuple(torch.empty_like(states) for states in ctx.saved_tensors[:3])


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of all living meta tensors except the model's weights.

    Attributes:
        live, peak: bytes now, and at most so far.
        gradients, gradients_at_peak: how many of them are complete gradients of parameters.
        trainable: the parameters with gradient.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.weights = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        self.sizes = {storage._cdata: 0 for storage in self.weights}
        self.live = self.peak = self.gradients = self.gradients_at_peak = 0
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.trainable_bytes = sum(parameter.nbytes for parameter in self.trainable)
        for parameter in self.trainable:
            parameter.register_post_accumulate_grad_hook(self._count_gradient)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
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

    def _count_gradient(self, parameter: Any) -> None:
        if self.gradients < self.trainable_bytes:  # they did not exist from the start
            self.gradients += parameter.nbytes
