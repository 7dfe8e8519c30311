"""What memory depends on, read from a run's configuration and from the model's; nothing is loaded."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoTokenizer

from conf.schema.base import ConfigError, check_range
from conf.schema.llm import LlmConfig
from llm.evaluation.policy import BATCH
from llm.inference.prompts import encode_chats
from llm.plan.estimate import STAGES, Setting
from llm.tasks.base import load_task
from llm.testbed.tiny_models import resolve_model

GIB = 2**30
OWN_KEYS = {"ranks": int, "memory": float, "prompt_tokens": int}  # the plan's own
CONTEXT = GIB // 2  # what CUDA itself takes on a device


class Given(NamedTuple):
    """The plan's own keys, and the rest of the command line."""

    overrides: list[str]
    ranks: int | None = None
    memory: float | None = None
    prompt_tokens: int | None = None


def read_arguments(arguments: Sequence[str]) -> Given:
    own: dict[str, Any] = {}
    overrides = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in OWN_KEYS or not equals:
            overrides.append(argument)
            continue
        try:
            own[key] = OWN_KEYS[key](value)
        except ValueError:
            raise ConfigError(f"{key}: must be a number, got {value!r}") from None
        check_range(key, own[key], above=0)
    return Given(overrides, **own)


def make_setting(config: LlmConfig, launcher: Mapping[str, Any], given: Given) -> tuple[Setting, int]:
    """The setting, and how many prompts the task has."""
    if config.engine.name not in STAGES:
        raise ConfigError(f"engine.name: must be one of {', '.join(STAGES)} to be planned, got {config.engine.name}")
    name, lora = config.model.name_or_path, config.model.lora
    chats = load_task(config.task.name, config).prompts()
    elsewhere = bool(launcher.get("gpus_per_node")) or torch.cuda.is_available()
    cuda = config.model.device.startswith("cuda") or (config.model.device == "auto" and elsewhere)
    setting = Setting(
        model=read_config("model.name_or_path", name),
        engine=config.engine.name,
        ranks=given.ranks or launcher.get("nodes", 1) * launcher.get("tasks_per_node", 1),
        cuda=cuda,
        width={"float32": 4, "bfloat16": 2, "auto": 2 if cuda else 4}[config.model.dtype],
        prompts=config.prompts_per_step,
        group=config.group_size,
        prompt_tokens=given.prompt_tokens or longest_prompt(resolve_model(name), chats, config),
        new_tokens=config.max_new_tokens,
        micro_batch=config.micro_batch,
        tokens_a_pass=config.micro_batch_tokens,
        evaluated=min(max(config.evaluation_completions // len(chats), 1), BATCH),
        lora=None if lora.rank is None else (lora.rank, tuple(lora.target_modules)),
        checkpointing=config.model.gradient_checkpointing,
        reference_on_cpu=config.model.reference_on_cpu,
        reward_models=tuple(
            read_config(f"reward.parts.{key}.model", part.model)
            for key, part in config.reward.parts.items()
            if part.model
        ),
    )
    if setting.ranks > setting.prompts:
        raise ConfigError(
            f"prompts_per_step: must be >= the number of ranks, for a group lives whole on one of them, got "
            f"{setting.prompts} and {setting.ranks} ranks"
        )
    return setting, len(chats)


def read_config(key: str, name: str) -> str:
    """A model's configuration, as JSON."""
    path = resolve_model(name)
    try:
        text: str = AutoConfig.from_pretrained(path, trust_remote_code=False).to_json_string(use_diff=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{key}: must be a folder or hub name of a model, got {path} ({reason})") from None
    return text


def longest_prompt(name: str, chats: Sequence[Any], config: LlmConfig) -> int:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"prompt_tokens: must be given where the model's tokenizer is not at hand, got none "
            f"({str(error).strip().splitlines()[0]})"
        ) from None
    return max(encode_chats(tokenizer, [chat], config.model.chat_template).ids.shape[1] for chat in chats)


def device_memory(setting: Setting, launcher: Mapping[str, Any]) -> float:
    """Bytes of a rank's device: a GPU of this machine; of the CPU's memory a rank's part."""
    if setting.cuda:
        if not torch.cuda.is_available():
            raise ConfigError(
                "memory: must be given, in GiB of each rank's GPU, where this machine has none, got null"
            )
        return float(torch.cuda.get_device_properties(0).total_memory)
    ranks = launcher.get("tasks_per_node") or 1
    if launcher.get("mem_gb"):
        return float(launcher["mem_gb"]) * GIB / ranks
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / max(ranks, setting.ranks)


def process_memory(cuda: bool) -> int:
    """What a process takes before it has a model: CUDA's context on a GPU; this process's own memory on a CPU."""
    import llm.train  # noqa: F401  # as the run does

    if cuda:
        return CONTEXT
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
