"""Stages of a run: their oracles, budgets, ends, what they carry over, and exact resuming."""

import csv
import json
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf

from chem import report, stages, train
from chem.models.prior import Prior, load_prior, make_network, save_prior
from chem.models.tokenizer import Tokenizer
from chem.molecules import canonical_form
from chem.oracles import OracleError, Result, Status
from chem.stages import StageOracle, StageState, stage_configs
from conf.schema.base import ConfigError
from conf.schema.chem import ChemConfig, RecurrentConfig, StageConfig
from core.answer_counts import AnswerCounts
from launch.cli.compose import compose, compose_typed
from launch.runs.run import Run
from launch.runs.run_folder import read_json, read_jsonl

NETWORK = RecurrentConfig("gru", layers=1, hidden=12, embedding=8, dropout=0.0)
OPENED: list[str] = []  # the components of each oracle that was started


class FakeOracle:
    """Scores the share of the letter that the first component is labelled with, in this process."""

    def __init__(self, config):
        self.config, self.key, self.notes = config, config.components[0].label, []
        OPENED.append(self.key)
        if self.key == "broken":
            raise OracleError("oracle: it is broken")

    def __call__(self, smiles):
        assert OPENED[-1] == self.key
        letter = self.key[0]
        return [Result(molecule, Status.ok, molecule.count(letter) / 16) for molecule in smiles]

    def close(self):
        pass


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return write_prior(tmp_path_factory.mktemp("prior"), 0)


@pytest.fixture(autouse=True)
def fake_oracle(monkeypatch):
    monkeypatch.setattr(stages, "Oracle", FakeOracle)
    for picture in ("draw_run", "draw_molecules"):
        monkeypatch.setattr(report, picture, lambda *arguments: None)  # they take most of the time
    OPENED.clear()


def write_prior(folder, seed, tokens="CNOF"):
    """A random network that ends early: most of its samples are short chains, and so molecules."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_tokens(tokens)
    network = make_network(len(tokenizer), NETWORK)
    with torch.no_grad():
        network.head.bias[:2] = torch.tensor([1.0, -20.0])
    save_prior(folder, Prior(network.eval(), tokenizer, NETWORK, 16))
    return folder


def oracle(label):
    return f"{{components: [{{name: qed, label: {label}}}]}}"


SMALL = ["steps=40", "batch_size=16", "cache=null", "threads=1", "checkpoint.every_steps=1", "optimizer.lr=0.01"]
MARA = [
    "transform=mara",
    "transform.level=answer",
    "transform.threshold.kind=reference_quantile",
    "transform.threshold.value=0.5",
    "transform.reference_samples=16",
    "replay.size=6",
    "replay.sample=3",
    "diversity_filter.name=identical_murcko",
    "diversity_filter.min_score=0.1",
    "loss=reinvent",
]
STAGES = f"stages=[{{oracle: {oracle('C')}, steps: 4, threshold: 0.6}}, {{oracle: {oracle('N')}, budget: 40}}]"


@cache
def composed(overrides):
    config: ChemConfig = compose_typed("chem", list(overrides))[0]
    return config


def run_chem(folder, prior, *overrides, stop_after=None):
    """Train in this process; `stop_after`: fail after so many steps, as if the run was killed."""
    arguments = (f"prior={prior}", *SMALL, *overrides)
    config = composed(arguments)
    real, done = train.train_step, [0]

    def step(*parts):
        if done[0] == stop_after:
            raise InterruptedError
        done[0] += 1
        return real(*parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", step)
        with Run(folder, "chem", OmegaConf.structured(config), list(arguments)) as run:
            train.train_policy(config, run)
    return (
        read_json(folder / "summary.json"),
        read_jsonl(folder / "metrics.jsonl"),
        read_jsonl(folder / "samples.jsonl"),
    )


FILES = ("metrics.jsonl", "samples.jsonl", "summary.json", "molecules.csv", "molecules_stage_1.csv")


@pytest.mark.parametrize("options", [MARA, ["transform=historical_exploration"]])
def test_a_run_that_was_killed_resumes_in_its_stage(prior, tmp_path, options):
    """Before the first step of the second stage, and within it."""
    summary, metrics, samples = run_chem(tmp_path / "whole", prior, *options, STAGES)
    assert [stage["stopped_by"] for stage in summary["stages"]] == ["steps", "budget"]
    assert summary["stages"][0]["steps"] == 4
    assert summary["stages"][1]["calls"] == 40
    assert summary["calls"] == sum(stage["calls"] for stage in summary["stages"]) == len(samples)
    assert [row["stage"] for row in metrics] == [1] * 4 + [2] * summary["stages"][1]["steps"]
    assert len(metrics) > 7
    for killed_at in (4, 6):
        folder = tmp_path / f"killed_{killed_at}"
        with pytest.raises(InterruptedError):
            run_chem(folder, prior, *options, STAGES, stop_after=killed_at)
        assert not (folder / "summary.json").exists()
        run_chem(folder, prior, *options, STAGES)
        for name in (*FILES, "policy/model.safetensors"):
            assert (tmp_path / "whole" / name).read_bytes() == (folder / name).read_bytes(), name


def test_each_stage_counts_its_molecules_anew(prior, tmp_path, monkeypatch):
    """Only in the first step of a stage has no molecule of the batch been sampled before."""
    most, count = [], AnswerCounts.count

    def record(self, prompts, labels, valid=None):
        seen = count(self, prompts, labels, valid)
        most.append(float(seen.max()))
        return seen

    monkeypatch.setattr(AnswerCounts, "count", record)
    _, metrics, _ = run_chem(tmp_path / "run", prior, "transform=historical_exploration", STAGES)
    new = [row["stage"] for row, seen in zip(metrics, most, strict=True) if seen == 0]
    assert new == [1, 2]


def test_each_stage_has_its_oracle_and_scores_the_memory_anew(prior, tmp_path):
    summary, metrics, samples = run_chem(tmp_path / "run", prior, *MARA, STAGES)
    for row in samples:
        letter = {1: "C", 2: "N"}[row["stage"]]
        assert row["score"] == row["smiles"].count(letter) / 16
    assert OPENED == ["N", "C", "N"]  # both are tried at the start, the first one last
    first = {row["smiles"]: row["score"] for row in samples if row["stage"] == 1}
    of_second = [row["smiles"] for row in samples if row["stage"] == 2]
    step = metrics[4]["step"]
    recalled = [row["smiles"] for row in samples if row["stage"] == 2 and row["step"] == step][:6]
    assert (
        sorted((first[molecule] for molecule in recalled), reverse=True) == sorted(first.values(), reverse=True)[:6]
    )
    with (tmp_path / "run" / "molecules.csv").open() as file:
        assert [row["smiles"] for row in csv.DictReader(file)] == of_second
    with (tmp_path / "run" / "molecules_stage_1.csv").open() as file:
        assert [row["smiles"] for row in csv.DictReader(file)] == list(first)
    assert summary["0.8/yield"] == 0
    rewards = [row["reward/raw"] for row in metrics if row["stage"] == 2][-10:]
    assert summary["reward"] == pytest.approx(sum(rewards) / len(rewards))

    empty = STAGES.replace("budget: 40", "budget: 40, keep_memory: false")  # control
    _, _, others = run_chem(tmp_path / "empty", prior, *MARA, empty)
    assert [row for row in others if row["stage"] == 1] == [row for row in samples if row["stage"] == 1]
    step_rows = [row["smiles"] for row in others if row["stage"] == 2 and row["step"] == step]
    assert set(recalled) != set(step_rows[:6])


def test_a_budget_of_the_run_ends_it_in_any_stage(prior, tmp_path):
    summary, _, samples = run_chem(tmp_path / "run", prior, "budget=30", STAGES)
    assert (summary["stopped_by"], summary["calls"], len(samples)) == ("budget", 30, 30)
    assert sum(stage["calls"] for stage in summary["stages"]) == 30


def test_a_stage_ends_at_its_score(prior, tmp_path):
    easy = f"stages=[{{oracle: {oracle('C')}, max_score: 0.015}}, {{oracle: {oracle('O')}, steps: 2}}]"
    summary, metrics, _ = run_chem(tmp_path / "run", prior, "stop.window=3", easy)
    assert summary["stages"][0] == {"stopped_by": "max_score", "steps": 3, "calls": summary["stages"][0]["calls"]}
    assert sum(row["reward/raw"] for row in metrics[:3]) / 3 >= 0.015
    assert [row["stage"] for row in metrics] == [1, 1, 1, 2, 2]
    assert summary["good"] == 0  # of the run's threshold
    later = easy.replace("max_score: 0.015", "max_score: 0.015, min_steps: 5")
    summary, _, _ = run_chem(tmp_path / "later", prior, "stop.window=3", later)
    assert [summary["stages"][0][key] for key in ("stopped_by", "steps")] == ["max_score", 5]
    easy = easy.replace("steps: 2", "steps: 2, threshold: 0.05")
    summary, _, samples = run_chem(tmp_path / "own", prior, "stop.window=3", easy)
    good = sum(row["stage"] == 2 and row["score"] >= 0.05 for row in samples)
    assert summary["good"] == good > 0
    easy = easy.replace(", threshold: 0.05", "")
    hard, _, _ = run_chem(tmp_path / "hard", prior, "stop.window=3", "steps=6", easy.replace("0.015", "0.99"))
    assert [stage["stopped_by"] for stage in hard["stages"]] == ["steps"]  # control: those of the run


def test_a_run_ends_at_its_score_and_keeps_its_policy(prior, tmp_path):
    options = ["stop.window=3", "steps=8", "oracle.components=[{name: qed, label: C}]"]
    summary, metrics, _ = run_chem(tmp_path / "run", prior, *options, "stop.max_score=0.015")
    assert (summary["stopped_by"], len(metrics)) == ("max_score", 3)
    assert "stages" not in summary
    assert "stage" not in metrics[0]
    whole, metrics, _ = run_chem(tmp_path / "whole", prior, *options)
    assert (whole["stopped_by"], len(metrics)) == ("steps", 8)  # control


def test_the_policy_starts_at_the_agent_and_is_kept_near_the_prior(prior, tmp_path):
    agent = write_prior(tmp_path / "agent", 1)
    options = ["steps=1", "optimizer.lr=1e-12", "oracle.components=[{name: qed, label: C}]"]
    _, plain, _ = run_chem(tmp_path / "plain", prior, *options)
    _, metrics, _ = run_chem(tmp_path / "run", prior, *options, f"agent={agent}")
    assert plain[0]["kl/reverse_nats"] == pytest.approx(0, abs=1e-5)  # control
    assert metrics[0]["kl/reverse_nats"] > 0.01
    policy, start = load_prior(tmp_path / "run" / "policy"), load_prior(agent)
    for name, tensor in policy.network.state_dict().items():
        torch.testing.assert_close(tensor, start.network.state_dict()[name])
    other = write_prior(tmp_path / "other", 1, "CNOS")
    with pytest.raises(ConfigError, match=r"^agent: must have the vocabulary.*only one of the two has F S"):
        run_chem(tmp_path / "wrong", prior, *options, f"agent={other}")
    save_prior(tmp_path / "agent", start._replace(network=make_network(len(start.tokenizer), NETWORK)))
    with pytest.raises(ConfigError, match="agent"):  # of the folder now holds another run's start
        run_chem(tmp_path / "run", prior, *options, f"agent={agent}", "resume=must")


def test_seeds_are_remembered_and_count_as_calls_only(prior, tmp_path):
    (tmp_path / "seeds.smi").write_text("CCCCCCCCCCCCCCC active\nOCC\nCCO\nBr\nC(\n")
    options = ["steps=2", "replay.size=4", "replay.sample=2", "oracle.components=[{name: qed, label: C}]"]
    seeds = f"replay.seeds={tmp_path / 'seeds.smi'}"
    summary, metrics, samples = run_chem(tmp_path / "run", prior, *options, seeds, "screens=[0.9]")
    assert [row["smiles"] for row in samples if row["status"] == "seed"] == ["CCCCCCCCCCCCCCC", "CCO"]
    assert summary["calls"] == len(samples)
    assert summary["0.9/yield"] == 0  # the best molecule is a seed
    assert "failed" not in summary
    assert summary["best"][0]["smiles"] != "CCCCCCCCCCCCCCC"
    _, unseeded, _ = run_chem(tmp_path / "plain", prior, *options)
    assert metrics[0]["loss"] != unseeded[0]["loss"]  # they are replayed from the first step on
    (tmp_path / "seeds.smi").write_text("Br\n")
    with pytest.raises(
        ConfigError,
        match=r"^replay\.seeds: there are no molecules in seeds.smi \(lines 1, kept 0, the network cannot",
    ):
        run_chem(tmp_path / "none", prior, *options, seeds)
    with pytest.raises(ConfigError, match=r"^replay\.seeds: needs a replay memory"):
        compose("chem", ["replay.seeds=a"])
    assert canonical_form("OCC") == "CCO"


def test_every_oracle_is_tried_before_the_run(prior, tmp_path):
    with pytest.raises(ConfigError, match="it is broken"):
        run_chem(tmp_path / "run", prior, STAGES.replace("label: N", "label: broken"))
    assert OPENED == ["broken"]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.raises(OracleError, match="none was started"):
        StageOracle()(["C"])


@pytest.mark.parametrize(
    ("stages_", "more", "message"),
    [
        (
            "[{threshold: 0.5}]",
            [],
            r"^stages\.0\.threshold: must be null without transform",
        ),
        ("[{}, {steps: 3}]", [], r"^stages\.0: must have an end, since another stage follows"),
        ("[{steps: 0}]", [], r"^stages\.0\.steps|^stages\.steps: must be >= 1"),
        ("[{step: 3}]", [], r"step: no such key"),
    ],
)
def test_a_mistake_in_a_stage_is_named(stages_, more, message):
    with pytest.raises(ConfigError, match=message):
        compose("chem", [f"stages={stages_}", "transform.threshold.value=null", *more])


def test_the_configuration_of_a_stage_is_that_of_the_run_but_for_its_keys():
    options = ["stages=[{threshold: 0.7, max_score: 0.9, min_steps: 7, steps: 3}, {}]", "stop.max_score=0.5"]
    config: ChemConfig = compose_typed("chem", options)[0]
    first, second = stage_configs(config)
    assert (first.transform.threshold.value, first.stop.max_score, first.stop.min_steps) == (0.7, 0.9, 7)
    assert (second.transform.threshold.value, second.stop.max_score, second.stop.min_steps) == (0.9, 0.5, 1)
    assert first.oracle == second.oracle == config.oracle
    plain: ChemConfig = compose_typed("chem", [])[0]
    assert stage_configs(plain) == [plain]


def test_the_state_of_the_stages_survives_json():
    state = StageState([StageConfig(steps=2), StageConfig(budget=5)])
    assert state.number == {"stage": 1}
    assert [state.finish_step(None), state.finish_step(None)] == [None, "steps"]
    assert state.budget(100, 0) == 100
    assert state.advance("steps", 7)
    assert (state.budget(100, 7), state.budget(10, 7), state.budget(None, 7)) == (12, 10, 12)
    restored = StageState(state.stages)
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert vars(restored) == vars(state)
    assert not restored.advance("budget", 5)
    assert StageState([]).number == {}
    assert StageState([]).budget(None, 0) is None
