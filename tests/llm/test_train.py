"""A training step against autograd written out by hand, and what must not change it."""

import contextlib
import copy
import json
import shutil
from unittest.mock import patch

import pytest
import torch
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from core.objective import make_objective
from core.sequence import masked_sum
from launch.cli.compose import compose
from launch.engines.factory import make_engine
from launch.runs.run import Run
from launch.runs.run_folder import read_jsonl
from llm.batch import BatchSettings, draw_batch
from llm.evaluation.equivalence import normalise_text
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import set_clock
from llm.inference.sampling import sample
from llm.prompt_statistics import prompt_key
from llm.train import make_learner, mean_metrics, sample_rows, train, train_step, with_entropy

from .helpers import one_step, parameters

SMALL = ("group_size=6", "prompts_per_step=3", "max_new_tokens=6", "steps=3", "threads=null")


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("transform", ["identity", "mara"])
def test_micro_batches_change_nothing(models, odd_length, make_config, direction, transform):
    options = (*SMALL, f"objective.direction={direction}", f"transform={transform}", "objective.beta=.1")
    whole, expected, _ = one_step(models, odd_length, make_config(*options, "micro_batch=18"))
    for size in (12, 6, 4):  # whole groups, one group, parts of a group
        part, updated, _ = one_step(models, odd_length, make_config(*options, f"micro_batch={size}"))
        assert part.texts == whole.texts
        for name in ("loss", "policy/token_entropy_nats"):
            assert float(part.metrics[name]) == pytest.approx(float(whole.metrics[name]), abs=1e-5)
        torch.testing.assert_close(updated, expected, atol=5e-6, rtol=0)
    assert (expected - parameters(models.reference)).abs().max() > 1e-4  # control: the step changed the policy


def test_the_step_follows_the_gradient_of_the_objective(models, odd_length, make_config):
    """The engine receives the gradient that autograd gives on the same completions, written out by hand."""
    config = make_config(*SMALL, "transform=mara", "objective.beta=.1", "optimizer.max_grad_norm=null")
    received = []

    class Recorder:
        module = models.policy

        def apply(self, function):
            return function(models.policy)

        def gather(self):
            return contextlib.nullcontext(models.policy)

        def backward(self, loss):
            loss.backward()

        def step(self):
            received.append([p.grad.clone() for p in models.policy.parameters()])
            return torch.tensor(0.0)

    objective = make_objective(**config.objective_arguments())
    batch = draw_batch(BatchSettings.from_config(config), models, odd_length, step=0)
    result = train_step(make_learner(config, odd_length, models, Recorder()), objective, batch, 0.1)

    ends = {"eos_ids": models.eos_ids, "pad_id": models.pad_id}
    rollout = sample(models.policy, batch.prompts, batch.uniforms, group_size=6, **ends)
    policy = completion_logp(models.policy, batch.prompts, rollout.tokens, rollout.mask)
    with torch.no_grad():
        reference = completion_logp(models.reference, batch.prompts, rollout.tokens, rollout.mask)
    ref = masked_sum(reference, rollout.mask).view(3, 6)
    pi = masked_sum(policy, rollout.mask).view(3, 6)
    transformed = objective.apply_transform(result.reward, ref, beta=0.1, valid=rollout.complete.view(3, 6)).reward
    shaped = transformed - 0.1 * (pi.detach() - ref)
    advantage = shaped - (shaped.sum(-1, keepdim=True) - shaped) / 5  # leave one out
    expected = torch.autograd.grad(-(advantage * pi).mean(), list(models.policy.parameters()))
    for ours, plain in zip(received[0], expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(result.policy_seq_logp, pi.detach())
    torch.testing.assert_close(result.ref_seq_logp, ref)


def test_truncated_completions_keep_their_reward_or_are_excluded(models, odd_length, make_config):
    keep, parameters_keep, _ = one_step(models, odd_length, make_config(*SMALL, "truncated=keep"))
    drop, parameters_drop, _ = one_step(models, odd_length, make_config(*SMALL, "truncated=drop"))
    assert keep.metrics["truncated_share"] > 0
    assert keep.texts == drop.texts
    assert (parameters_keep - parameters_drop).abs().max() > 1e-6


class FirstCharacters:
    """An embedder for which texts are equal if their first characters are."""

    def __init__(self, name, device):
        assert name == "some/embedder"

    def __call__(self, texts):
        return torch.nn.functional.one_hot(torch.tensor([ord(text[:1] or "-") for text in texts]), 0x110000).float()


def test_darling_multiplies_by_the_share_of_others_with_another_answer(models, odd_length, make_config):
    """The metric that a step reports, against the same by hand from its texts."""
    embedding = ("embedding", "transform.embedder=some/embedder")
    for (equivalence, *options), class_of in (
        (("answer",), odd_length.answer),
        (("exact",), normalise_text),
        (embedding, lambda text: text[:1] or "-"),
    ):
        config = make_config(*SMALL, "transform=darling", f"transform.equivalence={equivalence}", *options)
        with patch("llm.evaluation.equivalence.Embedder", FirstCharacters):
            result, *_ = one_step(models, odd_length, config)
        total = 0.0
        for p in range(3):
            texts, rewards = result.texts[6 * p : 6 * p + 6], result.reward[p].tolist()
            for text, reward in zip(texts, rewards, strict=True):
                total += reward * sum(class_of(other) != class_of(text) for other in texts) / 5
        assert float(result.metrics["reward/augmented"]) == pytest.approx(total / 18)
        assert total > 0
    plain, *_ = one_step(models, odd_length, make_config(*SMALL))
    assert plain.metrics["reward/augmented"] == plain.metrics["reward/raw"]  # control


@pytest.mark.parametrize("equivalence", ["answer", "exact"])
def test_a_step_counts_its_answers_and_pays_for_seldom_ones(models, odd_length, make_config, equivalence):
    """Against a count by hand from the texts; a bonus of equal counts adds its square to that of the advantages."""
    options = ("transform=historical_exploration", f"transform.equivalence={equivalence}", "transform.coef=2")
    config = make_config(*SMALL, *options, "objective.beta=0", "optimizer.lr=1e-9")
    class_of = odd_length.answer if equivalence == "answer" else normalise_text
    models = models._replace(policy=copy.deepcopy(models.policy))
    learner = make_learner(config, odd_length, models, make_engine("torch", models.policy, config.optimizer, 3))
    objective = make_objective(**config.objective_arguments())
    batch = draw_batch(BatchSettings.from_config(config), models, odd_length, step=0)
    by_hand: dict[str, dict[str, int]] = {}
    squares: list[float] = []
    for times in (0, 100):
        for counts in learner.counts.prompts.values():
            counts.update({name: times - n for name, n in counts.items()})
        by_hand = {prompt: dict.fromkeys(names, times) for prompt, names in by_hand.items()}
        result = train_step(learner, objective, batch, 0.0)  # the same completions: the rate is next to nothing
        squares.append(float(result.metrics["advantage/std"]) ** 2)
        for row, chat in enumerate(batch.chats):
            own = by_hand.setdefault(prompt_key(chat), {})
            for text in result.texts[6 * row : 6 * row + 6]:
                own[class_of(text)] = own.get(class_of(text), 0) + 1
        assert learner.counts.state_dict() == by_hand
    new, old = 2 * (1 - 0.5), 2 * (0.1 - 0.5)
    assert squares[0] - squares[1] == pytest.approx(new**2 - old**2, rel=1e-3)


def test_dra_divides_by_one_plus_the_summed_similarity(models, odd_length, make_config):
    """The metric that a step reports, against the same by hand from its texts, with classes and with embeddings."""
    embedding = ("embedding", "transform.embedder=some/embedder")
    for (similarity, *options), class_of in (
        (("classes",), odd_length.answer),
        (embedding, lambda text: text[:1] or "-"),  # `FirstCharacters` makes the cosine 0 or 1
    ):
        config = make_config(*SMALL, "transform=dra", f"transform.similarity={similarity}", *options)
        with patch("llm.evaluation.equivalence.Embedder", FirstCharacters):
            result, *_ = one_step(models, odd_length, config)
        total = 0.0
        for p in range(3):
            texts, rewards = result.texts[6 * p : 6 * p + 6], result.reward[p].tolist()
            classes = [class_of(text) for text in texts]
            total += sum(reward / classes.count(c) for reward, c in zip(rewards, classes, strict=True))
        assert float(result.metrics["reward/augmented"]) == pytest.approx(total / 18)
        assert total > 0
    assert total < float(result.reward.sum())  # control: some first characters repeat


def test_a_step_repeats_exactly_and_seed_zero_is_a_seed(models, odd_length, make_config):
    runs = {seed: one_step(models, odd_length, make_config(*SMALL, f"seed={seed}")) for seed in (0, 1)}
    again = one_step(models, odd_length, make_config(*SMALL, "seed=0"))
    assert torch.equal(again[1], runs[0][1])
    assert again[0].texts == runs[0][0].texts
    assert runs[0][0].texts != runs[1][0].texts


def test_logged_samples_are_those_of_the_step(models, odd_length, make_config):
    result, *_ = one_step(models, odd_length, make_config(*SMALL))
    rows = list(sample_rows(result))
    assert [row["completion"] for row in rows] == result.texts
    assert [row["prompt"] for row in rows] == [0] * 6 + [1] * 6 + [2] * 6
    assert [row["reward"] for row in rows] == [odd_length.reward([], text) for text in result.texts]
    assert rows[7]["ref_seq_logp"] == float(result.ref_seq_logp[1, 1])
    json.dumps(rows)


def test_the_entropy_coefficient_falls_linearly_to_its_final_value(make_config):
    config = make_config("steps=5", "objective.entropy_coef=.4", "objective.entropy_final=0")
    objective = make_objective(**config.objective_arguments())
    coefficients = [with_entropy(objective, config, step).entropy_coef for step in range(5)]
    assert coefficients == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    constant = make_config("objective.entropy_coef=.4")
    objective = make_objective(**constant.objective_arguments())
    assert with_entropy(objective, constant, 3) is objective


def test_metrics_of_several_updates_are_averaged():
    updates = [
        {"loss": torch.tensor(1.0), "count": torch.tensor(2)},
        {"loss": torch.tensor(4.0), "count": torch.tensor(3)},
    ]
    assert {name: float(value) for name, value in mean_metrics(updates).items()} == {"loss": 2.5, "count": 2.5}


# --- whole runs ----------------------------------------------------------------------------------------------

RUN = ("model.device=cpu", "model.dtype=float32", "steps=2", "group_size=4", "max_new_tokens=5", "sample_every=1")


@pytest.fixture
def start_run(tmp_path, monkeypatch, make_config, capsys):
    """Trains in a folder as if it were some day; returns the samples and what was printed."""

    def start(name, *overrides, day="2024-01-02"):
        monkeypatch.setattr("launch.runs.record.utc_now", lambda: f"{day}T10:00:00+00:00")
        words = [*RUN, "evaluation_completions=8", "threads=null", *overrides]
        config = OmegaConf.create(copy.deepcopy(dict(compose("llm", words))))
        capsys.readouterr()
        with Run(tmp_path / name, "llm", config, words) as run:
            train(make_config(*words), run)
        out = " ".join(capsys.readouterr().out.split())
        return read_jsonl(tmp_path / name / "samples.jsonl"), out

    yield start
    set_clock(None)


def test_prompts_with_a_date_keep_that_of_the_first_start(model_folder, tokenizer, start_run, tmp_path):
    dated = copy.deepcopy(tokenizer)
    dated.chat_template = "{{ strftime_now('%d %B %Y') }} " + tokenizer.chat_template
    dated.save_pretrained(model_folder)
    model = (f"model.name_or_path={model_folder}", "checkpoint.every_steps=1")
    whole, _ = start_run("whole", *model)
    assert len(whole) == 8
    start_run("killed", *model)
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "step_00000002")  # leaves the first of two steps
    resumed, out = start_run("killed", *model, day="2024-01-03")
    assert "resuming from step 1" in out
    assert resumed == whole
    another_day, _ = start_run("another", *model, day="2024-01-03")
    assert another_day != whole  # control: the date matters


def test_a_template_without_a_date_does_not_see_the_clock(model_folder, start_run):
    model = f"model.name_or_path={model_folder}"
    assert start_run("a", model)[0] == start_run("b", model, day="2024-01-03")[0]


def test_a_step_in_which_nearly_all_is_truncated_is_warned_about_once(model_folder, start_run):
    model = f"model.name_or_path={model_folder}"
    out = start_run("cut", model, "max_new_tokens=1", "steps=4")[1]
    assert out.count("completions were cut at max_new_tokens=1, and") == 1
    assert "raise max_new_tokens, or name what ends a completion in model.stop.tokens or model.stop.strings" in out
    every = f"model.stop.tokens=[{','.join(map(str, range(259)))}]"  # control: everything ends a completion
    assert "were cut" not in start_run("whole", model, every)[1]


def test_prompts_that_do_not_fit_end_a_run_before_its_first_step(build_model, tokenizer, start_run, tmp_path):
    folder = tmp_path / "short"
    build_model("gpt2", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        ConfigError, match=r"^max_new_tokens: .* into the 1024 positions of the model, got 1000 tokens"
    ):
        start_run("run", f"model.name_or_path={folder}", "max_new_tokens=1000")
    assert not (tmp_path / "run" / "samples.jsonl").exists()
