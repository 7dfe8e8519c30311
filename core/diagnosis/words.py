"""Numbers and ratios in words."""

import math

MAX_QUOTED = 60  # characters


def number(value: float, sign: bool = False) -> str:
    """A number with three significant digits; - if it is NaN."""
    if math.isnan(value):
        return "-"
    text = f"{value:{'+' if sign else ''}.3g}"
    return f"{value:{'+' if sign else ''}.0f}" if "e+" in text and abs(value) < 1e6 else text


def percent(share: float) -> str:
    """A share in percent, with more decimals where it is small."""
    value = 100 * share
    if 0 < value < 0.01:
        return "<0.01%"
    return f"{value:.2g}%" if 0 < value < 1 else f"{value:.1f}%"


def ratio(log_ratio: float) -> str:
    """exp(log_ratio) as `25 to 1`, or `1 to 25` where it is below 1."""
    if math.isinf(log_ratio):
        return "all to none" if log_ratio > 0 else "none to all"
    size = abs(log_ratio)
    if size > math.log(1e5):
        text = f"{math.exp(size):.0e}" if size < 700 else f"e^{size:.0f}"
    else:
        text = f"{math.exp(size):.2g}" if size < math.log(9.95) else f"{math.exp(size):.0f}"
    return f"{text} to 1" if log_ratio >= 0 or text == "1" else f"1 to {text}"


def count(value: int, noun: str) -> str:
    """A number of things, as in `1 prompt` and `2,000 prompts`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def quoted(text: str) -> str:
    """A text on one line in quotes, of at most MAX_QUOTED characters."""
    line = " ".join(text.split())
    if not line:
        return "(empty)"
    return f"'{line if len(line) <= MAX_QUOTED else line[: MAX_QUOTED - 3] + '...'}'"
