"""What the KL settings of TRL, verl and OpenRLHF are.

verl and OpenRLHF are tested where they are on the path:

    python -m pytest -o "pythonpath=. trainers" tests/benchmarks/test_kl_conformance.py
"""

import re
import sys
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.kl_conformance import problem
from benchmarks.kl_conformance.__main__ import main, verdict_table
from benchmarks.kl_conformance.measure import NONE, OLD, POLICY, REFERENCE, SEQUENCES, compare, in_words, measure
from benchmarks.kl_conformance.minimal_examples import minimal_examples
from benchmarks.kl_conformance.problem import (
    AT_OLD,
    DIFFERENCE,
    LADDER_BETA,
    VARIATION,
    ZERO,
    Batch,
    exact_gradients,
    expected_gradient,
    settle,
    targets,
)
from benchmarks.kl_conformance.settings import Setting, all_settings, versions
from benchmarks.kl_conformance.stand_ins import Missing, load
from core.divergences import forward_kl_loss, forward_kl_reward, reverse_kl_loss, reverse_kl_reward
from tests.commands import run_module
from tests.core.enumeration import all_sequences, divergence, token_level_divergence

pytest.importorskip("trl")
EXAMPLES = minimal_examples()
PAGE = Path(__file__).parents[2] / "docs" / "kl.md"
REVERSE, FORWARD, WHOLE = "reverse per token", "forward per token", "reverse per sequence"


@cache
def installed():
    settings, _ = all_settings({})
    return settings


@cache
def measured(package):
    return [measure(setting, optimum=False) for setting in installed()[package]]


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not on the path")


PACKAGES = ["trl", *(pytest.param(name, marks=needs(name)) for name in ("verl", "openrlhf"))]


def find(package, *parts):
    """The measurement of the one setting whose name has these parts; one that ends with $ is at its end."""
    found = [row for row in measured(package) if all(part in row.setting.name + "$" for part in parts)]
    assert len(found) == 1, [row.setting.name for row in found]
    return found[0]


# --- the enumerated problem -------------------------------------------------------------------------------


def test_exact_gradients_are_those_of_a_second_way():
    sequences, logits = all_sequences(), POLICY.clone().requires_grad_()
    assert torch.equal(sequences.tokens, SEQUENCES.tokens)
    whole, ref_whole = (sequences.seq_logp(x).exp() for x in (logits, REFERENCE))
    exact = exact_gradients(SEQUENCES, POLICY, REFERENCE, OLD)
    for direction in ("reverse", "forward"):
        values = {
            f"{direction} per token": token_level_divergence(sequences, logits, REFERENCE, direction),
            f"{direction} per sequence": divergence(whole, ref_whole, direction),
        }
        for name, value in values.items():
            expected = torch.autograd.grad(value, logits, retain_graph=True)[0]
            torch.testing.assert_close(exact[name], expected, atol=1e-14, rtol=1e-12)
        assert not torch.allclose(exact[f"{direction} per token"], exact[f"{direction} per token{AT_OLD}"])


def k1_loss(batch):
    return ((batch.policy_logp - batch.ref_logp) * batch.mask).sum(-1).mean()


def placed(batch, term, level, place):
    """The loss of a divergence of core in a batch."""
    policy, ref, mask = batch.policy_logp, batch.ref_logp, batch.mask
    values = term(policy, ref, mask=mask).sum(-1) if level == "token" else term(policy.sum(-1), ref.sum(-1))
    return (batch.beta * values * (policy.sum(-1) if place == "reward" else 1)).mean()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (k1_loss, ZERO),
        (partial(placed, term=reverse_kl_loss, level="token", place="loss"), REVERSE),
        (partial(placed, term=forward_kl_loss, level="token", place="loss"), FORWARD),
        (partial(placed, term=reverse_kl_loss, level="sequence", place="loss"), WHOLE),
        (partial(placed, term=reverse_kl_reward, level="sequence", place="reward"), WHOLE),
        (partial(placed, term=forward_kl_reward, level="sequence", place="reward"), "forward per sequence"),
        (partial(placed, term=reverse_kl_reward, level="token", place="reward"), WHOLE),
        (lambda batch: placed(batch, forward_kl_loss, "sequence", "loss") * 1.001, NONE),  # the tolerance is small
    ],
)
def test_known_estimators_are_named(loss, expected):
    gradient = expected_gradient(SEQUENCES, loss, POLICY, REFERENCE)
    assert compare(gradient, exact_gradients(SEQUENCES, POLICY, REFERENCE)).equals == expected


def test_a_loss_leads_to_the_target_of_its_divergence():
    def loss(batch, term):
        policy = batch.policy_logp.sum(-1)
        return (-batch.advantage * policy + batch.beta * term(policy, batch.ref_logp.sum(-1))).mean()

    for direction, term in (("reverse", reverse_kl_loss), ("forward", forward_kl_loss)):
        optimum = settle(partial(loss, term=term))
        torch.testing.assert_close(optimum.probability, targets()[direction], atol=1e-9, rtol=0)
        assert optimum.moved < 1e-9
        assert (optimum.to_reverse < 1e-9) == (direction == "reverse")  # control: the targets are apart


def test_variants_with_different_gradients_are_refused():
    losses = {"a": k1_loss, "b": partial(placed, term=reverse_kl_loss, level="token", place="loss")}
    with pytest.raises(ValueError, match="made up: b has another gradient than a"):
        measure(Setting("made up", "", "", losses), optimum=False)


# --- the formulas, a second time ---------------------------------------------------------------------------


def formula(batch: Batch, value, *, weight=None, place="loss", per_length=False):
    """The KL term of a trainer written anew, completion by completion."""
    total = torch.zeros((), dtype=batch.old_logp.dtype)
    for policy, old, ref, mask in zip(batch.policy_logp, batch.old_logp, batch.ref_logp, batch.mask, strict=True):
        policy, old, ref = policy[mask], old[mask], ref[mask]
        if place == "reward":  # an importance-weighted policy gradient of the reward to go
            reward_to_go = value(old, ref).flip(0).cumsum(0).flip(0)
            term = (policy - old).exp() * reward_to_go
        else:
            term = value(policy, ref) * (weight(policy, old) if weight else 1)
        total = total + (term.mean() if per_length else term.sum())
    return total / len(batch.tokens)


def k1(policy, ref):
    return policy - ref


def k2(policy, ref):
    return (policy - ref) ** 2 / 2


def k3(policy, ref):
    return ref.exp() / policy.exp() - 1 + policy - ref


def absolute(policy, ref):
    return (policy - ref).abs()


def token_ratio(policy, old):
    return policy.exp() / old.exp()


def geometric_ratio(policy, old):
    return (policy.sum() / len(policy) - old.sum() / len(old)).exp()


def detached_ratio(policy, old):
    return token_ratio(policy, old).detach()


SUM_MODE, LENGTH_MODE = "every `loss_agg_mode`", "seq-mean-token-mean"
FORMULAS = [
    ("trl", ["correction_kl=False", "luspo"], {"value": k3}),
    ("trl", ["correction_kl=False", "sapo"], {"value": k3, "per_length": True}),
    ("trl", ["level=token", "luspo"], {"value": k3, "weight": token_ratio}),
    ("trl", ["level=token", "sapo"], {"value": k3, "weight": token_ratio, "per_length": True}),
    ("trl", ["level=sequence", "luspo"], {"value": k3, "weight": geometric_ratio}),
    ("trl", ["level=sequence", "sapo"], {"value": k3, "weight": geometric_ratio, "per_length": True}),
    ("trl", ["GMPO"], {"value": k3, "per_length": True}),
    ("verl", ["loss_type` kl, k1;", SUM_MODE], {"value": k1}),
    ("verl", ["loss_type` kl, k1;", f"loss_agg_mode` {LENGTH_MODE}"], {"value": k1, "per_length": True}),
    ("verl", ["loss_type` abs", SUM_MODE], {"value": absolute}),
    ("verl", ["loss_type` mse", SUM_MODE], {"value": k2}),
    ("verl", ["loss_type` low_var_kl", SUM_MODE], {"value": k3}),
    ("verl", ["loss_type` kl+", SUM_MODE], {"value": k2}),
    ("verl", ["kl_penalty` abs", "remax"], {"value": absolute, "place": "reward"}),
    ("verl", ["kl_penalty` mse", "remax"], {"value": k2, "place": "reward"}),
    ("verl", ["kl_penalty` low_var_kl", "remax"], {"value": k3, "place": "reward"}),
    ("openrlhf", ["use_loss", "estimator` k1$"], {"value": k1}),
    ("openrlhf", ["use_loss", "estimator` k2$"], {"value": k2}),
    ("openrlhf", ["use_loss", "estimator` k3$"], {"value": k3}),
    ("openrlhf", ["unbiased_gradient"], {"value": k2, "weight": detached_ratio}),
    ("openrlhf", ["estimator` k1; "], {"value": k1, "place": "reward"}),
    ("openrlhf", ["estimator` k2; "], {"value": k2, "place": "reward"}),
    ("openrlhf", ["estimator` k3; "], {"value": k3, "place": "reward"}),
]


@pytest.mark.parametrize(
    ("package", "parts", "options"),
    [pytest.param(*case, marks=needs(case[0]), id=f"{case[0]} {' '.join(case[1])}") for case in FORMULAS],
)
def test_a_setting_has_the_gradient_of_its_formula(package, parts, options):
    row = find(package, *parts)
    for old, side in ((None, row.on_policy), (OLD, row.off_policy)):
        expected = expected_gradient(SEQUENCES, partial(formula, **options), POLICY, REFERENCE, old=old)
        torch.testing.assert_close(side.gradient, expected, atol=1e-9, rtol=1e-7)  # verl adds 1e-8 to lengths


# --- what the settings are ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "on", "off"),
    [
        (["correction_kl=False", "luspo"], FORWARD, NONE),
        (["correction_kl=False", "sapo"], NONE, NONE),
        (["level=token", "luspo"], REVERSE, REVERSE + AT_OLD),
        (["level=token", "sapo"], NONE, NONE),
        (["level=sequence", "luspo"], NONE, NONE),
        (["RLOO"], WHOLE, NONE),
        (["GMPO"], NONE, NONE),
        (["A2PO"], WHOLE, NONE),
    ],
)
def test_settings_of_trl(parts, on, off):
    row = find("trl", *parts)
    assert (row.on_policy.equals, row.off_policy.equals) == (on, off)


@needs("verl")
@pytest.mark.parametrize(
    ("parts", "on"),
    [
        (["loss_type` kl, k1;", SUM_MODE], ZERO),
        (["loss_type` abs", SUM_MODE], VARIATION),
        (["loss_type` mse", SUM_MODE], REVERSE),
        (["loss_type` low_var_kl", SUM_MODE], FORWARD),
        (["loss_type` kl+", SUM_MODE], REVERSE),
        (["kl_penalty` kl", "remax"], WHOLE),
        (["kl_penalty` abs", "rloo"], NONE),
        (["kl_penalty` mse", "rloo"], NONE),
        (["kl_penalty` low_var_kl", "rloo"], DIFFERENCE),
    ],
)
def test_settings_of_verl(parts, on):
    row = find("verl", *parts)
    assert (row.on_policy.equals, row.off_policy.equals) == (on, NONE)


@needs("openrlhf")
@pytest.mark.parametrize(
    ("part", "on", "off"),
    [
        ("estimator` k1$", ZERO, NONE),
        ("estimator` k2$", REVERSE, NONE),
        ("estimator` k3$", FORWARD, NONE),
        ("unbiased_gradient", REVERSE, REVERSE + AT_OLD),
    ],
)
def test_losses_of_openrlhf(part, on, off):
    row = find("openrlhf", "use_loss", part)
    assert (row.on_policy.equals, row.off_policy.equals) == (on, off)


@pytest.mark.parametrize("package", PACKAGES)
def test_at_least_what_is_documented_is_measured(package):
    assert len(measured(package)) >= {"trl": 12, "verl": 20, "openrlhf": 7}[package]


def test_a_larger_batch_of_bnpo_is_nearer_to_the_sum_over_tokens():
    from benchmarks.kl_conformance.trl_trainers import grpo_loss

    loss = partial(grpo_loss, loss_type="bnpo", use_bias_correction_kl=True, importance_sampling_level="token")
    ref = problem.ladder_logits(problem.LADDER_REFERENCE)
    policy = ref + problem.random_logits(problem.LADDER, 0, 0.5)
    exact = exact_gradients(problem.LADDER, policy, ref)[REVERSE]
    distances = []
    for group in (1, 2, 4, 8):
        gradient = expected_gradient(problem.LADDER, loss, policy, ref, group=group, coupled=True)
        distances.append(float((gradient - exact).norm() / exact.norm()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 4


def test_only_the_kl_in_the_reward_of_rloo_leads_to_the_target():
    rows = {name: find("trl", name).setting for name in ("RLOO", "A2PO", "GMPO")}
    optima = {name: settle(next(iter(row.losses.values())), group=row.group) for name, row in rows.items()}
    assert optima["RLOO"].to_reverse < 1e-9
    assert optima["A2PO"].to_reverse < 1e-9
    assert optima["GMPO"].to_reverse > 0.01


@needs("verl")
def test_k3_in_the_reward_ends_on_one_completion():
    setting = find("verl", "kl_penalty` low_var_kl", "rloo").setting
    optimum = settle(next(iter(setting.losses.values())), group=setting.group)
    assert optimum.probability.max() > 0.999
    assert optimum.to_reverse > 0.3
    assert LADDER_BETA == 0.5  # as the page says


# --- the examples, the page and the command -----------------------------------------------------------------


@pytest.mark.parametrize(
    "example",
    [pytest.param(item, marks=needs(item.trainer), id=f"{item.trainer}: {item.title}") for item in EXAMPLES],
)
def test_an_example_fails_as_it_stands_on_the_page(example):
    measured(example.trainer)  # imports the trainer, with stand-ins
    variables, printed = example.run()
    expected, found = variables["expected"], variables["found"]
    assert float((found - expected).norm() / expected.norm()) > 0.05
    block = re.escape(f"```python\n{example.code}```\n\n```text\n") + "(.*?)```"
    stated = re.search(block, PAGE.read_text("utf-8"), re.DOTALL)
    assert stated is not None
    assert numbers(stated[1]) == pytest.approx(numbers(printed), abs=2e-4)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_states_what_is_measured(package):
    page = PAGE.read_text("utf-8")
    (version,) = versions([package], {}).values()
    title = {"trl": "TRL", "verl": "verl", "openrlhf": "OpenRLHF"}[package]
    (stated,) = re.findall(rf"Measured on [^\n]* {title} ([\w.]+\d)", page)
    if stated != version:
        pytest.skip(f"the page states {title} {stated}, installed is {version}")
    rows = measured(package)
    lines = [line.split(" | ") for line in page.splitlines() if re.match(rf"\| {title} \d+ \| .* \|$", line)]
    verdicts = [line for line in lines if len(line) == 7]
    assert len(verdicts) == len(rows)
    for row, cells in zip(rows, verdicts, strict=True):
        assert cells[3:5] == [in_words(row.on_policy.equals), in_words(row.off_policy.equals)]


def test_control_a_table_has_a_line_for_each_setting():
    table = verdict_table({"trl": measured("trl")}).splitlines()
    assert len(table) == 2 + len(measured("trl"))
    assert "no: forward KL of tokens" in table[2]


def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(problem, "STEPS", 2)
    monkeypatch.setattr(problem, "HALVING", 1)
    monkeypatch.setattr("benchmarks.kl_conformance.__main__.all_settings", only_trl)
    page = tmp_path / "kl.md"
    page.write_text("# A page\n\n<!-- measured -->\nold\n<!-- end of what is measured -->\n\nThe end\n", "utf-8")
    assert main(["--page", str(page)]) == 0
    text = page.read_text("utf-8")
    assert text.startswith("# A page\n\n<!-- measured -->\n\nMeasured on ")
    assert text.endswith("<!-- end of what is measured -->\n\nThe end\n")
    assert "verl is left out" in text
    assert "old\n<" not in text
    assert "kl_conformance: left out: verl is not on the path" in capsys.readouterr().err


def only_trl(folders):
    settings, missing = all_settings(folders)
    kept = {"trl": [row for row in settings["trl"] if "RLOO" in row.name or "A2PO" in row.name]}
    return kept, {"verl": "verl is not on the path: ...", **missing}


def test_a_page_without_the_markers_is_refused(tmp_path):
    page = tmp_path / "kl.md"
    page.write_text("# A page\n", "utf-8")
    ended = run_module("benchmarks.kl_conformance", "--page", page, status=1)
    assert "must have the lines '<!-- measured -->'" in ended.stderr
    assert page.read_text("utf-8") == "# A page\n"


def test_the_typed_command_runs_the_examples():
    ended = run_module("benchmarks.kl_conformance", "--examples", status=0)
    assert ended.stdout.count("expected [") >= sum(example.trainer == "trl" for example in EXAMPLES)


# --- stand-ins ----------------------------------------------------------------------------------------------


def test_stand_ins_are_gone_after_the_import(tmp_path, monkeypatch):
    package = tmp_path / "openrlhf" / "models"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("", "utf-8")
    source = "import ray\nfrom ray.util import helper\n\n@ray.remote(num_gpus=1)\ndef answer():\n    return 42\n"
    (package / "utils.py").write_text(source, "utf-8")
    for name in [name for name in sys.modules if name.partition(".")[0] == "openrlhf"]:
        monkeypatch.delitem(sys.modules, name)
    if find_spec("openrlhf") is None:
        (utils,) = load("openrlhf", "models.utils", folder=tmp_path)
        assert utils.answer() == 42
        for name in [name for name in sys.modules if name.partition(".")[0] == "openrlhf"]:
            monkeypatch.delitem(sys.modules, name)
    assert "ray" not in sys.modules
    assert find_spec("ray") is None
    assert str(tmp_path) not in sys.path


@pytest.mark.skipif(find_spec("verl") is not None, reason="verl is on the path")
def test_a_missing_trainer_is_named(tmp_path):
    with pytest.raises(Missing, match=r"verl is not in .*: `pip install --no-deps --target FOLDER verl"):
        load("verl", "trainer.ppo.core_algos", folder=tmp_path)
