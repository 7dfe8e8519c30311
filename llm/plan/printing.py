"""Prints the plan: memory in each phase, tokens and steps."""

import math

from rich.text import Text

from conf.schema.llm import LlmConfig
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from llm.plan.estimate import Phase, PlanSettings, largest_pass, model_size
from llm.plan.settings import GIB


def print_plan(settings: PlanSettings, phases: dict[str, Phase], process: int, memory: float) -> None:
    """Print a table of the phases, and the sum of the largest one beside the available memory.

    process: bytes that a process uses besides; memory: bytes available.
    """
    size = model_size(settings)
    device = "GPU" if settings.cuda else "CPU"
    title = f"Memory per rank, GiB ({settings.ranks} x {device}, {8 * settings.dtype_bytes} bit, {settings.engine})"
    table = FittedTable(title)
    for column in ("", *phases):
        table.add_column(column, "number" if column else "label")
    names = list(dict.fromkeys(name for phase in phases.values() for name in phase))
    for name in names:
        sizes = [phase.get(name, 0) for phase in phases.values()]
        if any(sizes):
            table.add_row(name, *(format_gib(number) if number else "-" for number in sizes))
    table.add_row("process", *[format_gib(process)] * len(phases))
    table.add_section()
    sums = [sum(phase.values()) + process for phase in phases.values()]
    table.add_row("sum", *(Text(format_gib(total), "red" if total > memory else "green") for total in sums))
    console.print(table)
    trainable = "" if size.trainable == size.parameters else f", {size.trainable:,} of them trainable"
    needed, available = format_gib(max(sums)), format_gib(memory)
    console.print(f"{size.parameters:,} parameters{trainable}; needs {needed} of {available} GiB")


def format_gib(size: float) -> str:
    """A number of bytes in GiB."""
    return f"{size / GIB:.3f}" if size < GIB else f"{size / GIB:.2f}"


def print_work(config: LlmConfig, settings: PlanSettings, prompts: int) -> None:
    """Print the tokens and passes of a step and of the run, if all completions have the maximal length.

    prompts: number of prompts of the task.
    """
    sampled = settings.prompts * settings.group_size * settings.new_tokens
    prompt_tokens = settings.prompts * settings.prompt_tokens
    largest = largest_pass(settings).shape
    passes = math.ceil(settings.prompts_per_rank * settings.group_size / largest.rows)
    console.print(
        f"each step: up to {sampled:,} sampled tokens for {prompt_tokens:,} prompt tokens, "
        f"{counted(passes, 'pass', 'passes')} of up to "
        f"{largest.tokens:,} tokens"
    )
    epochs = config.steps * settings.prompts / prompts
    console.print(
        f"the run: {config.steps:,} steps, up to {config.steps * sampled:,} sampled tokens, {epochs:,.2f} epochs of "
        f"{counted(prompts, 'prompt', 'prompts')}"
    )


def counted(number: int, singular: str, plural: str) -> str:
    """A number with its noun."""
    return f"{number:,} {singular if number == 1 else plural}"
