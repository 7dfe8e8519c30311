"""The optimum of KL-regularised RL on a small problem, before and after MARA: `python -m core.explain --help`."""

import math
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .explorer import write_page
from .mara import anchor_reference, augment_reward, select_anchor
from .paths import policy_gradient_path
from .schedules import linear, run_progress
from .small_problem import InputError, Problem, read_problem, split_page
from .stats import effective_modes
from .targets import (
    forward_crossover_beta,
    forward_kl_target,
    reverse_crossover_beta,
    reverse_kl_target,
    reverse_log_ratio,
)

IN_REPOSITORY = __package__ == "core"  # not the installed light library, which has no other commands
COMMAND = "mara explain" if IN_REPOSITORY else "python -m mara.explain"
HELP = """\
usage: mara explain reward=LIST ref=LIST beta=NUMBER [threshold=NUMBER] [entropy_coef=NUMBER] [classes=LIST]
                    [--html FILE]
       python -m core.explain is the same command

Prints the policy that maximises E[R] - beta KL on a small problem, outcome by outcome, under reverse KL,
KL(policy || reference), and under forward KL, KL(reference || policy), before and after MARA; and how narrow the
exact gradient makes the policy before it gets there.

  reward        one number per outcome
  ref           the reference's probabilities, which sum to 1; 0 for an outcome off its support
  beta          coefficient of the KL, reward units per nat, > 0
  threshold     outcomes with at least this reward are good (default: the best reward on the support)
  entropy_coef  coefficient of an entropy bonus, >= 0 (default 0); reverse KL only
  classes       the answer that each outcome spells, a name or a number; then MARA over answers is shown beside
                MARA over sequences, and a second table has the probability of each answer
  --html FILE   also write the problem as a page for a browser, on which rewards, reference and beta can be changed;
                it is one file that needs no server; without a problem the page begins with one of its own

Examples (the quotes are for the shell):

  Two equally good outcomes: no beta changes the reference's ratio of 15 to 1, but MARA does.
    mara explain 'reward=[1,1,0]' 'ref=[.3,.02,.68]' beta=.01

  Unequal rewards: beta selects the mode. Under reverse KL it switches at .132; try beta=.1 and beta=.2.
    mara explain 'reward=[.75,1,0]' 'ref=[.0174,.0026,.98]' beta=.1 threshold=.75

  Nearly equal rewards: with a small beta, the outcome that is better by .1 takes all the probability.
    mara explain 'reward=[0,.9,1]' 'ref=[.34,.33,.33]' beta=.001 threshold=.9

  Two answers, one with three spellings: MARA over sequences gives it three shares, MARA over answers one.
    mara explain 'reward=[1,1,1,1,0]' 'ref=[.4,.1,.06,.04,.4]' beta=.1
    'classes=["Mars","Venus","Venus","Venus",""]'

  The first problem as a page to look at and to send to others.
    mara explain 'reward=[1,1,0]' 'ref=[.3,.02,.68]' beta=.01 --html problem.html
"""
if not IN_REPOSITORY:
    HELP = HELP.replace("       python -m core.explain is the same command\n", "").replace("mara explain", COMMAND)
MOST_PAIRS = 6  # crossovers that are printed
LOG_WIDTH = 120  # columns, where the output is no terminal
PATH_STEPS, PATH_STEP = 300, 0.15  # nats; the examples print the same within 4% with 8,000 of .02
FALL = 16  # a beta that falls begins at this multiple of beta

BY_ANSWER = "by answer"
# ("target", "after MARA" or BY_ANSWER, direction) -> [A] log-probabilities
Columns = Mapping[tuple[str, str], Tensor]


def main(arguments: Sequence[str]) -> int:
    """Print the report or, on standard error, the mistake; return the exit status."""
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    try:
        words, page = split_page(arguments)
        if page is not None and not words:
            write_problem_page(None, page)
            print(f"page: {page}")
            return 0
        problem = read_problem(words)
        print(report(problem, shutil.get_terminal_size((LOG_WIDTH, 0)).columns))
        if page is not None:
            write_problem_page(problem, page)
            print(f"page: {page}")
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    if IN_REPOSITORY:
        print(f"next: {training_command(problem)}")
    return 0


def write_problem_page(problem: Problem | None, path: Path) -> None:
    """Write the page of `core.explorer` with the problem as its state, or as it is. Raises InputError."""
    state = (
        None
        if problem is None
        else {
            "reward": problem.reward.tolist(),
            "ref": problem.ref.tolist(),
            "answers": problem.classes or [str(i) for i in range(len(problem.reward))],
            "beta": problem.beta,
            "entropy": problem.entropy_coef,
            "threshold": problem.threshold,
            "mara": "answer" if problem.classes else "sequence",
        }
    )
    try:
        write_page(path, state)
    except OSError as error:
        raise InputError(f"--html: cannot write {path}: {error.strerror}") from None


def training_command(problem: Problem) -> str:
    """The command that trains policies on the problem, without and with MARA, quoted for a shell."""
    best = float(problem.reward[problem.ref > 0].max())
    words = [
        "problem.name=table",
        f"problem.ref={problem.ref.tolist()}".replace(" ", ""),
        f"problem.reward={problem.reward.tolist()}".replace(" ", ""),
        f"objective.beta={problem.beta}",
        f"transform.threshold.value={best if problem.threshold is None else problem.threshold}",
        *([] if bool((problem.ref > 0).all()) else ["objective.direction=forward"]),
        "transform=identity,mara",
    ]
    return shlex.join([*started_by(sys.orig_argv), "didactic", "-m", *words])


def started_by(command_line: Sequence[str]) -> list[str]:
    """How commands are typed, from this process's own: `mara`, or else `python -m`."""
    return ["mara"] if any(re.search(r"(^|[/.])mara$", word) for word in command_line[1:3]) else ["python", "-m"]


# --- output ----------------------------------------------------------------------------------------------


def report(problem: Problem, width: int = LOG_WIDTH) -> str:
    """Return the targets as a table, the anchor, the crossovers, eq. 7 in numbers, and a sentence on the collapse.

    Args:
        problem: the outcomes.
        width: of the tables, at most.
    """
    ref_logp = problem.ref.log()
    on_support = ref_logp > -torch.inf
    threshold = problem.threshold
    note = ""
    if threshold is None:
        threshold = float(problem.reward[on_support].max())
        note = " (the best reward on the support, since no threshold= is given)"
    anchor, good = select_anchor(problem.reward, ref_logp, threshold)
    columns = _targets(problem, ref_logp, threshold)

    settings = f"beta {problem.beta:g}"
    forward_note = "forward KL by Algorithm 2"
    if problem.entropy_coef:
        settings += f", entropy_coef {problem.entropy_coef:g}"
        forward_note = "forward KL has no closed form with entropy_coef > 0"
    anchor_note = "none, since no outcome is good"
    if good.any():
        anchor_note = f"outcome {int(anchor)}, the good outcome with the highest probability under the reference"
    if problem.classes is not None:
        forward_note += "; answers: MARA over answers"
    lines = [
        f"{settings}; good: reward >= {threshold:g}{note}",
        "",
        *_aligned(_outcome_table(problem, good, int(anchor), columns), width),
        "",
        f"anchor: {anchor_note}",
        f"after MARA: reverse KL by Algorithm 1, {forward_note}",
        "",
        *_crossovers(problem, ref_logp, width),
        "",
        *_equation_7(problem, ref_logp, good, columns),
        "",
        *_on_the_way(problem, ref_logp, threshold, good),
        _summary(good, {name: column for name, column in columns.items() if name[0] != BY_ANSWER}),
        *_answers(problem, good, columns, width),
    ]
    return "\n".join(lines)


def _targets(problem: Problem, ref_logp: Tensor, threshold: float) -> Columns:
    reward, beta, entropy_coef = problem.reward, problem.beta, problem.entropy_coef
    augmented = augment_reward(reward, ref_logp, beta=beta, threshold=threshold)
    anchored_reward, anchored_ref = anchor_reference(reward, ref_logp, threshold=threshold)
    columns = {
        ("target", "reverse"): reverse_kl_target(ref_logp, reward, beta, entropy_coef),
        ("target", "forward"): forward_kl_target(ref_logp, reward, beta),
        ("after MARA", "reverse"): reverse_kl_target(ref_logp, augmented, beta, entropy_coef),
        ("after MARA", "forward"): forward_kl_target(anchored_ref, anchored_reward, beta),
    }
    if problem.classes is not None:
        good = select_anchor(reward, ref_logp, threshold)[1]
        mass = problem.mass_logp(good)
        augmented = augment_reward(reward, ref_logp, beta=beta, threshold=threshold, mass_logp=mass)
        anchored_reward, anchored_ref = anchor_reference(reward, ref_logp, threshold=threshold, mass_logp=mass)
        columns |= {
            (BY_ANSWER, "reverse"): reverse_kl_target(ref_logp, augmented, beta, entropy_coef),
            (BY_ANSWER, "forward"): forward_kl_target(anchored_ref, anchored_reward, beta),
        }
    if entropy_coef:  # forward KL has no closed form then
        columns = {name: column for name, column in columns.items() if name[1] == "reverse"}
    return columns


def _outcome_table(problem: Problem, good: Tensor, anchor: int, columns: Columns) -> list[list[str]]:
    rows = [["outcome", "reward", "ref", "good", *_headings(columns)]]
    for i, (reward, ref) in enumerate(zip(problem.reward.tolist(), problem.ref.tolist(), strict=True)):
        kind = "yes" if good[i] else "no" if ref > 0 else "off support"
        if good[i] and i == anchor:
            kind = "anchor"
        probabilities = [_probability(column[i]) for column in columns.values()]
        rows.append([str(i), f"{reward:g}", f"{ref:g}", kind, *probabilities])
    return rows


def _headings(columns: Columns) -> list[str]:
    """The names of the columns, short ones where there are six."""
    short = {"after MARA": "MARA", BY_ANSWER: "answers"} if len(columns) > 4 else {}
    return [f"{short.get(when, when)} {direction}" for when, direction in columns]


def _answers(problem: Problem, good: Tensor, columns: Columns, width: int) -> list[str]:
    """The probability of the good outcomes of each answer, under the reference and at each optimum."""
    if problem.classes is None:
        return []
    rows = [["answer", "spellings", "ref", *_headings(columns)]]
    for name in dict.fromkeys(problem.classes):
        members = good & torch.tensor([name == other for other in problem.classes])
        if members.any():
            masses = [column[members].exp().sum().log() for column in columns.values()]
            cells = [_probability(mass) for mass in (problem.ref[members].sum().log(), *masses)]
            rows.append([name, str(int(members.sum())), *cells])
    return ["", "answers, by their good outcomes:", *_aligned(rows, width)] if len(rows) > 1 else []


def _crossovers(problem: Problem, ref_logp: Tensor, width: int) -> list[str]:
    """The betas at which two outcomes on the support swap; below it, the one with the higher reward is likelier."""
    reward = problem.reward
    crossover = reverse_crossover_beta(ref_logp.unsqueeze(1), ref_logp, reward.unsqueeze(1), reward)
    swaps = (crossover > 0) & crossover.isfinite() & (reward.unsqueeze(1) > reward)
    pairs = swaps.nonzero()  # (outcome with the higher reward, outcome with the higher reference probability)
    if len(pairs) == 0:
        return ["crossover: none; no outcome has a higher reward than one that is likelier under the reference"]
    distance = (crossover[swaps].log() - math.log(problem.beta)).abs()
    rows = [["likelier outcome", "reverse (eq. 10)", "forward"]]
    for better, likelier in pairs[distance.argsort(stable=True)][:MOST_PAIRS].tolist():
        betas = crossover[better, likelier], forward_crossover_beta(ref_logp, reward, better, likelier)
        cells = [f"{float(beta):.4g}" if beta < math.inf else "none" for beta in betas]
        rows.append([f"{better} below, {likelier} above", *cells])
    if problem.entropy_coef:
        rows = [row[:2] for row in rows]
    lines = ["crossover, the beta at which two outcomes are equally likely:", *_aligned(rows, width)]
    hidden = len(pairs) - MOST_PAIRS
    return lines + ([f"and {hidden} more, further from beta"] if hidden > 0 else [])


def _equation_7(problem: Problem, ref_logp: Tensor, good: Tensor, columns: Columns) -> list[str]:
    """The log ratio of the two likeliest good outcomes: by eq. 7, in the target and after MARA."""
    if int(good.sum()) < 2:
        return [f"eq. 7: needs two good outcomes, but there are {int(good.sum())}"]
    a, b = ref_logp.masked_fill(~good, -torch.inf).topk(2).indices.tolist()
    reward, target = problem.reward, columns["target", "reverse"]
    predicted = reverse_log_ratio(ref_logp[a], ref_logp[b], reward[a], reward[b], problem.beta, problem.entropy_coef)
    after = columns["after MARA", "reverse"]
    lines = [
        f"log ratio of outcomes {a} and {b}, the likeliest good ones, under reverse KL:",
        f"  {_nats(predicted)} by eq. 7, {_nats(target[a] - target[b])} in the target, "
        f"{_nats(after[a] - after[b])} after MARA",
    ]
    if reward[a] == reward[b] and not problem.entropy_coef:
        ratio = float((ref_logp[a] - ref_logp[b]).exp())
        lines.append(
            f"  equal rewards: {ratio:.4g} to 1 as in the reference, at every beta, under reverse and forward KL"
        )
    return lines


def _on_the_way(problem: Problem, ref_logp: Tensor, threshold: float, good: Tensor) -> list[str]:
    """How narrow the policy becomes before its optimum, without MARA and with it, at two schedules of beta."""
    if int(good.sum()) < 2:
        return []
    first, last = FALL * problem.beta, problem.beta
    falling = [linear(first, last, run_progress(step, PATH_STEPS)) for step in range(PATH_STEPS)]

    def augmented(beta: float) -> Tensor:
        return augment_reward(problem.reward, ref_logp, beta=beta, threshold=threshold)

    def narrowest(reward: Tensor | Callable[[float], Tensor], betas: Sequence[float]) -> str:
        path = policy_gradient_path(ref_logp, reward, betas, entropy_coef=problem.entropy_coef, step=PATH_STEP)
        return f"{float(effective_modes(_good_shares(path, good)).min()):.2f}"

    constant = [last] * PATH_STEPS
    plain, mara = (narrowest(reward, constant) for reward in (problem.reward, augmented(last)))
    plain_falling, mara_falling = (narrowest(reward, falling) for reward in (problem.reward, augmented))
    return [
        "narrowest policy on the way from the reference, by the exact gradient (reverse KL, a logit per outcome):",
        f"  at constant beta effectively {plain} of {int(good.sum())} good outcomes, {mara} after MARA",
        f"  with beta falling linearly from {first:g} to {last:g}, {plain_falling} and {mara_falling}",
        "",
    ]


def _summary(good: Tensor, columns: Columns) -> str:
    """One sentence: how the targets share the probability of the good outcomes, before and after MARA."""
    count = int(good.sum())
    if count == 0:
        return "No outcome is good at this threshold, so MARA changes nothing."
    if count == 1:
        return f"Only outcome {int(good.long().argmax())} is good, so MARA has nothing to equalise."
    directions_of: dict[str, list[str]] = {}  # what the optimum does -> under which directions
    modes_after = []
    for (when, direction), column in columns.items():
        share = _good_shares(column, good)
        modes, top = float(effective_modes(share)), int(share.argmax())
        if when == "after MARA":
            modes_after.append(f"{modes:.2f}")
            continue
        if modes > 0.99 * count:
            verdict = "spreads evenly over the good outcomes"
        else:
            verb = "collapses onto" if share[top] > 0.9 else "favours"
            verdict = f"{verb} outcome {top}, which has {_percent(share[top])} of the good mass"
        verdict += f" (effectively {modes:.2f} of {count} good outcomes)"
        mass = column[good].exp().sum()
        if mass < 0.5:
            verdict += f", and the good outcomes have {_percent(mass)} of all mass"
        directions_of.setdefault(verdict, []).append(direction)
    text = "; ".join(
        f"under {' and '.join(directions)} KL the optimum {verdict}" for verdict, directions in directions_of.items()
    )
    return f"U{text[1:]}; after MARA, effectively {' and '.join(dict.fromkeys(modes_after))}."


def _good_shares(logp: Tensor, good: Tensor) -> Tensor:
    """[..., A] shares of the good outcomes in the probability that they have together; 0 of the others."""
    return logp.masked_fill(~good, -torch.inf).softmax(-1)


def _probability(logp: Tensor) -> str:
    p = float(logp.exp())
    if p == 0 and float(logp) > -math.inf:
        return f"e^{float(logp):.0f}"
    return "0" if p == 0 else f"{p:.4f}" if p >= 5e-5 else f"{p:.1e}"


def _nats(value: Tensor) -> str:
    text = f"{float(value):.4f}"
    return "0.0000" if text == "-0.0000" else text


def _percent(share: Tensor) -> str:
    text = f"{100 * float(share):.1f}%"
    return {"100.0%": "over 99.9%", "0.0%": "under 0.1%"}.get(text, text)


def _aligned(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """One line per row, with right-aligned columns; the first row holds the headings.

    Where a table is too wide, its headings are wrapped; then its columns are spread over several tables that begin
    with the first column, whose cells are wrapped where they take more than a third of the width.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > width:
        words = [max(map(len, heading.split()), default=0) for heading in rows[0]]
        widths = [
            max(word, *map(len, column[1:])) for word, column in zip(words, zip(*rows, strict=True), strict=True)
        ]
        widths[0] = min(widths[0], max(width // 3, 1))
    parts: list[list[int]] = [[]]  # the further columns of each table
    for column in range(1, len(widths)):
        if parts[-1] and sum(widths[i] + 2 for i in (*parts[-1], column)) > width - widths[0]:
            parts.append([])
        parts[-1].append(column)
    lines = []
    for number, part in enumerate(parts):
        lines += [""] if number else []
        for row in rows:
            cells = [textwrap.wrap(row[i], widths[i]) for i in (0, *part)]
            height = max(map(len, cells))
            above = [[""] * (height - len(texts)) + texts for texts in cells]
            for line in zip(*above, strict=True):
                lines.append("  ".join(text.rjust(widths[i]) for i, text in zip((0, *part), line, strict=True)))
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
