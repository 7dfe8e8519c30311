"""Loading a policy, its frozen reference and its tokenizer."""

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
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from conf.schema.base import ConfigError
from conf.schema.llm import ModelConfig
from launch.engines.deepspeed import quieten
from launch.runs.checkpoint import tensors_hash
from llm.adapters import adapter_off, add_adapter, save_adapter
from llm.inference.attention import shared_prefix_attention, supports_shared_prefix
from llm.inference.decoder import compile_decoding
from llm.inference.norms import fuse_rms_norms
from llm.testbed.tiny_models import POLICIES, resolve_model

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of mallopt(3)


class Models(NamedTuple):
    """policy trains, reference is frozen; both start from the same weights, without dropout, so that what is
    sampled is what is scored. With LoRA the reference is the policy with its adapter off, and the field is None.
    """

    policy: PreTrainedModel
    reference: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    eos_ids: Tensor  # [K] ids that end a completion, on the policy's device
    pad_id: int

    @contextmanager
    def as_reference(self, policy: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """The reference on the policy's device: a model of its own, or `policy` with its adapter off."""
        if self.reference is None:
            with adapter_off(policy):
                yield policy
        else:
            with on_device(self.reference, self.eos_ids.device):
                yield self.reference

    def reference_hash(self) -> str:
        """Of the weights that do not train."""
        model = self.policy if self.reference is None else self.reference
        return tensors_hash((name, p) for name, p in model.named_parameters() if not p.requires_grad)


def load_models(config: ModelConfig, seed: int = 0) -> Models:
    """Everything through `from_pretrained`; `tiny` and the like are built first, or found in the cache.

    Args:
        seed: of an adapter's first weights.

    Raises:
        ConfigError: the model cannot be found or loaded, or does not do what the configuration asks for.
    """
    transformers_logging.disable_progress_bar()
    name = resolve_model(config.name_or_path, POLICIES)
    device = resolve_device(config.device)
    if device.type == "cpu":
        retain_freed_memory()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", trust_remote_code=False)
        policy = _load(name, config, device)
        reference = None if config.lora.rank else _load(name, config, device).requires_grad_(False)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.name_or_path: must be a folder or hub name of a causal language model, got {name} ({reason})"
        ) from None
    if tokenizer.chat_template is None:
        raise ConfigError(f"model.name_or_path: must have a chat template, got none in {name}")
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
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        name, dtype=dtype, trust_remote_code=False, use_safetensors=True, **attention
    )
    if device.type == "cpu":
        fuse_rms_norms(model)
    return model.eval()


def save_policy(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, run: Path) -> None:
    """policy/ in the run folder, which `from_pretrained` loads; with LoRA it is merged, and adapter/ is beside it."""
    if config.lora.rank:
        from peft import PeftModel

        save_adapter(policy, config, run / "adapter")
        base = _load(resolve_model(config.name_or_path, POLICIES), config, torch.device("cpu"))
        policy = PeftModel.from_pretrained(base, run / "adapter").merge_and_unload()
    quieten()
    policy.save_pretrained(run / "policy")
    tokenizer.save_pretrained(run / "policy")


# --- memory --------------------------------------------------------------------------------------------------


def retain_freed_memory() -> None:
    """Have glibc keep what tensors leave behind, for the next ones: for a process that trains on the CPU.

    By default it gives a step's activations back to the system and takes them again page by page, which costs the
    small models that fit a CPU a tenth of a step. Elsewhere than under glibc nothing is changed.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # as far as glibc would raise it by itself
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def on_device(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Within it `model` has a copy of its weights on `device`; a model that is there already is left alone."""
    home = {tensor: tensor.data for tensor in chain(model.parameters(), model.buffers()) if tensor.device != device}
    for tensor in home:
        tensor.data = tensor.data.to(device)
    try:
        yield
    finally:
        for tensor, data in home.items():
            tensor.data = data


def enable_gradient_checkpointing(policy: PreTrainedModel) -> None:
    """Gradient checkpointing, in passes with gradient only: a layer's activations are computed again in the backward.

    Raises:
        ConfigError: the model's prompts cannot be read packed; their cache does not go with checkpointing.
    """
    body = policy.get_decoder()
    layers: list[Any] = [layer for layer in body.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers or not supports_shared_prefix(body):
        raise ConfigError(
            "model.gradient_checkpointing: must be false for a model whose prompts are not read packed, "
            f"got true and {type(policy).__name__}"
        )
    again = partial(
        checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), shared_prefix_attention(body))
    )
    for layer in layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, again

    def in_passes_with_gradient(*_: Any) -> None:
        for layer in layers:  # its parts stay in evaluation mode
            layer.training = torch.is_grad_enabled()

    body.register_forward_pre_hook(in_passes_with_gradient)


@torch.no_grad()
def _check_head(model: PreTrainedModel, name: str) -> None:
    """Refuse a model that does more to its logits than multiply by the output embedding (capping, scaling)."""
    probe = torch.arange(4, device=model.device).unsqueeze(0)
    logits = model(input_ids=probe, use_cache=False).logits
    head = model.get_output_embeddings()
    plain = head(model.get_decoder()(input_ids=probe, use_cache=False).last_hidden_state)
    if getattr(head, "bias", None) is not None or not torch.equal(plain, logits):
        raise ConfigError(
            f"model.name_or_path: must be a model whose logits are its last hidden states times an output embedding, "
            f"got {name} ({type(model).__name__}), which caps, scales or shifts them"
        )


def resolve_device(name: str, key: str = "model.device") -> torch.device:
    """The device called `name`; auto: a GPU where there is one. Raises ConfigError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"{key}: must be auto or cpu on a machine without a GPU, got {name}")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type called `name`; auto: bfloat16 where a GPU has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, name)
