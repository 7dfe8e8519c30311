"""A genetic algorithm over the replay memory."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from rdkit import Chem

from chem.breeding import Breeder, make_breeder, rank_weights
from chem.models.prior import SHIPPED, load_prior
from chem.models.tokenizer import Tokenizer, split_tokens
from chem.oracles import Result, Status
from chem.replay import ReplayMemory
from chem.scoring import RewardFunction
from conf.schema.base import ConfigError
from conf.schema.chem import GeneticConfig, ReplayConfig
from conf.schema.extras import missing_package, not_installed
from launch.cli.compose import compose, compose_typed
from launch.runs.run_folder import read_jsonl

HOME = Path(__file__).resolve().parents[2]
MOLECULES = ["CCOC(=O)c1ccccc1", "CCNC(=O)Cc1ccncc1", "CC(C)Oc1ccc(F)cc1", "O=C(O)CCc1ccccc1"]
CONFIG = GeneticConfig(offspring=4, mutation=0.5, pressure=0.01)


def score(smiles):
    """The number of carbons, over 100: an oracle."""
    return [
        Result(s, Status.ok, sum(a.GetSymbol() == "C" for a in Chem.MolFromSmiles(s).GetAtoms()) / 100)
        for s in smiles
    ]


def made_up(first, second, mutation, random):
    """A crossover whose children are short: the beginning of one parent's chain of atoms."""
    return "C" * random.randrange(1, 30) + random.choice(["", "O", "N", "Br", "("])


def make(cross=made_up, budget=None, max_tokens=20, **settings):
    tokenizer = Tokenizer.from_tokens(split_tokens("CNOFc1(=)cc1n"))
    memory = ReplayMemory(
        ReplayConfig(**{"size": 50, "sample": 0, "augmentations": 1, "purge": False} | settings), tokenizer
    )
    reward_function = RewardFunction(score, None, budget)
    memory.add(MOLECULES, reward_function(MOLECULES), [False] * 4)
    return Breeder(CONFIG, tokenizer, max_tokens, cross), memory, reward_function


def test_bred_molecules_are_scored_and_remembered():
    breeder, memory, reward_function = make()
    results = breeder(memory, reward_function, 0, 7)
    assert len(results) == 4
    assert reward_function.calls == 8
    assert all(memory.entries[result.smiles] == (result.smiles, pytest.approx(result.score)) for result in results)
    assert not {result.smiles for result in results} & {Chem.CanonSmiles(s) for s in MOLECULES}


def test_what_the_network_cannot_write_is_not_scored():
    breeder, memory, reward_function = make(max_tokens=10)
    for step in range(5):
        breeder(memory, reward_function, 0, step)
    bred = list(reward_function.scores)[4:]
    assert bred
    assert all(len(smiles) < 10 and "Br" not in smiles for smiles in bred)
    unlimited, memory, reward_function = make(max_tokens=100)  # a control
    for step in range(5):
        unlimited(memory, reward_function, 0, step)
    assert any(len(smiles) >= 10 for smiles in list(reward_function.scores)[4:])


def test_the_budget_is_kept():
    breeder, memory, reward_function = make(budget=6)
    assert len(breeder(memory, reward_function, 0, 0)) == 2
    assert reward_function.calls == 6
    assert len(memory.entries) == 6
    assert breeder(memory, reward_function, 0, 1) == []


def test_the_same_step_breeds_the_same_molecules():
    results = []
    for step in (3, 3, 4):
        breeder, memory, reward_function = make()
        restored = ReplayMemory(memory.config, memory.tokenizer)
        restored.load_state_dict(memory.state_dict())
        results.append([result.smiles for result in breeder(restored, reward_function, 0, step)])
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_the_best_are_parents_most_often():
    weights = rank_weights(100, 0.01)
    assert weights[0] == 1
    assert weights[:3] == pytest.approx([1, 1 / 2, 1 / 3])
    drawn: Counter[str] = Counter()
    breeder, memory, _ = make(lambda first, second, mutation, random: drawn.update([first, second]))
    breeder.breed(memory.entries, (), Random(0))
    best, *_, worst = memory.entries
    assert drawn[best] > 3 * drawn[worst]


def test_a_crossover_that_always_fails_ends():
    breeder, memory, reward_function = make(lambda *_: None)
    assert breeder(memory, reward_function, 0, 0) == []


def test_the_library_crosses_real_molecules():
    pytest.importorskip("mol_ga", reason="needs the extra genetic")
    prior = load_prior(SHIPPED)
    breeder = make_breeder(CONFIG, prior)
    assert breeder.breed(MOLECULES, (), Random(1)) == breeder.breed(MOLECULES, (), Random(1))
    children = breeder.breed(MOLECULES, (), Random(1))
    assert len(children) == 4
    assert all(prior.tokenizer.encode(child) for child in children)
    assert make_breeder(GeneticConfig(offspring=0, mutation=0.5, pressure=0.01), prior) is None


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mol_ga.graph_ga.gen_candidates", None)
    with pytest.raises(ModuleNotFoundError) as error:
        make_breeder(CONFIG, load_prior(SHIPPED))
    assert missing_package(error.value) == not_installed("mol_ga")


def test_offspring_need_a_memory_to_be_learnt_from():
    with pytest.raises(ConfigError, match=r"replay.genetic.offspring: must be 0 without a replay memory"):
        compose("chem", ["replay.genetic.offspring=8"])
    config, _ = compose_typed("chem", ["replay.genetic.offspring=8", "replay.size=10", "replay.augmentations=1"])
    assert config.replay.genetic.offspring == 8


@pytest.mark.long
def test_a_run_learns_from_what_is_bred_and_resumes_exactly(tmp_path):
    pytest.importorskip("mol_ga", reason="needs the extra genetic")
    settings = [
        "experiment=benchmark/genetic",
        "oracle=qed",
        "batch_size=8",
        "replay.size=16",
        "steps=6",
        "threads=1",
    ]
    settings += ["replay.genetic.offspring=4", "oracle.workers=1", "checkpoint.every_steps=1"]
    command = [sys.executable, "-m", "chem", *settings]
    whole, halved = (f"hydra.run.dir={tmp_path / name}" for name in ("whole", "halved"))
    subprocess.run([*command, whole], cwd=HOME, check=True, capture_output=True, timeout=300)
    with subprocess.Popen([*command, halved], cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not list((tmp_path / "halved" / "checkpoints").glob("step_*3")):
            assert process.poll() is None
        process.kill()
    subprocess.run([*command, halved], cwd=HOME, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "whole" / "samples.jsonl").read_bytes() == (tmp_path / "halved" / "samples.jsonl").read_bytes()
    rows = read_jsonl(tmp_path / "whole" / "samples.jsonl")
    assert all(count > 8 for count in Counter(row["step"] for row in rows).values())  # the rest was bred
