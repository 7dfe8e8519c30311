"""Low-rank adapters (LoRA, Hu et al., 2021, arXiv:2106.09685), built with peft, and models saved as adapters."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file, find_adapter_config_file

from conf.schema.base import ConfigError
from conf.schema.extras import not_installed
from conf.schema.llm import LoraConfig, ModelConfig
from launch.runs.rng import stream_seed
from launch.runs.run_folder import user_path
from llm.testbed.names import resolve_model

WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # of the names of weights in an adapter's file
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}  # of merging, relative to the size of the outputs
COARSE_ROUNDING = 0.1  # the same in other types, such as bfloat16


def add_adapter(policy: PreTrainedModel, config: LoraConfig, seed: int) -> None:
    """Insert an adapter into the model in place, and freeze the other weights. The model's outputs do not change.

    Raises:
        ConfigError: peft is not installed, or model.lora.target_modules does not fit the model.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError(f"model.lora.rank: {not_installed('peft')}") from None
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
    base = user_path(config.name_or_path)
    adapter.base_model_name_or_path = str(base.resolve()) if base.is_dir() else config.name_or_path
    adapter.inference_mode = True
    adapter.save_pretrained(folder)
    weights = {
        f"base_model.model.{name.replace('.default', '')}": value.detach().cpu().contiguous()
        for name, value in policy.named_parameters()
        if ".lora_" in name
    }
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


# --- models that are saved as an adapter and the name of their base ------------------------------------------


def load_pretrained(auto_class: Any, name: str, **options: Any) -> tuple[Any, set[str]]:
    """Load a model with `auto_class.from_pretrained`. An adapter is merged into the base that it names.

    Args:
        auto_class: such as AutoModelForCausalLM.
        name: what `from_pretrained` loads: a folder or a hub name.
        options: of `from_pretrained`.

    Returns:
        The model, all of its weights trainable, and the names of the weights that no file has.

    Raises:
        OSError, ValueError, ImportError: the model cannot be loaded; the first line of the message is the reason.
    """
    base_name = adapter_base(name)
    if base_name is None:
        model, loading = auto_class.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
        )
        return model, set(loading["missing_keys"])
    try:
        model, missing = load_pretrained(auto_class, base_name, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"its base, {base_name}, cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    saved = _saved_names(name)
    return _merge(model, name, saved), missing - {key.removeprefix(PEFT_PREFIX) for key in saved}


def load_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; that of an adapter's base if the adapter has none of its own."""
    source, passed = name, [name]
    while (base := adapter_base(source)) is not None and not _has_file(source, "tokenizer_config.json"):
        source = base
        if source in passed:
            raise ValueError(f"its bases form a circle: {', '.join(passed)}")
        passed.append(source)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        if source == name:
            raise
        raise ValueError(f"its base, {source}, cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    return tokenizer


def adapter_base(name: str) -> str | None:
    """What `from_pretrained` loads as the base of an adapter; None if `name` is no adapter.

    Raises:
        ValueError: the adapter cannot be used.
    """
    base = adapter_base_name(name)
    return None if base is None else resolve_model(base)


def adapter_base_name(name: str) -> str | None:
    """The name of the base of an adapter, as the adapter's file gives it; None if `name` is no adapter.

    Raises:
        ValueError: the adapter cannot be used.
    """
    file = Path(name, "adapter_config.json")
    path = (str(file) if file.is_file() else None) if Path(name).is_dir() else find_adapter_config_file(name)
    if path is None:
        return None
    if Path(name, "config.json").is_file():
        raise ValueError("it has both config.json of a model and adapter_config.json of an adapter; remove one")
    try:
        base = json.loads(Path(path).read_text("utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise ValueError("adapter_config.json must name the base of the adapter in base_model_name_or_path")
    return base


def _has_file(name: str, file: str) -> bool:
    try:
        return cached_file(name, file) is not None
    except OSError:
        return False


def _saved_names(name: str) -> set[str]:
    """Names of the weights in an adapter's file. Raises ValueError if there is no such file."""
    try:
        with safe_open(cached_file(name, WEIGHTS), "pt") as weights:
            return set(weights.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{WEIGHTS} cannot be read: {str(error).strip().splitlines()[0]}") from None


def _merge(model: PreTrainedModel, name: str, saved: set[str]) -> PreTrainedModel:
    """Merge an adapter into its base, and check that this did not change what they compute together."""
    try:
        import peft
    except ImportError:
        raise ImportError(f"it is an adapter, and {not_installed('peft')}") from None
    dtypes, dtype = {key: p.dtype for key, p in model.named_parameters()}, model.dtype
    try:
        adapted = peft.PeftModel.from_pretrained(model, name, torch_device="cpu").eval()
        if adapted.active_peft_config.is_prompt_learning:
            raise ValueError(
                f"an adapter of type {adapted.active_peft_config.peft_type.value} has no weights to merge"
            )
        expected = set(peft.get_peft_model_state_dict(adapted))
        before = _outputs(adapted)
        merged = adapted.merge_and_unload()
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the adapter cannot be merged: {str(error).strip().splitlines()[0]}") from None
    if expected != saved:
        differing = sorted(expected ^ saved)
        raise ValueError(
            f"the adapter does not fit its base: {len(differing)} weights are in one but not in the other, the first "
            f"being {differing[0]}"
        )
    embedding, head = merged.get_input_embeddings(), merged.get_output_embeddings()
    if head is not None and head.weight is not embedding.weight:
        merged.config.get_text_config().tie_word_embeddings = merged.config.tie_word_embeddings = False
    for key, parameter in merged.named_parameters():
        parameter.data = parameter.data.to(dtypes.get(key, dtype))
    change = float((_outputs(merged) - before).norm() / before.norm())
    if not change <= ROUNDING.get(dtype, COARSE_ROUNDING):
        raise ValueError(
            f"the adapter cannot be merged: the outputs change by {change:.1%}, as they do if it adapts one of two "
            "weights that are tied"
        )
    model_without_adapter: PreTrainedModel = merged.requires_grad_(True)
    return model_without_adapter


@torch.no_grad()
def _outputs(model: Any) -> torch.Tensor:
    """What a model computes for a few tokens."""
    ids = torch.arange(8).unsqueeze(0)
    outputs: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    return outputs.double()
