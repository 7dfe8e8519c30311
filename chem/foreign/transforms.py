"""Transforms of REINVENT 4 and Saturn as transforms of a component here."""

import math
from collections.abc import Callable
from typing import Any

from chem.foreign.ledger import NoCounterpart, Section, number
from chem.oracles.shaping import SHAPES, Shape

Options = dict[str, Any]
POINT = 1e-9  # width of an interval that stands for one value


def convert_transform(transform: Section, kind: str, double_sigmoid: Callable[[Section], Options]) -> Options:
    """The transform with its options, and a row for each key.

    Args:
        transform: the table with its parameters.
        kind: name of the transform.
        double_sigmoid: the converter of the program's own double sigmoid.

    Raises:
        NoCounterpart: it has none here.
        ConfigError: a parameter is not a number.
    """
    converters: dict[str, tuple[Callable[[Section], Options], tuple[str, ...]]] = {
        "sigmoid": (lambda section: _sigmoid(section, 1), ("low", "high", "k")),
        "reversesigmoid": (lambda section: _sigmoid(section, -1), ("low", "high", "k")),
        "doublesigmoid": (double_sigmoid, ("low", "high", "coef_div", "coef_si", "coef_se")),
        "step": (_step, ("low", "high")),
        "leftstep": (lambda section: {"name": "step", "edge": _number(section, "low", 0), "side": "up_to"}, ("low",)),
        "rightstep": (
            lambda section: {"name": "step", "edge": _number(section, "high", 0), "side": "from"},
            ("high",),
        ),
        "exponentialdecay": (
            lambda section: {"name": "exponential_decay", "k": _positive(_number(section, "k"))},
            ("k",),
        ),
        "valuemapping": (_value_mapping, ("mapping",)),
    }
    name = kind.lower().replace("-", "").replace("_", "")
    if name not in converters:
        raise NoCounterpart(f"transform {kind} is unknown; write its formula as one of {', '.join(SHAPES)}")
    convert, keys = converters[name]
    options = convert(transform)
    written = "{" + ", ".join(f"{option}: {value}" for option, value in options.items()) + "}"
    for key in keys:
        transform.note(key, "converted", f"an option of transform {options['name']}")
    transform.note("type", "converted", f"transform={written}")
    for key in ("low", "high", "k"):
        if key not in keys:
            transform.note(key, "same", f"{kind} does not use it")
    return options


def shape_of(options: Options) -> Shape:
    """The function of a converted transform."""
    return SHAPES[options["name"]](**{name: value for name, value in options.items() if name != "name"})


def reinvent_double_sigmoid(section: Section) -> Options:
    """REINVENT 4's double sigmoid, which takes a divisor of 0 for hard edges."""
    low, high = _number(section, "low"), _number(section, "high")
    slopes = _number(section, "coef_si", 150), _number(section, "coef_se", 150)
    divisor = _number(section, "coef_div", 100)
    if divisor == 0 and min(slopes) > 0:
        return _interval(low, high)
    return _double("double_sigmoid_reinvent4", low, high, *slopes, divisor)


def saturn_double_sigmoid(section: Section) -> Options:
    """Saturn's double sigmoid, that of REINVENT 2: coef_se is the slope at low and coef_si that at high."""
    low, high = _number(section, "low"), _number(section, "high")
    slopes = _number(section, "coef_se"), _number(section, "coef_si")
    return _double("double_sigmoid", low, high, *slopes, _number(section, "coef_div"))


def _double(name: str, low: float, high: float, k_low: float, k_high: float, divisor: float) -> Options:
    if min(k_low, k_high, divisor) <= 0 or low >= high:
        raise NoCounterpart("a double sigmoid needs low < high and positive slopes here; use another transform")
    return {"name": name, "low": low, "high": high, "k_low": k_low, "k_high": k_high, "divisor": divisor}


def _sigmoid(section: Section, sign: int) -> Options:
    """A sigmoid; one with k < 0 or high < low is the reverse of another, one with high = low is a step."""
    low, high, k = (_number(section, name) for name in ("low", "high", "k"))
    if k == 0:
        raise NoCounterpart("a sigmoid with k = 0 is 1/2 everywhere; leave the component out")
    if low == high:  # a step; at the edge itself, a sigmoid is 0 and a reverse sigmoid 1
        sides = {1: ("from", "below"), -1: ("up_to", "from")}[sign]
        edge = math.nextafter(low, math.inf) if (sign, k > 0) == (1, True) else low
        return {"name": "step", "edge": edge, "side": sides[0 if k > 0 else 1]}
    rising = sign * k * (high - low) > 0
    name = "sigmoid" if rising else "reverse_sigmoid"
    return {"name": name, "low": min(low, high), "high": max(low, high), "k": abs(k)}


def _step(section: Section) -> Options:
    return _interval(_number(section, "low", 0), _number(section, "high", 0))


def _interval(low: float, high: float) -> Options:
    if low > high:
        raise NoCounterpart("a step with low > high is 0 everywhere; leave the component out")
    return {"name": "interval", "low": low, "high": max(high, low + POINT), "margin": 0.0}


def _value_mapping(section: Section) -> Options:
    pairs = []
    for value, score in section.section("mapping").values.items():
        try:
            pairs.append([float(value), number(score)])
        except (TypeError, ValueError):
            raise NoCounterpart(f"value_mapping of names such as {value}; no component here has names") from None
    if not pairs or not all(0 <= score <= 1 for _, score in pairs):
        raise NoCounterpart("value_mapping needs pairs with scores in [0, 1]")
    return {"name": "value_mapping", "mapping": pairs}


def _number(section: Section, name: str, default: float | None = None) -> float:
    if name not in section.values and default is None:
        raise NoCounterpart(f"the transform has no {name}, which it needs")
    try:
        return number(section.get(name, default))
    except TypeError:
        raise NoCounterpart(f"{name} of the transform is not a number") from None


def _positive(value: float) -> float:
    if value <= 0:
        raise NoCounterpart("exponential_decay needs k > 0")
    return value
