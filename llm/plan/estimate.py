"""Bytes on the device of a rank in each phase of a run, by what they are for."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from transformers import AutoModelForSequenceClassification

from core.sequence import rows_at_a_time
from launch.engines.deepspeed import BUCKET
from llm.inference.decoder import INITIAL_ROOM
from llm.plan.activations import Peak, adapt, empty_model, pass_peak

LIVE = 1_000_000_000  # gathered parameters that ZeRO-3 keeps at a time (stage3_max_live_parameters)
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
    room, before = min(setting.new_tokens, INITIAL_ROOM), 0
    while room < setting.new_tokens:
        room, before = min(2 * room, setting.new_tokens), room
    cache = shape.cache * (prompts * setting.prompt_tokens + rows * (room + before))
    prompt = setting_peak(setting, prompts * setting.prompt_tokens, 0, False).bytes
    drawn = min(rows, rows_at_a_time(shape.vocabulary)) * shape.vocabulary * (setting.width + 16)
    return {"keys and values": cache, "activations": max(drawn, prompt)}


def reading(setting: Setting, shape: Shape) -> int:
    """Of the largest pass without gradient: what one layer makes, and the logits of a chunk, twice in float32."""
    tokens, scored, _ = largest_pass(setting)
    body = setting_peak(setting, tokens, 0, False).bytes
    logits = min(scored, rows_at_a_time(shape.vocabulary)) * shape.vocabulary * 2 * 4
    return max(body, logits)


def training(setting: Setting, shape: Shape) -> Phase:
    """Of the largest pass: what its forward pass keeps, what its backward pass makes, and the gradients."""
    tokens, scored, several = largest_pass(setting)
    peak = setting_peak(setting, tokens, scored, several)
    kept = gradients(setting, shape) if setting.stage else peak.gradients
    return {"gradients": kept, "activations": peak.bytes - peak.gradients}


def gradients(setting: Setting, shape: Shape) -> int:
    """Plain: whole, in the parameters' type. DeepSpeed: whole in stage 1, a float32 part, a buffer to reduce in.

    Stage 3 lays a full buffer out anew by ranks, and gloo's reduce-scatter, on a CPU, makes a copy of that.
    """
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


def setting_peak(setting: Setting, tokens: int, scored: int, several: bool) -> Peak:
    """`pass_peak` of the setting's model."""
    return pass_peak(setting.model, setting.width, setting.lora, setting.checkpointing, tokens, scored, several)


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


@lru_cache
def reward_weights(setting: Setting) -> int:
    models = (
        empty_model(config, setting.width, AutoModelForSequenceClassification) for config in setting.reward_models
    )
    return sum(parameter.nbytes for model in models for parameter in model.parameters())
