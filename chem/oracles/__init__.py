"""Oracles: components that score a molecule, and the worker processes that run them."""

from chem.oracles.base import Component, Molecule, Result, Status, TimedOut, Value
from chem.oracles.pool import Oracle, OracleError

__all__ = ["Component", "Molecule", "Oracle", "OracleError", "Result", "Status", "TimedOut", "Value"]
