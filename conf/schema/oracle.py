"""The oracle of molecules: components, the transform of each and how they are aggregated."""

from dataclasses import dataclass
from typing import Any

from conf.schema.base import ConfigError, Section, check_range, key, show

TRANSFORMS: dict[str, tuple[str, ...]] = {  # of a component: the options it needs
    "identity": (),
    "sigmoid": ("low", "high", "k"),
    "reverse_sigmoid": ("low", "high", "k"),
    "double_sigmoid": ("low", "high", "k_low", "k_high", "divisor"),
    "step": ("edge", "side"),
    "interval": ("low", "high", "margin"),
}
POSITIVE = ("k", "k_low", "k_high", "divisor")


@dataclass
class ComponentTransformConfig(Section):
    """From a component's raw value to its score in [0, 1]: a function of `chem.oracles.shaping`."""

    name: str = key("from the raw value to a score in [0, 1]", default="identity", choices=tuple(TRANSFORMS))
    low: float | None = key("value where a sigmoid or an interval begins", default=None)
    high: float | None = key("value where a sigmoid or an interval ends", default=None)
    k: float | None = key("slope of a sigmoid", default=None, above=0)
    k_low: float | None = key("slope of double_sigmoid at low", default=None, above=0)
    k_high: float | None = key("slope of double_sigmoid at high", default=None, above=0)
    divisor: float | None = key("unit of the slopes of double_sigmoid", default=None, above=0)
    edge: float | None = key("of a step", default=None)
    side: str | None = key("of the edge, where a step is 1", default=None, choices=("below", "from"))
    margin: float | None = key("width over which an interval falls to 0; 0: none", default=None, low=0)

    def check(self, prefix: str) -> None:
        needed = TRANSFORMS[self.name]
        for name, value in vars(self).items():
            if name != "name" and (value is not None) != (name in needed):
                allowed = "given" if name in needed else "null"
                raise ConfigError(f"{prefix}{name}: must be {allowed} with name={self.name}, got {show(value)}")
        if self.low is not None and self.high is not None:
            check_range(f"{prefix}high", self.high, above=self.low, note=f" ({prefix}low)")

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the function of this name."""
        return {name: getattr(self, name) for name in TRANSFORMS[self.name]}


@dataclass
class ComponentConfig(Section):
    """One property of a molecule, by name or by import path package.module:name."""

    name: str = key("a built-in component (docs/oracles.md), or package.module:name")
    parameters: dict[str, Any] = key("keyword arguments of the component", factory=dict)
    transform: ComponentTransformConfig = key("from raw value to score", factory=ComponentTransformConfig)
    weight: float = key("in the aggregation", default=1.0, above=0)
    label: str = key("name in records; the component's name where empty", default="")

    def __post_init__(self) -> None:
        self.label = self.label or self.name


@dataclass
class OracleConfig(Section):
    """What is asked about a molecule: components, shaped to [0, 1] and aggregated."""

    components: list[ComponentConfig] = key("properties, each with name, parameters, transform, weight and label")
    aggregation: str = key(
        "of the components' scores", default="product", choices=("product", "geometric", "arithmetic")
    )
    seed: int = key(
        "of what is random in the oracle; apart from the run's, so that runs share results", default=0, low=0
    )
    workers: int | None = key("processes; null: one per core", default=None, low=1)
    time_limit_s: float = key("seconds for one molecule", default=60.0, above=0)
    max_failed_share: float = key(
        "of the last 200 molecules (at least 20): more failures stop the run", default=0.5, low=0, high=1
    )

    def check(self, prefix: str) -> None:
        if not self.components:
            raise ConfigError(f"{prefix}components: must be a list of at least one component, got []")
        labels = [component.label for component in self.components]
        for label in labels:
            if labels.count(label) > 1:
                raise ConfigError(f"{prefix}components: each needs its own label (label: NAME), got {label} twice")
