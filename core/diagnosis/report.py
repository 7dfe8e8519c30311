"""The diagnosis of a run in words and tables, for the terminal and for a page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .advice import REINVENT, Advice, advice
from .analysis import Diagnosis, PromptDiagnosis, Run
from .optimum import FIRST, SCORED, WEIGHTED, Pair
from .trainer_kl import DEFAULTS, SAME_OPTIMUM, TITLES, ZERO, KlFact
from .words import count, number, percent, quoted, ratio

MAX_ANSWERS = 8  # rows of a table of answers
Kind = Literal["label", "text", "number"]


@dataclass(frozen=True)
class Table:
    """A table: its columns as (header, kind), its rows as texts, and a legend."""

    title: str
    columns: Sequence[tuple[str, Kind]]
    rows: Sequence[Sequence[str]]
    legend: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a report. name: of its anchor, and of the figure that belongs to it."""

    name: str
    title: str
    paragraphs: Sequence[str]
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Report:
    """A diagnosis in words.

    Attributes:
        finding: what is wrong with the run, in one or two sentences.
        sections: the parts.
        advice: what to change, the most effective first.
        unknown: what cannot be known from the files, and what would tell.
    """

    finding: str
    sections: Sequence[Section]
    advice: Sequence[Advice]
    unknown: Sequence[str] = field(default_factory=list)


def make_report(diagnosis: Diagnosis) -> Report:
    """Put a diagnosis into words."""
    sections = [_course(diagnosis), _answers(diagnosis), _optimum(diagnosis), _kl(diagnosis)]
    return Report(_finding(diagnosis), sections, advice(diagnosis), _unknown(diagnosis))


# --- the finding -------------------------------------------------------------------------------------------


def _finding(diagnosis: Diagnosis) -> str:
    sentences = [_collapse_sentence(diagnosis), *_lost_reward(diagnosis)]
    equal = [pair for pair in diagnosis.pairs if pair.equal and pair.optimum is not None and pair.good]
    if equal:
        worst = max(equal, key=lambda pair: abs(pair.optimum or 0.0))
        sentences.append(pair_sentence(worst, diagnosis))
    return " ".join(sentences)


def _lost_reward(diagnosis: Diagnosis) -> list[str]:
    """A sentence if good completions became much rarer: such a run is broken, whatever its diversity."""
    first, last = diagnosis.ends("good")
    if not last < first / 2:  # also where one of them is not known
        return []
    noun = diagnosis.run.noun
    return [f"Good {noun}s become rarer: {percent(first)} of all at the beginning, {percent(last)} at the end."]


def _collapse_sentence(diagnosis: Diagnosis) -> str:
    """Whether good answers became fewer, and when that began."""
    onset, run = diagnosis.onset, diagnosis.run
    first, last = diagnosis.ends("agreement")
    what = (
        f"two good {run.noun}s of one prompt" if diagnosis.threshold is not None else f"two {run.noun}s of one prompt"
    )
    if math.isnan(first) and math.isnan(last):
        return f"No prompt has two good {run.noun}s in the same steps, so a collapse cannot be seen."
    if run.lists_once and not (onset and onset.detected):
        return _listed_once(run)
    if onset is None:
        return (
            f"The probability that {what} have the same {run.answer_noun} is {number(first)} at the beginning and "
            f"{number(last)} at the end; {len(diagnosis.bins)} points are too few to say when it changed."
        )
    if onset.detected:
        return (
            f"The {run.answer_noun}s collapse from step {onset.start:.0f} ± {onset.error:.0f} on: the probability "
            "that "
            f"{what} have the same {run.answer_noun} rises from {number(onset.before)} to {number(onset.after)} "
            f"(p = {onset.p:.3g})."
        )
    ends = (
        f"the probability that {what} have the same {run.answer_noun} is {number(first)} at the beginning and "
        f"{number(last)} at the end"
    )
    if onset.p <= 0.05 and onset.after > onset.before:
        return f"No collapse is certain: {ends} (p = {onset.p:.3g})."
    return (
        f"No collapse during these steps: {ends}, and its course is that of a policy that does not change (p = "
        f"{onset.p:.2g})."
    )


def _listed_once(run: Run) -> str:
    """What can be said of a collapse where repeated samples are not in the files."""
    text = f"The files list each {run.noun} once, so that they do not show which ones the run samples again and again"
    if run.repeats is None:
        return f"{text}."
    first, last = (percent(share) for share in run.repeats)
    return f"{text}: in the first tenth of the steps {first} of the samples had been met before, in the last {last}."


# --- the sections ------------------------------------------------------------------------------------------


def _course(diagnosis: Diagnosis) -> Section:
    run, counts = diagnosis.run, diagnosis.counts
    bins = diagnosis.bins
    paragraphs = [
        f"{count(counts['samples'], run.noun)} of {count(counts['prompts'], 'prompt')}, steps {bins[0].first} to "
        f"{bins[-1].last}, in {count(len(bins), 'point')}. Two {run.noun}s have the same {run.answer_noun} if they "
        "have "
        f"{run.classes}."
    ]
    if diagnosis.threshold is not None:
        paragraphs.append(
            f"A {run.noun} is good if its reward is at least the threshold: {diagnosis.threshold_rule}."
        )
    names = {
        "reward": "reward",
        "good": "share of good ones",
        "distinct": f"distinct {run.answer_noun}s among {diagnosis.draws}",
        "entropy_nats": f"entropy of good {run.answer_noun}s (nats)",
        "agreement": f"two good ones have the same {run.answer_noun}",
        **{f"pass@{k}": f"pass@{k}" for k in diagnosis.pass_at},
    }
    rows = []
    for name, title in names.items():
        first, last = diagnosis.ends(name)
        if not (math.isnan(first) and math.isnan(last)):
            rows.append((title, number(first), number(last), number(round(last - first, 4), sign=True)))
    columns: list[tuple[str, Kind]] = [
        ("means over prompts", "label"),
        ("first steps", "number"),
        ("last steps", "number"),
        ("change", "number"),
    ]
    edges = f"First steps: {_steps(diagnosis, 0)}; last steps: {_steps(diagnosis, -1)}."
    return Section("course", "Over training", paragraphs, [Table("", columns, rows, edges)])


def _steps(diagnosis: Diagnosis, end: int) -> str:
    """The steps of the first (0) or of the last (-1) bins."""
    bins = diagnosis.bins[: diagnosis.edge] if end == 0 else diagnosis.bins[-diagnosis.edge :]
    first, last = bins[0].first, bins[-1].last
    return str(first) if first == last else f"{first} to {last}"


def _answers(diagnosis: Diagnosis) -> Section:
    run = diagnosis.run
    tables = [_answer_table(prompt, diagnosis) for prompt in diagnosis.prompts]
    paragraphs = (
        [] if tables else [f"No prompt has enough {run.noun}s in the last steps to show its {run.answer_noun}s."]
    )
    return Section("answers", f"The {run.answer_noun}s and their shares", paragraphs, tables)


def _answer_table(prompt: PromptDiagnosis, diagnosis: Diagnosis) -> Table:
    """The shares of the answers to a prompt: under the reference, in the first and last steps, and at the optimum."""
    run, mass = diagnosis.run, prompt.mass
    ref: dict[str, str] = {}
    target: dict[str, float] = {}
    if mass is not None:
        log_mass = mass.log_mass().tolist()
        ref = {
            answer: percent(math.exp(min(value, 0.0))) for answer, value in zip(mass.answers, log_mass, strict=True)
        }
        if run.beta:
            probability = mass.target(run.beta, run.direction).exp().tolist()
            target = dict(zip(mass.answers, probability, strict=True))
    heads: list[tuple[str, Kind, bool]] = [
        (run.answer_noun, "label", True),
        ("reward", "number", diagnosis.threshold is not None),
        ("reference", "number", bool(ref)),
        ("first steps", "number", True),
        ("last steps", "number", True),
        ("optimum", "number", bool(target)),
        ("texts", "number", True),
    ]
    rows = []
    for row in prompt.shares[:MAX_ANSWERS]:
        cells = [
            quoted(row.answer),
            "-" if row.reward is None else number(row.reward),
            ref.get(row.answer, "-"),
            percent(row.first / row.first_total) if row.first_total else "-",
            percent(row.last / row.last_total) if row.last_total else "-",
            percent(target[row.answer]) if row.answer in target else "-",
            str(row.spellings),
        ]
        rows.append([cell for cell, (_, _, shown) in zip(cells, heads, strict=True) if shown])
    others = len(prompt.shares) - len(rows)
    legend = f"and {count(others, f'other {run.answer_noun}')}" if others else ""
    title = "" if not prompt.prompt else f"Prompt {quoted(prompt.prompt)}"
    return Table(title, [(name, kind) for name, kind, shown in heads if shown], rows, legend)


def pair_sentence(pair: Pair, diagnosis: Diagnosis) -> str:
    """Where two answers are, and where the run's own objective puts them."""
    run, a, b = diagnosis.run, quoted(pair.a), quoted(pair.b)
    gap = f"{abs(pair.ref_gap):.1f}" + (f" ± {pair.ref_error:.1f}" if pair.ref_error else "")
    if pair.equal:
        kind = "equally good" if pair.good else "equally bad"
        start = f"Two {kind} {run.answer_noun}s, {a} and {b}, are {gap} nats apart under the reference"
        if run.beta == 0:
            start += ", and without a KL term nothing decides between them: no ratio is the optimum"
        else:
            start += f": at any beta the optimum keeps {ratio(pair.ref_gap)}"
    else:
        start = (
            f"{a} has reward {number(pair.reward_a)} and {b} {number(pair.reward_b)}, and they are {gap} nats apart "
            "under the reference"
        )
        if pair.optimum is not None:
            start += f": at beta {number(run.beta or 0.0)} the optimum has {ratio(pair.optimum)}"
        start += f"; {_tie_text(pair)}"
    return f"{start}. {now_text(pair, diagnosis)}{_mara_text(pair, diagnosis)}"


def _tie_text(pair: Pair) -> str:
    if 0 < pair.tie_beta < math.inf:
        return f"they tie at beta {number(pair.tie_beta)}"
    return "no beta ties them"


def now_text(pair: Pair, diagnosis: Diagnosis) -> str:
    """Where the run is, and how far that is beyond the optimum."""
    last = diagnosis.bins[-1].last
    if pair.now is None:
        return "How often the run samples each now is not in the files."
    if not pair.counts[1]:
        text = f"At step {last} the run has {pair.counts[0]} of the first and none of the second"
        if pair.optimum is None or diagnosis.run.beta == 0:
            return f"{text}."
        expected = pair.counts[0] * math.exp(-pair.optimum)
        if expected * math.exp(-2 * pair.ref_error) <= 3:  # even if the reference is two errors further apart
            return f"{text}, too few to tell it from the optimum."
        return f"{text}, where the optimum would have about {expected:.0f} of the second: the excess is drift."
    text = (
        f"The run is at {ratio(pair.now)} after step {last} ({pair.counts[0]} and {pair.counts[1]} "
        f"{diagnosis.run.noun}s)"
    )
    excess, error = pair.excess, pair.excess_error
    if excess is None or diagnosis.run.beta == 0:
        return f"{text}."
    amount = f"{excess:+.1f} ± {error:.1f} nats"
    if excess > 2 * error:
        return f"{text}: the excess over the optimum, {amount}, is drift."
    if excess < -2 * error:
        return f"{text}: it has not reached the optimum ({amount}), and more training leads there."
    return (
        f"{text}: that is the optimum within the error ({amount}), so the objective, not its training, has to change."
    )


def _mara_text(pair: Pair, diagnosis: Diagnosis) -> str:
    if pair.mara is None or diagnosis.run.uses_mara:
        return ""
    beta = "with a KL term" if diagnosis.run.beta == 0 else "at the same beta"
    return f" MARA {beta} gives {ratio(pair.mara)}."


SOURCES = {
    SCORED: "log-probabilities of the {noun}s under the reference",
    WEIGHTED: "importance weights reference / policy, from the steps in which the policy was near the reference",
    FIRST: "the {noun}s of the first steps, which are taken to be those of the reference",
}


def _optimum(diagnosis: Diagnosis) -> Section:
    run, paragraphs, rows = diagnosis.run, [], []
    sources = dict.fromkeys(prompt.mass.source for prompt in diagnosis.prompts if prompt.mass is not None)
    for source in sources:
        paragraphs.append(f"The reference's shares are from {SOURCES[source].format(noun=run.noun)}.")
    paragraphs += [pair_sentence(pair, diagnosis) for pair in diagnosis.pairs]
    for pair in diagnosis.pairs:
        tie = "at any beta the same ratio" if pair.equal else _tie_text(pair).removeprefix("they tie at beta ")
        optimum = "-" if pair.optimum is None or run.beta == 0 else ratio(pair.optimum)
        excess = "-"
        if pair.excess is not None and math.isfinite(pair.excess) and run.beta != 0:
            excess = f"{pair.excess:+.1f} ± {pair.excess_error:.1f}"
        now = "-" if pair.now is None else ratio(pair.now) if pair.counts[1] else f"{pair.counts[0]} to 0"
        mara = "-" if pair.mara is None else ratio(pair.mara)
        rows.append([f"{quoted(pair.a)} to {quoted(pair.b)}", ratio(pair.ref_gap), optimum, now, excess, tie, mara])
    heads: list[tuple[str, Kind]] = [
        ("ratio", "label"),
        ("reference", "number"),
        ("optimum", "number"),
        ("now", "number"),
    ]
    heads += [("excess (nats)", "number"), ("beta at which they tie", "text"), ("with MARA", "number")]
    if diagnosis.implied is not None:
        beta, error = diagnosis.implied
        paragraphs.append(
            f"The log-probabilities of the last steps are those of an optimum at beta {number(beta)} ± "
            f"{number(error)}: "
            "log(policy / reference) rises by 1 / beta with the reward (eq. 2)."
            + (f" The configured beta is {number(run.beta)}." if run.beta else "")
        )
    if not rows:
        paragraphs.append(_why_no_pairs(diagnosis))
    tables = [*([Table("", heads, rows)] if rows else []), *_effective_numbers(diagnosis)]
    return Section("optimum", "The optimum of this run's own objective", paragraphs, tables)


def _effective_numbers(diagnosis: Diagnosis) -> list[Table]:
    """A table of the effective numbers of good answers to each prompt that is compared; none without good ones."""
    run, rows = diagnosis.run, []
    for prompt in diagnosis.prompts:
        effective = prompt.effective
        if effective is not None:
            name = quoted(prompt.prompt) if prompt.prompt else f"all {run.noun}s"
            values = (effective.reference, effective.optimum, effective.now, effective.mara)
            rows.append([name, f"{effective.good:,}", *("-" if value is None else number(value) for value in values)])
    heads: list[tuple[str, Kind]] = [("prompt", "label"), ("seen", "number"), ("reference", "number")]
    heads += [("optimum", "number"), ("last steps", "number"), ("with MARA", "number")]
    known = [any(row[column] != "-" for row in rows) for column in range(len(heads))]
    rows = [[cell for cell, shown in zip(row, known, strict=True) if shown] for row in rows]
    legend = (
        f"exp(entropy in nats) of the shares among the good {run.answer_noun}s that the files show: so many equally "
        "frequent ones have the same entropy."
    )
    title = f"Effective number of good {run.answer_noun}s"
    return (
        [Table(title, [head for head, shown in zip(heads, known, strict=True) if shown], rows, legend)]
        if rows
        else []
    )


def _why_no_pairs(diagnosis: Diagnosis) -> str:
    run = diagnosis.run
    if diagnosis.threshold is None:
        return "Without rewards the objective is not known, and neither is its optimum."
    if not diagnosis.prompts:
        return f"No prompt has {run.noun}s enough in the last steps to compare them with an optimum."
    if all(prompt.mass is None for prompt in diagnosis.prompts):
        return (
            f"Nothing is known of the reference's shares: the files have no log-probabilities under it, and no "
            f"{run.noun}s of these prompts from the first steps."
        )
    return f"No prompt has two {run.answer_noun}s that can be compared."


def _kl(diagnosis: Diagnosis) -> Section:
    """Whether the KL has the gradient that its name says."""
    kl, run = diagnosis.run.kl, diagnosis.run
    if kl is None:
        text = "The trainer's KL settings are not known: say trainer=trl, verl or openrlhf and its settings."
        if run.trainer == REINVENT:
            text = (
                "REINVENT's loss has, on samples of the policy, the gradient of the reverse KL of sequences, with "
                "beta = 1 / sigma."
            )
        elif run.trainer in TITLES:
            names = ", ".join(list(DEFAULTS[run.trainer])[:4])
            text = (
                f"The KL settings of {TITLES[run.trainer]} are not known: say those that were set, such as {names}."
            )
        if run.beta is not None:
            text = f"beta is {number(run.beta)}. {text}"
        return Section("kl", "The KL term", [text])
    if kl.beta == 0:
        text = (
            "There is no KL term, so the reference does not hold the policy: what decides between equal answers is "
            "chance."
        )
        return Section("kl", "The KL term", [f"{kl.setting}: {text}"])
    if not kl.measured:
        return Section("kl", "The KL term", [f"{kl.setting}: this combination has not been measured in docs/kl.md."])
    off = f" Off policy, on samples of an older policy, it is: {kl.off_policy}."
    paragraphs = [f"{kl.setting}: {_gradient_text(kl)} ({kl.source}).{off}"]
    if kl.divides_by_spread and not math.isnan(diagnosis.reward_spread):
        paragraphs.append(
            "Advantages are divided by the standard deviation of the rewards of a group, which is "
            f"{number(diagnosis.reward_spread)} in the last steps. In units of reward the KL counts beta times that. "
            "Equal answers keep their ratio whatever it is."
        )
    return Section("kl", "The KL term", paragraphs)


def _gradient_text(kl: KlFact) -> str:
    """What a KL term that was measured does."""
    if kl.gradient == ZERO:
        return "the KL term has zero expected gradient; it does nothing"
    if kl.row in SAME_OPTIMUM:
        return "the KL term has the optimum of the reverse KL of sequences"
    if kl.as_named:
        return f"the KL term has the gradient of the {kl.gradient}, as its name says"
    return f"the gradient of the KL term is not that of KL(policy, reference): {kl.gradient}"


def _unknown(diagnosis: Diagnosis) -> list[str]:
    """What the files do not tell, and what would."""
    run, counts, lines = diagnosis.run, diagnosis.counts, []
    if not counts["reward"]:
        lines.append(
            "No rewards: which answers are good, the optimum and pass@k are not known. Name the column with "
            "reward=COLUMN."
        )
    if not counts["ref_logp"]:
        instead = (
            "the reference's shares are estimated from the first steps, and are wrong if those came after training"
        )
        instead = (
            instead if any(prompt.mass for prompt in diagnosis.prompts) else "the reference's shares are not known"
        )
        lines.append(f"No log-probabilities under the reference: {instead}. {run.how_to_score}".strip())
    elif (run.lists_once or not counts["policy_logp"]) and any(
        p.mass and max(s.spellings for s in p.shares) > 1 for p in diagnosis.prompts
    ):
        reason = f"Each {run.noun} is listed once" if run.lists_once else "No log-probabilities under the policy"
        lines.append(
            f"{reason}: {run.answer_noun}s with several texts get the reference's mass of the texts that were seen, "
            "which is a lower bound."
        )
    if run.beta is None:
        lines.append(
            "beta is not known: the optimum of unequal rewards is not computed. Say beta=NUMBER, or trainer= with "
            "its settings."
        )
    if counts["samples"] and counts["prompts"] == counts["samples"]:
        lines.append(f"Every prompt has one {run.noun}: its {run.answer_noun}s cannot be compared with each other.")
    return lines
