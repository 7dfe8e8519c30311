"""Loading and saving the policy, and loading its frozen reference and its tokenizer."""

import ctypes
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from conf.schema.base import ConfigError
from conf.schema.llm import LoraConfig, ModelConfig
from core.integrations.model_files import Stops, find_stops, ids_of
from launch.runs.atomic import replacing
from launch.runs.checkpoint import tensors_hash
from launch.runs.console import console
from llm.adapters import adapter_base, adapter_off, add_adapter, load_pretrained, load_tokenizer, save_adapter
from llm.inference.attention import log_once, model_configs
from llm.inference.decoder import compile_decoding, replay_decoding
from llm.inference.generation_config import describe_ignored, savable
from llm.inference.head import body_of, head_of
from llm.inference.norms import fuse_rms_norms
from llm.inference.paths import path_of, share_trials
from llm.inference.prompts import padding_id
from llm.inference.sampling import Rollout
from llm.inference.stopping import StopStrings, describe_stops, token_id
from llm.inference.temporary import temporarily
from llm.testbed.names import model_facts, resolve_model
from llm.testbed.tiny_models import POLICIES

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # constants of mallopt(3)


class Models(NamedTuple):
    """The policy, its reference and their tokenizer.

    Policy and reference start from the same weights. Neither uses dropout, so that the distribution that is sampled
    is the one that is scored.

    reference: frozen; None with LoRA, where the reference is the policy with its adapter off.
    eos_ids: [K] ids that end a completion, on the policy's device.
    pad_id: fills rows after their end.
    stop_strings: strings that end a completion, if there are any.
    facts: where the weights are from, for run.json.
    """

    policy: PreTrainedModel
    reference: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    eos_ids: Tensor
    pad_id: int
    stop_strings: StopStrings | None = None
    facts: Mapping[str, str] = MappingProxyType({})

    @contextmanager
    def as_reference(self, policy: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """Give access to the reference on the policy's device: its own model, or `policy` with its adapter off."""
        if self.reference is None:
            with adapter_off(policy):
                yield policy
        else:
            with on_device(self.reference, self.eos_ids.device):
                yield self.reference

    def ends(self) -> dict[str, Any]:
        """Where completions end, as keyword arguments of `llm.inference.sampling.sample`."""
        return {"eos_ids": self.eos_ids, "pad_id": self.pad_id, "stop_strings": self.stop_strings}

    def texts(self, rollout: Rollout) -> list[str]:
        """The text of each completion, without what ended it."""
        strings = () if self.stop_strings is None else self.stop_strings.strings
        return rollout.texts(self.tokenizer, self.eos_ids.tolist(), strings)

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
    policy, reference, tokenizer = _read_files(name, config, device)
    stops = load_stops(policy, tokenizer, config)
    eos_ids = torch.tensor(stops.ids, dtype=torch.long, device=device)
    stop_strings = StopStrings(tokenizer, stops.strings) if stops.strings else None
    torch.nn.Module.to(policy, device)
    if reference is not None and not config.reference_on_cpu:
        torch.nn.Module.to(reference, device)
    head_of(policy)
    path_of(body_of(policy))
    if reference is not None:
        share_trials(policy, reference)
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(policy)
    if config.lora.rank:
        add_adapter(policy, config.lora, seed)
        check_adapter(policy, config.lora)
    speed_up_decoding([model for model in (policy, reference) if model is not None], config, device)
    facts = model_facts(config.name_or_path, name)
    return Models(policy, reference, tokenizer, eos_ids, padding_id(tokenizer), stop_strings, facts)


def speed_up_decoding(models: Sequence[PreTrainedModel], config: ModelConfig, device: torch.device) -> None:
    """Compile the decoding step of models, or record it as a CUDA graph, where the configuration says so.

    Raises:
        ConfigError: it asks for CUDA graphs without a GPU.
    """
    if config.cuda_graphs and device.type != "cuda":
        raise ConfigError("model.cuda_graphs: must be false without a GPU, got true")
    for model in models:
        if config.compile_decoding:
            compile_decoding(model)
        if config.cuda_graphs:
            replay_decoding(model)


def _read_files(
    name: str, config: ModelConfig, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedModel | None, PreTrainedTokenizerBase]:
    """Policy, reference (None with LoRA) and tokenizer of a folder or hub name, in CPU memory."""
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
    return policy, reference, tokenizer


def load_stops(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> Stops:
    """What ends a completion: what the model's files say, and `model.stop`. Prints what is out of the ordinary.

    The policy's generation configuration is changed to name all of it, so that a saved policy ends where it was
    trained to end.

    Raises:
        ConfigError: model.stop.tokens names a token that the tokenizer does not have.
    """
    found = find_stops(tokenizer, policy.config, policy.generation_config, config.chat_template)
    given = [token_id(tokenizer, token, "model.stop.tokens") for token in config.stop.tokens]
    stops = Stops(
        list(dict.fromkeys([*found.ids, *given])), tuple(dict.fromkeys([*found.strings, *config.stop.strings]))
    )
    generation = policy.generation_config or GenerationConfig()
    for line in (describe_stops(tokenizer, found, stops), describe_ignored(generation)):
        if line is not None:
            log_once(line)
    if stops.ids != ids_of(generation.eos_token_id):
        generation.eos_token_id = stops.ids or None
    generation.stop_strings = list(stops.strings) or None
    policy.generation_config = generation
    return stops


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
    generation_config = policy.generation_config
    if config.lora.rank:
        from peft import PeftModel

        with replacing(run / "adapter") as folder:
            save_adapter(policy, config, folder)
        base = _load(resolve_model(config.name_or_path, POLICIES), config, torch.device("cpu"))
        policy = PeftModel.from_pretrained(base, run / "adapter").merge_and_unload()
    policy.generation_config = savable(generation_config or GenerationConfig())
    with replacing(run / "policy") as folder:
        policy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


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
        ConfigError: the model has no layers that can be checkpointed.
    """
    body = body_of(policy)
    layers: list[Any] = [layer for layer in body.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            "model.gradient_checkpointing: must be false for a model whose layers transformers cannot checkpoint, "
            f"got true with {type(policy).__name__}"
        )
    for layer in layers:
        kind = type(layer)
        layer.__class__ = type(kind.__name__, (_Checkpointed, kind), {})
        layer.gradient_checkpointing = True  # for `completion_hidden`; transformers looks at `training` as well


class _Checkpointed(torch.nn.Module):
    """First base of a layer that recomputes its activations.

    The layer stays in evaluation mode. In training mode, which transformers' own checkpointing needs, the layers of
    some models apply dropout.
    """

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Call the layer's own forward pass, again in the backward pass, with the attention of now."""
        forward = partial(super().forward, **keywords)
        if not torch.is_grad_enabled():
            return forward(*args)
        key = "_attn_implementation"
        attention = [(config, key, getattr(config, key)) for config in model_configs(self)]
        return checkpoint(
            forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), temporarily(attention))
        )


def check_adapter(policy: PreTrainedModel, config: LoraConfig) -> None:
    """Raise ConfigError if the model cannot be called with its adapter, as on a layer that returns a tuple."""
    try:
        with torch.no_grad():
            body_of(policy)(input_ids=torch.arange(4, device=policy.device).unsqueeze(0), use_cache=False)
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            "model.lora.target_modules: the model cannot be called with an adapter on all of these layers; name "
            f"others, such as [q_proj,v_proj], got {config.target_modules} ({type(error).__name__}: {reason})"
        ) from None


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
