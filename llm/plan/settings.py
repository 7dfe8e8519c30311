"""Settings of a plan, from the configurations of the run and of its models. No weights are loaded."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig

from conf.schema.base import ConfigError, check_range
from conf.schema.llm import LlmConfig
from llm.adapters import adapter_base, load_tokenizer
from llm.evaluation.policy import BATCH
from llm.inference.prompts import prompt_lengths
from llm.plan.estimate import STAGES, PlanSettings
from llm.tasks.base import Task, load_task
from llm.testbed.names import resolve_model

GIB = 2**30
PLAN_KEYS = {"ranks": int, "memory": float, "prompt_tokens": int}  # keys that python -m llm does not have
CUDA_CONTEXT = GIB // 2  # memory that CUDA itself uses on a device


class PlanArguments(NamedTuple):
    """The command line: the plan's own keys, and overrides of the run's configuration."""

    overrides: list[str]
    ranks: int | None = None
    memory: float | None = None
    prompt_tokens: int | None = None


def parse_arguments(arguments: Sequence[str]) -> PlanArguments:
    """Separate the plan's own keys, which must be positive numbers, from the overrides of the run."""
    values: dict[str, Any] = {}
    overrides = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in PLAN_KEYS or not equals:
            overrides.append(argument)
            continue
        try:
            values[key] = PLAN_KEYS[key](value)
        except ValueError:
            raise ConfigError(f"{key}: must be a number, got {value!r}") from None
        check_range(key, values[key], above=0)
    return PlanArguments(overrides, **values)


def make_settings(
    config: LlmConfig, launcher: Mapping[str, Any], arguments: PlanArguments
) -> tuple[PlanSettings, int]:
    """The settings of a plan, and the number of prompts of the task."""
    if config.engine.name not in STAGES:
        raise ConfigError(f"engine.name: the plan supports {', '.join(STAGES)}, got {config.engine.name}")
    name, task = config.model.name_or_path, load_task(config.task.name, config)
    chats = task.prompts()
    has_gpu = bool(launcher.get("gpus_per_node")) or torch.cuda.is_available()
    cuda = config.model.device.startswith("cuda") or (config.model.device == "auto" and has_gpu)
    settings = run_settings(
        config,
        task,
        model=read_model_config("model.name_or_path", name),
        ranks=arguments.ranks or launcher.get("nodes", 1) * launcher.get("tasks_per_node", 1),
        cuda=cuda,
        dtype_bytes={"float32": 4, "bfloat16": 2, "auto": 2 if cuda else 4}[config.model.dtype],
        prompt_tokens=arguments.prompt_tokens or longest_prompt(resolve_model(name), chats, config),
    )
    if settings.ranks > settings.prompts:
        raise ConfigError(
            "prompts_per_step: must be at least the number of ranks, because groups are never split across ranks, "
            f"got {settings.prompts} prompts for {settings.ranks} ranks"
        )
    return settings, len(chats)


def run_settings(
    config: LlmConfig, task: Task, *, model: str, ranks: int, cuda: bool, dtype_bytes: int, prompt_tokens: int
) -> PlanSettings:
    """The settings of a plan for a model on a device; see `PlanSettings`."""
    lora, evaluated = config.model.lora, next(iter(task.evaluation_prompts().values()))
    per_prompt = min(max(config.evaluation_completions // len(evaluated), 1), BATCH)
    evaluation_prompts = min(BATCH // per_prompt, len(evaluated))
    return PlanSettings(
        model=model,
        engine=config.engine.name,
        ranks=ranks,
        cuda=cuda,
        dtype_bytes=dtype_bytes,
        prompts=config.prompts_per_step,
        group_size=config.group_size,
        prompt_tokens=prompt_tokens,
        new_tokens=config.max_new_tokens,
        micro_batch=config.micro_batch,
        micro_batch_tokens=config.micro_batch_tokens,
        evaluation_rows=evaluation_prompts * per_prompt,
        evaluation_prompts=evaluation_prompts,
        lora=None if lora.rank is None else (lora.rank, tuple(lora.target_modules)),
        checkpointing=config.model.gradient_checkpointing,
        reference_on_cpu=config.model.reference_on_cpu,
        reward_models=tuple(
            read_model_config(f"reward.parts.{key}.model", part.model)
            for key, part in config.reward.parts.items()
            if part.model
        ),
    )


def read_model_config(key: str, name: str) -> str:
    """A model's configuration, as JSON. Raises ConfigError for `key` if it cannot be read."""
    path = resolve_model(name)
    try:
        while (base := adapter_base(path)) is not None:  # the memory is that of the merged model
            path = base
        text: str = AutoConfig.from_pretrained(path, trust_remote_code=False).to_json_string(use_diff=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{key}: must be a folder or hub name of a model, got {path} ({reason})") from None
    return text


def longest_prompt(name: str, chats: Sequence[Any], config: LlmConfig) -> int:
    """Tokens of the longest prompt, including the chat template. Raises ConfigError without a tokenizer."""
    try:
        tokenizer = load_tokenizer(name, padding_side="left")
    except (OSError, ValueError) as error:
        raise ConfigError(
            "prompt_tokens: must be given, because the model's tokenizer cannot be loaded "
            f"({str(error).strip().splitlines()[0]})"
        ) from None
    return max(prompt_lengths(tokenizer, chats, config.model.chat_template))


def device_memory(settings: PlanSettings, launcher: Mapping[str, Any]) -> float:
    """Bytes of a rank's device: a GPU of this machine, or the rank's share of the CPU's memory."""
    if settings.cuda:
        if not torch.cuda.is_available():
            raise ConfigError(
                "memory: must be given as the GiB of each rank's GPU, because this machine has no GPU, got null"
            )
        return float(torch.cuda.get_device_properties(0).total_memory)
    ranks = launcher.get("tasks_per_node") or 1
    if launcher.get("mem_gb"):
        return float(launcher["mem_gb"]) * GIB / ranks
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / max(ranks, settings.ranks)


def process_memory(cuda: bool) -> int:
    """Bytes of a process without a model: CUDA's context on a GPU, or this process's own memory on a CPU."""
    if cuda:
        return CUDA_CONTEXT
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
