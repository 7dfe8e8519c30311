"""Compose components into an oracle: transform each value to [0, 1] and aggregate. Runs inside one worker."""

import hashlib
import inspect
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rdkit

from chem.molecules import murcko_scaffold
from chem.oracles import shaping
from chem.oracles.base import (
    Component,
    Molecule,
    Result,
    Status,
    TimedOut,
    parse_molecule,
    plain_json,
    plain_value,
)
from chem.oracles.batch_program import BatchProgram
from chem.oracles.external_program import ExternalProgram
from chem.oracles.properties import PROPERTIES
from conf.schema.base import ConfigError, load_object
from conf.schema.extras import missing_package
from conf.schema.oracle import ComponentConfig, OracleConfig

COMPONENTS: dict[str, Callable[..., Component] | str] = {  # a path is imported where the component is used
    **PROPERTIES,
    "docking": "chem.oracles.docking:Docking",
    "descriptor": "chem.oracles.descriptors:Descriptor",
    "shape": "chem.oracles.shape:Shape",
    "qsar": "chem.oracles.qsar:Qsar",
    "chemprop": "chem.oracles.chemprop_model:ChempropModel",
    "external_program": ExternalProgram,
    "batch_program": BatchProgram,
    "molexp": "chem.oracles.molexp:MolExp",
    "pmo": "chem.oracles.pmo:Pmo",
    "synthesis": "chem.oracles.synthesis.component:Synthesis",
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
        """Everything that the component's score depends on, as JSON.

        Raises:
            ConfigError: the component's own identity is not JSON.
        """
        try:
            own = plain_json("identity()", getattr(self.component, "identity", dict)())
        except Exception as error:
            raise ConfigError(f"oracle.components: the identity of {self.label}: {error_text(error)}") from error
        return {
            "name": self.config.name,
            "parameters": self.config.parameters,
            "transform": {"name": self.config.transform.name, **self.config.transform.options()},
            "weight": self.config.weight,
            "code": code_version(type(self.component)),
            **({"depends_on": own} if own else {}),
            **({"penalty": True} if self.config.penalty else {}),
        }

    def answers(self, molecules: Sequence[Molecule]) -> list[Any]:
        """The component's answer about each molecule: a number, a `Value`, or the exception that was raised."""
        if not hasattr(self.component, "score_batch"):
            return [_answer(self.component, molecule) for molecule in molecules]
        return _batch_answers(self.component.score_batch, molecules) if molecules else []

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


def _answer(component: Component, molecule: Molecule) -> Any:
    try:
        return component(molecule)
    except Exception as error:
        return error


def _batch_answers(
    score_batch: Callable[[Sequence[Molecule]], Sequence[Any]], molecules: Sequence[Molecule]
) -> list[Any]:
    """The answers about a batch. If it fails, its halves are scored, so that a molecule at fault fails alone."""
    try:
        answers = list(score_batch(molecules))
        if len(answers) != len(molecules):
            raise ValueError(f"score_batch returned {len(answers)} values for {len(molecules)} molecules")
        return answers
    except Exception as error:
        if len(molecules) == 1:
            return [error]
        middle = len(molecules) // 2
        return [*_batch_answers(score_batch, molecules[:middle]), *_batch_answers(score_batch, molecules[middle:])]


@dataclass
class Evaluation:
    """What is known about a molecule while its components are asked; the fields are those of `Result`.

    Attributes:
        molecule: None if the SMILES is not a molecule.
        finished: whether no further component is asked.
    """

    smiles: str
    molecule: Molecule | None
    status: Status = Status.ok
    message: str = ""
    values: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    def add(self, component: ShapedComponent, answer: Any) -> None:
        """Add a component's answer: a number, a `Value`, or the exception that it raised."""
        label = component.label
        try:
            if isinstance(answer, Exception):
                raise answer
            value = plain_value(answer)
            self.values[label], self.scores[label] = value.value, component.score(value.value)
        except TimedOut as error:
            self._fail(Status.timed_out, f"{label}: {error}")
        except Exception as error:
            self._fail(Status.failed, f"{label}: {error_text(error)}")
        else:
            if value.details is not None:
                self.details[label] = value.details

    def _fail(self, status: Status, message: str) -> None:
        self.status, self.message, self.finished = status, message, True

    def result(self, score: float | None, seconds: float) -> Result:
        """The result, with the scaffold of a molecule that has a score."""
        scaffold = murcko_scaffold(self.molecule.mol) if self.molecule is not None and score is not None else None
        known = self.values, self.scores, self.details
        return Result(self.smiles, self.status, score, *known, self.message, scaffold, seconds)


class Scorer:
    """The composed oracle inside one process.

    Attributes:
        batched: whether a component scores several molecules at once.
    """

    def __init__(self, config: OracleConfig) -> None:
        self.config = config
        self.components = [ShapedComponent(component) for component in config.components]
        self.batched = any(hasattr(component.component, "score_batch") for component in self.components)
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
                text = "" if line is None else " ".join(str(line).split())
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"oracle.components: the preflight of {component.label} failed: {error_text(error)}"
                ) from error
            if text:
                lines.append(f"{component.label}: {text}")
        return lines

    def __call__(self, smiles: str) -> Result:
        """Score one molecule. An exception in a component becomes a result without a score."""
        return self.score_batch([smiles])[0]

    def score_batch(self, smiles: Sequence[str]) -> list[Result]:
        """Score molecules, component by component. The time is shared equally among them."""
        start = time.monotonic()
        evaluations = [self._begin(string) for string in smiles]
        for component in self.components:
            asked = [evaluation for evaluation in evaluations if not evaluation.finished]
            molecules = [evaluation.molecule for evaluation in asked if evaluation.molecule is not None]
            for evaluation, answer in zip(asked, component.answers(molecules), strict=True):
                evaluation.add(component, answer)
                if evaluation.scores.get(component.label) == 0 and (self.stop_at_zero or component.config.penalty):
                    evaluation.finished = True  # the score is 0 whatever the other components say
        scores = [self._score(evaluation) for evaluation in evaluations]
        seconds = (time.monotonic() - start) / len(smiles)
        return [evaluation.result(score, seconds) for evaluation, score in zip(evaluations, scores, strict=True)]

    def _begin(self, smiles: str) -> Evaluation:
        mol = parse_molecule(smiles)
        if isinstance(mol, str):
            return Evaluation(smiles, None, Status.invalid, mol, finished=True)
        return Evaluation(smiles, Molecule(mol, self.config.seed))

    def _score(self, evaluation: Evaluation) -> float | None:
        """The aggregated scores times the penalties; 0 for an invalid molecule, None after a failure."""
        if evaluation.status in (Status.failed, Status.timed_out):
            return None
        if evaluation.finished:  # invalid, or a score of 0
            return 0.0
        scores: dict[bool, list[float]] = {True: [], False: []}  # of the penalties and of the others
        weights: dict[bool, list[float]] = {True: [], False: []}
        for component in self.components:
            scores[component.config.penalty].append(evaluation.scores[component.label])
            weights[component.config.penalty].append(component.config.weight)
        return self.aggregate(scores[False], weights[False]) * shaping.product(scores[True], weights[True])


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
        factory: Any = COMPONENTS.get(config.name, config.name)
        if isinstance(factory, str):
            factory = load_object("name", factory)
        component: Component = factory(**config.parameters)
        return component
    except ConfigError as error:
        raise ConfigError(f"oracle.components: {config.label}: {missing_package(error) or error}") from error
    except (ImportError, AttributeError, TypeError, ValueError, OSError) as error:
        reason = missing_package(error) or error_text(error)
        raise ConfigError(f"oracle.components: {config.label} cannot be created: {reason}") from error


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
