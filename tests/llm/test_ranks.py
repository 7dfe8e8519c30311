"""Two ranks give the results of one. Each rank runs `python tests/llm/test_ranks.py JOB FOLDER`."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import distributed as dist

from conf.schema.llm import LlmConfig
from core.objective import make_objective
from launch.cli.validation import register
from launch.engines import distributed
from launch.engines.factory import make_engine
from launch.runs import signals
from launch.runs.checkpoint import Manifest, read_state, save_checkpoint
from launch.runs.rng import torch_generator
from launch.runs.run import Run
from launch.runs.run_folder import read_jsonl
from llm import train
from llm.batch import BatchSettings, draw_batch
from llm.inference.sampling import Rollout
from llm.models import Models
from llm.rollout import base as rollout_base
from llm.tasks.base import Task
from llm.testbed.tiny_models import byte_tokenizer

ENGINES = ("torch", "zero1", "zero2", "zero3")
OFFLOAD = "zero3_offload"  # in the long tests
ROOT = Path(__file__).parents[2]
sys.modules["two_ranks"] = sys.modules[__name__]  # lets both processes import the task below
SAMPLE = rollout_base.sample
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
LORA = ["model.lora.rank=2", "model.lora.alpha=4", "optimizer.lr=.01"]
TRAINED += ["sample_every=1", "task.name=two_ranks:Lengths", "threads=1", "objective.beta=.1"]


class Lengths(Task):
    """Chats of different lengths; a completion's reward depends on each of its bytes."""

    def prompts(self):
        return [[{"role": "user", "content": "x" * n}] for n in (1, 30, 7, 12, 3, 40, 2)]

    def reward(self, prompt, completion):
        return sum(map(ord, completion)) % 7 / 6


def make_config(*overrides):
    register("llm")
    with initialize_config_module("conf.llm", version_base="1.3"):
        return compose("config", overrides=list(overrides))


CONFIG = make_config(*RECORDED)


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
    """All ranks' completions of a step, with 1 to T tokens, longest for the first prompts; some are truncated."""
    generator = torch_generator(step, "recorded")
    tokens = torch.randint(1, 200, (P * G, T), generator=generator)
    longest = torch.tensor([T, 7, 3, 2, 4]).repeat_interleave(G)
    length = 1 + (torch.rand(P * G, generator=generator) * longest).long()
    complete = torch.rand(P * G, generator=generator) < torch.tensor([0.3, 0.6, 1.0, 1.0, 1.0]).repeat_interleave(G)
    return Rollout(tokens, torch.arange(T) < length.unsqueeze(-1), complete)


class RecordedTraining:
    """Training on the recorded rollouts, with an engine on this rank."""

    def __init__(self, engine, dtype=torch.float32, seed=0, **changes):
        config = OmegaConf.to_object(CONFIG)
        assert isinstance(config, LlmConfig)
        self.config = replace(config, **changes)
        policy, reference = random_policy(seed).to(dtype), random_policy(1).to(dtype).requires_grad_(False)
        tokenizer = byte_tokenizer()
        eos = torch.tensor([tokenizer.eos_token_id])
        self.models = Models(policy, reference, tokenizer, eos, tokenizer.pad_token_id)
        self.engine = make_engine(engine, policy, self.config.optimizer, STEPS, shared=True)
        self.objective = make_objective(**self.config.objective_arguments())
        self.learner = train.make_learner(self.config, Lengths(), self.models, self.engine)

    def step(self, step, recorded=True):
        """Take a step, by default on the recorded rollout; returns its metrics."""
        batch = draw_batch(BatchSettings.from_config(self.config), self.models, Lengths(), step)
        own_rows = slice(batch.slots.start * G, batch.slots.stop * G)
        tokens, mask, complete = (t[own_rows] for t in recorded_rollout(step))
        longest = int(mask.sum(-1).max())
        rollout = Rollout(tokens[:, :longest], mask[:, :longest], complete)
        with patch.object(rollout_base, "sample", (lambda *_, **__: rollout) if recorded else SAMPLE):
            result = train.train_step(self.learner, self.objective, batch, 0.1)
        return {key: None if value is None else float(value) for key, value in result.metrics.items()}

    def weights(self):
        """All weights of the policy as one vector."""
        with self.engine.gather() as policy:
            return parameters(policy)


def parameters(model):
    return torch.cat([p.detach().flatten().float() for p in model.parameters()])


def whole_run(folder, model, *overrides, stop_after=None):
    config = make_config(*TRAINED, "objective.kl_samples=5", f"model.name_or_path={model}", *overrides)
    with patch.object(signals, "pending", lambda: stop_after), Run(folder, "llm", config, []) as run:
        train.train(OmegaConf.to_object(config), run)


def equal_steps(folder, main):
    """Recorded steps with each engine, and steps with completions of unequal length."""
    results: dict[str, Any] = {"gathered": gathered(distributed.current_ranks().rank)}
    for name in ENGINES:
        training = RecordedTraining(name)
        rows = [training.step(step) for step in range(STEPS)]
        results[name] = {"rows": rows, "weights": training.weights().tolist()}
        if name != "torch":
            deepspeed: Any = training.engine
            results[name]["bucket"] = deepspeed.engine.optimizer.reduce_bucket_size
        with training.engine.gather() as policy:
            if main:
                policy.save_pretrained(folder / name)
    with patch.object(dist, "all_reduce"):
        training = RecordedTraining("torch")
        rows = [training.step(step) for step in range(STEPS)]
        results["control"] = {"rows": rows, "weights": training.weights().tolist()}
    for name in ("torch", "zero3"):
        length = 1 if main else T  # one rank samples a single token
        with patch.object(rollout_base, "sample", lambda m, p, u, n=length, **k: SAMPLE(m, p, u[:, :n], **k)):
            training = RecordedTraining(name, micro_batch_tokens=60)  # so that it makes fewer passes
            results[f"unequal_{name}"] = [training.step(step, recorded=False) for step in range(2)]
    if main:
        (folder / "results.json").write_text(json.dumps(results))


def gathered(rank):
    assert "deepspeed" not in sys.modules  # only an engine imports it
    return [
        distributed.gather_objects({"of": "é" * rank}),
        distributed.gather_rows(torch.full((rank + 1, 2 - rank), rank + 1.0)).tolist(),
        distributed.gather_rows(torch.ones(2 - rank, dtype=torch.bool)).tolist(),
        distributed.gather_objects(list(distributed.shard_range(5))),
    ]


def whole_runs(folder, main):
    """Runs from loading to the exported policy, and steps in bfloat16."""
    if main:
        random_policy(0).save_pretrained(folder / "model")
        byte_tokenizer().save_pretrained(folder / "model")
    distributed.barrier()
    whole_run(folder / "plain", folder / "model")
    whole_run(folder / "lora", folder / "model", *LORA, "engine=zero3")
    with suppress(KeyboardInterrupt):
        whole_run(folder / "interrupted", folder / "model", "engine=zero2", stop_after=signal.SIGTERM)
    results: dict[str, dict[str, Any]] = {}
    for name in (*ENGINES, OFFLOAD):
        whole = RecordedTraining(name)
        rows = [whole.step(step) for step in range(5)]
        state = whole.engine.state_dict()
        if main:
            (folder / name).mkdir()
            save_checkpoint(folder / name, Manifest(5, {}, {}, {}, None), {"engine": state}, keep=1)
        rows += [whole.step(step) for step in range(5, STEPS)]
        distributed.barrier()
        resumed = RecordedTraining(name, seed=2)
        resumed.engine.load_state_dict(read_state(folder / name, 5)["engine"])
        results[name] = {"rows": rows, "resumed": [resumed.step(step) for step in range(5, STEPS)]}
        results[name]["same"] = bool(torch.equal(resumed.weights(), whole.weights()))
        half = RecordedTraining(name, torch.bfloat16)
        results[name] |= {"half": [half.step(step) for step in range(3)], "weights": half.weights().tolist()}
    if main:
        (folder / "results.json").write_text(json.dumps(results))


def start(job, folder):
    """Run a job on two ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, job, str(folder)],
            env={**os.environ, **shared, "PYTHONPATH": str(ROOT), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        # The timeout ends ranks that wait for each other.
        outputs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return start("equal_steps", tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return start("whole_runs", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def results(two_ranks):
    return json.loads((two_ranks / "results.json").read_text())


@pytest.fixture(scope="module")
def one_rank():
    """The recorded steps on one rank, and the weights after them."""
    training = RecordedTraining("torch")
    return [training.step(step) for step in range(STEPS)], training.weights()


def assert_close(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for key in row:
            is_float = isinstance(other[key], float)
            expected = (
                pytest.approx(other[key], abs=tolerance, rel=tolerance, nan_ok=True) if is_float else other[key]
            )
            assert row[key] == expected, key


def test_what_ranks_gather(results):
    """Values of different lengths, rows of different shapes padded with 0, and consecutive ranges."""
    assert results["gathered"] == [
        [{"of": ""}, {"of": "é"}],
        [[1.0, 1.0], [2.0, 0.0], [2.0, 0.0]],
        [True] * 3,
        [[0, 1], [2, 3, 4]],
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_equal_one_on_the_same_rollouts(results, one_rank, engine):
    """The ranks have 2 and 3 of the prompts, and different numbers of valid samples, tokens and passes."""
    rows, weights = one_rank
    assert_close(results[engine]["rows"], rows, 1e-5)
    torch.testing.assert_close(torch.tensor(results[engine]["weights"]), weights, atol=1e-5, rtol=0)
    control = torch.tensor(results["control"]["weights"])  # without summing the ranks' gradients
    assert (control - weights).abs().max() > 1e-3
    assert results[engine].get("bucket", len(weights)) == len(weights)  # the buffer is not larger than the gradients


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exported_policy_is_an_ordinary_model(two_ranks, results, engine):
    from transformers import AutoModelForCausalLM

    exported = parameters(AutoModelForCausalLM.from_pretrained(two_ranks / engine))
    assert torch.equal(exported, torch.tensor(results[engine]["weights"]))


def test_ranks_with_unequal_completions_wait_for_each_other(results):
    """One token against nine, in different numbers of passes: both ranks finish, with the same steps."""
    assert 1 < results["unequal_torch"][0]["length"] < T
    assert_close(results["unequal_zero3"], results["unequal_torch"], 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("engine", [*ENGINES, OFFLOAD])
def test_a_checkpoint_resumes_bit_for_bit(runs, one_rank, engine):
    result = json.loads((runs / "results.json").read_text())[engine]
    assert_close(result["rows"], one_rank[0], 1e-5)
    assert result["resumed"] == result["rows"][5:]
    assert result["same"]


@pytest.mark.long
@pytest.mark.parametrize("engine", [*ENGINES, OFFLOAD])
def test_bfloat16_takes_the_steps_of_float32(runs, one_rank, engine):
    """Within the precision of 8 bits: the first losses, and the direction of the updates."""
    result = json.loads((runs / "results.json").read_text())[engine]
    for row, other in zip(result["half"], one_rank[0], strict=False):
        assert row["loss"] == pytest.approx(other["loss"], rel=0.05)
    whole = RecordedTraining("torch")
    for step in range(3):
        whole.step(step)
    start = parameters(random_policy(0))
    update, expected = torch.tensor(result["weights"]) - start.bfloat16(), whole.weights() - start
    assert torch.cosine_similarity(update, expected, 0) > 0.5


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain", "lora"])
def test_a_run_of_two_ranks_is_the_run_of_one(runs, name):
    """From sampling to evaluation and the exported policy; also with an adapter under ZeRO 3."""
    single, double = runs / f"one_{name}", runs / name
    whole_run(single, runs / "model", *(LORA if name == "lora" else []))
    assert_close(read_jsonl(double / "metrics.jsonl"), read_jsonl(single / "metrics.jsonl"), 1e-5)
    assert_close(read_jsonl(double / "samples.jsonl"), read_jsonl(single / "samples.jsonl"), 1e-5)
    assert len(read_jsonl(double / "samples.jsonl")) == 3 * 3 * 4
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (single, double)]
    assert summaries[0]["completions"] == summaries[1]["completions"] == 7
    assert summaries[0]["sequences"] == summaries[1]["sequences"]
    assert json.loads((double / "run.json").read_text())["ranks"] == 2
    weights = [load_file(folder / "policy" / "model.safetensors") for folder in (single, double)]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, atol=1e-5, rtol=0)


@pytest.mark.long
def test_a_run_of_two_ranks_resumes_with_one(runs):
    """Stopped after its first step under ZeRO 2; the metrics are those of a run that was never stopped."""
    interrupted = runs / "interrupted"
    assert len(read_jsonl(interrupted / "metrics.jsonl")) == 1
    try:
        whole_run(interrupted, runs / "model", "engine=zero2")
    finally:
        dist.destroy_process_group()
    assert json.loads((interrupted / "run.json").read_text())["ranks"] == 1
    assert_close(read_jsonl(interrupted / "metrics.jsonl"), read_jsonl(runs / "plain" / "metrics.jsonl"), 1e-5)


if __name__ == "__main__":
    is_main = distributed.init().rank == 0
    {"equal_steps": equal_steps, "whole_runs": whole_runs}[sys.argv[1]](Path(sys.argv[2]), is_main)
