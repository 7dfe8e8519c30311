"""Names of models: those that are made here, folders, and names on the hub; and where a model is from."""

import json
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import ModelCard
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from launch.runs.hub import folder_or_hub
from llm.testbed.smollm2 import HUB_NAME, ORIGIN, cached_smollm2, smollm2_config, smollm2_model
from llm.testbed.tiny_models import RECIPES, byte_tokenizer, tiny_config, tiny_model


def resolve_model(name: str, made_here: Collection[str] = tuple(RECIPES)) -> str:
    """What `from_pretrained` loads for a name: of smollm2, a model of `made_here`, a folder, or the hub."""
    if name == "smollm2":
        return str(smollm2_model())
    return str(tiny_model(name)) if name in made_here else folder_or_hub(name)


def known_config(name: str) -> PreTrainedConfig | None:
    """The configuration of a model that is made here, without making it; None for another name."""
    if name == "smollm2":
        return smollm2_config()
    return tiny_config(name) if name in RECIPES else None


def quick_tokenizer(name: str) -> PreTrainedTokenizerBase | str | None:
    """The tokenizer of a model without making the model.

    Returns:
        The tokenizer, what `from_pretrained` loads it from, or None if it would have to be made.
    """
    if name == "smollm2":
        return cached_smollm2()
    return byte_tokenizer() if name in RECIPES else folder_or_hub(name)


def model_facts(name: str, path: str) -> dict[str, str]:
    """Where a model is from, for run.json: its origin, never a path, and its license and hash if they are known.

    Args:
        name: what the user gave.
        path: what `resolve_model` made of it.
    """
    folder = Path(path)
    if (folder / ORIGIN).is_file():
        facts: dict[str, str] = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        return facts
    if name in RECIPES:
        return {"origin": f"trained here: {name}"}
    if name == "smollm2":
        facts = {"origin": f"{HUB_NAME}, commit {folder.name}"}
    else:
        facts = {"origin": folder.name if folder.is_dir() else name}
    license_name = _license(folder)
    return facts if license_name is None else {**facts, "license": license_name}


def _license(folder: Path) -> str | None:
    """The license that a model card names, if the folder has one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    metadata = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    return metadata.get("license")
