"""Compose components into an oracle: transform each value to [0, 1] and aggregate. Runs inside one worker."""

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
from chem.oracles.base import Component, Molecule, Result, Status, TimedOut, Value, murcko_scaffold, parse_molecule
from chem.oracles.external_program import ExternalProgram
from chem.oracles.properties import PROPERTIES
from conf.schema.base import ConfigError, load_object
from conf.schema.oracle import ComponentConfig, OracleConfig


def _make_docking(**parameters: Any) -> Component:
    from chem.oracles.docking import Docking  # loads vina and meeko

    return Docking(**parameters)


def _make_synthesis(**parameters: Any) -> Component:
    from chem.oracles.synthesis.component import Synthesis  # loads syntheseus

    return Synthesis(**parameters)


def _make_pmo(**parameters: Any) -> Component:
    from chem.oracles.pmo import Pmo  # loads RDKit's pharmacophores

    return Pmo(**parameters)


def _make_molexp(**parameters: Any) -> Component:
    from chem.oracles.molexp import MolExp  # loads RDKit's pharmacophores

    return MolExp(**parameters)


COMPONENTS: dict[str, Callable[..., Component]] = {
    **PROPERTIES,
    "docking": _make_docking,
    "external_program": ExternalProgram,
    "molexp": _make_molexp,
    "pmo": _make_pmo,
    "synthesis": _make_synthesis,
}
RENAMED = {"command": "external_program"}


class ShapedComponent:
    """A component with its transform and its weight.

    Raises:
        ConfigError: the component cannot be created, or needs a transform and has none.
    """

    def __init__(self, config: ComponentConfig) -> None:
        self.config = config
        self.label = config.label
        self.component = make_component(config)
        self.shape = shaping.SHAPES[config.transform.name](**config.transform.options())
        if config.transform.name == "identity" and getattr(self.component, "unit_range", None) is False:
            raise ConfigError(
                f"oracle.components: values of {self.label} are not within [0, 1]; give it a transform: "
                f"{', '.join(name for name in shaping.SHAPES if name != 'identity')}"
            )

    def identity(self) -> dict[str, Any]:
        """Everything that the component's score depends on, as JSON."""
        own: dict[str, Any] = getattr(self.component, "identity", dict)()
        return {
            "name": self.config.name,
            "parameters": self.config.parameters,
            "transform": {"name": self.config.transform.name, **self.config.transform.options()},
            "weight": self.config.weight,
            "code": code_version(type(self.component)),
            **({"depends_on": own} if own else {}),
        }

    def score(self, value: float) -> float:
        """Transform a raw value to a score.

        Raises:
            ValueError: the value is not finite, or the score is outside [0, 1].
        """
        if not math.isfinite(value):
            raise ValueError(f"the value must be finite, got {value}")
        score = self.shape(value)
        if not 0 <= score <= 1:
            raise ValueError(f"the score must be in [0, 1], got {score}: give the component a transform")
        return score


class Scorer:
    """The composed oracle inside one process."""

    def __init__(self, config: OracleConfig) -> None:
        self.config = config
        self.components = [ShapedComponent(component) for component in config.components]
        self.weights = [component.config.weight for component in self.components]
        self.aggregate = shaping.AGGREGATIONS[config.aggregation]
        self.stop_at_zero = config.aggregation != "arithmetic"

    def identity(self) -> dict[str, Any]:
        """Everything that a score depends on, as JSON."""
        return {
            "components": [component.identity() for component in self.components],
            "aggregation": self.config.aggregation,
            "seed": self.config.seed,
            "rdkit": rdkit.__version__,
        }

    def preflight(self) -> list[str]:
        """Run the preflight of each component that has one.

        Returns:
            Lines for the log.

        Raises:
            ConfigError: a component cannot work.
        """
        lines = []
        for component in self.components:
            try:
                line = getattr(component.component, "preflight", lambda: None)()
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"oracle.components: the preflight of {component.label} failed: {error_text(error)}"
                ) from error
            if line:
                lines.append(f"{component.label}: {line}")
        return lines

    def __call__(self, smiles: str) -> Result:
        """Score one molecule. An exception in a component becomes a result without a score."""
        start = time.monotonic()
        return replace(self._score(smiles), seconds=time.monotonic() - start)

    def _score(self, smiles: str) -> Result:
        mol = parse_molecule(smiles)
        if isinstance(mol, str):
            return Result(smiles, Status.invalid, 0.0, message=mol)
        molecule = Molecule(mol, self.config.seed)
        values: dict[str, float] = {}
        scores: dict[str, float] = {}
        details: dict[str, Any] = {}
        for component in self.components:
            label = component.label
            try:
                answer = component.component(molecule)
                value = answer if isinstance(answer, Value) else Value(float(answer))
                values[label], scores[label] = value.value, component.score(value.value)
            except TimedOut as error:
                return Result(smiles, Status.timed_out, None, values, scores, details, f"{label}: {error}")
            except Exception as error:
                message = f"{label}: {error_text(error)}"
                return Result(smiles, Status.failed, None, values, scores, details, message)
            if value.details is not None:
                details[label] = value.details
            if self.stop_at_zero and scores[label] == 0:
                break  # the product is 0 whatever the other scores are
        score = self.aggregate(list(scores.values()), self.weights[: len(scores)])
        return Result(smiles, Status.ok, score, values, scores, details, scaffold=murcko_scaffold(mol))


def make_component(config: ComponentConfig) -> Component:
    """Create a component by its name, or by an import path `package.module:name`, with its parameters.

    Raises:
        ConfigError: unknown name, or the component refuses its parameters.
    """
    if config.name in RENAMED:
        raise ConfigError(f"oracle.components: {config.name} was renamed to {RENAMED[config.name]}")
    if config.name not in COMPONENTS and ":" not in config.name:
        raise ConfigError(
            f"oracle.components: name must be one of {', '.join(COMPONENTS)}, or package.module:name for a component "
            f"of your own, got {config.name}"
        )
    try:
        factory: Any = COMPONENTS.get(config.name) or load_object("name", config.name)
        component: Component = factory(**config.parameters)
        return component
    except ConfigError as error:
        raise ConfigError(f"oracle.components: {config.label}: {error}") from error
    except (ImportError, AttributeError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"oracle.components: {config.label} cannot be created: {error_text(error)}") from error


def error_text(error: BaseException) -> str:
    """Type and message of an error, in one line."""
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def code_version(cls: type) -> str:
    """A component's own `version`, or the hash of the file that defines it, since other code may give other scores.

    A subclass does not inherit the version, because it may compute other values.
    """
    version = vars(cls).get("version")
    if version is not None:
        return str(version)
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):
        return sys.version
