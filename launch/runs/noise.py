"""Silence what libraries print in runs that are in order. Each entry is one message; errors are never hidden."""

import os
import warnings

ACCELERATOR = "DS_ACCELERATOR"  # environment variable of DeepSpeed


def silence_libraries() -> None:
    """Prevent the known messages. Call it after torch is imported, and before anything imports DeepSpeed."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault(ACCELERATOR, "cpu")  # DeepSpeed warns on import that it found no accelerator
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's use of it
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # in DeepSpeed
