"""Measure a KL setting: its expected gradient beside exact ones, and its optimum beside the targets."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.kl_conformance.problem import (
    AT_OLD,
    DIFFERENCE,
    SEQUENCE,
    TOKEN,
    VARIATION,
    ZERO,
    Optimum,
    all_sequences,
    exact_gradients,
    expected_gradient,
    random_logits,
    settle,
)
from benchmarks.kl_conformance.settings import Setting

TOLERANCE = 1e-10  # relative distance of equal gradients
SAME_OPTIMUM = 1e-6  # total variation between equal optima
NONE = "none"
SEQUENCES = all_sequences(3, 3)
POLICY, REFERENCE = random_logits(SEQUENCES, 0, 0.8), random_logits(SEQUENCES, 1, 0.8)
OLD = POLICY + random_logits(SEQUENCES, 2, 0.4)


class Comparison(NamedTuple):
    """A gradient, its relative distance to exact ones, its cosine with them (NaN if it is 0), and which it equals."""

    gradient: Tensor
    distance: dict[str, float]
    cosine: dict[str, float]
    equals: str


@dataclass(frozen=True)
class Measurement:
    """What a setting is: on policy, off policy, and where it leads (None: not computed)."""

    setting: Setting
    on_policy: Comparison
    off_policy: Comparison
    optimum: Optimum | None


def compare(gradient: Tensor, exact: dict[str, Tensor]) -> Comparison:
    """Compare a gradient with exact ones."""
    distance = {name: float((gradient - other).norm() / other.norm()) for name, other in exact.items()}
    size = min(float(other.norm()) for other in exact.values())
    zero = float(gradient.norm()) <= TOLERANCE * size
    flat = gradient.flatten()
    cosine = {
        name: float("nan") if zero else float(torch.cosine_similarity(flat, other.flatten(), dim=0))
        for name, other in exact.items()
    }
    equal = [name for name, value in distance.items() if value <= TOLERANCE]
    return Comparison(gradient, distance, cosine, ZERO if zero else equal[0] if equal else NONE)


def measure(setting: Setting, *, optimum: bool = True) -> Measurement:
    """Measure a setting.

    Raises:
        ValueError: its variants have different gradients.
    """
    comparisons = []
    for old in (None, OLD):
        gradients = {
            variant: expected_gradient(
                SEQUENCES, loss, POLICY, REFERENCE, old=old, group=setting.group, coupled=setting.coupled
            )
            for variant, loss in setting.losses.items()
        }
        first = next(iter(gradients.values()))
        for variant, gradient in gradients.items():
            if float((gradient - first).norm()) > TOLERANCE * max(float(first.norm()), 1.0):
                raise ValueError(f"{setting.name}: {variant} has another gradient than {next(iter(gradients))}")
        comparisons.append(compare(first, exact_gradients(SEQUENCES, POLICY, REFERENCE, old)))
    loss = next(iter(setting.losses.values()))
    place = settle(loss, group=setting.group, coupled=setting.coupled) if optimum else None
    return Measurement(setting, comparisons[0], comparisons[1], place)


WORDS = {
    f"reverse {SEQUENCE}": "reverse KL of sequences",
    f"reverse {TOKEN}": "reverse KL of tokens",
    f"forward {SEQUENCE}": "forward KL of sequences",
    f"forward {TOKEN}": "forward KL of tokens",
    VARIATION: "twice the total variation of tokens",
    DIFFERENCE: "reverse KL of sequences minus forward KL of tokens",
    ZERO: "0",
    NONE: "none of these",
}


def in_words(equals: str) -> str:
    """What a gradient equals, in words."""
    plain = equals.removesuffix(AT_OLD)
    return WORDS[plain] + (" at the old policy's prefixes" if plain != equals else "")


def verdict(measured: Measurement) -> str:
    """Whether the setting is KL(policy, reference), as each of them is named, in words."""
    on, off = measured.on_policy.equals, measured.off_policy.equals
    if not on.startswith("reverse") or on == DIFFERENCE:
        answer = {ZERO: "no: it does nothing", NONE: "no: none of these"}.get(on, f"no: {in_words(on)}")
        same = measured.optimum is not None and measured.optimum.to_reverse < SAME_OPTIMUM
        return f"{answer}, but its optimum is that of the reverse KL of sequences" if same else answer
    level = "sequences" if SEQUENCE in on else "tokens"
    if not off.startswith("reverse"):
        return f"yes, of {level}, on policy only"
    return f"yes, of {level}" + (", and off policy at the old policy's prefixes" if off.endswith(AT_OLD) else "")
