"""The parts of the table, their time limits, and the sizes on a GPU and on a CPU."""

from typing import Any, NamedTuple

from benchmarks.fixed_lengths import SMALL
from benchmarks.llm_step import LARGE

MINUTES = 8.0  # of all parts together


class Part(NamedTuple):
    """A part of the table. seconds: its time limit. needs: a package without which it is left out."""

    seconds: int
    title: str
    needs: str | None = None


PARTS = {
    "model": Part(60, "build the model with random weights"),
    "tests": Part(60, "tests with the mark gpu"),
    "packed": Part(50, "the packed path beside whole rows"),
    "decoding": Part(50, "sampling"),
    "compiled": Part(90, "sampling, compiled by torch.compile"),
    "graphs": Part(50, "sampling, replayed as a CUDA graph"),
    "training": Part(60, "training steps of mara"),
    "zero3": Part(50, "ZeRO-3 on one device beside engine=torch", "deepspeed"),
    "trl": Part(70, "training steps of TRL on the same work", "trl"),
    "vllm": Part(90, "sampling by vLLM"),
    "one_two": Part(90, "the 1-2 task, trained"),
}


class Sizes(NamedTuple):
    """What is measured on a kind of device.

    shape: of the model. setting: of a step, see `benchmarks.fixed_lengths`. micro_batch: sequences in a pass.
    one_two: overrides of the 1-2 task.
    """

    shape: dict[str, Any]
    setting: dict[str, int]
    micro_batch: int
    one_two: tuple[str, ...]


TINY = SMALL | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"num_key_value_heads": 1}
SIZES = {
    # The shape of Qwen3-1.7B.
    "cuda": Sizes(LARGE, {"P": 16, "G": 16, "prompt": 512, "least": 256, "most": 256}, 32, ()),
    "cpu": Sizes(TINY, {"P": 2, "G": 4, "prompt": 32, "least": 8, "most": 8}, 8, ("steps=3",)),
}

# Largest difference that counts as rounding, relative to the largest value. In bfloat16 the packed path is also
# compared with whole rows: it may be further from float32 than they are by this factor.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
BFLOAT16_FACTOR = 1.5
ZERO_TOLERANCE = 1e-3  # of the norm of the gradient: another order of summation
EOS_NEVER = -1  # no token
