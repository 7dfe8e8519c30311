"""The grid of cells: which combinations it has, and which keys need samples."""

from dataclasses import replace

import pytest

from conf.schema.base import ConfigError, check_config
from conf.schema.didactic import SAMPLED_ONLY, CellConfig, ProblemConfig

from .legality import assert_rejected, make_config, rejection

TABLE = "problem.name=table problem.ref=[.5,.5] problem.reward=[0,1]"
SAMPLED = "gradient=sampled"
CASES = [  # rejected overrides, the key that the message names, legal overrides
    ("objective.beta=[]", "objective.beta", "objective.beta=[.1]"),
    ("objective.beta=[.1,.1]", "objective.beta", "objective.beta=[.1,.2]"),
    ("objective.beta=[.1,x]", "objective.beta", "objective.beta=1"),
    ("objective.beta=true", "objective.beta", "objective.beta=1"),
    ("objective.beta=[.1,-1]", "objective.beta", "objective.beta=[.1,1]"),
    ("objective.direction=[reverse,sideways]", "objective.direction", "objective.direction=[reverse,forward]"),
    ("family=[gaussian,gaussian]", "family", "family=[gaussian,categorical]"),
    ("family=mixture", "family", "family=gaussian"),
    ("start=nowhere", "start", "start=reference"),
    ("objective.level=token", "objective.level", ""),
    ("objective.gamma=.9", "objective.gamma", ""),
    ("objective.length_normalised=true", "objective.length_normalised", ""),
    ("transform=unlikely", "transform", f"transform=unlikely {SAMPLED}"),
    ("advantage=centred", "advantage", f"advantage=centred {SAMPLED}"),
    ("objective.placement=loss", "objective.placement", f"objective.placement=loss {SAMPLED}"),
    ("objective.placement=reference", "objective.placement", ""),
    ("engine.name=zero3_offload", "engine", "engine=zero1"),
    ("objective.kl_samples=8", "objective.kl_samples", "objective.kl_samples=null"),
    (
        "objective.direction=forward objective.max_log_weight=2",
        "objective.max_log_weight",
        f"objective.direction=forward objective.max_log_weight=2 {SAMPLED}",
    ),
    (
        "objective.skip_tied_groups=true",
        "objective.skip_tied_groups",
        f"objective.skip_tied_groups=true {SAMPLED}",
    ),
    ("samples=1", "samples", f"samples=1 advantage=no_baseline {SAMPLED}"),
    ("log_every=0", "log_every", "log_every=1"),
    ("gradient=numeric", "gradient", SAMPLED),
    ("objective.beta=[.1,.2] optimizer.max_grad_norm=1", "optimizer.max_grad_norm", "optimizer.max_grad_norm=1"),
    ("problem.ref=[.5,.5]", "problem.name", TABLE),
    ("problem.name=table", "problem.reward", TABLE),
    (f"{TABLE} problem.reward=[1]", "problem.reward", TABLE),
    (f"{TABLE} problem.ref=[.5,.4]", "problem.ref", TABLE),
    (f"{TABLE} problem.ref=[1.5,-.5]", "problem.ref", TABLE),
    (f"{TABLE} problem.ref=[1,0]", "problem.ref", f"{TABLE} problem.ref=[1,0] objective.direction=forward"),
]


@pytest.mark.parametrize(("rejected", "key", "legal"), CASES)
def test_a_rule_rejects_and_its_neighbour_is_legal(rejected, key, legal):
    assert_rejected("didactic", rejected, key, legal)


def test_messages_in_full():
    for overrides, message in {
        "objective.gamma=.9": "objective.gamma: must be 1 in this package, where a completion is one token, got 0.9",
        "advantage=centred": "advantage: is only used with gradient=sampled; set it to leave_one_out, got centred",
        "transform=ucpo": "transform: must be identity or mara with gradient=exact, because the others need samples; "
        "use gradient=sampled, got ucpo",
        "objective.beta=[.1,.2] optimizer.max_grad_norm=1": "optimizer.max_grad_norm: must be null with several "
        "cells, whose gradients share one norm, got 1.0",
    }.items():
        assert rejection("didactic", overrides) == message


def test_cells_are_all_combinations_in_order():
    overrides = "objective.beta=[.1,1] objective.direction=[reverse,forward] transform=both start=[uniform,reference]"
    config = make_config("didactic", overrides)
    cells = config.cells()
    assert all(isinstance(cell, CellConfig) for cell in cells)
    described = [(cell.objective.direction, cell.transform.name, cell.objective.beta, cell.start) for cell in cells]
    expected = [
        (direction, transform, beta, start)
        for direction in ("reverse", "forward")
        for transform in ("identity", "mara")
        for beta in (0.1, 1.0)
        for start in ("uniform", "reference")
    ]
    assert described == expected
    assert len(set(described)) == 16


def test_a_cell_shares_the_other_keys_of_the_grid():
    config = make_config("didactic", "beta_schedule=both beta_schedule.kl_target=.7 seed=5")
    constant, adaptive = config.cells()
    assert (constant.beta_schedule.name, adaptive.beta_schedule.name) == ("constant", "adaptive")
    assert adaptive.beta_schedule.kl_target == 0.7
    assert constant.seed == adaptive.seed == 5
    assert constant.transform == adaptive.transform == config.transform
    changed = replace(constant, beta_schedule=adaptive.beta_schedule)
    assert changed == adaptive  # they differ in nothing else


def test_an_algorithm_reaches_the_mara_cells_only():
    config = make_config("didactic", "transform=both transform.algorithm=2")
    identity, mara = config.cells()
    assert mara.transform.algorithm == "2"
    assert not hasattr(identity.transform, "algorithm")
    assert identity.transform.threshold == mara.transform.threshold


def test_sampling_keys_have_their_default_in_the_configuration():
    config = make_config("didactic")
    for name, value in SAMPLED_ONLY.items():
        section, _, last = name.rpartition(".")
        assert getattr(getattr(config, section) if section else config, last) == value


@pytest.mark.parametrize("ref", [[0.5, 0.5 + 1e-7], [1.0, 0.0]])
def test_probabilities_may_miss_one_by_rounding_and_be_zero(ref):
    check_config(ProblemConfig("table", ref, [0.0, 1.0]), "problem.")
    with pytest.raises(
        ConfigError, match=r"^problem\.ref: must be probabilities that sum to 1, got \[0\.5, 0\.51\]$"
    ):
        check_config(ProblemConfig("table", [0.5, 0.51], [0.0, 1.0]), "problem.")
