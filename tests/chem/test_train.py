"""Reinforcement learning from a prior: the loss, stops, resuming, sweeps, mistakes."""

import csv
import html
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import psutil
import pytest
import torch
from torch import nn

from chem.filters import DiversityFilter
from chem.models.network import Rollout, sample, token_logp
from chem.models.prior import Prior, load_prior, make_network, save_prior
from chem.models.tokenizer import Tokenizer, split_tokens
from chem.molecules import canonical_forms, scaffold_from_smiles
from chem.oracles import Result, Status
from chem.parallel.sampler import ParallelSampler
from chem.parallel.threads import RowThreads
from chem.reference import PROMPT, PriorStatistics, molecule_labels
from chem.replay import ReplayMemory, TrainingRows
from chem.scoring import RewardFunction
from chem.train import (
    BestPolicy,
    Learner,
    Reinvent,
    StopMonitor,
    batch_statistics,
    call_limit,
    draw_kl_samples,
    expected_updates,
    kl_samples_logp,
    make_chem_objective,
    next_progress,
    off_policy_notes,
    sample_records,
    train_step,
    update_policy,
)
from conf.schema.base import ConfigError
from conf.schema.chem import ChemConfig, RecurrentConfig, StopConfig
from conf.schema.run import OptimizerConfig
from core.answer_counts import AnswerCounts
from core.classes import ClassMemory, StepMasses, make_class_memory
from core.objective import make_objective
from core.schedules import run_progress, tie_betas
from core.sequence import masked_sum
from launch import collect
from launch.cli.compose import compose_typed
from launch.engines.base import lr_factor
from launch.engines.torch import TorchEngine
from launch.runs.rng import rollout_uniforms
from launch.runs.run_folder import read_jsonl

from .batches import make_batch
from .molecules import STRANGE, UNREADABLE

ROOT = Path(__file__).parents[2]
CONFIG = RecurrentConfig("gru", layers=1, hidden=12, embedding=8, dropout=0.0)
OPTIONS = {"direction": "reverse", "advantage": "no_baseline"}


def make_group(seed=0, rows=12, length=5):
    generator = torch.Generator().manual_seed(seed)
    policy = -torch.rand(1, rows, length, generator=generator, dtype=torch.float64)
    reference = -torch.rand(1, rows, length, generator=generator, dtype=torch.float64)
    reward = torch.rand(1, rows, generator=generator, dtype=torch.float64)
    mask = torch.arange(length) < torch.randint(1, length + 1, (1, rows, 1), generator=generator)
    return reward, policy.requires_grad_(), reference, mask


@pytest.mark.parametrize("transform", ["identity", "mara"])
@pytest.mark.parametrize("beta", [1 / 128, 0.5])
def test_reinvents_gradient_is_the_policy_gradients_by_sigma_is_one_over_beta(transform, beta):
    options = {"algorithm": "auto", "anchor": "group"} if transform == "mara" else {}
    threshold = {"kind": "constant", "value": 0.6, "floor": None}
    plain = make_objective(transform=transform, transform_options=options, threshold=threshold, **OPTIONS)
    reinvent = Reinvent(**vars(plain))
    reward, policy, reference, mask = make_group()
    valid = torch.arange(12).unsqueeze(0) != 3
    complete = torch.arange(12).unsqueeze(0) != 5
    gradients = []
    for objective in (plain, reinvent):
        loss, metrics = objective.loss(reward, policy, reference, mask, beta=beta, valid=valid, complete=complete)
        gradients.append(torch.autograd.grad(loss, policy)[0])
        assert "reward/augmented" in metrics
        assert "mara/good_share" in metrics
    torch.testing.assert_close(gradients[1], gradients[0] * 2 / beta)
    assert not gradients[1][~mask].any()
    assert not gradients[1][:, 3].any()
    loss, _ = reinvent.loss(reward, policy, reference, mask, beta=2 * beta, valid=valid, complete=complete)  # control
    assert not torch.allclose(torch.autograd.grad(loss, policy)[0], gradients[0] * 2 / beta)


def test_equal_completions_count_once_in_the_beta_schedule():
    """The batch of a step is one group; a completion that was sampled twice forms its pairs once."""
    tokens = torch.tensor([[1, 2, 0], [1, 0, 0], [1, 2, 0], [2, 0, 9]])  # 9 is padding
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True], [True, True, False]])
    reward = torch.tensor([1.0, 0.75, 1.0, 0.5])
    ref_logp = torch.tensor([[-2.0, -2, -2], [-2, -2, 0], [-2, -2, -2], [-1, -1, 0]])
    everywhere = torch.ones(4, dtype=torch.bool)
    rows = TrainingRows(tokens, mask, reward, everywhere, everywhere, ["C", "N", "C", "O"])
    threshold = {"kind": "constant", "value": 0.5, "floor": None}
    objective = make_objective(transform="identity", threshold=threshold, direction="reverse")
    engine = SimpleNamespace(backward=lambda loss: None, step=lambda: 0.0)
    learner = SimpleNamespace(objective=objective, engine=engine, classes=None, counts=None)
    _, statistics = update_policy(learner, rows, ref_logp.clone().requires_grad_(), ref_logp, 0.1, 4)
    assert statistics.good.tolist() == [[True, True, False, True]]

    def ties(good):
        return sorted(tie_betas(statistics.reward, statistics.ref_seq_logp, good).tolist())

    assert ties(statistics.good) == [0.125, 0.125, 0.125]
    assert len(ties(torch.ones(1, 4, dtype=torch.bool))) == 5  # control: the copy forms pairs too


def step_metrics(**shares):
    return {"reward/raw": 0.5, "valid": 1.0, "unique": 1.0, "scaffolds": 0.5, "repeats": 0.0, **shares}


@pytest.mark.parametrize(
    ("limits", "bad", "reason"),
    [
        ({"min_validity": 0.8}, {"valid": 0.7}, "validity 0.70"),
        ({"min_uniqueness": 0.5}, {"unique": 0.4}, "uniqueness 0.40"),
        ({"min_scaffolds": 0.2}, {"scaffolds": 0.1}, "scaffolds 0.10"),
        ({"max_repeats": 0.5}, {"repeats": 0.6}, "repeats 0.60"),
    ],
)
def test_a_run_stops_on_collapse_and_drift(limits, bad, reason):
    nothing = {"min_validity": None, "min_uniqueness": None, "min_scaffolds": None, "max_repeats": None}
    monitor = StopMonitor(StopConfig(3, **nothing | limits))
    assert [monitor.update(step_metrics()) for _ in range(4)] == [None] * 4
    restored = StopMonitor(monitor.config)
    restored.load_state_dict(monitor.state_dict())
    reasons = [monitor.update(step_metrics(**bad)) for _ in range(3)]
    assert reasons[0] is None
    assert reasons[-1].startswith(f"{reason} over the last 3 steps, the limit is {next(iter(limits.values())):g}")
    assert [restored.update(step_metrics(**bad)) for _ in range(3)] == reasons
    unlimited = StopMonitor(StopConfig(3, **nothing))
    assert [unlimited.update(step_metrics(**bad)) for _ in range(9)] == [None] * 9  # control


def test_a_metric_that_is_not_defined_neither_stops_a_run_nor_counts_as_zero():
    monitor = StopMonitor(StopConfig(3, None, 0.5, None, None))
    assert [monitor.update(step_metrics(unique=None)) for _ in range(4)] == [None] * 4
    assert monitor.mean("unique") is None
    monitor.update(step_metrics(unique=0.8))
    assert monitor.mean("unique") == 0.8
    assert [monitor.update(step_metrics(unique=0.1)) for _ in range(3)][-1] is not None  # control
    invalid = batch_statistics(make_batch(["C(", "C("], [0.0, 0.0]), [False], Rollout(*[torch.ones(2, 3).bool()] * 3))
    assert invalid["valid"] == 0
    assert all(math.isnan(invalid[name]) for name in ("unique", "scaffolds", "repeats"))


def test_the_divergence_is_measured_on_molecules_of_the_prior(prior):
    loaded = load_prior(prior)
    with RowThreads(40, 1) as threads:
        first, again, other = (draw_kl_samples(loaded, 40, seed, threads) for seed in (0, 0, 1))
        policy = deepcopy(loaded.network)
        same_logp, ref_logp = kl_samples_logp(policy, first, threads)
        with torch.no_grad():
            policy.head.bias[3] += 1.0
        moved_logp, _ = kl_samples_logp(policy, first, threads)
        assert draw_kl_samples(loaded, 0, 0, threads) is None
    assert torch.equal(first.tokens, again.tokens)
    assert first.tokens.tolist() != other.tokens.tolist()
    torch.testing.assert_close(same_logp, ref_logp)
    expected = token_logp(policy, first.tokens, first.mask).sum(-1).detach()
    torch.testing.assert_close(moved_logp, expected)
    objective = make_objective(transform="identity", direction="forward")
    kl = objective.measure_divergence((moved_logp, ref_logp), (moved_logp, ref_logp))[
        "kl/forward_from_reference_nats"
    ]
    assert float(kl) > 0.01


def test_the_best_policy_comes_back_with_its_optimiser():
    module = nn.Linear(2, 1)
    engine = TorchEngine(module, OptimizerConfig(0.1, 0.0, 0.9, 0.999, 0, "constant", None), 10)
    best = BestPolicy(engine)
    assert "no earlier policy" in best.restore()

    def move():
        engine.backward(module(torch.ones(1, 2)).sum())
        engine.step()
        return module.weight.detach().clone()

    move()
    best.update(0.5, False)  # not eligible
    best_weight = move()
    best.update(0.4, True)
    later_weights = [move(), move()]
    best.update(0.3, True)
    resumed = BestPolicy(engine)
    resumed.load_state_dict(best.state_dict())
    assert "0.400" in resumed.restore()
    assert torch.equal(module.weight, best_weight)
    assert [torch.equal(move(), weight) for weight in later_weights] == [
        True,
        True,
    ]  # Adam's moments are restored too


def write_prior(folder, config):
    """A random network that ends early: most of its samples are short chains, and so molecules."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_tokens(["C", "N", "O", "F"])
    network = make_network(len(tokenizer), config)
    with torch.no_grad():
        network.head.bias[:2] = torch.tensor([1.0, -20.0])
    save_prior(folder, Prior(network.eval(), tokenizer, config, 16))
    return folder


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return write_prior(tmp_path_factory.mktemp("prior"), CONFIG)


def carbon_share(smiles):
    return [Result(molecule, Status.ok, molecule.count("C") / 16) for molecule in smiles]


@contextmanager
def open_learner(prior, config, oracle=carbon_share):
    """A learner that scores in this process."""
    engine = TorchEngine(deepcopy(prior.network), config.optimizer, 100)
    row_threads = RowThreads(config.batch_size, 1)
    with row_threads, ThreadPoolExecutor(1) as thread, ParallelSampler(engine.module, row_threads) as sampler:
        yield Learner(
            prior=prior,
            engine=engine,
            objective=make_chem_objective(config),
            reward_function=RewardFunction(oracle, None, None),
            diversity_filter=DiversityFilter(config.diversity_filter),
            classes=make_class_memory(config.choices()),
            labels=partial(molecule_labels, config=config),
            memory=ReplayMemory(config.replay, prior.tokenizer),
            oracle_thread=thread,
            row_threads=row_threads,
            sampler=sampler,
        )


def compose_chem(*overrides):
    config: ChemConfig = compose_typed("chem", ["batch_size=24", "optimizer.lr=0.01", *overrides])[0]
    return config


def test_steps_are_those_written_out_by_hand(prior):
    """REINVENT's loss on samples and replayed molecules, with plain likelihoods and a second optimiser."""
    config = compose_chem("loss=reinvent", "objective.beta=0.05", "replay.size=5", "replay.sample=3")
    loaded = load_prior(prior)
    policy = deepcopy(loaded.network)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01, weight_decay=config.optimizer.weight_decay)
    best: dict[str, tuple[str, float]] = {}

    def errors(tokens, mask, reward):
        """log prior + R / beta - log policy of each row."""
        prior_logp = token_logp(loaded.network, tokens, mask).sum(-1).detach()
        return prior_logp + torch.tensor(reward) / 0.05 - token_logp(policy, tokens, mask).sum(-1)

    with open_learner(loaded, config) as learner:
        for step in range(3):
            uniforms = rollout_uniforms(config.seed, step, [0] * 24, list(range(24)), loaded.max_tokens)
            rollout = sample(policy, uniforms)
            smiles = loaded.decode(rollout)
            molecules = canonical_forms(smiles)
            reward = [0.0 if molecule is None else molecule.count("C") / 16 for molecule in molecules]
            all_errors = errors(rollout.tokens, rollout.mask, reward)
            if step:
                replayed = learner.memory.draw(config.seed, step)
                assert len(set(replayed) & set(best.values())) == 3
                tokens, mask = loaded.tokenizer.encode_batch([row for row, _ in replayed])
                all_errors = torch.cat([all_errors, errors(tokens, mask, [value for _, value in replayed])])
            loss = all_errors.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            result = train_step(learner, config, step, 0.05)
            assert float(result.metrics["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
            for molecule, row, value in zip(molecules, smiles, reward, strict=True):
                if molecule is not None and value > 0:
                    best.setdefault(molecule, (row, value))
            best = dict(sorted(best.items(), key=lambda item: -item[1][1])[:5])
        for name, parameter in learner.engine.module.state_dict().items():
            torch.testing.assert_close(parameter, policy.state_dict()[name], rtol=1e-4, atol=1e-6)
            assert not torch.allclose(parameter, loaded.network.state_dict()[name], atol=1e-3)  # control: it moved


REPLAY = ["replay.size=8", "replay.sample=8"]


@pytest.mark.parametrize("loss", ["reinvent", "policy_gradient"])
def test_metrics_and_the_statistics_for_beta_leave_replayed_molecules_out(prior, loss):
    """They are means over what the policy sampled in the step, with log-probabilities computed anew."""
    mara = ["transform=mara", "transform.threshold.value=0.3", "beta_schedule=automatic", "objective.beta=0.05"]
    config = compose_chem(*REPLAY, *mara, f"loss={loss}")
    loaded = load_prior(prior)
    differences = []
    with open_learner(loaded, config) as learner:
        for step in range(3):
            uniforms = rollout_uniforms(config.seed, step, [0] * 24, list(range(24)), loaded.max_tokens)
            with torch.no_grad():
                rollout = sample(learner.engine.module, uniforms)
                policy = token_logp(learner.engine.module, rollout.tokens, rollout.mask).sum(-1)
                reference = token_logp(loaded.network, rollout.tokens, rollout.mask).sum(-1)
            replayed = [reward for _, reward in learner.memory.draw(config.seed, step)]
            result = train_step(learner, config, step, 0.05)
            metrics, statistics = result.metrics, result.statistics
            assert float(metrics["reward/raw"]) == pytest.approx(float(result.batch.reward.mean()), rel=1e-5)
            assert float(metrics["kl/reverse_nats"]) == pytest.approx(float((policy - reference).mean()), abs=1e-4)
            assert float(metrics["policy/entropy_nats"]) == pytest.approx(-float(policy.mean()), rel=1e-4)
            good = result.batch.reward >= 0.3
            assert float(metrics["mara/good_share"]) == pytest.approx(float(good.float().mean()))
            assert statistics.kl == float(metrics["kl/reverse_nats"])
            assert torch.equal(statistics.reward, result.batch.reward.unsqueeze(0))
            assert torch.equal(statistics.good, good.unsqueeze(0))
            torch.testing.assert_close(statistics.ref_seq_logp, reference.unsqueeze(0), rtol=1e-4, atol=1e-4)
            with_replayed = torch.cat([result.batch.reward, torch.tensor(replayed)]).mean()
            differences.append(float(with_replayed - metrics["reward/raw"]))
    assert differences[0] == 0  # the memory was empty
    assert min(differences[1:]) > 0.004  # control: with the replayed rows, the mean reward would be higher


def test_replayed_molecules_are_trained_on_and_share_the_batchs_anchor(prior):
    """The update is that of all rows as one group; only what is reported changes."""
    loaded = load_prior(prior)
    weights = []
    for options in (REPLAY, []):
        config = compose_chem("loss=reinvent", "transform=mara", "transform.threshold.value=0.3", *options)
        with open_learner(loaded, config) as learner:
            for step in range(2):
                train_step(learner, config, step, 0.05)
            weights.append(learner.engine.module.state_dict()["head.weight"])
    assert not torch.allclose(weights[0], weights[1], atol=1e-4)
    reward, policy, reference, mask = make_group()
    objective = make_chem_objective(config)
    measured = torch.arange(12).unsqueeze(0) < 8
    memory = ClassMemory("sequence", "remembered", "remembered")
    losses, metrics = zip(
        *(
            objective.loss(
                reward, policy, reference, mask, beta=0.1, measured=m, masses=StepMasses(memory, ["p"], [[]])
            )
            for m in (None, measured)
        ),
        strict=True,
    )
    assert torch.equal(*losses)
    assert float(metrics[1]["reward/raw"]) == pytest.approx(float(reward[:, :8].mean()))
    assert float(metrics[1]["reward/raw"]) != pytest.approx(float(reward.mean()))  # control


def limited(learner, budget):
    """The learner with a budget of oracle calls."""
    return learner._replace(reward_function=RewardFunction(carbon_share, None, budget))


def progress_and_rates(prior, config, resume_after=None):
    """Progress before each step of a run, and the learning rate of each update, to the end of the budget."""
    loaded = load_prior(prior)
    rates: list[float] = []
    with open_learner(loaded, config) as opened:
        learner = limited(opened, config.budget)
        update = learner.engine.step
        progress = [0.0]

        def step_and_note():
            norm = update()
            rates.append(learner.engine.optimizer.param_groups[0]["lr"])
            return norm

        with patch.object(learner.engine, "step", step_and_note):
            for step in range(config.steps):
                train_step(learner, config, step, 0.05)
                if step == resume_after:
                    states = [deepcopy(part.state_dict()) for part in (learner.engine, learner.reward_function)]
                    learner = limited(learner, config.budget)
                    learner.engine.total_updates = math.nan  # of no effect: each step sets it
                    for part, state in zip((learner.engine, learner.reward_function), states, strict=True):
                        part.load_state_dict(state)
                if learner.reward_function.spent:
                    return progress, rates
                progress.append(next_progress(config, step, learner.reward_function.calls))
    raise AssertionError("the budget was not spent")


@pytest.mark.parametrize("augmentations", [0, 1])
def test_schedules_reach_their_end_with_the_budget(prior, augmentations):
    options = ["replay.size=5", f"replay.augmentations={augmentations}"] if augmentations else []
    config = compose_chem("budget=60", "steps=500", "optimizer.decay=linear", "optimizer.lr=0.001", *options)
    progress, rates = progress_and_rates(prior, config)
    steps = len(progress)
    assert 4 < steps < 40
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0, 1)
    each_step = rates[:: 1 + augmentations]
    assert each_step == sorted(each_step, reverse=True)
    # The last step is trained at the rate that it would have had in a run of exactly so many steps.
    updates = steps * (1 + augmentations)
    assert rates[-1] == pytest.approx(0.001 / updates)
    assert progress_and_rates(prior, config, resume_after=2) == (progress, rates)
    # Control: progress and decay by steps alone.
    assert run_progress(steps - 1, config.steps) < 0.1
    assert lr_factor(updates - 1, config.steps * (1 + augmentations), 0, "linear") > 0.9


def test_progress_is_that_of_the_steps_where_they_end_the_run(prior):
    config = compose_chem("budget=null", "steps=11")
    assert [next_progress(config, step, 99) for step in range(10)] == pytest.approx([s / 10 for s in range(1, 11)])
    assert expected_updates(config, 3, 99) == 11
    config = compose_chem("budget=1000", "steps=11", "replay.augmentations=2")
    assert next_progress(config, 4, 100) == 0.5
    assert next_progress(config, 4, 976) == 1  # the next batch of 24 may spend what is left
    assert next_progress(config, 4, 975) < 1
    assert expected_updates(config, 4, 0) == expected_updates(config, 4, 100) == 33
    assert expected_updates(config, 4, 500) == 30
    assert expected_updates(config, 4, 1000) == 15


def test_augmented_memory_takes_further_updates(prior):
    loaded = load_prior(prior)
    losses = {}
    for augmentations in (0, 2):
        config = compose_chem("replay.size=5", f"replay.augmentations={augmentations}")
        with (
            open_learner(loaded, config) as learner,
            patch.object(learner.engine, "step", wraps=learner.engine.step) as engine_step,
        ):
            result = train_step(learner, config, 0, 0.05)
            assert engine_step.call_count == 1 + augmentations
            losses[augmentations] = float(result.metrics["loss"])
    assert losses[0] == losses[2]  # what is logged is the loss on the samples


@pytest.mark.parametrize("name", ["none", "topological", "similarity"])
def test_a_policy_that_samples_strange_strings(name, monkeypatch):
    """Molecules that RDKit writes and cannot read, and scaffolds that are none, end no step, fresh or resumed."""
    tokenizer = Tokenizer.from_tokens(token for smiles in STRANGE for token in split_tokens(smiles))
    network = make_network(len(tokenizer), CONFIG).eval()
    monkeypatch.setattr(Prior, "decode", lambda self, rollout: [STRANGE[i] for i in range(len(rollout.tokens))])
    config = compose_chem(
        f"batch_size={len(STRANGE)}",
        "transform=mara",
        "transform.level=answer",
        "transform.equivalence=scaffold",
        "transform.threshold.kind=reference_quantile",
        "transform.threshold.value=0.5",
        f"transform.reference_samples={len(STRANGE)}",
        "replay.size=20",
        "replay.sample=5",
        "replay.augmentations=1",
        *([f"diversity_filter.name={name}", "replay.purge=true"] if name != "none" else []),
        "diversity_filter.min_score=0.1",
        "diversity_filter.bucket_size=1",
        "loss=reinvent",
    )
    prior = Prior(network, tokenizer, CONFIG, 90)
    with open_learner(prior, config) as learner:
        statistics = PriorStatistics(config, learner.classes)
        statistics.measure(prior, learner.reward_function)
        learner = learner._replace(objective=statistics.with_threshold(learner.objective))
        results = [train_step(learner, config, step, 0.05) for step in range(2)]
        kept = {part: deepcopy(getattr(learner, part).state_dict()) for part in ("memory", "diversity_filter")}
        third = train_step(learner, config, 2, 0.05)
        for part, state in kept.items():
            getattr(learner, part).load_state_dict(state)
        again = train_step(learner, config, 2, 0.05)
    assert all(math.isfinite(float(result.metrics["loss"])) for result in (*results, third, again))
    assert results[0].metrics["valid"] == 1 - results[0].batch.canonical.count(None) / len(STRANGE)
    assert results[0].batch.canonical[: len(UNREADABLE)] == [None] * len(UNREADABLE)
    assert third.metrics["filtered"] == again.metrics["filtered"]


def test_the_log_probabilities_of_what_was_sampled(prior):
    """Those of the first row of each molecule, computed anew; policy and prior are the same before the first update.

    Control: with the policy's rows in another order they differ.
    """
    config = compose_chem("duplicates=zero")
    with open_learner(load_prior(prior), config) as learner:
        rows = list(range(config.batch_size))
        width = learner.prior.max_tokens
        rollout = sample(learner.prior.network, rollout_uniforms(config.seed, 0, [0] * len(rows), rows, width))
        canonical = canonical_forms(learner.prior.decode(rollout))
        with torch.no_grad():
            logp = masked_sum(token_logp(learner.prior.network, rollout.tokens, rollout.mask), rollout.mask)
        first, second = (train_step(learner, config, 0, 0.05) for _ in range(2))  # the policy moves, the draws do not
    expected = {smiles: float(logp[canonical.index(smiles)]) for smiles in canonical if smiles is not None}
    assert len(expected) < len(rows)  # some rows are invalid or repeated
    lines = {row["smiles"]: row for row in sample_records(first.batch, first.seq_logp)}
    assert set(lines) == set(expected)
    for name in ("policy_seq_logp", "ref_seq_logp"):
        assert {smiles: row[name] for smiles, row in lines.items()} == pytest.approx(expected, rel=1e-5)
    shuffled = dict(zip(expected, [*list(expected.values())[1:], 0.0], strict=True))
    assert expected != pytest.approx(shuffled, rel=1e-5)
    moved = [second.seq_logp[smiles] for smiles in second.seq_logp if smiles in expected]
    assert moved
    assert all(values.policy != values.ref for values in moved)
    assert "ref_seq_logp" not in sample_records(first.batch)[0]  # such as molecules of the prior, and seeds


def test_what_a_step_reports(prior):
    config = compose_chem("duplicates=zero")
    with open_learner(load_prior(prior), config) as learner:
        first, second = (train_step(learner, config, 0, 0.05) for _ in range(2))  # the policy moves, the draws do not
    molecules = [molecule for molecule in first.batch.canonical if molecule is not None]
    assert first.metrics["valid"] == len(molecules) / 24
    assert first.metrics["unique"] == len(set(molecules)) / len(molecules)
    assert first.metrics["repeats"] == 0
    assert [row["smiles"] for row in sample_records(first.batch)] == list(dict.fromkeys(molecules))
    repeated = [molecule in set(molecules) for molecule in second.batch.canonical if molecule is not None]
    assert second.metrics["repeats"] == sum(repeated) / len(repeated) > 0
    assert first.statistics.reward.shape == (1, 24)


def test_statistics_of_a_batch_by_hand():
    smiles = ["CCO", "OCC", "c1ccccc1C", "C("]
    batch = make_batch(smiles, [0.5, 0.5, 0.5, 0.0])._replace(fresh=[Result("CCO", Status.ok, 0.5)])
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    statistics = batch_statistics(batch, [False, True, False, False], Rollout(mask.long(), mask, mask[:, 0]))
    assert {name: float(value) for name, value in statistics.items()} == {
        "valid": 0.75,
        "unique": pytest.approx(2 / 3),
        "scaffolds": pytest.approx(2 / 3),  # benzene's and the empty one
        "repeats": pytest.approx(1 / 3),  # toluene is not fresh
        "filtered": 0.25,
        "length": 1.75,
    }


@pytest.mark.parametrize("mass", ["remembered", "group"])
def test_scaffolds_become_equally_likely_and_replayed_molecules_estimate_no_mass(prior, mass):
    settings = [
        "transform=mara",
        "transform.level=answer",
        "transform.equivalence=scaffold",
        f"transform.mass={mass}",
    ]
    config = compose_chem(*settings, "transform.threshold.value=0.1", "advantage=leave_one_out")
    with open_learner(load_prior(prior), config) as learner:
        memory = learner.classes
        for step in range(3):
            metrics = train_step(learner, config, step, 0.1).metrics
        assert metrics["mara/good_share"] > 0
        assert memory.prompts[PROMPT].estimates == 3
        molecules = [smiles for smiles in learner.reward_function.scores]
        assert set(memory.known(PROMPT)) <= {scaffold_from_smiles(smiles) for smiles in molecules}
        if mass == "remembered":
            everywhere = torch.ones(4, dtype=torch.bool)
            tokens, mask = learner.prior.tokenizer.encode_batch(molecules[:4])
            rows = TrainingRows(tokens, mask, torch.ones(4), everywhere, everywhere, molecules[:4])
            policy_logp = token_logp(learner.engine.module, tokens, mask)
            update_policy(learner, rows, policy_logp, policy_logp.detach(), 0.1, 0)  # none of them was sampled
            assert memory.prompts[PROMPT].estimates == 3
    if mass == "group":
        with pytest.raises(ConfigError, match=r"^transform\.mass: must be remembered or reference with replay"):
            compose_chem(*settings, "replay.size=4", "replay.sample=2")


def test_a_step_counts_its_molecules_and_pays_for_seldom_ones(prior):
    """Advantages have mean 0, so that a bonus of equal counts adds its square to theirs, of new molecules and old."""
    config = compose_chem("transform=historical_exploration", "advantage=leave_one_out", "duplicates=keep")
    square: dict[int, float] = {}
    molecules: list[str] = []
    for times in (0, 100):
        counts = AnswerCounts()
        counts.prompts[PROMPT] = Counter({name: times for name in molecules})
        with open_learner(load_prior(prior), config) as learner:
            result = train_step(learner._replace(counts=counts), config, 0, 0.1)
        square[times] = float(result.metrics["advantage/std"]) ** 2
        molecules = [molecule or "" for molecule in result.batch.canonical]
        assert counts.prompts[PROMPT] == {name: n + times for name, n in Counter(molecules).items()}
    new, old = 0.2 * (1 - 0.5), 0.2 * (0.1 - 0.5)
    assert square[0] - square[100] == pytest.approx(new**2 - old**2, rel=1e-3)
    with pytest.raises(ConfigError, match=r"^replay: must be off with transform=historical_exploration"):
        compose_chem("transform=historical_exploration", "replay.size=4", "replay.sample=2")


def test_off_policy_settings_are_named():
    assert off_policy_notes(compose_chem("duplicates=keep")) == []
    notes = off_policy_notes(compose_chem(*ALL_PARTS))
    assert [note.split(" ")[0] for note in notes] == ["duplicates=zero", "with", "replayed", "the", "therefore"]
    assert "diversity_filter.name=identical_murcko" in notes[1]


SMALL = ["steps=12", "oracle.workers=1", "checkpoint.every_steps=3"]
ALL_PARTS = [
    "transform=mara",
    "transform.level=answer",
    "transform.equivalence=scaffold",
    "transform.threshold.kind=reference_quantile",
    "transform.threshold.value=0.6",
    "transform.reference_samples=32",
    "duplicates=zero",
    "replay.size=10",
    "replay.sample=4",
    "replay.augmentations=1",
    "replay.purge=true",
    "diversity_filter.name=identical_murcko",
    "diversity_filter.min_score=0.3",
    "diversity_filter.bucket_size=3",
    "loss=reinvent",
]


def chem(prior, folder, *overrides, cache="null", rows=16, threads=1):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    where = "hydra.sweep.dir" if "-m" in overrides else "hydra.run.dir"
    command = [
        sys.executable,
        "-m",
        "chem",
        f"prior={prior}",
        f"{where}={folder}",
        f"cache={cache}",
        f"batch_size={rows}",
        f"threads={threads}",
        *SMALL,
        *overrides,
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    """A part of its batch is sampled in another process."""
    prior = write_prior(tmp_path / "prior", replace(CONFIG, name="lstm"))
    whole, killed = (chem(prior, tmp_path / name, *ALL_PARTS, rows=64, threads=2) for name in ("whole", "killed"))
    lines = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.exists() and lines.read_bytes().count(b"\n") > 4) and time.monotonic() < deadline:
        time.sleep(0.005)
    samplers = [
        child for child in psutil.Process(killed.pid).children() if "chem.parallel.sampler" in child.cmdline()
    ]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(samplers) == 1
    assert not psutil.wait_procs(samplers, timeout=20)[1]
    assert not (tmp_path / "killed" / "summary.json").exists()
    resumed = chem(prior, tmp_path / "killed", *ALL_PARTS, rows=64, threads=2)
    resumed_log, whole_log = resumed.communicate()[0], whole.communicate()[0]
    assert whole.returncode == resumed.returncode == 0, whole_log + resumed_log
    assert "resuming from step" in resumed_log
    assert "off-policy: replayed molecules" in whole_log
    assert "Best molecules" in whole_log
    for name in ("metrics.jsonl", "samples.jsonl", "summary.json", "molecules.csv", "policy/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name

    metrics = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    samples = read_jsonl(tmp_path / "whole" / "samples.jsonl")
    assert metrics[-1]["oracle/calls"] == len(samples) == len({row["smiles"] for row in samples})
    assert max(row["filtered"] for row in metrics) > 0
    trained, start = load_prior(tmp_path / "whole" / "policy"), load_prior(prior)
    tokens, mask = start.tokenizer.encode_batch(["CCO"])
    before, after = (token_logp(p.network, tokens, mask).sum() for p in (start, trained))
    assert abs(float(before.detach() - after.detach())) > 1e-3


PROGRAM = "echo $$ >> {log}; sleep 0.01; wc -c < {{smi}}"
VINA = {
    "receptor": "clpp_7uvu_receptor.pdbqt",
    "ligand": "clpp_7uvu_ligand.pdb",
    "ligand_smiles": "N#Cc1cccc(CN2CCc3ncn(Cc4ccc(Cl)cc4)c(=O)c3C2)c1",
}


def docking(kind, log):
    """Overrides: a program for each molecule, or Vina itself."""
    if kind == "program":
        parameters = f"{{command: [sh, '-c', '{PROGRAM.format(log=log)}'], pattern: '(\\d+)'}}"
        transform = "{name: interval, low: 4, high: 8, margin: 4}"
        part = f"{{name: external_program, parameters: {parameters}, transform: {transform}}}"
    else:
        parameters = ", ".join(f"{key}: '{value}'" for key, value in VINA.items())
        shape = "{name: reverse_sigmoid, low: -16, high: 0, k: 0.15}"
        part = f"{{name: docking, parameters: {{{parameters}, exhaustiveness: 1}}, transform: {shape}}}"
    return [f"oracle.components=[{part}]"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.long) for kind in ("program", "vina")])
def test_killed_while_a_molecule_is_docked(prior, tmp_path, kind):
    """No process is left behind, and the resumed run ends like one that was not interrupted."""
    if kind == "vina" and not (Path(os.environ.get("MARA_DATA", "")) / VINA["receptor"]).is_file():
        pytest.skip("needs MARA_DATA with clpp_7uvu_receptor.pdbqt and clpp_7uvu_ligand.pdb")
    log = tmp_path / "log"
    options = docking(kind, log)
    killed = chem(prior, tmp_path / "killed", *options)
    lines = tmp_path / "killed" / "metrics.jsonl"
    wait_until(lambda: lines.exists() and lines.read_bytes().count(b"\n") > 4, killed)
    logged = log.stat().st_size if kind == "program" else 0
    wait_until(lambda: kind == "vina" or log.stat().st_size > logged, killed)
    workers = psutil.Process(killed.pid).children(recursive=True)
    assert any("worker" in " ".join(process.cmdline()) for process in workers)
    killed.kill()
    killed.communicate()
    assert not psutil.wait_procs(workers, timeout=10)[1]
    if kind == "program":
        assert not any(psutil.pid_exists(int(pid)) for pid in log.read_text().split())
    assert not (tmp_path / "killed" / "summary.json").exists()
    for name in ("killed", "whole"):
        process = chem(prior, tmp_path / name, *options)
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
        assert ("resuming from step" in printed) == (name == "killed")
    for name in ("metrics.jsonl", "samples.jsonl", "summary.json", "molecules.csv", "policy/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def wait_until(ready, process):
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def test_a_sweep_shares_the_cache_and_the_budget_ends_a_run(prior, tmp_path):
    sweep = [
        "-m",
        "objective.direction=reverse,forward",
        "objective.beta=0.02,0.1",
        "budget=20",
        "screens=[0.4,0.45]",
    ]
    process = chem(prior, tmp_path / "sweep", *sweep, cache=tmp_path / "cache.sqlite")
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    summaries = json.loads((tmp_path / "sweep" / "summaries.json").read_text())
    assert len(summaries) == 4
    assert {row["stopped_by"] for row in summaries.values()} == {"budget"}
    assert {row["calls"] for row in summaries.values()} == {20}  # the first batch is the same: cached answers count
    assert printed.count("oracle: 20 distinct molecules") == 4
    assert printed.count("20 distinct molecules, 0 answers") == 1
    assert (tmp_path / "sweep" / "figure.png").stat().st_size > 1000
    check_report(tmp_path / "sweep", summaries)


def check_report(sweep, summaries):
    """The report of `launch.collect`: its figures are those counted here from molecules.csv."""
    assert collect.main([str(sweep), "--metrics", "0.4/yield,0.4/OB1"]) == 0
    page = (sweep / "collected" / "report.html").read_text()
    drawn = page.split("<h2>Best distinct molecules</h2>")[1].split("</section>")[0]
    assert drawn.count("data:image/svg+xml;base64,") == 4 * 12
    assert "<h2>Yield</h2>" in page
    assert (sweep / "collected" / "yield.png").stat().st_size > 1000
    for number, row in enumerate(summaries.values()):
        with (sweep / str(number) / "molecules.csv").open() as file:
            scores = [float(line["score"]) for line in csv.DictReader(file) if line["status"] == "ok"]
        assert [row["0.4/yield"], row["0.45/yield"]] == [sum(s >= screen for s in scores) for screen in (0.4, 0.45)]
        assert row["0.4/OB1"] == 1 + [score >= 0.4 for score in scores].index(True)
        assert row["0.4/OB100"] is None
        assert scores[0] != max(scores)
        assert html.escape(row["best"][0]["smiles"]) in drawn
        assert len(scores) == 20


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=reinvent", "objective.direction=forward"], "objective.direction: must be reverse with loss=reinvent"),
        (
            ["loss=reinvent", "objective.beta=0"],
            "objective.beta: must be > 0 with loss=reinvent, got 0.0: its sigma is 1 / beta",
        ),
        (["replay.sample=3"], "replay.sample: must be <= 0 (replay.size), got 3"),
        (
            ["prior=no_such"],
            "prior: no_such does not exist; give a folder of a prior, a file of REINVENT 4 or 2, or shipped",
        ),
        (["diversity_filter.name=murcko"], "diversity_filter.name: must be one of none, identical_murcko"),
    ],
)
def test_a_mistake_is_one_line(prior, tmp_path, overrides, message):
    own_prior = [override for override in overrides if override.startswith("prior=")]
    process = chem(own_prior[0][6:] if own_prior else prior, tmp_path / "run", *(set(overrides) - set(own_prior)))
    printed = process.communicate()[0]
    assert process.returncode == 1, printed
    assert f"chem: {message}" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("budget", "stages", "limit"),
    [
        (None, [], None),
        (10_000, [], 10_000),
        (10_000, [320, 100], 420),
        (None, [320, 100], 420),
        (400, [320, 100], 400),
        (10_000, [320, None], 10_000),
    ],
)
def test_the_calls_of_a_run_are_those_of_its_stages(budget, stages, limit):
    config = SimpleNamespace(budget=budget, stages=[SimpleNamespace(budget=stage) for stage in stages])
    assert call_limit(config) == limit
