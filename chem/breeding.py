"""A genetic algorithm over the replay memory: bred molecules are scored and remembered like sampled ones.

Source: hallucinated memory of Saturn (Guo and Schwaller, 2024, arXiv:2405.17066), and Genetic GFN (Kim et al., 2024,
arXiv:2402.05961). Crossover and mutation are those of Jensen (2019, doi:10.1039/C8SC05372C) in the package mol_ga.
"""

from collections.abc import Callable, Iterable, Sequence
from random import Random

from rdkit import rdBase

from chem.models.prior import Prior
from chem.models.tokenizer import Tokenizer, split_tokens
from chem.oracles import Result
from chem.replay import ReplayMemory
from chem.scoring import RewardFunction, canonical_forms
from conf.schema.chem import GeneticConfig
from launch.runs.rng import stream_seed

ATTEMPTS = 20  # crossovers per wanted molecule; crossovers fail, repeat known molecules or leave the vocabulary
PARENTS = 2  # least number of remembered molecules

Cross = Callable[
    [str, str, float, Random], str | None
]  # SMILES of two parents, mutation rate, random numbers -> child


class Breeder:
    """Breeds molecules from the replay memory. It has no state: they depend on the seed, the step and the memory.

    Args:
        config: number of offspring per step, and how they are made.
        tokenizer: its vocabulary limits the tokens.
        max_tokens: longest SMILES in tokens, END included.
        cross: makes a child of two parents.
    """

    def __init__(self, config: GeneticConfig, tokenizer: Tokenizer, max_tokens: int, cross: Cross) -> None:
        self.config, self.max_tokens, self.cross = config, max_tokens, cross
        self.vocabulary = set(tokenizer.tokens)

    def __call__(self, memory: ReplayMemory, reward_function: RewardFunction, seed: int, step: int) -> list[Result]:
        """Breed molecules, score them within the budget and add them to the memory.

        Returns:
            Results of the new molecules.
        """
        if reward_function.spent or len(memory.entries) < PARENTS:
            return []
        offspring = self.breed(memory.entries, reward_function.scores, Random(stream_seed(seed, "genetic", step)))
        batch = reward_function(offspring)
        memory.add(offspring, batch, [False] * len(offspring))
        return batch.fresh

    def breed(self, parents: Iterable[str], known: Iterable[str], random: Random) -> list[str]:
        """New molecules as canonical SMILES that the network can write, at most `offspring`.

        Args:
            parents: canonical SMILES, from the highest reward to the lowest.
            known: molecules that are not wanted.
            random: source of all random numbers.
        """
        parents, known = list(parents), set(known)
        weights = rank_weights(len(parents), self.config.pressure)
        found: dict[str, None] = {}
        with rdBase.BlockLogs():
            for _ in range(ATTEMPTS * self.config.offspring):
                first, second = random.choices(parents, weights, k=2)
                child = self.cross(first, second, self.config.mutation, random)
                (molecule,) = canonical_forms([child or ""])
                if molecule is not None and molecule not in known and self.can_write(molecule):
                    found[molecule] = None
                if len(found) == self.config.offspring:
                    break
        return list(found)

    def can_write(self, smiles: str) -> bool:
        """Whether the network's vocabulary has all tokens, and the SMILES is short enough."""
        tokens = split_tokens(smiles)
        return self.vocabulary.issuperset(tokens) and len(tokens) < self.max_tokens


def rank_weights(count: int, pressure: float) -> Sequence[float]:
    """Weights of parents by rank, 1 / (pressure * count + rank) with ranks from 0 on.

    Source: Tripp et al. (2020, arXiv:2006.09191), weighted retraining; Genetic GFN draws parents that way.
    """
    return [1 / (pressure * count + rank) for rank in range(count)]


def make_breeder(config: GeneticConfig, prior: Prior) -> Breeder | None:
    """A breeder with the crossover of mol_ga, of the extra `genetic`; None without offspring."""
    if not config.offspring:
        return None
    from mol_ga.graph_ga.gen_candidates import reproduce  # an optional package

    return Breeder(config, prior.tokenizer, prior.max_tokens, reproduce)
