"""The arguments of core.explain: a mistake is reported in one line that names the key."""

import pytest

from core.explain import main
from core.small_problem import KEYS, InputError, read_problem, split_page

EXAMPLE = ("reward=[1,1,0]", "ref=[.3,.02,.68]", "beta=.01")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "reward: must be given; see --help"),
        (["reward=[1]", "ref=[1]"], "beta: must be given; see --help"),
        (
            ["betta=1"],
            "betta: no such key; allowed: reward, ref, beta, threshold, entropy_coef, classes, got 'betta=1'",
        ),
        (["--beta=1"], "--beta: no such key"),
        (["beta"], "beta: must be written beta=VALUE, got 'beta'"),
        (["beta=1", "beta=2"], "beta: must be given once, got it twice"),
        (["a\nb=1"], "a\\nb: no such key"),
        (["reward=1"], "reward: must be a list of numbers such as [1,.5,0], got 1"),
        (["reward=[]"], "reward: must be a list of numbers such as [1,.5,0], got []"),
        (["reward=[1,x,0]"], "reward: must be a list of numbers such as [1,.5,0], got '[1,x,0]'"),
        (["reward=[1,\n"], "reward: must be a list of numbers such as [1,.5,0], got '[1,\\n'"),
        (["reward=[1,'2',0]"], "reward: must be a list of finite numbers, got '2'"),
        (["reward=[1,True,0]"], "reward: must be a list of finite numbers, got True"),
        (["reward=[1,[2],0]"], "reward: must be a list of finite numbers, got [2]"),
        (["reward=[1,1e999,0]"], "reward: must be a list of finite numbers, got inf"),
        (["reward=[1,1" + "0" * 400 + ",0]"], "reward: must be a list of finite numbers, got 1000"),
        (
            ["reward=__import__('os').getcwd()"],
            'reward: must be a list of numbers such as [1,.5,0], got "__import__',
        ),
        (["ref=.5"], "ref: must be a list of numbers such as [1,.5,0], got 0.5"),
        (["ref=[.5,.5]"], "ref: must have one number per outcome, 3 as in reward, got 2"),
        (["ref=[.5,.3,.3]"], "ref: must be probabilities that sum to 1, got a sum of 1.1"),
        (["ref=[.5,.5,2e-6]"], "ref: must be probabilities that sum to 1, got a sum of 1.000002"),
        (["ref=[1.5,-.5,0]"], "ref: must not hold a negative probability, got -0.5"),
        (["ref=[.5,None,.5]"], "ref: must be a list of finite numbers, got None"),
        (["beta=0"], "beta: must be > 0, because forward KL and MARA need a KL term, got 0"),
        (["beta=-1"], "beta: must be > 0"),
        (["beta=nan"], "beta: must be a finite number, got 'nan'"),
        (["beta="], "beta: must be a finite number, got ''"),
        (["beta=[1]"], "beta: must be a finite number, got [1]"),
        (["threshold=high"], "threshold: must be a finite number, got 'high'"),
        (["entropy_coef=-.1"], "entropy_coef: must be >= 0, got -0.1"),
        (["entropy_coef=1e999"], "entropy_coef: must be a finite number, got inf"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {argument.partition("=")[0] for argument in arguments}
    if keys & set(KEYS) and keys != {"reward", "ref"}:
        arguments = arguments + [default for default in EXAMPLE if default.partition("=")[0] not in keys]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    assert len(err) < 200
    assert err.startswith(expected)


@pytest.mark.parametrize("arguments", [(*EXAMPLE, "--html", "a.html"), ("--html=a.html", *EXAMPLE)])
def test_the_file_of_the_page_may_stand_anywhere(arguments: tuple[str, ...]) -> None:
    words, page = split_page(arguments)
    assert str(page) == "a.html"
    assert read_problem(words).beta == 0.01
    assert split_page(EXAMPLE) == (list(EXAMPLE), None)  # control: no page unless asked for


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--html"], "--html: must be followed by the file to write, such as problem.html, got ''"),
        (
            ["--html", "beta=.01"],
            "--html: must be followed by the file to write, such as problem.html, got 'beta=.01'",
        ),
        (["--html", "a", "--html=b"], "--html: must be given once, got it twice"),
    ],
)
def test_a_mistake_in_the_file_of_the_page(arguments: list[str], expected: str) -> None:
    with pytest.raises(InputError) as error:
        split_page(arguments)
    assert str(error.value) == expected
