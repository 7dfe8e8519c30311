"""A step on many GPUs on paper: beside the plan, beside what really is gathered, and as the page on scale says."""

import json
import re
from pathlib import Path

import pytest
import torch

from llm.plan.activations import meta_model
from llm.plan.cluster import (
    ADAM_BYTES,
    H100,
    POSITION_BYTES,
    StepWork,
    checkpoint,
    rank_step,
    ranks_where_positions_equal_state,
)
from llm.plan.estimate import PlanSettings, estimate

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"
QWEN3_32B = {
    "model_type": "qwen3",
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
WORK = StepWork(prompts=1024, group_size=16, prompt_tokens=512, new_tokens=4096, micro_batches=2)


@pytest.fixture(scope="module")
def parameters():
    return sum(parameter.numel() for parameter in meta_model(json.dumps(QWEN3_32B), 2).parameters())


def test_the_model_has_the_parameters_of_its_layers(parameters):
    c = QWEN3_32B
    heads, keys = (c[name] * c["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    layer = c["hidden_size"] * (2 * heads + 2 * keys + 3 * c["intermediate_size"] + 2) + 2 * c["head_dim"]
    assert parameters == c["num_hidden_layers"] * layer + c["hidden_size"] * (2 * c["vocab_size"] + 1)


@pytest.mark.parametrize("ranks", [8, 64])
def test_what_a_rank_holds_is_what_the_plan_of_a_run_counts(ranks):
    small = QWEN3_32B | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
    config = json.dumps(small | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16})
    settings = PlanSettings(
        model=config,
        engine="zero3",
        ranks=ranks,
        cuda=True,
        dtype_bytes=2,
        prompts=ranks,
        group_size=2,
        prompt_tokens=8,
        new_tokens=8,
        micro_batch=2,
        micro_batch_tokens=None,
        evaluation_rows=1,
    )
    size = sum(parameter.numel() for parameter in meta_model(config, 2).parameters())
    step = rank_step(size, StepWork(ranks, 2, 8, 8), ranks)
    phase = estimate(settings)["update"]
    assert phase["reference"] == step.reference
    planned = phase["policy"] + phase["master weights"] + phase["Adam's moments"] + phase["activations"]
    assert planned == pytest.approx(step.state, rel=1e-3)  # activations: the float32 gradient of the rank
    assert step.state != pytest.approx(rank_step(size, StepWork(ranks, 2, 8, 8), 2 * ranks).state, rel=0.1)  # control


def test_positions_have_the_bytes_of_the_gathered_tensors():
    P, G, T = 2, 3, 5
    tensors = [torch.zeros(P * G, T) for _ in range(3)] + [torch.zeros(P * G, T, dtype=torch.bool)]
    work = StepWork(P, G, 7, T)
    assert rank_step(1, work, 4).gathered_positions == sum(tensor.nbytes for tensor in tensors)
    assert work.positions * POSITION_BYTES == rank_step(10**9, work, 400).gathered_positions  # whatever the ranks


def test_weights_are_gathered_for_each_pass_and_micro_batch():
    one, two = (rank_step(10, StepWork(4, 1, 1, 1, count), 2) for count in (1, 2))
    assert (one.gathered_weights, one.reduced_gradients) == (2 * 10, 10)  # half of 20 bytes, twice and once
    assert (two.gathered_weights, two.reduced_gradients) == (6 * 10, 2 * 10)
    # arXiv:1910.02054: three times the weights in a step, in the limit of many ranks.
    many = rank_step(10, StepWork(4, 1, 1, 1), 10**6)
    assert many.gathered_weights + many.reduced_gradients == pytest.approx(3 * 20, rel=1e-5)


def test_the_ranks_where_positions_equal_the_state(parameters):
    ranks = ranks_where_positions_equal_state(parameters, WORK)
    step = rank_step(parameters, WORK, round(ranks))
    assert step.gathered_positions == pytest.approx(step.state, rel=0.01)
    assert rank_step(parameters, WORK, round(2 * ranks)).state < 0.6 * step.gathered_positions


def test_a_checkpoint_in_parts_is_bounded_by_the_slower_of_rank_and_file_system():
    few, many = (checkpoint(10**9, ranks, writer=2e9, system=100e9) for ranks in (2, 1000))
    assert few.bytes == ADAM_BYTES * 10**9
    assert few.writing == many.writing == 6
    assert few.sharded == 3
    assert many.sharded == pytest.approx(0.12)
    assert many.share(many.gathering + many.writing) == 0.5


def test_the_page_on_scale_has_these_numbers(parameters):
    """Every row of its tables that has a number in the last column."""
    step, saved = rank_step(parameters, WORK, 1000), checkpoint(parameters, 1000)
    expected = {
        "parameters": parameters / 1e9,
        "state of a rank": step.state / 1e9,
        "reference": step.reference / 1e9,
        "gathered weights": step.gathered_weights / 1e9,
        "reduced gradients": step.reduced_gradients / 1e9,
        "positions of all completions": step.gathered_positions / 1e9,
        "texts of all completions": step.gathered_texts / 1e9,
        "weights of a server": step.server_weights / 1e9,
        "computing": step.computing,
        "waiting for weights and gradients": step.waiting_for_weights,
        "waiting for positions": step.waiting_for_positions,
        "waiting for a server": step.waiting_for_server,
        "ranks where positions equal the state": ranks_where_positions_equal_state(parameters, WORK),
        "checkpoint": saved.bytes / 1e9,
        "gathering a checkpoint": saved.gathering,
        "writing by rank 0": saved.writing,
        "writing by all ranks": saved.sharded,
        "share of the time, every 30 minutes": 100 * saved.share(1800),
    }
    rows = re.findall(r"^\| ([^|]+?) \|.*\| ([\d.,]+)[^|]*\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    shown = {name: float(value.replace(",", "")) for name, value in rows}
    assert set(shown) == set(expected)
    for name, value in expected.items():
        assert shown[name] == pytest.approx(value, rel=0.01), name
    assert step.reference < H100.memory < step.reference + step.gathered_weights
