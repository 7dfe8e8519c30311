"""When two completions count as the same: keys shared by evaluation and by transforms that look at diversity."""

from dataclasses import dataclass

from conf.schema.base import ConfigError, Section, key

EQUIVALENCES = ("exact", "embedding", "classifier")


@dataclass
class EquivalenceSection(Section):
    """Of texts, by `llm.evaluation.equivalence`; the subclass adds `equivalence`, which chooses one."""

    embedder: str | None = key(
        "sentence-transformers model (folder or hub name) for equivalence=embedding and semantic diversity"
    )
    embedding_threshold: float = key("cosine similarity from which two completions are equivalent", low=-1, high=1)
    classifier: str | None = key("sequence-pair classifier (folder or hub name) for equivalence=classifier")
    classifier_tokenizer: str | None = key("its tokenizer (folder or hub name); null: the classifier's own")
    classifier_threshold: float = key("probability above which two completions are equivalent", low=0, below=1)

    def check_models(self, prefix: str, equivalence: str | None) -> None:
        """Raise ConfigError where the equivalence needs a model that is not given."""
        for name, model in (("embedding", "embedder"), ("classifier", "classifier")):
            if equivalence == name and getattr(self, model) is None:
                raise ConfigError(
                    f"{prefix}{model}: must be a folder or hub name with {prefix}equivalence={name}, got null"
                )
