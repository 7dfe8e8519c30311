"""Low-rank adapters (LoRA, Hu et al., 2021, arXiv:2106.09685), built with peft."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from conf.schema.base import ConfigError
from conf.schema.llm import LoraConfig, ModelConfig
from launch.runs.rng import stream_seed


def add_adapter(policy: PreTrainedModel, config: LoraConfig, seed: int) -> None:
    """Insert an adapter into the model in place, and freeze the other weights. The model's outputs do not change.

    Raises:
        ConfigError: peft is not installed, or model.lora.target_modules does not fit the model.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError(
            "model.lora.rank: LoRA needs peft, which is not installed: pip install -e .[lora]"
        ) from None
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(seed, "adapter"))
        try:
            peft.get_peft_model(policy, _peft_config(config))
        except ValueError as error:
            raise ConfigError(f"model.lora.target_modules: must name layers of the model ({error})") from None
    if isinstance(policy.get_output_embeddings(), peft.tuners.tuners_utils.BaseTunerLayer):
        raise ConfigError(
            f"model.lora.target_modules: must not include the output embedding, got {config.target_modules}"
        )


def _peft_config(config: LoraConfig) -> Any:
    import peft

    targets: Any = config.target_modules
    targets = targets[0] if targets == ["all-linear"] else targets
    return peft.LoraConfig(
        r=config.rank or 0, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
    )


@contextmanager
def adapter_off(policy: PreTrainedModel) -> Iterator[None]:
    """Temporarily disable the adapter, so that the model computes what it did before training."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in policy.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save_adapter(policy: PreTrainedModel, config: ModelConfig, folder: Path) -> None:
    """Save the adapter in the form that `PeftModel.from_pretrained(base, folder)` loads."""
    adapter = _peft_config(config.lora)
    adapter.base_model_name_or_path, adapter.inference_mode = config.name_or_path, True
    adapter.save_pretrained(folder)
    weights = {
        f"base_model.model.{name.replace('.default', '')}": value.detach().cpu().contiguous()
        for name, value in policy.named_parameters()
        if ".lora_" in name
    }
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
