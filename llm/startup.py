"""What a run prints when it starts: model, method, sizes, and estimates of its memory and time."""

import math
import os
from collections.abc import Mapping
from statistics import mean
from typing import NamedTuple

import torch
from rich.table import Table
from transformers import PreTrainedModel

from conf.schema.llm import LlmConfig
from conf.schema.rollout import RolloutConfig, ServersConfig, VllmConfig
from launch.cli.command_table import as_typed
from launch.runs.console import console
from launch.runs.run import Run
from llm.inference.head import body_of
from llm.inference.paths import MESSAGES, path_of
from llm.inference.prompts import prompt_lengths
from llm.models import Models
from llm.plan.activations import OutOfTime, time_limit
from llm.plan.advice import describe_change, suggest_change
from llm.plan.duration import RunTime, estimate_time, measure_device, measure_passes
from llm.plan.estimate import STAGES, PlanSettings, estimate
from llm.plan.settings import GIB, device_memory, process_memory, run_settings
from llm.tasks.base import Task

WIDTH = 80  # columns of the table
MEASURED_PROMPTS = 64  # prompts whose tokens are counted
TIME_LIMIT = 5.0  # seconds for the estimate of the memory, and for the suggestion if it is not enough
UNKNOWN = "not known"
UNITS = (("day", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


class MemoryEstimate(NamedTuple):
    """Bytes on a rank's device: of the phase that needs most, of a process without models, and what there is."""

    phase_bytes: float
    process: float
    available: float
    phase: str

    @property
    def needed(self) -> float:
        """All of them that are needed."""
        return self.phase_bytes + self.process


def announce(run: Run, config: LlmConfig, task: Task, models: Models, policy: PreTrainedModel) -> None:
    """Record origin, device and dtype of the model in run.json, and print a summary of the run, on the main rank.

    Args:
        run: the run, after its state was restored.
        config: its configuration.
        task: its task.
        models: what was loaded.
        policy: with complete parameters on this rank.
    """
    if not run.is_main:
        return
    device, dtype = models.eos_ids.device, policy.dtype
    run.note(model={**models.facts, "device": str(device), "dtype": str(dtype).removeprefix("torch.")})
    settings, prompt_tokens = startup_settings(run, config, task, models, policy)
    memory = estimate_memory(settings, policy) if settings else None
    time = measure_time(config, settings, task, policy, prompt_tokens) if settings else None
    rows = {
        **model_rows(config, policy, models, run.ranks.world),
        **method_rows(config),
        **size_rows(config, task, run),
        "memory": memory_text(memory, settings)
        if isinstance(memory, MemoryEstimate)
        else as_typed(memory or UNKNOWN),
        "time": UNKNOWN
        if time is None
        else time_text(time, config.steps - run.first_step, bool(config.reward.parts)),
    }
    print_rows(rows)
    if settings is not None and isinstance(memory, MemoryEstimate) and memory.needed > memory.available:
        run.warn(memory_warning(settings, memory))


def print_rows(rows: Mapping[str, str]) -> None:
    """Print a table of two columns that fits into 80."""
    table = Table(show_header=False, box=None, width=min(WIDTH, console.width), pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold", ratio=1)
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table)


# --- rows -----------------------------------------------------------------------------------------------------


def model_rows(config: LlmConfig, policy: PreTrainedModel, models: Models, ranks: int) -> dict[str, str]:
    """The model, its parameters, and how they are used."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in policy.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, requires_grad in sizes if requires_grad)
    name, lora, device = config.model.name_or_path, config.model.lora, models.eos_ids.device
    hardware = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"
    count = torch.get_num_threads()
    threads = f", {counted(count, 'thread')}" if device.type == "cpu" else ""
    path = path_of(body_of(policy))
    return {
        "model": f"{name} ({type(policy).__name__})",
        "origin": ", license ".join(models.facts[key] for key in ("origin", "license") if key in models.facts),
        "parameters": f"{total:,}, " + ("all trained" if lora.rank is None else f"{trained:,} trained (LoRA)"),
        "device": f"{hardware}, {str(policy.dtype).removeprefix('torch.')}{threads}, engine {config.engine.name}"
        + (f", {ranks} ranks" if ranks > 1 else ""),
        "prompts": f"{path.name}: {MESSAGES.get(path, 'a prompt is processed once for its completions')}",
        **rollout_rows(config.rollout),
    }


def rollout_rows(rollout: RolloutConfig) -> dict[str, str]:
    """What samples the completions, unless it is the policy."""
    if not isinstance(rollout, VllmConfig):
        return {}
    where, ahead = "an engine beside each rank", ""
    if isinstance(rollout, ServersConfig):
        where = ", ".join(rollout.addresses) or counted(rollout.servers, "server")
        ahead = ", one step ahead" if rollout.asynchronous else ""
    bound = "" if rollout.bound is None else f" at {rollout.bound:g}"
    return {"sampling": f"vLLM, {where}, correction {rollout.correction}{bound}{ahead}"}


def method_rows(config: LlmConfig) -> dict[str, str]:
    """The method: transform, divergence, threshold and update."""
    choices, objective, optimizer, schedule = (
        config.choices(),
        config.objective,
        config.optimizer,
        config.beta_schedule.name,
    )
    method = choices.transform
    if choices.mara:
        method += f" of {choices.classes}s, Algorithm {choices.mara_algorithm}, anchor {choices.mara_anchor}"
    places = {"reward": "in the reward", "loss": "in the loss", "reference": "on completions of the reference"}
    return {
        "method": method,
        "advantage": choices.advantage,
        "divergence": f"{choices.direction} KL, level {choices.level}, {places[choices.placement]}"
        if choices.direction in ("reverse", "forward")
        else f"{choices.direction}, level {choices.level}, {places[choices.placement]}",
        "beta": f"{objective.beta:g}" + ("" if schedule == "constant" else f" at first, schedule {schedule}"),
        "threshold": threshold_text(config),
        "learning rate": f"{optimizer.lr:g}"
        + ("" if optimizer.decay == "constant" else f", {optimizer.decay} decay"),
    }


def threshold_text(config: LlmConfig) -> str:
    """Which completions are good."""
    threshold = config.transform.threshold
    if threshold.value is None:
        return "none: no completion counts as good"
    if threshold.kind == "constant":
        return f"reward >= {threshold.value:g}"
    whose = "the reference's" if threshold.kind == "reference_quantile" else "the group's"
    floor = "" if threshold.floor is None else f", at least {threshold.floor:g}"
    return f"{threshold.value:g} quantile of {whose} rewards{floor}"


def size_rows(config: LlmConfig, task: Task, run: Run) -> dict[str, str]:
    """The task, and the sizes of steps and run."""
    prompts, updates = counted(config.prompts_per_step, "prompt"), counted(config.update.count, "update")
    done = f", from step {run.first_step}" if run.first_step else ""
    return {
        "task": f"{config.task.name}, {counted(len(task.prompts()), 'prompt')}",
        "step": f"{prompts} x {config.group_size} completions of up to {config.max_new_tokens} tokens, {updates}",
        "steps": f"{config.steps:,}{done}",
        "run folder": os.path.relpath(run.folder),
    }


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# --- estimates ------------------------------------------------------------------------------------------------


def startup_settings(
    run: Run, config: LlmConfig, task: Task, models: Models, policy: PreTrainedModel
) -> tuple[PlanSettings | None, float]:
    """The settings of the plan for what was loaded, and the mean tokens of a prompt. None for an unknown engine."""
    if config.engine.name not in STAGES:
        return None, math.nan
    chats = task.prompts()
    chats = chats[:: math.ceil(len(chats) / MEASURED_PROMPTS)]
    tokens = prompt_lengths(models.tokenizer, chats, config.model.chat_template)
    settings = run_settings(
        config,
        len(next(iter(task.evaluation_prompts().values()))),
        model=policy.config.to_json_string(use_diff=False),
        ranks=run.ranks.world,
        cuda=models.eos_ids.device.type == "cuda",
        dtype_bytes=policy.dtype.itemsize,
        prompt_tokens=max(tokens),
    )
    return settings, mean(tokens)


def estimate_memory(settings: PlanSettings, policy: PreTrainedModel) -> MemoryEstimate | str:
    """The memory of the run, or why it is not known."""
    try:
        with time_limit(TIME_LIMIT):
            phases = {name: sum(phase.values()) for name, phase in estimate(settings).items()}
    except OutOfTime:
        return f"not estimated within {TIME_LIMIT:g} s; python -m llm.plan takes the time that it needs"
    except Exception:  # the run itself may well work
        return UNKNOWN
    largest = max(phases, key=lambda name: phases[name])
    process = process_memory(settings.cuda)
    if not settings.cuda:  # the models are loaded already
        loaded = sum(parameter.nbytes for parameter in policy.parameters())
        process = max(process - (1 if settings.lora else 2) * loaded, 0)
    return MemoryEstimate(phases[largest], process, device_memory(settings, {}).bytes, largest)


def memory_text(memory: MemoryEstimate, settings: PlanSettings | None) -> str:
    """The memory that is needed, of that which there is."""
    ranks = " per rank" if settings is not None and settings.ranks > 1 else ""
    return (
        f"about {two_digits(memory.needed / GIB)} of {two_digits(memory.available / GIB)} GiB{ranks} ({memory.phase})"
    )


def memory_warning(settings: PlanSettings, memory: MemoryEstimate) -> str:
    """What to change in a run that does not fit."""
    try:
        with time_limit(TIME_LIMIT):
            change = suggest_change(settings, memory.available - memory.process)
    except OutOfTime:
        change = None
    if change is None:
        return "the run may not fit into memory: python -m llm.plan with the same overrides may find a change"
    return f"the run may not fit into memory: use {describe_change(settings, change)}"


def measure_time(
    config: LlmConfig, settings: PlanSettings, task: Task, policy: PreTrainedModel, prompt_tokens: float
) -> RunTime | None:
    """The time of a step and of an evaluation; None if the model cannot be measured."""
    sets = list(task.evaluation_prompts().values())
    completions = max(config.evaluation_completions // len(sets[0]), 1) * sum(map(len, sets))
    try:
        vocabulary, width = policy.get_output_embeddings().weight.shape
        speed = measure_device(policy.device, policy.dtype, vocabulary)
        passes = measure_passes(policy, body_of(policy), speed)
        head = int(vocabulary), int(width)
        return estimate_time(settings, (speed, passes), head, config.update, completions, prompt_tokens)
    except Exception:  # an estimate must not stop a run
        return None


def time_text(time: RunTime, steps: int, reward_models: bool) -> str:
    """The time of the remaining steps and of both evaluations."""
    total = steps * time.step + 2 * time.evaluation
    without = ", without the reward's" if reward_models else ""
    return f"up to about {rounded_duration(total)}, {rounded_duration(time.step)} a step{without}"


def two_digits(number: float) -> str:
    """A positive number with two significant digits."""
    digits = max(1 - math.floor(math.log10(number)), 0) if number > 0 else 0
    return f"{number:,.{digits}f}"


def rounded_duration(seconds: float) -> str:
    """A duration with as many digits as an estimate deserves: 0.2 s, 40 s, 3 min, 1.5 h."""
    unit, size = next(((unit, size) for unit, size in UNITS if seconds >= size), UNITS[-1])
    value = seconds / size
    if value < 1:
        return f"{value:.1g} {unit}"
    step = 0.5 if value < 3 and unit != "s" else 1 if value < 10 else 5
    rounded = step * round(value / step)
    return f"{rounded:g} {unit}{'s' if unit == 'day' and rounded != 1 else ''}"
