"""Estimate of the time of a run on this device, from the tokens of its passes and quick measurements.

A pass over n tokens takes `overhead + n * per_token` seconds: reading the weights and starting the operations, then
the arithmetic. Both are measured on the model itself where that is quick; otherwise they follow from the device's
rate of matrix products and its memory bandwidth, with 2 N floating-point operations per token for N parameters. A
backward pass counts as two forward passes.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from conf.schema.llm import UpdateConfig
from core.sequence import inverse_cdf
from llm.plan.estimate import PlanSettings, largest_pass, model_size

BUDGET = 0.15  # the most seconds of a measured pass
REPEATED = 0.02  # seconds in which a quick measurement is repeated
WIDTH = {"cpu": 512, "cuda": 4096}  # rows and columns of the measured matrix product
COPIED = {"cpu": 2**25, "cuda": 2**28}  # bytes of the measured copy; more than fit into a cache
PROBE_TOKENS = 256  # the most tokens of the measured pass
ADAM_BYTES = 40  # read and written for each weight in an update: gradient, moments, weight and its copy
LOGIT_BYTES = 48  # read and written for each logit of a scored position
UNCOUNTED = 1.3  # for what is not counted: attention to the prompt, packing, the loss, metrics
DRAWN_ROWS = {"cpu": 4, "cuda": 64}  # tokens of the measured draw


class DeviceSpeed(NamedTuple):
    """Floating-point operations of matrix products, and bytes read or written, per second.

    draw: seconds to draw a token from its logits, for each of them.
    """

    flops: float
    bandwidth: float
    draw: float


class PassTime(NamedTuple):
    """Seconds of a forward pass without its output layer: of any pass, and of each token."""

    overhead: float
    per_token: float

    def seconds(self, tokens: float) -> float:
        """Seconds of a forward pass over this many tokens."""
        return self.overhead + tokens * self.per_token


class RunTime(NamedTuple):
    """Seconds of a training step, and of evaluating a policy."""

    step: float
    evaluation: float


@torch.no_grad()
def measure_device(device: torch.device, dtype: torch.dtype, vocabulary: int) -> DeviceSpeed:
    """Measure a matrix product, a copy and a draw, in some hundredths of a second."""
    width = WIDTH[device.type]
    matrix = torch.ones(width, width, device=device, dtype=dtype)
    source = torch.ones(COPIED[device.type], device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    product = fastest(lambda: matrix @ matrix, device)
    copy = fastest(lambda: target.copy_(source), device)
    logits = torch.ones(DRAWN_ROWS[device.type], vocabulary, device=device, dtype=dtype)
    draw = fastest(lambda: inverse_cdf(logits, logits[:, 0] / 2), device)
    return DeviceSpeed(2 * width**3 / product, 2 * len(source) / copy, draw / logits.numel())


@torch.no_grad()
def measure_passes(model: Any, body: Any, speed: DeviceSpeed) -> PassTime:
    """Measure passes over one token and over several, or compute them from the device's speed if that is quicker."""
    embedding = model.get_input_embeddings().weight  # looked up, not multiplied
    weights = {name: p for name, p in body.named_parameters() if p.dim() > 1 and p is not embedding}
    overhead = sum(weight.nbytes for weight in weights.values()) / speed.bandwidth
    share = active_share(model.config.get_text_config())
    used = sum(weight.numel() * (share if ".experts." in name else 1.0) for name, weight in weights.items())
    per_token = 2 * used / speed.flops
    tokens = min(int((BUDGET / 2 - overhead) / per_token) if per_token else PROBE_TOKENS, PROBE_TOKENS)
    if tokens < 2:
        return PassTime(overhead, per_token)
    ids = torch.zeros(1, tokens, dtype=torch.long, device=embedding.device)
    one, several = (fastest(partial(body, input_ids=part, use_cache=False), ids.device) for part in (ids[:, :1], ids))
    return PassTime(one, max(several - one, 0.0) / (tokens - 1))


def active_share(config: Any) -> float:
    """The share of a model's experts that process a token; 1 without experts."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((getattr(config, name) for name in names if getattr(config, name, None)), 0)
    return min((getattr(config, "num_experts_per_tok", None) or experts) / experts, 1.0) if experts else 1.0


def fastest(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the fastest of several after the first one."""
    seconds: list[float] = []
    started = time.perf_counter()
    while len(seconds) < 2 or (len(seconds) < 6 and time.perf_counter() - started < REPEATED):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def estimate_time(
    settings: PlanSettings,
    measured: tuple[DeviceSpeed, PassTime],
    head: tuple[int, int],
    update: UpdateConfig,
    evaluation_completions: int,
    prompt_tokens: float,
) -> RunTime:
    """Seconds of a step and of an evaluation if all completions have the maximal length. Rewards are not included.

    Args:
        settings: sizes of the run.
        measured: the device, and the passes of the model.
        head: V and D of the output layer.
        update: updates per step.
        evaluation_completions: their total number.
        prompt_tokens: mean tokens of a prompt.
    """
    speed, passes = measured
    (V, D), P, G, T = head, settings.prompts_per_rank, settings.group_size, settings.new_tokens
    logits = V * 2 * D / speed.flops  # seconds per position
    scored = P * G * T * (logits + V * LOGIT_BYTES / speed.bandwidth)  # seconds of all positions

    def sampling(prompts: int, rows: int) -> float:
        drawing = rows * (logits + V * speed.draw)
        return passes.seconds(prompts * prompt_tokens) + T * (passes.seconds(rows) + drawing)

    count = math.ceil(P * G / largest_pass(settings).shape.rows)  # passes over all completions of a step
    tokens = P * prompt_tokens + P * G * (T - 1)
    forward = count * passes.overhead + tokens * passes.per_token + scored
    forwards = 1 + 3 * update.epochs  # of the reference, and of the policy with its gradient
    forwards += update.epochs * ((count > 1) + settings.checkpointing) + (update.count > 1)
    trainable = model_size(settings).trainable
    updates = update.count * ADAM_BYTES * trainable / settings.ranks / speed.bandwidth
    rows, prompts = settings.evaluation_rows, settings.evaluation_prompts
    batches = max(evaluation_completions / settings.ranks / rows, 1.0)
    training = forwards * forward + update.epochs * scored + updates  # the backward pass computes the logits again
    return RunTime(UNCOUNTED * (sampling(P, P * G) + training), UNCOUNTED * batches * sampling(prompts, rows))
