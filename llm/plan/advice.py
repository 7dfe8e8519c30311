"""Suggestions for a run that does not fit into memory."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llm.plan.activations import find_layout
from llm.plan.estimate import STAGES, PlanSettings, estimate

CONFIG_KEYS = {  # PlanSettings field -> configuration key, where they differ
    "evaluation_rows": "evaluation_completions",
    "reference_on_cpu": "model.reference_on_cpu",
    "checkpointing": "model.gradient_checkpointing",
}


def peak_bytes(settings: PlanSettings) -> int:
    """Bytes of the phase that needs most."""
    return max(sum(phase.values()) for phase in estimate(settings).values())


def suggest_change(settings: PlanSettings, available: float) -> dict[str, Any] | None:
    """The first of `candidate_changes`, with the largest micro-batch, that needs at most `available` bytes.

    Returns:
        The fields of the settings that change, with their new values; None if no change is enough.
    """
    for change in candidate_changes(settings):
        changed = replace(settings, **change)
        if peak_bytes(replace(changed, micro_batch=1)) > available:
            continue
        for size in halvings(settings.micro_batch):
            if peak_bytes(replace(changed, micro_batch=size)) <= available:
                changed_fields = {**change, "micro_batch": size}
                return {name: value for name, value in changed_fields.items() if value != getattr(settings, name)}
    return None


def candidate_changes(settings: PlanSettings) -> Iterator[dict[str, Any]]:
    """Changes of settings other than the micro-batch, cheapest first. Later ones include the earlier ones."""
    yield {}
    rows = max(min(settings.evaluation_rows, settings.group_size), settings.evaluation_prompts)
    change: dict[str, Any] = {"evaluation_rows": rows}
    yield dict(change)
    if settings.cuda and not settings.lora:
        change["reference_on_cpu"] = True
        yield dict(change)
    if find_layout(settings.model, settings.dtype_bytes).name == "packed":
        change["checkpointing"] = True
        yield dict(change)
    engines = list(STAGES)
    for ranks in (settings.ranks, *(n for n in (2, 4, 8, 16, 32, 64) if n > settings.ranks)):
        for engine in engines[engines.index(settings.engine) + (ranks == settings.ranks) :]:
            if ranks <= settings.prompts and (ranks > 1 or engine == "zero3_offload"):
                yield {"engine": engine, "ranks": ranks}
                yield {**change, "engine": engine, "ranks": ranks}


def halvings(number: int) -> Iterator[int]:
    """The number, its half rounded down, and so on, down to 1."""
    while number >= 1:
        yield number
        number //= 2


def change_overrides(change: Mapping[str, Any]) -> list[str]:
    """A change as overrides of the command line of a plan."""
    return [
        f"{CONFIG_KEYS.get(name, name)}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in change.items()
    ]


def describe_change(settings: PlanSettings, change: Mapping[str, Any]) -> str:
    """The changed keys as command-line overrides, with their present values."""
    present = change_overrides({name: getattr(settings, name) for name in change})
    pairs = zip(change_overrides(change), present, strict=True)
    return " and ".join(f"{override} (now {now.partition('=')[2]})" for override, now in pairs)
