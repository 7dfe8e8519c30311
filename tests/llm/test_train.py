import contextlib
import copy
import json
import math
from itertools import product
from unittest.mock import patch

import pytest
import torch

from conf.schema.base import ConfigError
from core.objective import make_objective
from core.sequence import masked_sum
from launch.engines import distributed
from launch.engines.factory import make_engine
from llm.batch import BatchSettings, Completions, draw_batch, prompt_index
from llm.evaluation.collapse import CollapseWatch, answer_shares, mode_ratio
from llm.evaluation.equivalence import normalise_text
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import Prompts, encode_chats
from llm.inference.sampling import sample
from llm.microbatch import MicroBatchLimits, forward_micro_batches, plan_micro_batches
from llm.models import load_models
from llm.tasks.base import Task, load_task
from llm.tasks.one_two import OneTwo
from llm.testbed.tiny_models import byte_tokenizer
from llm.train import make_learner, train_step

SMALL = ("group_size=6", "prompts_per_step=3", "max_new_tokens=6", "steps=3", "threads=null")


def one_step(models, task, config):
    """A training step; returns what it reports and the policy's parameters after it."""
    models = models._replace(policy=copy.deepcopy(models.policy))
    engine = make_engine("torch", models.policy, config.optimizer, config.steps)
    objective = make_objective(**config.objective_arguments())
    batch = draw_batch(BatchSettings.from_config(config), models, task, step=0)
    learner = make_learner(config, task, models, engine)
    result = train_step(learner, objective, batch, config.objective.beta)
    return result, torch.cat([p.detach().flatten() for p in models.policy.parameters()])


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("transform", ["identity", "mara"])
def test_micro_batches_change_nothing(models, two_letters, make_config, direction, transform):
    options = (*SMALL, f"objective.direction={direction}", f"transform={transform}", "objective.beta=.1")
    whole, expected = one_step(models, two_letters.task, make_config(*options, "micro_batch=18"))
    for size in (12, 6, 4):  # whole groups, one group, parts of a group
        part, updated = one_step(models, two_letters.task, make_config(*options, f"micro_batch={size}"))
        assert part.texts == whole.texts
        for name in ("loss", "policy/token_entropy_nats"):
            assert float(part.metrics[name]) == pytest.approx(float(whole.metrics[name]), abs=1e-5)
        torch.testing.assert_close(updated, expected, atol=2e-6, rtol=0)
    before = torch.cat([p.detach().flatten() for p in models.reference.parameters()])
    assert (expected - before).abs().max() > 1e-4  # control: the step did something


def test_micro_batches_keep_their_budgets():
    """Each row once and in order; whole groups or parts of one; within both budgets, or a row that is alone."""
    G, lengths = 4, torch.tensor([5, 1, 9, 2, 9, 9, 9, 9, 1, 1, 2, 3])
    prompts = Prompts(torch.zeros(3, 20), torch.arange(20).flip(0) < torch.tensor([[20], [3], [7]]))
    mask = torch.arange(9) < lengths.unsqueeze(-1)

    def cost(some, more=0):
        rows, sizes = range(12)[some.rows.start : some.rows.stop + more], prompts.mask[some.prompts].sum(-1)
        return len(rows), len(sizes) * int(sizes.max()) + len(rows) * int(lengths[list(rows)].max())

    for most, tokens in product((1, 3, 4, 5, 8, 11, 12), (None, 1, 20, 41, 60, 1000)):
        passes = plan_micro_batches(prompts, mask, MicroBatchLimits(most, tokens))
        assert [row for some in passes for row in range(12)[some.rows]] == list(range(12))
        for some in passes:
            first, last, _ = some.prompts.indices(3)
            assert first * G <= some.rows.start
            assert some.rows.stop <= last * G
            assert some.counted
            assert last == first + 1 or (some.rows.start, some.rows.stop) == (first * G, last * G)
            (rows, size), limit = cost(some), tokens or math.inf
            assert (rows <= most and size <= limit) or rows == 1
            if last == first + 1 and some.rows.stop < last * G:
                rows, size = cost(some, more=1)
                assert rows > most or size > limit  # no pass is smaller than it must be


def test_a_rank_with_fewer_passes_makes_up_for_them(models, tokenizer):
    """With passes that have no row: nothing is read from them, and gradients through them are 0."""
    prompts = encode_chats(tokenizer, [[{"role": "user", "content": "hi"}]])
    tokens, mask = torch.tensor([[5, 6, 7], [8, 9, 9]]), torch.tensor([[True] * 3, [True, False, False]])
    with patch.object(distributed, "max_over_ranks", lambda values: [values[0] + 1]):
        passes = plan_micro_batches(prompts, mask, MicroBatchLimits(64))
    assert [some.counted for some in passes] == [True, False]
    apply = lambda read: read(models.policy)  # noqa: E731
    real, empty = forward_micro_batches(apply, completion_logp, passes, Completions(prompts, tokens, mask))
    assert real.shape == (2, 3)
    assert empty.shape == (0, 3)
    gradients = torch.autograd.grad(empty.sum(), list(models.policy.parameters()))
    assert all(bool((gradient == 0).all()) for gradient in gradients)


def test_the_step_follows_the_gradient_of_the_objective(models, two_letters, make_config):
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
    batch = draw_batch(BatchSettings.from_config(config), models, two_letters.task, step=0)
    result = train_step(make_learner(config, two_letters.task, models, Recorder()), objective, batch, 0.1)

    ends = {"eos_ids": models.eos_ids, "pad_id": models.pad_id}
    rollout = sample(models.policy, batch.prompts, batch.uniforms, group_size=6, **ends)
    policy = completion_logp(models.policy, batch.prompts, rollout.tokens, rollout.mask)
    with torch.no_grad():
        reference = completion_logp(models.reference, batch.prompts, rollout.tokens, rollout.mask)
    ref = masked_sum(reference, rollout.mask).view(3, 6)
    pi = masked_sum(policy, rollout.mask).view(3, 6)
    transformed = objective.transform(result.reward, ref, beta=0.1, valid=rollout.complete.view(3, 6)).reward
    shaped = transformed - 0.1 * (pi.detach() - ref)
    advantage = shaped - (shaped.sum(-1, keepdim=True) - shaped) / 5  # leave one out
    expected = torch.autograd.grad(-(advantage * pi).mean(), list(models.policy.parameters()))
    for ours, plain in zip(received[0], expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-4)


def test_truncated_completions_keep_their_reward_or_do_not_count(models, two_letters, make_config):
    keep, kept = one_step(models, two_letters.task, make_config(*SMALL, "truncated=keep"))
    drop, dropped = one_step(models, two_letters.task, make_config(*SMALL, "truncated=drop"))
    assert keep.metrics["truncated_share"] > 0
    assert keep.texts == drop.texts
    assert (kept - dropped).abs().max() > 1e-6


class FirstCharacters:
    """Stands for an embedder: texts are as far apart as their first characters are."""

    def __init__(self, name, device):
        assert name == "some/embedder"

    def __call__(self, texts):
        return torch.nn.functional.one_hot(torch.tensor([ord(text[:1] or "-") for text in texts]), 0x110000).float()


def test_darling_multiplies_by_the_share_of_others_with_another_answer(models, two_letters, make_config):
    """The metric that a step reports, against the same by hand from its texts."""
    task = two_letters.task
    first = ("embedding", "transform.embedder=some/embedder")
    for (equivalence, *options), of in (
        (("answer",), task.answer),
        (("exact",), normalise_text),
        (first, lambda text: text[:1] or "-"),
    ):
        config = make_config(*SMALL, "transform=darling", f"transform.equivalence={equivalence}", *options)
        with patch.object(equivalence, "Embedder", FirstCharacters):
            result, _ = one_step(models, task, config)
        total = 0.0
        for p in range(3):
            texts, rewards = result.texts[6 * p : 6 * p + 6], result.reward[p].tolist()
            for text, reward in zip(texts, rewards, strict=True):
                total += reward * sum(of(other) != of(text) for other in texts) / 5
        assert float(result.metrics["reward/augmented"]) == pytest.approx(total / 18)
        assert total > 0
    plain, _ = one_step(models, task, make_config(*SMALL))
    assert plain.metrics["reward/augmented"] == plain.metrics["reward/raw"]  # control


def test_a_step_repeats_exactly_and_seed_zero_is_a_seed(models, two_letters, make_config):
    runs = {seed: one_step(models, two_letters.task, make_config(*SMALL, f"seed={seed}")) for seed in (0, 1)}
    again = one_step(models, two_letters.task, make_config(*SMALL, "seed=0"))
    assert torch.equal(again[1], runs[0][1])
    assert again[0].texts == runs[0][0].texts
    assert runs[0][0].texts != runs[1][0].texts


def test_each_epoch_is_a_permutation_of_its_own():
    epochs = [[prompt_index(0, 7, epoch * 7 + i) for i in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != [prompt_index(1, 7, i) for i in range(7)]


def test_mode_ratio_is_equation_seven_and_zero_under_mara():
    reward = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    ref, policy = torch.tensor([[-0.4, -2.3, -3.0, -0.4]]), torch.tensor([[-0.2, -2.0, -5.0, -0.2]])
    texts, good = ["a", "b", "c", "a"], [True, True, False, True]
    complete = torch.ones(1, 4, dtype=torch.bool)
    common = {"advantage": "leave_one_out", "threshold": {"kind": "constant", "value": 1.0}}
    for direction in ("reverse", "forward"):
        vanilla = make_objective(transform="identity", direction=direction, **common)
        mara = make_objective(transform="mara", direction=direction, **common)
        ratios = [mode_ratio(o, 0.05, reward, policy, ref, complete, texts, good) for o in (vanilla, mara)]
        assert [r["collapse/observed_log_ratio"] for r in ratios] == pytest.approx([1.8, 1.8])
        assert [r["collapse/predicted_log_ratio"] for r in ratios] == pytest.approx([1.9, 0.0], abs=1e-6)
    unequal = torch.tensor([[1.0, 0.9, 0.0, 1.0]])
    reverse, forward = (make_objective(transform="identity", direction=d, **common) for d in ("reverse", "forward"))
    arguments = (0.05, unequal, policy, ref, complete, texts, good)
    assert mode_ratio(reverse, *arguments)["collapse/predicted_log_ratio"] == pytest.approx(1.9 + 0.1 / 0.05)
    assert mode_ratio(forward, *arguments)["collapse/predicted_log_ratio"] is None
    alone = mode_ratio(reverse, 0.05, reward, policy, ref, complete, texts, [True, False, False, True])
    assert set(alone.values()) == {None}


CHATS = [[{"role": "user", "content": text}] for text in ("first", "second")]


def test_answer_shares_count_all_completions():
    task = OneTwo()
    texts = ["<answer>1</answer>"] * 6 + ["<answer>2</answer>"] * 2 + ["1", "<answer>3</answer>"]
    good = [task.reward([], text) >= 1 for text in texts]
    shares = answer_shares(texts, good, CHATS[:1], task)
    assert (shares["correct"], shares["share/1"], shares["share/2"]) == (0.8, 0.6, 0.2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert shares["answers/entropy_nats"] == pytest.approx(entropy)
    assert (shares["coverage"], shares["answers/distinct"], shares["answers/top_share"]) == (1.0, 2, 0.75)
    nothing = answer_shares(["1"], [False], CHATS[:1], task)
    assert nothing["answers/entropy_nats"] is None
    assert nothing["coverage"] == 0.0


def test_answers_are_counted_prompt_by_prompt():
    """Two prompts, each with one answer of its own: no diversity, though two answers were given in all."""

    class Named(OneTwo):
        def prompt_name(self, prompt):
            return prompt[-1]["content"]

    texts = ["<answer>1</answer>"] * 3 + ["x"] + ["<answer>2</answer>"] * 4
    shares = answer_shares(texts, [text != "x" for text in texts], CHATS, Named())
    assert (shares["answers/entropy_nats"], shares["answers/top_share"], shares["coverage"]) == (0.0, 1.0, 0.5)
    assert (shares["correct"], shares["share/2"], shares["coverage/first"]) == (7 / 8, 0.5, 0.5)
    mixed = answer_shares([texts[0], texts[-1]] * 4, [True] * 8, CHATS, Named())  # control: both from both
    assert (mixed["answers/distinct"], mixed["coverage"]) == (2, 1.0)

    class Free(OneTwo):
        correct_reward = None

    free = answer_shares(texts, Free().correct([0.0, -1.0, math.nan, *[0.5] * 5]), CHATS, Free())
    assert "correct" not in free
    assert free["answers/distinct"] == 1.5


def test_collapse_is_said_once_and_only_then():
    def warnings(*counts):
        watch, task = CollapseWatch(), OneTwo()
        texts = [f"<answer>{i + 1}</answer>" for some in counts for i, n in enumerate(some) for _ in range(n)]
        return [watch.update(texts, [True] * len(texts), CHATS[: len(counts)], task) for _ in range(40)]

    collapsed = [w for w in warnings((19, 1)) if w]
    assert len(collapsed) == 1
    assert "95%" in collapsed[0]
    assert "'1'" in collapsed[0]
    assert not any(warnings((12, 8)))  # both kept
    assert not any(warnings((20, 0)))  # only one answer was ever seen: nothing to lose
    assert len([w for w in warnings((19, 1), (0, 20)) if w]) == 1  # each prompt has one left, though not the same
    assert not any(warnings((10, 10), (0, 20)))


def test_the_watch_goes_on_from_a_checkpoint():
    watch, again = CollapseWatch(), CollapseWatch()
    texts = ["<answer>1</answer>"] * 19 + ["<answer>2</answer>"]
    for _ in range(19):
        watch.update(texts, [True] * 20, CHATS[:1], OneTwo())
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert again.update(texts, [True] * 20, CHATS[:1], OneTwo())
    assert not CollapseWatch().update(texts, [True] * 20, CHATS[:1], OneTwo())


def test_tasks_are_found_by_name_or_import_path(make_config):
    config = make_config()
    assert isinstance(load_task("one_two", config), OneTwo)
    assert isinstance(load_task("llm.tasks.one_two:OneTwo", config), OneTwo)
    for name in ("no_such", "llm.tasks.one_two:Nothing", "json:JSONDecoder"):
        with pytest.raises(ConfigError, match=r"task\.name: must be"):
            load_task(name, config)


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<answer>1</answer>", 1),
        ("<answer>2</answer>", 1),
        ("<answer>3</answer>", 0),
        ("<answer>12</answer>", 0),
        (" <answer>1</answer>", 0),
        ("<answer>1</answer>\n", 0),
        ("<answer>1", 0),
        ("1", 0),
        ("", 0),
    ],
)
def test_the_one_two_reward_is_strict(completion, reward):
    assert OneTwo().reward([], completion) == reward


def test_models_that_transform_their_logits_are_refused(build_model, tokenizer, tmp_path, make_config):
    for kind, legal in (("llama", True), ("gemma2", False)):
        folder = tmp_path / kind
        build_model(kind, len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = make_config(f"model.name_or_path={folder}").model
        if legal:
            assert load_models(config).policy.config.model_type == kind
        else:
            with pytest.raises(ConfigError, match=r"model\.name_or_path: .*gemma2"):
                load_models(config)
    with pytest.raises(ConfigError, match=r"model\.name_or_path: must be a folder or hub name"):
        load_models(make_config(f"model.name_or_path={tmp_path}/nothing").model)


def test_abstract_task_needs_prompts():
    class Half(Task):
        def reward(self, prompt, completion):
            return 0.0

    with pytest.raises(TypeError):
        Half()


def test_encode_chats_passes_switches_to_the_template(tokenizer):
    switched = byte_tokenizer()
    switched.chat_template = "{% if enable_thinking %}T{% else %}N{% endif %}"
    chats = [[{"role": "user", "content": "hi"}]]
    texts = [
        switched.decode(encode_chats(switched, chats, {"enable_thinking": flag}).ids[0]) for flag in (True, False)
    ]
    assert texts == ["T", "N"]
