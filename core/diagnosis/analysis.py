"""The diagnosis of a run in numbers: its curves, when a collapse began, and the optimum of its objective."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from .onset import Onset, find_onset
from .optimum import (
    EffectiveNumbers,
    Pair,
    ReferenceMass,
    compare_pair,
    effective_numbers,
    implied_beta,
    reference_mass,
)
from .samples import (
    AnswerShare,
    Bin,
    Point,
    Sample,
    answer_shares,
    common_group_size,
    default_threshold,
    is_good,
    make_bins,
    measure_bin,
)
from .trainer_kl import KlFact

MAX_PROMPTS, MAX_PAIRS, MAX_UNEQUAL = 3, 3, 2  # prompts compared with the optimum, pairs of each, and with others
MOST_DRAWS = 16  # completions among which distinct answers are expected
PASS_AT = (1, 4, 16, 64)
EDGE, WIDE_EDGE, EDGE_SAMPLES = 10, 4, 100  # a tenth of the bins at either end, up to a quarter for so many samples
LEAST_LAST = 4  # completions of a prompt in the last bins, below which it is not compared

Logged = Mapping[str, Sequence[tuple[float, float]]]  # curves by name, as (step, value)


@dataclass(frozen=True)
class Run:
    """What is known of a run beside its samples.

    Attributes:
        beta: coefficient of its KL, reward units per nat; None: not known; 0: it has no KL.
        threshold: lowest good reward; None: by `default_threshold`.
        trainer: trl, verl, openrlhf, reinvent or chem (`core.diagnosis.advice`); empty: another one.
        kl: what its KL is; None: not known.
        from_reference: whether its first samples are of the reference.
        classes: what equal answers are, in words.
        noun: what a completion is called, in singular.
        answer_noun: what an answer is called.
        uses_mara: whether it was trained with MARA.
        lists_once: whether the files show each completion once, so that repeated samples are not seen.
        repeats: share of the samples that earlier steps had sampled, in the first and in the last tenth of the steps;
            None: not known.
        how_to_score: how to get log-probabilities under the reference, a sentence for the user.
    """

    beta: float | None = None
    threshold: float | None = None
    trainer: str = ""
    kl: KlFact | None = None
    from_reference: bool = True
    classes: str = "the same text after normalisation"
    noun: str = "completion"
    answer_noun: str = "answer"
    uses_mara: bool = False
    lists_once: bool = False
    repeats: tuple[float, float] | None = None
    how_to_score: str = ""

    @property
    def direction(self) -> str:
        """The divergence whose optimum is compared."""
        return self.kl.direction if self.kl else "reverse"


@dataclass(frozen=True)
class PromptDiagnosis:
    """Answers to one prompt.

    Attributes:
        prompt: its name.
        shares: of its answers.
        mass: the reference's distribution; None if nothing is known of it.
        pairs: the good answer that is most frequent now with other good ones, then with the likeliest of the rest.
        effective: how many good answers it amounts to; None if there are none, or nothing is known of the reference.
    """

    prompt: str
    shares: Sequence[AnswerShare]
    mass: ReferenceMass | None
    pairs: Sequence[Pair]
    effective: EffectiveNumbers | None = None


@dataclass(frozen=True)
class Diagnosis:
    """A run in numbers.

    Attributes:
        run: what is known of the run.
        bins: its samples in order of time.
        points: what is measured in each bin.
        edge: number of bins at either end that are compared.
        draws: completions among which `distinct` is expected.
        pass_at: the K of pass@K.
        threshold: lowest good reward; None without rewards.
        threshold_rule: where it is from.
        onset: the rise of the agreement of good answers; None if there are too few points.
        prompts: the prompts that are compared with the optimum.
        implied: beta at which the last samples would be the optimum, and its standard error; None if not known.
        reward_spread: standard deviation of the rewards of a prompt in the last bins, the mean over prompts.
        reward_range: the largest reward minus the smallest; NaN without rewards.
        counts: number of samples, of prompts, of samples with a reward, and with log-probabilities under the policy
            and the reference.
        logged: curves of the trainer's own log, by name.
    """

    run: Run
    bins: Sequence[Bin]
    points: Sequence[Point]
    edge: int
    draws: int
    pass_at: Sequence[int]
    threshold: float | None
    threshold_rule: str
    onset: Onset | None
    prompts: Sequence[PromptDiagnosis] = ()
    implied: tuple[float, float] | None = None
    reward_spread: float = math.nan
    reward_range: float = math.nan
    counts: dict[str, int] = field(default_factory=dict)
    logged: Logged = field(default_factory=dict)

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of all prompts."""
        return [pair for prompt in self.prompts for pair in prompt.pairs]

    def ends(self, name: str) -> tuple[float, float]:
        """The mean of a quantity over the first and over the last bins; NaN where it is undefined."""
        return _mean(self.points[: self.edge], name), _mean(self.points[-self.edge :], name)


def diagnose(samples: Sequence[Sample], run: Run, logged: Logged | None = None) -> Diagnosis:
    """Diagnose a run from its samples, at least one. logged: curves of the trainer's own log."""
    bins = make_bins(samples)
    edge = _edge(bins)
    rule = (run.threshold, f"given, {run.threshold:g}") if run.threshold is not None else default_threshold(bins)
    threshold, text = rule or (None, "")
    if not any(sample.reward is not None for sample in samples):
        threshold, text = None, ""
    size = common_group_size(bins)
    draws, pass_at = max(1, min(MOST_DRAWS, size)), [k for k in PASS_AT if k <= size]
    points = [measure_bin(part, threshold, draws, pass_at) for part in bins]
    onset = find_onset(
        [point.step for point in points],
        [point.values["agreement"] for point in points],
        [point.good_samples for point in points],
    )
    prompts = [_diagnose_prompt(bins, prompt, edge, threshold, run) for prompt in _prompts(bins, edge, threshold)]
    last = [sample for part in bins[-edge:] for sample in part.samples]
    groups = [
        [s.reward for s in group if s.reward is not None] for part in bins[-edge:] for group in part.groups.values()
    ]
    spreads = [pstdev(rewards) for rewards in groups if len(rewards) > 1]
    return Diagnosis(
        *(run, bins, points, edge, draws, pass_at, threshold, text, onset, prompts),
        implied=implied_beta(last),
        reward_spread=fmean(spreads) if spreads else math.nan,
        reward_range=max(rewards) - min(rewards) if (rewards := _rewards(samples)) else math.nan,
        counts={
            "samples": len(samples),
            "prompts": len({sample.prompt for sample in samples}),
            "reward": sum(sample.reward is not None for sample in samples),
            "policy_logp": sum(sample.policy_logp is not None for sample in samples),
            "ref_logp": sum(sample.ref_logp is not None for sample in samples),
        },
        logged=logged or {},
    )


def _edge(bins: Sequence[Bin]) -> int:
    """The number of bins at either end that are compared."""
    edge = max(1, len(bins) // EDGE)
    while edge < len(bins) // WIDE_EDGE and sum(len(part.samples) for part in bins[:edge]) < EDGE_SAMPLES:
        edge += 1
    return edge


def _rewards(group: Sequence[Sample]) -> list[float]:
    return [sample.reward for sample in group if sample.reward is not None]


def _mean(points: Sequence[Point], name: str) -> float:
    values = [point.values.get(name, math.nan) for point in points]
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def _prompts(bins: Sequence[Bin], edge: int, threshold: float | None) -> list[str]:
    """The prompts to compare: sampled in the last bins, most good answers in the run first, then most samples."""
    last = Counter(sample.prompt for part in bins[-edge:] for sample in part.samples)
    answers: dict[str, set[str]] = {prompt: set() for prompt, count in last.items() if count >= LEAST_LAST}
    for part in bins:
        for sample in part.samples:
            if sample.prompt in answers and is_good(sample, threshold):
                answers[sample.prompt].add(sample.answer)
    return sorted(answers, key=lambda prompt: (-min(len(answers[prompt]), 2), -last[prompt]))[:MAX_PROMPTS]


def _diagnose_prompt(
    bins: Sequence[Bin], prompt: str, edge: int, threshold: float | None, run: Run
) -> PromptDiagnosis:
    shares = answer_shares(bins, prompt, edge)
    mass = None if threshold is None else reference_mass(bins, prompt, edge, lists_once=run.lists_once)
    if mass is not None and mass.source == "first steps" and not run.from_reference:
        mass = None
    if mass is None or threshold is None:
        return PromptDiagnosis(prompt, shares, mass, ())
    counts = None if run.lists_once else {row.answer: row.last for row in shares}
    effective = effective_numbers(mass, counts, run.beta, threshold, run.direction)
    known = set(mass.answers)
    good = [row for row in shares if row.reward is not None and row.reward >= threshold and row.answer in known]
    if not good or not good[0].last:
        return PromptDiagnosis(prompt, shares, mass, (), effective)
    log_mass = dict(zip(mass.answers, mass.log_mass().tolist(), strict=True))
    others = sorted(good[1:], key=lambda row: -log_mass[row.answer])[:MAX_PAIRS]
    rest = known - {row.answer for row in good}
    worse = [row for row in shares if row.answer in rest]
    others += sorted(worse, key=lambda row: -log_mass[row.answer])[:MAX_UNEQUAL]
    pairs = [
        compare_pair(
            *(mass, prompt, (good[0].answer, row.answer), None if run.lists_once else (good[0].last, row.last)),
            *(run.beta, threshold, run.direction),
        )
        for row in others
    ]
    return PromptDiagnosis(
        prompt, shares, mass, [pair for pair in pairs if pair.equal or pair.tie_beta < math.inf], effective
    )
