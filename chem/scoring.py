"""From sampled strings to rewards: canonical forms, the oracle's budget, and results shared on disk."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rdkit import Chem, rdBase
from torch import Tensor

from chem.oracles import Result
from chem.oracles.base import murcko_scaffold
from conf.schema.base import ConfigError


class Batch(NamedTuple):
    """N sampled strings as molecules; rows as they were drawn.

    canonical: SMILES of the molecule, None for what is none.
    reward: [N] raw score in [0, 1]; 0 for what is no molecule.
    valid: [N] bool, False for what does not count: no answer of the oracle, beyond the budget, dropped.
    complete: [N] bool, False for what keeps its reward and is never good: no molecule, zeroed, filtered.
    scaffolds: of the molecules, as `murcko_scaffold` gives them; None for what is none.
    fresh: results of the molecules that this run had not asked about before, in order.
    """

    canonical: list[str | None]
    reward: Tensor
    valid: Tensor
    complete: Tensor
    scaffolds: list[str | None]
    fresh: list[Result]


class Scoring:
    """Asks the oracle about each molecule once.

    The budget counts distinct canonical molecules, whether the answer is fresh or from the cache; a molecule that was
    asked before in this run costs nothing. A failure has no score; the molecule is asked again when it is met again,
    at no further cost to the budget.

    Args:
        oracle: canonical SMILES -> a result each.
        cache: of an earlier or another run with the same oracle, or None.
        budget: distinct molecules; None: any number.
    """

    def __init__(
        self, oracle: Callable[[Sequence[str]], list[Result]], cache: "Cache | None", budget: int | None
    ) -> None:
        self.oracle, self.cache, self.budget = oracle, cache, budget
        self.scores: dict[str, float | None] = {}  # by canonical SMILES, in the order asked; None: no answer so far
        self.failures = self.cached = 0

    @property
    def calls(self) -> int:
        return len(self.scores)

    @property
    def spent(self) -> bool:
        return self.budget is not None and self.calls >= self.budget

    def __call__(self, smiles: Sequence[str]) -> Batch:
        canonical = canonical_forms(smiles)
        todo = [one for one in dict.fromkeys(canonical) if one is not None and self.scores.get(one) is None]
        if self.budget is not None:
            room = self.budget - self.calls
            new = [one for one in todo if one not in self.scores][:room]
            allowed = {*new, *self.scores}
            todo = [one for one in todo if one in allowed]
        results = self._ask(todo)
        fresh = [result for result in results if result.smiles not in self.scores]
        for result in results:
            self.failures += result.failure
            self.scores[result.smiles] = None if result.failure else result.score
        scores = [0.0 if one is None else self.scores.get(one) for one in canonical]
        told = {result.smiles: result.scaffold for result in results if result.scaffold is not None}
        return Batch(
            canonical,
            torch.tensor([score or 0.0 for score in scores]),
            torch.tensor([score is not None for score in scores]),
            torch.tensor([one is not None for one in canonical]),
            [told[one] if one in told else murcko(one) if one is not None else None for one in canonical],
            fresh,
        )

    def _ask(self, smiles: Sequence[str]) -> list[Result]:
        known = self.cache.get(smiles) if self.cache is not None else {}
        self.cached += len(known)
        asked = [one for one in smiles if one not in known]
        answers = {result.smiles: result for result in (self.oracle(asked) if asked else [])}
        if self.cache is not None:
            self.cache.put(list(answers.values()))
        return [known.get(one) or answers[one] for one in smiles]

    def state_dict(self) -> dict[str, Any]:
        return {"scores": [list(item) for item in self.scores.items()], "failures": self.failures}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scores, self.failures = dict(state["scores"]), state["failures"]


class Cache:
    """Results on disk, by oracle and canonical SMILES, shared by the runs of a sweep and by later ones.

    A failure is never kept. One file (SQLite), to which several processes may write at a time.

    Args:
        key: of all that a result depends on, `chem.oracles.Oracle.key`.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as base, base:
                base.execute(
                    "CREATE TABLE IF NOT EXISTS results "
                    "(key TEXT, smiles TEXT, result TEXT, PRIMARY KEY (key, smiles))"
                )
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cache: must be a file that can be written to, got {path} ({error})") from None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=120)

    def get(self, smiles: Sequence[str]) -> dict[str, Result]:
        found = {}
        with closing(self._open()) as base:
            for one in smiles:
                query = "SELECT result FROM results WHERE key = ? AND smiles = ?"
                row = base.execute(query, (self.key, one)).fetchone()
                if row is not None:
                    found[one] = Result.from_json(json.loads(row[0]))
        return found

    def put(self, results: Sequence[Result]) -> None:
        rows = [(self.key, result.smiles, json.dumps(result.to_json())) for result in results if not result.failure]
        with closing(self._open()) as base, base:
            base.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?)", rows)


def canonical_forms(smiles: Sequence[str]) -> list[str | None]:
    """Canonical SMILES of each string; None for what RDKit does not take, and for the empty one."""
    with rdBase.BlockLogs():
        return [canonical_form(one) for one in smiles]


def canonical_form(smiles: str) -> str | None:
    try:
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
        return Chem.MolToSmiles(molecule) if molecule is not None and molecule.GetNumAtoms() else None
    except Exception:  # RDKit raises on some strings instead of returning None
        return None


@lru_cache(maxsize=2**16)  # a policy draws what it has drawn before, and a filter asks as well
def murcko(smiles: str) -> str:
    """`murcko_scaffold` of a molecule given as SMILES."""
    return murcko_scaffold(Chem.MolFromSmiles(smiles))


def treat_duplicates(batch: Batch, treatment: str) -> Batch:
    """A molecule that an earlier row of the batch has: kept; dropped, so that it does not count; or with reward 0."""
    met: set[str] = set()
    again = []
    for one in batch.canonical:
        again.append(one is not None and one in met)
        met.add(one or "")
    repeated = torch.tensor(again)
    if treatment == "drop":
        return batch._replace(valid=batch.valid & ~repeated)
    if treatment == "zero":
        return batch._replace(reward=batch.reward.masked_fill(repeated, 0.0), complete=batch.complete & ~repeated)
    return batch
