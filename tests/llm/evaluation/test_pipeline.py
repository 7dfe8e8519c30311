"""Parts of an evaluation: resuming, choices, scores and output lines. The command is tested in tests/e2e."""

import copy
import json
import math
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import torch

from conf.schema.base import ConfigError
from conf.schema.llm import RewardPartConfig
from launch.cli.compose import compose_typed
from launch.runs.run_folder import read_jsonl, write_json
from llm.evaluation.equivalence import exact_partition
from llm.evaluation.files import Generations, PromptRecord, read_generations
from llm.evaluation.metrics import MetricInputs
from llm.evaluation.pipeline import (
    TrainingSetup,
    check_partitions,
    compute_partitions,
    compute_rewards,
    compute_scores,
    correct_threshold,
    count_finished,
    describe_parts,
    format_line,
    load_training_setup,
    make_named_reward,
    make_reward_in,
    make_reward_out,
    prepare_inputs,
    prompts_to_sample,
    rename_keys_in_errors,
    run_evaluation,
    sample_subject,
    sample_to_file,
    subject_model_config,
)
from llm.inference.prompts import set_clock
from llm.rewards import Reward, RewardPart
from llm.tasks.base import load_task
from llm.tasks.one_two import OneTwo

from ..helpers import user_chat

CPU = torch.device("cpu")
RECORDS = [PromptRecord(str(i), user_chat(f"prompt {i}")) for i in range(5)]
FACTS = {"model": "m", "weights": "abc"}


def evaluate_config(*overrides):
    config, _ = compose_typed("llm.evaluate", ["embedder=null", *overrides])
    return config


def generations(*texts, **fields):
    return Generations("p", user_chat("x"), list(texts), **fields)


def lengths(prompts, completions):
    return [float(len(text)) for text in completions]


def texts_of(numbers):
    return {number: [f"text {number}", "ü"] for number in numbers}


@pytest.mark.parametrize("cut", [0, 1, 60, 130, 10_000])
def test_sampling_resumes_after_the_last_complete_line(tmp_path, cut):
    """Killed after any number of bytes, the file is completed to the same content."""
    calls = []

    def sample_prompts(numbers):
        calls.append(list(numbers))
        return texts_of(numbers)

    whole = sample_to_file(tmp_path / "whole.jsonl", RECORDS, 2, sample_prompts, FACTS)
    assert calls == [[0, 1], [2, 3], [4]]
    assert [prompt.texts for prompt in whole] == [[f"text {i}", "ü"] for i in range(5)]
    content = (tmp_path / "whole.jsonl").read_bytes()
    (tmp_path / "part.jsonl").write_bytes(content[:cut])
    calls.clear()
    resumed = sample_to_file(tmp_path / "part.jsonl", RECORDS, 2, sample_prompts, FACTS)
    assert (tmp_path / "part.jsonl").read_bytes() == content
    assert [prompt.texts for prompt in resumed] == [prompt.texts for prompt in whole]
    assert sum(map(len, calls)) == 5 - content[:cut].count(b"\n")


def test_completions_of_another_evaluation_are_not_reused(tmp_path):
    file = tmp_path / "generations.jsonl"
    sample_to_file(file, RECORDS[:2], 2, texts_of, FACTS)
    assert count_finished(file, RECORDS, FACTS) == 2
    for records, facts, problem in (
        (RECORDS, {**FACTS, "weights": "other"}, "line 1 has weights 'abc' instead of 'other'"),
        ([RECORDS[0], RECORDS[2]], FACTS, "line 2 has id '1' instead of '2'"),
        ([RECORDS[0], PromptRecord("1", user_chat("y"))], FACTS, "line 2 has prompt 'prompt 1' instead of 'y'"),
    ):
        with pytest.raises(ConfigError, match=rf"^hydra\.run\.dir: must be a new folder, .*: {problem}$"):
            count_finished(file, records, facts)
    assert count_finished(tmp_path / "missing.jsonl", RECORDS, FACTS) == 0


def test_a_prompt_needs_a_partition_or_an_equivalence():
    with_partition = generations("a", "b", partition=[0, 1])
    without = generations("a", "a", location="generations: f.jsonl, line 2")
    config = evaluate_config("generations=f.jsonl")
    check_partitions(config, [with_partition])
    with pytest.raises(ConfigError, match=r"^equivalence: must be one of exact.*got null .*f\.jsonl, line 2"):
        check_partitions(config, [with_partition, without])
    exact = evaluate_config("generations=f.jsonl", "equivalence=exact")
    check_partitions(exact, [with_partition, without])
    partitions, description = compute_partitions(exact, [with_partition, without], None, CPU)
    assert partitions == [[0, 1], [0, 0]]
    assert description.startswith("partition of the file where it has one, else exact")
    assert compute_partitions(exact, [without], None, CPU)[0] == [exact_partition(without.texts)]
    assert compute_partitions(config, [with_partition], None, CPU) == ([[0, 1]], "partition of the file")


def test_errors_name_the_key_of_this_command():
    message = "^run: cannot load model.name_or_path: x$"
    with pytest.raises(ConfigError, match=message), rename_keys_in_errors("run", "model.name_or_path"):
        raise ConfigError("model.name_or_path: cannot load model.name_or_path: x")
    with pytest.raises(ConfigError, match=r"^other: y$"), rename_keys_in_errors("run", "model.name_or_path"):
        raise ConfigError("other: y")


def test_the_setup_is_that_of_the_experiment_or_empty(tmp_path):
    without = load_training_setup(evaluate_config("generations=f.jsonl"))
    assert without.task is None
    setup = load_training_setup(evaluate_config("generations=f.jsonl", "experiment=one_two"))
    assert isinstance(setup.task, OneTwo)
    with pytest.raises(ConfigError, match="not a run folder"):
        load_training_setup(evaluate_config(f"run={tmp_path}", "equivalence=exact"))


def test_prompts_are_those_of_the_file_or_of_the_task(tmp_path, make_config):
    setup = TrainingSetup(make_config("task.name=one_two"), OneTwo())
    records, source = prompts_to_sample(evaluate_config("run=r", "equivalence=exact"), setup)
    assert [record.id for record in records] == ["0"]
    assert records[0].chat == OneTwo().prompts()[0]
    assert source == "those of task one_two"
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "q", "prompt": "hi"}) + "\n")
    config = evaluate_config("run=r", "equivalence=exact", f"prompts={tmp_path / 'p.jsonl'}")
    records, source = prompts_to_sample(config, setup)
    assert records == [PromptRecord("q", user_chat("hi"))]
    assert source == str(tmp_path / "p.jsonl")


@pytest.mark.parametrize("name", ["one_of_many", "open_questions", "spellings"])
def test_a_task_judges_only_prompts_that_it_knows(name, make_config):
    """Evaluating a run on other prompts, such as NoveltyBench's, gives distinct without a reward."""
    task = load_task(name, make_config(f"task.name={name}"))
    own, *_ = task.prompts()
    setup = TrainingSetup(make_config(f"task.name={name}"), task)
    known, foreign = Generations("k", own, ["a", "b"]), Generations("f", user_chat("Tell me a story."), ["a", "a"])
    config = evaluate_config("run=r", "equivalence=exact", "embedder=null")
    (of_known,), choices = prepare_inputs(config, setup, [known], None, CPU)
    assert (of_known.rewards_in, of_known.correct, choices["task"]) == ([0.0, 0.0], [False, False], name)
    inputs, choices = prepare_inputs(config, setup, [known, foreign], None, CPU)
    assert [(each.rewards_in, each.correct, each.answers) for each in inputs] == [
        (None, None, [0, 1]),
        (None, None, [0, 0]),
    ]
    assert choices["task"].startswith(f"{name} does not know 1 of the 2 prompts")
    assert choices["reward_in"] is None


def test_the_policy_of_a_run_keeps_its_chat_template_options(make_config):
    trained = make_config("+model.chat_template.enable_thinking=false", "+model.chat_template.tone=dry")
    config = evaluate_config("run=r", "equivalence=exact", "dtype=bfloat16", "+chat_template.tone=warm")
    model = subject_model_config(config, trained)
    assert (model.name_or_path, model.dtype) == ("r/policy", "bfloat16")
    assert model.chat_template == {"enable_thinking": False, "tone": "warm"}
    named = evaluate_config("model=m", "equivalence=exact", "max_new_tokens=3", "prompts=p.jsonl")
    model = subject_model_config(named, trained)
    assert (model.name_or_path, model.chat_template) == ("m", {})


def test_rewards_are_those_of_the_command_else_of_the_training(make_config):
    prompts = [generations("a", "bb"), generations("", "ccc")]
    function = f"{__name__}:lengths"
    config = evaluate_config("generations=f.jsonl", f"reward_out={function}")
    setup = TrainingSetup(make_config("task.name=one_two"), OneTwo())
    reward_out, name = make_reward_out(config, setup, CPU)
    assert compute_rewards(prompts, reward_out, name) == ([[1.0, 2.0], [0.0, 3.0]], function)
    reward_in, name = make_reward_in(config, setup, CPU)
    assert name == "of task one_two"
    assert compute_rewards([generations("<answer>1</answer>", "x")], reward_in, name)[0] == [[1.0, 0.0]]
    parts = {"long": RewardPartConfig(model=None, function=function, weight=0.5)}
    setup.config.reward.parts = parts
    reward_in, name = make_reward_in(config, setup, CPU)
    assert name == describe_parts(parts) == f"0.5 {function}"
    assert compute_rewards(prompts, reward_in, name)[0] == [[0.5, 1.0], [0.0, 1.5]]
    nothing = TrainingSetup(setup.config, None)
    plain = evaluate_config("generations=f.jsonl")
    assert make_reward_in(plain, nothing, CPU) == make_reward_out(plain, nothing, CPU) == (None, None)
    assert compute_rewards(prompts, None, None) == ([None, None], None)
    with pytest.raises(ConfigError, match=r"^reward_out: .*no_such"):
        make_named_reward("reward_out", f"{__name__}:no_such", plain, nothing, CPU)


def test_a_failed_completion_stops_the_evaluation(make_config):
    reward = Reward({"r": RewardPart("reward_in", lambda _, texts: [math.nan] * len(texts), 1.0)})
    with pytest.raises(ConfigError, match="rewards must be finite, got nan"):
        compute_rewards([generations("a")], reward, "r")
    dropping = make_config("reward.on_failure=drop", f"+reward.parts.r.function={__name__}:lengths")
    config = evaluate_config("generations=f.jsonl")
    evaluation_reward, _ = make_reward_in(config, TrainingSetup(dropping, OneTwo()), CPU)
    assert evaluation_reward.on_failure == "stop"


def test_correct_is_the_tasks_unless_the_reward_is_another_one(make_config):
    setup = TrainingSetup(make_config("task.name=one_two"), OneTwo())
    assert correct_threshold(evaluate_config("generations=f"), setup) == 1.0
    assert correct_threshold(evaluate_config("generations=f", "correct_reward=.3"), setup) == 0.3
    assert correct_threshold(evaluate_config("generations=f", "reward_in=a:b"), setup) is None
    assert correct_threshold(evaluate_config("generations=f"), TrainingSetup(setup.config, None)) is None


def test_scores_are_the_files_else_from_thresholds():
    thresholds = "score_thresholds=[1,2,3,4,5,6,7,8,9]"
    with_scores = generations("a", "b", scores=[3, 7.5], location="f, line 1")
    without = generations("a", "b")
    prompts, partitions, rewards = [with_scores, without], [[0, 1], [0, 1]], [[0.0, 0.0], [0.5, 9.5]]
    scores, source = compute_scores(evaluate_config("generations=f", thresholds), prompts, partitions, rewards)
    assert scores == [[3, 7.5], [1, 10]]
    assert source.startswith("generation_scores of the file, else 1 and 1 for each of [1.0, 2.0")
    scores, source = compute_scores(evaluate_config("generations=f"), [without], [[0, 1]], [[0.5, 9.5]])
    assert (scores, source) == ([None], None)
    bad = generations("a", "b", scores=[3, 11], location="f, line 1")
    with pytest.raises(ConfigError, match="f, line 1, generation_scores: must be from 1 to 10"):
        compute_scores(evaluate_config("generations=f"), [bad], [[0, 1]], [None])


def test_an_output_line_is_read_as_generations_again(tmp_path):
    prompt = generations("a", "a", "ß", scores=[5, 1, 10])
    inputs = MetricInputs(prompt.texts, [0, 0, 1], rewards_in=[0.0, 1.0, 2.0], scores=[5, 1, 10])
    line = format_line(prompt, inputs, {"distinct": 2, "utility": math.nan})
    (tmp_path / "out.jsonl").write_text(line + "\n")
    (reread,) = read_generations("generations", str(tmp_path / "out.jsonl"))
    assert reread[:5] == ("p", prompt.chat, prompt.texts, [0, 0, 1], [5, 1, 10])
    row = json.loads(line)
    assert row["utility"] is None  # NaN is not JSON
    assert "correct" not in row
    assert row["rewards_in"] == [0.0, 1.0, 2.0]


# --- sampling ------------------------------------------------------------------------------------------------


def sampled(folder, tmp_path, *overrides):
    """The completions of a model for one prompt, by `sample_subject`."""
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "0", "prompt": "hi"}) + "\n")
    options = (f"model={folder}", f"prompts={tmp_path / 'prompts.jsonl'}", "equivalence=exact", "device=cpu")
    config = evaluate_config(*options, "dtype=float32", "completions=32", *overrides)
    run = SimpleNamespace(folder=tmp_path)
    (tmp_path / "generations.jsonl").unlink(missing_ok=True)
    _, (prompt,), _ = sample_subject(config, load_training_setup(config), run)
    return prompt.texts


def test_a_model_is_sampled_with_the_stops_of_the_command(model_folder, tmp_path):
    free = sampled(model_folder, tmp_path, "max_new_tokens=8")
    letters = sorted({text[3] for text in free if len(text) > 3 and text[3].isalnum()} - {*"<|im_start|>endoftext"})
    stopped = sampled(model_folder, tmp_path, "max_new_tokens=8", f"stop.strings=[{','.join(map(repr, letters))}]")
    assert stopped == [text[: min((text.find(c) for c in letters if c in text), default=None)] for text in free]
    assert stopped != free
    tokens = sampled(model_folder, tmp_path, "max_new_tokens=8", f"stop.tokens=[{','.join(map(repr, letters))}]")
    assert tokens == stopped
    with pytest.raises(ConfigError, match=r"^stop\.tokens: must be single tokens, got 'abc'"):
        sampled(model_folder, tmp_path, "max_new_tokens=8", "stop.tokens=[abc]")


def test_a_model_is_not_sampled_beyond_its_context(model_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"^max_new_tokens: prompt and completion must fit into the .* \('hi'\)"):
        sampled(model_folder, tmp_path, "max_new_tokens=99999")


def test_a_run_is_sampled_with_its_stops_and_the_commands(make_config):
    run = make_config("model.stop.tokens=[a]", "model.stop.strings=[x]")
    config = evaluate_config("run=r", "equivalence=exact", "stop.tokens=[7]")
    model = subject_model_config(config, run)
    assert (model.stop.tokens, model.stop.strings) == (["a", 7], ["x"])
    named = evaluate_config("model=m", "equivalence=exact", "stop.tokens=[7]", "prompts=p", "max_new_tokens=4")
    assert subject_model_config(named, run).stop.tokens == [7]


def test_a_run_is_evaluated_with_the_date_of_its_prompts(model_folder, tokenizer, tmp_path, monkeypatch):
    """The completions of `run=` on another day are those of its prompts with the run's date."""
    from launch.cli.compose import compose

    dated = copy.deepcopy(tokenizer)
    dated.chat_template = "{{ strftime_now('%d %B %Y') }} " + tokenizer.chat_template
    dated.save_pretrained(model_folder)
    command = ["python", "-m", "llm", "max_new_tokens=6"]
    clock = datetime(2024, 1, 2, tzinfo=UTC)
    run = tmp_path / "run"
    run.mkdir()
    model_folder.rename(run / "policy")
    (run / "config.yaml").write_text(json.dumps(compose("llm", command[3:])))
    record = {"state": "finished", "package": "llm", "command": command, "started": clock.isoformat()}

    def evaluated(name, started):
        write_json(run / "run.json", {**record, "started": started.isoformat()})
        out = tmp_path / name
        out.mkdir()
        config = evaluate_config(f"run={run}", "equivalence=exact", "completions=8", "device=cpu", "dtype=float32")
        today = datetime(2024, 5, 6, tzinfo=UTC)
        run_evaluation(config, SimpleNamespace(folder=out, clock=today, ranks=SimpleNamespace(world=1), finish=done))
        return read_jsonl(out / "generations.jsonl")[0]["generations"]

    def done(summary):
        pass

    monkeypatch.setattr("llm.evaluation.pipeline.report_evaluation", lambda *_: None)
    try:
        first = evaluated("a", clock)
        assert first == evaluated("b", clock)
        assert first != evaluated("c", datetime(2024, 1, 3, tzinfo=UTC))  # control
    finally:
        set_clock(None)
