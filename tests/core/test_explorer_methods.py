"""The explorer's other methods: their gradients and where they lead are those of tools.method_optima."""

import math
import re

import pytest
import torch

from tools import method_optima

from .explorer_script import HOME, needs_engine, run_script


def small_problems():
    """The problems of tools.method_optima, as the page has them."""
    return [
        {
            "refLogp": problem.ref_logp.tolist(),
            "reward": list(problem.reward),
            "answers": list(problem.answers),
            "good": problem.good.tolist(),
            "beta": method_optima.BETA,
            "threshold": method_optima.THRESHOLD,
            "entropy": 0,
        }
        for problem in method_optima.PROBLEMS
    ]


@needs_engine
@pytest.mark.slow
@pytest.mark.long
def test_the_expected_gradients_are_those_of_the_objectives(tmp_path, monkeypatch):
    """At random policies the pull on every outcome is that of core.objective over all groups."""
    members = method_optima.GROUPS.answers
    same = (members.unsqueeze(-1) == members.unsqueeze(-2)).sum(-1).double()
    monkeypatch.setattr(method_optima, "DIVERSITY", 1 - (same - 1) / (method_optima.GROUP - 1))  # in float64
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(method_optima.REF_LOGP), generator=generator, dtype=torch.float64)
    slices = method_optima.SLICES
    logp = torch.cat([(method_optima.REF_LOGP + noise)[where].log_softmax(-1) for where in slices])
    enumerated = run_script(
        "Object.keys(Methods.TABLE).filter((name) => !Methods.TABLE[name].closed)", None, tmp_path
    )
    assert len(enumerated) == 14
    expression = """Object.fromEntries(input.names.map((name) => [name, input.problems.flatMap((problem, i) => {
        const method = Methods.TABLE[name];
        return Methods.pull(method, Methods.prepare(method, problem), problem, input.logp[i]);
    })]))"""
    data = {"names": enumerated, "problems": small_problems(), "logp": [logp[where].tolist() for where in slices]}
    page = run_script(expression, data, tmp_path)

    def centred(pull):
        """A constant does not move a policy."""
        return torch.cat([pull[where] - (logp[where].exp() * pull[where]).sum() for where in slices])

    first: dict[str, method_optima.Run] = {}
    for run in method_optima.runs(enumerated):
        first.setdefault(run.method, run)  # as its file sets it
    pulls = {name: centred(method_optima.pull(run, logp)) for name, run in first.items()}
    assert list(pulls) == enumerated
    for name, pull in pulls.items():
        torch.testing.assert_close(centred(torch.tensor(page[name], dtype=torch.float64)), pull, rtol=1e-9, atol=1e-9)
    assert float((pulls["gapo"] - pulls["grpo_sequence_kl"]).abs().max()) > 0.1  # control: methods differ


def table_rows():
    """The cells of the table of docs/methods.md by method and KL."""
    lines = (HOME / "docs" / "methods.md").read_text("utf-8").split("<!-- table -->")[1].splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {(name, kl): rest for name, kl, *rest in cells}


@needs_engine
@pytest.mark.slow
def test_every_method_leads_where_the_table_says(tmp_path):
    expression = """Object.keys(Methods.TABLE).map((name) => [name, Methods.TABLE[name].kl,
        input.map((problem) => Methods.outcome(name, problem))])"""
    page = run_script(expression, small_problems(), tmp_path)
    rows = table_rows()
    for name, kl, outcomes in page:
        cells = rows[name, "forward" if kl == "reference" else kl]
        logp = torch.cat([torch.tensor([float(x) for x in outcome["logp"]]) for outcome in outcomes]).double()
        for shown, own in zip(cells, method_optima.cells(logp, logp), strict=True):
            numbers = [[float(x) for x in re.findall(r"[\d.]+(?:e[+-]?\d+)?", text)] for text in (shown, own)]
            if "moving" not in shown:
                assert numbers[1] == pytest.approx(numbers[0], rel=0.06, abs=0.011), (name, cells)
        assert all(outcome["settled"] for outcome in outcomes), name
    by_name = {name: outcomes for name, _, outcomes in page}
    ratio = [float(by_name[name][1]["logp"][0]) - float(by_name[name][1]["logp"][1]) for name in ("grpo", "gapo")]
    assert ratio == pytest.approx([math.log(15), 0], abs=0.05)  # control: the table tells methods apart


@needs_engine
def test_what_the_page_cannot_compute_it_says(tmp_path):
    many = {
        "refLogp": [math.log(1 / 7)] * 7,
        "reward": [1] * 7,
        "answers": list("abcdefg"),
        "beta": 0.1,
        "threshold": 1,
    }
    negative = {"refLogp": [math.log(0.5)] * 2, "reward": [1, -1], "answers": ["a", "b"], "beta": 0.1, "threshold": 1}
    page = run_script(
        "[Methods.outcome('gapo', input[0]), Methods.outcome('maxrl', input[1])]", [many, negative], tmp_path
    )
    assert page[0]["reason"].startswith("gapo is computed for at most 6 outcomes")
    assert page[1]["reason"].startswith("maxrl divides by the mean reward")
