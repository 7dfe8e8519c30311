"""Every command is in the table, once, and texts show it as the user types it."""

import ast
from pathlib import Path

import pytest

from launch.cli.command_table import BY_MODULE, BY_WORDS, STARTED_AS, TABLE, ArgumentParser, as_typed, typed
from launch.cli.shadowing import ROOMS

HOME = Path(__file__).resolve().parents[3]
PROCESSES = {  # modules that a command starts, and that nobody types
    "chem.oracles.worker",
    "chem.parallel.sampler",
    "launch.cli.mara",
    "launch.cluster.controller",
}


def started_modules() -> set[str]:
    """The modules with `if __name__ == "__main__"`, as `python -m` names them."""
    names = set()
    for room in ROOMS:
        for path in (HOME / room).rglob("*.py"):
            tests = [node.test for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.If)]
            if "__name__ == '__main__'" in map(ast.unparse, tests):
                names.add(".".join(path.relative_to(HOME).with_suffix("").parts).removesuffix(".__main__"))
    return names


def test_the_table_has_every_command_and_no_other():
    assert set(BY_MODULE) == started_modules() - PROCESSES
    assert started_modules() >= PROCESSES
    assert len(BY_WORDS) == sum(map(len, TABLE.values()))


def test_a_module_is_typed_as_the_process_was_started(monkeypatch):
    monkeypatch.delenv(STARTED_AS, raising=False)
    text = "use python -m launch.reproduce RUN, python -m llm.plan, or python -m PACKAGE; python -m pip is not ours"
    assert as_typed(text) == text
    monkeypatch.setenv(STARTED_AS, "mara")
    assert as_typed(text) == "use mara reproduce RUN, mara llm plan, or mara PACKAGE; python -m pip is not ours"
    assert [typed(module) for module in ("llm", "core.explain")] == ["mara llm", "mara explain"]


@pytest.mark.parametrize(("how", "shown"), [("mara", "mara status"), ("", "python -m launch.status")])
def test_a_parser_names_the_command_in_its_whole_help(monkeypatch, how, shown):
    monkeypatch.setenv(STARTED_AS, how)
    parser = ArgumentParser(
        "launch.status", "python -m launch.status SWEEP\n  is typed so", "again python -m launch.status"
    )
    parser.add_argument("sweep", help="see python -m launch.status")
    assert parser.format_usage() == f"usage: {shown} [-h] sweep\n"
    text = parser.format_help()
    assert f"\n{shown} SWEEP\n  is typed so\n" in text  # lines stay lines
    assert text.count(shown) == 4
