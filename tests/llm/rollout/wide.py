"""The tiny model with heads of 32 channels instead of 16, as vLLM's attention on a CPU needs."""

import copy

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def widened(model):
    """A Qwen3 with twice the channels a head, of which every second one is 0, and the same outputs.

    Channel i of a head goes to channel 2 i, so that each pair that the rotary embedding turns keeps its frequency.
    The norm of a head divides by a root mean square that is smaller by sqrt(2), and attention by a root that is
    larger by sqrt(2): the weights of both norms are divided by the fourth root of 2.
    """
    config = copy.deepcopy(model.config)
    config.head_dim *= 2
    new = type(model)(config).to(model.dtype).eval()
    state = model.state_dict()
    for name, value in new.state_dict().items():
        old = state[name]
        if "norm" in name and ".self_attn." in name:
            value.zero_()[::2] = old / 2**0.25
        elif name.endswith("o_proj.weight"):
            value.zero_()[:, ::2] = old
        elif ".self_attn." in name:
            value.zero_()[::2] = old
        else:
            value.copy_(old)
    new.generation_config = model.generation_config
    return new


def widen_folder(source, target):
    """Save the widened model of a folder to another one, with its tokenizer."""
    with torch.no_grad():
        widened(AutoModelForCausalLM.from_pretrained(source)).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target
