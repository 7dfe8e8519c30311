"""Configurations and grids for tests."""

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from didactic.cells import make_cells
from didactic.outcomes import Outcome
from didactic.problems import make_problem
from launch.cli.validation import register


def compose_config(*overrides):
    register("didactic")
    with initialize_config_module("conf.didactic", version_base="1.3"):
        return compose("config", overrides=list(overrides))


def make_config(*overrides):
    return OmegaConf.to_object(compose_config(*overrides))


def make_grid(*overrides):
    """A configuration and its cells."""
    config = make_config(*overrides)
    return config, make_cells(config, make_problem(config.problem))


def trained_perfectly(cells):
    """Outcomes whose policies are the exact targets of their cells, or the reference where there is none."""
    outcomes = []
    for cell in cells:
        beta = cell.config.objective.beta
        target = cell.target(beta)
        logp = cell.problem.ref_logp if target is None else target.clamp_min(torch.finfo(torch.float64).tiny).log()
        outcomes.append(Outcome(cell, logp, beta))
    return outcomes
