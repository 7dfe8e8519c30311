"""Loading a policy, its frozen reference and its tokenizer."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from conf.schema import ConfigError, ModelConfig
from launch.record import user_path


class Models(NamedTuple):
    """policy trains, reference is frozen; both start from the same weights, without dropout, so that what is
    sampled is what is scored."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos_ids: Tensor  # [K] ids that end a completion
    pad_id: int


def load_models(config: ModelConfig) -> Models:
    """Everything through `from_pretrained`; `tiny` and the like are built first, or found in the cache.

    Raises:
        ConfigError: the model cannot be found or loaded.
    """
    transformers_logging.disable_progress_bar()
    name = config.name_or_path
    if name.startswith("tiny"):
        name = _made_here(name)
    elif user_path(name).is_dir():
        name = str(user_path(name))
    device = find_device(config.device)
    dtype = find_dtype(config.dtype, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", trust_remote_code=False)
        policy, reference = (
            AutoModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=False, use_safetensors=True)
            for _ in range(2)
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.name_or_path: must be a folder or hub name of a causal language model, found {name} ({reason})"
        ) from None
    if tokenizer.chat_template is None:
        raise ConfigError(f"model.name_or_path: must have a chat template, found none in {name}")
    eos = policy.generation_config.eos_token_id if policy.generation_config else None
    eos = tokenizer.eos_token_id if eos is None else eos
    eos_ids = torch.tensor([eos] if isinstance(eos, int) else eos, device=device)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    reference.requires_grad_(False)
    for model in (policy, reference):
        torch.nn.Module.to(model, device).eval()
    _check_head(reference, name)
    return Models(policy, reference, tokenizer, eos_ids, pad)


def _made_here(name: str) -> str:
    """Folder of a model of `llm.tiny`, or the name itself where it is none."""
    from llm.tiny import POLICIES, tiny_model

    return str(tiny_model(name)) if name in POLICIES else name


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
            f"found {name} ({type(model).__name__}), which caps, scales or shifts them"
        )


def find_device(name: str, key: str = "model.device") -> torch.device:
    """The device called `name`; auto: a GPU where there is one. Raises ConfigError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"{key}: must be auto or cpu on a machine without a GPU, found {name}")
    return torch.device(name)


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type called `name`; auto: bfloat16 where a GPU has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, name)
