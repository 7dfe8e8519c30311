"""The oracle, which scores molecules: its components, the transform of each, and how scores are aggregated."""

from dataclasses import dataclass
from typing import Any

from conf.schema.base import ConfigError, Section, check_range, key, yaml_text

TRANSFORMS: dict[str, tuple[str, ...]] = {  # transforms of a component's value, with the options that each needs
    "identity": (),
    "sigmoid": ("low", "high", "k"),
    "reverse_sigmoid": ("low", "high", "k"),
    "double_sigmoid": ("low", "high", "k_low", "k_high", "divisor"),
    "double_sigmoid_reinvent4": ("low", "high", "k_low", "k_high", "divisor"),
    "step": ("edge", "side"),
    "interval": ("low", "high", "margin"),
    "exponential_decay": ("k",),
    "value_mapping": ("mapping",),
}


@dataclass
class ComponentTransformConfig(Section):
    """How a component's raw value becomes a score in [0, 1], by a function of `chem.oracles.shaping`."""

    name: str = key("function from the raw value to a score in [0, 1]", default="identity", choices=tuple(TRANSFORMS))
    low: float | None = key("value at which a sigmoid or an interval begins", default=None)
    high: float | None = key("value at which a sigmoid or an interval ends", default=None)
    k: float | None = key("slope of a sigmoid, or rate of exponential_decay", default=None, above=0)
    k_low: float | None = key("slope of a double sigmoid at low", default=None, above=0)
    k_high: float | None = key("slope of a double sigmoid at high", default=None, above=0)
    divisor: float | None = key("unit of the slopes of a double sigmoid", default=None, above=0)
    edge: float | None = key("value at which a step changes", default=None)
    side: str | None = key(
        "where a step is 1: below the edge, up to and at it, or from it on",
        default=None,
        choices=("below", "up_to", "from"),
    )
    margin: float | None = key("width over which the score falls to 0 outside an interval", default=None, low=0)
    mapping: list[Any] | None = key("pairs of a value and its score: [[0, 1.0], [1, 0.5]]", default=None)

    def check(self, prefix: str) -> None:
        """Check that exactly the options of the transform are given, and that high is above low."""
        needed = TRANSFORMS[self.name]
        for name, value in vars(self).items():
            if name != "name" and (value is not None) != (name in needed):
                allowed = "given" if name in needed else "null"
                raise ConfigError(f"{prefix}{name}: must be {allowed} with name={self.name}, got {yaml_text(value)}")
        if self.low is not None and self.high is not None:
            check_range(f"{prefix}high", self.high, above=self.low, note=f" ({prefix}low)")
        for pair in self.mapping or []:
            numbers = isinstance(pair, list) and all(type(number) in (int, float) for number in pair)
            if not numbers or len(pair) != 2 or not 0 <= pair[1] <= 1:
                raise ConfigError(f"{prefix}mapping: must hold pairs [value, score], score within [0, 1], got {pair}")

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of the function."""
        return {name: getattr(self, name) for name in TRANSFORMS[self.name]}


@dataclass
class ComponentConfig(Section):
    """A property of a molecule."""

    name: str = key("a built-in component (docs/oracles.md), or package.module:name")
    parameters: dict[str, Any] = key("keyword arguments of the component", factory=dict)
    transform: ComponentTransformConfig = key("from the raw value to the score", factory=ComponentTransformConfig)
    weight: float = key("weight in the aggregation", default=1.0, above=0)
    penalty: bool = key(
        "multiply the aggregated score by this score to the power of its weight, instead of aggregating it",
        default=False,
    )
    label: str = key("name in output files; empty: the component's name", default="")

    def __post_init__(self) -> None:
        self.label = self.label or self.name


@dataclass
class OracleConfig(Section):
    """How molecules are scored: by components, whose scores are aggregated."""

    components: list[ComponentConfig] = key("properties, each with name, parameters, transform, weight and label")
    aggregation: str = key(
        "how the components' scores are combined", default="product", choices=("product", "geometric", "arithmetic")
    )
    seed: int = key(
        "seed of random components; separate from the run's seed, so that runs share results", default=0, low=0
    )
    workers: int | None = key("number of processes; null: one per core", default=None, low=1, high=1024)
    time_limit_s: float = key("time limit per molecule, seconds", default=60.0, above=0, high=10**6)
    max_failed_share: float = key(
        "stop the run if more than this share of the last 200 molecules (at least 20) fails",
        default=0.5,
        low=0,
        high=1,
    )

    def check(self, prefix: str) -> None:
        """Check that there is a component, and that labels are unique."""
        if all(component.penalty for component in self.components):
            empty = "only penalties" if self.components else "[]"
            raise ConfigError(
                f"{prefix}components: must be a list of at least one component to aggregate, got {empty}"
            )
        labels = [component.label for component in self.components]
        for label in labels:
            if labels.count(label) > 1:
                raise ConfigError(f"{prefix}components: each needs its own label (label: NAME), got {label} twice")
