"""Equivalence of the completions of a prompt, which `distinct` and `utility` are based on."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from conf.schema.base import ConfigError
from conf.schema.extras import missing_package
from conf.schema.llm import EvaluateConfig
from conf.schema.objective import DiversityConfig, MaraConfig, TransformConfig
from launch.runs.hub import folder_or_hub
from llm.adapters import load_pretrained, load_tokenizer
from llm.inference.prompts import Chat
from llm.tasks.base import Task

SHORT = 5  # words; up to this length NoveltyBench compares words instead of using the classifier
PAIR_TOKENS = 128  # the classifier sees this many tokens of each text, as in NoveltyBench
EQUIVALENT = 1  # index of the classifier's label
MAX_CACHED = 100_000  # texts whose embeddings are cached

Labels = Callable[[Chat, Sequence[str], Sequence[str]], list[str]]  # (prompt, known classes, texts) -> their classes
Partition = Callable[[Sequence[str]], Sequence[int]]  # a prompt's completions -> the class index of each
PromptPartition = Callable[[Chat, Sequence[str]], Sequence[int]]  # the same, where it depends on the prompt
Similarity = Callable[[Sequence[str]], Tensor]  # a prompt's completions -> [G, G] similarity of each pair
# (representative, others) -> which of the others are equivalent to it; indices of completions of one prompt.
Compare = Callable[[int, Sequence[int]], Sequence[bool]]


def greedy_partition(count: int, compare: Compare) -> list[int]:
    """Assign each completion to the first class whose representative, its first member, it is equivalent to.

    Returns:
        The class index of each completion, from 0 in order of appearance.

    Source: Zhang et al. (2025), NoveltyBench, arXiv:2504.05228.
    """
    classes = [-1] * count
    class_count = 0
    for representative in range(count):
        if classes[representative] >= 0:
            continue
        classes[representative] = class_count
        others = [i for i in range(representative + 1, count) if classes[i] < 0]
        for other, same in zip(others, compare(representative, others) if others else (), strict=True):
            if same:
                classes[other] = class_count
        class_count += 1
    return classes


def normalise_text(text: str) -> str:
    """Apply Unicode NFKC and case folding, and collapse white space to single spaces, with none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exact_partition(texts: Sequence[str]) -> list[int]:
    """Texts are equivalent if they are equal after `normalise_text`."""
    normalised = [normalise_text(text) for text in texts]
    return greedy_partition(len(texts), lambda first, others: [normalised[i] == normalised[first] for i in others])


def embedding_partition(embeddings: Tensor, threshold: float) -> list[int]:
    """Texts are equivalent if their embeddings, rows of [N, D], have a cosine similarity of at least `threshold`."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    similarity = unit @ unit.T
    return greedy_partition(len(unit), lambda first, others: (similarity[first, others] >= threshold).tolist())


class Embedder:
    """Sentence embeddings of a sentence-transformers model, with a cache.

    Raises:
        ConfigError: the model or the package cannot be loaded.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        path = folder_or_hub(name)
        self._cache: dict[str, Tensor] = {}
        transformers_logging.disable_progress_bar()
        try:
            from sentence_transformers import SentenceTransformer

            self._model = SentenceTransformer(
                path, device=str(device), trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except ImportError as error:
            reason = missing_package(error) or error
            raise ConfigError(f"embedder: {reason}; or set embedder=null to skip semantic diversity") from None
        except (OSError, ValueError) as error:
            raise ConfigError(_loading_error("embedder", "a sentence-transformers model", name, error)) from None
        self._model.tokenizer.split_special_tokens = True  # a [SEP] that a completion contains is text

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[N] texts -> [N, D] on the CPU."""
        if len(self._cache) > MAX_CACHED:
            self._cache = {}
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if new:
            rows = self._model.encode(new, convert_to_tensor=True, show_progress_bar=False).float().cpu()
            self._cache |= dict(zip(new, rows, strict=True))
        return torch.stack([self._cache[text] for text in texts])


class Classifier:
    """A sequence-pair classifier with the labels different (0) and equivalent (1), as in NoveltyBench.

    Two texts of at most five words each are equivalent if the number of words they share, ignoring case, is at least
    half the length of the longer one. For other texts the classifier decides, from the first 128 tokens of each.

    Args:
        name: folder or hub name of the model.
        tokenizer: folder or hub name of its tokenizer; None if it is in the same place.
        threshold: probability above which a pair is equivalent.
        device: where the model runs.

    Raises:
        ConfigError: model or tokenizer cannot be loaded, or the model does not have two labels.

    Source: Zhang et al. (2025), NoveltyBench, arXiv:2504.05228.
    """

    def __init__(self, name: str, tokenizer: str | None, threshold: float, device: torch.device) -> None:
        self._threshold = threshold
        transformers_logging.disable_progress_bar()
        path, tokenizer_path = map(folder_or_hub, (name, tokenizer or name))
        try:
            self._model, _ = load_pretrained(AutoModelForSequenceClassification, path, dtype=torch.float32)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(_loading_error("classifier", "a sequence classifier", name, error)) from None
        try:
            self._tokenizer: Any = load_tokenizer(tokenizer_path, padding_side="right")
        except (OSError, ValueError) as error:
            raise ConfigError(
                _loading_error("classifier_tokenizer", "the classifier's tokenizer", tokenizer_path, error)
            ) from None
        self._tokenizer.split_special_tokens = True  # a [SEP] that a completion contains is text
        if self._model.config.num_labels != 2:
            raise ConfigError(
                "classifier: must have two labels, different and equivalent, got "
                f"{self._model.config.num_labels} labels in {name}"
            )
        torch.nn.Module.to(self._model, device).eval()

    def partition(self, texts: Sequence[str]) -> list[int]:
        """Class index of each text."""
        return greedy_partition(len(texts), lambda first, others: self.same(texts[first], [texts[i] for i in others]))

    def same(self, first: str, others: Sequence[str]) -> list[bool]:
        """Whether each of the other texts is equivalent to the first."""
        verdicts = [same_words(first, other) for other in others]
        undecided = [i for i, verdict in enumerate(verdicts) if verdict is None]
        if undecided:
            probabilities = self.probability(first, [others[i] for i in undecided])
            for i, probability in zip(undecided, probabilities.tolist(), strict=True):
                verdicts[i] = probability > self._threshold
        return [bool(verdict) for verdict in verdicts]

    @torch.inference_mode()
    def probability(self, first: str, others: Sequence[str]) -> Tensor:
        """Probability of label 1 for each pair (first, other): [N]."""
        has_token_types = getattr(self._model.config, "type_vocab_size", 0) > 1  # not every tokenizer knows this
        pairs = self._tokenizer(
            [self._truncate(first)] * len(others),
            [self._truncate(other) for other in others],
            padding=True,
            return_tensors="pt",
            return_token_type_ids=has_token_types,
        )
        logits = self._model(**pairs.to(self._model.device)).logits
        return logits.double().softmax(-1)[:, EQUIVALENT].cpu()

    def _truncate(self, text: str) -> str:
        """The part of a text that its first 128 tokens cover."""
        offsets = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return text if len(offsets) <= PAIR_TOKENS else text[: offsets[PAIR_TOKENS - 1][1]]


def make_equivalence(
    config: EvaluateConfig | DiversityConfig | MaraConfig, embed: Embedder | None, device: torch.device
) -> tuple[Callable[[Sequence[str]], list[int]], str]:
    """The partition that `config.equivalence` names, and its description for summary.json.

    Raises:
        ConfigError: the classifier cannot be loaded.
    """
    if config.equivalence == "exact":
        return exact_partition, "exact, after NFKC, case folding, and white space made one space"
    if config.equivalence == "embedding" and embed is not None:
        threshold = config.embedding_threshold
        description = f"embedding: cosine similarity >= {threshold:g} by {config.embedder}"
        return lambda texts: embedding_partition(embed(texts), threshold), description
    if config.equivalence == "classifier" and config.classifier is not None:
        model = Classifier(config.classifier, config.classifier_tokenizer, config.classifier_threshold, device)
        description = f"classifier: probability > {config.classifier_threshold:g} by {config.classifier}, the first "
        description += f"{PAIR_TOKENS} tokens; half of the words where both have at most {SHORT}"
        return model.partition, description
    raise ValueError(f"equivalence: must be exact, embedding or classifier, got {config.equivalence}")


def make_partition(transform: TransformConfig, task: Task, device: torch.device) -> PromptPartition | None:
    """The partition that the reward transform uses; None if it does not need one.

    Raises:
        ConfigError: a model of the partition cannot be loaded.
    """
    if not isinstance(transform, DiversityConfig) or transform.compared_by != "classes":
        return None
    if transform.equivalence == "answer":
        return lambda prompt, texts: class_indices([task.answer_to(prompt, text) for text in texts])
    partition = _load_partition(transform, device)
    return lambda prompt, texts: partition(texts)


def make_similarity(transform: TransformConfig, device: torch.device) -> Similarity | None:
    """The similarity of a prompt's completions that the reward transform uses; None if it uses classes or nothing.

    Raises:
        ConfigError: the embedder cannot be loaded.
    """
    if not isinstance(transform, DiversityConfig) or transform.compared_by != "embedding":
        return None
    try:
        embed = Embedder(str(transform.embedder), device)
    except ConfigError as error:
        raise ConfigError(f"transform.{error}") from None

    def similarity(texts: Sequence[str]) -> Tensor:
        unit = torch.nn.functional.normalize(embed(texts).double(), dim=-1)
        return unit @ unit.T

    return similarity


def _load_partition(transform: DiversityConfig | MaraConfig, device: torch.device) -> Partition:
    """The partition of a transform's equivalence; an error names the key in the transform."""
    try:
        embed = Embedder(str(transform.embedder), device) if transform.equivalence == "embedding" else None
        return make_equivalence(transform, embed, device)[0]
    except ConfigError as error:
        raise ConfigError(f"transform.{error}") from None


def make_labels(transform: TransformConfig, task: Task, device: torch.device) -> Labels | None:
    """The function that names the class of each completion; None for transforms that need no names.

    MARA over answers needs them, and a transform that counts the answers of a run. The function is given the classes
    of the prompt that are known already. A class of an embedding or a classifier is named by its first text, and a
    text belongs to the first class whose name it is equivalent to, so that classes last over a run.

    Raises:
        ConfigError: a model of the equivalence cannot be loaded.
    """
    masses = isinstance(transform, MaraConfig) and transform.level == "answer"
    counts = isinstance(transform, DiversityConfig) and transform.compared_by == "counts"
    if not isinstance(transform, MaraConfig | DiversityConfig) or not (masses or counts):
        return None
    if transform.equivalence == "answer":
        return lambda prompt, known, texts: [task.answer_to(prompt, text) for text in texts]
    if transform.equivalence == "exact":
        return lambda prompt, known, texts: [normalise_text(text) for text in texts]
    partition = _load_partition(transform, device)

    def labels(prompt: Chat, known: Sequence[str], texts: Sequence[str]) -> list[str]:
        everything = [*known, *texts]
        classes = list(partition(everything))
        return [everything[classes.index(index)] for index in classes[len(known) :]]

    return labels


def class_indices(values: Sequence[str]) -> list[int]:
    """The class index of each value, with one class for equal values."""
    index = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return [index[value] for value in values]


def group_classes(chats: Sequence[Chat], texts: Sequence[str], partition: PromptPartition) -> Tensor:
    """[P, G] class indices of G consecutive texts for each of P prompts, within each group."""
    size = len(texts) // len(chats)
    groups = (texts[first : first + size] for first in range(0, len(texts), size))
    return torch.tensor([list(partition(chat, group)) for chat, group in zip(chats, groups, strict=True)])


def same_words(a: str, b: str) -> bool | None:
    """NoveltyBench's rule for two texts of at most five words each; None if one is longer."""
    words_a, words_b = a.lower().split(), b.lower().split()
    longest = max(len(words_a), len(words_b))
    return 2 * len(set(words_a) & set(words_b)) >= longest if longest <= SHORT else None


def _loading_error(key: str, kind: str, name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{key}: must be a folder or hub name of {kind}, got {name} ({reason})"
