"""The work of `python -m llm.evaluate`: completions, what they are judged by, and the measures of llm.metrics."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from conf.schema import EQUIVALENCES, ConfigError, EvaluateConfig
from launch.record import write_text
from launch.run import Run, plain
from llm.equivalence import Embedder, make_equivalence
from llm.generations import Generations, check_scores, prompt_of, read_generations
from llm.metrics import Column, Judged, difference, measures, overall, score_of_reward
from llm.models import find_device
from llm.report import report_evaluation

FILES = ("prompts.jsonl", "compare.jsonl")  # every prompt of the first subject, and of the second


def assess(config: EvaluateConfig, run: Run) -> None:
    """The whole job: sample or read, judge, measure, report."""
    if run.ranks.world > 1:
        raise ConfigError(f"hydra.launcher: must start one process of llm.evaluate, found {run.ranks.world} ranks")
    given = {config.generations: "generations", config.compare: "compare"}
    subjects = {name: read_generations(key, name) for name, key in given.items() if name is not None}
    judged, choices = judge(config, [one for some in subjects.values() for one in some])
    options: dict[str, Any] = {name: getattr(config, name) for name in ("vocabulary", "patience", "pass_at")}
    columns, first = [], 0
    for (name, some), file in zip(subjects.items(), FILES, strict=False):
        found = judged[first : first + len(some)]
        first += len(some)
        rows = {one.id: measures(each, **options) for one, each in zip(some, found, strict=True)}
        columns.append(Column(name, rows, overall(list(rows.values()))))
        lines = (line_of(one, each, rows[one.id]) for one, each in zip(some, found, strict=True))
        write_text(run.folder / file, "".join(f"{line}\n" for line in lines))
    summary = {**columns[0].overall, "prompts": len(columns[0].prompts), "choices": choices}
    if len(columns) > 1:
        summary |= {"compare": columns[1].overall, "difference": difference(*columns)}
    run.finish(summary)
    report_evaluation(run, columns, summary)


# --- judging -------------------------------------------------------------------------------------------------


def judge(config: EvaluateConfig, given: Sequence[Generations]) -> tuple[list[Judged], dict[str, Any]]:
    """What the measures need of each prompt's completions, and the choices that it rests on."""
    device = find_device(config.device, "device")
    choices: dict[str, Any] = {
        "standard_error": "bootstrap over prompts, 1000 resamples",
        "vocabulary": config.vocabulary,
        "tokenizer": "words split on white space",
        "embedder": config.embedder,
        "patience": config.patience,
    }
    refuse_unclassed(config, given)
    embed = None if config.embedder is None else Embedder(config.embedder, device)
    embeddings = [None if embed is None else embed(one.texts) for one in given]
    partitions, choices["equivalence"] = partitions_of(config, given, embed, device)
    nothing: list[list[float] | None] = [None] * len(given)
    rewards_in, rewards_out = nothing, nothing
    scores, choices["scores"] = scores_of(config, given, partitions, rewards_out)
    texts = [one.texts for one in given]
    judged = zip(texts, partitions, embeddings, rewards_in, rewards_out, scores, strict=True)
    return [Judged(*each) for each in judged], choices


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


def refuse_unclassed(config: EvaluateConfig, given: Sequence[Generations]) -> None:
    """Raise ConfigError where a prompt has no partition, and no equivalence is named that would make one."""
    missing = next((one for one in given if one.partition is None), None)
    if missing is not None and config.equivalence is None:
        raise ConfigError(
            f"equivalence: must be one of {', '.join(EQUIVALENCES)} where a prompt has no partition, found null "
            f"({missing.place})"
        )


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
