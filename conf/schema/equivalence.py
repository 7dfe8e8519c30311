"""When two completions count as the same: keys shared by evaluation and the transforms that use diversity."""

from dataclasses import dataclass

from conf.schema.base import ConfigError, Section, key

EQUIVALENCES = ("exact", "embedding", "classifier")


@dataclass
class EquivalenceSection(Section):
    """The models that `llm.evaluation.equivalence` compares texts with.

    A subclass adds the key `equivalence`, which chooses how texts are compared.
    """

    embedder: str | None = key(
        "sentence-transformers model (folder or hub name), for equivalence=embedding and semantic diversity"
    )
    embedding_threshold: float = key(
        "completions with at least this cosine similarity are equivalent", low=-1, high=1
    )
    classifier: str | None = key("sequence-pair classifier (folder or hub name), for equivalence=classifier")
    classifier_tokenizer: str | None = key("tokenizer of the classifier (folder or hub name); null: its own")
    classifier_threshold: float = key(
        "completions are equivalent if the classifier's probability is above this", low=0, below=1
    )

    def check_models(self, prefix: str, equivalence: str | None) -> None:
        """Raise ConfigError if the equivalence needs a model that is not given."""
        for name, model in (("embedding", "embedder"), ("classifier", "classifier")):
            if equivalence == name and getattr(self, model) is None:
                raise ConfigError(
                    f"{prefix}{model}: must be a folder or hub name with {prefix}equivalence={name}, got null"
                )
