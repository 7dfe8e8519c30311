"""Components, shaped and aggregated: what a worker does with one molecule."""

import hashlib
import inspect
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import rdkit

from chem.oracles import shaping
from chem.oracles.base import Component, Molecule, Result, Status, TimedOut, Value, murcko_scaffold, parse
from chem.oracles.external_program import ExternalProgram
from chem.oracles.properties import PROPERTIES
from conf.schema.base import ConfigError, load_object
from conf.schema.oracle import ComponentConfig, OracleConfig


def docking(**parameters: Any) -> Component:
    from chem.oracles.docking import Docking  # loads vina and meeko

    return Docking(**parameters)


def external_program(**parameters: Any) -> Component:
    return ExternalProgram(**parameters)


def synthesis(**parameters: Any) -> Component:
    from chem.oracles.synthesis.component import Synthesis  # loads syntheseus

    return Synthesis(**parameters)


COMPONENTS: dict[str, Callable[..., Component]] = {
    **PROPERTIES,
    "docking": docking,
    "external_program": external_program,
    "synthesis": synthesis,
}
RENAMED = {"command": "external_program"}


class Part:
    """One component with its shape and its weight."""

    def __init__(self, config: ComponentConfig) -> None:
        self.config = config
        self.label = config.label
        self.component = make_component(config)
        self.shape = shaping.SHAPES[config.transform.name](**config.transform.options())
        if config.transform.name == "identity" and getattr(self.component, "unit_range", None) is False:
            raise ConfigError(
                f"oracle.components: {self.label} is not within [0, 1], so it must have a transform "
                f"({', '.join(name for name in shaping.SHAPES if name != 'identity')}), got identity"
            )

    def identity(self) -> dict[str, Any]:
        """Everything its score depends on."""
        own: dict[str, Any] = getattr(self.component, "identity", dict)()
        return {
            "name": self.config.name,
            "parameters": self.config.parameters,
            "transform": {"name": self.config.transform.name, **self.config.transform.options()},
            "weight": self.config.weight,
            "code": source_hash(type(self.component)),
            **({"depends_on": own} if own else {}),
        }


class Scorer:
    """The composed oracle within one process."""

    def __init__(self, config: OracleConfig) -> None:
        self.config = config
        self.parts = [Part(one) for one in config.components]
        self.weights = [part.config.weight for part in self.parts]
        self.aggregate = shaping.AGGREGATIONS[config.aggregation]
        self.zero_decides = config.aggregation != "arithmetic"

    def identity(self) -> dict[str, Any]:
        return {
            "components": [part.identity() for part in self.parts],
            "aggregation": self.config.aggregation,
            "seed": self.config.seed,
            "rdkit": rdkit.__version__,
        }

    def preflight(self) -> list[str]:
        """Ask each component that can try itself out to do so; returns their lines, raises where one cannot work."""
        lines = []
        for part in self.parts:
            try:
                line = getattr(part.component, "preflight", lambda: None)()
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(f"oracle.components: {part.label} cannot work: {describe(error)}") from error
            if line:
                lines.append(f"{part.label}: {line}")
        return lines

    def __call__(self, smiles: str) -> Result:
        """Score one molecule; whatever a component raises becomes a result."""
        start = time.monotonic()
        return replace(self._score(smiles), seconds=time.monotonic() - start)

    def _score(self, smiles: str) -> Result:
        mol = parse(smiles)
        if isinstance(mol, str):
            return Result(smiles, Status.invalid, 0.0, message=mol)
        molecule = Molecule(mol, self.config.seed)
        values: dict[str, float] = {}
        scores: dict[str, float] = {}
        details: dict[str, Any] = {}
        for part in self.parts:
            try:
                answer = part.component(molecule)
                value = answer if isinstance(answer, Value) else Value(float(answer))
                values[part.label], scores[part.label] = value.value, shaped(part, value.value)
            except TimedOut as error:
                return Result(smiles, Status.timed_out, None, values, scores, details, f"{part.label}: {error}")
            except Exception as error:
                message = f"{part.label}: {describe(error)}"
                return Result(smiles, Status.failed, None, values, scores, details, message)
            if value.details is not None:
                details[part.label] = value.details
            if self.zero_decides and scores[part.label] == 0:
                break  # the product is 0 whatever the others are
        score = self.aggregate(list(scores.values()), self.weights[: len(scores)])
        return Result(smiles, Status.ok, score, values, scores, details, scaffold=murcko_scaffold(mol))


def shaped(part: Part, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"the value must be finite, got {value}")
    score = part.shape(value)
    if not 0 <= score <= 1:
        raise ValueError(f"the score must be in [0, 1], got {score}: give the component a transform")
    return score


def make_component(config: ComponentConfig) -> Component:
    """By name, or by import path `package.module:name`, called with the parameters."""
    if config.name in RENAMED:
        raise ConfigError(f"oracle.components: {config.name} was renamed to {RENAMED[config.name]}")
    if config.name not in COMPONENTS and ":" not in config.name:
        raise ConfigError(
            f"oracle.components: name must be one of {', '.join(COMPONENTS)}, or package.module:name for one of your "
            f"own, got {config.name}"
        )
    try:
        factory: Any = COMPONENTS.get(config.name) or load_object(config.label, config.name)
        component: Component = factory(**config.parameters)
        return component
    except ConfigError as error:
        raise ConfigError(f"oracle.components: {config.label}: {error}") from error
    except (ImportError, AttributeError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"oracle.components: {config.label} cannot be made: {describe(error)}") from error


def describe(error: BaseException) -> str:
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def source_hash(made: type) -> str:
    """Of the file that defines a component: another code is another oracle."""
    try:
        return hashlib.sha256(Path(inspect.getfile(made)).read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):
        return sys.version
