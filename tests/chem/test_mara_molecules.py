"""MARA by molecule and by scaffold under REINVENT's loss: fixed points, with every group enumerated.

A network over a small vocabulary writes eight strings; two molecules have several SMILES, and two molecules share a
scaffold. The policy is a table of their probabilities. REINVENT's loss is at a fixed point if the expected residual,
log prior' + R' / beta - log policy, is the same for every string.
"""

import itertools
from functools import cache, partial
from typing import NamedTuple

import pytest
import torch
from scipy.optimize import root

from chem.molecules import canonical_form, scaffold_from_smiles
from chem.reference import PROMPT, molecule_labels
from chem.train import make_chem_objective
from conf.schema.base import ConfigError
from conf.schema.chem import ChemConfig
from core.classes import StepMasses, make_class_memory
from launch.cli.compose import compose, compose_typed

STRINGS = ["Cc1ccccc1", "c1ccccc1C", "CCc1ccccc1", "CCO", "OCC", "C(C)O", "Cc1ccncc1", "C("]
COUNTS = [30, 10, 5, 6, 4, 2, 3, 40]  # of 100 strings of the prior
REFERENCE = torch.tensor(COUNTS, dtype=torch.float64) / 100
GOOD = torch.tensor([True] * 7 + [False])  # the last is no molecule
SIZE, BETA = 2, 0.1


class Groups(NamedTuple):
    """All sequences of SIZE strings: their numbers [M, G], and how often each string is in them [M, A]."""

    members: torch.Tensor
    counts: torch.Tensor


@cache
def all_groups():
    members = torch.tensor(list(itertools.product(range(len(STRINGS)), repeat=SIZE)))
    return Groups(members, torch.nn.functional.one_hot(members, len(STRINGS)).sum(1).double())


def residuals(config: ChemConfig, logp):
    """[A] expected residual of a string, given that it was sampled, with the code of a training step."""
    members, counts = all_groups()
    objective, memory = make_chem_objective(config), make_class_memory(config.choices())
    masses = None
    if memory is not None:
        labels = molecule_labels(STRINGS, config)
        if memory.level == "answer":  # masses as after many steps: 100 strings of the prior
            repeated = [label for label, n, good in zip(labels, COUNTS, GOOD, strict=True) for _ in range(n) if good]
            memory.count_reference(PROMPT, repeated, [1.0] * len(repeated), 100)
            memory.mass = "reference"
        masses = StepMasses(memory, [PROMPT] * len(members), [[labels[i] for i in row] for row in members.tolist()])
    policy_logp = logp[members].unsqueeze(-1).requires_grad_()
    loss, _ = objective.loss(
        GOOD[members].double(),
        policy_logp,
        REFERENCE.log()[members].unsqueeze(-1),
        torch.ones(*members.shape, 1, dtype=torch.bool),
        beta=BETA,
        complete=GOOD[members],
        masses=masses,
    )
    (gradient,) = torch.autograd.grad(loss, policy_logp)
    residual = -gradient.squeeze(-1) * members.numel() / 2  # of a mean of squares
    per_string = torch.zeros_like(counts).scatter_add(-1, members, residual)
    log_prob = (counts @ logp).unsqueeze(-1) - logp  # of a group, given one of its members
    return (log_prob.exp() * per_string / SIZE).sum(0)


def fixed_point(*overrides):
    """[A] the policy at which REINVENT's expected gradient is zero."""
    threshold = ["transform=mara", "transform.threshold.value=1", f"objective.beta={BETA}"]
    config = compose_typed("chem", ["loss=reinvent", "batch_size=2", *threshold, *overrides])[0]

    def log_policy(logits):
        return torch.cat([torch.as_tensor(logits), torch.zeros(1).double()]).log_softmax(-1)

    def spread(logits):
        expected = residuals(config, log_policy(logits))
        return (expected - expected[-1])[:-1].numpy()

    even = torch.where(GOOD, 1.0, 1e-4).double().log()
    solution = root(spread, (even - even[-1])[:-1].numpy(), tol=1e-10)
    assert abs(solution.fun).max() < 1e-7, solution.message
    return log_policy(solution.x).exp()


def shares(policy, classes):
    """Probability of each class among the good strings."""
    totals: dict[str, float] = {}
    for name, probability in zip(classes[:7], policy[:7].tolist(), strict=True):
        totals[name] = totals.get(name, 0.0) + probability
    return [value / sum(totals.values()) for value in totals.values()]


MOLECULES = [canonical_form(smiles) for smiles in STRINGS]
SCAFFOLDS = [None if molecule is None else scaffold_from_smiles(molecule) for molecule in MOLECULES]
LEVELS = {"answer": MOLECULES, "scaffold": SCAFFOLDS}
ANSWER = "transform.level=answer"


@pytest.mark.parametrize("equivalence", ["answer", "scaffold"])
def test_molecules_and_scaffolds_are_uniform_with_the_remembered_anchor(equivalence):
    """Inside each class the policy keeps the prior's proportions. `anchor: auto` is the remembered one."""
    classes = LEVELS[equivalence]
    chosen = [ANSWER, f"transform.equivalence={equivalence}"]
    policy = fixed_point(*chosen)
    number = len(set(classes[:7]))
    assert number == {"answer": 4, "scaffold": 3}[equivalence]
    assert shares(policy, classes) == pytest.approx([1 / number] * number, abs=1e-6)
    ratio = policy[:7] / REFERENCE[:7]
    for name in set(classes[:7]):
        inside = torch.tensor([classes[row] == name for row in range(7)])
        assert float(ratio[inside].max() / ratio[inside].min()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(policy, fixed_point(*chosen, "transform.anchor=remembered"))

    group = fixed_point(*chosen, "transform.anchor=group")  # control: REINVENT has no baseline that cancels it
    assert max(abs(share - 1 / number) for share in shares(group, classes)) > 0.05


@pytest.mark.parametrize("equivalence", ["answer", "scaffold"])
def test_a_cross_fitted_anchor_leaves_the_prior_to_the_power_of_a_small_chance(equivalence):
    """That the other half, here one sample, is not good; the probability of it is that of the bad strings."""
    classes = LEVELS[equivalence]
    policy = fixed_point(ANSWER, f"transform.equivalence={equivalence}", "transform.anchor=cross_fitted")
    power = float(policy[-1])
    masses = [value**power for value in shares(REFERENCE, classes)]
    assert shares(policy, classes) == pytest.approx([mass / sum(masses) for mass in masses], abs=1e-5)
    assert max(abs(share - 1 / len(masses)) for share in shares(policy, classes)) < 1e-2


def test_by_sequence_a_molecule_has_as_many_shares_as_spellings():
    """Of the prior's vocabulary; with the remembered anchor, as its maximum over the good sequences."""
    policy = fixed_point()
    assert policy[:7].tolist() == pytest.approx([float(policy[0])] * 7, rel=1e-4)
    assert shares(policy, MOLECULES) == pytest.approx([2 / 7, 1 / 7, 3 / 7, 1 / 7], abs=1e-4)
    group = fixed_point("transform.anchor=group")  # control
    assert max(abs(float(p / policy[0]) - 1) for p in group[:7]) > 0.05


def row_gradients(config: ChemConfig, logp):
    """[M, G] gradient of the loss by the log-probability of each string of each group."""
    members, _ = all_groups()
    policy_logp = logp[members].unsqueeze(-1).requires_grad_()
    reference, mask = REFERENCE.log()[members].unsqueeze(-1), torch.ones(*members.shape, 1, dtype=torch.bool)
    loss, _ = make_chem_objective(config).loss(GOOD[members].double(), policy_logp, reference, mask, beta=BETA)
    return torch.autograd.grad(loss, policy_logp)[0].squeeze(-1)


def test_with_a_baseline_replayed_molecules_leave_the_optimum_where_it_is():
    """Every advantage of every group is 0 there, whoever wrote its strings; REINVENT's loss pulls at each of them."""
    baseline, reinvent = (
        compose_typed("chem", ["batch_size=2", f"objective.beta={BETA}", f"loss={loss}"])[0]
        for loss in ("policy_gradient", "reinvent")
    )
    optimum = (REFERENCE.log() + GOOD / BETA).log_softmax(-1)
    assert float(row_gradients(baseline, optimum).abs().max()) < 1e-9
    pulls = row_gradients(reinvent, optimum)
    log_normaliser = (REFERENCE.log() + GOOD / BETA).logsumexp(-1)
    torch.testing.assert_close(pulls, (-2 * log_normaliser / pulls.numel()).expand_as(pulls))
    elsewhere = REFERENCE.log()  # control: the prior is no optimum
    assert float(row_gradients(baseline, elsewhere).abs().max()) > 1e-3


def test_replayed_molecules_are_no_independent_half():
    options = ["transform=mara", "transform.threshold.value=0.5", "transform.anchor=cross_fitted", "loss=reinvent"]
    compose("chem", options)
    with pytest.raises(ConfigError, match=r"^transform\.anchor: must not be cross_fitted with replay"):
        compose("chem", [*options, "replay.size=5", "replay.sample=3"])


@pytest.mark.parametrize("name", ["mara_0.8_molecules", "mara_0.8_scaffolds"])
@pytest.mark.parametrize("task", ["synth_fast", "all_amide_fast", "synth", "all_amide"])
def test_the_experiments_have_the_classes_of_their_names(task, name):
    config: ChemConfig = compose_typed("chem", [f"experiment={task}/{name}"])[0]
    labels = partial(molecule_labels, config=config)
    same_molecule, same_scaffold = ["OCC", "CCO"], ["Cc1ccccc1", "CCc1ccccc1"]
    assert len(set(labels(same_molecule))) == 1
    assert len(set(labels(same_scaffold))) == (1 if name.endswith("scaffolds") else 2)
    assert config.choices().mara_anchor == "remembered"
    paper: ChemConfig = compose_typed("chem", [f"experiment={task}/mara_0.8"])[0]
    assert len(set(molecule_labels(same_molecule, paper))) == 2  # the paper's classes are sequences
