"""The figure of PMO: the area under the curve of the mean score of the best molecules, over the oracle calls."""

from collections.abc import Sequence

import numpy as np

SPACING = 100  # oracle calls between two points of the curve


def top_mean(scores: Sequence[float], n: int) -> float:
    """Mean of the n highest scores, of all of them where there are fewer; 0 without scores."""
    return float(np.sort(np.asarray(scores, float))[::-1][:n].mean()) if len(scores) else 0.0


def top_auc(scores: Sequence[float], n: int, budget: int, spacing: int = SPACING) -> float:
    """Area under the mean of the n highest scores so far, divided by the budget.

    The curve has a point at every `spacing` calls and one at the last call, is linear between them and begins at 0.
    If a run ended before its budget, the last value counts for the rest of it.

    Args:
        scores: of distinct molecules, in the order of the oracle calls.
        n: 1, 10 or 100.
        budget: oracle calls that were allowed; what lies beyond is ignored.
        spacing: calls between two points.

    Source: Gao et al. (2022), arXiv:2206.12411, `top_auc` of mol_opt with finish=True and freq_log=100.
    """
    scores = list(scores)[:budget]
    if not scores:
        return 0.0
    calls = [*range(spacing, len(scores), spacing), len(scores)]
    curve = [top_mean(scores[:call], n) for call in calls]
    area = np.trapezoid([0.0, *curve], [0, *calls]) + (budget - len(scores)) * curve[-1]
    return float(area / budget)
