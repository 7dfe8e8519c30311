"""The blocks of the documentation that are marked with `<!-- test: run -->`, typed in their order in one folder."""

import re
import shlex

import pytest

from .typed import ROOT, llm

MARKED = re.compile(r"^<!-- test: run -->\n```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if MARKED.search(page.read_text("utf-8"))]
SMALLER = {"llm": ["steps=3", "group_size=8", "evaluation_completions=16"]}  # added to the commands of a package


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_marked_blocks_of_a_page_run(page, tmp_path):
    for block in MARKED.findall(page.read_text("utf-8")):
        for line in block.splitlines():
            command, *words = shlex.split(line, comments=True)
            assert command == "mara"
            status = int(words[0] == "diff")  # the runs differ
            words += SMALLER.get(words[0], [])
            output, _ = llm(*words, folder=tmp_path, module="launch.cli.mara", status=status)
            assert output.strip(), line


def test_pages_are_marked():
    assert {"quickstart", "targets"} <= {page.stem for page in PAGES}


@pytest.mark.slow
def test_control_a_block_with_a_mistake_fails(tmp_path):
    with pytest.raises(AssertionError, match="no such key"):
        llm("explain", "rewards=[1,0]", folder=tmp_path, module="launch.cli.mara")
