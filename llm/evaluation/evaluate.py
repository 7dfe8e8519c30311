"""Reads or samples completions and computes the measures of llm.evaluation.metrics, for `python -m llm.evaluate`."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track

from conf.schema.base import ConfigError
from conf.schema.equivalence import EQUIVALENCES
from conf.schema.llm import EvaluateConfig, LlmConfig, ModelConfig, RewardConfig, RewardPartConfig
from launch.cli.compose import compose_typed, recorded
from launch.runs.checkpoint import tensors_hash
from launch.runs.console import console
from launch.runs.line_files import plain
from launch.runs.rng import stream_seed
from launch.runs.run import Run
from launch.runs.run_folder import user_path, write_text
from llm.evaluation.equivalence import Embedder, make_equivalence
from llm.evaluation.files import Generations, Question, check_scores, prompt_of, read_generations, read_questions
from llm.evaluation.metrics import Column, Judged, difference, measures, overall, score_of_reward
from llm.evaluation.policy import complete
from llm.models import load_models, resolve_device, resolve_dtype
from llm.report import report_evaluation
from llm.rewards import Reward, make_evaluation_reward, make_reward
from llm.tasks.base import Task, load_task

FILES = ("prompts.jsonl", "compare.jsonl")  # every prompt of the first subject, and of the second


class Setting(NamedTuple):
    """What a run or an experiment of python -m llm gives: prompts, rewards, answers; task is None where neither is
    named, and config then is the default one, of which only the model's keys are used.
    """

    config: LlmConfig
    task: Task | None


def evaluate(config: EvaluateConfig, run: Run) -> None:
    """The whole job: sample or read, judge, measure, report."""
    if run.ranks.world > 1:
        raise ConfigError(f"hydra.launcher: must start one process of llm.evaluate, got {run.ranks.world} ranks")
    subjects: dict[str, list[Generations]] = {}
    choices: dict[str, Any] = {}
    for key, file in (("generations", config.generations), ("compare", config.compare)):
        if file is not None:
            subjects[file] = read_generations(key, file)
    refuse_unclassed(config, [one for some in subjects.values() for one in some])
    setting = find_setting(config)
    device = resolve_device(config.device, "device")
    embed = None if config.embedder is None else Embedder(config.embedder, device)  # before hours of sampling
    if config.generations is None:
        name, sampled, choices = sample_subject(config, setting, run)
        subjects = {name: sampled, **subjects}
    given = [one for some in subjects.values() for one in some]
    judged, judging = judge(config, setting, given, embed, device)

    options: dict[str, Any] = {name: getattr(config, name) for name in ("vocabulary", "patience", "pass_at")}
    columns, first = [], 0
    for (name, some), file in zip(subjects.items(), FILES, strict=False):
        found = judged[first : first + len(some)]
        first += len(some)
        rows = {one.id: measures(each, **options) for one, each in zip(some, found, strict=True)}
        columns.append(Column(name, rows, overall(list(rows.values()))))
        lines = (line_of(one, each, rows[one.id]) for one, each in zip(some, found, strict=True))
        write_text(run.folder / file, "".join(f"{line}\n" for line in lines))
    summary: dict[str, Any] = {**columns[0].overall, "prompts": len(columns[0].prompts)}
    summary |= {"completions": len(given[0].texts), "choices": choices | judging}
    if len(columns) > 1:
        summary |= {"compare": columns[1].overall, "difference": difference(*columns)}
    run.finish(summary)
    report_evaluation(run, columns, summary)


def refuse_unclassed(config: EvaluateConfig, given: Sequence[Generations]) -> None:
    """Raise ConfigError where a prompt has no partition, and no equivalence is named that would make one."""
    missing = next((one for one in given if one.partition is None), None)
    if missing is not None and config.equivalence is None:
        raise ConfigError(
            f"equivalence: must be one of {', '.join(EQUIVALENCES)} where a prompt has no partition, got null "
            f"({missing.place})"
        )


def find_setting(config: EvaluateConfig) -> Setting:
    """The run's or the experiment's configuration and task."""
    if config.run is not None:
        found = recorded(user_path(config.run))
        if not isinstance(found, LlmConfig):
            raise ConfigError(f"run: must be a run folder of python -m llm, got {config.run}")
    else:
        found, _ = compose_typed("llm", [] if config.experiment is None else [f"experiment={config.experiment}"])
        if config.experiment is None:
            return Setting(found, None)
    return Setting(found, load_task(found.task.name, found))


@contextmanager
def renamed(new: str, *old: str) -> Iterator[None]:
    """A mistake in a key of python -m llm is told with the key of this command that the value is from."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        for key in old:
            message = message.replace(f"{key}:", f"{new}:", 1) if message.startswith(f"{key}:") else message
        raise ConfigError(message) from None


# --- sampling ------------------------------------------------------------------------------------------------


def sample_subject(
    config: EvaluateConfig, setting: Setting, run: Run
) -> tuple[str, list[Generations], dict[str, Any]]:
    """The name of a run or a model, its completions, and what they depend on."""
    key, name = ("run", str(config.run)) if config.run is not None else ("model", str(config.model))
    model_config = model_of(config, setting.config)
    with renamed(key, "model.name_or_path"):
        models = load_models(model_config)
    models = models._replace(reference=models.policy)  # which frees the other copy
    questions, source = questions_of(config, setting)
    most = config.max_new_tokens or setting.config.max_new_tokens
    weights = tensors_hash(models.policy.named_parameters())[:16]

    def texts_of(numbers: range) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {number: [] for number in numbers}
        chats = {number: questions[number].chat for number in numbers}
        seed, switches = stream_seed(config.seed, "evaluation"), model_config.chat_template
        for start in range(0, config.completions, config.batch):
            rows = range(start, min(start + config.batch, config.completions))
            for number, texts in complete(models.policy, models, chats, rows, seed, most, switches).items():
                found[number] += texts
        return found

    at_once = max(config.batch // config.completions, 1)
    about = {"model": name, "weights": weights}
    sampled = sample_all(run.folder / "generations.jsonl", questions, at_once, texts_of, about)
    template = f", chat template with {model_config.chat_template}" if model_config.chat_template else ""
    choices = {
        key: f"{name} (sha256 of the weights {weights})",
        "prompts": source,
        "sampling": f"{config.completions} completions a prompt, temperature 1, at most {most} tokens{template}",
    }
    return name, sampled, choices


def model_of(config: EvaluateConfig, llm: LlmConfig) -> ModelConfig:
    """The run's policy or the named model, loaded as this command says, with the run's chat template."""
    name = str(config.model) if config.run is None else str(Path(config.run) / "policy")
    switches = {**(llm.model.chat_template if config.run is not None else {}), **config.chat_template}
    return replace(llm.model, name_or_path=name, dtype=config.dtype, device=config.device, chat_template=switches)


def questions_of(config: EvaluateConfig, setting: Setting) -> tuple[list[Question], str]:
    """The prompts to sample for, and where they are from."""
    if config.prompts is not None:
        return read_questions("prompts", config.prompts), config.prompts
    assert setting.task is not None  # the schema asks for prompts otherwise
    prefix, chats = next(iter(setting.task.evaluation_prompts().items()))
    name = setting.config.task.name
    return [Question(f"{prefix}{number}", chat) for number, chat in enumerate(chats)], f"those of task {name}"


def sample_all(
    path: Path,
    questions: Sequence[Question],
    at_once: int,
    texts_of: Callable[[range], Mapping[int, list[str]]],
    about: Mapping[str, str],
) -> list[Generations]:
    """Every question's completions, written to a file as they come; what the file holds already is kept.

    Args:
        texts_of: numbers of questions -> their completions.
        about: what each line says of the model.

    Raises:
        ConfigError: the file holds completions of other questions, or of another model.
    """
    done = kept_lines(path, questions, about)
    if done:
        console.print(f"resuming after {done} of {len(questions)} prompts", soft_wrap=True)
    starts = range(done, len(questions), at_once)
    with path.open("a", encoding="utf-8", newline="\n") as out:
        hidden = not console.is_terminal
        for first in track(starts, "sampling", console=console, transient=True, disable=hidden):
            found = texts_of(range(first, min(first + at_once, len(questions))))
            for number, texts in found.items():
                row = {"id": questions[number].id, "prompt": prompt_of(questions[number].chat), **about}
                out.write(json.dumps({**row, "generations": texts}, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
    return read_generations("generations.jsonl", str(path))


def kept_lines(path: Path, questions: Sequence[Question], about: Mapping[str, str]) -> int:
    """How many questions a file has the completions of; a last line that was not finished is cut off."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    rows = [json.loads(line) for line in whole.split(b"\n")[:-1]]
    for number, (row, question) in enumerate(zip(rows, questions, strict=False), start=1):
        expected = {"id": question.id, "prompt": prompt_of(question.chat), **about}
        for key, value in expected.items():
            if row.get(key) != value:
                raise ConfigError(
                    f"hydra.run.dir: must be a new folder for another evaluation, got {path}, line {number}, with "
                    f"{key} {row.get(key)!r} instead of {value!r}"
                )
    return len(rows)


# --- judging -------------------------------------------------------------------------------------------------


def judge(
    config: EvaluateConfig,
    setting: Setting,
    given: Sequence[Generations],
    embed: Embedder | None,
    device: torch.device,
) -> tuple[list[Judged], dict[str, Any]]:
    """What the measures need of each prompt's completions, and the choices that it rests on."""
    choices: dict[str, Any] = {
        "standard_error": "bootstrap over prompts, 1000 resamples",
        "vocabulary": config.vocabulary,
        "tokenizer": "words split on white space",
        "embedder": config.embedder,
        "patience": config.patience,
    }
    if embed is not None:
        embed([text for one in given for text in one.texts])  # in large batches
    embeddings = [None if embed is None else embed(one.texts) for one in given]
    partitions, choices["equivalence"] = partitions_of(config, given, embed, device)
    rewards_in, choices["reward_in"] = rewards_of(*reward_in(config, setting, device), given)
    rewards_out, choices["reward_out"] = rewards_of(*reward_out(config, setting, device), given)
    scores, choices["scores"] = scores_of(config, given, partitions, rewards_out)
    threshold = correct_from(config, setting)
    choices["correct"] = None if threshold is None else f"reward_in >= {threshold:g}"
    task = setting.task
    choices["answers"] = "equivalence classes" if task is None else f"of task {setting.config.task.name}"
    judged = []
    for number, one in enumerate(given):
        rewards = rewards_in[number]
        correct = None if rewards is None or threshold is None else [reward >= threshold for reward in rewards]
        answers = partitions[number] if task is None else [task.answer(text) for text in one.texts]
        judged.append(
            Judged(
                one.texts,
                partitions[number],
                embeddings[number],
                rewards,
                rewards_out[number],
                scores[number],
                correct,
                answers,
            )
        )
    return judged, choices


def partitions_of(
    config: EvaluateConfig, given: Sequence[Generations], embed: Embedder | None, device: torch.device
) -> tuple[list[list[int]], str]:
    """Equivalence classes of each prompt's completions, and how they were found."""
    if all(one.partition is not None for one in given):
        return [list(one.partition or ()) for one in given], "partition of the file"
    partition, words = make_equivalence(config, embed, device)
    found = [partition(one.texts) if one.partition is None else list(one.partition) for one in given]
    some = any(one.partition is not None for one in given)
    return found, f"partition of the file where it has one, else {words}" if some else words


def reward_in(config: EvaluateConfig, setting: Setting, device: torch.device) -> tuple[Reward | None, str | None]:
    """What was trained on, and what it is called."""
    if config.reward_in is not None:
        return named_reward("reward_in", config.reward_in, config, setting, device), config.reward_in
    task = setting.task
    if task is None or not (setting.config.reward.parts or task.has_reward()):
        return None, None
    own = scoring(asdict(setting.config.reward), config)
    return make_reward(own, task, device, resolve_dtype(config.dtype, device)), words_of(own.parts) or (
        f"of task {setting.config.task.name}"
    )


def reward_out(config: EvaluateConfig, setting: Setting, device: torch.device) -> tuple[Reward | None, str | None]:
    """What was not trained on, and what it is called."""
    if config.reward_out is not None:
        return named_reward("reward_out", config.reward_out, config, setting, device), config.reward_out
    if setting.task is None or not setting.config.reward.evaluation:
        return None, None
    own = scoring(asdict(setting.config.reward), config)
    reward = make_evaluation_reward(own, setting.task, device, resolve_dtype(config.dtype, device))
    return reward, words_of(own.evaluation)


def named_reward(key: str, name: str, config: EvaluateConfig, setting: Setting, device: torch.device) -> Reward:
    """A reward model, or a function where the name has a colon."""
    part = {"function": name} if ":" in name else {"model": name}
    parts = scoring({"parts": {"named": part}, "evaluation": {}}, config)
    task: Any = setting.task  # not asked, since there are parts
    with renamed(key, "reward.parts.named.model", "reward.parts.named.function"):
        return make_reward(parts, task, device, resolve_dtype(config.dtype, device))


def scoring(parts: Mapping[str, Any], config: EvaluateConfig) -> RewardConfig:
    """Rewards with this command's batches; one that fails stops it."""
    return RewardConfig(**{**parts, "on_failure": "stop", "batch_size": config.reward_batch})


def words_of(parts: Mapping[str, RewardPartConfig]) -> str:
    return " + ".join(f"{part.weight:g} {part.model or part.function}" for part in parts.values())


def rewards_of(
    reward: Reward | None, words: str | None, given: Sequence[Generations]
) -> tuple[list[list[float] | None], str | None]:
    """Each prompt's rewards, one a completion, and the reward's name."""
    if reward is None:
        return [None] * len(given), None
    chats = [one.chat for one in given for _ in one.texts]
    flat = iter(reward(chats, [text for one in given for text in one.texts]).reward.tolist())
    return [[next(flat) for _ in one.texts] for one in given], words


def correct_from(config: EvaluateConfig, setting: Setting) -> float | None:
    """The reward from which a completion is correct; None where there is no right and wrong."""
    if config.correct_reward is not None:
        return config.correct_reward
    return None if setting.task is None or config.reward_in is not None else setting.task.correct_reward


def scores_of(
    config: EvaluateConfig,
    given: Sequence[Generations],
    partitions: Sequence[Sequence[int]],
    rewards_out: Sequence[list[float] | None],
) -> tuple[list[list[float] | None], str | None]:
    """Scores of each prompt's completions, from 1 to 10 where a class opens, and where they are from."""
    found: list[list[float] | None] = []
    sources: dict[str, None] = {}
    for one, classes, rewards in zip(given, partitions, rewards_out, strict=True):
        if one.scores is not None:
            check_scores(one, classes)
            sources["generation_scores of the file"] = None
            found.append(one.scores)
        elif rewards is not None and config.score_thresholds is not None:
            sources[f"1 and 1 for each of {config.score_thresholds} that reward_out is above"] = None
            found.append([score_of_reward(reward, config.score_thresholds) for reward in rewards])
        else:
            found.append(None)
    return found, ", else ".join(sources) or None


def line_of(one: Generations, judged: Judged, measured: Mapping[str, float]) -> str:
    """A prompt's line of JSON, which is also one that `generations` reads."""
    row: dict[str, Any] = {"id": one.id, "prompt": prompt_of(one.chat), "generations": one.texts}
    row |= {"partition": judged.partition, "generation_scores": judged.scores}
    row |= {"rewards_in": judged.rewards_in, "rewards_out": judged.rewards_out, "correct": judged.correct}
    kept = {key: value for key, value in row.items() if value is not None}
    return json.dumps(plain({**kept, **measured}), ensure_ascii=False, allow_nan=False)
