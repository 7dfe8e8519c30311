"""Every command in a page, a help text, a comment or a message can be pasted into bash, zsh and fish as it is.

zsh refuses a word with a bracket or a star that matches no file, and a word that begins with a tilde.
"""

import ast
import io
import re
import shutil
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.cli.command_table import BY_MODULE, BY_WORDS
from launch.cli.shadowing import ROOMS

HOME = Path(__file__).resolve().parents[1]
PAGES = sorted([*HOME.glob("*.md"), *HOME.glob("docs/**/*.md"), *HOME.glob("benchmarks/*.md")])
SOURCES = [path for room in (*ROOMS, "tools", "benchmarks") for path in sorted((HOME / room).rglob("*.py"))]
FILES = sorted((HOME / "conf").rglob("*.yaml"))
STARTS = "|".join(re.escape(words) for words in sorted({*BY_WORDS, *BY_MODULE}, key=len, reverse=True))
COMMAND = re.compile(
    rf"(?<![\w./])(?:\S*python3? -m (?:{'|'.join(ROOMS)}|tools|benchmarks)[\w.]*|mara (?:{STARTS}))(?=\s)"
)
WORD = re.compile(r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+""", re.DOTALL)
QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.""", re.DOTALL)


def commands(text: str) -> Iterator[str]:
    """The commands in a text, without a comment, the end of a code span, or a column beside them."""
    text = re.sub(r"\\\n\s*", "", text)  # a command on several lines
    for line in text.splitlines():
        if "usage:" in line:
            continue
        for match in COMMAND.finditer(line):
            opened = line[: match.start()].count("`") % 2 == 1
            rest = line[match.start() :]
            rest = rest.partition("`")[0] if opened else rest
            yield re.split(r"\s\s|\s#|\s[|>&]", rest)[0]


def unquoted(command: str) -> list[str]:
    """The words of a command that a shell would expand or refuse."""
    found = []
    for word in WORD.findall(command):
        bare = QUOTED.sub("", word)
        is_usage = bare.startswith("[") or bare in ("...", "*")
        if not is_usage and (bare[:1] in ("~", "=") or ("=" in bare and re.search(r"[][*?{}()<>!]", bare))):
            found.append(word)
    return [word for word in found if not word.startswith("~/")]


def texts_of(path: Path) -> list[str]:
    """The texts of a file that a person reads: its strings and comments if it is Python, otherwise all of it."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [source]
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return [*(text for text in texts if isinstance(text, str)), "\n".join(comments)]


@pytest.mark.parametrize("path", [*PAGES, *SOURCES, *FILES], ids=lambda path: str(path.relative_to(HOME)))
def test_the_commands_of_a_file_are_quoted(path):
    lines = [command for text in texts_of(path) for command in commands(text)]
    assert [(command, unquoted(command)) for command in lines if unquoted(command)] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python -m core.explain reward=[1,1,0] beta=.01", ["reward=[1,1,0]"]),
        ("mara explain 'reward=[1,1,0]' ref=\"[.5,.5,0]\" beta=.01", []),
        ("    mara llm seed=0 ~loggers.csv  # without [csv]", ["~loggers.csv"]),
        ("`mara llm 'task.options={a: 1}'` and the key `a=[1]`", []),
        ("mara chem \\\n    oracle.components=[{name:qed}] seed=0", ["oracle.components=[{name:qed}]"]),
        ("mara collect runs/llm/one_two/* --out ~/tables", []),
        ("mara llm data=~/x\nmara llm a=*", ["a=*"]),
        ("usage: mara llm [GROUP=OPTION ...]", []),
        ("mara llm [GROUP=OPTION ...] [KEY=VALUE ...]", []),
        ("mara llm a=$(touch x)", ["a=$(touch"]),
    ],
)
def test_control_unquoted_words_are_found(text, words):
    assert [word for command in commands(text) for word in unquoted(command)] == words


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    "word",
    ["reward=[1,1,0]", "a=*", "~loggers", "'reward=[1,1,0]'", "'a=*'", "'~loggers'", "a=b,c", "a.b=.1", "+a=b"],
)
def test_zsh_takes_the_words_that_are_called_quoted(word):
    done = subprocess.run(["zsh", "-fc", f"echo {word}"], capture_output=True, text=True)
    assert (done.returncode == 0) == (unquoted(f"mara llm {word}") == [])
    assert done.returncode != 0 or done.stdout.strip() == word.strip("'")
