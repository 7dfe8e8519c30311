"""A small Qwen3-architecture model with a byte-level tokenizer, built and pretrained here and cached.

It knows one question, the 1-2 task's, and answers it the way a large model does: well formed most of the time and
biased towards one answer. One token is one byte, so that every answer has exactly one token sequence.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from launch.record import cache_folder
from launch.run import console
from llm.logp import completion_logp
from llm.prompts import encode_chats, pad_completions
from llm.tasks.one_two import PROMPT

RECIPE: dict[str, Any] = {
    "model": {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "prompt": PROMPT,
    "answers": {  # completion: probability
        "<answer>1</answer>": 0.70,
        "<answer>2</answer>": 0.10,
        "<answer>3</answer>": 0.05,
        "<answer>1": 0.04,
        "1": 0.05,
        "2": 0.03,
        "one or two": 0.03,
    },
    "steps": 300,
    "lr": 3e-3,
    "seed": 0,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model() -> Path:
    """Folder of the pretrained tiny model, in the form `from_pretrained` loads; built when not in the cache."""
    folder = cache_folder() / f"tiny-{_recipe_hash()}"
    if not (folder / "model.safetensors").exists():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        temporary.mkdir(parents=True, exist_ok=True)
        console.print("building and pretraining the tiny model (once; under a minute)")
        _build(temporary)
        try:
            temporary.rename(folder)  # a folder appears whole or not at all
        except OSError:  # another process was first
            shutil.rmtree(temporary)
    return folder


def _recipe_hash() -> str:
    """Of everything the weights depend on: the recipe, this file and the libraries that execute it."""
    parts = [
        json.dumps(RECIPE, sort_keys=True),
        Path(__file__).read_text(),
        torch.__version__,
        transformers.__version__,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """256 bytes and three special tokens, without merges; a ChatML-like template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _build(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    config = Qwen3Config(
        **RECIPE["model"],
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(RECIPE["seed"])
        model = Qwen3ForCausalLM(config).float()
    _pretrain(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pretrain(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Cross-entropy on every answer, weighted by its probability, so that no sampling noise enters the bias."""
    prompts = encode_chats(tokenizer, [[{"role": "user", "content": RECIPE["prompt"]}]])
    answers = tokenizer(list(RECIPE["answers"]), add_special_tokens=False)["input_ids"]
    tokens, mask = pad_completions([[*ids, tokenizer.eos_token_id] for ids in answers], tokenizer.pad_token_id)
    weight = torch.tensor(list(RECIPE["answers"].values()))
    steps = RECIPE["steps"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE["lr"], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RECIPE["lr"], total_steps=steps + 1, pct_start=0.1)
    quiet = not console.is_terminal
    for _ in track(range(steps), "pretraining the tiny model", console=console, transient=True, disable=quiet):
        loss = -(weight * completion_logp(model, prompts, tokens, mask).sum(-1)).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
