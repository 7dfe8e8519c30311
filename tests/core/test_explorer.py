"""The explorer: the page's own script is run, and its numbers are those of core.targets and core.mara."""

import json
import math
import re

import pytest
import torch
import yaml

from core import explain
from core.explorer import SCRIPTS, explorer_page, write_page
from core.targets import forward_kl_target, reverse_kl_target
from didactic.problems import make_problem
from launch.analysis.palette import ALIASES, METHOD_COLOURS

from .explorer_script import (
    DIRECTIONS,
    DOCS,
    HOME,
    LEVELS,
    SCRIPT,
    exact_numbers,
    largest_difference,
    needs_engine,
    run_script,
)

# --- the page as a file ----------------------------------------------------------------------------------------


def test_the_page_of_the_documentation_is_the_one_that_is_shipped():
    assert DOCS.read_text("utf-8") == explorer_page(), "run: mara explain --html docs/explorer.html"
    assert explorer_page({"reward": [1.0], "ref": [1.0]}) != explorer_page()  # control


def test_the_page_is_whole_and_loads_nothing():
    text = explorer_page()
    assert len(SCRIPT.findall(text)) == len(SCRIPTS)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|innerHTML|eval\(", text)
    policy = text.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'")
    assert policy.count("'sha256-") == len(SCRIPTS)
    assert "unsafe-inline'; script" in policy  # styles only
    for placeholder in ("STYLE", "SCRIPTS", "SCRIPT_HASHES", "PROBLEM"):
        assert not re.search(rf"\b{placeholder}\b", re.sub(r"const [A-Z]+ =|SCRIPT\w* =", "", text))


def test_the_problem_cannot_end_its_element():
    text = explorer_page({"reward": [1.0], "ref": [1.0], "answers": ["</script><script>alert(1)</script>"]})
    assert len(SCRIPT.findall(text)) == len(SCRIPTS)
    state = text.split('id="problem">')[1].split("</script>")[0]
    assert json.loads(state)["answers"] == ["</script><script>alert(1)</script>"]


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "page.html"
    write_page(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_page(path, {"reward": [math.nan], "ref": [1.0]})
    assert path.read_text("utf-8") == explorer_page()
    assert list(tmp_path.iterdir()) == [path]


def test_the_colours_are_those_of_the_figures():
    text = explorer_page()
    light = text.split(":root {")[1].split("}")[0]
    variables: dict[str, str] = dict(re.findall(r"--((?:vanilla|mara)[a-z-]*): (#\w+)", light))
    assert len(variables) == 6
    for name, colour in variables.items():
        assert colour == METHOD_COLOURS[name.replace("-", "_")]
    listed: dict[str, str] = dict(re.findall(r"(\w+): \"(#\w+)\"", text.split("const COLOURS = {")[1].split("}")[0]))
    assert len(listed) > 20
    assert listed == {name: METHOD_COLOURS[ALIASES.get(name, name)] for name in listed}


# --- numbers -----------------------------------------------------------------------------------------------------


def random_problem(seed):
    """A problem with zeros and ties in the reference, ties in the reward, and a beta and a threshold of any size."""
    generator = torch.Generator().manual_seed(seed)

    def uniform():
        return float(torch.rand((), generator=generator))

    count = 1 + int(8 * uniform())
    reward = torch.randn(count, generator=generator, dtype=torch.float64)
    if seed % 3 == 0:
        reward = reward.round()  # ties
    ref = (3 * torch.randn(count, generator=generator, dtype=torch.float64)).exp()
    if seed % 4 == 1:
        ref[torch.rand(count, generator=generator) < 0.3] = 0
    tied = seed % 5 == 2
    if tied:
        ref = ref.log().round().exp()
    if not bool((ref > 0).any()):
        ref[0] = 1
    answers = [f"a{i}" if tied else f"a{int(3 * uniform())}" for i in range(count)]
    ref = ref / ref.sum()
    threshold = float(reward[int(count * uniform())]) if seed % 2 else float(reward[ref > 0].max())
    if seed % 7 == 6:
        threshold = float(reward.max()) + 1  # no outcome is good
    return {
        "reward": reward.tolist(),
        "ref": ref.tolist(),
        "answers": answers,
        "beta": 10 ** (-5 + 6 * uniform()),
        "entropy": 0.0 if seed % 2 else uniform(),
        "threshold": threshold,
    }


PROBLEMS = [random_problem(seed) for seed in range(150)]
NUMBERS = """input.map((given) => {
    const problem = { ...given, refLogp: given.ref.map(Math.log) };
    const { refLogp, reward, beta, entropy, threshold } = problem;
    const good = Targets.goodOutcomes(refLogp, reward, threshold);
    const optimum = {}, modes = {};
    for (const direction of ["reverse", "forward"]) {
        for (const level of ["off", "sequence", "answer"]) {
            const name = `${direction} ${level}`, used = direction === "reverse" ? entropy : 0;
            optimum[name] = Targets.optimum({ ...problem, entropy: used }, direction, level);
            modes[name] = good.some(Boolean) ? Targets.effectiveModes(optimum[name], good) : null;
        }
    }
    const pairs = refLogp.flatMap((a, i) => refLogp.slice(0, i).map((b, j) => [
        Targets.reverseCrossover(a, b, reward[i], reward[j]),
        a > -Infinity && b > -Infinity ? Targets.forwardCrossover(refLogp, reward, i, j) : null,
        a > -Infinity && b > -Infinity ? Targets.reverseLogRatio(a, b, reward[i], reward[j], beta, entropy) : null,
    ]));
    return { good, optimum, modes, pairs };
})"""


@needs_engine
def test_the_numbers_are_those_of_core(tmp_path):
    page = run_script(NUMBERS, PROBLEMS, tmp_path)
    exact = [exact_numbers(problem) for problem in PROBLEMS]
    assert largest_difference(page, exact) < 1e-9
    probabilities = [p for numbers in exact for target in numbers["optimum"].values() for p in target]
    assert sum(p == -math.inf for p in probabilities) > 30  # outcomes that are off the support
    assert sum(not any(numbers["good"]) for numbers in exact) > 5


@needs_engine
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("beta * (mass[anchor] - mass[i])", "(mass[anchor] - mass[i])"),  # the coefficient of Algorithm 1
        ("reward[anchor] : value", "reward[anchor] : 0"),  # Algorithm 2 changes the good only
        ("missing > 0", "missing > 2"),  # the best reward is off the support
        ("const temperature = beta + entropy", "const temperature = beta"),
        ("Math.fround(threshold)", "threshold + 0.1"),
        ("value - Math.log(slack[i])", "value"),  # the crossover under forward KL
    ],
)
def test_control_a_mistake_in_the_script_is_noticed(tmp_path, right, wrong):
    text = DOCS.read_text("utf-8")
    assert text.count(right) == 1
    problems = [problem for problem in PROBLEMS if len(problem["reward"]) > 2][:60]
    try:
        page = run_script(NUMBERS, problems, tmp_path, text.replace(right, wrong))
        difference = largest_difference(page, [exact_numbers(problem) for problem in problems])
    except AssertionError:  # not even the same outcomes are good, or the script failed
        return
    assert difference > 1e-3


@needs_engine
def test_the_limits_of_beta(tmp_path):
    """beta of 0 with an entropy bonus, and one so small that exp(R / beta) is no number."""
    cases = [
        ([1.0, 0.5, 2.0], [0.5, 0.5, 0.0], beta, entropy)
        for beta, entropy in ((0, 0.3), (1e-300, 0), (1e-9, 0.0), (1e6, 0))
    ]
    page = run_script("input.map(([r, p, b, e]) => Targets.reverseTarget(p.map(Math.log), r, b, e))", cases, tmp_path)
    for values, (reward, ref, beta, entropy) in zip(page, cases, strict=True):
        exact = reverse_kl_target(torch.tensor(ref).log(), torch.tensor(reward), beta, entropy)
        assert largest_difference([math.exp(float(x)) for x in values], exact.exp().tolist()) < 1e-9
    forward = run_script(
        "input.map(([r, p, b]) => Targets.forwardTarget(p.map(Math.log), r, b))", cases[1:], tmp_path
    )
    for values, (reward, ref, beta, _) in zip(forward, cases[1:], strict=True):
        exact = forward_kl_target(torch.tensor(ref).log(), torch.tensor(reward), beta)
        assert largest_difference([math.exp(float(x)) for x in values], exact.exp().tolist()) < 1e-9


@needs_engine
def test_the_presets_are_the_problems_of_the_figures(tmp_path):
    names = {"figure2": "two_bumps", "figure5": "plateaus"}
    page = run_script("input.map((name) => Presets.LIST[name].problem())", list(names), tmp_path)
    for values, name in zip(page, names.values(), strict=True):
        problem = make_problem(type("Config", (), {"name": name}))
        assert largest_difference(values["reward"], problem.reward.tolist()) < 1e-12
        assert largest_difference(values["ref"], problem.ref_logp.exp().tolist()) < 1e-12
    states = run_script("Object.keys(Presets.LIST).map(State.fromPreset)", None, tmp_path)
    by_figure = {state["figure"]: state for state in states}
    for figure in ("figure2", "figure3", "figure4", "figure5"):
        config = yaml.safe_load((HOME / f"conf/didactic/experiment/{figure}.yaml").read_text())
        state = by_figure[figure]
        assert state["threshold"] == config["transform"]["threshold"]["value"]
        assert state["beta"] in config["objective"]["beta"]
        if config["problem"]["name"] == "table":
            assert state["reward"] == config["problem"]["reward"]
            assert state["ref"] == pytest.approx(config["problem"]["ref"], abs=1e-15)


# --- the address ----------------------------------------------------------------------------------------------


@needs_engine
def test_an_address_gives_back_its_state(tmp_path):
    states = [
        problem | {"direction": DIRECTIONS[i % 2], "mara": LEVELS[i % 3]} for i, problem in enumerate(PROBLEMS[:50])
    ]
    states += [
        {
            "reward": [1, 0.1 + 0.2],
            "ref": [1 / 3, 2 / 3],
            "answers": ["a,b&c=d#é</b>", "%41"],
            "method": "gapo",
            "log": True,
        },
        {"reward": [1, 0], "ref": [1, 0], "beta": 1e-7, "entropy": 0, "threshold": None},
    ]
    expression = """input.map((given) => {
        const state = State.complete(given);
        return [state, State.fromHash(State.toHash(state)), State.toHash(state)];
    })"""
    pairs = run_script(expression, states, tmp_path)
    presets = expression.replace("input", "Object.keys(Presets.LIST).map(State.fromPreset)")
    pairs += run_script(presets, None, tmp_path)
    for before, after, address in pairs:
        assert after == before
        assert re.fullmatch(r"#[\w=&.,%~*()'!+-]+", address)
    assert len(pairs[-1][2]) < 80  # an unchanged preset is a short link


@needs_engine
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("#beta=1", "reward= and ref= must be given"),
        ("#reward=1,x&ref=.5,.5", "rewards: each must be a finite number"),
        ("#reward=1,0&ref=.5,.6", "reference: must sum to 1, not 1.1"),
        ("#reward=1,0&ref=1", "reference: there must be 2 probabilities as there are rewards, not 1"),
        ("#reward=1,0&ref=.5,.5&beta=0", "beta: must be above 0, not 0"),
        ("#reward=1,0&ref=.5,.5&direction=up", "KL: must be reverse or forward, not up"),
        ("#reward=1,0&ref=.5,.5&method=toString", "method: toString is not on this page"),
        ("#problem=constructor", "problem: constructor is not on this page"),
    ],
)
def test_an_address_that_is_no_problem_says_why(tmp_path, address, message):
    expression = "(() => { try { return State.fromHash(input); } catch (error) { return error.message; } })()"
    assert run_script(expression, address, tmp_path) == message


@needs_engine
def test_a_changed_reference_keeps_the_ratios_of_the_others(tmp_path):
    ref = [0.3, 0.02, 0.68, 0.0]
    cases = [(ref, 0, 0.5), (ref, 3, 0.1), (ref, 2, 1.0), ([1.0, 0.0, 0.0], 0, 0.4), (ref, 1, 0.0), ([1.0], 0, 0.2)]
    page = run_script("input.map(([values, i, p]) => State.withReference(values, i, p))", cases, tmp_path)
    for values, (_, index, probability) in zip(page[:-1], cases, strict=False):
        assert sum(values) == pytest.approx(1, abs=1e-15)
        assert values[index] == probability
    assert page[0][1] / page[0][2] == pytest.approx(0.02 / 0.68, rel=1e-12)
    assert page[0][3] == 0
    assert page[3] == [0.4, 0.3, 0.3]  # there was no ratio to keep
    assert page[5] == [1]


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_of_a_problem(tmp_path, capsys):
    path = tmp_path / "problem.html"
    problem = ["reward=[1,1,1,0]", "ref=[.4,.1,.1,.4]", "beta=.1", "threshold=1", "classes=[1,2,2,3]"]
    assert explain.main([*problem, "--html", str(path)]) == 0
    assert f"page: {path}\n" in capsys.readouterr().out
    state = json.loads(path.read_text("utf-8").split('id="problem">')[1].split("</script>")[0])
    assert state == {
        "reward": [1, 1, 1, 0],
        "ref": [0.4, 0.1, 0.1, 0.4],
        "answers": ["1", "2", "2", "3"],
        "beta": 0.1,
        "entropy": 0,
        "threshold": 1,
        "mara": "answer",
    }
    assert explain.main(["--html", str(path)]) == 0
    assert path.read_text("utf-8") == explorer_page()
    assert explain.main([*problem, "--html", str(tmp_path / "no" / "problem.html")]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"--html: cannot write {tmp_path}/no/problem.html: No such file or directory\n"
    assert "anchor: outcome" in printed.out  # what was computed is printed
