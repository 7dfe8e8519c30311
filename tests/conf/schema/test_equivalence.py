"""The models that compare texts: required by the equivalence that uses them, and by no other."""

from dataclasses import dataclass

import pytest

from conf.schema.base import ConfigError, check_config, key
from conf.schema.equivalence import EQUIVALENCES, EquivalenceSection

from .legality import assert_rejected

EMBEDDING = "transform=darling transform.equivalence=embedding"
CLASSIFIER = "transform=darling transform.equivalence=classifier"
SAMPLED = "generations=a.jsonl"
CASES = [  # rejected overrides, the key that the message names, legal overrides
    (EMBEDDING, "transform.embedder", f"{EMBEDDING} transform.embedder=some/embedder"),
    (CLASSIFIER, "transform.classifier", f"{CLASSIFIER} transform.classifier=some/classifier"),
]


@pytest.mark.parametrize(("rejected", "key", "legal"), CASES)
def test_an_equivalence_needs_its_model(rejected, key, legal):
    assert_rejected("llm", rejected, key, legal)


@pytest.mark.parametrize(
    ("rejected", "key", "legal"),
    [
        (
            f"{SAMPLED} equivalence=embedding embedder=null",
            "embedder",
            f"{SAMPLED} equivalence=exact embedder=null",
        ),
        (
            f"{SAMPLED} equivalence=classifier",
            "classifier",
            f"{SAMPLED} equivalence=classifier classifier=some/model",
        ),
        (f"{SAMPLED} embedding_threshold=1.1", "embedding_threshold", f"{SAMPLED} embedding_threshold=1"),
        (f"{SAMPLED} classifier_threshold=1", "classifier_threshold", f"{SAMPLED} classifier_threshold=0"),
    ],
)
def test_the_same_keys_are_checked_in_evaluation(rejected, key, legal):
    assert_rejected("llm.evaluate", rejected, key, legal)


@dataclass
class Comparison(EquivalenceSection):
    """A section of a package that compares texts."""

    equivalence: str | None = key("how texts are compared", choices=EQUIVALENCES)

    def check(self, prefix):
        """Check that the model of the equivalence is given."""
        self.check_models(prefix, self.equivalence)


MODELS = {"embedding": "embedder", "classifier": "classifier"}


@pytest.mark.parametrize("model", [None, "some/model"])
@pytest.mark.parametrize("equivalence", [None, *EQUIVALENCES])
def test_the_message_names_the_model_and_the_equivalence(equivalence, model):
    values = {"embedder": None, "classifier": None, "classifier_tokenizer": None}
    if equivalence in MODELS:
        values[MODELS[equivalence]] = model
    section = Comparison(**values, embedding_threshold=0.8, classifier_threshold=0.1, equivalence=equivalence)
    if equivalence in MODELS and model is None:
        model_key = MODELS[equivalence]
        message = rf"^part\.{model_key}: must be a folder or hub name with part\.equivalence={equivalence}, got null$"
        with pytest.raises(ConfigError, match=message):
            check_config(section, "part.")
    else:
        check_config(section, "part.")
