"""Independent random streams from one seed, keyed by what they are for and never by rank or order of use."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def stream_seed(seed: int, *key: str | int) -> int:
    """A 63-bit seed for the stream that `key` names, e.g. stream_seed(0, "model")."""
    text = "/".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *key: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, *key))


def rollout_uniforms(seed: int, step: int, prompts: list[int], completions: list[int], draws: int) -> Tensor:
    """One row of uniforms in [0, 1) for each (prompt, completion) of a step: [len(prompts), draws] float64.

    A row depends on (seed, step, prompt, completion) alone (a counter-based generator), so that the number of
    ranks and the order of rows change nothing.
    """
    key = stream_seed(seed, "rollout")
    rows = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, completion, prompt, step])).random(draws)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return torch.from_numpy(np.stack(rows))
