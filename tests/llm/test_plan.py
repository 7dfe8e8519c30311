"""Memory foretold: against the model's own sizes, the passes that training makes, and peaks measured in real runs."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from llm.inference.prompts import Prompts
from llm.microbatch import MicroBatchLimits, plan_micro_batches
from llm.plan.__main__ import main
from llm.plan.advice import halvings, peak_bytes, suggest_change
from llm.plan.estimate import PlanSettings, estimate, largest_pass, model_size, pass_memory

SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2}


def setting(layers=4, vocabulary=1024, **changes):
    config = Qwen3Config(**SIZES, head_dim=32, num_hidden_layers=layers, vocab_size=vocabulary)
    values = {
        **{"engine": "torch", "ranks": 1, "cuda": False, "dtype_bytes": 4, "prompts": 8, "group_size": 4, "prompt_tokens": 100},
        **{"new_tokens": 50, "micro_batch": 8, "micro_batch_tokens": None, "evaluation_rows": 4},
    }
    return PlanSettings(model=config.to_json_string(use_diff=False), **values | changes)


def test_parameters_are_those_of_the_model_that_is_loaded(tiny_folder):
    config = json.dumps(json.loads((tiny_folder / "config.json").read_text()))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    shape = model_size(replace(setting(), model=config))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.bytes == shape.trainable_bytes == 4 * shape.parameters
    assert shape.cache_bytes == 2 * 2 * 2 * 16 * 4  # key and value, layers, heads, their width, bytes


@pytest.mark.parametrize("tokens", [300, 1000])
def test_a_layer_keeps_what_is_written_in_the_guide(tokens):
    """6 D + 4 I + 4 (H + K) d numbers a token: the peaks of models of 5 and of 4 layers differ by one layer's."""
    D, inner, heads, d = 128, 384, 4 + 2, 32
    more, fewer = (pass_memory(setting(layers), tokens, tokens, True) for layers in (5, 4))
    weights = more.gradients - fewer.gradients
    assert weights == 4 * (3 * D * inner + 2 * D * heads * d + 2 * D + 2 * d)
    kept = (more.bytes - fewer.bytes - weights) / (4 * tokens)
    assert kept == pytest.approx(6 * D + 4 * inner + 4 * heads * d, rel=0.01)
    assert kept != pytest.approx(6 * D + 3 * inner + 4 * heads * d, rel=0.01)  # control: one MLP tensor fewer
    without = [pass_memory(setting(layers), tokens, 0, False).bytes for layers in (5, 4)]
    assert without[0] == without[1]  # nothing is kept without a gradient


def test_the_largest_pass_is_that_of_training():
    generator = torch.Generator().manual_seed(0)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    for _ in range(300):
        P, G, L, T = draw(1, 5), draw(2, 7), draw(1, 40), draw(2, 30)
        cap = None if draw(0, 3) == 0 else draw(20, 800)
        case = setting(prompts=P, group_size=G, prompt_tokens=L, new_tokens=T, micro_batch=draw(1, 20), micro_batch_tokens=cap)
        prompts = Prompts(torch.zeros(P, L, dtype=torch.long), torch.ones(P, L, dtype=torch.bool))
        limits = MicroBatchLimits(case.micro_batch, cap)
        passes = plan_micro_batches(prompts, torch.ones(P * G, T, dtype=torch.bool), limits)
        counts = [(p.prompts.stop - p.prompts.start, p.rows.stop - p.rows.start) for p in passes]
        largest = max((g * L + rows * (T - 1), rows * T) for g, rows in counts)
        assert largest_pass(case) == (*largest, len(passes) > 1), (case, counts)


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_each_stage_shares_out_one_thing_more(ranks):
    """The table of the ZeRO paper (Rajbhandari et al. 2020, arXiv:1910.02054), in bfloat16 on GPUs."""
    common = {"ranks": ranks, "cuda": True, "dtype_bytes": 2}
    W = model_size(setting(**common)).parameters

    def static(engine):
        phase = estimate(setting(engine=engine, **common))["reference"]
        return phase["policy"] + phase["master weights"] + phase["Adam's moments"]

    assert static("torch") == 2 * W + 4 * W  # moments as wide as the parameters, no master weights
    assert static("zero1") == static("zero2") == pytest.approx(2 * W + 12 * W / ranks, rel=1e-3)
    assert static("zero3") == pytest.approx((2 * W + 12 * W) / ranks, rel=1e-3)
    assert static("zero3_offload") == 0
    zero1, zero2 = (estimate(setting(engine=engine, **common))["update"] for engine in ("zero1", "zero2"))
    assert zero1["gradients"] - zero2["gradients"] == 2 * W
    if ranks > 1:  # stage 3 lays what it reduces out anew, and gloo copies that
        zero3 = {
            cuda: estimate(setting(engine="zero3", **common | {"cuda": cuda}))["update"] for cuda in (True, False)
        }
        assert zero3[True]["gradients"] - zero2["gradients"] == 2 * W
        assert zero3[False]["gradients"] - zero3[True]["gradients"] == 2 * W


def test_lora_checkpointing_and_a_reference_elsewhere_leave_out_what_they_should():
    case = setting(cuda=True, dtype_bytes=2)
    plain, shape = estimate(case), model_size(case)

    checkpointed = estimate(replace(case, checkpointing=True))
    tokens, _, _ = largest_pass(case)
    assert checkpointed["training"]["activations"] < 0.6 * plain["training"]["activations"]
    more, fewer = (pass_memory(setting(layers, checkpointing=True), tokens, 1, True) for layers in (5, 4))
    layer = more.bytes - fewer.bytes - (more.gradients - fewer.gradients)
    assert layer == pytest.approx(4 * tokens * 128, rel=0.01)  # of each layer its input

    away = estimate(replace(case, reference_on_cpu=True))
    assert plain["training"]["reference"] == shape.bytes
    assert away["training"]["reference"] == 0
    assert away["reference"]["reference"] == shape.bytes

    pytest.importorskip("peft", reason="needs the extra lora")
    adapted = replace(case, lora=(4, ("q_proj",)))
    adapter = 4 * 4 * (128 + 128)  # layers, rank, q_proj's input and output
    assert model_size(adapted).trainable == adapter
    assert model_size(adapted).parameters == shape.parameters + adapter
    phase = estimate(adapted)["update"]
    assert phase["reference"] == 0
    assert phase["Adam's moments"] == 2 * phase["gradients"] == 2 * 4 * adapter


def test_the_prompt_is_kept_once_and_the_rows_cache_doubles():
    def cache(**changes):
        case = setting(group_size=4, prompts=2, **changes)
        return estimate(case)["sampling"]["keys and values"] / model_size(case).cache_bytes

    assert cache(prompt_tokens=100, new_tokens=50) == 2 * 100 + 8 * 50
    assert cache(prompt_tokens=100, new_tokens=300) == 2 * 100 + 8 * (300 + 256)


def test_the_way_out_fits_and_is_the_smallest_change():
    case = setting(micro_batch=32)
    room = peak_bytes(replace(case, micro_batch=8))
    assert suggest_change(case, room) == "micro_batch=8 (now 32)"
    assert peak_bytes(replace(case, micro_batch=16)) > room  # control
    weights = setting(micro_batch=1, new_tokens=2, vocabulary=400_000, prompts=16)
    words = suggest_change(weights, 0.7 * peak_bytes(weights))
    engine, ranks = re.search(r"engine=(\w+) \(now torch\) and ranks=(\d+) \(now 1\)$", words).groups()
    assert peak_bytes(replace(weights, engine=engine, ranks=int(ranks))) <= 0.7 * peak_bytes(weights)
    assert suggest_change(weights, 1000) is None
    assert list(halvings(12)) == [12, 6, 3, 1]


def test_the_command_says_what_to_change_and_that_is_enough(tiny_folder, capsys):
    long = ("experiment=one_two", "max_new_tokens=1000", "group_size=64")
    assert main([*long, "memory=64"]) == 0
    out = capsys.readouterr().out
    assert "115,264 parameters" in out
    assert "64,000 sampled tokens" in out
    fits = float(re.search(r"needs ([\d.]+) of", out).group(1))
    given = f"memory={0.75 * fits:.3f}"
    assert main([*long, given]) == 1
    error = capsys.readouterr().err
    advice = re.fullmatch(r"llm\.plan: it does not fit: use (micro_batch=\d+) \(now 64\)\n", error).group(1)
    assert main([*long, given, advice]) == 0
    assert main([*long, given, advice, "ranks=2"]) == 1  # a group lives whole on one rank
    assert "prompts_per_step: must be >= the number of ranks" in capsys.readouterr().err


def test_a_model_made_here_is_found_by_its_name(capsys):
    assert main(["experiment=one_of_many", "memory=64"]) == 0
    assert "115,264 parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("memory=much", "memory: must be a number, got 'much'"),
        ("ranks=0", "ranks: must be > 0, got 0"),
        ("micro_batches=4", "micro_batches"),
        ("model.name_or_path=/no/such", "model.name_or_path: must be a folder or hub name"),
        ("model.device=cuda", "memory: must be given"),
    ],
)
def test_mistakes_are_one_line(tiny_folder, capsys, argument, message):
    assert main(["experiment=one_two", argument]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("llm.plan: ")


@pytest.mark.long
@pytest.mark.parametrize("case", ["one pass", "several passes", "logits", "weights", "zero2"])
def test_peaks_are_within_a_quarter_of_those_measured(case):
    if "zero" in case:
        pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    from tools.peak_memory import compare

    foretold, measured, worst = compare(case)
    print(f"{case}: {worst}, foretold {foretold / 2**20:.0f}, measured {measured / 2**20:.0f} MiB")
    assert math.isclose(foretold, measured, rel_tol=0.25)
