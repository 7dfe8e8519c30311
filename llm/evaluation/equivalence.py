"""Which completions of a prompt say the same: the equivalence that `distinct` and `utility` count by."""

import unicodedata
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from conf.schema.base import ConfigError
from conf.schema.llm import EvaluateConfig
from conf.schema.objective import DarlingConfig, TransformConfig
from launch.runs.run_folder import folder_or_hub
from llm.tasks.base import Task

SHORT = 5  # words: up to there NoveltyBench compares words instead of asking the classifier
PAIR_TOKENS = 128  # of each text, as in NoveltyBench
EQUIVALENT = 1  # the classifier's label
KEPT = 100_000  # texts whose embeddings are remembered

Partition = Callable[[Sequence[str]], Sequence[int]]  # a prompt's completions -> the number of each one's class
# (representative, others) -> which of the others are equivalent to it; numbers of completions of one prompt.
Compare = Callable[[int, Sequence[int]], Sequence[bool]]


def greedy_partition(count: int, compare: Compare) -> list[int]:
    """Each completion joins the first class whose representative, its first member, it is equivalent to.

    Returns:
        The number of each one's class, from 0 in order of appearance.

    Source: Zhang et al. (2025), NoveltyBench, arXiv:2504.05228.
    """
    classes = [-1] * count
    opened = 0
    for representative in range(count):
        if classes[representative] >= 0:
            continue
        classes[representative] = opened
        others = [i for i in range(representative + 1, count) if classes[i] < 0]
        for other, same in zip(others, compare(representative, others) if others else (), strict=True):
            if same:
                classes[other] = opened
        opened += 1
    return classes


def normalised(text: str) -> str:
    """Unicode NFKC, case folded, every run of white space one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exact_partition(texts: Sequence[str]) -> list[int]:
    """Texts that are equal once `normalised` are equivalent."""
    keys = [normalised(text) for text in texts]
    return greedy_partition(len(texts), lambda first, others: [keys[i] == keys[first] for i in others])


def embedding_partition(embeddings: Tensor, threshold: float) -> list[int]:
    """Rows, [N, D], with a cosine similarity of at least `threshold` are equivalent."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    similarity = unit @ unit.T
    return greedy_partition(len(unit), lambda first, others: (similarity[first, others] >= threshold).tolist())


class Embedder:
    """Sentence embeddings by a sentence-transformers model; a text's is computed once and kept.

    Raises:
        ConfigError: the model, or the package, cannot be loaded.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        path = folder_or_hub(name)
        self._known: dict[str, Tensor] = {}
        transformers_logging.disable_progress_bar()
        try:
            from sentence_transformers import SentenceTransformer

            self._model = SentenceTransformer(
                path, device=str(device), trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except ImportError as error:
            raise ConfigError(
                f"embedder: pip install -e .[evaluation] brings what it needs, got no {error.name} (embedder=null "
                "leaves semantic diversity out)"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(_unloadable("embedder", "a sentence-transformers model", name, error)) from None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[N] texts -> [N, D] on the CPU."""
        if len(self._known) > KEPT:
            self._known = {}
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            rows = self._model.encode(new, convert_to_tensor=True, show_progress_bar=False).float().cpu()
            self._known |= dict(zip(new, rows, strict=True))
        return torch.stack([self._known[text] for text in texts])


class Classifier:
    """A sequence-pair classifier with labels different (0) and equivalent (1), as NoveltyBench uses one.

    Two texts of at most five words each are equivalent where at least half of the longer one's words, as many as it
    has, are common to both, ignoring case; of others the classifier decides, from the first 128 tokens of each.

    Args:
        threshold: probability above which a pair is equivalent.

    Raises:
        ConfigError: model or tokenizer cannot be loaded, or it does not have two labels.

    Source: Zhang et al. (2025), NoveltyBench, arXiv:2504.05228.
    """

    def __init__(self, name: str, tokenizer: str | None, threshold: float, device: torch.device) -> None:
        self._threshold = threshold
        transformers_logging.disable_progress_bar()
        path, words = map(folder_or_hub, (name, tokenizer or name))
        try:
            self._model = AutoModelForSequenceClassification.from_pretrained(
                path, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            raise ConfigError(_unloadable("classifier", "a sequence classifier", name, error)) from None
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(words, trust_remote_code=False, padding_side="right")
        except (OSError, ValueError) as error:
            raise ConfigError(
                _unloadable("classifier_tokenizer", "the classifier's tokenizer", words, error)
            ) from None
        if self._model.config.num_labels != 2:
            raise ConfigError(
                f"classifier: must have two labels, different and equivalent, got {self._model.config.num_labels} "
                f"in {name}"
            )
        torch.nn.Module.to(self._model, device).eval()

    def partition(self, texts: Sequence[str]) -> list[int]:
        return greedy_partition(len(texts), lambda first, others: self.same(texts[first], [texts[i] for i in others]))

    def same(self, first: str, others: Sequence[str]) -> list[bool]:
        """Whether each of the others is equivalent to the first."""
        found = [same_words(first, other) for other in others]
        asked = [i for i, same in enumerate(found) if same is None]
        if asked:
            probabilities = self.probability(first, [others[i] for i in asked])
            for i, probability in zip(asked, probabilities.tolist(), strict=True):
                found[i] = probability > self._threshold
        return [bool(same) for same in found]

    @torch.inference_mode()
    def probability(self, first: str, others: Sequence[str]) -> Tensor:
        """Of label 1, [N], for the pairs (first, other)."""
        pairs = self._tokenizer(
            [self._cut(first)] * len(others),
            [self._cut(other) for other in others],
            padding=True,
            return_tensors="pt",
            return_token_type_ids=getattr(self._model.config, "type_vocab_size", 0)
            > 1,  # not every tokenizer's default
        )
        logits = self._model(**pairs.to(self._model.device)).logits
        return logits.double().softmax(-1)[:, EQUIVALENT].cpu()

    def _cut(self, text: str) -> str:
        """The text of its first 128 tokens."""
        offsets = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return text if len(offsets) <= PAIR_TOKENS else text[: offsets[PAIR_TOKENS - 1][1]]


def make_equivalence(
    config: EvaluateConfig | DarlingConfig, embed: Embedder | None, device: torch.device
) -> tuple[Callable[[Sequence[str]], list[int]], str]:
    """The partition that `equivalence` names, and what it does in words.

    Raises:
        ConfigError: the classifier cannot be loaded.
    """
    if config.equivalence == "exact":
        return exact_partition, "exact, after NFKC, case folding, and white space made one space"
    if config.equivalence == "embedding" and embed is not None:
        threshold = config.embedding_threshold
        words = f"embedding: cosine similarity >= {threshold:g} by {config.embedder}"
        return lambda texts: embedding_partition(embed(texts), threshold), words
    if config.equivalence == "classifier" and config.classifier is not None:
        model = Classifier(config.classifier, config.classifier_tokenizer, config.classifier_threshold, device)
        words = f"classifier: probability > {config.classifier_threshold:g} by {config.classifier}, the first "
        words += f"{PAIR_TOKENS} tokens; half of the words where both have at most {SHORT}"
        return model.partition, words
    raise ValueError(f"equivalence: must be exact, embedding or classifier, got {config.equivalence}")


def make_partition(transform: TransformConfig, task: Task, device: torch.device) -> Partition | None:
    """The partition by which the transform counts completions as the same; None where it needs none.

    Raises:
        ConfigError: a model that it needs cannot be loaded.
    """
    if not isinstance(transform, DarlingConfig):
        return None
    if transform.equivalence == "answer":
        return lambda texts: class_numbers([task.answer(text) for text in texts])
    try:
        embed = Embedder(str(transform.embedder), device) if transform.equivalence == "embedding" else None
        return make_equivalence(transform, embed, device)[0]
    except ConfigError as error:
        raise ConfigError(f"transform.{error}") from None


def class_numbers(values: Sequence[str]) -> list[int]:
    """The number of each value's class, equal values being one class."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [numbers[value] for value in values]


def group_classes(texts: Sequence[str], group: int, partition: Partition) -> Tensor:
    """[P, G] classes of the completions within their groups, `group` consecutive texts each."""
    return torch.tensor([list(partition(texts[first : first + group])) for first in range(0, len(texts), group)])


def same_words(a: str, b: str) -> bool | None:
    """NoveltyBench's rule for texts of at most five words each; None for longer ones."""
    one, other = a.lower().split(), b.lower().split()
    longest = max(len(one), len(other))
    return 2 * len(set(one) & set(other)) >= longest if longest <= SHORT else None


def _unloadable(key: str, kind: str, name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{key}: must be a folder or hub name of {kind}, got {name} ({reason})"
