"""Compute the shares of answers and of their spellings under policies of `experiment=spellings`, not by sampling.

Every known spelling is scored with the saved policy and with the model that it started from. The first table has a
row for each run, the second the mean and standard deviation over the seeds of each configuration, the third the
optimum of each objective, with exact masses of the answers, and the reference:

    right       probability of all right answers, mean over questions, as everything but `smallest`
    answers     entropy of the right answers, nats; at most log(4) = 1.386
    smallest    smallest share of an answer among the right ones, of all questions
    spellings   entropy of the spellings of an answer, nats, mean over answers
    TV          total variation between the policy's and the reference's spellings of an answer, mean over answers
    KL          KL(policy || reference), nats, with all wrong completions taken as one outcome

    python -m tools.spelling_shares RUN_OR_SWEEP...
"""

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from core.classes import Masses
from core.stats import entropy
from core.targets import forward_kl_target, reverse_kl_target
from core.transforms import identity, mara
from launch.runs.run_folder import read_config
from llm.adapters import load_pretrained, load_tokenizer
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import encode_chats, pad_completions
from llm.tasks.texts import SPELT_QUESTIONS, SpeltQuestion
from llm.testbed.names import resolve_model
from llm.testbed.tiny_models import POLICIES

REWARD_THRESHOLD = 0.5  # between the reward of a wrong completion, 0, and that of a right one, 1
TARGETS = {"reverse": reverse_kl_target, "forward": forward_kl_target}
SETTINGS = ("transform", "level", "mass", "direction", "placement")
MEASURES = ("right", "answers", "smallest", "spellings", "TV", "KL")


@torch.inference_mode()
def spelling_logp(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: SpeltQuestion
) -> list[Tensor]:
    """Log-probability of each spelling of each right answer: for an answer with S spellings [S], nats."""
    texts = [text for spellings in question.spellings.values() for text in spellings]
    ids = [[*row, tokenizer.eos_token_id] for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    tokens, mask = pad_completions(ids, tokenizer.pad_token_id)
    prompts = encode_chats(tokenizer, [[{"role": "user", "content": question.text}]])
    logp = completion_logp(model, prompts, tokens, mask).double().sum(-1)
    return list(logp.split([len(spellings) for spellings in question.spellings.values()]))


def measure(policy: Sequence[Tensor], reference: Sequence[Tensor]) -> dict[str, float]:
    """The measures of one question.

    Args:
        policy: for each right answer, the log-probabilities of its spellings under the policy, nats.
        reference: the same under the reference.
    """
    mass = torch.stack([logp.exp().sum() for logp in policy])
    inside = [(p.softmax(-1), q.softmax(-1)) for p, q in zip(policy, reference, strict=True)]
    right = float(mass.sum())
    wrong = [max(1 - float(torch.cat(list(logp)).exp().sum()), 0.0) for logp in (policy, reference)]
    log_ratio = torch.cat(list(policy)) - torch.cat(list(reference))
    kl = float((torch.cat(list(policy)).exp() * log_ratio).sum())
    return {
        "right": right,
        "answers": float(entropy(mass)),
        "smallest": float(mass.min()) / right,
        "spellings": float(torch.stack([entropy(p) for p, _ in inside]).mean()),
        "TV": float(torch.stack([(p - q).abs().sum() / 2 for p, q in inside]).mean()),
        "KL": kl + (wrong[0] * math.log(wrong[0] / wrong[1]) if min(wrong) > 0 else 0.0),
    }


def optimum(reference: Sequence[Tensor], transform: str, level: str, direction: str, beta: float) -> list[Tensor]:
    """Log-probabilities of the spellings at the optimum of E[R] - beta KL, with all wrong completions as one outcome.

    Args:
        reference: for each right answer, the log-probabilities of its spellings under the reference, nats.
        transform: identity or mara.
        level: of MARA, sequence or answer.
        direction: of the KL divergence, reverse or forward.
        beta: reward units per nat.
    """
    right = torch.cat(list(reference))
    wrong = (-right.exp().sum()).log1p().unsqueeze(0)
    logp, reward = torch.cat([right, wrong]), torch.cat([torch.ones_like(right), torch.zeros_like(wrong)])
    changed = identity(reward, logp, beta=beta)
    if transform == "mara":
        answer_logp = torch.cat([answer.logsumexp(0).expand(len(answer)) for answer in [*reference, wrong]])
        masses = Masses(answer_logp, None) if level == "answer" else None
        changed = mara(reward, logp, beta=beta, threshold=REWARD_THRESHOLD, direction=direction, masses=masses)
    target = TARGETS[direction](changed.ref_seq_logp, changed.reward, beta)
    return list(target[:-1].split([len(answer) for answer in reference]))


def average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The measures of several questions in one: means, and of `smallest` the minimum."""
    means = {name: statistics.fmean(row[name] for row in rows) for name in MEASURES}
    return means | {"smallest": min(row["smallest"] for row in rows)}


def score(name: str, questions: Sequence[SpeltQuestion]) -> list[list[Tensor]]:
    """`spelling_logp` of each question under a model, given as a folder or hub name."""
    tokenizer = load_tokenizer(name)
    model = load_pretrained(AutoModelForCausalLM, name, dtype=torch.float32)[0].eval()
    return [spelling_logp(model, tokenizer, question) for question in questions]


def settings(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of SETTINGS in a run's configuration; - where the transform does not use one."""
    transform, objective = config["transform"], config["objective"]
    level = transform.get("level", "-")
    mass = transform["mass"] if level == "answer" else "-"
    return (transform["name"], level, mass, objective["direction"], objective["placement"])


def best_policies(reference: Sequence[Sequence[Tensor]], key: Sequence[str], beta: float) -> dict[str, Any]:
    """The reference and the optimum of a run's objective, by name; each is a policy on every question."""
    transform, level, _, direction, _ = key
    name = " ".join([transform, *([level] if level != "-" else []), direction, f"beta={beta:g}"])
    return {
        "reference": reference,
        name: [optimum(question, transform, level, direction, beta) for question in reference],
    }


def run_folders(folders: Iterable[Path]) -> list[Path]:
    """The folders with a policy, among these and the folders in them."""
    return sorted({path.parent for folder in folders for path in (*folder.glob("policy"), *folder.glob("*/policy"))})


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean ± standard deviation of the values of several seeds."""
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.spelling_shares",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="RUN_OR_SWEEP", type=Path, nargs="+", help="folder of a run or of a sweep")
    rows, by_settings, optima = [], defaultdict(list), {}
    for folder in run_folders(parser.parse_args(arguments).folders):
        config = read_config(folder)
        key, beta = settings(config), config["objective"]["beta"]
        reference = score(resolve_model(config["model"]["name_or_path"], POLICIES), SPELT_QUESTIONS)
        policy = score(str(folder / "policy"), SPELT_QUESTIONS)
        measures = average([measure(*pair) for pair in zip(policy, reference, strict=True)])
        by_settings[key].append(measures)
        rows.append([*key, str(config["seed"]), *(f"{measures[name]:.3f}" for name in MEASURES)])
        for name, best in best_policies(reference, key, beta).items():
            optima[name] = average([measure(*pair) for pair in zip(best, reference, strict=True)])
    print(table([*SETTINGS, "seed", *MEASURES], sorted(rows)))
    means = [
        [*key, str(len(runs)), *(mean_and_deviation([run[name] for run in runs]) for name in MEASURES)]
        for key, runs in sorted(by_settings.items())
    ]
    print("\n" + table([*SETTINGS, "seeds", *MEASURES], means))
    best = [[name, *(f"{measures[column]:.3f}" for column in MEASURES)] for name, measures in sorted(optima.items())]
    print("\n" + table(["optimum", *MEASURES], best))
    return 0


if __name__ == "__main__":
    main()
