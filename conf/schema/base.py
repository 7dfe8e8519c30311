"""How a configuration is described and checked. Standard library only.

A configuration is a tree of dataclasses. `key` gives a field its meaning, range and choices, which `check_config`
checks and `--help` prints. Conditions on several keys are checked by the `check` method of the class that holds them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from core.extension import import_object

MISSING: Any = "???"  # OmegaConf's mark for a value that must be given
MAX_INT = 2**31 - 1  # largest whole number of a key that has no smaller bound
MAX_FLOAT = 1e18  # largest float; products of two, and their sums, are far below the largest float32, 3.4e38

T = TypeVar("T", bound=type)


class ConfigError(ValueError):
    """A configuration that cannot be used. The message is one line: the key, what is wrong and what to do."""


@dataclass(frozen=True)
class Key:
    """The description of a key, besides its type.

    Attributes:
        help: one phrase, printed by `--help`.
        low: smallest value of a number, or of each number in a list.
        above: such values must be larger than this.
        high: largest value. Without any bound above, whole numbers end at MAX_INT; inf: they do not.
        below: such values must be smaller than this.
        choices: allowed values of a text, or of each text in a list.
        import_path: whether package.module:name is allowed besides `choices`.
        entries: for a dictionary without a static type, the section that describes its entries.
    """

    help: str
    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    import_path: bool = False
    entries: type | None = None

    def allowed(self) -> str:
        """Return the range or the choices as text; empty if only the type matters."""
        if self.choices:
            return ", ".join([*self.choices, *(["package.module:name"] if self.import_path else [])])
        return " and ".join(self._bounds())

    def _bounds(self) -> list[str]:
        bounds = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        return [f"{sign} {bound:g}" for sign, bound in bounds if bound not in (None, math.inf)]

    def check(self, name: str, value: Any, note: str = "") -> None:
        """Raise ConfigError unless `value` is finite, within the bounds, and one of the choices."""
        if isinstance(value, list):
            for item in value:
                self.check(name, item, note)
        elif isinstance(value, str) and self.choices:
            if value not in self.choices and not (self.import_path and ":" in value):
                raise ConfigError(f"{name}: must be one of {self.allowed()}{note}, got {yaml_text(value)}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            self._check_number(name, value, note)

    def _check_number(self, name: str, value: float, note: str) -> None:
        if self.high is None and self.below is None and isinstance(value, int) and value > MAX_INT:
            raise ConfigError(f"{name}: must be <= {MAX_INT}{note}, got {value}")
        if isinstance(value, float) and MAX_FLOAT < abs(value) < math.inf:
            raise ConfigError(
                f"{name}: must be within +-1e18{note}, since larger values overflow in float32, got {value}"
            )
        inside = (
            (isinstance(value, int) or math.isfinite(value))  # isfinite overflows for an int of 309 digits
            and (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
            and (self.below is None or value < self.below)
        )
        if not inside:
            bounds = ["finite", *self._bounds()] if isinstance(value, float) else self._bounds()
            raise ConfigError(f"{name}: must be {' and '.join(bounds)}{note}, got {value}")


def key(
    help: str,
    *,
    default: Any = MISSING,
    factory: Callable[[], Any] | None = None,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    import_path: bool = False,
    entries: type | None = None,
) -> Any:
    """Declare a field of a configuration. The arguments are those of `Key`, and a default or a default factory.

    A default is only for classes that code also makes instances of; other defaults are in YAML files.
    """
    metadata = {"key": Key(help, low, above, high, below, tuple(choices), import_path, entries)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def key_of(config_field: Field[Any]) -> Key:
    """Return the description of a field; an empty one if the field was not declared with `key`."""
    return config_field.metadata.get("key", Key(""))


class Section:
    """Base of the dataclasses that make up a configuration."""

    def check(self, prefix: str) -> None:
        """Raise ConfigError if values of this section cannot be combined.

        Args:
            prefix: of the keys in messages, such as "" or "objective.".
        """


def check_config(config: Section, prefix: str = "") -> None:
    """Check every key of a configuration, then the combinations in each section, innermost sections first."""
    for config_field in fields(config):  # type: ignore[arg-type]
        name, value = f"{prefix}{config_field.name}", getattr(config, config_field.name)
        key_of(config_field).check(name, value)
        for section in value if isinstance(value, list) else [value]:
            if isinstance(section, Section):
                check_config(section, f"{name}.")
    config.check(prefix)


def check_range(name: str, value: float, *, note: str = "", **bounds: float | None) -> None:
    """Raise ConfigError unless `value` is finite and within bounds (those of `Key`) that depend on other keys."""
    Key("", **bounds).check(name, value, note)  # type: ignore[arg-type]


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ConfigError unless `value` is one of the choices."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(f"{name}: must be one of {', '.join(choices)}, got {value}")


def load_object(name: str, path: str) -> Any:
    """Return the object at package.module:name, the value of the key `name`. Raises ConfigError."""
    try:
        return import_object(path)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def yaml_text(value: object) -> str:
    """Return a value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "''" if value == "" else str(value)


# --- options of groups ---------------------------------------------------------------------------------------

OPTIONS: dict[str, type] = {}  # "transform/mara" -> the dataclass that types the option


def option(group: str, *names: str) -> Callable[[T], T]:
    """Register a dataclass as the type of `group=name`, whose file then includes /schema/GROUP/NAME@_here_."""

    def register(section: T) -> T:
        for name in names:
            OPTIONS[f"{group}/{name}"] = section
        return section

    return register
