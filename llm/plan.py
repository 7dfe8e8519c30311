"""`python -m llm.plan OVERRIDES`: memory, tokens and steps of a run, before anything is loaded.

The overrides are those of `python -m llm`. Three keys are the plan's own:

    ranks=N           processes that share the run (default: what hydra/launcher says, else 1)
    memory=GIB        of each rank's device (default: this machine's)
    prompt_tokens=N   of the longest prompt, chat template included (default: counted with the model's tokenizer)

The exit status is 0 where the run fits, and 1 where it does not or cannot be planned.

From the model's configuration the model is made without memory (torch's meta device), so its parameters are exact.
Activations are not a formula with a fitted constant: the forward and backward pass that a step makes is run on that
device, where tensors have shapes and nothing else, and what is alive at each moment is added up.
"""

import json
import math
import os
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from conf.schema.base import ConfigError, check_range
from conf.schema.llm import LlmConfig
from launch.cli.compose import compose_typed
from launch.cli.errors import one_line

GIB = 2**30
OWN = {"ranks": int, "memory": float, "prompt_tokens": int}  # the plan's own keys
ROOM = 128  # tokens of each row for which the cache has room at first; doubled when it is full
LIVE = 1_000_000_000  # gathered parameters that ZeRO-3 keeps at a time (stage3_max_live_parameters)
CONTEXT = GIB // 2  # what CUDA itself takes on a device
STAGES = {"torch": 0, "zero1": 1, "zero2": 2, "zero3": 3, "zero3_offload": 3}

Phase = dict[str, int]  # bytes by what they are for


@dataclass(frozen=True)
class Setting:
    """What memory depends on.

    prompts: of a step, all ranks together; group: completions of each.
    prompt_tokens, new_tokens: of the longest prompt and completion. tokens_a_pass: of a pass at most, or None.
    width: bytes of a parameter. evaluated: completions of one prompt at a time in evaluation.
    reward_models: their configurations, as JSON. lora: rank and target modules of an adapter, or None.
    """

    model: str  # the model's configuration, as JSON
    engine: str
    ranks: int
    cuda: bool
    width: int
    prompts: int
    group: int
    prompt_tokens: int
    new_tokens: int
    micro_batch: int
    tokens_a_pass: int | None
    evaluated: int
    reward_models: tuple[str, ...] = ()
    lora: tuple[int, tuple[str, ...]] | None = None
    checkpointing: bool = False
    reference_on_cpu: bool = False

    @property
    def stage(self) -> int:
        return STAGES[self.engine]

    @property
    def offload(self) -> bool:
        """Whether what DeepSpeed shares out is elsewhere than on the device."""
        return self.engine == "zero3_offload" and self.cuda

    @property
    def prompts_here(self) -> int:
        """Of a step, on the rank that has most."""
        return math.ceil(self.prompts / self.ranks)


class Shape(NamedTuple):
    """A model's size: parameters and bytes, of those that train too; its vocabulary, bytes of a token's cache."""

    parameters: int
    bytes: int
    trained: int
    trained_bytes: int
    vocabulary: int
    cache: int


class Peak(NamedTuple):
    """Bytes alive at the worst moment of a pass, without the weights; and how many of them are whole gradients."""

    bytes: int
    gradients: int


def estimate(setting: Setting) -> dict[str, Phase]:
    """Bytes on the device of a rank in each phase of a run, by what they are for."""
    shape = model_shape(setting)
    weights = shape.bytes
    share = math.ceil(shape.trained / setting.ranks)
    if setting.stage:  # master weights and Adam's two moments in float32, a part on each rank
        state = {"master weights": 4 * share, "Adam's moments": 8 * share}
    else:  # in the parameters' own type, whole
        state = {"master weights": 0, "Adam's moments": 2 * shape.trained_bytes}
    if setting.offload:
        state = dict.fromkeys(state, 0)
    own = weights if setting.stage < 3 else 0 if setting.offload else math.ceil(weights / setting.ranks)
    reference = 0 if setting.lora else weights  # with an adapter: the policy without it
    stays = 0 if setting.reference_on_cpu and setting.cuda else reference
    kept = {"policy": own, "reference": stays, "reward models": reward_weights(setting), **state}

    rows = setting.prompts_here * setting.group
    phases = {
        "evaluation": kept | {"reference": reference} | sampling(setting, shape, 1, setting.evaluated),
        "sampling": kept | sampling(setting, shape, setting.prompts_here, rows),
        "reference": kept | {"reference": reference, "activations": reading(setting, shape)},
        "training": kept | training(setting, shape),
        "update": kept | update(setting, shape),
    }
    if setting.stage == 3:  # the policy is gathered
        live = {"training": min(weights, LIVE * setting.width)} | dict.fromkeys(("evaluation", "sampling"), weights)
        for name, size in live.items():
            phases[name]["policy"] += size
    return phases


def sampling(setting: Setting, shape: Shape, prompts: int, rows: int) -> Phase:
    """Keys and values of each prompt once and of each row's own tokens, and the logits of one position of each row.

    The cache of the rows doubles when it is full: the one before is there while the next is filled. A draw holds the
    logits and two tensors as large in float64: two of the logits, the probabilities and their cumulative sums.
    """
    from core.sequence import rows_at_a_time

    room, before = min(setting.new_tokens, ROOM), 0
    while room < setting.new_tokens:
        room, before = min(2 * room, setting.new_tokens), room
    cache = shape.cache * (prompts * setting.prompt_tokens + rows * (room + before))
    prompt = pass_peak(setting, prompts * setting.prompt_tokens, 0, False).bytes
    drawn = min(rows, rows_at_a_time(shape.vocabulary)) * shape.vocabulary * (setting.width + 16)
    return {"keys and values": cache, "activations": max(drawn, prompt)}


def reading(setting: Setting, shape: Shape) -> int:
    """Of the largest pass without gradient: what one layer makes, and the logits of a chunk, twice in float32."""
    from core.sequence import rows_at_a_time

    tokens, scored, _ = largest_pass(setting)
    body = pass_peak(setting, tokens, 0, False).bytes
    logits = min(scored, rows_at_a_time(shape.vocabulary)) * shape.vocabulary * 2 * 4
    return max(body, logits)


def training(setting: Setting, shape: Shape) -> Phase:
    """Of the largest pass: what its forward pass keeps, what its backward pass makes, and the gradients."""
    tokens, scored, several = largest_pass(setting)
    peak = pass_peak(setting, tokens, scored, several)
    kept = gradients(setting, shape) if setting.stage else peak.gradients
    return {"gradients": kept, "activations": peak.bytes - peak.gradients}


def gradients(setting: Setting, shape: Shape) -> int:
    """Plain: whole, in the parameters' type. DeepSpeed: whole in stage 1, a float32 part, a buffer to reduce in.

    Stage 3 lays a full buffer out anew by ranks, and gloo's reduce-scatter, on a CPU, makes a copy of that.
    """
    from launch.engines.deepspeed import BUCKET

    whole = shape.trained_bytes
    if not setting.stage:
        return whole
    part = 0 if setting.offload else 4 * math.ceil(shape.trained / setting.ranks)
    buffers = 1 if setting.stage < 3 else 2 if setting.cuda else 3
    return part + buffers * min(BUCKET, shape.trained) * setting.width + (whole if setting.stage == 1 else 0)


def update(setting: Setting, shape: Shape) -> Phase:
    """AdamW, fused, has no temporaries; DeepSpeed scales the gradient of this rank's part in a copy."""
    part = 4 * math.ceil(shape.trained / setting.ranks)
    temporary = part if setting.stage and not setting.offload else 0
    return {"gradients": gradients(setting, shape), "activations": temporary}


def largest_pass(setting: Setting) -> tuple[int, int, bool]:
    """Tokens read and tokens scored in the largest pass of a step, and whether there are several passes.

    A pass is of whole groups or of a part of one, its prompts read once; of completions all but the last token.
    """
    L, T, G, P = setting.prompt_tokens, setting.new_tokens, setting.group, setting.prompts_here
    most = math.inf if setting.tokens_a_pass is None else setting.tokens_a_pass
    groups = int(min(setting.micro_batch // G, P, most // (L + G * T)))
    rows = groups * G or int(max(min(setting.micro_batch, G, (most - L) // T), 1))
    return max(groups, 1) * L + rows * (T - 1), rows * T, rows < P * G


@lru_cache
def model_shape(setting: Setting) -> Shape:
    model = empty_model(setting.model, setting.width)
    if setting.lora:
        adapt(model, setting.lora)
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * heads * head * setting.width
    return Shape(
        parameters=sum(p.numel() for p in parameters),
        bytes=sum(p.nbytes for p in parameters),
        trained=sum(p.numel() for p in trained),
        trained_bytes=sum(p.nbytes for p in trained),
        vocabulary=text.vocab_size,
        cache=cache,
    )


def adapt(model: Any, lora: tuple[int, tuple[str, ...]]) -> None:
    """Put an adapter into a model on the meta device, as training does."""
    import torch

    from conf.schema.llm import LoraConfig
    from llm.models import add_adapter

    rank, targets = lora
    with torch.device("meta"):
        add_adapter(model, LoraConfig(rank=rank, target_modules=list(targets)), seed=0)


def recompute(body: Any) -> None:
    """Gradient checkpointing of every layer, as `llm.models.enable_gradient_checkpointing` has it, without its trial."""
    from functools import partial

    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [layer for layer in body.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers:
        layer.gradient_checkpointing = layer.training = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


@lru_cache
def reward_weights(setting: Setting) -> int:
    from transformers import AutoModelForSequenceClassification

    models = (
        empty_model(config, setting.width, AutoModelForSequenceClassification) for config in setting.reward_models
    )
    return sum(parameter.nbytes for model in models for parameter in model.parameters())


def empty_model(config: str, width: int, kind: Any = None) -> Any:
    """The model on the meta device: every shape, no memory. kind: of transformers' Auto classes; a causal one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = json.loads(config)
    dtype = {2: torch.bfloat16, 4: torch.float32}[width]
    with torch.device("meta"):
        shape = AutoConfig.for_model(values.pop("model_type"), **values)
        return (kind or AutoModelForCausalLM).from_config(shape, dtype=dtype, trust_remote_code=False).eval()


def pass_peak(setting: Setting, tokens: int, scored: int, several: bool) -> Peak:
    """The worst moment of a pass over `tokens` packed tokens, of which `scored` are scored; 0: without gradient.

    Args:
        several: the step has several passes, so that gradients are there from the start.
    """
    return _pass_peak(setting.model, setting.width, setting.lora, setting.checkpointing, tokens, scored, several)


@lru_cache
def _pass_peak(
    config: str, width: int, lora: Any, checkpointing: bool, tokens: int, scored: int, several: bool
) -> Peak:
    import torch

    from core.sequence import selected_logp
    from llm.inference.attention import chosen

    model = empty_model(config, width)
    if lora:
        adapt(model, lora)
    if checkpointing and scored:
        recompute(model.get_decoder())
    body, live = model.get_decoder(), _live_bytes(model)
    with torch.set_grad_enabled(scored > 0), torch.device("meta"), chosen(body), live:
        if several:
            for parameter in live.trained:
                parameter.grad = torch.empty_like(parameter)
                live.gradients += parameter.nbytes
        ids = torch.zeros(1, tokens, dtype=torch.long)
        hidden = body(input_ids=ids, position_ids=ids, use_cache=False, shared_prefix=_attention()).last_hidden_state
        if scored:
            places = torch.zeros(scored, dtype=torch.long)
            before = hidden[0].index_select(0, places)
            del hidden
            logp = selected_logp(before, model.get_output_embeddings().weight, places)
            del before
            logp.sum().backward()
    return Peak(live.peak, live.gradients_at_peak)


def _attention() -> Any:
    """What `llm.inference.attention` keeps for the backward pass and makes in it, without the computation."""
    import torch

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            out, lse = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
            ctx.save_for_backward(query, key, value, out, lse)
            return out

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return tuple(torch.empty_like(states) for states in ctx.saved_tensors[:3])

    return lambda module, query, key, value, scaling: Attention.apply(query, key, value)


def _live_bytes(model: Any) -> Any:
    """A mode under which the bytes of all living tensors on the meta device but the model's own are counted."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class LiveBytes(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.own = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
            self.sizes = {storage._cdata: 0 for storage in self.own}
            self.now = self.peak = self.gradients = self.gradients_at_peak = 0
            self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            for parameter in self.trained:
                parameter.register_post_accumulate_grad_hook(self.complete)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                    self.add(tensor.untyped_storage())
            return out

        def add(self, storage: Any) -> None:
            key = storage._cdata
            if key in self.sizes:
                return
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self.free, key)
            if self.now > self.peak:
                self.peak, self.gradients_at_peak = self.now, self.gradients

        def free(self, key: int) -> None:
            self.now -= self.sizes.pop(key)

        def complete(self, parameter: Any) -> None:
            if self.gradients < sum(p.nbytes for p in self.trained):  # not there from the start
                self.gradients += parameter.nbytes

    return LiveBytes()


# --- the way out ---------------------------------------------------------------------------------------------


def needed(setting: Setting) -> int:
    """Bytes of the worst phase."""
    return max(sum(phase.values()) for phase in estimate(setting).values())


def way_out(setting: Setting, room: float) -> str | None:
    """The first of the possible changes, the one that costs least first, under which the run needs at most `room`."""
    for change in changes(setting):
        changed = replace(setting, **change)
        if needed(replace(changed, micro_batch=1)) > room:
            continue
        for size in halves(setting.micro_batch):
            if needed(replace(changed, micro_batch=size)) <= room:
                return in_words(setting, {**change, **({} if size == setting.micro_batch else {"micro_batch": size})})
    return None


def changes(setting: Setting) -> Iterator[dict[str, Any]]:
    """What may be changed beside the micro-batch, cheapest first: by itself, then with what came before."""
    yield {}
    kept: dict[str, Any] = {"evaluated": min(setting.evaluated, setting.group)}
    yield dict(kept)
    if setting.cuda and not setting.lora:
        kept["reference_on_cpu"] = True
        yield dict(kept)
    kept["checkpointing"] = True
    yield dict(kept)
    engines = list(STAGES)
    for ranks in (setting.ranks, *(n for n in (2, 4, 8, 16, 32, 64) if n > setting.ranks)):
        for engine in engines[engines.index(setting.engine) + (ranks == setting.ranks) :]:
            if ranks <= setting.prompts and (ranks > 1 or engine == "zero3_offload"):
                yield {"engine": engine, "ranks": ranks}
                yield {**kept, "engine": engine, "ranks": ranks}


def halves(number: int) -> Iterator[int]:
    while number >= 1:
        yield number
        number //= 2


def in_words(setting: Setting, change: dict[str, Any]) -> str:
    """The keys to change and to what, as the command line takes them."""
    keys = {
        "evaluated": "evaluation_completions",
        "reference_on_cpu": "model.reference_on_cpu",
        "checkpointing": "model.gradient_checkpointing",
    }
    changed = {name: value for name, value in change.items() if value != getattr(setting, name)}
    words = (f"{keys.get(k, k)}={v} (now {getattr(setting, k)})" for k, v in changed.items())
    return " and ".join(words).replace("=True (now False)", "=true (now false)")


# --- the command ---------------------------------------------------------------------------------------------


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
        if key not in OWN or not equals:
            overrides.append(argument)
            continue
        try:
            own[key] = OWN[key](value)
        except ValueError:
            raise ConfigError(f"{key}: must be a number, got {value!r}") from None
        check_range(key, own[key], above=0)
    return Given(overrides, **own)


def make_setting(config: LlmConfig, launcher: Mapping[str, Any], given: Given) -> tuple[Setting, int]:
    """The setting, and how many prompts the task has."""
    import torch

    from llm.evaluation.policy import BATCH
    from llm.tasks.base import load_task
    from llm.testbed.tiny_models import resolve_model

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
    from transformers import AutoConfig

    from llm.testbed.tiny_models import resolve_model

    path = resolve_model(name)
    try:
        text: str = AutoConfig.from_pretrained(path, trust_remote_code=False).to_json_string(use_diff=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{key}: must be a folder or hub name of a model, got {path} ({reason})") from None
    return text


def longest_prompt(name: str, chats: Sequence[Any], config: LlmConfig) -> int:
    from transformers import AutoTokenizer

    from llm.inference.prompts import encode_chats

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
    import torch

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


def print_plan(setting: Setting, phases: dict[str, Phase], process: int, memory: float) -> None:
    from rich.table import Table

    from launch.runs.console import console

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
    from launch.runs.console import console

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


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return 0
    try:
        given = read_arguments(arguments)
        config, launcher = compose_typed("llm", given.overrides)
        setting, prompts = make_setting(config, launcher, given)
        memory = given.memory * GIB if given.memory else device_memory(setting, launcher)
        process = process_memory(setting.cuda)
        phases = estimate(setting)
        print_plan(setting, phases, process, memory)
        print_work(config, setting, prompts)
        if max(sum(phase.values()) for phase in phases.values()) + process <= memory:
            return 0
        change = way_out(setting, memory - process)
    except ConfigError as error:
        print(f"llm.plan: {one_line(str(error))}", file=sys.stderr)
        return 1
    advice = f"use {change}" if change else "no change of engine, ranks or micro_batch is enough; use a smaller model"
    print(f"llm.plan: it does not fit: {advice}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
