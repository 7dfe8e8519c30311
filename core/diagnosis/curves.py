"""The curves of a diagnosis, as numbers that anything can draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .analysis import Diagnosis, PromptDiagnosis
from .words import quoted

MAX_CURVES = 6  # answers of a prompt


@dataclass(frozen=True)
class Curve:
    """A line. error: the standard error of each y; empty without errors. dashed: whether it is a level to reach."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes with curves. onset: where something begins, with its standard error; None: nowhere."""

    title: str
    curves: Sequence[Curve]
    onset: tuple[float, float] | None = None


def make_panels(diagnosis: Diagnosis) -> dict[str, list[Panel]]:
    """The panels of each section of the report, by its name; a section without curves has none."""
    return {"course": _course_panels(diagnosis), "answers": _answer_panels(diagnosis)}


def _course_panels(diagnosis: Diagnosis) -> list[Panel]:
    run, onset = diagnosis.run, diagnosis.onset
    start = (onset.start, onset.error) if onset is not None and onset.detected else None
    same = _curve(diagnosis, "agreement", f"two good ones have the same {run.answer_noun}")
    panels = [
        Panel("reward", [_curve(diagnosis, "reward", "reward"), _curve(diagnosis, "good", "share of good ones")]),
        Panel(f"agreement of good {run.answer_noun}s", [same, *_ramp(diagnosis)], start),
        Panel(
            f"diversity of {run.answer_noun}s",
            [
                _curve(diagnosis, "distinct", f"distinct among {diagnosis.draws}"),
                _curve(diagnosis, "entropy_nats", "entropy of good ones (nats)"),
            ],
        ),
        Panel("pass@k", [_curve(diagnosis, f"pass@{k}", f"pass@{k}") for k in diagnosis.pass_at]),
        Panel("the trainer's own log", [_logged(name, points) for name, points in diagnosis.logged.items()]),
    ]
    return [panel for panel in panels if any(_is_drawn(curve) for curve in panel.curves)]


def _is_drawn(curve: Curve) -> bool:
    return any(not math.isnan(y) for y in curve.y)


def _curve(diagnosis: Diagnosis, name: str, label: str) -> Curve:
    points = diagnosis.points
    return Curve(
        label,
        [point.step for point in points],
        [point.values.get(name, math.nan) for point in points],
        [point.errors.get(name, math.nan) for point in points],
    )


def _logged(name: str, points: Sequence[tuple[float, float]]) -> Curve:
    return Curve(name, [step for step, _ in points], [value for _, value in points])


def _ramp(diagnosis: Diagnosis) -> list[Curve]:
    """The fitted rise, if there is one."""
    onset = diagnosis.onset
    if onset is None or not onset.detected:
        return []
    first, last = diagnosis.points[0].step, diagnosis.points[-1].step
    levels = [onset.before, onset.before, onset.after, onset.after]
    return [Curve("fitted rise", [first, onset.start, onset.end, last], levels, dashed=True)]


def _answer_panels(diagnosis: Diagnosis) -> list[Panel]:
    return [_answer_panel(prompt, diagnosis) for prompt in diagnosis.prompts]


def _answer_panel(prompt: PromptDiagnosis, diagnosis: Diagnosis) -> Panel:
    """The shares of the answers in each bin."""
    steps = [part.middle for part in diagnosis.bins]
    curves = [Curve(quoted(row.answer), steps, row.course) for row in prompt.shares[:MAX_CURVES]]
    return Panel(f"shares, prompt {quoted(prompt.prompt)}" if prompt.prompt else "shares", curves)
