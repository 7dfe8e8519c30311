"""python -m chem, chem.pretrain, chem.evaluate and chem.stock."""

from dataclasses import dataclass, replace
from typing import ClassVar

from conf.schema.base import ConfigError, Section, check_range, key, option
from conf.schema.oracle import OracleConfig
from conf.schema.run import JobConfig, RunConfig, TrainingConfig
from core.rules import LOSSES, Choices

FILTERS = ("none", "identical_murcko", "topological", "similarity")
PENALTIES = ("step", "sigmoid", "linear", "tanh")
SCREENS = "score thresholds at which the final metrics (yield, OB, IntDiv1, #Circles) are computed"


def _check_screens(screens: list[float]) -> None:
    if not screens or len(set(screens)) < len(screens):
        raise ConfigError(f"screens: must be a list of one or more different scores, got {screens}")


@dataclass
class NetworkConfig(Section):
    """A network over SMILES tokens (`chem.models`)."""

    name: str = key("set by network=NAME")


@option("network", "lstm", "gru")
@dataclass
class RecurrentConfig(NetworkConfig):
    """REINVENT's network: an embedding, LSTM or GRU layers, and a linear output."""

    name: str = key("set by network=NAME", choices=("lstm", "gru"))
    layers: int = key("number of recurrent layers", low=1, high=1000)
    hidden: int = key("width of a layer", low=1, high=10**6)
    embedding: int = key("width of the embedding", low=1, high=10**6)
    dropout: float = key("dropout between layers", low=0, below=1)


@option("network", "transformer")
@dataclass
class TransformerConfig(NetworkConfig):
    """A decoder-only transformer."""

    name: str = key("set by network=NAME", choices=("transformer",))
    layers: int = key("number of blocks", low=1, high=1000)
    width: int = key("width of the hidden states", low=1, high=10**6)
    heads: int = key("number of attention heads, a divisor of width", low=1, high=10**6)
    positions: int = key("maximum length of a sequence, in tokens", low=1, high=10**6)
    dropout: float = key("dropout after attention and after the perceptron", low=0, below=1)

    def check(self, prefix: str) -> None:
        """Check that the heads divide the width."""
        if self.width % self.heads:
            raise ConfigError(f"{prefix}heads: must divide {prefix}width, got {self.heads} and {self.width}")


@dataclass
class MoleculeFilterConfig(Section):
    """Which molecules a prior is trained on."""

    elements: list[str] = key("elements that a molecule may contain, by symbol")
    min_heavy_atoms: int = key("minimum number of heavy atoms", low=1)
    max_heavy_atoms: int = key("maximum number of heavy atoms")
    max_tokens: int = key("maximum number of tokens of the canonical SMILES, end token included", low=2, high=10**6)
    min_token_count: int = key("leave out molecules with a token that fewer molecules than this have", low=1)
    largest_fragment: bool = key("keep the largest fragment of a salt or mixture; false: leave such molecules out")

    def check(self, prefix: str) -> None:
        """Check that there are elements, and that the largest size is not below the smallest."""
        if not self.elements:
            raise ConfigError(f"{prefix}elements: must be a list of element symbols, got []")
        low, note = self.min_heavy_atoms, f" ({prefix}min_heavy_atoms)"
        check_range(f"{prefix}max_heavy_atoms", self.max_heavy_atoms, low=low, note=note)


@dataclass
class PretrainConfig(TrainingConfig):
    """Pretraining of a prior on a file of SMILES."""

    data: str = key("file of SMILES, plain or gzipped")
    init: str | None = key("prior to continue from: a folder, or shipped; null: random weights")
    filter: MoleculeFilterConfig = key("which molecules to train on")
    spelling: str = key("SMILES that are trained on", choices=("canonical", "randomised"))
    validation_share: float = key("share of the molecules that is held out for validation", above=0, below=1)
    network: NetworkConfig = key("lstm, gru or transformer, with its sizes")
    epochs: int = key("passes over the molecules", low=1, high=10**6)
    batch_size: int = key("molecules per update", low=1, high=10**6)
    evaluate_every: int | None = key("updates between validations; null: one validation per epoch", low=1)
    patience: int | None = key("stop after this many validations without improvement; null: never", low=1)
    max_tokens: int = key("maximum number of tokens that the prior samples, end token included", high=10**6)
    report_samples: int = key("molecules sampled for the report", low=1, high=10**7)

    def check(self, prefix: str) -> None:
        """Check that the prior can sample, and the network read, the longest molecule."""
        check_range("max_tokens", self.max_tokens, low=self.filter.max_tokens, note=" (filter.max_tokens)")
        if isinstance(self.network, TransformerConfig):
            check_range("network.positions", self.network.positions, low=self.max_tokens, note=" (max_tokens)")


@dataclass
class GeneticConfig(Section):
    """A genetic algorithm over the replay memory (`chem.breeding`)."""

    offspring: int = key(
        "molecules that are bred from the memory in each step, scored within the budget and remembered; 0: none",
        low=0,
        high=10**5,
    )
    mutation: float = key("share of the bred molecules that are mutated after crossover", low=0, high=1)
    pressure: float = key(
        "parents of rank 0, 1, ... are drawn with weights 1 / (pressure * size + rank); small: mostly the best",
        above=0,
    )


@dataclass
class ReplayConfig(Section):
    """Replay of the best molecules so far."""

    size: int = key("number of best molecules to remember; 0: no replay", low=0, high=10**7)
    sample: int = key("number of remembered molecules that are added to each batch", low=0, high=10**6)
    augmentations: int = key(
        "additional updates per step on the batch and the memory, with randomised SMILES (augmented memory)",
        low=0,
        high=10**4,
    )
    purge: bool = key("forget molecules that the diversity filter penalises (selective memory purge)")
    genetic: GeneticConfig = key("a genetic algorithm over the memory")

    def check(self, prefix: str) -> None:
        """Check that the sample is not larger than the memory."""
        check_range(f"{prefix}sample", self.sample, high=self.size, note=f" ({prefix}size)")
        if self.genetic.offspring and not (self.size and self.sample + self.augmentations):
            raise ConfigError(
                f"{prefix}genetic.offspring: must be 0 without a replay memory, which {prefix}size and "
                f"{prefix}sample or {prefix}augmentations turn on, got {self.genetic.offspring}"
            )


@dataclass
class DiversityFilterConfig(Section):
    """Buckets of molecules with the same scaffold, whose reward falls as a bucket fills (`chem.filters`)."""

    name: str = key("how scaffolds are compared; molecules with the same scaffold share a bucket", choices=FILTERS)
    penalty: str = key("how the reward falls as a bucket fills", choices=PENALTIES)
    bucket_size: int = key("number of molecules of a full bucket", low=1)
    min_score: float = key("molecules with at least this raw score enter a bucket", low=0, high=1)
    min_similarity: float = key("with name=similarity, minimum similarity of scaffolds in one bucket", low=0, high=1)


@dataclass
class StopConfig(Section):
    """When a run ends before its steps or its budget are used up."""

    window: int = key("number of last steps over which the following shares are averaged", low=1, high=10**6)
    min_validity: float | None = key("stop if the share of valid samples is below this; null: never", low=0, high=1)
    min_uniqueness: float | None = key(
        "stop if the share of distinct molecules among the valid ones of a batch is below this; null: never",
        low=0,
        high=1,
    )
    min_scaffolds: float | None = key(
        "stop if the number of distinct scaffolds per valid molecule is below this; null: never", low=0, high=1
    )
    max_repeats: float | None = key(
        "stop if the share of valid molecules that were sampled in an earlier step is above this; null: never",
        low=0,
        high=1,
    )


@dataclass
class ChemConfig(RunConfig):
    """Post-training of a prior over SMILES."""

    equivalences: ClassVar[tuple[str, ...]] = ("answer", "scaffold")

    prior: str = key("the reference: shipped (trained on ZINC), or a folder written by chem.pretrain or chem.convert")
    oracle: OracleConfig = key("how molecules are scored (docs/oracles.md)")
    loss: str = key(
        "policy_gradient; reinvent: (log prior + sigma R - log policy)^2 with sigma = 1 / objective.beta",
        choices=LOSSES,
    )
    batch_size: int = key("molecules sampled per step; the batch is one group", high=10**6)
    budget: int | None = key(
        "maximum number of distinct molecules that are scored, including cached ones; null: no limit", low=1
    )
    duplicates: str = key(
        "repeats of a molecule within a batch: keep them, drop them, or set their reward to zero",
        choices=("keep", "drop", "zero"),
    )
    replay: ReplayConfig = key("replay of the best molecules so far")
    diversity_filter: DiversityFilterConfig = key("lower rewards for scaffolds that were often sampled")
    stop: StopConfig = key("when a run ends early")
    cache: str | None = key("cache of scores: shared (by all runs, in MARA_CACHE), a file, or null for none")
    screens: list[float] = key(SCREENS)

    def check(self, prefix: str) -> None:
        """Check the size of the batch, and replay with the options that exclude it."""
        super().check(prefix)
        self.check_group_size("batch_size", self.batch_size)
        _check_screens(self.screens)
        if self.transform.name == "darling" and (self.replay.sample or self.replay.augmentations):
            raise ConfigError(
                "replay: must be off with transform=darling, whose diversity is that of the sampled batch; set "
                f"replay.sample and replay.augmentations to 0, got {self.replay.sample} and "
                f"{self.replay.augmentations}"
            )
        if (
            self.choices().needs_masses
            and self.choices().mass == "group"
            and self.replay.augmentations + self.replay.sample
        ):
            raise ConfigError(
                "transform.mass: must be remembered or reference with replay, whose molecules are not samples of the "
                "policy; or set replay.sample and replay.augmentations to 0, got group"
            )
        if self.diversity_filter.name == "none" and self.replay.purge:
            raise ConfigError(
                "replay.purge: must be false with diversity_filter.name=none, because no molecule is penalised, got "
                "true"
            )

    def choices(self) -> Choices:
        """Return the choices that the rules of `core.rules` are about, with the loss."""
        return replace(super().choices(), loss=self.loss)


@dataclass
class ChemEvaluateConfig(JobConfig):
    """A CSV file of molecules and scores, in the order in which they were generated."""

    file: str = key("CSV with a header, one generated string per line, including repeats and invalid ones if known")
    smiles_column: str = key("column of the SMILES")
    score_column: str = key("column of the scores; the score of a molecule that was not scored is empty")
    screens: list[float] = key(SCREENS)
    circle_distance: float = key("#Circles counts molecules at a Tanimoto distance above this", low=0, below=1)
    shown: int = key("number of best molecules in the picture", low=1, high=10**4)
    known: str | None = key(
        "file of the prior's training SMILES, plain or gzipped, for the novelty; null: novelty is not computed"
    )

    def check(self, prefix: str) -> None:
        """Check that the screens are different."""
        _check_screens(self.screens)


@dataclass
class StockConfig(JobConfig):
    """The default inventory of building blocks, and the share of molecules with a route from it."""

    max_atoms: int = key("maximum number of heavy atoms of a building block", low=1, high=1000)
    max_depth: int = key("maximum number of successive reactions when a molecule is broken down", low=0, high=20)
    inventory: str = key("make: make an inventory; default: measure the one of this project; or a file to measure")
    molecules: str | None = key(
        "file of SMILES to find routes for, plain or gzipped; null: samples of the shipped prior"
    )
    count: int = key("number of molecules to find routes for, chosen at random", low=1, high=10**7)
    depth: int = key("maximum number of successive reactions of a route", low=1, high=20)
    workers: int | None = key("number of processes; null: one per core", low=1, high=1024)
