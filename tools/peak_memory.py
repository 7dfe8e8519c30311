"""Compare the peak memory that `python -m llm.plan` estimates with that of `python -m llm`.

Each run is a separate process that takes two steps on the CPU, with a random model (Qwen3 unless another architecture
is named) and completions of maximum length.
Its measured memory is its peak (VmHWM) minus the memory after its imports.

    python -m tools.peak_memory [CASE...]
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from launch.cli.overrides import run_folder_override
from llm.plan.estimate import estimate
from llm.plan.settings import PlanArguments, make_settings

MODELS: dict[str, dict[str, Any]] = {
    "27M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "vocab_size": 4096},
    "42M, 64k vocabulary": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 3,
        "vocab_size": 65536,
    },
    "58M": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 7, "vocab_size": 8192},
    "30M, Mistral": {
        "model_type": "mistral",
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "vocab_size": 8192,
        "sliding_window": 64,
    },
    "44M, Qwen3-MoE": {
        "model_type": "qwen3_moe",
        "hidden_size": 512,
        "moe_intermediate_size": 384,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 6,
        "vocab_size": 8192,
    },
}
CASES: dict[str, tuple[str, tuple[str, ...]]] = {  # model and overrides
    "one pass": ("27M", ("group_size=16", "micro_batch=16", "max_new_tokens=64")),
    "several passes": ("27M", ("group_size=16", "micro_batch=4", "max_new_tokens=64")),
    "logits": ("42M, 64k vocabulary", ("group_size=16", "micro_batch=16", "max_new_tokens=48")),
    "weights": ("58M", ("group_size=4", "micro_batch=1", "max_new_tokens=16")),
    "sliding window": ("30M, Mistral", ("group_size=16", "micro_batch=16", "max_new_tokens=64")),
    "experts": ("44M, Qwen3-MoE", ("group_size=16", "micro_batch=16", "max_new_tokens=64")),
    "zero2": ("58M", ("engine=zero2", "prompts_per_step=2", "group_size=4", "micro_batch=1", "max_new_tokens=16")),
    "zero3": ("58M", ("engine=zero3", "prompts_per_step=2", "group_size=4", "micro_batch=1", "max_new_tokens=16")),
}
COMMON = (
    "task.name=long:Long",
    "model.dtype=float32",
    "model.device=cpu",
    "steps=2",
    "evaluation_completions=4",
    "checkpoint.keep=0",
    "threads=1",
    "resume=never",
)
TASK = """
from llm.tasks.base import Task

class Long(Task):
    def prompts(self):
        return [[{"role": "user", "content": "a question of some length, " * 4}]]

    def reward(self, prompt, completion):
        return float(len(completion) % 2)
"""
CHILD = """
import json, sys
import llm.train, llm.rewards
if any("zero" in argument for argument in sys.argv):
    from launch.engines.deepspeed import import_deepspeed
    import_deepspeed()
from conf.schema.llm import LlmConfig
from launch.cli.app import start
from llm.__main__ import train

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name + ":"))
    return 1024 * int(line.split()[1])

before = status("VmRSS")
start("llm", train)
print(json.dumps({"peak": status("VmHWM") - before}), file=sys.stderr)
"""


def build(folder: Path, sizes: dict[str, Any]) -> Path:
    """Save a random model with the byte tokenizer to a folder, and return the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from llm.testbed.tiny_models import byte_tokenizer

    tokenizer = byte_tokenizer()
    heads = sizes["hidden_size"] // 64
    arguments: dict[str, Any] = {
        "model_type": "qwen3",
        **sizes,
        "num_attention_heads": heads,
        "num_key_value_heads": min(heads, 4),
        "head_dim": 64,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(arguments.pop("model_type"), **arguments)).float()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(folder: Path, overrides: Sequence[str], ranks: int) -> int:
    """Peak memory of `python -m llm OVERRIDES` in bytes, above its imports, on the rank with the highest peak."""
    command = [sys.executable, "-c", CHILD, *overrides, run_folder_override(folder / "run")]
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    shared = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)} if ranks > 1 else {}
    children = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**shared, **rendezvous, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if rendezvous else {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    errors = [child.communicate(timeout=600)[1] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError("".join(errors))
    return max(int(json.loads(error.splitlines()[-1])["peak"]) for error in errors)


def estimate_peak(folder: Path, overrides: Sequence[str], ranks: int) -> tuple[int, str]:
    """Estimated memory of the phase that needs most, in bytes, and the name of the phase."""
    from launch.cli.compose import compose_typed

    sys.path.insert(0, str(folder))
    try:
        config, launcher = compose_typed("llm", overrides)
        settings, _ = make_settings(config, launcher, PlanArguments(list(overrides), ranks=ranks))
    finally:
        sys.path.remove(str(folder))
    sums = {name: sum(phase.values()) for name, phase in estimate(settings).items()}
    worst = max(sums, key=lambda name: sums[name])
    return sums[worst], worst


def compare(case: str) -> tuple[int, int, str]:
    """Estimated and measured peak memory in bytes, and the phase with the highest estimate."""
    model, options = CASES[case]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "long.py").write_text(TASK)
        overrides = [f"model.name_or_path={build(folder / 'model', MODELS[model])}", *COMMON, *options]
        ranks = 2 if "zero" in case else 1
        estimated, worst = estimate_peak(folder, overrides, ranks)
        return estimated, measure(folder, overrides, ranks), worst


if __name__ == "__main__":
    print("| run | model | worst phase | estimated, MiB | measured, MiB | ratio |\n|---|---|---|---|---|---|")
    for case in sys.argv[1:] or CASES:
        estimated, measured, worst = compare(case)
        sizes = f"{estimated / 2**20:.0f} | {measured / 2**20:.0f} | {estimated / measured:.2f}"
        print(f"| {case} | {CASES[case][0]} | {worst} | {sizes} |", flush=True)
