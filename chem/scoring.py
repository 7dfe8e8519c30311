"""From sampled SMILES to rewards: canonical forms, the oracle's budget and a cache of results on disk."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chem.molecules import canonical_forms, scaffold_from_smiles
from chem.oracles import Result
from conf.schema.base import ConfigError
from launch.runs.run_folder import cache_folder, user_path


class ScoredBatch(NamedTuple):
    """N sampled SMILES with their rewards, in the order they were sampled.

    Attributes:
        canonical: canonical SMILES, None for an invalid string.
        reward: [N] raw score in [0, 1], 0 for an invalid string.
        valid: [N] bool, False for samples that do not count: the oracle failed, the budget is spent, or dropped.
        complete: [N] bool, False for samples that keep their reward but are never good: an invalid string, a
            duplicate set to 0, or filtered.
        scaffolds: `murcko_scaffold` of each molecule, None for an invalid string.
        fresh: results of the molecules that this run had not asked about before, in order.
        retried: results of those that had failed before and now have a score.
    """

    canonical: list[str | None]
    reward: Tensor
    valid: Tensor
    complete: Tensor
    scaffolds: list[str | None]
    fresh: list[Result]
    retried: list[Result] = []  # noqa: RUF012  # a NamedTuple's default, never changed


class RewardFunction:
    """Scores sampled SMILES, asking the oracle about each molecule once.

    The budget counts distinct canonical molecules, whether their result comes from the oracle or from the cache.
    Scoring a molecule again costs nothing. A failure has no score: the molecule is sent to the oracle again when it
    is sampled again, at no further cost to the budget.

    Args:
        oracle: canonical SMILES -> one result each.
        cache: results of other runs with the same oracle, or None.
        budget: largest number of distinct molecules; None: no limit.

    Attributes:
        earlier: molecules scored by the oracles of earlier stages, which count in the budget.
    """

    def __init__(
        self, oracle: Callable[[Sequence[str]], list[Result]], cache: "Cache | None", budget: int | None
    ) -> None:
        self.oracle, self.cache, self.budget = oracle, cache, budget
        self.scores: dict[str, float | None] = {}  # by canonical SMILES, in order; None: the oracle failed
        self.failures = self.cached = self.earlier = 0

    @property
    def calls(self) -> int:
        """Distinct molecules scored so far; one that the oracles of two stages have scored counts twice."""
        return self.earlier + len(self.scores)

    def begin_stage(self) -> None:
        """Forget the scores of the oracle of an earlier stage, which keep counting in the budget."""
        self.earlier, self.scores = self.calls, {}

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and self.calls >= self.budget

    def __call__(self, smiles: Sequence[str]) -> ScoredBatch:
        """Score sampled SMILES, which may be invalid."""
        canonical = canonical_forms(smiles)
        unscored = [
            molecule
            for molecule in dict.fromkeys(canonical)
            if molecule is not None and self.scores.get(molecule) is None
        ]
        if self.budget is not None:
            new = [molecule for molecule in unscored if molecule not in self.scores][: self.budget - self.calls]
            affordable = {*new, *self.scores}
            unscored = [molecule for molecule in unscored if molecule in affordable]
        results = self._results(unscored)
        fresh = [result for result in results if result.smiles not in self.scores]
        retried = [result for result in results if result.smiles in self.scores and not result.failure]
        for result in results:
            self.failures += result.failure
            self.scores[result.smiles] = None if result.failure else result.score
        scores = [0.0 if molecule is None else self.scores.get(molecule) for molecule in canonical]
        return ScoredBatch(
            canonical,
            torch.tensor([score or 0.0 for score in scores]),
            torch.tensor([score is not None for score in scores]),
            torch.tensor([molecule is not None for molecule in canonical]),
            batch_scaffolds(canonical, results),
            fresh,
            retried,
        )

    def _results(self, molecules: Sequence[str]) -> list[Result]:
        """Results from the cache or else from the oracle, whose answers are added to the cache."""
        results, cached = ask_oracle(self.oracle, self.cache, molecules)
        self.cached += cached
        return results

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        state = {"scores": [list(item) for item in self.scores.items()], "failures": self.failures}
        return state | ({"earlier": self.earlier} if self.earlier else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.scores, self.failures = dict(state["scores"]), state["failures"]
        self.earlier = state.get("earlier", 0)


class Cache:
    """Results on disk, by oracle and canonical SMILES, shared by the runs of a sweep and by later runs.

    Failures are not stored. The cache is one SQLite file that several processes may write to at the same time.

    Args:
        path: the file, made with its folder if it is missing.
        key: identifies everything that a result depends on: `chem.oracles.Oracle.key`.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        with self._errors_named():
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS results "
                    "(key TEXT, smiles TEXT, result TEXT, PRIMARY KEY (key, smiles))"
                )

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cache: cannot use {self.path} as a cache of oracle results ({error})") from None

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=120)

    def get(self, smiles: Sequence[str]) -> dict[str, Result]:
        """Results of those molecules that the cache has, by SMILES."""
        results = {}
        query = "SELECT result FROM results WHERE key = ? AND smiles = ?"
        with self._errors_named(), closing(self._connect()) as connection:
            for molecule in smiles:
                row = connection.execute(query, (self.key, molecule)).fetchone()
                if row is not None:
                    results[molecule] = Result.from_json(json.loads(row[0]))
        return results

    def put(self, results: Sequence[Result]) -> None:
        """Store results, without the failures; a molecule that is already there keeps its result."""
        rows = [(self.key, result.smiles, json.dumps(result.to_json())) for result in results if not result.failure]
        with self._errors_named(), closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?)", rows)


def ask_oracle(
    oracle: Callable[[Sequence[str]], list[Result]], cache: Cache | None, molecules: Sequence[str]
) -> tuple[list[Result], int]:
    """Results of distinct canonical SMILES, from the cache where it has them; new ones are added to it.

    Returns:
        The results in the order of the molecules, and how many of them the cache had.
    """
    cached = cache.get(molecules) if cache is not None else {}
    missing = [molecule for molecule in molecules if molecule not in cached]
    answers = {result.smiles: result for result in (oracle(missing) if missing else [])}
    if cache is not None:
        cache.put(list(answers.values()))
    return [cached.get(molecule) or answers[molecule] for molecule in molecules], len(cached)


def open_cache(name: str | None, key: str) -> Cache | None:
    """The cache of oracle results that `cache` names: `shared`, a file, or None for no cache."""
    if name is None:
        return None
    return Cache(cache_folder() / "oracle.sqlite" if name == "shared" else user_path(name), key)


def batch_scaffolds(canonical: Sequence[str | None], results: Sequence[Result]) -> list[str | None]:
    """Scaffold of each molecule, taken from its result where that has one; None for None."""
    known = {result.smiles: result.scaffold for result in results if result.scaffold is not None}
    return [
        None if molecule is None else known[molecule] if molecule in known else scaffold_from_smiles(molecule)
        for molecule in canonical
    ]


def treat_duplicates(batch: ScoredBatch, treatment: str) -> ScoredBatch:
    """Treat the molecules that an earlier row of the batch already has.

    Args:
        batch: unchanged; a copy is returned.
        treatment: `keep` changes nothing; `drop`: duplicates do not count; `zero`: their reward is 0 and they are
            never good.
    """
    seen: set[str] = set()
    repeated = []
    for molecule in batch.canonical:
        repeated.append(molecule is not None and molecule in seen)
        seen.add(molecule or "")
    is_repeated = torch.tensor(repeated)
    if treatment == "drop":
        return batch._replace(valid=batch.valid & ~is_repeated)
    if treatment == "zero":
        reward = batch.reward.masked_fill(is_repeated, 0.0)
        return batch._replace(reward=reward, complete=batch.complete & ~is_repeated)
    return batch
