"""Commands in the documentation: each composes, and those marked with `<!-- test: run -->` run."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from conf.schema.commands import COMMANDS
from launch.cli.compose import compose
from launch.cli.mara import find_command

HOME = Path(__file__).resolve().parents[1]
PAGES = [HOME / "README.md", *sorted(HOME.glob("docs/*.md"))]
START = re.compile(r"(?:[A-Z_]+=\S+ )*(?:mara |python -m |(?:\$\(BIN\)|\.venv/bin)/python -m |torchrun [-\w= ]*-m )")
PLAN_KEYS = {"ranks", "memory", "prompt_tokens"}
OF_THE_READER = {  # what the page tells the reader to write
    "experiment=mine",
    "experiment=bare_digit",
    "optimizer.epsilon=1e-6",
}


def commands(text: str) -> list[list[str]]:
    """The words of each command in the code blocks of a page, from the name of the package on."""
    blocks = re.findall(r"^```sh\n(.*?)^```$|((?:^    .*\n)+)", text, re.DOTALL | re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", "\n".join(fenced or indented for fenced, indented in blocks)).splitlines()
    found = []
    for line in lines:
        start = START.match(line.strip())
        if start and "$" not in line:
            words = shlex.split(line.strip()[start.end() :], comments=True)
            if start[0].endswith("mara ") and words and words[0] != "--help":
                module, words = find_command(words)  # llm evaluate -> llm.evaluate
                words = [module, *words]
            found.append(words)
    return found


def composed(words: list[str]) -> tuple[str, list[str]]:
    """The package whose configuration a command composes, and its overrides."""
    if words[0] == "llm.plan":
        return "llm", [word for word in words[1:] if word.partition("=")[0] not in PLAN_KEYS]
    return words[0], words[1:]


def jobs(words: list[str]) -> list[list[str]]:
    """The overrides of a command's jobs: one for each value that a list of a sweep has, and the first of the others.

    Of several seeds the first is enough.
    """
    overrides = OverridesParser.create().parse_overrides([word for word in words if "=" in word and word[0] != "-"])
    choices = [
        [f"{item.get_key_element()}={value}" for value in item.sweep_string_iterator()]
        if item.is_sweep_override() and item.key_or_group != "seed"
        else [(item.input_line or "").partition(",")[0] if item.is_sweep_override() else item.input_line or ""]
        for item in overrides
    ]
    return [
        [choice[number if number < len(choice) else 0] for choice in choices]
        for number in range(max(map(len, choices), default=1))
    ]


TYPED = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)}"[:100])
    for page in PAGES
    for words in commands(page.read_text("utf-8"))
    if words and composed(words)[0] in COMMANDS and not OF_THE_READER & set(words) and "--config-dir" not in words
]


@pytest.mark.parametrize("words", TYPED)
def test_a_command_of_the_documentation_composes(words):
    package, overrides = composed(words)
    for job in jobs(overrides):
        compose(package, job)


def test_the_commands_are_found():
    assert len(TYPED) > 60
    fenced = "```sh\nmara llm evaluate run=A \\\n    completions=3  # a comment\n```\n"
    first, second = commands(f"{fenced}\n    python -m chem -m steps=2,3 seed=0,1\n")
    assert first == ["llm.evaluate", "run=A", "completions=3"]
    assert jobs(second[1:]) == [["steps=2", "seed=0"], ["steps=3", "seed=0"]]


def test_control_a_wrong_key_is_found():
    (words,) = commands("```sh\nmara llm objective.gama=1\n```\n")
    with pytest.raises(ValueError, match=r"objective\.gama"):
        compose(words[0], jobs(words[1:])[0])


def python_block(page: str) -> str:
    return re.findall(r"^```python\n(.*?)^```$", (HOME / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)[0]


@pytest.mark.parametrize("page", ["README.md", "docs/targets.md"])
def test_a_page_states_what_its_lines_compute(page, tmp_path, capsys):
    block = python_block(page)
    stated = re.findall(r"#.*?((?:[\d.]+, )+[\d.]+)$", block, re.MULTILINE)
    printing = re.sub(r"^(\w+_target\(.*)  #", r"print(\1)  #", block, flags=re.MULTILINE)
    (tmp_path / "block.py").write_text(printing)
    runpy.run_path(str(tmp_path / "block.py"))
    printed = re.findall(r"tensor\(\[(.*?)\]", capsys.readouterr().out)
    assert len(printed) == len(stated) == 2
    for found, expected in zip(printed, stated, strict=True):
        assert [float(x) for x in found.split(",")] == pytest.approx(
            [float(x) for x in expected.split(",")], abs=0.006
        )
