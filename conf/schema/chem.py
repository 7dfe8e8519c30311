"""python -m chem, and its commands chem.pretrain, chem.sample, chem.score, chem.evaluate and chem.stock."""

from dataclasses import dataclass, replace
from typing import ClassVar

from conf.schema.base import ConfigError, Section, check_range, key, option
from conf.schema.objective import DiversityConfig
from conf.schema.oracle import OracleConfig
from conf.schema.run import JobConfig, RunConfig, TrainingConfig
from core.rules import Choices

FILTERS = ("none", "identical_murcko", "topological", "similarity")
PENALTIES = ("step", "sigmoid", "linear", "tanh")
SMILES_COLUMN = "column of the SMILES, by name or number from 1; null: found by name, else by what it holds"
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

    data: str = key("molecule file: SMILES, a table or SDF, plain or gzipped (docs/chem.md)")
    smiles_column: str | None = key(SMILES_COLUMN)
    init: str | None = key("prior to continue from: shipped, a folder, or a file of REINVENT; null: random weights")
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
    seeds: str | None = key(
        "file of molecules, such as known actives, that are scored at the start and then remembered; null: none"
    )
    genetic: GeneticConfig = key("a genetic algorithm over the memory")

    def check(self, prefix: str) -> None:
        """Check that the sample is not larger than the memory, and that seeds have a use."""
        check_range(f"{prefix}sample", self.sample, high=self.size, note=f" ({prefix}size)")
        if self.seeds is not None and not (self.size and self.sample + self.augmentations):
            raise ConfigError(
                f"{prefix}seeds: needs a replay memory, {prefix}size and {prefix}sample or {prefix}augmentations of "
                f"at least 1, got {self.size}, {self.sample} and {self.augmentations}"
            )
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
    """When a run, or a stage of it, ends before its steps or its budget are used up."""

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
    max_score: float | None = key(
        "stop, with success, when the mean score of the samples has reached this; null: never", low=0, high=1
    )
    min_steps: int = key("steps before which max_score does not stop the run", low=1, high=10**9)


@dataclass
class StageConfig(Section):
    """A part of a run with an oracle, a threshold and an end of its own. The stages follow one another."""

    oracle: OracleConfig | None = key("how molecules are scored in this stage; null: as in the run", default=None)
    steps: int | None = key("maximum number of steps of this stage; null: those of the run", default=None, low=1)
    budget: int | None = key(
        "maximum number of distinct molecules that are scored in this stage; null: what the run has left",
        default=None,
        low=1,
    )
    max_score: float | None = key(
        "the stage ends when the mean score of the samples, over stop.window steps, has reached this; null: "
        "stop.max_score",
        default=None,
        low=0,
        high=1,
    )
    min_steps: int | None = key(
        "steps before which max_score does not end the stage; null: stop.min_steps", default=None, low=1, high=10**9
    )
    threshold: float | None = key("transform.threshold.value in this stage; null: that of the run", default=None)
    keep_memory: bool = key(
        "take the replay memory over from the stage before, scored anew, which counts in the budget; false: empty it",
        default=True,
    )
    keep_buckets: bool = key(
        "take the buckets of the diversity filter over from the stage before; false: empty them", default=False
    )


@dataclass
class ChemConfig(RunConfig):
    """Post-training of a prior over SMILES."""

    equivalences: ClassVar[tuple[str, ...]] = ("answer", "scaffold")

    prior: str = key(
        "the reference: shipped (trained on ZINC), a folder written by chem.pretrain or chem.convert, or a file of "
        "REINVENT"
    )
    agent: str | None = key(
        "where the policy starts, in the same forms as prior, with its vocabulary; null: at the prior"
    )
    oracle: OracleConfig = key("how molecules are scored (docs/oracles.md)")
    stages: list[StageConfig] = key(
        "parts of the run, each with an oracle, budget, threshold and end of its own; []: the run is one stage"
    )
    loss: str = key(
        "policy_gradient; reinvent: (log prior + sigma R - log policy)^2 with sigma = 1 / objective.beta",
        choices=("policy_gradient", "reinvent"),
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
        self._check_stages()
        if isinstance(self.transform, DiversityConfig) and (self.replay.sample or self.replay.augmentations):
            raise ConfigError(
                f"replay: must be off with transform={self.transform.name}, which compares molecules as they are "
                f"sampled; set replay.sample and replay.augmentations to 0, got {self.replay.sample} and "
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
        if self.choices().mara and self.choices().mara_anchor == "cross_fitted" and self.replay.size:
            raise ConfigError(
                "transform.anchor: must not be cross_fitted with replay, whose molecules are not an independent half "
                f"of the batch; use remembered, or set replay.size to 0, got {self.replay.size}"
            )
        if self.diversity_filter.name == "none" and self.replay.purge:
            raise ConfigError(
                "replay.purge: must be false with diversity_filter.name=none, because no molecule is penalised, got "
                "true"
            )

    def _check_stages(self) -> None:
        """Check that each stage but the last has an end, and that a threshold of a stage has a run's to replace."""
        for number, stage in enumerate(self.stages[:-1]):
            ends = (stage.steps, stage.budget, stage.max_score, self.stop.max_score)
            if all(end is None for end in ends):
                raise ConfigError(
                    f"stages.{number}: must have an end, since another stage follows: give it steps, budget or "
                    "max_score"
                )
        for number, stage in enumerate(self.stages):
            if stage.threshold is not None and self.transform.threshold.value is None:
                raise ConfigError(
                    f"stages.{number}.threshold: must be null without transform.threshold.value, got "
                    f"{stage.threshold}"
                )
            if stage.threshold is not None and self.transform.threshold.kind != "constant":
                check_range(f"stages.{number}.threshold", stage.threshold, low=0, high=1)

    def choices(self) -> Choices:
        """Return the choices that the rules of `core.rules` are about, with the loss."""
        return replace(super().choices(), loss=self.loss)


@dataclass
class ChemEvaluateConfig(JobConfig):
    """A CSV file of molecules and scores, in the order in which they were generated."""

    file: str = key("table with a header, one generated string per line, including repeats and invalid ones if known")
    smiles_column: str | None = key(SMILES_COLUMN)
    score_column: str = key("column of the scores; the score of a molecule that was not scored is empty")
    screens: list[float] = key(SCREENS)
    circle_distance: float = key("#Circles counts molecules at a Tanimoto distance above this", low=0, below=1)
    shown: int = key("number of best molecules in the picture", low=1, high=10**4)
    known: str | None = key("molecule file of the prior's training set, for the novelty; null: no novelty")
    known_smiles_column: str | None = key("as smiles_column, for known")

    def check(self, prefix: str) -> None:
        """Check that the screens are different."""
        _check_screens(self.screens)


@dataclass
class ScoreConfig(JobConfig):
    """A file of molecules, and the oracle that scores them."""

    file: str = key("molecule file: SMILES, a table or SDF, plain or gzipped (docs/chem.md)")
    smiles_column: str | None = key(SMILES_COLUMN)
    oracle: OracleConfig = key("how molecules are scored (docs/oracles.md)")
    cache: str | None = key(
        "cache of scores: shared (by all runs, in MARA_CACHE), a file, or null for one in the run folder"
    )
    chunk: int = key("molecules after whose scoring the cache is written", low=1, high=10**6)


@dataclass
class SampleConfig(JobConfig):
    """Molecules that are drawn from a prior or a trained policy."""

    prior: str = key("what is sampled: shipped, a folder (a prior, or policy/ of a run), or a file of REINVENT")
    count: int = key("number of molecules or, with unique=false, of samples", low=1, high=10**8)
    unique: bool = key(
        "draw until there are `count` distinct molecules; false: write each sample, repeats and invalid ones included"
    )
    spelling: str = key(
        "SMILES that are written: canonical, as sampled, or randomised (another spelling of the molecule)",
        choices=("canonical", "sampled", "randomised"),
    )
    format: str = key(
        "csv: SMILES, the string that was drawn and its log-likelihood; smi: a SMILES a line",
        choices=("csv", "smi"),
    )


@dataclass
class StockConfig(JobConfig):
    """The default inventory of building blocks, and the share of molecules with a route from it."""

    max_atoms: int = key("maximum number of heavy atoms of a building block", low=1, high=1000)
    max_depth: int = key("maximum number of successive reactions when a molecule is broken down", low=0, high=20)
    inventory: str = key("make: make an inventory; default: measure the one of this project; or a file to measure")
    inventory_smiles_column: str | None = key("as smiles_column, for inventory")
    molecules: str | None = key("molecule file to find routes for; null: samples of the shipped prior")
    smiles_column: str | None = key(SMILES_COLUMN)
    count: int = key("number of molecules to find routes for, chosen at random", low=1, high=10**7)
    depth: int = key("maximum number of successive reactions of a route", low=1, high=20)
    workers: int | None = key("number of processes; null: one per core", low=1, high=1024)
