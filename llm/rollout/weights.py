"""The policy's weights as files, from which servers of vLLM load them."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from conf.schema.base import ConfigError
from conf.schema.llm import ModelConfig
from launch.runs.atomic import writing
from llm.adapters import adapter_base, save_adapter
from llm.inference.generation_config import savable
from llm.inference.temporary import temporarily
from llm.models import Models
from llm.testbed.names import resolve_model
from llm.testbed.tiny_models import POLICIES

ONE_FILE = "100000GB"
SINGLE = "model.safetensors"  # the name of a model that is one file; below, those of one that is two
BODY, HEAD, INDEX = (
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
)


class WeightFolder:
    """A folder with what servers load: the model as `save_pretrained` writes it, or its adapters by version.

    The output embedding is written even if it is tied to the input embedding, and the configuration then says that
    they are not tied. On a CPU vLLM 0.32 keeps a copy of a tied output embedding in another layout, and does not
    renew it when weights are loaded again.

    Args:
        folder: exists, and is empty.
        config: the configuration's `model` group.
        models: policy and tokenizer.
    """

    def __init__(self, folder: Path, config: ModelConfig, models: Models) -> None:
        self.folder, self.is_adapter = folder, config.lora.rank is not None
        self._config, self._models = config, models

    def path_of(self, version: str) -> str:
        """Where a version is."""
        return str(self.folder / (version if self.is_adapter else "model"))

    def write_base(self, policy: PreTrainedModel) -> Path:
        """Write what a server starts with, and return its folder: the model, or the base of its adapter.

        Raises:
            ConfigError: the base is an adapter itself.
        """
        if not self.is_adapter:
            return Path(self.write(policy, ""))
        name = resolve_model(self._config.name_or_path, POLICIES)
        if adapter_base(name) is not None:
            raise ConfigError(
                f"model.name_or_path: must be a whole model with rollout=vllm and model.lora.rank, got the adapter "
                f"{self._config.name_or_path}; merge it into its base first"
            )
        return Path(name)

    def write(self, policy: PreTrainedModel, version: str) -> str:
        """Write the policy, or its adapter, and return the folder.

        Raises:
            WriteError: there is no room.
        """
        path = Path(self.path_of(version))
        with writing(path):
            if self.is_adapter:
                save_adapter(policy, self._config, path)
            else:
                self._write_model(policy, path)
        return str(path)

    def _write_model(self, policy: PreTrainedModel, path: Path) -> None:
        for file in (SINGLE, BODY, HEAD, INDEX):
            (path / file).unlink(missing_ok=True)
        generation_config = savable(policy.generation_config or GenerationConfig())
        with temporarily([(policy, "generation_config", generation_config)]):
            policy.save_pretrained(path, max_shard_size=ONE_FILE)
        tied = _tied_embedding(policy)
        if tied is not None:
            _untie(path, *tied)
        if not (path / "tokenizer_config.json").exists():
            self._models.tokenizer.save_pretrained(path)

    def drop(self, version: str | None) -> None:
        """Remove an adapter that is not used any more."""
        if self.is_adapter and version is not None:
            shutil.rmtree(self.path_of(version), ignore_errors=True)


def _tied_embedding(policy: PreTrainedModel) -> tuple[str, Tensor] | None:
    """Name and weight of an output embedding that is tied to the input embedding; None if it is not."""
    head: Any = policy.get_output_embeddings()
    embedding: Any = policy.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return None
    name = next(name for name, module in policy.named_modules() if module is head)
    return f"{name}.weight", head.weight.detach().cpu().clone()


def _untie(path: Path, name: str, weight: Tensor) -> None:
    """Add the output embedding to a saved model in which it is tied to the input embedding."""
    (path / SINGLE).rename(path / BODY)
    save_file({name: weight}, path / HEAD, {"format": "pt"})
    with safe_open(path / BODY, "pt") as body:
        files = dict.fromkeys(body.keys(), BODY) | {name: HEAD}
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}), "utf-8")
    settings = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": False}), "utf-8")
