"""Training with a real server of vLLM on a CPU: make services, or MARA_VLLM_PYTHON, brings one."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from conf.schema.base import ConfigError
from llm.inference.logprobs import completion_logp
from llm.models import load_models
from llm.rollout.base import Sampled
from llm.rollout.server import ServerProcess, vllm_python
from llm.rollout.starting import ON_A_CPU
from llm.tasks.base import load_task

from ..commands import ROOT
from ..conf.schema.legality import make_config
from ..llm.rollout.test_vllm import draw, gradient
from ..llm.rollout.wide import widen_folder
from .typed import llm


def found() -> str | None:
    """Python of an environment with vLLM; None if there is none."""
    try:
        return vllm_python(None)
    except ConfigError:
        return None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(found() is None, reason="no environment with vLLM: make services, or set MARA_VLLM_PYTHON"),
]
TRAINED = ("model.device=cpu", "model.dtype=float32", "threads=1", "micro_batch=64", "transform=mara")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny model with heads that vLLM's attention on a CPU can have."""
    from llm.testbed.tiny_models import tiny_model

    return widen_folder(tiny_model(), tmp_path_factory.mktemp("model") / "wide")


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def no_process_is_left(folder):
    """Whether nothing of this process's user still has the weights' folder in its command line."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes())
        except OSError:
            continue
    return not any(os.fsencode(folder) in command for command in commands)


def trains_here(python):
    """Whether an environment has what training needs, besides vLLM."""
    return subprocess.run([python, "-c", "import hydra, transformers, torch"], capture_output=True).returncode == 0


def mara_with_servers(*arguments):
    llm("rollout=vllm", *arguments)


def mara_beside_the_engine(*arguments):
    """The command in the environment with vLLM, where it samples beside each rank."""
    python = vllm_python(None)
    if not trains_here(python):
        pytest.skip("the environment with vLLM lacks the project: make services")
    command = [python, "-m", "llm", "rollout=vllm_in_process", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EngineCore" not in done.stdout + done.stderr  # its output is in the run folder


@pytest.mark.parametrize("train", [mara_with_servers, mara_beside_the_engine])
def test_the_1_2_task_balances_and_what_is_sampled_is_what_is_scored(tmp_path, model, train):
    shm = tmp_path / "shm"
    shm.mkdir()
    train(
        *(*TRAINED, f"model.name_or_path={model}", f"rollout.folder={shm}", "steps=200"),
        "optimizer.lr=3e-4",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["correct"] >= 0.95
    assert min(summary["share/1"], summary["share/2"]) / summary["correct"] >= 0.4
    base = summary["base"]
    assert min(base["share/1"], base["share/2"]) / base["correct"] <= 0.2  # control: where it started
    metrics = rows(tmp_path / "run")
    assert max(row["rollout/token_gap_max_nats"] for row in metrics) < 1e-3
    assert max(row["rollout/weight_max"] for row in metrics) < 1.001
    assert all(row["rollout/bounded_share"] == 0 for row in metrics)
    assert list(shm.iterdir()) == []
    assert (tmp_path / "run" / "vllm_0.log").stat().st_size > 0
    assert no_process_is_left(shm)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """The address of a server that takes weights and adapters."""
    log = tmp_path_factory.mktemp("server") / "vllm.log"
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--enable-lora"]
    options += ["--max-lora-rank", "8", "--max-loras", "2"]
    settings = {**ON_A_CPU, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    process = ServerProcess(vllm_python(None), model, options, settings, log)
    process.start()
    try:
        process.wait(1000)
        yield process.address
    finally:
        process.stop()


def test_asynchronous_sampling_and_adapters(tmp_path, model, server):
    """LoRA, one step behind: the gaps are those of one update, and the first step has none."""
    pytest.importorskip("peft")
    llm(
        *(
            "rollout=vllm",
            *TRAINED,
            f"rollout.addresses=['{server}']",
            f"model.name_or_path={model}",
            "model.lora.rank=4",
        ),
        *("rollout.asynchronous=true", "steps=6", "evaluation_completions=64", "optimizer.lr=1e-3"),
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    gaps = [row["rollout/token_gap_nats"] for row in rows(tmp_path / "run")]
    assert gaps[0] < 1e-4 < min(gaps[1:])
    assert max(gaps) < 0.3


def test_the_gradient_of_a_step_is_the_local_one_within_the_mismatch(server, model, tmp_path):
    """And weights that were changed by an update are those that the server then samples with."""
    options = f"{' '.join(TRAINED)} model.name_or_path={model} group_size=32"
    local = make_config("llm", options)
    config = make_config("llm", f"{options} rollout=vllm rollout.addresses=['{server}'] rollout.folder={tmp_path}")
    models, task = load_models(config.model, 0), load_task("one_two", config)
    (rollout, logp), _ = draw(models, task, config)
    plain, _ = gradient(models, task, local, Sampled(rollout))
    ours, result = gradient(models, task, config, Sampled(rollout, logp))
    assert float(result.metrics["rollout/token_gap_max_nats"]) < 1e-4
    assert float((ours - plain).norm() / plain.norm()) < 1e-3
    with torch.no_grad():
        for parameter in models.policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    (rollout, logp), batch = draw(models, task, config)
    changed = completion_logp(models.policy, batch.prompts, rollout.tokens, rollout.mask)
    torch.testing.assert_close(logp, changed.detach(), atol=1e-4, rtol=1e-4)
    before = completion_logp(models.reference, batch.prompts, rollout.tokens, rollout.mask)
    assert float((logp - before).abs().max()) > 0.01  # control
