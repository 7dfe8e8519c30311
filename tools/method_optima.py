"""Compute the policy that each method converges to, without sampling noise, and write the table of docs/methods.md.

    python -m tools.method_optima [docs/methods.md] [method=NAME,...]

With a page, its table is replaced. All groups of eight are enumerated on five small problems, each completion is one
token, and the expected natural gradient is followed from the reference until the policy settles. A method is run as
its file sets it, and with reverse and forward KL where they are allowed.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import Tensor

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from core.advantages import batch_normalised, group_normalised
from core.classes import Masses
from core.mara import Anchor
from core.objective import Objective, make_objective
from core.transforms import class_diversity
from launch.analysis.marked_page import TABLE, around, write_marked
from launch.cli.groups import options
from launch.cli.validation import register
from launch.runs.run_folder import one_line_errors
from tools.anchor_bias import all_groups

GROUP, BETA, THRESHOLD = 8, 0.03, 0.8
RATE, MAX_STEP, STEPS = 0.3 / BETA, 0.1, 1000  # largest rate, largest change of a log-probability in a step
SETTLED, SMALLEST = 3e-4, 1e-6  # largest change of a log-probability at this rate; probabilities that count
HEADER = (
    "| `method=` | KL | .55, .15, .05 and .25 bad | 15 : 1 | three spellings : one | reward 1 : .9 | 1e-4 |\n"
    "|---|---|---|---|---|---|---|\n"
)


@dataclass(frozen=True)
class Problem:
    """Outcomes with their probability under the reference, reward and answer."""

    reference: tuple[float, ...]
    reward: tuple[float, ...]
    answers: tuple[int, ...]

    @cached_property
    def ref_logp(self) -> Tensor:
        """[A] nats."""
        return torch.tensor(self.reference, dtype=torch.float64).log()

    @cached_property
    def good(self) -> Tensor:
        """[A] bool."""
        return torch.tensor(self.reward) >= THRESHOLD

    def masses(self, by_answer: bool) -> tuple[Tensor, Anchor]:
        """[A] log mass of each outcome's answer, or of the outcome itself, and the anchor once it stops moving."""
        mass = self.ref_logp
        if by_answer:
            answers = torch.tensor(self.answers)
            same = (answers.unsqueeze(0) == answers.unsqueeze(1)) & self.good
            mass = self.ref_logp.masked_fill(~same, -torch.inf).logsumexp(-1)
        best = mass.masked_fill(~self.good, -torch.inf).argmax()
        return mass, Anchor(torch.tensor(self.reward[best], dtype=torch.float64), mass[best])


PROBLEMS = (
    Problem((0.55, 0.15, 0.05, 0.25), (1, 1, 1, 0), (0, 1, 2, 3)),
    Problem((0.60, 0.04, 0.36), (1, 1, 0), (0, 1, 2)),
    Problem((0.24, 0.12, 0.04, 0.20, 0.40), (1, 1, 1, 1, 0), (0, 0, 0, 1, 2)),
    Problem((0.32, 0.32, 0.36), (1, 0.9, 0), (0, 1, 2)),
    Problem((0.64, 1e-4, 0.3599), (1, 1, 0), (0, 1, 2)),
)
STARTS = [sum(len(problem.reference) for problem in PROBLEMS[:i]) for i in range(len(PROBLEMS))]
SLICES = [slice(start, start + len(problem.reference)) for start, problem in zip(STARTS, PROBLEMS, strict=True)]
REWARD = torch.tensor([value for problem in PROBLEMS for value in problem.reward], dtype=torch.float64)
REF_LOGP = torch.cat([problem.ref_logp for problem in PROBLEMS])


class Groups(NamedTuple):
    """All groups of all problems, one per row.

    members: [M, G] outcomes, numbered over all problems.
    answers: [M, G] ids.
    log_orders: [M] log of the number of orders of each.
    rows: the rows of each problem.
    """

    members: Tensor
    answers: Tensor
    log_orders: Tensor
    rows: list[slice]


def groups_of_all() -> Groups:
    """Enumerate the groups of all problems."""
    members, answers, orders, rows, first = [], [], [], [], 0
    for start, problem in zip(STARTS, PROBLEMS, strict=True):
        own, _, log_orders = all_groups(len(problem.reference), GROUP)
        members.append(own + start)
        answers.append(torch.tensor(problem.answers)[own])
        orders.append(log_orders)
        rows.append(slice(first, first + len(own)))
        first += len(own)
    return Groups(torch.cat(members), torch.cat(answers), torch.cat(orders), rows)


GROUPS = groups_of_all()
DIVERSITY = class_diversity(GROUPS.answers).double()
SAMPLED = torch.full(GROUPS.members.shape, torch.inf)  # each answer of a policy that has settled, sooner or later
GROUP_REWARD, GROUP_REF_LOGP = REWARD[GROUPS.members], REF_LOGP[GROUPS.members].unsqueeze(-1)
MASK = torch.ones_like(GROUP_REF_LOGP, dtype=torch.bool)


class Run(NamedTuple):
    """A method with a KL divergence.

    kl: none, or the direction of the divergence.
    by_answer: whether MARA's masses are those of answers.
    """

    method: str
    kl: str
    objective: Objective
    beta: float
    by_answer: bool


def runs(methods: list[str]) -> Iterator[Run]:
    """Each method as its file sets it, and with each KL divergence with which no other method is the same."""
    register("llm")
    seen: list[dict[str, Any]] = []
    own = {method: config_of(method) for method in options("llm", "method")}
    for config in own.values():
        assert config is not None
        seen.append({**config.objective_arguments(), "beta": config.objective.beta})
    for method in methods:
        configs = [own[method], *(config_of(method, direction) for direction in ("reverse", "forward"))]
        for i, config in enumerate(configs):
            if config is None:
                continue
            arguments = {**config.objective_arguments(), "beta": config.objective.beta}
            if i and arguments in seen:
                continue
            seen.append(arguments)
            objective = make_objective(**config.objective_arguments())
            if objective.advantage is batch_normalised:  # a batch of one prompt is its group
                objective = replace(objective, advantage=group_normalised)
            kl = config.objective.direction if config.objective.beta else "none"
            by_answer = getattr(config.transform, "level", "sequence") == "answer"
            yield Run(method, kl, objective, config.objective.beta, by_answer)


@cache
def config_of(method: str, direction: str | None = None) -> LlmConfig | None:
    """The configuration of `method=METHOD`, with another divergence if one is given; None if that is refused."""
    overrides = [f"method={method}", f"group_size={GROUP}", f"transform.threshold.value={THRESHOLD}"]
    if direction is not None:
        overrides += [f"objective.beta={BETA}", f"objective.direction={direction}"]
    with initialize_config_module("conf.llm", version_base="1.3"):
        try:
            config = OmegaConf.to_object(compose("config", overrides=overrides))
        except ConfigError:
            return None
    assert isinstance(config, LlmConfig)
    return config


def pull(run: Run, logp: Tensor) -> Tensor:
    """[A] expected derivative of the loss by the log-probability of each outcome, over its probability."""
    members = GROUPS.members
    log_chance = GROUPS.log_orders + logp[members].sum(-1)
    coefficient = loss_coefficient(run, logp, run.beta)
    if run.objective.policy_loss == "clip_cov":
        coefficient = coefficient + loss_coefficient(run, logp, 0.0) * (kept_share(run, logp) - 1)
    # Each row's chance over the probability of the outcome: no outcome is too rare for this.
    terms = len(members) * coefficient * (log_chance.unsqueeze(-1) - logp[members]).exp()
    result = torch.zeros_like(logp).index_add(0, members.flatten(), terms.flatten())
    if run.objective.placement == "reference":
        result = result + reference_pull(run, logp)
    return result


def loss_coefficient(run: Run, logp: Tensor, beta: float) -> Tensor:
    """[M, G] derivative of the loss by each log-probability. Clip-Cov's random choice is left to `kept_share`."""
    members = GROUPS.members
    objective = run.objective
    if objective.policy_loss == "clip_cov":
        objective = replace(objective, policy_loss="policy_gradient", policy_loss_options={})
    leaf = logp[members].unsqueeze(-1).requires_grad_()
    loss, _ = objective.loss(
        GROUP_REWARD,
        leaf,
        GROUP_REF_LOGP,
        MASK,
        beta=beta,
        diversity=DIVERSITY,
        answer_count=SAMPLED,
        masses=lambda facts: all_masses(run),
        generator=None,
    )
    return torch.autograd.grad(loss, leaf)[0].squeeze(-1)


def all_masses(run: Run) -> Masses:
    """Masses and anchors of all groups."""
    mass, reward, anchor = torch.zeros_like(REWARD), torch.zeros_like(REWARD), torch.zeros_like(REWARD)
    for where, problem in zip(SLICES, PROBLEMS, strict=True):
        mass[where], (reward[where], anchor[where]) = problem.masses(run.by_answer)
    first = GROUPS.members[:, :1]
    return Masses(mass[GROUPS.members] if run.by_answer else None, Anchor(reward[first], anchor[first]))


def kept_share(run: Run, logp: Tensor) -> Tensor:
    """[M, G] chance that Clip-Cov leaves a completion its gradient: in a batch of one group it chooses one token."""
    bounds, members = run.objective.policy_loss_options, GROUPS.members
    advantage = run.objective.advantage(GROUP_REWARD)
    own = logp[members]  # the covariance of `core.losses.covariance`, for a batch of one group
    value = (advantage - advantage.mean(-1, keepdim=True)) * (own - own.mean(-1, keepdim=True))
    candidate = (value > bounds["low"]) & (value < bounds["high"])
    return 1 - candidate / candidate.sum(-1, keepdim=True).clamp_min(1)


def reference_pull(run: Run, logp: Tensor) -> Tensor:
    """[A] the same of the divergence on completions of the reference, over the policy's probability."""
    result = torch.zeros_like(logp)
    for where, problem in zip(SLICES, PROBLEMS, strict=True):
        leaf = logp[where].unsqueeze(-1).requires_grad_()
        mask = torch.ones_like(leaf, dtype=torch.bool)
        inputs: dict[str, Any] = {}
        if "masses" in run.objective.transform_inputs:
            mass, anchor = problem.masses(run.by_answer)
            inputs["reward"] = REWARD[where]
            inputs["masses"] = lambda facts, m=mass, a=anchor: Masses(m if run.by_answer else None, a)
        loss, _ = run.objective.reference_loss(leaf, problem.ref_logp.unsqueeze(-1), mask, beta=run.beta, **inputs)
        (coefficient,) = torch.autograd.grad(loss, leaf)
        weight = len(leaf) * (problem.ref_logp - logp[where]).exp()
        result[where] = coefficient.squeeze(-1) * weight
    return result


def settle(run: Run) -> tuple[Tensor, Tensor]:
    """[A] final log-probabilities, and those when nine tenths of the steps were done if it has not settled.

    A problem's rate is halved when its step turns back, so that it comes to rest. The end is where nothing pulls an
    outcome that is likelier than `SMALLEST`: one that loses may go on to fall for ever.
    """
    path, rates, last = [REF_LOGP], [RATE] * len(PROBLEMS), torch.zeros_like(REF_LOGP)
    for _ in range(STEPS):
        logp = path[-1]
        derivative = pull(run, logp)
        move, steps = torch.empty_like(logp), torch.empty_like(logp)
        for i, where in enumerate(SLICES):
            move[where] = -(derivative[where] - (logp[where].exp() * derivative[where]).sum())
            turned = float((move[where] * last[where] * logp[where].exp()).sum()) < 0
            rates[i] = rates[i] / 2 if turned else min(rates[i] * 1.1, RATE)
            steps[where] = move[where] * min(rates[i], MAX_STEP / max(float(move[where].abs().max()), 1e-30))
        new = torch.cat([(logp + steps)[where].log_softmax(-1) for where in SLICES])
        path.append(new)
        last = move
        if RATE * float(move[logp.exp() > SMALLEST].abs().max()) < SETTLED:
            return new, new
    return path[-1], path[len(path) * 9 // 10]


def cells(logp: Tensor, earlier: Tensor) -> list[str]:
    """What becomes of each problem; "moving" where the last tenth of the steps changed it by more than 2 percent."""

    def values(of: Tensor) -> list[float]:
        parts = [of[where] for where in SLICES]
        ratio = [float((part[0] - part[1]).exp()) for part in parts]
        spellings = float((parts[2][:3].logsumexp(-1) - parts[2][3]).exp())
        rare = float((parts[4][1] - parts[4][:2].logsumexp(-1)).exp())
        return [ratio[1], spellings, ratio[3], rare]

    first = " ".join(f"{p:.2f}".removeprefix("0") for p in logp[SLICES[0]].exp().tolist())
    moved = float((logp[SLICES[0]].exp() - earlier[SLICES[0]].exp()).abs().max()) > 0.01
    texts = [first + (" (moving)" if moved else "")]
    for value, before in zip(values(logp), values(earlier), strict=True):
        if not SMALLEST < value < 1 / SMALLEST:
            texts.append(f"< {SMALLEST:g}" if value < 1 else f"> {1 / SMALLEST:g}")
            continue
        texts.append(f"{value:.2g}" + (" (moving)" if abs(value - before) > 0.02 * abs(before) else ""))
    return texts


def row(run: Run) -> str:
    """The line of a method with a KL divergence."""
    return f"| `{run.method}` | {run.kl.replace('_', '-')} | " + " | ".join(cells(*settle(run))) + " |\n"


def main(arguments: list[str]) -> None:
    """Print the table, or write it into the page that is named."""
    torch.set_num_threads(1)
    chosen = [name for text in arguments if text.startswith("method=") for name in text[7:].split(",")]
    pages = [text for text in arguments if not text.startswith("method=")]
    for page in pages:
        around(Path(page), *TABLE)  # a page without a place for the table is refused before the work
    lines = []
    for run in runs(chosen or list(options("llm", "method"))):
        lines.append(row(run))
        print(lines[-1], end="", flush=True)
    if pages:
        write_marked(Path(pages[0]), *TABLE, HEADER + "".join(lines))


if __name__ == "__main__":
    with one_line_errors("tools.method_optima"):
        main(sys.argv[1:])
