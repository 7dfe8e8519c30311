"""Strings that no sane model writes, through every oracle: each gets an answer, and no process is left behind."""

import math
import random
import time
from collections import Counter
from importlib.util import find_spec

import psutil
import pytest
from rdkit import Chem

from chem.oracles import Oracle, Status
from chem.oracles.base import MAX_ATOMS
from chem.oracles.properties import PROPERTIES
from chem.scoring import RewardFunction
from conf.schema.oracle import ComponentConfig, ComponentTransformConfig, OracleConfig

ALPHABET = "CNOSPFIBrclnos()[]=#@+-\\/%0123456789.*~$:<>{}HXe"
PIECES = [
    "c1ccccc1",
    "C(=O)N",
    "[Na+].[Cl-]",
    "[C@@H]",
    "N#N",
    "C1CC1",
    "(",
    ")",
    "[",
    "]",
    "%99",
    "[13CH4]",
    "[nH]",
    ".",
]
PARAMETERS = {
    "similarity": {"smiles": ["CCO"]},
    "substructure": {"smarts": "CO"},
    "group_count": {"smarts": "CO"},
    "rings_of_size": {"low": 7},
    "descriptor": {"name": "MolMR"},
    "external_program": {"command": ["wc", "-c", "{smi}"], "pattern": r"(\d+)"},
}


def hostile_strings(count, seed):
    """Random bytes, huge rings and chains, unbalanced brackets, salts in pieces, odd elements, the empty string."""
    rng = random.Random(seed)
    makers = [
        lambda: "",
        lambda: " \n\t\0"[: rng.randrange(5)],
        lambda: rng.randbytes(rng.randrange(1, 200)).decode("latin-1"),
        lambda: rng.randbytes(rng.randrange(1, 60)).decode("utf-8", "surrogateescape"),
        lambda: "".join(rng.choices(ALPHABET, k=rng.randrange(1, 80))),
        lambda: "".join(rng.choices(PIECES, k=rng.randrange(1, 20))),
        lambda: "C1" + "C" * rng.randrange(1, 240) + "1",
        lambda: "c1" + "c" * rng.randrange(1, 240) + "1",
        lambda: "C" * rng.choice([251, 1000, 5000]),
        lambda: "(" * rng.randrange(1, 3000) + "C",
        lambda: "C" + "(C" * rng.randrange(1, 200) + ")" * rng.randrange(1, 200),
        lambda: ".".join(["[Na+]", "[Cl-]", "CCO"] * rng.randrange(1, 20)),
        lambda: "".join(f"C%{n}" for n in range(10, 99)) * rng.randrange(1, 3),
        lambda: f"[{rng.choice(['U', 'Xx', 'H', '238U', 'C--', 'N+9', 'Fe+3', '*', 'C@@@', 'OH999'])}]",
        lambda: "C12C3C4C1C5C2C3C45" + "C" * rng.randrange(30),
        lambda: "C" + "=C" * rng.randrange(100),
    ]
    return [rng.choice(makers)() for _ in range(count)]


def everything():
    """All components that need no extra files, and a program; the arithmetic mean skips none of them."""
    wide = ComponentTransformConfig("sigmoid", low=0.0, high=100.0, k=0.5)
    names = [
        *PROPERTIES,
        "descriptor",
        "external_program",
        *(["synthesis"] if all(map(find_spec, ("syntheseus", "datamol"))) else []),
    ]
    components = [ComponentConfig(name, PARAMETERS.get(name, {}), wide) for name in names]
    return OracleConfig(components, "arithmetic", workers=2, time_limit_s=20.0, max_failed_share=1.0)


def docking(clpp):
    shape = ComponentTransformConfig("reverse_sigmoid", low=-16.0, high=0.0, k=0.15)
    return OracleConfig([ComponentConfig("docking", clpp, shape)], workers=2, time_limit_s=10.0, max_failed_share=1.0)


def fits(smiles):
    """One connected molecule of at most 20 heavy atoms: the box of the tests has room for it."""
    return "." not in smiles and Chem.MolFromSmiles(smiles).GetNumHeavyAtoms() <= 20


def score_all(config, strings):
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with Oracle(config) as oracle:
        workers = [worker.process.pid for worker in oracle._workers]
        start = time.monotonic()
        results = oracle(strings)
        seconds = time.monotonic() - start
        crashed = [worker.process.pid for worker in oracle._workers] != workers
    assert [result.smiles for result in results] == strings
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
    for result in results:
        assert (result.score is None) == result.failure
        assert result.status is not Status.invalid or result.score == 0
    return results, seconds, crashed


def test_hostile_strings():
    results, _, crashed = score_all(everything(), hostile_strings(600, seed=0))
    statuses = {status: [r for r in results if r.status is status] for status in Status}
    assert not crashed, [r for r in results if "worker process" in r.message]
    assert len(statuses[Status.invalid]) > 240
    assert len(statuses[Status.ok]) > 60
    assert not statuses[Status.timed_out]
    assert {r.message for r in statuses[Status.failed]} == set()
    assert all(r.score == 0 for r in results if len(r.smiles) > 30 * MAX_ATOMS)


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
def test_a_hundred_thousand_hostile_strings():
    results, seconds, crashed = score_all(everything(), hostile_strings(100_000, seed=1))
    counts = {status.value: sum(r.status is status for r in results) for status in Status}
    print(counts, f"{seconds:.0f} s", {r.message for r in results if r.failure})
    assert not crashed
    assert counts["timed_out"] == 0
    assert counts["ok"] > 10_000


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_docking_a_hundred_thousand_hostile_strings(clpp):
    """Each molecule once, as in a run. Most rings with hundreds of atoms time out; the others have energies."""
    strings = list(dict.fromkeys(hostile_strings(100_000, seed=1)))
    rows = []

    def oracle(smiles):
        results, seconds, _ = score_all(docking(clpp), smiles)
        counts = Counter(result.status.value for result in results)
        print(len(results), dict(counts), f"{seconds:.0f} s", {r.message for r in results if r.failure})
        rows.extend(results)
        return results

    batch = RewardFunction(oracle, cache=None, budget=None)(strings)
    assert len(batch.reward) == len(strings)
    assert len({row.smiles for row in rows}) == len(rows) > 500
    docked = {row.smiles: (row.values["docking"], row.score) for row in rows if row.status is Status.ok}
    assert len(docked) > 100
    assert all(math.isfinite(energy) for energy, _ in docked.values())
    small = [energy for smiles, (energy, _) in docked.items() if fits(smiles)]
    assert len(small) > 80
    assert all(-16 < energy < 0 for energy in small)
    assert all(0 <= score < 0.16 for energy, score in docked.values() if energy > 0)  # 1e8 where it does not fit
