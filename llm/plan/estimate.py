"""Estimate of the memory on a rank's device in each phase of a run."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from transformers import AutoModelForSequenceClassification

from core.sequence import rows_per_chunk
from launch.engines.deepspeed import BUCKET
from llm.inference.decoder import INITIAL_CAPACITY
from llm.plan.activations import (
    PassMemory,
    PassShape,
    add_meta_adapter,
    cache_bytes,
    find_layout,
    measure_pass,
    meta_model,
)

MAX_LIVE_PARAMETERS = 1_000_000_000  # gathered at a time by ZeRO-3 (stage3_max_live_parameters)
STAGES = {"torch": 0, "zero1": 1, "zero2": 2, "zero3": 3, "zero3_offload": 3}

Phase = dict[str, int]  # purpose -> bytes


@dataclass(frozen=True)
class PlanSettings:
    """What the memory of a run depends on.

    model: the model's configuration, as JSON.
    dtype_bytes: bytes per parameter.
    prompts: prompts per step, all ranks together; group_size: completions per prompt.
    prompt_tokens, new_tokens: tokens of the longest prompt and completion.
    micro_batch, micro_batch_tokens: the most completions and tokens in a pass; None: any number of tokens.
    evaluation_rows, evaluation_prompts: completions that evaluation samples at a time, and their prompts.
    reward_models: their configurations, as JSON.
    lora: rank and target modules of an adapter; None without one.
    """

    model: str
    engine: str
    ranks: int
    cuda: bool
    dtype_bytes: int
    prompts: int
    group_size: int
    prompt_tokens: int
    new_tokens: int
    micro_batch: int
    micro_batch_tokens: int | None
    evaluation_rows: int
    evaluation_prompts: int = 1
    reward_models: tuple[str, ...] = ()
    lora: tuple[int, tuple[str, ...]] | None = None
    checkpointing: bool = False
    reference_on_cpu: bool = False

    @property
    def stage(self) -> int:
        """ZeRO stage of the engine; 0 without DeepSpeed."""
        return STAGES[self.engine]

    @property
    def offload(self) -> bool:
        """Whether DeepSpeed keeps parameters and optimiser state outside the device."""
        return self.engine == "zero3_offload" and self.cuda

    @property
    def prompts_per_rank(self) -> int:
        """Prompts per step of the rank with the most."""
        return math.ceil(self.prompts / self.ranks)


class ModelSize(NamedTuple):
    """Sizes of a model.

    parameters, bytes: of all parameters; trainable, trainable_bytes: of those that are trained.
    low_precision: how many of those have 16 bits, and so a master copy in float32.
    """

    parameters: int
    bytes: int
    trainable: int
    trainable_bytes: int
    low_precision: int
    vocabulary: int


class LargestPass(NamedTuple):
    """The largest pass of a step, and whether the step has more than one."""

    shape: PassShape
    several: bool


def estimate(settings: PlanSettings) -> dict[str, Phase]:
    """Bytes on a rank's device in each phase of a run, by purpose."""
    size = model_size(settings)
    weights = size.bytes
    share = math.ceil(size.trainable / settings.ranks)
    if settings.stage:  # float32 master weights and Adam moments, partitioned over the ranks
        optimizer_state = {"master weights": 4 * share, "Adam's moments": 8 * share}
    else:  # unpartitioned; 32-bit weights are their own master copy
        optimizer_state = {"master weights": 4 * size.low_precision, "Adam's moments": 8 * size.trainable}
    if settings.offload:
        optimizer_state = dict.fromkeys(optimizer_state, 0)
    policy = weights if settings.stage < 3 else 0 if settings.offload else math.ceil(weights / settings.ranks)
    reference = 0 if settings.lora else weights  # with an adapter, the reference is the policy without it
    idle_reference = 0 if settings.reference_on_cpu and settings.cuda else reference
    always = {
        "policy": policy,
        "reference": idle_reference,
        "reward models": reward_model_bytes(settings),
        **optimizer_state,
    }

    prompts = settings.prompts_per_rank
    evaluated = settings.evaluation_prompts, settings.evaluation_rows
    phases = {
        "evaluation": always | {"reference": reference} | sampling_phase(settings, size, *evaluated),
        "sampling": always | sampling_phase(settings, size, prompts, prompts * settings.group_size),
        "reference": always | {"reference": reference, "activations": forward_bytes(settings, size)},
        "training": always | training_phase(settings, size),
        "update": always | update_phase(settings, size),
    }
    if settings.stage == 3:  # parameters are gathered
        live = min(weights, MAX_LIVE_PARAMETERS * settings.dtype_bytes)
        for name, gathered in {"training": live, "evaluation": weights, "sampling": weights}.items():
            phases[name]["policy"] += gathered
    return phases


def sampling_phase(settings: PlanSettings, size: ModelSize, prompts: int, rows: int) -> Phase:
    """Memory of sampling: keys and values of the prompts and of the rows, and the logits of one position per row.

    Sampling a token holds the logits and, at a time, two float64 tensors of their size: of logits, probabilities and
    cumulative sums.
    """
    prefill = pass_memory(settings, PassShape(prompts, settings.prompt_tokens), False, False).bytes
    logits = min(rows, rows_per_chunk(size.vocabulary)) * size.vocabulary * (settings.dtype_bytes + 16)
    return {"keys and values": sampling_cache(settings, prompts, rows), "activations": max(logits, prefill)}


def sampling_cache(settings: PlanSettings, prompts: int, rows: int) -> int:
    """Keys and values while completions are sampled.

    With packed prompts, the rows' cache doubles when it is full, and the old one exists until the new one is filled.
    Otherwise each row has a cache of its own, the prompt included.
    """
    layout = find_layout(settings.model, settings.dtype_bytes)
    if layout.name != "packed":
        tokens = settings.prompt_tokens + settings.new_tokens
        return rows * cache_bytes(settings.model, settings.dtype_bytes, tokens)
    capacity, old_capacity = min(settings.new_tokens, INITIAL_CAPACITY), 0
    while capacity < settings.new_tokens:
        capacity, old_capacity = min(2 * capacity, settings.new_tokens), capacity
    return layout.token_bytes * (prompts * settings.prompt_tokens + rows * (capacity + old_capacity))


def forward_bytes(settings: PlanSettings, size: ModelSize) -> int:
    """Activations of the largest pass without gradient: of one layer, or two float32 copies of a chunk's logits."""
    shape = largest_pass(settings).shape
    body = pass_memory(settings, shape, False, False).bytes
    logits = min(shape.scored, rows_per_chunk(size.vocabulary)) * size.vocabulary * 2 * 4
    return max(body, logits)


def training_phase(settings: PlanSettings, size: ModelSize) -> Phase:
    """Memory of the largest pass with gradient: saved and temporary activations, and gradients."""
    largest = largest_pass(settings)
    peak = pass_memory(settings, largest.shape, True, largest.several)
    gradients = gradient_bytes(settings, size) if settings.stage else peak.gradients
    return {"gradients": gradients, "activations": peak.bytes - peak.gradients}


def gradient_bytes(settings: PlanSettings, size: ModelSize) -> int:
    """Memory of the gradients.

    Without DeepSpeed: all of them, in float32. With DeepSpeed: a float32 partition and a buffer for the reduction; in
    stage 1 also all of them, in the dtype of the parameters. Stage 3 rearranges a full buffer by rank, and gloo's
    reduce-scatter on a CPU copies it once more.
    """
    if not settings.stage:
        return 4 * size.trainable
    partition = 0 if settings.offload else 4 * math.ceil(size.trainable / settings.ranks)
    buffers = 1 if settings.stage < 3 else 2 if settings.cuda else 3
    buffer = min(BUCKET, size.trainable) * settings.dtype_bytes
    return partition + buffers * buffer + (size.trainable_bytes if settings.stage == 1 else 0)


def update_phase(settings: PlanSettings, size: ModelSize) -> Phase:
    """Memory of the update. Fused AdamW has no temporaries; DeepSpeed scales a copy of the rank's gradient."""
    partition = 4 * math.ceil(size.trainable / settings.ranks)
    temporary = partition if settings.stage and not settings.offload else 0
    return {"gradients": gradient_bytes(settings, size), "activations": temporary}


def largest_pass(settings: PlanSettings) -> LargestPass:
    """The largest pass of a step, for prompts and completions of the maximal length.

    A pass contains whole groups or a part of one.
    """
    L, T, G, P = settings.prompt_tokens, settings.new_tokens, settings.group_size, settings.prompts_per_rank
    max_tokens = math.inf if settings.micro_batch_tokens is None else settings.micro_batch_tokens
    groups = int(min(settings.micro_batch // G, P, max_tokens // (L + G * T)))
    rows = groups * G or int(max(min(settings.micro_batch, G, (max_tokens - L) // T), 1))
    return LargestPass(PassShape(max(groups, 1), L, rows, T), rows < P * G)


def pass_memory(settings: PlanSettings, shape: PassShape, gradient: bool, several: bool) -> PassMemory:
    """`measure_pass` with the model of the settings."""
    return measure_pass(
        settings.model, settings.dtype_bytes, settings.lora, settings.checkpointing, shape, gradient, several
    )


@lru_cache
def model_size(settings: PlanSettings) -> ModelSize:
    """Sizes of the model, counted on the meta device."""
    model = meta_model(settings.model, settings.dtype_bytes)
    if settings.lora:
        add_meta_adapter(model, settings.lora)
    parameters = list(model.parameters())
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return ModelSize(
        parameters=sum(p.numel() for p in parameters),
        bytes=sum(p.nbytes for p in parameters),
        trainable=sum(p.numel() for p in trainable),
        trainable_bytes=sum(p.nbytes for p in trainable),
        low_precision=sum(p.numel() for p in trainable if p.element_size() < 4),
        vocabulary=len(model.get_output_embeddings().weight),
    )


@lru_cache
def reward_model_bytes(settings: PlanSettings) -> int:
    """Weights of all reward models."""
    models = (
        meta_model(config, settings.dtype_bytes, AutoModelForSequenceClassification)
        for config in settings.reward_models
    )
    return sum(parameter.nbytes for model in models for parameter in model.parameters())
