"""What is alive at the worst moment of a pass, found by running it on torch's meta device.

There tensors have shapes and nothing else, so that the forward and backward pass that a step makes takes no memory;
what is alive at each moment is added up.
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
from llm.inference.attention import shared_prefix_attention


class Peak(NamedTuple):
    """Bytes alive at the worst moment of a pass, without the weights; and how many of them are whole gradients."""

    bytes: int
    gradients: int


@lru_cache
def pass_peak(
    config: str,
    width: int,
    lora: tuple[int, tuple[str, ...]] | None,
    checkpointing: bool,
    tokens: int,
    scored: int,
    several: bool,
) -> Peak:
    """The worst moment of a pass over `tokens` packed tokens, of which `scored` are scored; 0: without gradient.

    Args:
        config: the model's configuration, as JSON. width: bytes of a parameter.
        lora: rank and target modules of an adapter.
        several: the step has several passes, so that gradients are there from the start.
    """
    model = empty_model(config, width)
    if lora:
        adapt(model, lora)
    if checkpointing and scored:
        checkpoint_layers(model.get_decoder())
    body, live = model.get_decoder(), LiveBytes(model)
    with torch.set_grad_enabled(scored > 0), torch.device("meta"), shared_prefix_attention(body), live:
        if several:
            for parameter in live.trained:
                parameter.grad = torch.empty_like(parameter)
                live.gradients += parameter.nbytes
        ids = torch.zeros(1, tokens, dtype=torch.long)
        output = body(input_ids=ids, position_ids=ids, use_cache=False, shared_prefix=shapes_of_attention)
        hidden = output.last_hidden_state
        del output
        if scored:
            places = torch.zeros(scored, dtype=torch.long)
            before = hidden[0].index_select(0, places)
            del hidden
            logp = selected_logp(before, model.get_output_embeddings().weight, places)
            del before
            logp.sum().backward()
    return Peak(live.peak, live.gradients_at_peak)


def empty_model(config: str, width: int, kind: Any = AutoModelForCausalLM) -> Any:
    """A model on the meta device: every shape, no memory. kind: one of transformers' Auto classes."""
    values = json.loads(config)
    dtype = {2: torch.bfloat16, 4: torch.float32}[width]
    with torch.device("meta"):
        shape = AutoConfig.for_model(values.pop("model_type"), **values)
        return kind.from_config(shape, dtype=dtype, trust_remote_code=False).eval()


def adapt(model: Any, lora: tuple[int, tuple[str, ...]]) -> None:
    """Put an adapter into a model on the meta device, as training does."""
    rank, targets = lora
    with torch.device("meta"):
        add_adapter(model, LoraConfig(rank=rank, target_modules=list(targets)), seed=0)


def checkpoint_layers(body: Any) -> None:
    """Gradient checkpointing of every layer, as in `llm.models.enable_gradient_checkpointing` without its trial."""
    layers: list[Any] = [layer for layer in body.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers:
        layer.gradient_checkpointing = layer.training = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def shapes_of_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """What `llm.inference.attention` keeps for the backward pass and makes in it, without the computation."""
    out: Tensor = _AttentionShapes.apply(query, key, value)
    return out


class _AttentionShapes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        out, lse = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return tuple(torch.empty_like(states) for states in ctx.saved_tensors[:3])


class LiveBytes(TorchDispatchMode):
    """Within it the bytes of all living tensors on the meta device but the model's own are counted."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.own = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        self.sizes = {storage._cdata: 0 for storage in self.own}
        self.now = self.peak = self.gradients = self.gradients_at_peak = 0
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in self.trained:
            parameter.register_post_accumulate_grad_hook(self.complete)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        weakref.finalize(storage, self.free, key)
        if self.now > self.peak:
            self.peak, self.gradients_at_peak = self.now, self.gradients

    def free(self, key: int) -> None:
        self.now -= self.sizes.pop(key)

    def complete(self, parameter: Any) -> None:
        if self.gradients < sum(p.nbytes for p in self.trained):  # not there from the start
            self.gradients += parameter.nbytes
