"""The plan on the terminal: GiB in each phase, tokens and steps."""

import math

from rich.table import Table

from conf.schema.llm import LlmConfig
from launch.runs.console import console
from llm.plan.estimate import Phase, Setting, largest_pass, model_shape
from llm.plan.setting import GIB


def print_plan(setting: Setting, phases: dict[str, Phase], process: int, memory: float) -> None:
    shape = model_shape(setting)
    where = "GPU" if setting.cuda else "CPU"
    title = f"GiB per rank ({setting.ranks} x {where}, {8 * setting.width} bit, {setting.engine})"
    table = Table(title=title, title_justify="left")
    for column in ("", *phases):
        table.add_column(column, justify="right" if column else "left")
    names = list(dict.fromkeys(name for phase in phases.values() for name in phase))
    for name in names:
        sizes = [phase.get(name, 0) for phase in phases.values()]
        if any(sizes):
            table.add_row(name, *(gib(size) if size else "-" for size in sizes))
    table.add_row("process", *[gib(process)] * len(phases))
    table.add_section()
    sums = [sum(phase.values()) + process for phase in phases.values()]
    table.add_row("sum", *(f"[{'red' if total > memory else 'green'}]{gib(total)}[/]" for total in sums))
    console.__class__(markup=True, emoji=False, highlight=False, width=console.width).print(table)
    trained = "" if shape.trained == shape.parameters else f", {shape.trained:,} of them trained"
    console.print(f"{shape.parameters:,} parameters{trained}; needs {gib(max(sums))} of {gib(memory)} GiB")


def gib(size: float) -> str:
    return f"{size / GIB:.3f}" if size < GIB else f"{size / GIB:.2f}"


def print_work(config: LlmConfig, setting: Setting, prompts: int) -> None:
    """Tokens of a step and of the run, at most: every completion may end earlier."""
    sampled = setting.prompts * setting.group * setting.new_tokens
    read = setting.prompts * setting.prompt_tokens
    tokens, scored, _ = largest_pass(setting)
    rows = scored // setting.new_tokens
    passes = math.ceil(setting.prompts_here * setting.group / rows)
    console.print(
        f"a step: up to {sampled:,} sampled tokens after {read:,} of prompts, {passes} passes of {tokens:,}"
    )
    epochs = config.steps * setting.prompts / prompts
    console.print(
        f"the run: {config.steps:,} steps, up to {config.steps * sampled:,} sampled tokens, {epochs:,.2f} epochs of "
        f"{prompts:,} prompts"
    )
