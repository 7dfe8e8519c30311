"""Independent random streams from one seed. A stream is keyed by its purpose, never by rank or order of use."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def stream_seed(seed: int, *key: str | int) -> int:
    """Derive a 63-bit seed for the stream with this key, for example `("model",)` or `("global", step, rank)`."""
    text = "/".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *key: str | int) -> torch.Generator:
    """A CPU generator for the stream with this key."""
    return torch.Generator().manual_seed(stream_seed(seed, *key))


def rollout_uniforms(seed: int, step: int, prompts: list[int], completions: list[int], draws: int) -> Tensor:
    """Uniform numbers in [0, 1), one row for each (prompt, completion) of a step.

    A counter-based generator makes each row depend only on (seed, step, prompt, completion), so the number of ranks
    and the order of rows do not matter.

    Returns:
        [len(prompts), draws] float64.
    """
    key = stream_seed(seed, "rollout")
    rows = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, completion, prompt, step])).random(draws)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return torch.from_numpy(np.stack(rows))
