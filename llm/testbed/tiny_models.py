"""Small Qwen3-architecture models with a byte-level tokenizer, trained here on made-up corpora and cached.

Policies know the prompts of one task and answer them the way a large model does: mostly well, and biased. Reward
models start from a policy and learn, by Bradley-Terry, from made-up comparisons. One token is one byte, so that every
answer has exactly one token sequence.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.progress import track
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
from launch.runs.console import console
from launch.runs.run_folder import cache_folder, folder_or_hub, lock_folder, write_text
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import Prompts, encode_chats, pad_completions
from llm.testbed import corpora
from llm.testbed.corpora import Corpus

MODEL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
POLICIES: dict[str, dict[str, Any]] = {  # prompts and completions: of a step, drawn where the corpus has more
    "tiny": {"steps": 300, "lr": 3e-3, "prompts": 1, "completions": 7, "seed": 0},
    "tiny_many": {"steps": 300, "lr": 4e-3, "prompts": 6, "completions": 15, "seed": 0},
    "tiny_creative": {"steps": 300, "lr": 4e-3, "prompts": 4, "completions": 8, "seed": 0},
    "tiny_maths": {"steps": 400, "lr": 4e-3, "prompts": 8, "completions": 5, "seed": 0},
}
REWARDS: dict[str, dict[str, Any]] = {
    "tiny_reward": {"start": "tiny_creative", "steps": 200, "lr": 2e-3, "pairs": 16, "seed": 1},
    "tiny_reward_other": {"start": "tiny_creative", "steps": 200, "lr": 2e-3, "pairs": 16, "seed": 2},
}
RECIPES = {**POLICIES, **REWARDS}
PATIENCE = 3600.0  # seconds to wait for another process that builds the same model
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def resolve_model(name: str, recipes: Mapping[str, Any] = RECIPES) -> str:
    """What `from_pretrained` takes for one of `recipes`, which is built or in the cache, a folder, or a hub name."""
    return str(tiny_model(name)) if name in recipes else folder_or_hub(name)


def tiny_model(name: str = "tiny") -> Path:
    """Folder of a model of `RECIPES`, in the form `from_pretrained` loads; built when not in the cache."""
    folder = cache_folder() / f"{name.replace('_', '-')}-{recipe_hash(name)}"
    if not folder.exists():
        workshop = folder.with_name(f".{folder.name}")
        workshop.mkdir(parents=True, exist_ok=True)
        held = lock_folder(workshop, PATIENCE)  # what another process is building is waited for
        try:
            if not folder.exists():
                _build(name, workshop, folder)
        finally:
            if held is not None:
                os.close(held)
    return folder


def _build(name: str, workshop: Path, folder: Path) -> None:
    console.print(f"building and training the model {name} (once; about a minute)")
    model, tokenizer = (_build_policy if name in POLICIES else _build_reward)(name)
    temporary = workshop / str(os.getpid())
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    try:
        temporary.rename(folder)  # a folder appears whole or not at all
    except OSError:  # another process was first, on a file system without locks
        shutil.rmtree(temporary)


def tiny_data(key: str, name: str) -> Path:
    """File of a data set of `corpora.records`, JSON Lines."""
    records = corpora.records(name)
    if records is None:
        raise ConfigError(f"{key}.path: must be a data set of llm.testbed.corpora, got {name}")
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    folder = cache_folder() / f"data-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.jsonl"
    if not file.exists():
        write_text(file, text)
    return file


def recipe_hash(name: str) -> str:
    """Of everything the weights depend on: the recipe, the corpora, this file and the libraries that execute it."""
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


def _build_policy(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer, recipe = byte_tokenizer(), POLICIES[name]
    config = Qwen3Config(
        **MODEL,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe["seed"])
        model = Qwen3ForCausalLM(config).float()
    batches = _corpus_batches(corpora.CORPORA[name](), tokenizer, recipe)

    def loss() -> Tensor:
        """Cross-entropy with the corpus, mean over prompts."""
        prompts, tokens, mask, weight = next(batches)
        return -(weight * completion_logp(model, prompts, tokens, mask).sum(-1)).sum() / len(prompts.ids)

    _minimise(name, model, loss, recipe)
    return model, tokenizer


def _corpus_batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, recipe: dict[str, Any]
) -> Iterator[tuple[Prompts, Tensor, Tensor, Tensor]]:
    """Prompts, and G completions of each with their weights.

    A prompt's completions are all there, weighted by their probabilities, so that no sampling noise enters the bias;
    only where they are more than `recipe.completions` are they drawn.
    """
    generator, K = torch.Generator().manual_seed(recipe["seed"]), recipe["completions"]
    encoded = encode_chats(tokenizer, [[{"role": "user", "content": prompt}] for prompt in corpus])
    said = [
        ([[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(some), add_special_tokens=False)["input_ids"]], p)
        for some in corpus.values()
        for p in [torch.tensor(list(some.values()))]
    ]
    while True:
        chosen = torch.arange(len(said))
        if len(said) > recipe["prompts"]:
            chosen = torch.randperm(len(said), generator=generator)[: recipe["prompts"]]
        rows, weights = [], []
        for ids, probability in (said[i] for i in chosen.tolist()):
            places, weight = list(range(len(ids))), probability
            if len(ids) > K:
                places = torch.multinomial(probability, K, replacement=True, generator=generator).tolist()
                weight = torch.full((K,), 1 / K)
            rows += [ids[i] for i in places] + [ids[0]] * (K - len(places))
            weights.append(torch.cat([weight, torch.zeros(K - len(weight))]))
        tokens, mask = pad_completions(rows, tokenizer.pad_token_id)
        yield Prompts(encoded.ids[chosen], encoded.mask[chosen]), tokens, mask, torch.cat(weights)


def _build_reward(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    recipe, rater = REWARDS[name], corpora.RATERS[name]
    start = tiny_model(recipe["start"])
    tokenizer = AutoTokenizer.from_pretrained(start)
    with torch.random.fork_rng(), _no_report():
        torch.manual_seed(recipe["seed"])
        model = Qwen3ForSequenceClassification.from_pretrained(start, num_labels=1)
    generator = random.Random(recipe["seed"])

    def loss() -> Tensor:
        """Of Bradley-Terry (1952): log sigmoid of what the preferred completion is ahead by."""
        rows = []
        for topic, *pair in corpora.comparisons(generator, recipe["pairs"]):
            ahead = rater.quality(topic, pair[0]) - rater.quality(topic, pair[1])
            better, worse = pair if generator.random() < torch.tensor(ahead).sigmoid() else pair[::-1]
            rows += [_conversation(tokenizer, topic, text) for text in (better, worse)]
        ids, mask = pad_completions(rows, tokenizer.pad_token_id)
        score = model(input_ids=ids, attention_mask=mask).logits.view(-1, 2)
        return -torch.nn.functional.logsigmoid(score[:, 0] - score[:, 1]).mean()

    _minimise(name, model, loss, recipe)
    return model, tokenizer


@contextmanager
def _no_report() -> Iterator[None]:
    """Of the head that has no weights yet: it is trained at once."""
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
    quiet = not console.is_terminal
    for _ in track(range(steps), f"training the model {name}", console=console, transient=True, disable=quiet):
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
