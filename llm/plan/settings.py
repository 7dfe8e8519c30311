"""Settings of a plan, from the configurations of the run and of its models. No weights are loaded."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from conf.schema.base import ConfigError, check_range
from conf.schema.llm import LlmConfig
from launch.runs.hub import folder_or_hub
from llm.adapters import adapter_base_name, load_tokenizer
from llm.evaluation.policy import BATCH
from llm.inference.prompts import prompt_lengths
from llm.plan.estimate import STAGES, PlanSettings
from llm.tasks.base import load_task
from llm.testbed.names import known_config, quick_tokenizer

GIB = 2**30
PLAN_KEYS = {"ranks": int, "memory": float, "prompt_tokens": int}  # keys that python -m llm does not have
READ_ALL = "all"  # a value of prompt_tokens: read the data set and count
ASSUMED_PROMPT = 512  # tokens of the longest prompt, where the prompts are in a data set that is not read
CUDA_CONTEXT = GIB // 2  # memory that CUDA itself uses on a device


class PlanArguments(NamedTuple):
    """The command line: the plan's own keys, and overrides of the run's configuration.

    read_data: whether the prompts of a data set are counted, too.
    """

    overrides: list[str]
    ranks: int | None = None
    memory: float | None = None
    prompt_tokens: int | None = None
    read_data: bool = False


class PlannedPrompts(NamedTuple):
    """What a plan knows of a task's prompts.

    number: of training; None: not known. evaluated: of evaluation, at most BATCH where it is not known.
    longest: tokens of the longest one. assumed: why `longest` is not counted, in words; empty if it is or was given.
    """

    number: int | None
    evaluated: int
    longest: int
    assumed: str = ""


def parse_arguments(arguments: Sequence[str]) -> PlanArguments:
    """Separate the plan's own keys, which must be positive numbers, from the overrides of the run."""
    values: dict[str, Any] = {}
    overrides = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in PLAN_KEYS or not equals:
            overrides.append(argument)
            continue
        if (key, value) == ("prompt_tokens", READ_ALL):
            values["read_data"] = True
            continue
        try:
            values[key] = PLAN_KEYS[key](value)
        except ValueError:
            raise ConfigError(f"{key}: must be a number, got {value!r}") from None
        check_range(key, values[key], above=0)
    return PlanArguments(overrides, **values)


def make_settings(
    config: LlmConfig, launcher: Mapping[str, Any], arguments: PlanArguments
) -> tuple[PlanSettings, PlannedPrompts]:
    """The settings of a plan, and what is known of the task's prompts. No model is made, and no data set is read."""
    if config.engine.name not in STAGES:
        raise ConfigError(f"engine.name: the plan supports {', '.join(STAGES)}, got {config.engine.name}")
    has_gpu = bool(launcher.get("gpus_per_node")) or torch.cuda.is_available()
    cuda = config.model.device.startswith("cuda") or (config.model.device == "auto" and has_gpu)
    model = read_model_config("model.name_or_path", config.model.name_or_path)
    prompts = plan_prompts(config, arguments)
    settings = run_settings(
        config,
        prompts.evaluated,
        model=model,
        ranks=arguments.ranks or launcher.get("nodes", 1) * launcher.get("tasks_per_node", 1),
        cuda=cuda,
        dtype_bytes={"float32": 4, "bfloat16": 2, "auto": 2 if cuda else 4}[config.model.dtype],
        prompt_tokens=prompts.longest,
    )
    if settings.ranks > settings.prompts:
        raise ConfigError(
            "prompts_per_step: must be at least the number of ranks, because groups are never split across ranks, "
            f"got {settings.prompts} prompts for {settings.ranks} ranks"
        )
    return settings, prompts


def plan_prompts(config: LlmConfig, arguments: PlanArguments) -> PlannedPrompts:
    """The number and the length of the prompts.

    Prompts that are part of a task are counted. Those of a data set are counted with `arguments.read_data` only.
    """
    data, given = config.data, arguments.prompt_tokens
    if data.train.path is not None and not arguments.read_data:
        evaluated = BATCH if data.evaluation.count is None else data.evaluation.count
        assumed = "" if given else f"the data set {data.train.path} is not read"
        return PlannedPrompts(data.train.count, evaluated, given or ASSUMED_PROMPT, assumed)
    task = load_task(config.task.name, config)
    chats, evaluated = task.prompts(), len(next(iter(task.evaluation_prompts().values())))
    if given:
        return PlannedPrompts(len(chats), evaluated, given)
    tokenizer = load_plan_tokenizer(config.model.name_or_path)
    if tokenizer is None:
        return PlannedPrompts(len(chats), evaluated, ASSUMED_PROMPT, "the tokenizer is not on this machine yet")
    longest = max(prompt_lengths(tokenizer, chats, config.model.chat_template))
    return PlannedPrompts(len(chats), evaluated, longest)


def run_settings(
    config: LlmConfig, evaluated: int, *, model: str, ranks: int, cuda: bool, dtype_bytes: int, prompt_tokens: int
) -> PlanSettings:
    """The settings of a plan for a model on a device; see `PlanSettings`. evaluated: prompts of the evaluation."""
    lora = config.model.lora
    per_prompt = min(max(config.evaluation_completions // evaluated, 1), BATCH)
    evaluation_prompts = min(BATCH // per_prompt, evaluated)
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
    try:
        path = folder_or_hub(name)
        while (known := known_config(name)) is None:
            path = folder_or_hub(name)
            base = adapter_base_name(path)
            if base is None:
                break
            name = base  # the memory is that of the merged model
        config = known or AutoConfig.from_pretrained(path, trust_remote_code=False)
        text: str = config.to_json_string(use_diff=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{key}: must be a folder or hub name of a model, got {path} ({reason})") from None
    return text


def load_plan_tokenizer(name: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model, None if it would have to be made first. Raises ConfigError if it cannot be loaded."""
    place = quick_tokenizer(name)
    if not isinstance(place, str):
        return place
    try:
        return load_tokenizer(place, padding_side="left")
    except (OSError, ValueError) as error:
        raise ConfigError(
            "prompt_tokens: must be given, because the model's tokenizer cannot be loaded "
            f"({str(error).strip().splitlines()[0]})"
        ) from None


class DeviceMemory(NamedTuple):
    """Bytes of a rank's device, and what has them, in words."""

    bytes: float
    place: str


def device_memory(settings: PlanSettings, launcher: Mapping[str, Any], given: float | None = None) -> DeviceMemory:
    """The memory of a rank's device: `given` GiB, a GPU of this machine, or the rank's share of the CPU's memory."""
    if given is not None:
        return DeviceMemory(
            given * GIB, "memory=, for each rank's GPU" if settings.cuda else "memory=, for each rank"
        )
    if settings.cuda:
        if not torch.cuda.is_available():
            raise ConfigError(
                "memory: must be given as the GiB of each rank's GPU, because this machine has no GPU, got null"
            )
        total = float(torch.cuda.get_device_properties(0).total_memory)
        return DeviceMemory(total, f"this machine's GPU, {torch.cuda.get_device_name()}")
    ranks = launcher.get("tasks_per_node") or 1
    if launcher.get("mem_gb"):
        return DeviceMemory(float(launcher["mem_gb"]) * GIB / ranks, "hydra.launcher.mem_gb, for each rank")
    share = max(ranks, settings.ranks)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / share
    return DeviceMemory(total, "this machine" if share == 1 else f"this machine, shared by {share} ranks")


def process_memory(cuda: bool) -> int:
    """Bytes of a process without a model: CUDA's context on a GPU, or this process's own memory on a CPU."""
    if cuda:
        return CUDA_CONTEXT
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
