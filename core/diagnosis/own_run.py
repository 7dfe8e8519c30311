"""What the configuration of a run of this project tells its diagnosis."""

import math
from collections.abc import Mapping
from typing import Any

from .analysis import Run
from .trainer_kl import OWN, KlFact

COMPARED = ("reverse", "forward")  # the divergences whose optimum a diagnosis computes
COMPARED_TRANSFORMS = ("identity", "mara")


def own_run(
    settings: Mapping[str, Any], beta: float | None = None, threshold: float | None = None, **words: Any
) -> tuple[Run, list[str]]:
    """What is known of a run, and notes on what its optimum leaves out.

    Args:
        settings: the run's configuration by dotted key, such as objective.beta.
        beta: replaces the run's own; None: that of the configuration, if its optimum can be computed.
        threshold: replaces the run's own; None: a constant threshold of the configuration.
        words: other attributes of `Run`.
    """
    notes: list[str] = []
    own_beta = float(settings.get("objective.beta", math.nan))
    direction, level = (
        str(settings.get(f"objective.{key}", default))
        for key, default in (("direction", "reverse"), ("level", "sequence"))
    )
    transform = str(settings.get("transform.name", "identity"))
    kl = None
    if not math.isnan(own_beta):
        gradient = f"{direction} KL of {'sequences' if level == 'sequence' else 'tokens'}"
        shown = f"objective.direction={direction}, objective.beta={own_beta:g}, objective.level={level}"
        kl = KlFact(OWN, shown, gradient, gradient, own_beta)
    if beta is None and direction in COMPARED and not math.isnan(own_beta):
        beta = own_beta
    schedule = str(settings.get("beta_schedule.name", "constant"))
    if beta is not None and beta == own_beta and schedule != "constant":
        notes.append(
            f"beta_schedule={schedule}: the optimum is that of objective.beta={beta:g}, where the schedule starts; "
            "say beta=NUMBER for another."
        )
    if direction not in COMPARED:
        notes.append(f"objective.direction={direction}: only the optimum of the reverse or forward KL is computed.")
    if transform not in COMPARED_TRANSFORMS:
        notes.append(f"transform={transform}: the optimum is that of the rewards before this transform.")
    value = settings.get("transform.threshold.value")
    if (
        threshold is None
        and settings.get("transform.threshold.kind") == "constant"
        and isinstance(value, float | int)
    ):
        threshold = float(value)
    return Run(beta=beta, threshold=threshold, kl=kl, uses_mara=transform == "mara", **words), notes
