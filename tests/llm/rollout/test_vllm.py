"""Training with completions of another program, here a stand-in that samples from the files that it is given."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conf.schema.base import ConfigError
from llm.batch import BatchSettings, draw_batch
from llm.inference.logprobs import completion_logp
from llm.rollout.base import LocalSampler, RolloutFailed, Sampled
from llm.rollout.client import Completion
from llm.rollout.server import free_port
from llm.rollout.vllm import as_tensors, make_sampler, seeded_prompts
from llm.train import make_learner, train_step

from ..helpers import train_rows
from .sampling_server import ModelFiles
from .stand_in import StandIn

ROOT = Path(__file__).parents[3]
SMALL = ("group_size=4", "prompts_per_step=2", "max_new_tokens=4", "steps=3", "threads=null", "objective.beta=.1")
VLLM = ("rollout=vllm", "rollout.retries=1", "rollout.timeout_seconds=20")


@pytest.fixture
def server(tmp_path):
    with StandIn(ModelFiles()) as stand_in:
        yield stand_in


def options(server, tmp_path, *more):
    (tmp_path / "shm").mkdir(exist_ok=True)
    places = (f"rollout.addresses=['{server.address}']", f"rollout.folder={tmp_path / 'shm'}")
    return (*SMALL, *VLLM, *places, *more)


class Recorded:
    """A sampler that gives completions that were sampled before."""

    def __init__(self, sampled):
        self.sampled = sampled

    def sample_step(self, batch):
        return self.sampled


class FakeRun:
    """What a sampler needs of a run."""

    is_main = True

    def __init__(self, folder=None):
        self.folder, self.said = folder, []

    def info(self, message):
        self.said.append(message)

    def warn(self, message):
        raise AssertionError(message)

    def note(self, **facts):
        self.facts = facts


def gradient(models, task, config, sampled):
    """The gradient of a step on given completions."""
    from core.objective import make_objective
    from launch.engines.factory import make_engine

    models = models._replace(policy=copy.deepcopy(models.policy))
    engine = make_engine("torch", models.policy, config.optimizer, config.steps)
    gradients, step = [], engine.step

    def record_and_step():
        gradients.append([p.grad.clone() for p in models.policy.parameters()])
        return step()

    engine.step = record_and_step
    batch = draw_batch(BatchSettings.from_config(config), models, task, step=0)
    learner = make_learner(config, task, models, engine, Recorded(sampled))
    result = train_step(learner, make_objective(**config.objective_arguments()), batch, config.objective.beta)
    return torch.cat([g.flatten() for g in gradients[0]]), result


def draw(models, task, config, run=None):
    """The completions of step 0, and its batch."""
    from launch.engines.factory import make_engine

    sampler = make_sampler(config, task, models, make_engine("torch", models.policy, config.optimizer, 1))
    batch = draw_batch(BatchSettings.from_config(config), models, task, step=0)
    with sampler.running(run or FakeRun()):
        return sampler.sample_step(batch), batch


def test_what_is_sampled_is_what_is_scored(models, odd_length, make_config, server, tmp_path):
    config = make_config(*options(server, tmp_path))
    (rollout, logp), batch = draw(models, odd_length, config)
    with torch.no_grad():
        expected = completion_logp(models.policy, batch.prompts, rollout.tokens, rollout.mask)
    torch.testing.assert_close(logp, expected, atol=1e-5, rtol=1e-5)
    ends = torch.isin(rollout.tokens, models.eos_ids) & rollout.mask
    assert ends.any(-1).tolist() == rollout.complete.tolist()
    assert int(rollout.complete.sum()) > 0
    assert len({tuple(row) for row in rollout.tokens.tolist()}) > 4
    assert list((tmp_path / "shm").iterdir()) == []  # what was written is removed
    again, _ = draw(models, odd_length, config)
    assert torch.equal(again.rollout.tokens, rollout.tokens)
    other, _ = draw(models, odd_length, make_config(*options(server, tmp_path, "seed=1")))
    assert other.rollout.tokens.tolist() != rollout.tokens.tolist()


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_the_gradient_of_a_step_is_the_local_one(models, odd_length, make_config, server, tmp_path, placement):
    """On the same completions, within the mismatch; with other probabilities it is that of the weights."""
    config = make_config(*options(server, tmp_path, f"objective.placement={placement}"))
    local = make_config(*SMALL, f"objective.placement={placement}")
    (rollout, logp), _ = draw(models, odd_length, config)
    plain, _ = gradient(models, odd_length, local, Sampled(rollout))
    ours, result = gradient(models, odd_length, config, Sampled(rollout, logp))
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
    assert float(result.metrics["rollout/token_gap_max_nats"]) < 1e-4
    assert float(result.metrics["rollout/weight_max"]) == pytest.approx(1, abs=1e-4)
    # Control: a sampler that gave every completion half of its probability weights all of them twice.
    first = torch.zeros_like(logp)
    first[:, 0] = math.log(2)
    doubled, result = gradient(models, odd_length, config, Sampled(rollout, logp - first))
    torch.testing.assert_close(doubled, 2 * plain, atol=2e-5, rtol=1e-4)
    assert float(result.metrics["rollout/weight_mean"]) == pytest.approx(2, abs=1e-4)
    bounded = make_config(*options(server, tmp_path, f"objective.placement={placement}", "rollout.bound=1.5"))
    torch.testing.assert_close(
        gradient(models, odd_length, bounded, Sampled(rollout, logp - first))[0], 1.5 * plain, atol=2e-5, rtol=1e-4
    )


def test_masses_and_several_updates_take_the_samplers_probabilities(
    models, odd_length, make_config, server, tmp_path
):
    more = ("update.epochs=2", "update.redraw=1", "update.minibatches=2")
    config = make_config(*options(server, tmp_path, *more))
    local = make_config(*SMALL, *more)
    (rollout, logp), _ = draw(models, odd_length, config)
    ours, result = gradient(models, odd_length, config, Sampled(rollout, logp))
    plain, _ = gradient(models, odd_length, make_config(*SMALL, *more, "update.redraw=0"), Sampled(rollout))
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
    assert local.update.count == 4
    assert "update/kl_from_sampling_nats" in result.metrics


def test_servers_get_the_policy_at_each_step(models, odd_length, make_config, server, tmp_path):
    rows = train_rows(tmp_path / "run", models, odd_length, make_config, *options(server, tmp_path))
    assert [row["rollout/token_gap_max_nats"] < 1e-4 for row in rows] == [True] * 3
    assert all(row["rollout/lost_mass"] < 1e-4 for row in rows)
    assert server.paths().count("/collective_rpc") == 3
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["rollout"]
    assert recorded == {"addresses": [server.address], "vllm": "0.32.0"}
    versions = [body["new_version"] for path, body in server.calls if path == "/update_weight_version"]
    assert len(set(versions)) == 3
    # Control: a server that keeps the weights of its first step is noticed, and corrected for.
    with StandIn(ModelFiles()) as stale:
        stale.complete.model = lambda folder, first=ModelFiles(): first._read[1] or first.model(folder)
        old = train_rows(tmp_path / "old", models, odd_length, make_config, *options(stale, tmp_path))
        assert old[0]["rollout/token_gap_max_nats"] < 1e-4 < 1e-3 < old[2]["rollout/token_gap_nats"]
        server.complete.scale = 1.1
        strict = options(server, tmp_path, "rollout.max_gap=1e-6")
        with pytest.raises(ConfigError, match=r"more than rollout\.max_gap=1e-06: "):
            train_rows(tmp_path / "strict", models, odd_length, make_config, *strict)


def test_asynchronous_sampling_is_one_step_behind_and_survives_a_resume(
    models, odd_length, make_config, server, tmp_path
):
    chosen = options(server, tmp_path, "rollout.asynchronous=true", "steps=4", "optimizer.lr=.003")
    rows = train_rows(tmp_path / "whole", models, odd_length, make_config, *chosen)
    gaps = [row["rollout/token_gap_nats"] for row in rows]
    assert gaps[0] < 1e-4
    assert min(gaps[1:]) > 1e-3  # weights that are one update older
    assert server.paths().count("/collective_rpc") == 3  # before steps 0, 1 and 2 learn
    part = tmp_path / "part"
    shutil.copytree(tmp_path / "whole", part)
    for step in (3, 4):
        shutil.rmtree(part / "checkpoints" / f"step_{step:08}")
    record = json.loads((part / "run.json").read_text())
    (part / "run.json").write_text(json.dumps({**record, "state": "preempted"}))
    resumed = train_rows(part, models, odd_length, make_config, *chosen)
    assert resumed == rows  # the completions that were sampled ahead are in the checkpoint
    behind = [row["rollout/token_gap_nats"] for row in resumed]
    assert behind == gaps


def test_a_server_that_is_gone_stops_the_run_and_nothing_is_lost(
    models, odd_length, make_config, server, tmp_path, monkeypatch
):
    monkeypatch.setattr("llm.rollout.pool.FIRST_PAUSE", 0.01)
    chosen = options(server, tmp_path, "checkpoint.every_steps=null", "checkpoint.every_seconds=1000")
    whole = train_rows(tmp_path / "whole", models, odd_length, make_config, *chosen)
    complete, asked = server.complete, []

    def until_the_third_step(body, folder):
        asked.append(body)
        return complete(body, folder)

    server.complete = until_the_third_step
    server.faults = [None] * 4 + ["closed"] * 99
    part = tmp_path / "part"
    with pytest.raises(RolloutFailed, match=r"cannot be reached .*start it again and run the same command to resume"):
        train_rows(part, models, odd_length, make_config, *chosen)
    assert [path.name for path in (part / "checkpoints").iterdir()] == ["step_00000002"]
    server.faults = []
    with StandIn(ModelFiles()) as other:  # at another address
        resumed = train_rows(part, models, odd_length, make_config, *options(other, tmp_path, *chosen[-2:]))
    for row, expected in zip(resumed, whole, strict=True):
        assert row == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_lora_trains_with_adapters(models, odd_length, make_config, server, tmp_path, model_folder):
    pytest.importorskip("peft")
    from llm.adapters import add_adapter

    server.complete.base = model_folder
    chosen = options(server, tmp_path, "model.lora.rank=2", f"model.name_or_path={model_folder}", "optimizer.lr=.01")
    adapted = models._replace(reference=None, policy=copy.deepcopy(models.policy))
    add_adapter(adapted.policy, make_config(*chosen).model.lora, 0)
    rows = train_rows(tmp_path / "run", adapted, odd_length, make_config, *chosen)
    assert all(row["rollout/token_gap_max_nats"] < 1e-3 for row in rows)
    names = [body["lora_name"] for path, body in server.calls if path == "/v1/load_lora_adapter"]
    assert len(set(names)) == 3
    assert list(server.adapters) == names[2:]
    assert "/collective_rpc" not in server.paths()
    server.version = "of-another-run"
    with pytest.raises(RolloutFailed, match="has the weights of-another-run of another run in place of the model"):
        train_rows(tmp_path / "other", adapted, odd_length, make_config, *chosen)


def test_the_policy_samples_by_default(models, odd_length, make_config):
    assert isinstance(make_sampler(make_config(*SMALL), odd_length, models, None), LocalSampler)


def draw_all(models, task, make_config):
    """All prompts of the task with uniforms, in groups of one."""
    settings = BatchSettings.from_config(make_config(*SMALL, "prompts_per_step=3", "group_size=2"))
    batch = draw_batch(settings, models, task, 0)
    return batch.prompts, batch.uniforms, 2


def test_seeds_are_functions_of_the_uniforms(models, odd_length, make_config):
    prompts, uniforms, size = draw_all(models, odd_length, make_config)
    groups = seeded_prompts(prompts, uniforms, size)
    assert groups == seeded_prompts(prompts, uniforms.clone(), size)
    assert len({seed for _, seed in groups}) == 3
    assert all(0 <= seed < 2**62 for _, seed in groups)
    assert [ids for ids, _ in groups] == [p[m].tolist() for p, m in zip(prompts.ids, prompts.mask, strict=True)]
    changed = seeded_prompts(prompts, 1 - uniforms, size)
    assert {seed for _, seed in changed}.isdisjoint({seed for _, seed in groups})


def test_completions_become_padded_rows():
    rollout, logp = as_tensors(
        [Completion([5, 6], [-1.0, -2.0], True), Completion([7], [-3.0], False)], 9, torch.device("cpu")
    )
    assert rollout.tokens.tolist() == [[5, 6], [7, 9]]
    assert rollout.mask.tolist() == [[True, True], [True, False]]
    assert rollout.complete.tolist() == [True, False]
    assert logp.tolist() == [[-1.0, -2.0], [-3.0, 0.0]]


def run_on_ranks(world, folder, arguments, *packages):
    """Run the command on ranks that gloo connects; returns the rows of metrics and samples."""
    statuses, outputs = end_of_ranks(world, folder, arguments, *packages)
    assert statuses == [0] * world, "\n".join(outputs)
    return [
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "samples")
    ]


def end_of_ranks(world, folder, arguments, *packages):
    """Run the command on ranks that gloo connects; returns the exit status and the output of each."""
    path = os.pathsep.join(map(str, [ROOT, *packages]))
    shared = {**os.environ, "PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "llm", *arguments, f"hydra.run.dir={folder}"],
            cwd=ROOT,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=500)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


@pytest.mark.slow
def test_two_ranks_sample_what_one_samples(server, tmp_path, model_folder):
    arguments = options(server, tmp_path, f"model.name_or_path={model_folder}", "model.device=cpu")
    arguments = (*(word for word in arguments if word != "threads=null"), "threads=1")
    arguments += ("evaluation_completions=4", "sample_every=1", "rollout.asynchronous=true")
    arguments += (
        "optimizer.lr=1e-3",
        "objective.entropy_coef=.3",
        "model.stop.tokens=[60,61,62,63,64,65,66,67]",
        "model.dtype=float32",
    )
    (one, one_samples), (two, two_samples) = (
        run_on_ranks(world, tmp_path / str(world), arguments) for world in (1, 2)
    )
    assert [row["completion"] for row in two_samples] == [row["completion"] for row in one_samples]
    assert len(one_samples) == 24
    for row, expected in zip(two, one, strict=True):
        assert row == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert max(row["rollout/token_gap_max_nats"] for row in two) > 1e-3
