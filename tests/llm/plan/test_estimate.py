"""The estimate against the model's own sizes, the passes of training, and the table of the ZeRO paper."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llm.inference.prompts import Prompts
from llm.microbatch import MicroBatchLimits, plan_micro_batches
from llm.plan.activations import PassShape, find_layout
from llm.plan.estimate import estimate, largest_pass, model_size, pass_memory, reward_model_bytes

from .examples import plan_settings


def test_parameters_are_those_of_the_model_that_is_loaded(tiny_folder):
    config = json.dumps(json.loads((tiny_folder / "config.json").read_text()))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    size = model_size(replace(plan_settings(), model=config))
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.bytes == size.trainable_bytes == 4 * size.parameters
    assert size.low_precision == 0
    assert find_layout(config, 4).token_bytes == 2 * 2 * 2 * 16 * 4  # key and value, layers, heads, width, bytes


def test_reward_models_count_with_their_heads(build_model):
    config = build_model("qwen3", 50).config
    config.num_labels = 1
    real = AutoModelForSequenceClassification.from_config(config)
    text = config.to_json_string(use_diff=False)
    expected = sum(p.numel() for p in real.parameters())
    assert reward_model_bytes(plan_settings(reward_models=(text,))) == 4 * expected
    assert reward_model_bytes(plan_settings(reward_models=(text, text), dtype_bytes=2)) == 2 * 2 * expected
    assert estimate(plan_settings(reward_models=(text,)))["update"]["reward models"] == 4 * expected


def test_the_largest_pass_is_that_of_training():
    generator = torch.Generator().manual_seed(0)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    for _ in range(300):
        P, G, L, T = draw(1, 5), draw(2, 7), draw(1, 40), draw(2, 30)
        max_tokens = None if draw(0, 3) == 0 else draw(20, 800)
        settings = plan_settings(
            prompts=P,
            group_size=G,
            prompt_tokens=L,
            new_tokens=T,
            micro_batch=draw(1, 20),
            micro_batch_tokens=max_tokens,
        )
        prompts = Prompts(torch.zeros(P, L, dtype=torch.long), torch.ones(P, L, dtype=torch.bool))
        limits = MicroBatchLimits(settings.micro_batch, max_tokens)
        passes = plan_micro_batches(prompts, torch.ones(P * G, T, dtype=torch.bool), limits)
        counts = [(p.prompts.stop - p.prompts.start, p.rows.stop - p.rows.start) for p in passes]
        largest = max((g * L + rows * (T - 1), rows * T) for g, rows in counts)
        shape, several = largest_pass(settings)
        assert (shape.tokens, shape.scored, several) == (*largest, len(passes) > 1), (settings, counts)


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_each_stage_partitions_one_thing_more(ranks):
    """The table of the ZeRO paper (Rajbhandari et al. 2020, arXiv:1910.02054), in bfloat16 on GPUs."""
    common = {"ranks": ranks, "cuda": True, "dtype_bytes": 2}
    W = model_size(plan_settings(**common)).parameters

    def static(engine):
        phase = estimate(plan_settings(engine=engine, **common))["reference"]
        return phase["policy"] + phase["master weights"] + phase["Adam's moments"]

    assert static("torch") == 2 * W + 12 * W  # master weights and moments in float32, as in DeepSpeed
    wide = estimate(plan_settings(**common | {"dtype_bytes": 4}))["update"]
    assert (wide["master weights"], wide["Adam's moments"], wide["gradients"]) == (0, 8 * W, 4 * W)
    assert static("zero1") == static("zero2") == pytest.approx(2 * W + 12 * W / ranks, rel=1e-3)
    assert static("zero3") == pytest.approx((2 * W + 12 * W) / ranks, rel=1e-3)
    assert static("zero3_offload") == 0
    zero1, zero2 = (estimate(plan_settings(engine=engine, **common))["update"] for engine in ("zero1", "zero2"))
    assert zero1["gradients"] - zero2["gradients"] == 2 * W
    if ranks > 1:  # stage 3 rearranges what it reduces, and gloo copies that
        zero3 = {
            cuda: estimate(plan_settings(engine="zero3", **common | {"cuda": cuda}))["update"]
            for cuda in (True, False)
        }
        assert zero3[True]["gradients"] - zero2["gradients"] == 2 * W
        assert zero3[False]["gradients"] - zero3[True]["gradients"] == 2 * W


def test_lora_checkpointing_and_a_reference_on_the_cpu_save_what_they_should():
    settings = plan_settings(cuda=True, dtype_bytes=2)
    plain, size = estimate(settings), model_size(settings)

    checkpointed = estimate(replace(settings, checkpointing=True))
    tokens = largest_pass(settings).shape.tokens
    assert checkpointed["training"]["activations"] < 0.6 * plain["training"]["activations"]
    more, fewer = (
        pass_memory(plan_settings(layers, checkpointing=True), PassShape(1, tokens, 1, 1), True, True)
        for layers in (5, 4)
    )
    layer = more.bytes - fewer.bytes - (more.gradients - fewer.gradients)
    assert layer == pytest.approx(4 * tokens * 128, rel=0.01)  # the input of each layer

    on_cpu = estimate(replace(settings, reference_on_cpu=True))
    assert plain["training"]["reference"] == size.bytes
    assert on_cpu["training"]["reference"] == 0
    assert on_cpu["reference"]["reference"] == size.bytes

    pytest.importorskip("peft", reason="needs the extra lora")
    adapted = replace(settings, lora=(4, ("q_proj",)))
    adapter = 4 * 4 * (128 + 128)  # layers, rank, q_proj's input and output
    assert model_size(adapted).trainable == adapter
    assert model_size(adapted).parameters == size.parameters + adapter
    phase = estimate(adapted)["update"]
    assert phase["reference"] == 0
    assert phase["Adam's moments"] == 2 * phase["gradients"] == 2 * 4 * adapter


def test_the_prompt_is_stored_once_and_the_rows_cache_doubles():
    def cache(**changes):
        settings = plan_settings(group_size=4, prompts=2, **changes)
        layout = find_layout(settings.model, settings.dtype_bytes)
        return estimate(settings)["sampling"]["keys and values"] / layout.token_bytes

    assert cache(prompt_tokens=100, new_tokens=50) == 2 * 100 + 8 * 50
    assert cache(prompt_tokens=100, new_tokens=300) == 2 * 100 + 8 * (300 + 256)


@pytest.mark.long
@pytest.mark.parametrize("case", ["one pass", "several passes", "logits", "weights", "sliding window", "zero2"])
def test_peaks_are_within_a_quarter_of_those_measured(case):
    if "zero" in case:
        pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    from tools.peak_memory import compare

    estimated, measured, worst = compare(case)
    print(f"{case}: {worst}, estimated {estimated / 2**20:.0f}, measured {measured / 2**20:.0f} MiB")
    assert math.isclose(estimated, measured, rel_tol=0.25)
