"""Classes of molecules, and what is measured once on molecules sampled from the prior."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from chem.models.network import sample
from chem.models.prior import Prior
from chem.molecules import canonical_forms, scaffold_from_smiles
from chem.scoring import RewardFunction, ScoredBatch
from conf.schema.chem import ChemConfig
from conf.schema.objective import MaraConfig
from core.classes import ClassMemory
from core.mara import quantile_threshold, reaches
from core.objective import Objective
from launch.runs.rng import rollout_uniforms, stream_seed

PROMPT = "molecules"  # the classes of the one distribution that is sampled


def molecule_labels(smiles: Sequence[str], config: ChemConfig) -> list[str]:
    """The class of each SMILES: the molecule, its Murcko scaffold or, where sequences are classes, the string."""
    transform = config.transform
    if isinstance(transform, MaraConfig) and transform.level == "sequence":
        return list(smiles)
    canonical = ["" if molecule is None else molecule for molecule in canonical_forms(smiles)]
    if isinstance(transform, MaraConfig) and transform.equivalence == "scaffold":
        return [scaffold_from_smiles(molecule) if molecule else "" for molecule in canonical]
    return canonical


class PriorStatistics:
    """A threshold, and class masses, from molecules of the prior, sampled and scored once. In the checkpoint.

    The molecules count in the budget of the oracle like any others.

    Attributes:
        needed: whether there is anything to measure.
    """

    def __init__(self, config: ChemConfig, memory: ClassMemory | None) -> None:
        self.memory = memory if memory is not None and memory.counts_reference else None
        self.enter_stage(config)
        self.begin_stage()

    def enter_stage(self, config: ChemConfig) -> None:
        """Use the configuration of a stage, without forgetting what was measured in it."""
        threshold = config.transform.threshold
        self.config = config
        self.quantile = threshold.value if threshold.kind == "reference_quantile" else None
        self.needed = self.quantile is not None or self.memory is not None
        if not self.needed:
            self.begin_stage()

    def begin_stage(self) -> None:
        """Forget what was measured, because it depends on the oracle."""
        self.threshold: float | None = None if self.quantile is not None else self.config.transform.threshold.value
        self.measured = not self.needed

    def measure(self, prior: Prior, reward_function: RewardFunction) -> ScoredBatch | None:
        """Sample and score `transform.reference_samples` molecules of the prior; None if that was done before."""
        if self.measured:
            return None
        count = self.config.transform.reference_samples
        seed = stream_seed(self.config.seed, "reference_statistics")
        rows = list(range(count))
        with torch.no_grad():
            smiles = prior.decode(
                sample(prior.network, rollout_uniforms(seed, 0, [0] * count, rows, prior.max_tokens))
            )
        batch = reward_function(smiles)
        usable = batch.valid & batch.complete
        if self.quantile is not None:
            floor = self.config.transform.threshold.floor
            self.threshold = float(quantile_threshold(batch.reward, self.quantile, floor, usable))
        if self.memory is not None:
            low = math.inf if self.threshold is None else self.threshold
            good = (usable & reaches(batch.reward, low)).nonzero().flatten().tolist()
            labels = molecule_labels(smiles, self.config)
            self.memory.count_reference(
                PROMPT, [labels[i] for i in good], [float(batch.reward[i]) for i in good], count
            )
        self.measured = True
        return batch

    def with_threshold(self, objective: Objective) -> Objective:
        """The objective with the threshold that was measured."""
        if self.quantile is None or self.threshold is None:
            return objective
        return objective.with_thresholds(torch.tensor([[self.threshold]]))

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"threshold": self.threshold, "measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.threshold, self.measured = state["threshold"], state["measured"]
