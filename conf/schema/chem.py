"""python -m chem, chem.pretrain, chem.evaluate and chem.stock."""

from dataclasses import dataclass, replace

from conf.schema.base import ConfigError, Section, check_range, key, option
from conf.schema.oracle import OracleConfig
from conf.schema.run import JobConfig, RunConfig, TrainingConfig
from core.rules import LOSSES, Choices

FILTERS = ("none", "identical_murcko", "topological", "similarity")
PENALTIES = ("step", "sigmoid", "linear", "tanh")
SCREENS = "scores from which a molecule counts in the closing figures (yield, OB, IntDiv1, #Circles)"


def check_screens(screens: list[float]) -> None:
    if not screens or len(set(screens)) < len(screens):
        raise ConfigError(f"screens: must be different scores, at least one, got {screens}")


@dataclass
class NetworkConfig(Section):
    """A network over SMILES tokens, in `chem.models`."""

    name: str = key("set by network=NAME")


@option("network", "lstm", "gru")
@dataclass
class RecurrentConfig(NetworkConfig):
    """REINVENT's: embedding, LSTM or GRU layers, linear output."""

    name: str = key("set by network=NAME", choices=("lstm", "gru"))
    layers: int = key("recurrent layers", low=1)
    hidden: int = key("width of a layer", low=1)
    embedding: int = key("width of the embedding", low=1)
    dropout: float = key("between layers", low=0, below=1)


@option("network", "transformer")
@dataclass
class TransformerConfig(NetworkConfig):
    """Decoder-only."""

    name: str = key("set by network=NAME", choices=("transformer",))
    layers: int = key("blocks", low=1)
    width: int = key("of the hidden states", low=1)
    heads: int = key("of attention, a divisor of width", low=1)
    positions: int = key("tokens of the longest sequence that can be read", low=1)
    dropout: float = key("after attention and perceptron", low=0, below=1)

    def check(self, prefix: str) -> None:
        if self.width % self.heads:
            raise ConfigError(f"{prefix}heads: must divide {prefix}width, got {self.heads} and {self.width}")


@dataclass
class MoleculeFilterConfig(Section):
    """Which molecules a prior is trained on."""

    elements: list[str] = key("symbols of the elements that a molecule may have")
    min_heavy_atoms: int = key("of a molecule", low=1)
    max_heavy_atoms: int = key("of a molecule")
    max_tokens: int = key("of the canonical SMILES, the end token included", low=2)
    min_token_count: int = key("molecules with a token that fewer molecules have are left out", low=1)
    largest_fragment: bool = key("keep the largest fragment of a salt or mixture; false: leave such molecules out")

    def check(self, prefix: str) -> None:
        if not self.elements:
            raise ConfigError(f"{prefix}elements: must be symbols of elements, got []")
        low, note = self.min_heavy_atoms, f" ({prefix}min_heavy_atoms)"
        check_range(f"{prefix}max_heavy_atoms", self.max_heavy_atoms, low=low, note=note)


@dataclass
class PretrainConfig(TrainingConfig):
    """A prior from a file of SMILES."""

    data: str = key("a file of SMILES, plain or gzipped")
    init: str | None = key("a prior's folder to continue from, or shipped; null: fresh weights")
    filter: MoleculeFilterConfig = key("which molecules to train on")
    spelling: str = key("of the SMILES in training", choices=("canonical", "randomised"))
    validation_share: float = key("of the molecules, held out", above=0, below=1)
    network: NetworkConfig = key("lstm, gru or transformer, with its sizes")
    epochs: int = key("passes over the molecules", low=1)
    batch_size: int = key("molecules of an update", low=1)
    evaluate_every: int | None = key("updates between validations; null: once per epoch", low=1)
    patience: int | None = key("validations without improvement before training stops; null: never", low=1)
    max_tokens: int = key("longest sequence that the prior may draw, the end token included")
    report_samples: int = key("molecules drawn for the report", low=1)

    def check(self, prefix: str) -> None:
        check_range("max_tokens", self.max_tokens, low=self.filter.max_tokens, note=" (filter.max_tokens)")
        if isinstance(self.network, TransformerConfig):
            check_range("network.positions", self.network.positions, low=self.max_tokens, note=" (max_tokens)")


@dataclass
class ReplayConfig(Section):
    """What is learned from again: the best molecules so far."""

    size: int = key("best molecules remembered; 0: none", low=0)
    sample: int = key("of them that join each batch", low=0)
    augmentations: int = key("updates after each step with batch and memory spelled anew (augmented memory)", low=0)
    purge: bool = key("forget molecules that the diversity filter penalises (selective memory purge)")

    def check(self, prefix: str) -> None:
        check_range(f"{prefix}sample", self.sample, high=self.size, note=f" ({prefix}size)")


@dataclass
class DiversityFilterConfig(Section):
    """Which molecules share a bucket, and what they lose by it; `chem.filters`."""

    name: str = key("which molecules share a bucket: those with the same or a similar scaffold", choices=FILTERS)
    penalty: str = key("how the reward falls as a bucket fills", choices=PENALTIES)
    bucket_size: int = key("molecules of a full bucket", low=1)
    min_score: float = key("raw score from which a molecule enters a bucket", low=0, high=1)
    min_similarity: float = key("of scaffolds in one bucket, with name=similarity", low=0, high=1)


@dataclass
class StopConfig(Section):
    """When a run ends before its steps and its budget do; shares over the last `window` steps, null: never."""

    window: int = key("steps that the shares below are taken over", low=1)
    min_validity: float | None = key("stop when fewer samples are valid; null: never", low=0, high=1)
    min_uniqueness: float | None = key(
        "... fewer valid molecules of a batch are distinct; null: never", low=0, high=1
    )
    min_scaffolds: float | None = key("... fewer distinct scaffolds among the valid; null: never", low=0, high=1)
    max_repeats: float | None = key("... more of the valid were met in an earlier step; null: never", low=0, high=1)


@dataclass
class ChemConfig(RunConfig):
    """Post-training of a prior over SMILES."""

    prior: str = key("shipped (ZINC), or a folder that chem.pretrain or chem.convert wrote")
    oracle: OracleConfig = key("what is asked about a molecule (docs/oracles.md)")
    loss: str = key(
        "policy_gradient; reinvent: (log prior + sigma R - log policy)^2 with sigma = 1 / objective.beta",
        choices=LOSSES,
    )
    batch_size: int = key("molecules drawn at a step; the batch is one group")
    budget: int | None = key(
        "distinct molecules that the oracle is asked about, cached answers included; null: any number", low=1
    )
    duplicates: str = key(
        "of a molecule within a batch: keep; drop: they do not count; zero: their reward is 0",
        choices=("keep", "drop", "zero"),
    )
    replay: ReplayConfig = key("the best molecules so far, learned from again")
    diversity_filter: DiversityFilterConfig = key("scaffolds that have had their share are worth less")
    stop: StopConfig = key("when a run ends early")
    cache: str | None = key("of the oracle's answers: shared by all runs (in MARA_CACHE), a file, or null for none")
    screens: list[float] = key(SCREENS)

    def check(self, prefix: str) -> None:
        super().check(prefix)
        check_range("batch_size", self.batch_size, low=1 if self.advantage == "no_baseline" else 2)
        check_screens(self.screens)
        if self.transform.name == "darling" and (self.replay.sample or self.replay.augmentations):
            raise ConfigError(
                "replay: must be off with transform=darling, whose diversity is of the batch alone, got "
                f"sample={self.replay.sample} and augmentations={self.replay.augmentations}"
            )
        if self.diversity_filter.name == "none" and self.replay.purge:
            raise ConfigError("replay.purge: must be false with diversity_filter.name=none, got true")

    def choices(self) -> Choices:
        return replace(super().choices(), loss=self.loss)


@dataclass
class ChemEvaluateConfig(JobConfig):
    """A CSV of molecules and scores in the order they were generated."""

    file: str = key("CSV with a header, one generated string per line, repeats and invalid ones included if known")
    smiles_column: str = key("column of the SMILES")
    score_column: str = key("column of the scores; an empty score is one that the oracle did not give")
    screens: list[float] = key(SCREENS)
    circle_distance: float = key("Tanimoto distance above which #Circles counts two molecules", low=0, below=1)
    shown: int = key("best molecules in the picture", low=1)
    known: str | None = key(
        "SMILES of the prior's training set, plain or gzipped, for the novelty; null: not measured"
    )

    def check(self, prefix: str) -> None:
        check_screens(self.screens)


@dataclass
class StockConfig(JobConfig):
    """The default inventory of building blocks, and what can be made from it."""

    max_atoms: int = key("heavy atoms of a piece that is kept", low=1)
    max_depth: int = key("successive reactions by which a molecule is broken down", low=0)
    inventory: str = key("make; default: measure the one that comes with the project; or a file to measure")
    molecules: str | None = key("SMILES to find routes for, plain or gzipped; null: drawn from the shipped prior")
    count: int = key("molecules to find routes for, chosen at random", low=1)
    depth: int = key("successive reactions of a route, at most", low=1)
    workers: int | None = key("processes; null: one per core", low=1)
