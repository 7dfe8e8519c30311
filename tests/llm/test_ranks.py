"""Two ranks equal one. `python tests/llm/test_ranks.py FOLDER` is what each rank runs, once for all tests."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import distributed as dist

from conf import schema
from core.objective import make_objective
from launch import distributed
from launch.app import register
from launch.engine import make_engine
from launch.record import read_jsonl
from launch.run import Run
from launch.streams import torch_generator
from llm import train
from llm.models import Models
from llm.rollout import Rollout
from llm.tasks.base import Task
from llm.tiny import byte_tokenizer

ENGINES = ("torch", "zero1", "zero2", "zero3", "zero3_offload")
ROOT = Path(__file__).parents[2]
STEPS, P, G, T = 10, 5, 4, 9
RECORDED = [
    f"steps={STEPS}",
    f"prompts_per_step={P}",
    f"group_size={G}",
    f"max_new_tokens={T}",
    *("truncated=drop", "transform=mara", "transform.threshold.value=.5", "objective.beta=.1"),
    *("micro_batch=8", "optimizer.max_grad_norm=.5", "optimizer.decay=linear", "optimizer.weight_decay=.1"),
]
TRAINED = ["steps=3", "prompts_per_step=3", "group_size=4", "max_new_tokens=6", "evaluation_completions=7"]
TRAINED += ["sample_every=1", f"task.name={__name__}:Lengths", "threads=1", "objective.beta=.1"]


class Lengths(Task):
    """Chats of different lengths; a completion's reward depends on each of its bytes."""

    def prompts(self):
        return [[{"role": "user", "content": "x" * n}] for n in (1, 30, 7, 12, 3, 40, 2)]

    def reward(self, prompt, completion):
        return sum(map(ord, completion)) % 7 / 6


def make_config(*overrides):
    register("llm", schema.LlmConfig)
    with initialize_config_module("conf.llm", version_base="1.3"):
        return compose("config", overrides=list(overrides))


def random_policy(seed):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = byte_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen3Config(
        vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, **sizes, **ids
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config).float().eval()


def recorded_rollout(step):
    """All ranks' completions of a step: of 1 to T tokens, the first prompts' the longest; some are not complete."""
    generator = torch_generator(step, "recorded")
    tokens = torch.randint(1, 200, (P * G, T), generator=generator)
    longest = torch.tensor([T, 7, 3, 2, 4]).repeat_interleave(G)
    length = 1 + (torch.rand(P * G, generator=generator) * longest).long()
    complete = torch.rand(P * G, generator=generator) < torch.tensor([0.3, 0.6, 1.0, 1.0, 1.0]).repeat_interleave(G)
    return Rollout(tokens, torch.arange(T) < length.unsqueeze(-1), complete)


def steps_on_recorded_rollouts(engine_name="torch"):
    """Metrics of each step, and the weights at the end."""
    config = OmegaConf.to_object(make_config(*RECORDED))
    tokenizer, task = byte_tokenizer(), Lengths()
    policy, reference = random_policy(0), random_policy(1).requires_grad_(False)
    models = Models(policy, reference, tokenizer, torch.tensor([tokenizer.eos_token_id]), tokenizer.pad_token_id)
    engine = make_engine(engine_name, policy, config.optimizer, config.steps, shared=True)
    objective = make_objective(**config.objective_arguments())
    reward = train.make_reward(config.reward, task, torch.device("cpu"), torch.float32)
    rows = []
    for step in range(STEPS):
        batch = train.draw_batch(config, models, task, step)
        mine = slice(batch.slots.start * G, batch.slots.stop * G)
        tokens, mask, complete = (t[mine] for t in recorded_rollout(step))
        longest = int(mask.sum(-1).max())
        train.sample = lambda *_, r=Rollout(tokens[:, :longest], mask[:, :longest], complete), **__: r
        rows.append(train.train_step(models, engine, objective, task, reward, batch, 0.1, config).metrics)
    with engine.gather() as whole:
        weights = torch.cat([p.detach().flatten().float() for p in whole.parameters()])
    return {"rows": [{k: None if v is None else float(v) for k, v in row.items()} for row in rows]} | {
        "weights": weights.tolist()
    }


def whole_run(folder, model, *overrides):
    config = make_config(*TRAINED, f"model.name_or_path={model}", *overrides)
    with Run(folder, "llm", config, []) as run:
        train.train(OmegaConf.to_object(config), run)


def each_rank(folder):
    """The body of a rank."""
    distributed.join()
    results = {engine: steps_on_recorded_rollouts(engine) for engine in ENGINES}
    with patch.object(dist, "all_reduce"):
        results["control"] = steps_on_recorded_rollouts("torch")
    train.sample = SAMPLE
    whole_run(folder / "run", folder / "model")
    if distributed.current().rank == 0:
        (folder / "results.json").write_text(json.dumps(results))


SAMPLE = train.sample


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two ranks came to: results.json and run/."""
    folder = tmp_path_factory.mktemp("ranks")
    random_policy(0).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env={**os.environ, **shared, "PYTHONPATH": str(ROOT), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
    return folder


@pytest.fixture(scope="module")
def one_rank(two_ranks):
    train.sample = SAMPLE
    try:
        whole_run(two_ranks / "one", two_ranks / "model")
        return steps_on_recorded_rollouts()
    finally:
        train.sample = SAMPLE


def assert_close(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for key in row:
            number = isinstance(other[key], float)
            assert row[key] == (pytest.approx(other[key], abs=tolerance, rel=tolerance) if number else other[key]), (
                key
            )


@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_equal_one_on_the_same_rollouts(two_ranks, one_rank, engine):
    """Ranks have 2 and 3 of the prompts, other numbers of valid samples, of tokens and of passes."""
    results = json.loads((two_ranks / "results.json").read_text())
    assert_close(results[engine]["rows"], one_rank["rows"], 1e-5)
    ours, theirs, control = (
        torch.tensor(result["weights"]) for result in (results[engine], one_rank, results["control"])
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (control - theirs).abs().max() > 1e-3  # where ranks do not sum their gradients


def test_a_run_of_two_ranks_is_the_run_of_one(two_ranks, one_rank):
    """From sampling to evaluation and the exported policy."""
    one, two = two_ranks / "one", two_ranks / "run"
    assert_close(read_jsonl(two / "metrics.jsonl"), read_jsonl(one / "metrics.jsonl"), 1e-5)
    assert_close(read_jsonl(two / "samples.jsonl"), read_jsonl(one / "samples.jsonl"), 1e-5)
    assert len(read_jsonl(two / "samples.jsonl")) == 3 * 3 * 4
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert summaries[0]["completions"] == summaries[1]["completions"] == 7
    assert summaries[0]["sequences"] == summaries[1]["sequences"]
    assert json.loads((two / "run.json").read_text())["ranks"] == 2


if __name__ == "__main__":
    each_rank(Path(sys.argv[1]))
