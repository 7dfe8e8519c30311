"""The work of `python -m llm.evaluate`: read or sample completions, score them, compute metrics and report."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from conf.schema.base import ConfigError
from conf.schema.equivalence import EQUIVALENCES
from conf.schema.llm import EvaluateConfig, LlmConfig, ModelConfig, RewardConfig, RewardPartConfig, StopConfig
from core.mara import reaches
from launch.cli.compose import compose_typed, read_recorded_config
from launch.runs.atomic import writing
from launch.runs.checkpoint import tensors_hash
from launch.runs.console import console
from launch.runs.line_files import to_json
from launch.runs.progress import tracked, working
from launch.runs.rng import stream_seed
from launch.runs.run import Run
from launch.runs.run_folder import recorded_clock, user_path, write_text
from llm.evaluation.equivalence import Embedder, make_equivalence
from llm.evaluation.files import (
    Generations,
    PromptRecord,
    chat_to_prompt,
    check_scores,
    read_generations,
    read_prompts,
)
from llm.evaluation.metrics import (
    MetricInputs,
    SubjectMetrics,
    average_over_prompts,
    compute_metrics,
    paired_difference,
    score_of_reward,
)
from llm.evaluation.policy import sample_texts
from llm.inference.context import check_context
from llm.inference.prompts import set_clock
from llm.models import load_models, resolve_device, resolve_dtype
from llm.report import report_evaluation
from llm.rewards import Reward, make_evaluation_reward, make_reward
from llm.tasks.base import Task, load_task

OUTPUT_FILES = ("prompts.jsonl", "compare.jsonl")  # results of each prompt, for the first and the second subject


class TrainingSetup(NamedTuple):
    """The configuration and task of the run or experiment that an evaluation refers to.

    Without either, task is None, and config is the default one, of which only the keys of `model` are used.
    """

    config: LlmConfig
    task: Task | None


def run_evaluation(config: EvaluateConfig, run: Run) -> None:
    """Read or sample the completions of one or two subjects, compute their metrics, and report."""
    if run.ranks.world > 1:
        raise ConfigError(
            f"hydra.launcher: llm.evaluate runs in a single process, got {run.ranks.world} ranks; start one task"
        )
    subjects: dict[str, list[Generations]] = {}
    sampling_choices: dict[str, Any] = {}
    for key, file in (("generations", config.generations), ("compare", config.compare)):
        if file is not None:
            subjects[file] = read_generations(key, file)
    check_partitions(config, [prompt for prompts in subjects.values() for prompt in prompts])
    with working("reading the task and its data"):
        setup = load_training_setup(config)
    set_clock(run.clock if config.run is None else recorded_clock(user_path(config.run)))
    device = resolve_device(config.device, "device")
    embed = None if config.embedder is None else Embedder(config.embedder, device)  # fails before sampling starts
    if config.generations is None:
        name, sampled, sampling_choices = sample_subject(config, setup, run)
        subjects = {name: sampled, **subjects}
    prompts = [prompt for subject_prompts in subjects.values() for prompt in subject_prompts]
    with working("scoring and comparing the completions"):
        inputs, metric_choices = prepare_inputs(config, setup, prompts, embed, device)

    options: dict[str, Any] = {name: getattr(config, name) for name in ("vocabulary", "patience", "pass_at")}
    results, first = [], 0
    for (name, subject_prompts), file in zip(subjects.items(), OUTPUT_FILES, strict=False):
        subject_inputs = inputs[first : first + len(subject_prompts)]
        first += len(subject_prompts)
        pairs = list(zip(subject_prompts, subject_inputs, strict=True))
        rows = {prompt.id: compute_metrics(values, **options) for prompt, values in pairs}
        results.append(SubjectMetrics(name, rows, average_over_prompts(list(rows.values()))))
        lines = (format_line(prompt, values, rows[prompt.id]) for prompt, values in pairs)
        write_text(run.folder / file, "".join(f"{line}\n" for line in lines))
    summary: dict[str, Any] = {**results[0].overall, "prompts": len(results[0].prompts)}
    summary |= {"completions": len(prompts[0].texts), "choices": sampling_choices | metric_choices}
    if len(results) > 1:
        summary |= {"compare": results[1].overall, "difference": paired_difference(*results)}
    run.finish(summary)
    report_evaluation(run, results, summary)


def check_partitions(config: EvaluateConfig, prompts: Sequence[Generations]) -> None:
    """Raise ConfigError if a prompt has no partition and no equivalence is configured to compute one."""
    missing = next((prompt for prompt in prompts if prompt.partition is None), None)
    if missing is not None and config.equivalence is None:
        raise ConfigError(
            f"equivalence: must be one of {', '.join(EQUIVALENCES)} if a prompt has no partition, got null "
            f"({missing.location})"
        )


def load_training_setup(config: EvaluateConfig) -> TrainingSetup:
    """The configuration and task of `config.run` or `config.experiment`."""
    if config.run is not None:
        llm_config = read_recorded_config(user_path(config.run))
        if not isinstance(llm_config, LlmConfig):
            raise ConfigError(f"run: must be a run folder of python -m llm, got {config.run}")
    else:
        overrides = [] if config.experiment is None else [f"experiment={config.experiment}"]
        llm_config, _ = compose_typed("llm", overrides)
        if config.experiment is None:
            return TrainingSetup(llm_config, None)
    return TrainingSetup(llm_config, load_task(llm_config.task.name, llm_config))


@contextmanager
def rename_keys_in_errors(new: str, *old: str) -> Iterator[None]:
    """Replace keys of python -m llm in a ConfigError by the key of this command that the value comes from."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        for key in old:
            message = message.replace(f"{key}:", f"{new}:", 1) if message.startswith(f"{key}:") else message
        raise ConfigError(message) from None


# --- sampling ------------------------------------------------------------------------------------------------


def sample_subject(
    config: EvaluateConfig, setup: TrainingSetup, run: Run
) -> tuple[str, list[Generations], dict[str, Any]]:
    """Sample completions of `config.run` or `config.model`.

    Returns:
        The subject's name, its completions, and the choices that they depend on.
    """
    key, name = ("run", str(config.run)) if config.run is not None else ("model", str(config.model))
    model_config = subject_model_config(config, setup.config)
    with (
        rename_keys_in_errors(key, "model.name_or_path"),
        rename_keys_in_errors("stop.tokens", "model.stop.tokens"),
        working("loading the model"),
    ):
        models = load_models(model_config)
    models = models._replace(reference=models.policy)  # frees the second copy of the weights
    records, source = prompts_to_sample(config, setup)
    max_new_tokens = config.max_new_tokens or setup.config.max_new_tokens
    chats = [record.chat for record in records]
    check_context(models.policy.config, models.tokenizer, chats, max_new_tokens, model_config.chat_template)
    weights = tensors_hash(models.policy.named_parameters())[:16]

    def sample_prompts(numbers: range) -> dict[int, list[str]]:
        completions: dict[int, list[str]] = {number: [] for number in numbers}
        chats = {number: records[number].chat for number in numbers}
        seed, switches = stream_seed(config.seed, "evaluation"), model_config.chat_template
        for start in range(0, config.completions, config.batch):
            rows = range(start, min(start + config.batch, config.completions))
            batch = sample_texts(models.policy, models, chats, rows, seed, max_new_tokens, switches)
            for number, texts in batch.items():
                completions[number] += texts
        return completions

    prompts_at_once = max(config.batch // config.completions, 1)
    model_facts = {"model": name, "weights": weights}
    file = run.folder / "generations.jsonl"
    sampled = sample_to_file(file, records, prompts_at_once, sample_prompts, model_facts)
    template = f", chat template with {model_config.chat_template}" if model_config.chat_template else ""
    choices = {
        key: f"{name} (sha256 of the weights {weights})",
        "prompts": source,
        "sampling": f"{config.completions} completions a prompt, temperature 1, at most {max_new_tokens} tokens"
        + template,
    }
    return name, sampled, choices


def subject_model_config(config: EvaluateConfig, llm_config: LlmConfig) -> ModelConfig:
    """Configuration of the run's policy, with the run's chat template options, or of the named model."""
    name = str(config.model) if config.run is None else str(Path(config.run) / "policy")
    switches, stop = config.chat_template, config.stop
    if config.run is not None:
        trained = llm_config.model
        switches = {**trained.chat_template, **switches}
        stop = StopConfig([*trained.stop.tokens, *stop.tokens], [*trained.stop.strings, *stop.strings])
    return replace(
        llm_config.model,
        name_or_path=name,
        dtype=config.dtype,
        device=config.device,
        chat_template=switches,
        stop=stop,
    )


def prompts_to_sample(config: EvaluateConfig, setup: TrainingSetup) -> tuple[list[PromptRecord], str]:
    """The prompts of `config.prompts` or else of the task, and a description of their source."""
    if config.prompts is not None:
        return read_prompts("prompts", config.prompts), config.prompts
    if setup.task is None:  # the schema requires prompts= in this case
        raise ConfigError("prompts: must be a file with model=, got null")
    prefix, chats = next(iter(setup.task.evaluation_prompts().items()))
    name = setup.config.task.name
    return [PromptRecord(f"{prefix}{number}", chat) for number, chat in enumerate(chats)], f"those of task {name}"


def sample_to_file(
    path: Path,
    records: Sequence[PromptRecord],
    prompts_at_once: int,
    sample_prompts: Callable[[range], Mapping[int, list[str]]],
    model_facts: Mapping[str, str],
) -> list[Generations]:
    """Sample the completions of every prompt and write them to a file. Prompts that it already holds are skipped.

    Args:
        path: of the file.
        records: the prompts.
        prompts_at_once: number of prompts in a call of `sample_prompts`.
        sample_prompts: indices of prompts -> their completions.
        model_facts: fields that identify the model in each line.

    Raises:
        ConfigError: the file holds completions of other prompts or of another model.
    """
    done = count_finished(path, records, model_facts)
    if done:
        console.print(f"resuming after {done} of {len(records)} prompts", soft_wrap=True)
    starts = range(done, len(records), prompts_at_once)
    with writing(path), path.open("a", encoding="utf-8", newline="\n") as out:
        for first in tracked(starts, "sampling"):
            numbers = range(first, min(first + prompts_at_once, len(records)))
            for number, texts in sample_prompts(numbers).items():
                record = records[number]
                row = {"id": record.id, "prompt": chat_to_prompt(record.chat), **model_facts}
                out.write(json.dumps({**row, "generations": texts}, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
    return read_generations("generations.jsonl", str(path))


def count_finished(path: Path, records: Sequence[PromptRecord], model_facts: Mapping[str, str]) -> int:
    """Number of prompts whose completions a file holds. An incomplete last line is removed from the file."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    rows = [json.loads(line) for line in whole.split(b"\n")[:-1]]
    for number, (row, record) in enumerate(zip(rows, records, strict=False), start=1):
        expected = {"id": record.id, "prompt": chat_to_prompt(record.chat), **model_facts}
        for key, value in expected.items():
            if row.get(key) != value:
                raise ConfigError(
                    f"hydra.run.dir: must be a new folder, because {path} is from another evaluation: line {number} "
                    f"has {key} {row.get(key)!r} instead of {value!r}"
                )
    return len(rows)


# --- inputs of the metrics -----------------------------------------------------------------------------------


def prepare_inputs(
    config: EvaluateConfig,
    setup: TrainingSetup,
    prompts: Sequence[Generations],
    embed: Embedder | None,
    device: torch.device,
) -> tuple[list[MetricInputs], dict[str, Any]]:
    """Compute the inputs of the metrics for each prompt, and describe the choices that they depend on."""
    choices: dict[str, Any] = {
        "standard_error": "over prompts: s / sqrt(n), s with n - 1",
        "vocabulary": config.vocabulary,
        "tokenizer": "words split on white space",
        "embedder": config.embedder,
        "patience": config.patience,
    }
    if embed is not None:
        embed([text for prompt in prompts for text in prompt.texts])  # fills the cache in large batches
    embeddings = [None if embed is None else embed(prompt.texts) for prompt in prompts]
    partitions, choices["equivalence"] = compute_partitions(config, prompts, embed, device)
    setup, choices["task"] = task_of_prompts(setup, prompts)
    # One after the other, so that only one reward model is in memory at a time.
    rewards_in, choices["reward_in"] = compute_rewards(prompts, *make_reward_in(config, setup, device))
    rewards_out, choices["reward_out"] = compute_rewards(prompts, *make_reward_out(config, setup, device))
    scores, choices["scores"] = compute_scores(config, prompts, partitions, rewards_out)
    threshold = correct_threshold(config, setup)
    choices["correct"] = None if threshold is None else f"reward_in >= {threshold:g}"
    task = setup.task
    choices["answers"] = "equivalence classes" if task is None else f"of task {setup.config.task.name}"
    inputs = []
    for number, prompt in enumerate(prompts):
        rewards = rewards_in[number]
        inputs.append(
            MetricInputs(
                texts=prompt.texts,
                partition=partitions[number],
                embeddings=embeddings[number],
                rewards_in=rewards,
                rewards_out=rewards_out[number],
                scores=scores[number],
                correct=None if rewards is None or threshold is None else reaches(rewards, threshold).tolist(),
                answers=partitions[number]
                if task is None
                else [task.answer_to(prompt.chat, text) for text in prompt.texts],
            )
        )
    return inputs, choices


def task_of_prompts(setup: TrainingSetup, prompts: Sequence[Generations]) -> tuple[TrainingSetup, str | None]:
    """The setup, without its task if the task does not know all prompts; and what to say about the task."""
    if setup.task is None:
        return setup, None
    name = setup.config.task.name
    unknown = sum(not setup.task.knows(prompt.chat) for prompt in prompts)
    if not unknown:
        return setup, name
    note = f"{name} does not know {unknown} of the {len(prompts)} prompts: no reward and no answers of the run"
    return setup._replace(task=None), f"{note} (reward_in= and reward_out= name others)"


def compute_partitions(
    config: EvaluateConfig, prompts: Sequence[Generations], embed: Embedder | None, device: torch.device
) -> tuple[list[list[int]], str]:
    """Equivalence classes of each prompt's completions, and a description of their source."""
    if all(prompt.partition is not None for prompt in prompts):
        return [list(prompt.partition or ()) for prompt in prompts], "partition of the file"
    partition, description = make_equivalence(config, embed, device)
    partitions = [
        partition(prompt.texts) if prompt.partition is None else list(prompt.partition) for prompt in prompts
    ]
    if any(prompt.partition is not None for prompt in prompts):
        description = f"partition of the file where it has one, else {description}"
    return partitions, description


def make_reward_in(
    config: EvaluateConfig, setup: TrainingSetup, device: torch.device
) -> tuple[Reward | None, str | None]:
    """The reward that training optimised, and its description; None without one."""
    if config.reward_in is not None:
        return make_named_reward("reward_in", config.reward_in, config, setup, device), config.reward_in
    task = setup.task
    if task is None or not (setup.config.reward.parts or task.has_reward()):
        return None, None
    reward_config = evaluation_reward_config(asdict(setup.config.reward), config)
    reward = make_reward(reward_config, task, device, resolve_dtype(config.dtype, device))
    return reward, describe_parts(reward_config.parts) or f"of task {setup.config.task.name}"


def make_reward_out(
    config: EvaluateConfig, setup: TrainingSetup, device: torch.device
) -> tuple[Reward | None, str | None]:
    """The reward that training did not optimise, and its description; None without one."""
    if config.reward_out is not None:
        return make_named_reward("reward_out", config.reward_out, config, setup, device), config.reward_out
    if setup.task is None or not setup.config.reward.evaluation:
        return None, None
    reward_config = evaluation_reward_config(asdict(setup.config.reward), config)
    reward = make_evaluation_reward(reward_config, setup.task, device, resolve_dtype(config.dtype, device))
    return reward, describe_parts(reward_config.evaluation)


def make_named_reward(
    key: str, name: str, config: EvaluateConfig, setup: TrainingSetup, device: torch.device
) -> Reward:
    """The reward of a name: package.module:function, or a reward model."""
    part = {"function": name} if ":" in name else {"model": name}
    reward_config = evaluation_reward_config({"parts": {"named": part}, "evaluation": {}}, config)
    task: Any = setup.task  # may be None: it is not used when there are parts
    with rename_keys_in_errors(key, "reward.parts.named.model", "reward.parts.named.function"):
        return make_reward(reward_config, task, device, resolve_dtype(config.dtype, device))


def evaluation_reward_config(parts: Mapping[str, Any], config: EvaluateConfig) -> RewardConfig:
    """A reward configuration with this command's batch size, in which a failed completion is an error."""
    return RewardConfig(**{**parts, "on_failure": "stop", "batch_size": config.reward_batch})


def describe_parts(parts: Mapping[str, RewardPartConfig]) -> str:
    """A weighted sum of rewards as text."""
    return " + ".join(f"{part.weight:g} {part.model or part.function}" for part in parts.values())


def compute_rewards(
    prompts: Sequence[Generations], reward: Reward | None, description: str | None
) -> tuple[list[list[float] | None], str | None]:
    """The rewards of each prompt's completions, None without a reward; and the reward's description."""
    if reward is None:
        return [None] * len(prompts), None
    chats = [prompt.chat for prompt in prompts for _ in prompt.texts]
    values = iter(reward(chats, [text for prompt in prompts for text in prompt.texts]).reward.tolist())
    return [[next(values) for _ in prompt.texts] for prompt in prompts], description


def correct_threshold(config: EvaluateConfig, setup: TrainingSetup) -> float | None:
    """The smallest reward_in of a correct completion; None if correctness is not defined."""
    if config.correct_reward is not None:
        return config.correct_reward
    return None if setup.task is None or config.reward_in is not None else setup.task.correct_reward


def compute_scores(
    config: EvaluateConfig,
    prompts: Sequence[Generations],
    partitions: Sequence[Sequence[int]],
    rewards_out: Sequence[list[float] | None],
) -> tuple[list[list[float] | None], str | None]:
    """Scores of each prompt's completions, from 1 to 10 for the first of a class, and their source in words."""
    scores: list[list[float] | None] = []
    sources: dict[str, None] = {}
    for prompt, classes, rewards in zip(prompts, partitions, rewards_out, strict=True):
        if prompt.scores is not None:
            check_scores(prompt, classes)
            sources["generation_scores of the file"] = None
            scores.append(prompt.scores)
        elif rewards is not None and config.score_thresholds is not None:
            sources[f"1 and 1 for each of {config.score_thresholds} that reward_out is above"] = None
            scores.append([score_of_reward(reward, config.score_thresholds) for reward in rewards])
        else:
            scores.append(None)
    return scores, ", else ".join(sources) or None


def format_line(prompt: Generations, inputs: MetricInputs, metrics: Mapping[str, float]) -> str:
    """A prompt's line of JSON, in the format that generations= reads."""
    row: dict[str, Any] = {"id": prompt.id, "prompt": chat_to_prompt(prompt.chat), "generations": prompt.texts}
    row |= {"partition": inputs.partition, "generation_scores": inputs.scores}
    row |= {"rewards_in": inputs.rewards_in, "rewards_out": inputs.rewards_out, "correct": inputs.correct}
    present = {key: value for key, value in row.items() if value is not None}
    return json.dumps(to_json({**present, **metrics}), ensure_ascii=False, allow_nan=False)
