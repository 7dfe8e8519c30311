"""Small Qwen3 models with a byte-level tokenizer, trained here on synthetic corpora and cached.

Policies know the prompts of one task and answer them as a large model does: mostly correctly, and with a bias. Reward
models start from a policy and are trained on synthetic comparisons with the Bradley-Terry loss. A token is a byte, so
that every answer has exactly one token sequence.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)
from transformers.utils import logging as transformers_logging

from conf.schema.base import ConfigError
from launch.runs.atomic import make_folder
from launch.runs.console import console
from launch.runs.progress import tracked
from launch.runs.run_folder import cache_folder, write_text
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import Prompts, encode_chats, pad_completions
from llm.testbed import corpora
from llm.testbed.building import cached_folder
from llm.testbed.corpora import Corpus

MODEL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
POLICIES: dict[str, dict[str, Any]] = {  # prompts and completions per step; sampled if the corpus has more
    "tiny": {"steps": 300, "lr": 3e-3, "prompts": 1, "completions": 7, "seed": 0},
    "tiny_many": {"steps": 300, "lr": 4e-3, "prompts": 6, "completions": 15, "seed": 0},
    "tiny_spellings": {"steps": 400, "lr": 4e-3, "prompts": 3, "completions": 53, "seed": 0},
    "tiny_creative": {"steps": 300, "lr": 4e-3, "prompts": 4, "completions": 8, "seed": 0},
    "tiny_maths": {"steps": 400, "lr": 4e-3, "prompts": 8, "completions": 5, "seed": 0},
}
REWARDS: dict[str, dict[str, Any]] = {
    "tiny_reward": {"start": "tiny_creative", "steps": 200, "lr": 2e-3, "pairs": 16, "seed": 1},
    "tiny_reward_other": {"start": "tiny_creative", "steps": 200, "lr": 2e-3, "pairs": 16, "seed": 2},
}
RECIPES = {**POLICIES, **REWARDS}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model(name: str = "tiny") -> Path:
    """Folder of a model of `RECIPES` for `from_pretrained`. The model is built unless it is in the cache."""
    return cached_folder(f"{name.replace('_', '-')}-{recipe_hash(name)}", partial(_build, name))


def _build(name: str, folder: Path) -> None:
    console.print(f"building and training the test model {name} (only once; takes about a minute)")
    model, tokenizer = (_build_policy if name in POLICIES else _build_reward)(name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_data(key: str, name: str) -> Path:
    """JSON Lines file of a data set of `corpora.records`. `key` is named in the ConfigError if there is none."""
    records = corpora.records(name)
    if records is None:
        raise ConfigError(f"{key}.path: llm.testbed.corpora has no data set {name}")
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    folder = cache_folder() / f"data-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    make_folder(folder)
    file = folder / f"{name}.jsonl"
    if not file.exists():
        write_text(file, text)
    return file


def recipe_hash(name: str) -> str:
    """Hash of everything that the weights depend on: the recipe, the corpora, this file and the libraries."""
    recipe = RECIPES[name]
    corpus = corpora.CORPORA[name]() if name in POLICIES else corpora.RATERS[name]
    parts = [
        json.dumps([MODEL, recipe, corpus], sort_keys=True),
        Path(__file__).read_text(),
        torch.__version__,
        transformers.__version__,
        *([recipe_hash(recipe["start"]), Path(str(corpora.__file__)).read_text()] if "start" in recipe else []),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the 256 bytes and three special tokens, without merges, with a ChatML-like template."""
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


def tiny_config(name: str) -> Qwen3Config:
    """The configuration of a model of `RECIPES`, which is known before the model is trained."""
    tokenizer = byte_tokenizer()
    head: dict[str, Any] = {"num_labels": 1} if name in REWARDS else {}
    return Qwen3Config(
        **MODEL,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **head,
    )


def _build_policy(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer, recipe, config = byte_tokenizer(), POLICIES[name], tiny_config(name)
    with torch.random.fork_rng():
        torch.manual_seed(recipe["seed"])
        model = Qwen3ForCausalLM(config).float()
    batches = _corpus_batches(corpora.CORPORA[name](), tokenizer, recipe)

    def loss() -> Tensor:
        """Cross-entropy between corpus and model, averaged over prompts."""
        prompts, tokens, mask, weight = next(batches)
        return -(weight * completion_logp(model, prompts, tokens, mask).sum(-1)).sum() / len(prompts.ids)

    _minimise(name, model, loss, recipe)
    return model, tokenizer


def _corpus_batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, recipe: dict[str, Any]
) -> Iterator[tuple[Prompts, Tensor, Tensor, Tensor]]:
    """Yield prompts and completions with their weights: (prompts, tokens, mask, weight).

    A batch contains all completions of a prompt, weighted by their probabilities, so that the bias has no sampling
    noise. Completions are sampled only if a prompt has more than recipe["completions"] of them.
    """
    generator, K = torch.Generator().manual_seed(recipe["seed"]), recipe["completions"]
    encoded = encode_chats(tokenizer, [[{"role": "user", "content": prompt}] for prompt in corpus])
    completions = []
    for probabilities in corpus.values():
        ids = tokenizer(list(probabilities), add_special_tokens=False)["input_ids"]
        rows_of_prompt = [[*row, tokenizer.eos_token_id] for row in ids]
        completions.append((rows_of_prompt, torch.tensor(list(probabilities.values()))))
    while True:
        prompts = torch.arange(len(completions))
        if len(completions) > recipe["prompts"]:
            prompts = torch.randperm(len(completions), generator=generator)[: recipe["prompts"]]
        rows, weights = [], []
        for rows_of_prompt, probability in (completions[i] for i in prompts.tolist()):
            indices, weight = list(range(len(rows_of_prompt))), probability
            if len(rows_of_prompt) > K:
                indices = torch.multinomial(probability, K, replacement=True, generator=generator).tolist()
                weight = torch.full((K,), 1 / K)
            rows += [rows_of_prompt[i] for i in indices] + [rows_of_prompt[0]] * (K - len(indices))
            weights.append(torch.cat([weight, torch.zeros(K - len(weight))]))
        tokens, mask = pad_completions(rows, tokenizer.pad_token_id)
        yield Prompts(encoded.ids[prompts], encoded.mask[prompts]), tokens, mask, torch.cat(weights)


def _build_reward(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    recipe, rater = REWARDS[name], corpora.RATERS[name]
    start = tiny_model(recipe["start"])
    tokenizer = AutoTokenizer.from_pretrained(start)
    with torch.random.fork_rng(), _no_loading_warnings():
        torch.manual_seed(recipe["seed"])
        model = Qwen3ForSequenceClassification.from_pretrained(start, num_labels=1)
    generator = random.Random(recipe["seed"])

    def loss() -> Tensor:
        """Bradley-Terry loss (1952): -log sigmoid(score of the preferred completion - score of the other one)."""
        rows = []
        for topic, *pair in corpora.comparisons(generator, recipe["pairs"]):
            margin = rater.quality(topic, pair[0]) - rater.quality(topic, pair[1])
            better, worse = pair if generator.random() < torch.tensor(margin).sigmoid() else pair[::-1]
            rows += [_conversation(tokenizer, topic, text) for text in (better, worse)]
        ids, mask = pad_completions(rows, tokenizer.pad_token_id)
        score = model(input_ids=ids, attention_mask=mask).logits.view(-1, 2)
        return -torch.nn.functional.logsigmoid(score[:, 0] - score[:, 1]).mean()

    _minimise(name, model, loss, recipe)
    return model, tokenizer


@contextmanager
def _no_loading_warnings() -> Iterator[None]:
    """Suppress the warning that the classification head has no weights yet; it is trained next."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _conversation(tokenizer: PreTrainedTokenizerBase, topic: str, text: str) -> list[int]:
    turns = [{"role": "user", "content": corpora.topic_prompt(topic)}, {"role": "assistant", "content": text}]
    return list(tokenizer.apply_chat_template(turns, return_dict=False))


def _minimise(name: str, model: PreTrainedModel, loss: Callable[[], Tensor], recipe: dict[str, Any]) -> None:
    steps, lr = recipe["steps"], recipe["lr"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
    for _ in tracked(range(steps), f"training the test model {name}"):
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
