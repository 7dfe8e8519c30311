"""Oracles: what is asked about a molecule, and the processes that answer."""

from chem.oracles.base import Component, Molecule, Result, Status, TimedOut, Value
from chem.oracles.pool import Oracle, OracleError

__all__ = ["Component", "Molecule", "Oracle", "OracleError", "Result", "Status", "TimedOut", "Value"]
