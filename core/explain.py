"""What KL-regularised RL asks for on a small problem, and what MARA changes: python -m core.explain --help"""

import ast
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.mara import anchor_reference, augment_reward, select_anchor
from core.stats import effective_modes
from core.targets import (
    forward_crossover_beta,
    forward_kl_target,
    reverse_crossover_beta,
    reverse_kl_target,
    reverse_log_ratio,
)

HELP = """\
usage: python -m core.explain reward=LIST ref=LIST beta=NUMBER [threshold=NUMBER] [entropy_coef=NUMBER]

Prints the policy that maximises E[R] - beta KL for each outcome of a small problem, under reverse KL,
KL(policy || reference), and forward KL, KL(reference || policy), before and after MARA.

  reward        one number an outcome
  ref           the reference's probabilities, which sum to 1; 0 is off its support
  beta          coefficient of the KL, reward units per nat, > 0
  threshold     outcomes with at least this reward are good (default: the best reward on the support)
  entropy_coef  coefficient of an entropy bonus, >= 0 (default 0); reverse KL only

Examples (some shells need the quotes):

  Two equally good outcomes: no beta undoes the reference's 15 to 1, MARA does.
    python -m core.explain 'reward=[1,1,0]' 'ref=[.3,.02,.68]' beta=.01

  Unequal rewards: beta selects the mode, with a switch at .132 under reverse KL; try beta=.1 and beta=.2.
    python -m core.explain 'reward=[.75,1,0]' 'ref=[.0174,.0026,.98]' beta=.1 threshold=.75

  Nearly equal rewards: at a small beta a gap of .1 takes all.
    python -m core.explain 'reward=[0,.9,1]' 'ref=[.34,.33,.33]' beta=.001 threshold=.9
"""
REQUIRED = ("reward", "ref", "beta")
KEYS = (*REQUIRED, "threshold", "entropy_coef")
MOST_PAIRS = 6


class InputError(ValueError):
    """One line: the key, what it must be and what was found."""


@dataclass(frozen=True)
class Problem:
    reward: Tensor  # [A]
    ref: Tensor  # [A] probabilities
    beta: float
    threshold: float | None  # None: the best reward on the support
    entropy_coef: float


def main(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    try:
        problem = read(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(report(problem))
    return 0


# --- input -----------------------------------------------------------------------------------------------


def read(arguments: Sequence[str]) -> Problem:
    """key=value arguments as a problem. Raises InputError."""
    given: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if key not in KEYS:
            raise InputError(f"{shown(key)[1:-1]}: must be one of {', '.join(KEYS)}, got {shown(argument)}")
        if not equals:
            raise InputError(f"{key}: must be given as {key}=VALUE, got {shown(argument)}")
        if key in given:
            raise InputError(f"{key}: must be given once, got it twice")
        try:
            given[key] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            given[key] = Unread(text)
    for key in REQUIRED:
        if key not in given:
            raise InputError(f"{key}: must be given (see --help), got nothing")

    reward, ref = numbers("reward", given["reward"]), numbers("ref", given["ref"])
    if len(reward) != len(ref):
        raise InputError(f"ref: must have one number an outcome, {len(reward)} as in reward, got {len(ref)}")
    if min(ref) < 0:
        raise InputError(f"ref: must be probabilities, none below 0, got {min(ref):g}")
    if abs(math.fsum(ref) - 1) > 1e-6:
        raise InputError(f"ref: must be probabilities that sum to 1, got a sum of {math.fsum(ref):.9g}")
    beta = number("beta", given["beta"])
    if not beta > 0:
        raise InputError(
            f"beta: must be > 0 (at 0 there is no KL term, and forward KL and MARA need one), got {beta:g}"
        )
    entropy_coef = number("entropy_coef", given.get("entropy_coef", 0.0))
    if entropy_coef < 0:
        raise InputError(f"entropy_coef: must be >= 0, got {entropy_coef:g}")
    threshold = number("threshold", given["threshold"]) if "threshold" in given else None
    as_tensor = torch.tensor([reward, ref], dtype=torch.float64)
    return Problem(as_tensor[0], as_tensor[1], beta, threshold, entropy_coef)


class Unread(str):
    """Text that is no literal."""


def number(key: str, value: Any, expected: str = "a finite number") -> float:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond float
        pass
    raise InputError(f"{key}: must be {expected}, got {shown(value)}")


def numbers(key: str, value: Any) -> list[float]:
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"{key}: must be a list of numbers such as [1,.5,0], got {shown(value)}")
    return [number(key, item, "a list of finite numbers") for item in value]


def shown(value: Any) -> str:
    """On one line, and not too long."""
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- output ----------------------------------------------------------------------------------------------


def report(problem: Problem) -> str:
    reward, beta, entropy_coef = problem.reward, problem.beta, problem.entropy_coef
    ref_logp = problem.ref.log()
    on_support = ref_logp > -torch.inf
    best = float(reward[on_support].max())
    threshold = best if problem.threshold is None else problem.threshold
    anchor, good = select_anchor(reward, ref_logp, threshold)

    augmented = augment_reward(reward, ref_logp, beta=beta, threshold=threshold)
    anchored_reward, anchored_ref = anchor_reference(reward, ref_logp, threshold=threshold)
    columns = {
        ("target", "reverse"): reverse_kl_target(ref_logp, reward, beta, entropy_coef),
        ("target", "forward"): forward_kl_target(ref_logp, reward, beta),
        ("after MARA", "reverse"): reverse_kl_target(ref_logp, augmented, beta, entropy_coef),
        ("after MARA", "forward"): forward_kl_target(anchored_ref, anchored_reward, beta),
    }
    if entropy_coef:  # forward KL then has no closed form
        columns = {name: column for name, column in columns.items() if name[1] == "reverse"}

    default = " (the best reward on the support, since no threshold= is given)" if problem.threshold is None else ""
    head = f"beta {beta:g}" + (f", entropy_coef {entropy_coef:g}" if entropy_coef else "")
    lines = [f"{head}; good: reward >= {threshold:g}{default}", ""]
    names = [f"{when} {direction}" for when, direction in columns]
    rows: list[list[str]] = [["outcome", "reward", "ref", "good", *names]]
    for i in range(len(reward)):
        kind = "yes" if good[i] else "no" if on_support[i] else "off support"
        if good[i] and i == int(anchor):
            kind = "anchor"
        shares = [probability(column[i]) for column in columns.values()]
        rows.append([str(i), f"{float(reward[i]):g}", f"{float(problem.ref[i]):g}", kind, *shares])
    anchor_note = "none, since no outcome is good"
    if good.any():
        anchor_note = f"outcome {int(anchor)}, the good outcome that the reference finds likeliest"
    note = "forward KL has no closed form with entropy_coef > 0" if entropy_coef else "forward KL by Algorithm 2"
    lines += [*table(rows), "", f"anchor: {anchor_note}", f"after MARA: reverse KL by Algorithm 1, {note}"]
    lines += ["", *crossovers(problem, ref_logp), "", *equation_7(problem, ref_logp, good, columns)]
    return "\n".join([*lines, "", in_words(good, columns)])


def crossovers(problem: Problem, ref_logp: Tensor) -> list[str]:
    """Where two outcomes of the support swap: the better rewarded one leads below, the likelier one above."""
    reward = problem.reward
    table_of_betas = reverse_crossover_beta(ref_logp.unsqueeze(1), ref_logp, reward.unsqueeze(1), reward)
    swap = (table_of_betas > 0) & table_of_betas.isfinite() & (reward.unsqueeze(1) > reward)
    pairs = swap.nonzero()  # better rewarded, likelier
    if len(pairs) == 0:
        return ["crossover: none; no outcome is better rewarded than one that the reference finds likelier"]
    distance = (table_of_betas[swap].log() - math.log(problem.beta)).abs()
    rows = [["crossover beta", "reverse (eq. 10)", "forward"]]
    for better, likelier in pairs[distance.argsort(stable=True)][:MOST_PAIRS].tolist():
        betas = table_of_betas[better, likelier], forward_crossover_beta(ref_logp, reward, better, likelier)
        shown_betas = [f"{float(x):.4g}" if x < math.inf else "none" for x in betas]
        rows.append([f"{better} below, {likelier} above", *shown_betas])
    if problem.entropy_coef:
        rows = [row[:2] for row in rows]
    more = len(pairs) - MOST_PAIRS
    return table(rows) + ([f"and {more} more, further from beta"] if more > 0 else [])


def equation_7(problem: Problem, ref_logp: Tensor, good: Tensor, columns: dict[tuple[str, str], Tensor]) -> list[str]:
    if int(good.sum()) < 2:
        return [f"eq. 7: needs two good outcomes, {int(good.sum())} here"]
    a, b = ref_logp.masked_fill(~good, -torch.inf).topk(2).indices.tolist()
    reward, target = problem.reward, columns["target", "reverse"]
    predicted = reverse_log_ratio(ref_logp[a], ref_logp[b], reward[a], reward[b], problem.beta, problem.entropy_coef)
    after = columns["after MARA", "reverse"]
    lines = [
        f"log ratio of outcome {a} to {b}, the likeliest good ones, under reverse KL:",
        f"  {nats(predicted)} by eq. 7, {nats(target[a] - target[b])} in the target, "
        f"{nats(after[a] - after[b])} after MARA",
    ]
    if reward[a] == reward[b] and not problem.entropy_coef:
        ratio = float((ref_logp[a] - ref_logp[b]).exp())
        lines.append(f"  equal rewards: {ratio:.4g} to 1 as in the reference, at every beta, under either KL")
    return lines


def in_words(good: Tensor, columns: dict[tuple[str, str], Tensor]) -> str:
    """The collapse in one sentence."""
    count = int(good.sum())
    if count == 0:
        return "No outcome is good at this threshold, so MARA changes nothing."
    if count == 1:
        return f"Only outcome {int(good.long().argmax())} is good, so MARA has nothing to equalise."
    before: dict[str, list[str]] = {}  # what happens, and under which directions
    after = []
    for (when, direction), column in columns.items():
        share = column.masked_fill(~good, -torch.inf).softmax(-1)
        modes, top = float(effective_modes(share)), int(share.argmax())
        if when == "after MARA":
            after.append(f"{modes:.2f}")
            continue
        verdict = f"{'collapses onto' if share[top] > 0.9 else 'leans to'} outcome {top}, "
        verdict += f"with {percent(share[top])} of the good mass"
        if modes > 0.99 * count:
            verdict = "spreads over the good outcomes"
        verdict += f", in effect {modes:.2f} of {count} good outcomes"
        mass = column[good].exp().sum()
        if mass < 0.5:
            verdict += f", which hold {percent(mass)} of all mass"
        before.setdefault(verdict, []).append(direction)
    found = "; ".join(f"under {' and '.join(names)} KL the optimum {verdict}" for verdict, names in before.items())
    return f"U{found[1:]}; after MARA {' and '.join(dict.fromkeys(after))}."


def probability(logp: Tensor) -> str:
    p = float(logp.exp())
    if p == 0 and float(logp) > -math.inf:
        return f"e^{float(logp):.0f}"
    return "0" if p == 0 else f"{p:.4f}" if p >= 5e-5 else f"{p:.1e}"


def nats(value: Tensor) -> str:
    text = f"{float(value):.4f}"
    return "0.0000" if text == "-0.0000" else text


def percent(share: Tensor) -> str:
    text = f"{100 * float(share):.1f}%"
    return {"100.0%": "over 99.9%", "0.0%": "under 0.1%"}.get(text, text)


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Right-aligned columns."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
