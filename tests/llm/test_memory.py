"""Peak memory: the logits of all positions never exist at once, and freed memory is kept for the next step."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
P, G, T, V = 2, 32, 32, 1 << 15
WHOLE = P * G * T * V * 4  # bytes of all logits in float32

MEASURE = f"""
import json
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import Prompts
from llm.inference.sampling import sample

torch.manual_seed(0)
model = Qwen3ForCausalLM(Qwen3Config(
    vocab_size={V}, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
    num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
)).eval()
prompts = Prompts(torch.randint({V}, ({P}, 4)), torch.ones({P}, 4, dtype=torch.bool))
tokens = torch.randint({V}, ({P * G}, {T}))
mask = torch.ones_like(tokens, dtype=torch.bool)
uniforms = torch.rand({P * G}, {T}, dtype=torch.float64)

def score(tokens, mask, chunk):
    completion_logp(model, prompts, tokens, mask, chunk).sum().backward()

def draw(uniforms):
    sample(model, prompts, uniforms, group_size={G}, eos_ids=torch.tensor([{V}]), pad_id=0)

def peak():  # of this program; getrusage would include the memory of the process that started it
    with open("/proc/self/status") as status:
        return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))

def rise(function, *arguments):
    before = peak()
    function(*arguments)
    return peak() - before

score(tokens[:, :2], mask[:, :2], 64)  # warm up: libraries and workspaces are loaded once
draw(uniforms[:, :1])
rises = {{"score": rise(score, tokens, mask, 64), "sample": rise(draw, uniforms)}}
print(json.dumps(rises | {{"control": rise(score, tokens, mask, {P * G * T})}}))
"""


@pytest.fixture(scope="module")
def rises():
    """Bytes by which the process's peak rose."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        # With this threshold freed memory is returned at once, so that the peak is that of living tensors.
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_all_logits_never_exist_at_once(rises):
    assert rises["score"] < WHOLE / 8
    assert rises["sample"] < WHOLE / 4
    assert rises["control"] > WHOLE  # in a single chunk they exist


PAGES = """
import resource, torch
from llm.models import retain_freed_memory

def step():
    [torch.ones(2**20) for _ in range(32)]  # 4 MiB each, all alive until the last

def pages():  # number of pages that a step requests from the system, after a warm-up
    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
default = pages()
retain_freed_memory()
print(default, pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_freed_memory_is_kept_for_the_next_step():
    # glibc's initial threshold: setting it switches off its automatic adjustment.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-c", PAGES],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    default, retained = map(int, done.stdout.split()[-2:])
    assert retained < 1_000 < 10_000 < default
