"""Loading and saving the policy, and loading its frozen reference and its tokenizer."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from conf.schema.base import ConfigError
from conf.schema.llm import ModelConfig
from launch.engines.deepspeed import silence_deepspeed
from launch.runs.checkpoint import tensors_hash
from launch.runs.console import console
from llm.adapters import adapter_base, adapter_off, add_adapter, load_pretrained, load_tokenizer, save_adapter
from llm.inference.attention import shared_prefix_attention, supports_shared_prefix
from llm.inference.decoder import compile_decoding
from llm.inference.norms import fuse_rms_norms
from llm.testbed.tiny_models import POLICIES, resolve_model

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # constants of mallopt(3)


class Models(NamedTuple):
    """The policy, its reference and their tokenizer.

    Policy and reference start from the same weights. Neither uses dropout, so that the distribution that is sampled
    is the one that is scored.

    reference: frozen; None with LoRA, where the reference is the policy with its adapter off.
    eos_ids: [K] ids that end a completion, on the policy's device.
    """

    policy: PreTrainedModel
    reference: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    eos_ids: Tensor
    pad_id: int

    @contextmanager
    def as_reference(self, policy: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """Give access to the reference on the policy's device: its own model, or `policy` with its adapter off."""
        if self.reference is None:
            with adapter_off(policy):
                yield policy
        else:
            with on_device(self.reference, self.eos_ids.device):
                yield self.reference

    def reference_hash(self) -> str:
        """Hash of the reference's weights."""
        model = self.policy if self.reference is None else self.reference
        return tensors_hash((name, p) for name, p in model.named_parameters() if not p.requires_grad)


def load_models(config: ModelConfig, seed: int = 0) -> Models:
    """Load policy, reference and tokenizer with `from_pretrained`. Test models such as `tiny` are built if needed.

    Args:
        config: the configuration's `model` group.
        seed: for the initial weights of an adapter.

    Raises:
        ConfigError: the model cannot be found or loaded, or does not support what the configuration asks for.
    """
    transformers_logging.disable_progress_bar()
    name = resolve_model(config.name_or_path, POLICIES)
    device = resolve_device(config.device)
    if device.type == "cpu":
        retain_freed_memory()
    try:
        base = adapter_base(name)
        tokenizer = load_tokenizer(name, padding_side="left")
        policy = _load(name, config, device)
        reference = None if config.lora.rank else _load(name, config, device).requires_grad_(False)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.name_or_path: must be a folder or hub name of a causal language model, got {name} ({reason})"
        ) from None
    if base is not None:
        console.print(f"model.name_or_path: {config.name_or_path} is an adapter; it is merged into its base, {base}")
    if tokenizer.chat_template is None:
        raise ConfigError(f"model.name_or_path: the tokenizer of {name} has no chat template; use a chat model")
    eos = policy.generation_config.eos_token_id if policy.generation_config else None
    eos = tokenizer.eos_token_id if eos is None else eos
    eos_ids = torch.tensor([eos] if isinstance(eos, int) else eos, device=device)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    torch.nn.Module.to(policy, device)
    if reference is not None and not config.reference_on_cpu:
        torch.nn.Module.to(reference, device)
    _check_head(policy, name)
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(policy)
    if config.lora.rank:
        add_adapter(policy, config.lora, seed)
    if config.compile_decoding:
        for model in filter(None, (policy, reference)):
            compile_decoding(model)
    return Models(policy, reference, tokenizer, eos_ids, pad)


def _load(name: str, config: ModelConfig, device: torch.device) -> PreTrainedModel:
    attention = {} if config.attention == "auto" else {"attn_implementation": config.attention}
    dtype = resolve_dtype(config.dtype, device)
    model: PreTrainedModel = load_pretrained(AutoModelForCausalLM, name, dtype=dtype, **attention)[0]
    if device.type == "cpu":
        fuse_rms_norms(model)
    return model.eval()


def save_policy(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, run: Path) -> None:
    """Save the policy to policy/ in the run folder, in the form that `from_pretrained` loads.

    With LoRA, policy/ holds the merged model, and adapter/ the adapter.
    """
    if config.lora.rank:
        from peft import PeftModel

        save_adapter(policy, config, run / "adapter")
        base = _load(resolve_model(config.name_or_path, POLICIES), config, torch.device("cpu"))
        policy = PeftModel.from_pretrained(base, run / "adapter").merge_and_unload()
    silence_deepspeed()
    policy.save_pretrained(run / "policy")
    tokenizer.save_pretrained(run / "policy")


# --- memory --------------------------------------------------------------------------------------------------


def retain_freed_memory() -> None:
    """Make glibc keep freed memory for later tensors instead of returning it to the system.

    By default glibc returns a step's activations and then requests them again page by page. For small models on a
    CPU this takes a tenth of a step. Does nothing without glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most to which glibc raises it by itself
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def on_device(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Temporarily give `model` a copy of its weights on `device`. Weights that are there already stay as they are."""
    original = {t: t.data for t in chain(model.parameters(), model.buffers()) if t.device != device}
    for tensor in original:
        tensor.data = tensor.data.to(device)
    try:
        yield
    finally:
        for tensor, data in original.items():
            tensor.data = data


def enable_gradient_checkpointing(policy: PreTrainedModel) -> None:
    """Recompute each layer's activations in the backward pass. Passes without gradient are unchanged.

    Raises:
        ConfigError: the model does not support packed prompts; the key-value cache that it uses instead cannot be
            combined with checkpointing.
    """
    body = policy.get_decoder()
    layers: list[Any] = [layer for layer in body.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers or not supports_shared_prefix(body):
        raise ConfigError(
            "model.gradient_checkpointing: must be false for a model that does not support packed prompts, "
            f"got true with {type(policy).__name__}"
        )
    checkpoint_layer = partial(
        checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), shared_prefix_attention(body))
    )
    for layer in layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, checkpoint_layer

    def checkpoint_only_with_gradient(*_: Any) -> None:
        for layer in layers:  # only this flag: the layer's submodules stay in evaluation mode
            layer.training = torch.is_grad_enabled()

    body.register_forward_pre_hook(checkpoint_only_with_gradient)


@torch.no_grad()
def _check_head(model: PreTrainedModel, name: str) -> None:
    """Raise ConfigError unless the logits are the last hidden states times the output embedding, without capping."""
    probe = torch.arange(4, device=model.device).unsqueeze(0)
    logits = model(input_ids=probe, use_cache=False).logits
    head = model.get_output_embeddings()
    plain = head(model.get_decoder()(input_ids=probe, use_cache=False).last_hidden_state)
    if getattr(head, "bias", None) is not None or not torch.equal(plain, logits):
        raise ConfigError(
            "model.name_or_path: the logits must be the last hidden states times the output embedding, but "
            f"{name} ({type(model).__name__}) caps, scales or shifts them"
        )


def resolve_device(name: str, key: str = "model.device") -> torch.device:
    """The device of a name; auto is a GPU if there is one. Raises ConfigError if a GPU is asked for but missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"{key}: must be auto or cpu, because no GPU is available, got {name}")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; auto is bfloat16 on a GPU that supports it, else float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, name)
